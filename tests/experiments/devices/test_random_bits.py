"""Random bits on a CPU: JAX's, to the bit, by another program."""

from __future__ import annotations

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from experiments.devices import random_bits

ZEROS, ONES = (0, 0, 0, 0), (2**32 - 1,) * 4
PI = (0x13198A2E, 0x03707344, 0x243F6A88, 0x85A308D3)  # key, count


@pytest.mark.parametrize("draw", [random_bits.by_parts, random_bits.by_turns])
@pytest.mark.parametrize(
    ("words", "drawn"),
    [  # of Threefry-2x32-20, in the known-answer file of Salmon et al.'s Random123
        (ZEROS, (0x6B200159, 0x99BA4EFE)),
        (ONES, (0x1CB996FC, 0xBB002BE7)),
        (PI, (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers(draw, words, drawn):
    given = [jnp.full((2, 3), word, jnp.uint32) for word in words]
    for got, wanted in zip(draw(*given), drawn, strict=True):
        np.testing.assert_array_equal(got, np.full((2, 3), wanted, np.uint32))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7, 3), (255,), (5, 1001)])
def test_parts_and_turns_are_the_same_bits(shape):
    """Of sizes that parts divide, and of those that they do not."""
    given = [jax.random.bits(jax.random.key(i), shape) for i in range(4)]
    both = zip(random_bits.by_parts(*given), random_bits.by_turns(*given), strict=True)
    for parts, turns in both:
        assert parts.shape == shape
        np.testing.assert_array_equal(parts, turns)


def _loops(program: jax.stages.Lowered) -> list[int]:
    """Turns of each loop of a program, from what its counters are compared with."""
    lines = program.as_text().splitlines()
    inside = [i for i, line in enumerate(lines) if "stablehlo.while" in line]
    ends = [next(x for x in lines[i:] if "stablehlo.constant" in x) for i in inside]
    return [int(x.split("dense<")[1].split(">")[0]) for x in ends]


def test_programs_draw_by_parts_and_those_over_several_devices_by_turns():
    """A program whose arrays XLA parts over devices keeps their shapes, or each device would draw
    all of them. One that is written for a device's own part does not need to."""
    draw, key = lambda key: jax.random.bits(key, (64, 32)), jax.random.key(0)
    mesh, rows = AbstractMesh((2,), ("data",), (AxisType.Auto,)), PartitionSpec("data")
    each = jax.shard_map(lambda keys: draw(keys[0]), mesh=mesh, in_specs=rows, out_specs=rows)
    parted = jax.jit(draw, out_shardings=NamedSharding(mesh, rows))
    lowered = lambda f, x: _loops(f.trace(x).lower(lowering_platforms=("cpu",)))
    assert lowered(jax.jit(draw), key) == [random_bits.PARTS]
    assert lowered(parted, key) == [random_bits.TURNS]
    assert lowered(jax.jit(each), jax.random.split(key, 2)) == [random_bits.PARTS]


def test_a_program_for_any_number_of_rows_can_be_exported():
    rows = jax.ShapeDtypeStruct(jax.export.symbolic_shape("rows, 3"), jnp.float32)
    draw = lambda key, x: x + jax.random.normal(key, x.shape)
    key = jax.random.key(0)
    whole = jax.export.export(jax.jit(draw))(key, rows)
    np.testing.assert_array_equal(whole.call(key, jnp.ones((5, 3))), draw(key, jnp.ones((5, 3))))
