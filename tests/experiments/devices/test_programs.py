"""Large arrays that a program closes over are its arguments, one copy for all programs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.devices import MeshLayout, SeedLayout, programs

SHAPE = {"data": 1, "fsdp": 1, "tensor": 1}
LAYOUTS = {
    "seeds": lambda: SeedLayout(3, jax.devices()[:1]),
    "mesh": lambda: MeshLayout(3, jax.devices(), SHAPE),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_closed_over_becomes_an_argument(name, monkeypatch):
    layout = LAYOUTS[name]()
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
