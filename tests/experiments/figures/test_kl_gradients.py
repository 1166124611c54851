"""Gradients of KL penalties: the table of placements, and the penalties where strings end early."""

from __future__ import annotations

import dataclasses
import itertools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import close, random_models

from experiments.figures import (
    kl_gradients,
)
from experiments.gradients.world import build
from fdiv import divergences, exact
from fdiv.penalties import Penalty, kl_penalty
from fdiv.rollout import sampler
from fdiv.types import UsageError


@pytest.mark.parametrize(
    "flags", [kl_gradients.Flags(2, 3, 0.5, 3), kl_gradients.Flags(3, 1, 2.0, 1)]
)
@pytest.mark.few(1)
def test_placements_hold_their_table(made, flags):
    rows = made(kl_gradients, **dataclasses.asdict(flags)).values["rows"]
    fixed = kl_gradients.EXPECTED["backward_fixed"]
    biased = [name for name in fixed if rows[name]["relative_error"] > 1e-3]
    # With one token there are no later prefixes to lose.
    assert len(biased) == (0 if flags.horizon == 1 else 3)
    assert math.isnan(rows["k1_loss"]["cosine"])
    assert rows["k3_loss_string"]["cosine_forward"] == pytest.approx(1, abs=1e-10)


def test_recursion_is_the_slope_of_a_sum_over_strings():
    """Central differences of sum_x q log(q / ref), strings written out."""
    logits, away = np.random.default_rng(0).standard_normal((2, 1 + 2 + 4, 2))
    normal = lambda x: x - np.log(np.exp(x).sum(1, keepdims=True))

    def kl(params):
        total = 0.0
        for a, b, c in itertools.product(range(2), repeat=3):
            path = [(0, a), (1 + a, b), (3 + 2 * a + b, c)]
            log = lambda table, path=path: sum(normal(table)[state, token] for state, token in path)
            total += math.exp(log(params)) * (log(params) - log(logits))
        return total

    params = logits + away
    slope = np.zeros_like(params)
    for index in np.ndindex(*params.shape):
        step = np.zeros_like(params)
        step[index] = 1e-5
        slope[index] = (kl(params + step) - kl(params - step)) / 2e-5
    close(kl_gradients.recursion(logits, params), slope, 1e-8)


@pytest.mark.usefixtures("double")
def test_penalties_where_strings_end_early():
    """The same laws where EOS ends strings, so that lengths differ."""
    space, expert, policy, params = random_models("ending")
    components = build(space, policy, params, expert).exact
    same = {
        "backward": [
            ("k1",),
            ("k1", "reward", "string"),
            ("k2", "loss", "string"),
            ("k3", "ratio", "string"),
            ("k1", "ratio", "string"),
        ],
        "forward": [("k3", "loss", "string")],
        "zero": [("k1", "loss")],
        "fixed": [("k1", "reward", "token", 0.0), ("k2", "loss"), ("k3", "ratio"), ("k1", "ratio")],
    }

    @jax.jit
    def gradients(x):
        def value(y, d):
            p, q = exact.law(space, *expert), exact.law(space, policy, y)
            return exact.divergence(d, space, p, q)

        def placed(how):
            penalty = kl_penalty(components, expert, *how)
            return exact.expected_gradient(penalty, x, space.sequences)

        truth = {
            "backward": jax.grad(value)(x, divergences.reverse_kl()),
            "forward": jax.grad(value)(x, divergences.forward_kl()),
        }
        truth |= {"zero": jnp.zeros_like(x), "fixed": placed(("k1", "reward", "token", 0.0))}
        return truth, {name: [placed(how) for how in hows] for name, hows in same.items()}

    truth, placements = gradients(jnp.asarray(params))
    for name, several in placements.items():
        for one in several:
            close(one, truth[name])
    assert float(jnp.linalg.norm(truth["fixed"] - truth["backward"])) > 1e-2


def test_a_sampler_gives_the_same_gradient_on_average():
    space, expert, policy, params = random_models("fixed")
    exactly = build(space, policy, params, expert).exact
    sampled = exactly._replace(rollout=sampler(space.horizon, space.eos))
    params = jnp.asarray(params, jnp.float32)
    some = jax.tree.map(lambda x: jnp.asarray(x[:16]), space.sequences)
    hows = (("k1",), ("k2", "loss", "string"), ("k3", "ratio"))

    def gradients(components, key):
        penalties = [kl_penalty(components, expert, *how) for how in hows]
        return jnp.stack(
            [exact.expected_gradient(penalty, params, some, key=key) for penalty in penalties]
        )

    keys = jax.random.split(jax.random.key(0), 1000)
    draws = jax.jit(jax.vmap(lambda key: gradients(sampled, key)))(keys)
    wanted = jax.jit(lambda: gradients(exactly, keys[0]))()
    error = draws.std(0) / math.sqrt(len(keys))
    assert (jnp.abs(draws.mean(0) - wanted) <= 5 * error + 1e-6).all()
    assert float(error.max()) < 0.1 * float(jnp.abs(wanted).max())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"placement": "loss"}, "exactly zero"),
        ({"discount": 0.5, "unit": "string"}, "nothing to discount"),
        ({"estimator": "k4"}, "is not a choice"),
        ({"discount": 2.0}, "from 0 to 1"),
    ],
)
def test_vain_penalties_are_refused(fields, said):
    with pytest.raises(UsageError, match=said):
        Penalty(**fields).build(SimpleNamespace(), SimpleNamespace())
