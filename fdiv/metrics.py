"""What every run is measured by, whatever it trains on: the divergences of
`divergences.logged()`, and what follows.

Plain divergence names are the sequence level; `_occupancy`, `_token` (the policy's prefixes) and
`_token_expert` name the others. `validation_nll` is the policy's NLL of held-out demonstrations in
nats per token, and where symbols are pieces of text `bits_per_byte` is the same in bits per byte of
it, which vocabularies of any size have in common. `log_stop` is the mean log-prob, in nats, of a
token that ends the string where the expert's strings ended, `log_stop_expert` the expert's own;
`ece` is how far the chance of the likeliest token is from how often it is right on held-out
demonstrations, `top5_overlap` the share of the expert's five likeliest tokens that are among the
policy's five, at the expert's prefixes.

Precision is E_q log p, the mean log-prob in nats per token that the expert p gives what the policy
q writes next, recall E_p log q (Cha & Cho 2025, arXiv 2505.13111). Both are summed over the whole
vocabulary at each prefix: `recall` and `precision_token_expert` at the expert's, which are the same
for every policy, and `precision` at the policy's own. `seeking` is precision less recall at the
expert's prefixes,

    E_q log p - E_p log q = KL(p||q) - KL(q||p) + H(p) - H(q):

0 of the expert itself, more for a policy on fewer of its modes, less for one that is broader.
`off_support` is the policy's mass on tokens that the expert gives less than `RARE`,
`dropped_support` the expert's on those that the policy gives less, `entropy_token_expert` the
policy's entropy, all at the expert's prefixes.

`cross_entropy` is the policy's NLL of the expert's strings, `expert_nll` the
expert's NLL of the policy's, both per string in nats: the coverage risk and the likelihood risk of
Wen, Li, Du & Mou 2023 (f-distill, arXiv 2307.15190)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp

from fdiv import divergences, exact, head, prefixes, regularised
from fdiv import tokens as tk
from fdiv.checks import present
from fdiv.estimators import to_actions
from fdiv.types import Components, Divergence, Model, Params, Sequences, TokenMDP

BINS = 10  # of a calibration error
EACH = "_each"  # after a metric's name: what every string adds to it, [N], of which it is the mean
LIKELIEST = 5  # tokens of which two laws are compared
RARE = 1e-4  # chance of a token, below which it is off the support of a law
LEVELS = {level.suffix: level for level in exact.LEVELS}
# name -> strings [B, T] -> [B]: a user's own, measured of every task beside the task's
STATISTICS: dict[str, Callable[[Sequences], Array]] = {}


def exact_metrics(
    family: Sequence[Divergence],
    space: exact.Space,
    p: exact.Law,
    q: exact.Law,
    statistics: Mapping[str, Callable],
) -> dict[str, Array]:
    """Every divergence at every level, cross_entropy, expert_nll, entropy, length and the
    benchmark's own statistics."""
    measured = _at_every_level(family, space, p, q) if family else {}
    measured["cross_entropy"] = exact.expectation(p, -q.string)
    measured["expert_nll"] = exact.expectation(q, -p.string)
    measured["entropy"] = exact.entropy(q)
    measured["length"] = exact.expectation(q, space.sequences.mask.sum(1))
    return measured | {
        name: exact.expectation(q, f(space.sequences)) for name, f in statistics.items()
    }


def _at_every_level(
    family: Sequence[Divergence], space: exact.Space, p: exact.Law, q: exact.Law
) -> dict[str, Array]:
    """Each divergence in turn, in a loop: all but its own function is compiled once."""
    dtype = jnp.promote_types(q.string.dtype, jnp.float32)  # one's own f may have another
    perspectives = [lambda *logs, d=d: d.perspective(*logs).astype(dtype) for d in family]

    def values(i: Array) -> Array:
        now = lambda log_p, log_q: jax.lax.switch(i, perspectives, log_p, log_q)
        return jnp.stack(exact.every_level(family[0]._replace(perspective=now), space, p, q))

    each = jax.lax.map(values, jnp.arange(len(family)))
    return {
        d.name + suffix: each[i, j] for i, d in enumerate(family) for j, suffix in enumerate(LEVELS)
    }


def return_metrics(
    space: exact.Space, mdp: TokenMDP, best: Array, ref: exact.Law, q: exact.Law
) -> dict[str, Array]:
    """For a task with a reward: return and divergence from the reference, exactly, against the
    optimum `best` (log-probs of strings).

    `divergence_to_reference` is D_f(reference||policy), what the return is charged for,
    `kl_to_reference` KL(policy||reference), both in nats; `regret` is the best regularised return
    less this policy's."""
    regulariser = present(mdp.regulariser, "reference")
    d, beta = divergences.parse(regulariser.divergence), regulariser.beta
    rewards = present(mdp.score, "score")(space.sequences).astype(ref.string.dtype)
    value = lambda log_pi: regularised.value(d, rewards, ref.string, log_pi, beta)
    return {
        "divergence_to_reference": d.perspective(ref.string, q.string).sum(),
        "kl_to_reference": jnp.sum(jnp.exp(q.string) * (q.string - ref.string)),
        "regularised_return": value(q.string),
        "regret": value(best) - value(q.string),
    }


def two_sided(d: Divergence, s_expert: Array, s_policy: Array) -> tuple[Array, Array]:
    """Estimate of D_f(p||q) and its standard error, from the log-ratio s on strings of the expert
    and of the policy.

    Both samples together are a draw from m = (p + q) / 2 with the shares fixed, and D_f = E_m[2
    f(u) / (1 + u)]: unbiased, and bounded in u wherever f grows no faster than u log u on either
    side. s is [N], or [N, H] to average over positions. Source: the balance heuristic of Veach &
    Guibas 1995."""

    def weighed(s):  # 2 f(u) / (1 + u) is twice the perspective of the pair (u, 1) / (1 + u)
        each = 2 * d.perspective(-jnp.logaddexp(0.0, -s), -jnp.logaddexp(0.0, s))
        return each.reshape(len(each), -1).mean(1)

    a, b = weighed(s_expert), weighed(s_policy)
    return (a.mean() + b.mean()) / 2, jnp.hypot(_standard_error(a), _standard_error(b)) / 2


def _standard_error(x: Array) -> Array:
    return x.std(ddof=1) / x.size**0.5


def sampled_metrics(
    family: Sequence[Divergence],
    components: Components,
    key: Array,
    params: Params,
    held_out: Sequences,
    expert: Sequences | None,
) -> tuple[dict[str, Array], Sequences]:
    """The same names estimated from samples, each with its standard error under `NAME_stderr`, and
    the samples. Divergences at the token level and `MODES` also have what each string adds to them,
    [N], under `NAME_each`: of two policies judged with the same key and strings, the error of the
    difference is that of these numbers' differences.

    `held_out` are demonstrations that nothing was trained on, whose prompts the policy answers;
    `expert` are answers of the known expert to the same prompts (None: it is not known, and no
    divergence is estimated). Sequence and occupancy levels use both sides' samples (`two_sided`);
    the token level sums over the vocabulary at the prefixes of one side."""
    policy, mdp = components.policy, components.mdp
    answered, log_q = components.rollout(key, policy, params, tk.prompts_of(held_out, mdp.horizon))
    own = Model(tk.read(policy, params, held_out), params)
    nll = -tk.log_probs(*own, held_out, mdp.vocab).sum(1)
    measured = averages(
        {"cross_entropy": nll, "entropy": -log_q.sum(1), "length": tk.lengths(answered)}
    )
    measured |= nll_per_unit(nll, held_out, mdp)
    measured |= averages({name: f(answered) for name, f in mdp.statistics.items()})
    if mdp.pieces is not None:
        measured["ece"] = calibration_error(likeliest(own, held_out, 1), held_out)
    if expert is None:
        return measured, answered

    ratios, token = [], []
    teacher = present(mdp.expert, "known expert")
    for strings in (expert, answered):
        # each model reads these strings once, for all that is asked of it
        known = Model(tk.read(*teacher, strings), teacher.params)
        own = Model(tk.read(policy, params, strings), params)
        if strings is expert and mdp.pieces is not None and mdp.eos is not None:
            measured |= per_token("top5_overlap", overlap(known, own, expert, mdp.vocab), expert)
            for name, model in (("log_stop", own), ("log_stop_expert", known)):
                measured |= at_ends(name, log_stop(model, expert, mdp.eos), expert, mdp.eos)
        log_p = tk.log_probs(*known, strings, mdp.vocab)
        log_own = tk.log_probs(*own, strings, mdp.vocab)
        ratios.append(jnp.cumsum(to_actions(log_p - log_own, strings.mask, mdp.horizon), axis=1))
        terms = MODES if strings is expert else {"precision": MODES["precision_token_expert"]}
        summed = prefixes.divergences([*family, *terms.values()], known, own, strings, mdp.vocab)
        token.append(summed[: len(family)])
        measured |= of_modes(dict(zip(terms, summed[len(family) :])), strings)
        measured |= averages(
            {"expert_nll": -log_p.sum(1)}
        )  # the last to be written, the policy's strings, stays
    for i, d in enumerate(family):
        levels = (("", [r[:, -1] for r in ratios]), ("_occupancy", ratios)) if d.of_ratio else ()
        for suffix, ends in levels:
            measured[d.name + suffix], measured[f"{d.name}{suffix}_stderr"] = two_sided(d, *ends)
        for suffix, each in zip(("_token_expert", "_token"), token):
            measured |= averages({d.name + suffix: each[i].sum(1) / mdp.horizon}, each=True)
    return measured, answered


class Terms(NamedTuple):
    """What is summed over the vocabulary, of the laws of the expert and of the policy."""

    perspective: Callable[[Array, Array], Array]  # (log p, log q) -> a term for every token


def _mean_of(log_a: Array, log_b: Array) -> Array:
    """The terms of E_a log b. A token that a never says adds nothing, whatever b gives it."""
    a = jnp.exp(log_a)
    return jnp.where(a > 0, a * log_b, 0.0)


def _mass_off(log_a: Array, log_b: Array) -> Array:
    """The terms of a's mass where b is below `RARE`."""
    return jnp.where(log_b < math.log(RARE), jnp.exp(log_a), 0.0)


MODES = {  # at the expert's prefixes
    "precision_token_expert": Terms(lambda log_p, log_q: _mean_of(log_q, log_p)),
    "recall": Terms(_mean_of),
    "seeking": Terms(lambda log_p, log_q: _mean_of(log_q, log_p) - _mean_of(log_p, log_q)),
    "entropy_token_expert": Terms(lambda log_p, log_q: -_mean_of(log_q, log_q)),
    "off_support": Terms(lambda log_p, log_q: _mass_off(log_q, log_p)),
    "dropped_support": Terms(_mass_off),
}


def of_modes(sums: Mapping[str, Array], x: Sequences) -> dict[str, Array]:
    """Sums at each action [B, T], 0 off the mask, per token of the strings."""
    measured = {}
    for name, values in sums.items():
        measured |= per_token(name, values.sum(1), x, each=True)
    return measured


def modes_of_expert(known: Model, x: Sequences, vocab: int) -> dict[str, Array]:
    """What `MODES` and `precision` are of the expert itself, on its own strings, with standard
    errors."""
    known = Model(tk.read(*known, x), known.params)
    sums = dict(zip(MODES, prefixes.divergences(list(MODES.values()), known, known, x, vocab)))
    measured = of_modes(sums | {"precision": sums["precision_token_expert"]}, x)
    return {name: value for name, value in measured.items() if not name.endswith(EACH)}


def averages(values: Mapping[str, Array], each: bool = False) -> dict[str, Array]:
    """The mean of each, and its standard error under `NAME_stderr`; with `each` the values too."""
    measured = {}
    for name, x in values.items():
        measured[name], measured[f"{name}_stderr"] = x.mean(), _standard_error(x)
        if each:
            measured[name + EACH] = x
    return measured


def per_token(
    name: str, of_strings: Array, sequences: Sequences, each: bool = False
) -> dict[str, Array]:
    """What strings [N] sum to, per token of theirs, and its standard error."""
    return per_unit(name, of_strings, tk.lengths(sequences), each)


def per_unit(name: str, of_strings: Array, units: Array, each: bool = False) -> dict[str, Array]:
    """What strings [N] sum to, per unit of theirs [N], such as a token or a byte, and its standard
    error under `NAME_stderr`; with `each` what every string adds to the ratio.

    A ratio of sums: its error is that of sum - ratio * units, per unit (Cochran 1977, Sampling
    Techniques, chapter 6)."""
    ratio = of_strings.sum() / units.sum()
    residual = of_strings - ratio * units
    measured = {name: ratio, f"{name}_stderr": _standard_error(residual) / units.mean()}
    return measured | ({name + EACH: ratio + residual / units.mean()} if each else {})


def nll_per_unit(nll: Array, sequences: Sequences, mdp: TokenMDP) -> dict[str, Array]:
    """The NLL of strings [N] in nats per token, and in bits per byte where symbols are pieces of
    text."""
    measured = per_token("validation_nll", nll, sequences)
    if mdp.pieces is None:
        return measured
    sizes = jnp.asarray(mdp.pieces.sizes)[jnp.maximum(sequences.tokens, 0)]
    count = jnp.where(sequences.mask, sizes, 0).sum(1)
    return measured | per_unit("bits_per_byte", nll / math.log(2), count)


def log_stop(model: Model, x: Sequences, eos: int | tuple[int, ...]) -> Array:
    """Log-prob that the model ends each string where its last action stands. [N]"""
    last = jnp.max(jnp.where(x.mask, jnp.arange(x.mask.shape[1])[None], 0), axis=1)
    features = model.policy.trunk(model.params, x.tokens)
    there = jnp.take_along_axis(features, last[:, None, None], axis=1)[:, 0]
    log_probs = model.policy.head(model.params, there)
    return logsumexp(log_probs[:, jnp.atleast_1d(jnp.asarray(eos))], axis=-1)


def at_ends(name: str, values: Array, x: Sequences, eos: int | tuple[int, ...]) -> dict[str, Array]:
    """The mean of values [N] over the strings that ended, or over all where none did."""
    ended = tk.ended(x, eos)
    counts = jnp.where(ended.any(), ended, True).astype(values.dtype)
    return per_unit(name, counts * values, counts)


def likeliest(model: Model, x: Sequences, k: int) -> head.TopK:
    """The k likeliest tokens before each action."""
    own = tk.head_of(*model, x.tokens)
    if own is not None:
        return head.top_k(own, k, x.mask)
    log_probs, tokens = jax.lax.top_k(tk.distributions(*model, x.tokens), k)
    return head.TopK(log_probs, tokens, jnp.log1p(-jnp.exp(log_probs).sum(-1)))


def calibration_error(top: head.TopK, x: Sequences) -> Array:
    """Expected calibration error of the likeliest token at the actions of strings, in [0, 1]: the
    mean over actions of |share right - mean chance| in their bin of the chance, of ten equal bins.
    Naeini, Cooper & Hauskrecht 2015 (AAAI)."""
    chance = jnp.exp(top.log_probs[..., 0])
    bins = jnp.minimum((chance * BINS).astype(jnp.int32), BINS - 1)
    apart = jnp.where(x.mask, (top.tokens[..., 0] == x.tokens) - chance, 0.0)
    in_bin = jax.nn.one_hot(bins, BINS, dtype=apart.dtype)
    return jnp.abs(jnp.sum(in_bin * apart[..., None], axis=(0, 1))).sum() / x.mask.sum()


def overlap(known: Model, own: Model, x: Sequences, vocab: int) -> Array:
    """The share of the k = 5 likeliest tokens of one law that are among those of the other, summed
    over each string's actions. [N]"""
    k = min(LIKELIEST, vocab)
    ours, theirs = (likeliest(model, x, k).tokens for model in (own, known))
    shared = (theirs[..., :, None] == ours[..., None, :]).any(-1).mean(-1)
    return jnp.where(x.mask, shared, 0.0).sum(1)


# --- diversity of samples (host side) -------------------------------------------------------------


def _rows(sequences: Sequences) -> list[list[int]]:
    return [
        list(map(int, row[keep]))
        for row, keep in zip(np.asarray(sequences.tokens), np.asarray(sequences.mask))
    ]


def _ngrams(row: list[int], n: int) -> Counter:
    return Counter(tuple(row[i : i + n]) for i in range(len(row) - n + 1))


def rouge_l(answers: Sequences, references: Sequences, sizes: np.ndarray) -> float:
    """Mean ROUGE-L of answers against reference answers row by row, in [0, 1]: the F1 of their
    longest common subsequence of tokens that stand for text (`sizes` [V], bytes of each). Lin 2004
    (ACL workshop on text summarisation)."""
    scores = []
    for pair in zip(_rows(answers), _rows(references)):
        a, b = ([token for token in row if sizes[token] > 0] for row in pair)
        common = _common(a, b)
        scores.append(2 * common / (len(a) + len(b)) if a or b else 1.0)
    return float(np.mean(scores))


def _common(a: list[int], b: list[int]) -> int:
    """Length of the longest common subsequence, a column of the table as the bits of one number.
    Hyyro 2004 (Bit-parallel LCS-length computation revisited)."""
    places: dict[int, int] = {}
    for i, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << i
    full = (1 << len(a)) - 1
    column = full
    for token in b:
        hits = column & places.get(token, 0)
        column = (column + hits | column - hits) & full
    return len(a) - column.bit_count()


def distinct_n(sequences: Sequences, n: int) -> float:
    """Distinct n-grams over all n-grams of the samples, in [0, 1]. Li et al. 2016 (arXiv
    1510.03055)."""
    counts = Counter()
    for row in _rows(sequences):
        counts.update(_ngrams(row, n))
    return len(counts) / max(1, sum(counts.values()))


def self_bleu(sequences: Sequences, n: int = 4) -> float:
    """Mean BLEU-n of each sample against all the others, in [0, 1]; high is alike. Zhu et al. 2018
    (Texygen).

    Uniform weights over orders 1..n, add-one smoothing above order 1, brevity penalty to the
    nearest reference length."""
    rows = [row for row in _rows(sequences) if row]
    if len(rows) < 2:
        return 1.0
    grams = [[_ngrams(row, k) for k in range(1, n + 1)] for row in rows]
    tops = [_two_largest([g[k] for g in grams]) for k in range(n)]
    sizes = np.array([len(row) for row in rows])
    return float(np.mean([_bleu(i, grams[i], tops, sizes, n) for i in range(len(rows))]))


def _two_largest(counters: list[Counter]) -> dict:
    """For each n-gram its two largest counts over strings and whose the first is: the maximum over
    all *other* strings."""
    tops: dict = {}
    for i, counter in enumerate(counters):
        for gram, count in counter.items():
            best, owner, second = tops.get(gram, (0, -1, 0))
            tops[gram] = (count, i, best) if count > best else (best, owner, max(second, count))
    return tops


def _bleu(i: int, grams: list[Counter], tops: list[dict], sizes: np.ndarray, n: int) -> float:
    logs = 0.0
    for k in range(n):
        matched = 0
        for gram, count in grams[k].items():
            best, owner, second = tops[k][gram]
            matched += min(count, second if owner == i else best)
        total = sum(grams[k].values())
        smooth = 1 if k else 0
        if matched + smooth == 0:
            return 0.0
        logs += np.log((matched + smooth) / (total + smooth)) / n if total + smooth else 0.0
    others = np.delete(sizes, i)
    nearest = others[np.argmin(np.abs(others - sizes[i]))]
    return float(np.exp(logs + min(0.0, 1 - nearest / sizes[i])))
