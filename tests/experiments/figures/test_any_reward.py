"""What imitation methods pay for one discriminator's logit."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.figures import any_reward as figure
from fdiv import exact
from fdiv.policies import tabular
from fdiv.types import Model


@pytest.mark.wide
def test_raw_rewards_change_lengths_and_centred_ones_arrive(made, monkeypatch):
    monkeypatch.setattr(figure, "HORIZON", 4)
    rows = made(figure, updates=300).values["rewards"]
    expert = rows["AIRL"]["expert's length"]
    assert rows["GAIL"]["length, raw"] > expert + 0.3
    assert rows["log D"]["length, raw"] < expert - 0.3
    for name, row in rows.items():
        assert (row["tv, centred"] < 0.02) is (name != "FAIRL")
        assert row["of an f"] is (name != "FAIRL")


@pytest.mark.wide
def test_the_gradient_is_that_of_the_sum_of_rewards(double):
    """At the expert every log-ratio is 0, so a raw reward of c a token has the gradient of c times
    the mean length."""
    space = exact.enumerate_strings(2, 3, 1)
    policy = tabular.policy(tabular.full(2, 3), 2)
    table = np.random.default_rng(0).standard_normal((7, 2))
    components = figure.build(space, policy, table, Model(policy, table)).exact
    objective = figure.returned(components, lambda s: 0.7 + jnp.sin(s))
    found = exact.expected_gradient(objective, jnp.asarray(table), space.sequences)
    lengths = np.asarray(space.sequences.mask).sum(1)

    def mean_length(z: np.ndarray) -> float:
        return float(np.exp(np.asarray(exact.law(space, policy, z).string)) @ lengths)

    move = np.zeros_like(table)
    move[0, 1] = 1e-5
    wanted = 0.7 * (mean_length(table + move) - mean_length(table - move)) / 2e-5
    assert float(found[0, 1]) == pytest.approx(-wanted, rel=1e-7)


BAD = [({"away": 0.0}, "away"), ({"updates": 2}, "updates")]


@pytest.mark.parametrize(("flags", "field"), BAD, ids=[field for _, field in BAD])
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(figure, flags, field)
