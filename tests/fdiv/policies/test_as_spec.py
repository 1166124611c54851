"""The transformer that runs train is a Llama, or a Mistral where it has a window: the same law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv import tokens as tk
from fdiv.lm import model
from fdiv.lm.spec import from_config, to_config
from fdiv.policies import as_spec, transformer
from fdiv.policies.transformer import Shape

VOCAB, LENGTH = 9, 12
SHAPES = {
    "llama": Shape(layers=2, width=16, heads=4, kv_heads=2),
    "mistral": Shape(layers=1, width=24, heads=2, kv_heads=1, window=3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_block_computes_the_law_of_the_trained_transformer(name):
    """Of every symbol at every place, the first among them, on weights that make it sharp."""
    shape = SHAPES[name]
    spec = as_spec.spec_of(shape, VOCAB, LENGTH)
    assert from_config(to_config(spec)) == spec and spec.family == name
    policy = transformer.policy(shape, VOCAB)
    params = jax.tree.map(lambda x: 2.5 * x, policy.init(jax.random.key(0)))
    strings = jax.random.randint(jax.random.key(1), (3, LENGTH), 0, VOCAB - 1)
    law = jax.jit(tk.distributions, static_argnums=0)
    expected = np.asarray(law(policy, params, strings))
    begun = jnp.pad(strings, [(0, 0), (1, 0)], constant_values=VOCAB - 1)
    got = law(model.policy(spec), as_spec.params_of(shape, params), begun)
    np.testing.assert_allclose(np.asarray(got)[:, 1:], expected, atol=1e-4)  # 5e-5 on a GPU
    assert expected.std() > 1  # or nothing is compared
    assert np.exp(got[:, 1:]).sum(-1) == pytest.approx(1, abs=1e-5)
