"""Small changes of the package, each with the test that notices it."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """A text that stands once in a file, what is planted in its place, and the test that fails."""

    name: str
    file: str
    old: str
    new: str
    test: str


RETURNS = "tests/fdiv/objectives/test_returns.py::"
OBJECTIVES = "tests/fdiv/objectives/test_objectives.py::"

FAULTS = [
    Fault(
        "PPO clips where it should not",
        "fdiv/surrogates.py",
        "jnp.minimum(",
        "jnp.maximum(",
        RETURNS + "test_the_ratio_is_clipped_on_one_side_only",
    ),
    Fault(
        "leave-one-out keeps the string itself",
        "fdiv/estimators.py",
        "    own = jnp.where(jnp.all((weight == 0) | (weight == 1)), own, 0.0)\n",
        "    own = jnp.zeros_like(own)\n",
        OBJECTIVES + "test_sampled_gradients_average_to_the_exact_one",
    ),
    Fault(
        "the occupancy level forgets how many prefixes are left",
        "fdiv/estimators.py",
        "(horizon - jnp.arange(horizon)[None]) / horizon",
        "jnp.ones((1, horizon))",
        OBJECTIVES + "test_policy_gradient_is_exact_for_every_divergence",
    ),
]
