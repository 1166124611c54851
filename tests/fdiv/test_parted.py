"""Rows over devices, each with a program of its own: what one device computes of all of them."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fdiv import groups, objectives, rollout
from fdiv.learner import learner
from fdiv.parted import Parting, each, parted, rows_are_parted, summed
from fdiv.policies import transformer
from fdiv.rollout import sampler
from fdiv.types import (
    PAD,
    Alike,
    Components,
    Model,
    Pairs,
    Regulariser,
    Sequences,
    TokenMDP,
)

ROWS, WIDTH, HORIZON, VOCAB, EOS = 24, 3, 12, 7, 2


class Counted:
    """Rows in so many blocks, one after another, as devices would have them."""

    def __init__(self, blocks: int):
        self.blocks, self.calls = blocks, 0

    def __call__(self, function, shared, rows, *, total):
        self.calls += 1
        apart = jax.tree.map(lambda x: x.reshape(self.blocks, -1, *x.shape[1:]), rows)
        outputs = jax.lax.map(lambda own: function(shared, own), apart)
        join = (lambda x: x.sum(0)) if total else (lambda x: x.reshape(-1, *x.shape[2:]))
        return jax.tree.map(join, outputs)


@pytest.fixture
def double():
    """Numbers in which rounding is no excuse."""
    with jax.enable_x64(True):
        yield


@functools.cache
def models():
    """A policy, and parameters from a key."""
    shape = transformer.Shape(layers=1, width=16, heads=2, kv_heads=1)
    policy = transformer.policy(shape, VOCAB)
    scaled = lambda key: jax.tree.map(lambda x: 2.5 * x.astype(float), policy.init(key))
    return policy, jax.jit(scaled)


def model(seed: int) -> Model:
    policy, init = models()
    return Model(policy, init(jax.random.key(seed)))


def prompts(count: int) -> Sequences:
    tokens = np.random.default_rng(2).integers(0, VOCAB, (count, WIDTH))
    tokens = jnp.asarray(np.where(tokens == EOS, 0, tokens))
    return Sequences(tokens, jnp.zeros(tokens.shape, bool), jnp.ones(count))


def demos(count: int, seed: int = 3) -> Sequences:
    """Strings that end at their third action, of different weights."""
    actions = np.random.default_rng(seed).integers(0, VOCAB, (count, HORIZON))
    column = np.arange(HORIZON)
    actions = np.where(actions == EOS, 1, actions)
    actions = np.where(column == 2, EOS, np.where(column > 2, PAD, actions))
    tokens = jnp.concatenate([prompts(count).tokens, jnp.asarray(actions)], axis=1)
    mask = np.broadcast_to(np.abs(np.arange(WIDTH + HORIZON) - WIDTH - 1) < 2, tokens.shape)
    return Sequences(tokens, jnp.asarray(mask), jnp.arange(1.0, count + 1))


def parts(policy) -> Components:
    mdp = TokenMDP(
        VOCAB,
        HORIZON,
        EOS,
        lambda key, n: prompts(n),
        lambda key, n: demos(n),
        lambda key, n: demos(n),
        model(5),
        score=lambda x: jnp.where(x.mask, x.tokens % 3, 0).sum(1) * 0.1,
        regulariser=Regulariser("reverse_kl", 0.1),
    )
    return Components(policy, mdp, sampler(HORIZON, EOS))


def same(a, b, within=1e-9):
    """Of the largest number there is."""
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(a))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=within * largest), a, b)


UPDATES = {  # method, how a batch is taken, blocks, how often something is computed apart
    "sft": ("sft", {}, 2, 1),
    "sft, in parts": ("sft", {"accumulate": 4}, 3, 1),
    "distill": ("distill:js", {}, 2, 1),
    "distill, own prefixes": ("distill:js", {"policy_prefixes": 1.0}, 4, 2),
    "grpo": ("grpo_std:k3-loss", {"group": 4}, 2, 3),
    "grpo, in parts": ("grpo_std:k3-loss", {"group": 4, "accumulate": 3}, 2, 3),
    "grpo, blocks cut groups": ("grpo", {"group": 8}, 2, 3),
    "rloo, minibatches": ("rloo", {"group": 4, "minibatches": 2}, 3, 3),
    "js, a gradient of its value": ("js", {}, 2, 3),
    "dpo": ("dpo", {}, 2, 1),
    "a batch that does not divide": ("sft", {}, 5, 0),
    "parts that do not divide": ("sft", {"accumulate": 8}, 2, 0),
}


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.few(1)
def test_an_update_is_that_of_all_rows(name, double):
    method, how, blocks, wanted = UPDATES[name]
    own = {key: how[key] for key in how if key in ("group", "policy_prefixes")}
    taken = {key: how[key] for key in how if key not in own}
    policy, params = model(0)
    batch = Pairs(demos(ROWS), demos(ROWS, 4)) if method == "dpo" else demos(ROWS)

    def updated(apart=None):
        built = objectives.resolve(method, **own).build(parts(policy))
        made = learner(built, optax.sgd(1e-2), **taken)
        first = made.init(jax.random.key(1), params)
        moved = first._replace(params=jax.tree.map(lambda x: 1.1 * x, params))
        with parted(Parting(blocks, None, apart) if apart else Parting()):
            return jax.jit(lambda state, rows: made.update(state, rows))(moved, batch)

    counted = Counted(blocks)
    (alone, said), (together, heard) = updated(), updated(counted)
    assert counted.calls == wanted
    same(said, heard)
    steps = [jax.tree.map(lambda a, b: a - 1.1 * b, x.params, params) for x in (alone, together)]
    same(*steps)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(steps[0])) > 1e-6


def test_strings_are_those_of_one_device_and_each_device_leaves_its_own_behind(monkeypatch, double):
    monkeypatch.setattr(rollout, "STRETCH", 4)
    policy, params = model(0)
    asked = jax.tree.map(lambda x: jnp.repeat(x, 4, axis=0), prompts(ROWS // 4))
    writer = groups.writer(policy, Alike(4, WIDTH))
    drawn = lambda params: sampler(HORIZON, EOS)(jax.random.key(1), writer, params, asked)
    sizes = []
    stages = rollout.stages
    monkeypatch.setattr(rollout, "stages", lambda *x: sizes.append(stages(*x)) or sizes[-1])
    alone = jax.jit(lambda params: drawn(params))(params)
    with parted(Parting(3, None, Counted(3))):
        together = jax.jit(lambda params: drawn(params))(params)
    np.testing.assert_array_equal(alone[0].tokens, together[0].tokens)
    same(alone[1], together[1])
    assert sizes == [(24, 12), (8, 4)]
    assert len({int(n) for n in alone[0].mask.sum(1)}) > 3


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.wide
def test_noise_is_that_of_one_device(accumulate, double):
    """Rows of a part share a key, so that no device takes a gradient of its own rows."""
    policy, params = model(0)
    noise = lambda params, key: jax.tree.map(lambda x: x * (1 + jax.random.uniform(key)), params)
    batch = demos(ROWS)
    built = objectives.resolve("sft").build(parts(policy))
    made = learner(built, optax.sgd(1e-2), accumulate=accumulate, in_training=noise)
    state, counted = made.init(jax.random.key(1), params), Counted(2)
    after = lambda state: made.update(state, batch)[0].params
    alone = jax.jit(after)(state)
    with parted(Parting(2, None, counted)):
        same(alone, jax.jit(lambda state: after(state))(state))
    assert counted.calls == 0


def test_what_is_computed_apart_has_all_its_rows_at_hand():
    seen = []

    def function(shared, rows):
        seen.append((rows_are_parted(), rows.shape[0]))
        return shared * rows

    rows = jnp.arange(6.0)
    with parted(Parting(3, None, Counted(3))):
        np.testing.assert_array_equal(each(function, 2.0, rows), 2 * rows)
        assert float(summed(lambda a, x: function(a, x).sum(), 2.0, rows)) == 30.0
        assert rows_are_parted()
    with parted(Parting(3)):  # where parameters are parted too
        each(function, 2.0, rows)
    assert seen == [(False, 2), (False, 2), (True, 6)]  # traced once for all blocks
    assert not rows_are_parted()


DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from experiments.devices import Devices, MeshLayout, cores, cores_as_devices
cores.usable = lambda: 4
cores_as_devices(Devices(data=-1, fsdp=2))
assert len(jax.devices()) == 4
import test_parted as t
import optax
from fdiv import objectives
from fdiv.learner import learner

policy, params = t.model(0)
built = objectives.resolve("grpo_std:k3-loss", group=4).build(t.parts(policy))
made = learner(built, optax.sgd(1e-2))
first = made.init(jax.random.key(1), params)
batch = t.demos(t.ROWS)
alone = jax.jit(made.update)(first, batch)
layout = MeshLayout(2, jax.devices(), {"data": 2, "fsdp": 1, "tensor": 1})
twice = lambda tree: layout.put(jax.tree.map(lambda x: jnp.stack([x, x]), tree))
update = lambda state, rows: made.update(state, layout.rows(rows))
program, _ = layout.compile(update, twice(first), twice(batch))
together = program(twice(first), twice(batch))
found = jax.tree.leaves((together[0].params, together[1]))
for a, b in zip(jax.tree.leaves((alone[0].params, alone[1])), found, strict=True):
    for run in np.asarray(b):
        np.testing.assert_allclose(run, a, rtol=1e-4, atol=1e-5)
draw = t.sampler(t.HORIZON, t.EOS)
rollout = lambda params, rows: draw(jax.random.key(0), policy, params, rows)
text = layout.compile(rollout, twice(params), twice(t.prompts(t.ROWS)))[0].as_text()
within = text.split("ENTRY")[0]  # loops; strings are gathered behind them
told = [x for x in ("all-reduce", "all-gather", "permute", "all-to-all") if x + "(" in within]
assert not told, f"devices wait for each other while strings are drawn: {told}"
one = MeshLayout(1, jax.devices(), {"data": 4, "fsdp": 1, "tensor": 1})
alone = lambda tree: one.put(jax.tree.map(lambda x: x[None], tree))
program, _ = one.compile(rollout, alone(params), alone(t.prompts(t.ROWS)))
strings = program(alone(params), alone(t.prompts(t.ROWS)))[0]
wanted = jax.jit(rollout)(params, t.prompts(t.ROWS))[0]
assert (np.asarray(strings.tokens)[0] == wanted.tokens).all()
print("same")
"""


@pytest.mark.wide
def test_two_devices_with_two_seeds_each_give_what_one_gives():
    """On a mesh of its own process, which alone may have several devices; and no device tells
    another anything while strings are drawn."""
    own = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", DEVICES],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "same", done.stderr[-3000:]
