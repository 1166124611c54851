"""Distillation from a known expert: any f, summed exactly over the vocabulary at every prefix.

    loss = (1/H) sum_k E_prefix[ sum_v perspective(log p(v | prefix), log q(v | prefix)) ],

prefixes from the expert's strings, the policy's, or a mixture, and held fixed: the effect of q on
later prefixes is dropped. With expert prefixes that loses nothing. Sources: Agarwal et al. 2023
(GKD, arXiv 2306.13649); Ko et al. 2024 (DistiLLM, arXiv 2402.03898); Ross, Gordon & Bagnell 2011
(DAgger) for prefixes of the policy (all of them: `dagger`); `fdiv.next_token` for what may be done
to the two laws first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array

from fdiv import divergences, head, next_token, prefixes
from fdiv import tokens as tk
from fdiv.checks import buildable, known_expert, present
from fdiv.ranges import check_ranges, ranged
from fdiv.types import (
    Claim,
    Components,
    Divergence,
    Level,
    Look,
    Method,
    Model,
    Objective,
    Sequences,
    UsageError,
    hidden,
)


@dataclasses.dataclass(frozen=True)
class Distill(Method):
    """Exact sum over the vocabulary of any f-divergence to a known expert."""

    kind: ClassVar = "distill"
    look = Look("D", ":", "exact sum over tokens")
    divergence: str = hidden("")
    policy_prefixes: float = ranged(0.0, least=0, most=1)
    """Share of prefixes sampled from the policy: 0 expert's strings only, 1 on-policy, between a
    mixture of both."""
    temperature: float = ranged(1.0, least=0.01, most=100)
    """Temperature of both laws in the loss, which is multiplied by its square."""
    target: next_token.Target = "expert"
    """What is learned from: the expert, or a law between the policy (held fixed) and the expert: m,
    a mixture, or e, a normalised geometric mean."""
    towards: float = ranged(1.0, above=0, most=1)
    """Share of the expert in the targets m and e."""
    top_k: int = ranged(0, least=0)
    """Compares the target's k likeliest tokens, and all others as one; 0: the whole vocabulary."""
    term_clip: float | None = ranged(None, above=0)
    """The most that one token's term of the sum may be, in nats; above it there is no gradient."""
    forward_above: float | None = ranged(None, least=0)
    """Adds forward KL at prefixes where the expert's entropy is above this many nats (EOPD)."""
    weights: Literal["none", "akl"] = "none"
    """akl weighs the two KLs of jeffreys by how far the laws are apart on the expert's head and
    tail (biased)."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    @property
    def reusable(self) -> bool:
        return self.policy_prefixes == 0

    def check(self) -> None:
        check_ranges(self)
        refuse = lambda field, problem, fix: UsageError(field, getattr(self, field), problem, fix)
        if self.target == "expert" and self.towards != 1:
            raise refuse("towards", "the target is the expert alone.", "Set the target to m or e.")
        if self.target != "expert" and self.towards == 1:
            problem = "with a share of 1 the target is the expert alone."
            raise refuse("target", problem, "Set towards below 1.")
        if self.weights == "akl" and self.divergence != "jeffreys":
            problem = f"weighs forward_kl against reverse_kl, and here is {self.divergence}."
            raise refuse("weights", problem, "Use distill:jeffreys, which is the two of them.")

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        known_expert(components.mdp, f"distill:{self.divergence}")
        if self.top_k >= components.mdp.vocab:
            problem = f"of the {components.mdp.vocab} tokens nothing is left to merge."
            raise UsageError("top_k", self.top_k, problem, "Give fewer, or 0 for all.")
        d = divergences.over_vocabulary(self.divergence)
        if not self._how():
            return distill(components, d, self.policy_prefixes)
        return distill(components, d, self.policy_prefixes, self.measure(d))

    def measure(self, d: Divergence) -> next_token.Measure:
        """What is computed of the two laws at a prefix: the last line is what is done first."""
        bounded = lambda d: next_token.clipped(d, self.term_clip) if self.term_clip else d
        measure = head.divergence_at(bounded(d))
        if self.weights == "akl":
            kls = divergences.forward_kl(), divergences.reverse_kl()
            measure = next_token.adaptive(*(head.divergence_at(bounded(kl)) for kl in kls))
        if self.forward_above is not None:
            measure = next_token.forward_above(measure, self.forward_above)
        if self.top_k:
            measure = next_token.bucketed(measure, self.top_k)
        if self.target != "expert":
            towards = {"m": next_token.towards_m, "e": next_token.towards_e}[self.target]
            measure = towards(measure, self.towards)
        return measure if self.temperature == 1 else next_token.tempered(measure, self.temperature)

    def _how(self) -> str:
        """The options in words, none where all are at their defaults."""
        words = {
            f"to the {self.target}-mixture {self.towards:g}": self.target != "expert",
            "with AKL's weights": self.weights == "akl",
            f"with terms up to {self.term_clip}": self.term_clip is not None,
            f"and forward_kl over {self.forward_above} nats": self.forward_above is not None,
            f"over {self.top_k} tokens and the rest": self.top_k > 0,
            f"at temperature {self.temperature:g}": self.temperature != 1,
        }
        return " ".join(text for text, holds in words.items() if holds)

    def claim(self) -> Claim:
        d, own, how = self.divergence, self.policy_prefixes, self._how()
        kind = "Exact gradient"
        if self.weights == "akl":
            kind = "Biased (the weights depend on the policy and are held fixed): near the gradient"
        elif self.target != "expert":
            kind = "Gradient, the policy in the target held fixed,"
        if own == 0:
            sentence = f"{kind} of token-level {d} {how}".rstrip() + " on the expert's prefixes."
            claim = Claim(d, Level.token_expert, sentence)
        else:
            sentence = (
                f"Token-level {d} {how}".rstrip() + f", {own:.0%} of prefixes the policy's own and "
                "held fixed: biased, as it drops the effect on later prefixes."
            )
            claim = Claim(d, Level.token_policy, sentence, own)
        return claim._replace(**self._really(how))

    def _really(self, how: str) -> dict[str, Any]:
        """What the gradient is of, where that is not the divergence of the two laws."""
        if not how:
            return {}
        shown = f"what is shown is {self.divergence} of the two laws as they are."
        if self.weights == "akl":
            return {
                "aside": f"its weights are held fixed, so it is no function's gradient; {shown}"
            }
        alone = how == f"to the {self.target}-mixture {self.towards:g}"
        if alone and (name := BETWEEN.get((self.divergence, self.target))):
            return {"minimises": name.format(self.towards)}
        d = divergences.over_vocabulary(self.divergence)
        if self.target == "expert":
            return {"how": how, "measure": self.measure(d)}
        if self.target == "m" and alone and d.of_ratio:
            return {"how": how, "measure": next_token.of_mixture(d, self.towards)}
        return {"aside": f"the policy in its target is held fixed; {shown}"}

    def variants(self) -> Sequence[Mapping[str, Any]]:
        if self.policy_prefixes != 0 or self._how():
            return ()
        shares = [{"policy_prefixes": share} for share in (0.5, 1.0)]
        return [*shares, *VARIANTS] if self.divergence == "js" else shares


# What has the gradient of D(target||q) with the q in the target held fixed, up to a factor
BETWEEN = {
    ("forward_kl", "m"): "forward_kl",
    ("reverse_kl", "m"): "gjs:{:g}",
    ("tv", "m"): "tv",
    ("reverse_kl", "e"): "reverse_kl",
    ("forward_kl", "e"): "alpha:{:g}",  # times a factor of each prefix
}
VARIANTS: list[Mapping[str, Any]] = [  # for the gradient card
    {"temperature": 2.0},
    {"top_k": 1},
    {"term_clip": 0.02},
    {"divergence": "reverse_kl", "forward_above": 0.9},
    {"target": "m", "towards": 0.5},
    {"divergence": "reverse_kl", "target": "m", "towards": 0.9},
    {"divergence": "reverse_kl", "target": "e", "towards": 0.5},
    {"divergence": "forward_kl", "target": "e", "towards": 0.5},
    {"divergence": "jeffreys", "weights": "akl"},
]


def distill(
    components: Components,
    d: Divergence,
    policy_prefixes: float = 0.0,
    measure: next_token.Measure | None = None,
) -> Objective:
    """The objective on a batch of demonstrations (on their prompts alone when every prefix is the
    policy's). A `measure` takes the place of the divergence of the two laws."""
    policy, mdp = components.policy, components.mdp
    kept = components.kept_expert if policy_prefixes == 0 else None

    def summed(expert: Model, own: Model, batch: Sequences) -> Array:
        if measure is None:
            return prefixes.divergence_loss(d, expert, own, batch, mdp.vocab)
        return prefixes.measured_loss(measure, expert, own, batch, mdp.vocab)

    def prepare(key, params, aux, batch):
        parts = []
        if policy_prefixes < 1:
            demos = tk.normalise(batch)
            parts.append(demos._replace(weight=(1 - policy_prefixes) * demos.weight))
        if policy_prefixes > 0:
            own = tk.normalise(
                components.rollout(key, policy, params, tk.prompts_of(batch, mdp.horizon))[0]
            )
            parts.append(own._replace(weight=policy_prefixes * own.weight))
        strings = jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)
        return aux, strings, {"tokens": strings.mask.sum()}

    def loss(params, aux, batch):
        expert, own = kept or present(mdp.expert, "known expert"), Model(policy, params)
        return summed(expert, own, batch) / mdp.horizon, {}

    return Objective(lambda key, params: (), prepare, loss)
