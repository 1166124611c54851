"""Sums that can be written in several right ways, every one of which is known: answers are checked,
and ways are counted.

A prompt is a sum, `17+25+8=`. A right completion is the answer alone, `50`, or steps: each adds two
of the numbers that are left, the left one first, and puts the sum in the left one's place, until
one number is left: `25+8=33,17+33=50`. So n numbers have n! (n-1)! / 2^(n-1) ways with steps. A
completion is right when it is one of these to the last character, EOS included: a wrong step, a
step too many, a zero in front or no end is wrong, whatever the answer.

A demonstration is any of the ways, all as likely; where two of them write the same string, the
first stands for both. Sums of the same numbers in any order are on one side of the split, so that a
held-out sum was not trained on turned round."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from fdiv import divergences
from fdiv import tokens as tk
from fdiv.benchmarks import own_reward
from fdiv.benchmarks.sums import CHARACTERS, EOS, VOCAB, Sums, answered, asked, solutions, ways
from fdiv.ranges import check_ranges, ranged
from fdiv.types import Regulariser, Sequences, TokenMDP, UsageError

Score = Callable[[Sequences], Array]
LOOKED_AT = 1 << 14  # sums drawn to see that neither side of the split is empty


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """Sums with a verifiable answer and several right ways to write it."""

    terms: int = ranged(3, least=2, most=4)
    """Numbers in a sum, 2 to 4: 1, 3 or 18 ways with steps."""
    largest: int = ranged(19, least=1, most=999)
    """Largest number in a sum, to 999."""
    direct: bool = True
    """Whether the answer alone, without a step, is a right way too."""
    validation: float = ranged(0.2, above=0, below=1)
    """Share of sums held out, by a hash of their numbers."""
    reward: str | None = None
    """What is rewarded in place of a right way to write the sum: a function that an imported file
    adds (docs/rewards.md)."""
    beta: float = ranged(0.05, least=0)
    """Weight of the divergence from the policy as it was when training began."""
    divergence: str = "reverse_kl"
    """What leaving it costs, D_f(start||policy): reverse_kl is KL(policy||start)."""

    def check(self) -> None:
        """Raise `UsageError` naming a field that cannot be."""
        check_ranges(self)
        refuse_flat(self.divergence)
        if self.reward is not None:
            own_reward.known(self.reward)

    def build(self) -> TokenMDP:
        """The task; no expert is known, only what is right."""
        self.check()
        sums = Sums.of(self.terms, self.largest, self.direct)
        self._refuse_empty()
        sides = {
            side: lambda key, n, side=side: self._numbers(key, n, side) for side in (False, True)
        }
        prompts = lambda key, n: asked(sides[False](key, n), sums)
        score: Score = lambda x: (solutions(x, sums) >= 0).astype(jnp.float32)
        if self.reward is not None:
            score = own_reward.score_of(own_reward.known(self.reward), self.spell)
        statistics = {"reward": score, "answer": lambda x: answered(x, sums).astype(jnp.float32)}
        if self.direct:
            statistics["direct"] = lambda x: (solutions(x, sums) == 0).astype(jnp.float32)
        regulariser = Regulariser(divergences.parse(self.divergence).name, self.beta)
        return TokenMDP(
            VOCAB,
            sums.horizon,
            EOS,
            prompts,
            _demonstrations(sides[False], sums),
            _demonstrations(sides[True], sums),
            None,
            statistics,
            score,
            regulariser,
            solutions=lambda x: solutions(x, sums),
        )

    def spell(self, tokens, mask) -> str:
        """The marked characters, up to EOS."""
        return "".join(CHARACTERS[t] for t, m in zip(tokens, mask) if m and 0 <= t < EOS)

    def _numbers(self, key: Array, n: int, side: bool) -> Array:
        """n sums of one side of the split, all as likely: those of the other side are drawn again.
        [n, terms]"""
        draw = lambda key: jax.random.randint(key, (n, self.terms), 0, self.largest + 1, jnp.int32)
        wrong = lambda numbers: held_out(numbers, self.validation) != side

        def again(state):
            key, numbers = jax.random.split(state[0])[0], state[1]
            return key, jnp.where(wrong(numbers)[:, None], draw(key), numbers)

        return jax.lax.while_loop(lambda state: wrong(state[1]).any(), again, (key, draw(key)))[1]

    def _refuse_empty(self) -> None:
        sample = jax.random.randint(
            jax.random.key(0), (LOOKED_AT, self.terms), 0, self.largest + 1, jnp.int32
        )
        share = float(held_out(sample, self.validation).mean())
        if share in (0.0, 1.0):
            side = "held-out" if share == 0 else "training"
            problem = f"leaves no {side} sum among {LOOKED_AT:,} drawn."
            raise UsageError(
                "validation",
                self.validation,
                problem,
                "Change the share, or make sums larger.",
            )


def refuse_flat(divergence: str) -> None:
    """Raise `UsageError` for a penalty that charges nothing more for going further.

    With total variation any way to share mass among right answers costs the same, and no step that
    was begun has a price: what training ends in is not what the penalty asks for. Penalties whose
    reward(s) is bounded but rises (neyman_chi2, log_d) may stay: their optimum leaves wrong answers
    out, and all right ones as likely among each other as they were."""
    d = divergences.parse(divergence)
    if float(d.reward(jnp.float32(2.0))) <= float(d.reward(jnp.float32(1.0))):
        problem = (
            "its reward(s) is flat: it does not tell right answers apart by how far "
            "they have gone from the start."
        )
        raise UsageError(
            "divergence",
            d.name,
            problem,
            "Use reverse_kl, forward_kl or js, or another that rises.",
        )


# --- which sums -----------------------------------------------------------------------------------


def held_out(numbers: Array, share: float) -> Array:
    """Whether each sum of numbers [B, N] is never trained on: a hash of them, in order of size, is
    below the share. [B]"""
    code = jnp.zeros(numbers.shape[0], jnp.uint32)
    for column in jnp.sort(numbers, axis=1).astype(jnp.uint32).T:
        code = mixed(code * jnp.uint32(1000) + column + jnp.uint32(1))
    return code < jnp.uint32(int(share * 2**32))


def mixed(x: Array) -> Array:
    """A bijection of 32-bit numbers in which every bit depends on every other (MurmurHash3's last
    step, Appleby 2011)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)


def _demonstrations(
    draw: Callable[[Array, int], Array], sums: Sums
) -> Callable[[Array, int], Sequences]:
    """Sums each written in one of its right ways: (key, n) -> strings [n, P + H]."""

    def demos(key: Array, n: int) -> Sequences:
        sum_key, way_key = jax.random.split(key)
        numbers = draw(sum_key, n)
        every = ways(numbers, sums)
        way = jax.random.randint(way_key, (n,), 0, every.shape[1])
        return tk.append(asked(numbers, sums), every[jnp.arange(n), way], EOS)

    return demos
