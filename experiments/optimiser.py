"""How a gradient becomes a step: the optimiser, the schedule of its learning rate, weight decay and
the bound on a gradient's norm.

An optimiser of your own is one entry in `OPTIMISERS`, a schedule one in `SCHEDULES`. The flags are
those of `Optimiser`; discriminators, value functions and reward models take their optimiser from
the same flags, at a constant learning rate of their own and without a bound on the norm."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fdiv.ranges import check_ranges, ranged
from fdiv.types import Params, UsageError

Setting = float | tuple[float, float]


class Rule(NamedTuple):
    """An optimiser: `direction` takes the fields in `defaults` by name, but for weight_decay, which
    every optimiser that names it has in the same form (decoupled, Loshchilov & Hutter 2019)."""

    direction: Callable[..., optax.GradientTransformation]
    defaults: Mapping[str, Setting]  # the fields that it reads, at their values where none is given


def _adam(betas: tuple[float, float], eps: float) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=betas[0], b2=betas[1], eps=eps)


def _sgd(momentum: float) -> optax.GradientTransformation:
    return optax.trace(decay=momentum) if momentum else optax.identity()


def _lion(betas: tuple[float, float]) -> optax.GradientTransformation:
    return optax.scale_by_lion(b1=betas[0], b2=betas[1])


ADAM: dict[str, Setting] = {"betas": (0.9, 0.999), "eps": 1e-8}
OPTIMISERS: dict[str, Rule] = {
    "adam": Rule(_adam, ADAM),
    "adamw": Rule(_adam, {**ADAM, "weight_decay": 1e-4}),
    "sgd": Rule(_sgd, {"momentum": 0.0, "weight_decay": 0.0}),
    "lion": Rule(_lion, {"betas": (0.9, 0.99), "weight_decay": 1e-3}),
}


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """How a policy's step is made of its gradient."""

    learning_rate: float = ranged(0.05, above=0)
    """Learning rate of the policy."""
    optimiser: str = "adam"
    """adam, adamw, sgd or lion; discriminators, value functions and reward models use it too."""
    betas: tuple[float, float] | None = ranged(None, least=0, below=1)
    """adam, adamw, lion: decay of the two running means (.9 .999, lion .9 .99; a discriminator's
    first is .5 by default)."""
    eps: float | None = ranged(None, least=0)
    """adam, adamw: added to the root of the second mean (1e-8)."""
    momentum: float | None = ranged(None, least=0, below=1)
    """sgd: decay of the running sum of gradients (0)."""
    weight_decay: float | None = ranged(None, least=0)
    """adamw, sgd, lion: decoupled weight decay (1e-4, 0, 1e-3); norms and biases have none."""
    schedule: str = "cosine"
    """How the learning rate changes over a run: cosine or linear (to 0), constant, or wsd
    (constant, then linear to 0)."""
    warm_up: int = ranged(0, least=0)
    """Updates over which the learning rate first rises linearly."""
    decay_share: float = ranged(0.2, above=0, most=1)
    """wsd: the share of the updates, the last ones, in which the learning rate falls."""
    max_grad_norm: float = ranged(0.0, least=0)
    """Largest norm of the policy's gradient, longer ones are scaled down to it; 0 is no limit."""
    offload: bool = False
    """Keep the policy's optimiser state, such as Adam's means, in the host's memory and bring it to
    the device for each step: the same numbers, slower, and less memory between the steps."""

    def check(self, updates: int) -> None:
        """Raise `UsageError` for values that cannot be, and for those that the optimiser does not
        read."""
        check_ranges(self)
        _known("optimiser", self.optimiser, OPTIMISERS)
        _known("schedule", self.schedule, SCHEDULES)
        self._check_settings()
        if self.warm_up >= max(updates, 1):
            raise UsageError(
                "warm_up", self.warm_up, "is the whole run.", f"Give less than {updates}."
            )

    def _check_settings(self) -> None:
        reads = OPTIMISERS[self.optimiser].defaults
        for field in ("betas", "eps", "momentum", "weight_decay"):
            value = getattr(self, field)
            if value is None:
                continue
            if field not in reads:
                owners = [name for name, rule in OPTIMISERS.items() if field in rule.defaults]
                problem = f"{self.optimiser} does not read it."
                fix = f"Drop it, or use --optimiser {' or '.join(owners)}."
                raise UsageError(field, value, problem, fix)
        if self.offload and self.optimiser == "sgd" and not self.momentum:
            problem = "sgd without momentum keeps no state."
            raise UsageError("offload", True, problem, "Drop it, or give --momentum.")

    def settings(self, **defaults: Setting) -> dict[str, Any]:
        """The values in force: those given, then `defaults` (of what the optimiser reads), then the
        optimiser's own."""
        own = OPTIMISERS[self.optimiser].defaults
        given = {name: getattr(self, name) for name in own}
        return {
            name: defaults.get(name, value) if given[name] is None else given[name]
            for name, value in own.items()
        }

    def policy(
        self, rate: float | jax.Array, updates: int, steps: int
    ) -> optax.GradientTransformation:
        """For the policy: `steps` steps in all, the same number in each of `updates` updates.
        `rate` may be traced, so that runs side by side can have different ones. Its state is
        offloaded by who trains with it, `assemble.make_learner`."""
        shape = self.shape(steps, self.warm_up * (steps // max(updates, 1)))
        bound = [optax.clip_by_global_norm(self.max_grad_norm)] if self.max_grad_norm else []
        schedule = optax.scale_by_learning_rate(lambda step: rate * shape(step))
        return optax.chain(*bound, *self._direction(self.settings()), schedule)

    def scorer(
        self, rate: optax.ScalarOrSchedule, betas: tuple[float, float] = (0.9, 0.999)
    ) -> optax.GradientTransformation:
        """For a discriminator, a value function or a reward model, whose method sets the rate. No
        schedule but the method's own, and no bound on the norm. `betas` are those that the method
        asks of Adam; flags come before them, and an optimiser with other ones keeps its own."""
        like_adam = OPTIMISERS[self.optimiser].defaults.get("betas") == ADAM["betas"]
        settings = self.settings(betas=betas) if like_adam else self.settings()
        return optax.chain(*self._direction(settings), optax.scale_by_learning_rate(rate))

    def _direction(self, settings: dict[str, Any]) -> list[optax.GradientTransformation]:
        decay = settings.pop("weight_decay", 0.0)
        direction = OPTIMISERS[self.optimiser].direction(**settings)
        return [direction] + ([optax.add_decayed_weights(decay, decayed)] if decay else [])

    def shape(self, steps: int, warm_up: int) -> optax.Schedule:
        """The learning rate's factor at each step: a rise over `warm_up` steps, (t + 1) / warm_up,
        then the schedule."""
        after = SCHEDULES[self.schedule](steps - warm_up, self)
        if not warm_up:
            return after
        return optax.join_schedules([lambda step: (step + 1) / warm_up, after], [warm_up])


def _cosine(steps: int, optimiser: Optimiser) -> optax.Schedule:
    return optax.cosine_decay_schedule(1.0, steps)


def _linear(steps: int, optimiser: Optimiser) -> optax.Schedule:
    return optax.linear_schedule(1.0, 0.0, steps)


def _constant(steps: int, optimiser: Optimiser) -> optax.Schedule:
    return lambda step: 1.0


def _warm_stable_decay(steps: int, optimiser: Optimiser) -> optax.Schedule:
    """Hu et al. 2024 (MiniCPM, arXiv 2404.06395); the fall is linear (Hägele et al. 2024, arXiv
    2405.18392)."""
    fall = max(1, round(optimiser.decay_share * steps))
    return optax.linear_schedule(1.0, 0.0, fall, transition_begin=steps - fall)


SCHEDULES: dict[str, Callable[[int, Optimiser], optax.Schedule]] = {
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
    "wsd": _warm_stable_decay,
}


def decayed(params: Params) -> Params:
    """Which leaves weight decay pulls to 0: all but norms, biases and other vectors."""

    def each(path: tuple, leaf: jax.Array) -> bool:
        name = str(getattr(path[-1], "key", "")) if path else ""
        return jnp.ndim(leaf) > 1 and name not in ("scale", "bias")

    return jax.tree_util.tree_map_with_path(each, params)


def _known(field: str, name: str, table: Mapping[str, object]) -> None:
    if name not in table:
        raise UsageError(
            field, name, f"there is no {field} of that name.", f"Use one of {', '.join(table)}."
        )
