"""A model behind tokens that it alone reads is the model on the strings with these tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from language_models import random_tensors, random_tokens, spec_of

from fdiv import tokens as tk
from fdiv.lm import model, weights
from fdiv.lm.context import behind
from fdiv.lm.hidden import Hidden, hidden_message
from fdiv.rollout import sampler
from fdiv.types import PAD, Sequences

PLACES = {"nothing is replaced": Hidden((5, 9, 2), 0), "two tokens are": Hidden((5, 9, 2, 7), 2)}


@functools.cache
def setting():
    spec = spec_of("llama")
    params = jax.tree.map(jnp.asarray, weights.load(spec, weights.Arrays(random_tensors(spec))))
    return spec, model.policy(spec), params


@pytest.mark.parametrize("hidden", PLACES.values(), ids=PLACES)
def test_it_is_the_model_on_the_whole_strings(hidden):
    """Two strings, the second two columns in; prompts of five tokens, then actions."""
    _, own, params = setting()
    tokens = np.array(random_tokens("llama"))[:2, :12]
    tokens[1] = [PAD, PAD, *tokens[1, :10]]
    mask = np.arange(12)[None] >= np.array([[5], [7]])
    told = [[*hidden.tokens, *row[row != PAD][hidden.replaced :]] for row in tokens]
    told[1] += [PAD] * (len(told[0]) - len(told[1]))
    laws = jax.jit(lambda p, x: tk.distributions(behind(own, hidden), p, x))(params, tokens)
    whole = jax.jit(lambda p, x: tk.distributions(own, p, x))(params, np.array(told))
    for i, row in enumerate(tokens):
        first, last = np.flatnonzero(mask[i])[0], 11
        shift = hidden.longer - int(np.argmax(row != PAD))
        np.testing.assert_allclose(
            laws[i, first : last + 1], whole[i, first + shift : last + 1 + shift], atol=2e-5
        )


@pytest.mark.wide
@pytest.mark.parametrize("hidden", PLACES.values(), ids=PLACES)
def test_what_it_writes_has_the_log_probs_of_whole_strings(hidden):
    spec, own, params = setting()
    tokens = np.array(random_tokens("llama"))[:2, :5]
    tokens[1, 4] = PAD  # a prompt of four tokens, padded behind
    prompts = Sequences(jnp.asarray(tokens), jnp.zeros(tokens.shape, bool), jnp.ones(2))

    @jax.jit
    def both(params):
        policy = behind(own, hidden)
        strings, drawn = sampler(6, None)(jax.random.key(0), policy, params, prompts)
        return strings.mask, drawn, tk.log_probs(policy, params, strings, spec.vocab)

    mask, drawn, read = both(params)
    np.testing.assert_allclose(drawn[mask], read[mask], atol=1e-5)


def test_what_a_template_writes_of_a_message():
    """Default message [1 2 3], then the user's [8 9]; with a message [1 5 3 4]: what ends alike
    stays."""
    assert hidden_message([1, 2, 3, 8, 9], [1, 5, 3, 4, 8, 9]) == Hidden((1, 5, 3, 4), 3)
    assert hidden_message([8, 9], [1, 8, 9]) == Hidden((1,), 0)
    assert hidden_message([8, 9], [8, 9]) == Hidden((), 0)
