"""Every metric that people read: its titles, its unit and which way is better.

The live screen, tables, curves, planes, the report and sweeps read this one table, so a new metric
is one entry here. A metric without an entry (a user's own f, a benchmark's statistic) is shown
under its own name. Divergences are entries too; the level of `js_token` is read off its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, TypeVar

from experiments import escapes

Better = Literal[-1, 0, 1]  # which way is better; 0 where neither is
Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a metric is shown. `{penalty}` in a title is what the task takes off its return,
    `{expert}` what its known law is called."""

    name: str  # in results.json and metrics.jsonl
    title: str  # in tables and the report
    short: str  # on a terminal
    unit: str = ""
    better: Better = 0

    @property
    def label(self) -> str:
        """The title with its unit, for an axis."""
        return escapes.label(f"{self.title} ({self.unit})" if self.unit else self.title)


NATS, PER_TOKEN = "nats", "nats per token"
_ENTRIES = (
    # divergences at the sequence level
    Metric("forward_kl", "forward KL", "fwd KL", NATS, -1),
    Metric("reverse_kl", "reverse KL", "rev KL", NATS, -1),
    Metric("js", "JS", "JS", NATS, -1),
    Metric("jeffreys", "Jeffreys", "Jeffreys", NATS, -1),
    Metric("tv", "TV", "TV", "", -1),
    Metric("hellinger2", "squared Hellinger", "Hell.^2", "", -1),
    Metric("pearson_chi2", "Pearson chi^2", "P.chi^2", "", -1),
    Metric("neyman_chi2", "Neyman chi^2", "N.chi^2", "", -1),
    # likelihoods and diversity
    Metric("validation_nll", "validation NLL / token", "NLL/tok", NATS, -1),
    Metric("bits_per_byte", "validation NLL / byte", "bits/byte", "bits", -1),
    Metric("cross_entropy", "policy's NLL of demonstrations", "cross.H", NATS, -1),
    Metric("expert_nll", "{expert}'s NLL of the policy's strings", "exp.NLL", NATS),
    Metric("precision", "precision, own prefixes", "precis.", PER_TOKEN, 1),
    Metric("precision_token_expert", "precision, {expert}'s prefixes", "prec(p)", PER_TOKEN, 1),
    Metric("recall", "recall, {expert}'s prefixes", "recall", PER_TOKEN, 1),
    Metric("seeking", "precision less recall", "seeking", PER_TOKEN),
    Metric("entropy_token_expert", "entropy / token, {expert}'s prefixes", "H/tok(p)", NATS),
    Metric("off_support", "mass off the {expert}'s support", "off supp.", "", -1),
    Metric("dropped_support", "{expert}'s mass off the policy's support", "dropped", "", -1),
    Metric("precision_gained", "precision gained since the start", "precis. +", PER_TOKEN, 1),
    Metric("recall_gained", "recall gained since the start", "recall +", PER_TOKEN, 1),
    Metric("entropy", "entropy", "entropy", NATS),
    Metric("length", "length", "length", "tokens"),
    Metric("log_stop", "log P(stop), {expert}'s last position", "log stop", NATS),
    Metric("log_stop_expert", "the {expert}'s log P(stop) there", "exp.stop", NATS),
    Metric("ece", "calibration error", "ECE", "", -1),
    Metric("top5_overlap", "overlap of the 5 likeliest, {expert}'s prefixes", "top 5", "", 1),
    Metric("rouge_l", "ROUGE-L to held-out answers", "ROUGE-L", "", 1),
    Metric("self_bleu", "self-BLEU", "sBLEU"),
    Metric("distinct_1", "distinct-1", "dist-1"),
    Metric("distinct_2", "distinct-2", "dist-2"),
    Metric("distinct_3", "distinct-3", "dist-3"),
    # statistics of the benchmarks
    Metric("valid", "valid", "valid", "share of strings", 1),
    Metric("mode_b", "mode B", "mode B"),
    # a return, and what is taken off it
    Metric("gap", "gap to class optimum", "gap", NATS, -1),
    Metric("regret", "regret", "regret", NATS, -1),
    Metric("regularised_return", "regularised return", "return", "", 1),
    Metric("reward", "reward", "reward", "", 1),
    Metric("score", "reward, own batch", "score", "", 1),
    Metric("proxy", "learned reward, own batch", "proxy"),
    Metric("divergence_to_reference", "{penalty} to reference", "{penalty}", NATS),
    Metric("kl_to_reference", "KL to reference", "KL", NATS),
    Metric("penalty", "{penalty} to reference, own batch", "{penalty}", NATS),
    # comparisons
    Metric("margin_accuracy", "pairs in order", "pairs", "share", 1),
    Metric("margin", "margin of the pairs", "margin", NATS),
    Metric("reward_accuracy", "reward model, pairs in order", "RM pairs", "share", 1),
    # answers that can be checked
    Metric("greedy_accuracy", "greedy accuracy", "greedy", "", 1),
    Metric("accuracy", "accuracy", "accuracy", "", 1),
    Metric("pass_2", "pass@2", "pass@2", "", 1),
    Metric("pass_4", "pass@4", "pass@4", "", 1),
    Metric("pass_8", "pass@8", "pass@8", "", 1),
    Metric("pass_16", "pass@16", "pass@16", "", 1),
    Metric("answer", "right answer", "answer", "", 1),
    Metric("ways", "distinct ways", "ways"),
    Metric("way_entropy", "entropy of ways", "H(way)", NATS),
    # discriminators, and training itself
    Metric("d_accuracy", "discriminator, held out", "D acc."),
    Metric("d_accuracy_train", "discriminator, on its demos", "D train"),
    Metric("d_calibration", "calibration error", "D cal."),
    Metric("d_saturated", "saturated logits", "D sat."),
    Metric("length_accuracy", "length alone", "len.acc."),
    Metric("gradient_norm", "gradient norm", "grad norm"),
    Metric("bounded_share", "gradients that are bounded", "bounded", "share of steps"),
    Metric("clip_share", "actions that the clip stops", "clipped", "share"),
)
METRICS: dict[str, Metric] = {entry.name: entry for entry in _ENTRIES}

LEVELS = {  # the end of a divergence's name -> what is added to its title, and to the short one
    "_token_expert": (" / token, {expert}'s prefixes", "/tok(p)"),
    "_token": (" / token, own prefixes", "/tok(q)"),
    "_occupancy": (" of occupancies", "/occ"),
}

RENAMED = {  # names in results of version 1 -> today's
    "likelihood": "expert_nll",
    "coverage": "cross_entropy",
    "spent": "divergence_to_reference",
    "kl_spent": "kl_to_reference",
}


def metric(name: str, penalty: str | None = None, expert: str = "expert") -> Metric:
    """How a metric is shown; `penalty` is the divergence that the task takes off its return, where
    it does, and `expert` what its known law is called."""
    entry = METRICS.get(name) or _at_a_level(name)
    words = {"penalty": penalty_title(penalty), "expert": expert}
    return dataclasses.replace(
        entry, title=_filled(entry.title, words), short=_filled(entry.short, words)
    )


def _filled(text: str, words: Mapping[str, str]) -> str:
    """A title with its placeholders filled; a user's own name may hold other braces."""
    for word, value in words.items():
        text = text.replace(f"{{{word}}}", value)
    return text


def _at_a_level(name: str) -> Metric:
    """A divergence at another level than the sequence's, or what has no entry."""
    for suffix, (title, short) in LEVELS.items():
        base = name.removesuffix(suffix)
        if base != name:
            whole = METRICS.get(base) or Metric(base, base, base)
            brief = whole.short.replace("fwd ", "f").replace("rev ", "r")
            return Metric(name, whole.title + title, brief + short, whole.unit, -1)
    return Metric(name, name, name)


def penalty_title(penalty: str | None) -> str:
    """D_f(reference||policy) in a few letters: `reverse_kl` is KL(policy||reference), said as
    people say it."""
    if penalty is None:
        return "divergence"
    return "KL" if penalty == "reverse_kl" else metric(penalty).title


def current(name: str) -> str:
    """Today's name of a metric, also for one that an older run left."""
    base = name.removesuffix("_stderr")
    return RENAMED.get(base, base) + name[len(base) :]


def current_names(row: Mapping[str, Value]) -> dict[str, Value]:
    """A row of metrics under today's names."""
    return {current(name): value for name, value in row.items()}
