"""Programs of runs: large arrays that one closes over are its arguments, one copy for all programs;
and one run is compiled as what it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.devices import MeshLayout, SeedLayout, programs
from experiments.devices.offload import OnHost
from fdiv import few_rows
from fdiv.policies import transformer
from fdiv.rollout import sampler
from fdiv.types import Sequences

SHAPE = {"data": 1, "fsdp": 1, "tensor": 1}
LAYOUTS = {
    "seeds": lambda count: SeedLayout(count, jax.devices()[:1]),
    "mesh": lambda count: MeshLayout(count, jax.devices(), SHAPE),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_closed_over_becomes_an_argument(name, monkeypatch):
    layout = LAYOUTS[name](3)
    base = layout.share({"query": {"kernel": np.arange(12, dtype=np.float32).reshape(4, 3)}})
    kernel = base["query"]["kernel"]

    def step(x, times):
        def one(_, x):
            return x - times * jax.grad(lambda x: jnp.sum(jnp.tanh(x @ kernel) ** 2))(x)

        return jax.lax.fori_loop(0, 2, one, x)

    given = layout.put(np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4))
    written_in, _ = layout.compile(step, given, jnp.float32(0.1), shared=(1,))
    assert written_in.closed_over == ()  # a small one is part of the program
    monkeypatch.setattr(programs, "LARGE", kernel.nbytes)
    program, _ = layout.compile(step, given, jnp.float32(0.1), shared=(1,), donate=(0,))
    assert len(program.closed_over) == 1
    np.testing.assert_array_equal(program.closed_over[0], kernel)
    arguments = program.memory_analysis().argument_size_in_bytes
    assert arguments >= written_in.memory_analysis().argument_size_in_bytes + kernel.nbytes
    wanted = layout.host(written_in(given, jnp.float32(0.1)))
    np.testing.assert_array_equal(layout.host(program(given, jnp.float32(0.1))), wanted)
    assert not kernel.is_deleted()  # though the runs' own buffers were given away


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_runs_seldom_is_compiled_by_options_of_its_own(name, monkeypatch):
    layout = LAYOUTS[name](2)
    given = layout.put(np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4))
    function = lambda x: jnp.tanh(jnp.exp(x)).sum()
    often, seldom = (layout.compile(function, given, seldom=said)[0] for said in (False, True))
    np.testing.assert_allclose(often(given), seldom(given), rtol=1e-6)
    monkeypatch.setattr(programs, "SELDOM", {"no_option_of_the_compiler": 1})
    layout.compile(function, given)
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_option_of_the_compiler"):
        layout.compile(function, given, seldom=True)


def test_only_a_processor_leaves_out_optimisations():
    assert programs.options(jax.devices(), seldom=True) == programs.SELDOM
    assert programs.options(jax.devices(), seldom=False) == {}
    accelerator = types.SimpleNamespace(platform="gpu")
    assert programs.options([accelerator], seldom=True) == {}


def of_a_run(step, key, tree, held):
    """What a run computes of: a step, a key, a pytree with nothing in a place, and a moment."""
    noise = jax.random.normal(key, tree["x"].shape)
    return {"x": tree["x"] * step + noise, "none": tree["none"]}, step + 1, held


@pytest.mark.parametrize("held", [lambda x: x, OnHost])
def test_one_run_computes_what_a_mapped_one_does(held):
    axes = (None, 0, 0, 0)
    given = jax.random.split(jax.random.key(0), 1), {"x": jnp.ones((1, 3)), "none": None}
    given = jnp.float32(2), *given, held(jnp.arange(4.0)[None])
    mapped = jax.vmap(of_a_run, in_axes=axes)(*given)
    alone = programs.of_runs(of_a_run, axes, 1)(*given)
    assert jax.tree.structure(alone) == jax.tree.structure(mapped)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(mapped), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("width", [64, 8])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", LAYOUTS)
def test_one_run_copies_no_cache_at_each_token(name, groups, width, monkeypatch):
    """A dimension of size 1 would, of mapped runs, of groups of keys or of their tiles: two copies
    of each layer's keys and values."""
    monkeypatch.setattr(few_rows, "WIDTH", width)
    batch, horizon = 4, 24
    policy = transformer.policy(transformer.Shape(layers=2, width=32, heads=4, kv_heads=groups), 7)
    draw = sampler(horizon, None)
    rollout = lambda key, params, rows: draw(key, policy, params, rows)[0]
    prompts = Sequences(jnp.ones((batch, 3), int), jnp.zeros((batch, 3), bool), jnp.ones(batch))
    given = jax.random.key(0), policy.init(jax.random.key(1)), prompts
    layout = LAYOUTS[name](1)
    placed = tuple(layout.put(jax.tree.map(lambda x: x[None], x)) for x in given)
    program, _ = layout.compile(rollout, *placed)
    # keys in several tiles are copied once, before the loop over tokens
    text = program.as_text() if width == 64 else in_loops(program.as_text())
    assert copies(text, horizon) == 0
    strings = layout.host(program(*placed))
    np.testing.assert_array_equal(strings.tokens[0], jax.jit(rollout)(*given).tokens)


def in_loops(text):
    """The loops of a compiled program and what they call."""
    computations = dict(re.findall(r"^%?([\w.\-]+) \(.*\{\n((?:.*\n)*?)\}", text, re.MULTILINE))
    loops = [computations[name] for name in re.findall(r"body=%?([\w.\-]+)", text)]
    assert loops
    names = [
        name for loop in loops for name in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", loop)
    ]
    return "".join([*loops, *(computations[name] for name in names)])


def copies(text, horizon):
    """Copies in a compiled program of arrays of at least three dimensions that hold columns of a
    whole string: one dimension of as many, or as many numbers as keys of 8 in 4 strings."""
    shapes = re.findall(r"= f32\[([\d,]+)\]\S* copy\(", text)
    of = [[int(n) for n in shape.split(",") if n != "1"] for shape in shapes]
    large = lambda shape: max(shape) >= horizon or np.prod(shape) >= 4 * 8 * horizon
    return sum(len(shape) >= 3 and large(shape) for shape in of)


SLOW = """
import jax, jax.numpy as jnp
from experiments.devices import MeshLayout
layout = MeshLayout(1, jax.devices(), {"data": 2, "fsdp": 1, "tensor": 1})
x = layout.put(jnp.ones((1, 256, 256)))
slow = lambda x: jax.lax.fori_loop(0, 200, lambda i, y: y @ x / 256, x)
program, _ = layout.compile(slow, x)
assert program(x).is_ready(), "the next may run beside it"
print("waited for")
"""


SUMS = """
import jax
import numpy as np
from experiments.devices import MeshLayout
from fdiv.parted import each, summed

layout = MeshLayout(1, jax.devices(), {"data": 2, "fsdp": 1, "tensor": 1})
x = layout.put(np.arange(8.0, dtype=np.float32)[None])

def both(x):
    rows = layout.rows(x)
    total = summed(lambda by, own: by * own.sum(), 2.0, rows)
    return total, each(lambda by, own: by * own, 2.0, rows)

total, doubled = layout.host(layout.compile(both, x)[0](x))
np.testing.assert_array_equal(total, [2 * 28])
np.testing.assert_array_equal(doubled, 2 * np.arange(8)[None])
print("added up")
"""


def said_on_two_devices(text: str) -> str:
    """What a process of its own says, which alone may have two devices."""
    two = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": two},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        check=False,
    )
    return done.stdout.strip() or done.stderr[-3000:]


@pytest.mark.wide
def test_programs_of_a_processors_devices_are_waited_for():
    assert said_on_two_devices(SLOW) == "waited for"


@pytest.mark.wide
def test_what_devices_compute_of_their_rows_is_added_up():
    """Not its mean, which an optimiser that divides by a gradient's length would not notice."""
    assert said_on_two_devices(SUMS) == "added up"
