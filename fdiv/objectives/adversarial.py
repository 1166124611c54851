"""Adversarial imitation: the log-ratio is a discriminator's logit, the policy follows any f's
reward of it.

    -grad D_f(p||q) = E_{x ~ q}[ sum_k R_k grad log q(action_k | prefix) ],

R from `estimators.returns_to_go`, with s from `fdiv.discriminator`. What is published under these
names:

    gail       js                              Ho & Ermon 2016 (arXiv 1606.03476)
    airl       reverse_kl, g + h' - h - log q  Fu, Luo & Levine 2018 (arXiv 1710.11248)
    fairl      reward -s e^s                   Ghasemipour et al. 2019 (arXiv 1911.02256);
                                               no f-divergence's gradient
    gad        reverse_kl, training pairs      Ye et al. 2025 (arXiv 2511.10643): "adversarial"
    relativistic                               Jolicoeur-Martineau 2018 (arXiv 1807.00734), paired:
               js, training pairs,             the discriminator of GAD, and answers paid for what
               reward form relative            they are ahead of demonstrations (`fdiv.pairwise`)
    alpha_irl  the alpha family                Zhang et al. 2020 (f-GAIL, arXiv 2010.01207)
                                               searches such a family

"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fdiv import divergences, pairwise, prefixes
from fdiv import tokens as tk
from fdiv.checks import buildable, present
from fdiv.discriminator import Discriminator, Evidence, Training, discriminator
from fdiv.estimators import (
    Baseline,
    Scored,
    advantages,
    returns_to_go,
    to_actions,
    to_columns,
)
from fdiv.ranges import MOST_STEPS, check_ranges, ranged
from fdiv.token_discriminator import (
    Prefixes,
    TokenDiscriminator,
    over_prefixes,
    token_discriminator,
)
from fdiv.types import (
    Claim,
    Components,
    Divergence,
    Level,
    Look,
    Method,
    Model,
    Objective,
    Params,
    Sequences,
    UsageError,
    hidden,
)

RewardForm = Literal["ratio", "expert", "relative"]
Plain = Literal["sequence", "occupancy", "token"]
LEVELS = {
    "sequence": Level.sequence,
    "occupancy": Level.occupancy,
    "token": Level.token_expert,
}


@dataclasses.dataclass(frozen=True)
class Adversarial(Method):
    """Adversarial imitation with any f (gail, airl, fairl, alpha_irl, relativistic)."""

    kind: ClassVar = "adversarial"
    needs = ("scorer",)
    divergence: str = hidden("")
    structured: bool = hidden(False)  # whether the logit is a shaped reward less log q, as in AIRL
    published: str = hidden("")  # "fairl": its reward in place of the divergence's
    level: Plain = "sequence"
    """What the discriminator compares: sequence (whole strings), occupancy ((prefix, token) pairs),
    or token (the next token at the expert's prefixes)."""
    training: Training = "logistic"
    """Discriminator loss: logistic, the divergence's variational bound, or pairs (GAD), which tells
    demonstrations from answers two at a time."""
    reward_form: RewardForm = "ratio"
    """What the reward is made of: the logit s (log p - log q), for airl its expert part s + log q
    alone, or relative, by how much s is ahead of the demonstrations' (the divergence of pairs)."""
    entropy: float = ranged(0.0, least=0)
    """Coefficient of the policy's entropy, added to what is maximised."""
    discriminator_learning_rate: float = ranged(0.05, above=0)
    """Learning rate of the discriminator."""
    discriminator_steps: int = ranged(1, least=1, most=MOST_STEPS)
    """Discriminator steps per update."""
    warmup: int = ranged(50, least=0)
    """Updates in which only the discriminator learns."""
    gradient_penalty: float = ranged(0.0, least=0)
    """Weight of the squared change of the learned score when one token of a string is replaced by
    another."""
    baseline: Baseline = "leave_one_out"
    """What is subtracted from the returns: none, mean or leave_one_out."""
    discount: float = ranged(1.0, least=0, most=1)
    """Weight of what follows an action, per token: 1 is the exact gradient, 0 holds later prefixes
    fixed."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    @property
    def look(self) -> Look:
        own = "P" if self.reward_form == "relative" else "^"
        return Look("X" if self.published else own, "--", "discriminator")

    def check(self) -> None:
        check_ranges(self)
        refuse = lambda field, problem, fix: UsageError(field, getattr(self, field), problem, fix)
        if self.reward_form == "expert" and not (self.structured and self.level == "sequence"):
            raise refuse(
                "reward_form",
                "only sequence-level airl has a separate expert part.",
                "Use ratio, or airl alone.",
            )
        relative = self.reward_form == "relative"
        if relative and (self.level != "sequence" or self.published):
            problem = "compares whole strings, and is no part of what was published as fairl."
            raise refuse("reward_form", problem, "Use it at the sequence level, with another f.")
        own = {"ratio": ("reverse_kl",), "relative": tuple(pairwise.SINGLE), "expert": ()}
        if self.entropy and self.divergence in own[self.reward_form]:
            problem = (
                "the reward s = log p - log q holds the policy's entropy already: it "
                "would be counted twice."
            )
            raise refuse(
                "entropy",
                problem,
                "Set it to 0, or use airl with the reward form expert.",
            )
        if self.published and (self.entropy or self.training == "bound"):
            field = "entropy" if self.entropy else "training"
            raise refuse(
                field,
                f"{self.published} is run as published, which has none of it.",
                f"Use adversarial:{self.divergence}.",
            )
        if self.training == "pairs" and (
            self.level != "sequence" or not (relative or self.divergence == "reverse_kl")
        ):
            problem = (
                "pairs know the log-ratio up to a constant, which only reverse_kl's reward s of "
                "whole strings does not see, or the reward form relative."
            )
            fix = (
                "Use adversarial:reverse_kl, airl or relativistic:F of whole strings, or logistic."
            )
            raise refuse("training", problem, fix)
        if self.level == "token" and (self.discount != 1 or self.baseline != "leave_one_out"):
            field = "discount" if self.discount != 1 else "baseline"
            raise refuse(
                field,
                "the token level sums over the vocabulary and has no returns.",
                "Leave it at its default.",
            )

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        d = divergences.parse(self.divergence)
        rewarding = fairl(d) if self.published == "fairl" else d
        critic = {
            "training": self.training,
            "structured": self.structured,
            "learning_rate": self.discriminator_learning_rate,
            "steps": self.discriminator_steps,
            "gradient_penalty": self.gradient_penalty,
        }
        if self.training == "bound":
            divergences.refuse_steps(d)
        if self.level == "token":
            learned = token_discriminator(components, d, **critic)
            return adversarial_token(components, learned, rewarding, self.entropy, self.warmup)
        shape = {
            "horizon": components.mdp.horizon,
            "vocab": components.mdp.vocab,
            "eos": components.mdp.eos,
            "level": LEVELS[self.level],
        }
        learned = discriminator(
            present(components.scorer, "scorer"), d, components.optimiser, **shape, **critic
        )
        return adversarial(
            components,
            learned,
            rewarding,
            level=LEVELS[self.level],
            baseline=self.baseline,
            discount=self.discount,
            reward_form=self.reward_form,
            entropy=self.entropy,
            warmup=self.warmup,
        )

    def claim(self) -> Claim:
        """What (divergence, reward form, entropy bonus) has as its fixed point."""
        c, divergence = self.entropy, self.divergence
        if self.published == "fairl":
            sentence = (
                "Meant for forward_kl, but its reward -s e^s is no f-divergence's: near "
                "the optimum it ascends forward_kl."
            )
        elif self.reward_form == "expert" and c == 0:
            sentence = (
                "Maximises E_q[log p] alone: the optimum is the expert's likeliest "
                "string, no divergence's."
            )
        elif self.reward_form == "expert" and c != 1:
            sentence = (
                f"Sequence reverse_kl to p^(1/{c:g}), the expert at temperature {c:g}, not to p."
            )
        elif self.reward_form != "expert" and c:
            sentence = (
                f"{divergence} minus {c:g} times the policy's entropy: the optimum is "
                "flatter than the expert."
            )
        else:
            kind = (
                "exact"
                if self.discount == 1
                else f"biased by the discount of {self.discount:g}, else exact"
            )
            sentence = (
                f"Gradient of {self.level} {divergence}, {kind} once the discriminator is optimal."
            )
        if self.level == "token":
            sentence = sentence.replace(
                f"token {divergence}", f"token-level {divergence} on the expert's prefixes"
            )
        if self.reward_form == "relative":
            return self._of_pairs(sentence)
        # the share keeps its search of the class's optimum apart from policy_gradient's, which has
        # other starts: a gap stays the same to the last digit
        level = LEVELS[self.level]
        return Claim(divergence, level, sentence, policy_prefixes=0.0, aside=self._aside())

    def _aside(self) -> str:
        """What its gradient is of, where that is not the divergence."""
        c, shown = self.entropy, f"what is shown is {self.divergence} to the expert"
        if self.published == "fairl":
            return f"its reward is no f-divergence's; {shown}, for which it is meant."
        if self.reward_form == "expert" and c == 0:
            return f"E_q[log p] is no divergence of the two laws; {shown}."
        if self.reward_form == "expert" and c != 1:
            return f"it minimises reverse_kl to the expert at temperature {c:g}; {shown} itself."
        if self.reward_form != "expert" and c:
            return (
                f"it minimises a divergence less {c:g} times the policy's entropy; {shown} alone."
            )
        return ""

    def _of_pairs(self, sentence: str) -> Claim:
        """What the reward form relative minimises: the divergence of the pairs' two orders."""
        name, d = pairwise.SINGLE.get(self.divergence), divergences.parse(self.divergence)
        pairs = f"{self.divergence} of pairs" + (f", which is {name}," if name else "")
        sentence = sentence.replace(f"sequence {self.divergence},", f"sequence {pairs}")
        claim = Claim(name or self.divergence, Level.sequence, sentence, policy_prefixes=0.0)
        if self.entropy:
            less = f"it minimises a divergence less {self.entropy:g} times the policy's entropy"
            claim = claim._replace(aside=f"{less}; what is shown is the divergence alone.")
        if name:
            return claim
        measure = functools.partial(pairwise.measured, d)
        return claim._replace(how="of pairs", measure=measure)

    def variants(self) -> Sequence[Mapping[str, Any]]:
        own: list[Mapping[str, Any]] = []
        if self.reward_form == "relative":
            return [{"divergence": "reverse_kl"}, {"divergence": "pearson_chi2"}]
        if self.divergence == "hellinger2":
            own = [{"training": "bound"}]
        elif self.divergence == "js":
            own = [{"discount": 0.0}, {"baseline": "none"}, {"baseline": "mean"}]
        elif self.structured:
            own = [
                {"discount": 0.0},
                {"reward_form": "expert"},
                {"reward_form": "expert", "entropy": 1.0},
            ]
            own += [{"training": "pairs"}]
        return [{"level": "occupancy"}, {"level": "token"}, *own]


def fairl(d: Divergence, most: float = 20.0) -> Divergence:
    """The published reward -s e^s, s clipped so that one string cannot overflow a batch."""

    def reward(s: Array) -> Array:
        s = jnp.clip(s, -most, most)
        return -s * jnp.exp(s)

    return d._replace(reward=reward)


class AdversarialState(NamedTuple):
    discriminator: Any
    start: Params  # the policy's when training began
    step: Array


def adversarial(
    components: Components,
    critic: Discriminator,
    d: Divergence,
    level: Level = Level.sequence,
    baseline: Baseline = "leave_one_out",
    discount: float = 1.0,
    reward_form: RewardForm = "ratio",
    entropy: float = 0.0,
    warmup: int = 0,
) -> Objective:
    """The objective on a batch of demonstrations, whose prompts the policy answers as well."""
    policy, mdp = components.policy, components.mdp

    def own(params, sequences):
        return tk.log_probs(policy, params, sequences, mdp.vocab)

    def init(key, params):
        return AdversarialState(critic.init(key, params), params, jnp.zeros((), jnp.int32))

    def prepare(key, params, aux, batch):
        sample_key, critic_key, held_key = jax.random.split(key, 3)
        strings, log_q = components.rollout(
            sample_key, policy, params, tk.prompts_of(batch, mdp.horizon)
        )
        evidence = lambda x: Evidence(tk.normalise(x), own(params, x), own(aux.start, x))
        demos, samples = (
            evidence(batch),
            Evidence(tk.normalise(strings), log_q, own(aux.start, strings)),
        )
        learned = critic.learn(critic_key, aux.discriminator, demos, samples)

        mask = to_actions(strings.mask, strings.mask, mdp.horizon)
        past = jnp.cumsum(to_actions(log_q, strings.mask, mdp.horizon), axis=1)
        prefix = critic.ratio(learned, samples) + (past if reward_form == "expert" else 0.0)
        paying = d
        if reward_form == "relative":
            real = critic.ratio(learned, demos)[:, -1]
            paying = pairwise.paid(d, real, demos.sequences.weight)
        returns = returns_to_go(paying, level, prefix, mask, discount)
        if entropy:  # minus the log-prob of this action and all that follow
            returns -= entropy * (past[:, -1:] - jnp.pad(past, [(0, 0), (1, 0)])[:, :-1])
        advantage = jnp.where(
            aux.step < warmup, 0.0, advantages(returns, mask, strings.weight, baseline)
        )
        scored = Scored(samples.sequences, to_columns(advantage, strings.mask))

        held_out = evidence(mdp.held_out(held_key, batch.tokens.shape[0]))
        health = critic.health(
            aux.discriminator, held_out, samples, demos
        )  # before it learned from these samples
        return (
            AdversarialState(learned, aux.start, aux.step + 1),
            scored,
            {"tokens": strings.mask.sum(), **health},
        )

    def loss(params, aux, batch):
        return prefixes.policy_gradient_loss(Model(policy, params), batch, mdp.vocab), {}

    return Objective(init, prepare, loss)


# --- the token level ------------------------------------------------------------------------------


class Contrast(NamedTuple):
    """Demonstrations and the reward of every next token at each of their prefixes."""

    sequences: Sequences
    reward: Array  # [B, T, V]


def adversarial_token(
    components: Components,
    critic: TokenDiscriminator,
    d: Divergence,
    entropy: float = 0.0,
    warmup: int = 0,
) -> Objective:
    """The objective on a batch of demonstrations, at whose prefixes next tokens are compared.

        maximise E_prefix[ sum_v q(v | prefix) reward(s(prefix, v)) ],   s held fixed

    With the optimal critic this is the exact gradient of
    E_{prefix ~ p}[D_f(p(.|prefix) || q(.|prefix))]: no string is sampled and no credit is assigned.
    What a critic of whole strings sees at a glance on long text (any early slip gives a string
    away) one of single tokens cannot use. The policy never sees its own prefixes."""
    policy, mdp = components.policy, components.mdp

    def prefixes(params: Params, aux: AdversarialState, x: Sequences) -> Prefixes:
        own = tk.distributions(policy, params, x.tokens)
        return Prefixes(x, own, tk.distributions(policy, aux.start, x.tokens))

    def init(key, params):
        return AdversarialState(critic.init(key, params), params, jnp.zeros((), jnp.int32))

    def prepare(key, params, aux, batch):
        demos = prefixes(params, aux, tk.normalise(batch))
        learned = critic.learn(aux.discriminator, demos)
        reward = d.reward(critic.ratio(learned, demos))
        reward = jnp.where(aux.step < warmup, 0.0, reward - entropy * demos.log_q)
        held_key, token_key = jax.random.split(key)
        held_out = prefixes(params, aux, mdp.held_out(held_key, batch.tokens.shape[0]))
        # before it learned from these demonstrations
        health = critic.health(token_key, aux.discriminator, held_out, demos)
        return (
            AdversarialState(learned, aux.start, aux.step + 1),
            Contrast(demos.sequences, reward),
            {"tokens": batch.mask.sum(), **health},
        )

    def loss(params, aux, batch):
        chance = jnp.exp(tk.distributions(policy, params, batch.sequences.tokens))
        each = jnp.sum(chance * batch.reward, axis=-1)
        return -over_prefixes(batch.sequences, each, mdp.horizon), {}

    return Objective(init, prepare, loss)
