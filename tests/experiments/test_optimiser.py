"""Optimisers, schedules, weight decay and the bound on a gradient's norm, by hand arithmetic; and
that the defaults give what Adam with a cosine gives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.optimiser import OPTIMISERS, Optimiser, Rule, decayed
from fdiv.types import UsageError

PARAMS = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0, 4.0])}
GRADIENT = {"kernel": jnp.array([[0.5, -0.25]]), "bias": jnp.array([2.0, -1.0])}


def first_step(tx: optax.GradientTransformation) -> dict:
    """What the first step adds to `PARAMS`."""
    return tx.update(GRADIENT, tx.init(PARAMS), PARAMS)[0]


# Adam's first direction is g / (|g| + eps): the sign of the gradient where eps is small.
# With decay w the kernel (and the bias never) also moves by -rate w kernel.
FIRST = {
    "adam": (Optimiser(), [[-0.1, 0.1]], [-0.1, 0.1]),
    "adam, eps .5": (Optimiser(eps=0.5), [[-0.05, 0.1 / 3]], [-0.08, 0.1 / 1.5]),
    "adamw": (
        Optimiser(optimiser="adamw", weight_decay=0.5),
        [[-0.1 - 0.1 * 0.5 * 1, 0.1 + 0.1 * 0.5 * 2]],
        [-0.1, 0.1],
    ),
    "adamw, own decay": (
        Optimiser(optimiser="adamw"),
        [[-0.1 - 1e-5, 0.1 + 2e-5]],  # 1e-4 x .1 x the kernel
        [-0.1, 0.1],
    ),
    "sgd": (Optimiser(optimiser="sgd"), [[-0.05, 0.025]], [-0.2, 0.1]),
    # the sign of (1 - b1) g at the first step, and the decay of 1e-3 as published
    "lion": (Optimiser(optimiser="lion"), [[-0.1 - 1e-4, 0.1 + 2e-4]], [-0.1, 0.1]),
    # |g| = sqrt(.25 + .0625 + 4 + 1) = 2.304886: everything is divided by it
    "sgd, bounded": (
        Optimiser(optimiser="sgd", max_grad_norm=1.0),
        [[-0.05 / 2.304886, 0.025 / 2.304886]],
        [-0.2 / 2.304886, 0.1 / 2.304886],
    ),
}


@pytest.mark.parametrize("case", FIRST)
def test_the_first_step_is_what_one_writes_down(case):
    optimiser, kernel, bias = FIRST[case]
    step = first_step(optimiser.policy(0.1, updates=10, steps=10))
    np.testing.assert_allclose(step["kernel"], kernel, rtol=2e-5)
    np.testing.assert_allclose(step["bias"], bias, rtol=2e-5)


def test_momentum_adds_up():
    tx = Optimiser(optimiser="sgd", momentum=0.5).scorer(1.0)
    state = tx.init(PARAMS)
    moved = []
    for _ in range(3):
        step, state = tx.update(GRADIENT, state, PARAMS)
        moved.append(float(step["bias"][0]))
    assert moved == [-2.0, -3.0, -3.5]  # 2, 2 + .5 2, 2 + .5 3


SHAPES = {  # four steps after the warm-up's, and what the last of them would be followed by
    "cosine": ([1, 0.5 + 0.5 * 0.5**0.5, 0.5, 0.5 - 0.5 * 0.5**0.5, 0], {}),
    "linear": ([1, 0.75, 0.5, 0.25, 0], {}),
    "constant": ([1, 1, 1, 1, 1], {}),
    "wsd": ([1, 1, 1, 0.5, 0], {"decay_share": 0.5}),  # the last two of four fall
}


@pytest.mark.parametrize("warm_up", [0, 2])
@pytest.mark.parametrize("schedule", SHAPES)
def test_schedules(schedule, warm_up):
    values, fields = SHAPES[schedule]
    shape = Optimiser(schedule=schedule, **fields).shape(4 + warm_up, warm_up)
    rise = [0.5, 1.0][:warm_up]
    got = [float(shape(jnp.int32(t))) for t in range(5 + warm_up)]
    np.testing.assert_allclose(got, rise + values, atol=1e-6)


def test_a_warm_up_is_in_updates():
    """Of 3 steps in each of 4 updates, 2 updates of warm-up are 6 steps: the first is 1/6."""
    tx = Optimiser(optimiser="sgd", warm_up=2, schedule="constant").policy(0.6, 4, 12)
    np.testing.assert_allclose(first_step(tx)["bias"], [-0.2, 0.1], rtol=1e-6)


def test_norms_biases_and_vectors_do_not_decay():
    tree = {
        "mlp": {"up": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones((3, 2))}},
        "norm": {"scale": jnp.ones(3)},
        "stacked": {"scale": jnp.ones((4, 3))},
        "row": jnp.ones(3),
        "table": jnp.ones((2, 3)),
    }
    assert decayed(tree) == {
        "mlp": {"up": {"kernel": True, "bias": False}},
        "norm": {"scale": False},
        "stacked": {"scale": False},
        "row": False,
        "table": True,
    }
    assert decayed(jnp.ones((2, 3))) is True


BAD = {
    "unknown": (Optimiser(optimiser="adma"), "optimiser = 'adma'", "adam, adamw, sgd, lion"),
    "unknown schedule": (Optimiser(schedule="cos"), "schedule = 'cos'", "cosine, linear"),
    "not read": (Optimiser(weight_decay=0.1), "weight_decay = 0.1", "adamw or sgd or lion"),
    "no momentum": (Optimiser(momentum=0.9), "momentum = 0.9", "--optimiser sgd"),
    "mean of one": (Optimiser(betas=(0.9, 1.0)), "betas = 1.0", "below 1"),
    "all warm-up": (Optimiser(warm_up=10), "warm_up = 10", "less than 10"),
    "no share": (Optimiser(schedule="wsd", decay_share=0.0), "decay_share = 0.0", "at most 1"),
    "norm": (Optimiser(max_grad_norm=-1.0), "max_grad_norm = -1.0", "at least 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused(case):
    optimiser, *says = BAD[case]
    with pytest.raises(UsageError) as refused:
        optimiser.check(updates=10)
    assert all(text in str(refused.value) for text in says), str(refused.value)


def test_the_defaults_are_adam_with_a_cosine():
    """Bit for bit, states included: saves of earlier runs fit."""
    shape = optax.cosine_decay_schedule(1.0, 5)
    known = optax.chain(
        optax.scale_by_adam(), optax.scale_by_learning_rate(lambda step: 0.05 * shape(step))
    )
    for mine, other in (
        (Optimiser().policy(0.05, 5, 5), known),
        (Optimiser().scorer(0.02, betas=(0.5, 0.999)), optax.adam(0.02, b1=0.5)),
    ):
        ends = []
        for tx in (mine, other):
            state = tx.init(PARAMS)
            for i in range(5):
                gradient = jax.tree.map(lambda x, i=i: x * (i - 2.3), GRADIENT)
                step, state = tx.update(gradient, state, PARAMS)
            ends.append((step, state))
        assert jax.tree.structure(ends[0]) == jax.tree.structure(ends[1])
        jax.tree.map(np.testing.assert_array_equal, *ends)


def test_an_optimiser_is_one_entry(monkeypatch):
    monkeypatch.setitem(OPTIMISERS, "sign", Rule(lambda eps: optax.scale_by_sign(), {"eps": 0.0}))
    optimiser = Optimiser(optimiser="sign")
    optimiser.check(10)
    np.testing.assert_allclose(
        first_step(optimiser.policy(0.1, 10, 10))["bias"], [-0.1, 0.1], rtol=1e-6
    )
