"""The weight of a penalty over training: constant, linear, or adapted to keep the divergence at a
target.

    adaptive: e = clip(D / target - 1, -0.2, 0.2);  beta <- beta (1 + e n / adapt_over)
    after n strings

Source: Ziegler et al. 2019 (arXiv 1909.08593), section 2.2, where it holds a KL; it holds any
divergence."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array

from fdiv.ranges import check_ranges, ranged
from fdiv.types import UsageError

Kind = Literal["constant", "linear", "adaptive"]
CLIP = 0.2  # largest relative error that is acted upon


class Weight(NamedTuple):
    """The state: the weight in force, and updates so far."""

    beta: Array
    step: Array


@dataclasses.dataclass(frozen=True)
class Control:
    """How the weight of the penalty changes."""

    kind: Kind = "constant"
    """constant, linear (from beta to `end`), or adaptive (to hold `target`)."""
    target: float = ranged(6.0, above=0)
    """adaptive: divergence from the reference to hold, nats per string."""
    adapt_over: float = ranged(10_000.0, above=0)
    """adaptive: strings over which an error of 20% changes the weight by 20%; fewer react
    faster."""
    end: float = ranged(0.0, least=0)
    """linear: the last weight."""
    updates: int = ranged(1000, least=1)
    """linear: updates until then."""

    def check(self) -> None:
        """Raise `UsageError` for values that cannot be, and for those that this kind does not
        read."""
        check_ranges(self)
        reads = {
            "constant": (),
            "linear": ("end", "updates"),
            "adaptive": ("target", "adapt_over"),
        }[self.kind]
        for field in dataclasses.fields(self):
            changed = getattr(self, field.name) != field.default
            if changed and field.name != "kind" and field.name not in reads:
                fix = "Drop it, or choose the kind that does."
                raise UsageError(
                    field.name,
                    getattr(self, field.name),
                    f"{self.kind} does not read it.",
                    fix,
                )

    def init(self, beta: float) -> Weight:
        """The weight at the start. A weight of 0 can be adapted no more than it can be right."""
        self.check()
        if not (math.isfinite(beta) and beta >= 0):
            raise UsageError("beta", beta, "is no weight of a penalty.", "Give 0 or more.")
        if beta == 0 and self.kind == "adaptive":
            raise UsageError(
                "beta",
                beta,
                "times anything stays 0: nothing to adapt.",
                "Give a number above 0 to start from.",
            )
        return Weight(jnp.asarray(beta, jnp.result_type(float)), jnp.zeros((), jnp.int32))

    def update(self, weight: Weight, beta: float, measured: Array, strings: int) -> Weight:
        """After an update on so many strings whose divergence was measured; `beta` is the first
        weight."""
        step = weight.step + 1
        if self.kind == "constant":
            return Weight(weight.beta, step)
        if self.kind == "linear":
            now = beta + (self.end - beta) * jnp.minimum(step / self.updates, 1.0)
            return Weight(now.astype(weight.beta.dtype), step)
        error = jnp.clip(measured / self.target - 1, -CLIP, CLIP)
        return Weight(weight.beta * (1 + error * strings / self.adapt_over), step)
