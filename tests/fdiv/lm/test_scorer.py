"""A frozen model's features as a discriminator or a value function: nothing is told apart at first,
and what is read out alone is learned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from language_models import random_tensors, random_tokens, spec_of

from fdiv import tokens as tk
from fdiv.lm import lora, model, weights
from fdiv.lm.scorer import READ_OUT, Base, scorer

ADAPTERS = lora.Lora(rank=2).adapters()


@functools.cache
def base():
    spec = spec_of("llama")
    params = jax.tree.map(jnp.asarray, weights.load(spec, weights.Arrays(random_tensors(spec))))
    return Base(model.policy(spec), params, spec)


def test_its_numbers_are_the_heads_words_by_what_is_read_out():
    """With M = D times the identity they are the model's own logits; zero before any update."""
    own, tokens = base(), jnp.asarray(random_tokens("llama"))[:2, :6]
    judge = scorer(own)
    start = judge.init(jax.random.key(0), ())
    assert jax.tree.map(jnp.shape, start) == {READ_OUT: (own.spec.width, own.spec.width)}
    assert not np.any(tk.distributions(judge, start, tokens))
    whole = {READ_OUT: own.spec.width * jnp.eye(own.spec.width)}
    law = jax.nn.log_softmax(tk.distributions(judge, whole, tokens))
    np.testing.assert_allclose(law, tk.distributions(own.policy, own.params, tokens), atol=1e-4)


def test_a_value_is_a_number_a_prefix_and_adapters_are_learned_with_it():
    own, tokens = base(), jnp.asarray(random_tokens("llama"))[:2, :6]
    judge = scorer(own, ADAPTERS, outputs=1)
    start = jax.eval_shape(lambda key: judge.init(key, ()), jax.random.key(0))
    assert start[READ_OUT].shape == (own.spec.width, 1) and lora.COLLECTION in start
    values = jax.eval_shape(lambda p: tk.distributions(judge, p, tokens), start)
    assert values.shape == (2, 6, 1)
    slope = jax.eval_shape(jax.grad(lambda p: tk.distributions(judge, p, tokens).sum()), start)
    assert jax.tree.structure(slope) == jax.tree.structure(start)
