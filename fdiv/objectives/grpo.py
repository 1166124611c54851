"""GRPO: answers to one prompt are compared with each other, and a clipped ratio lets a batch serve
several steps.

    loss = -E[ sum_k min(rho_k A_k, clip(rho_k, 1 - c, 1 + c) A_k) ],   rho = q / q_old

A is the answer's score less the group's mean score, the same at each of its actions, plus what the
penalty pays from there on, less the group's mean of that. `grpo_std` takes all that an answer
earned less the group's mean of it, at each of its actions, and divides it by the group's standard
deviation (with n - 1), as published codes do, which weighs prompts by how alike their answers are.
With the ratio of whole strings A is the same without the division; with `aggregate` string_mean
that is GSPO. Published as well, and had by name: the penalty k3 in the loss
(`grpo_std:k3-loss`), whose gradient is another KL's. Sources: Shao et al. 2024 (arXiv 2402.03300);
Liu et al. 2025 (Dr. GRPO, arXiv 2503.20783); Zheng et al. 2025 (GSPO, arXiv 2507.18071)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from fdiv import groups
from fdiv import tokens as tk
from fdiv.checks import buildable
from fdiv.episodes import (
    GROUP,
    Episodes,
    grouped,
    penalty_of,
    return_claim,
    stage,
    whole,
    within_groups,
)
from fdiv.estimators import to_columns
from fdiv.penalties import Drawn, Penalty, marker
from fdiv.ranges import check_ranges, ranged
from fdiv.surrogates import Ratio, clipped, stopped
from fdiv.types import Claim, Components, Look, Method, Objective, hidden

SMALL = 1e-4  # so that a group whose returns differ by rounding alone teaches nothing


@dataclasses.dataclass(frozen=True)
class Grpo(Method):
    """Group-relative policy optimisation."""

    kind: ClassVar = "grpo"
    reusable = True
    charges = True
    penalty: Penalty | None = hidden(None)
    std: bool = hidden(False)  # whether advantages are divided by their group's deviation
    group: int = ranged(GROUP, least=2)
    """Answers to each prompt."""
    clip: float = ranged(0.2, above=0, below=1)
    """How far the ratio q / q_old may leave 1 and still be paid for."""
    ratio: Ratio = "token"
    """What is clipped: each token's ratio, or the whole string's (its geometric mean over tokens,
    GSPO)."""
    aggregate: tk.Aggregate = "string"
    """How strings of different lengths weigh: string (unbiased), token, string_mean (as published)
    or constant."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    @property
    def look(self) -> Look:
        own = marker(self.penalty, "d" if self.std else "^")
        return Look(own, "--", "score, in groups", "#E69F00")

    def check(self) -> None:
        check_ranges(self)

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        return grpo(
            components,
            penalty_of(self.penalty, components),
            group=self.group,
            clip=self.clip,
            ratio=self.ratio,
            aggregate=self.aggregate,
            std=self.std,
        )

    def claim(self) -> Claim:
        biases = ["returns are divided by their group's standard deviation"] if self.std else []
        biases += (
            ["strings are reweighted by their length"]
            if self.aggregate in ("token", "string_mean")
            else []
        )
        biases += (
            ["the ratio of strings is a geometric mean over tokens"]
            if self.ratio == "sequence"
            else []
        )
        sentence = (
            "Clipped policy gradient, the group's mean as baseline (its length shrunk by "
            f"1 - 1/{self.group})"
        )
        return return_claim(self.penalty, sentence, "; ".join(biases))

    def variants(self) -> Sequence[Mapping[str, Any]]:
        gspo = {"ratio": "sequence", "aggregate": "string_mean"}
        return [] if self.std or self.penalty else [{"aggregate": "string_mean"}, gspo]


def grpo(
    components: Components,
    penalty: Penalty,
    group: int = GROUP,
    clip: float = 0.2,
    ratio: Ratio = "token",
    aggregate: tk.Aggregate = "string",
    std: bool = False,
) -> Objective:
    """The objective on a batch of prompts, of which B / group are answered."""
    on, horizon = stage(components, penalty), components.mdp.horizon

    def prepare(key, params, aux, batch):
        x = on.play(key, params, aux, batch, group)
        one_each = std or ratio == "sequence"
        advantage = of_strings(x) if one_each else grouped(x, "mean")
        if std:
            advantage = advantage / (spread(x) + SMALL)
        aux, metrics = on.after(aux, x)
        advantage = to_columns(advantage, x.sequences.mask)
        strings = tk.normalise(x.sequences, aggregate, horizon)
        return aux, Drawn(strings, x.log_old, x.log_ref, advantage, x.alike), metrics

    def loss(params, aux, batch):
        strings, vocab = batch.sequences, components.mdp.vocab
        log_q = groups.log_probs(components.policy, params, strings, vocab, batch.alike)
        gain = clipped(batch, log_q, clip, ratio)
        earned = jnp.sum(strings.weight[:, None] * gain)
        share = stopped(batch, log_q, clip, ratio, aggregate, horizon)
        return on.charge(params, aux, batch, log_q) - earned, {"clip_share": share}

    return Objective(lambda key, params: on.init(params), prepare, loss)


def of_strings(x: Episodes) -> Array:
    """All that an answer earned less the group's mean of it, at each of its actions: one advantage
    a string, as a ratio of strings and a deviation of strings' returns want. [B, H]"""
    return jnp.where(x.mask, within_groups(x, whole(x)[:, None], "mean"), 0.0)


def spread(x: Episodes) -> Array:
    """Standard deviation of all that the answers earned within each group, [B, 1].

    Of n answers the squares are divided by n - 1 (Bessel); of an enumerated population, whose
    weights are probabilities, by their sum."""
    split = lambda a: a.reshape(-1, x.groups)
    total, weight = split(whole(x)), split(x.sequences.weight)
    mass = weight.sum(1, keepdims=True)
    drawn = jnp.all((weight == 0) | (weight == 1))
    centre = (weight * total).sum(1, keepdims=True) / jnp.maximum(mass, 1e-9)
    squares = (weight * (total - centre) ** 2).sum(1, keepdims=True)
    root = jnp.sqrt(squares / jnp.maximum(jnp.where(drawn, mass - 1, mass), 1e-9))
    return jnp.broadcast_to(root, total.shape).reshape(-1, 1)
