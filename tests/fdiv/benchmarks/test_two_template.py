"""The two-template language's strings, whichever way they are drawn."""

import jax
import numpy as np
import pytest

from fdiv.benchmarks import TwoTemplate


@pytest.mark.parametrize("vocab", [2, 3, 4, 5, 6, 9])
def test_strings_are_those_of_jaxs_own_integers(vocab):
    """Where V - 1 is a power of two, and elsewhere."""
    task = TwoTemplate(vocab, 4, noise=0.5)

    def strings(key):
        latent_key, noise_key, token_key = jax.random.split(key, 3)
        template = jax.random.bernoulli(latent_key, 1 - task.weight, (200, 1)).astype(np.int32)
        leaves = jax.random.bernoulli(noise_key, task.noise, (200, 4))
        other = (template + jax.random.randint(token_key, (200, 4), 1, vocab)) % vocab
        return task.build().demos(key, 200).tokens, jax.numpy.where(leaves, other, template)

    drawn, wanted = map(np.asarray, jax.jit(strings)(jax.random.key(vocab)))
    np.testing.assert_array_equal(drawn, wanted)
    assert set(np.unique(drawn)) == set(range(vocab))
