"""Weights that a step wants laid otherwise than training does: the strings are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from language_models import CASES, random_tensors, random_tokens, spec_of

from fdiv import tokens as tk
from fdiv.lm import block, lora, model, weights
from fdiv.rollout import sampler
from fdiv.types import Sequences

HORIZON, PROMPT = model.FEWEST_STEPS, 3


def setting(case, stored="float32"):
    """A model with adapters that take part, over frozen weights in a type."""
    spec = spec_of(case)
    base = weights.load(spec, weights.Arrays(random_tensors(spec)))
    base = jax.tree.map(lambda x: jnp.asarray(x, stored), base)
    policy = lora.policy(model.policy(spec), base, spec, lora.Lora(rank=3).adapters())
    return spec, policy, lora.perturbed(jax.random.key(1), policy.init(jax.random.key(0)))


WIDENED = [(case, "bfloat16") for case in ("llama", "smollm2", "gemma2", "phi3")]


@pytest.mark.parametrize("case, stored", [(case, "float32") for case in CASES] + WIDENED)
@pytest.mark.few(1)
def test_strings_do_not_depend_on_how_weights_lie(case, stored, monkeypatch):
    spec, policy, params = setting(case, stored)
    tokens = jnp.asarray(random_tokens(case))[:, :PROMPT]
    prompts = Sequences(tokens, jnp.zeros(tokens.shape, bool), jnp.ones(len(tokens)))
    laid = []

    def start(*given):
        cache = policy.start(*given)
        laid.append(cache.laid is not None)
        return cache

    watched = policy._replace(start=start)
    draw = lambda params: sampler(HORIZON, None)(jax.random.key(2), watched, params, prompts)
    strings, drawn = jax.jit(draw)(params)
    read = jax.jit(lambda params: tk.log_probs(policy, params, strings, spec.vocab))(params)
    np.testing.assert_allclose(drawn, read, atol=3e-5)
    assert all(laid)
    laid.clear()
    monkeypatch.setattr(model, "MOST_LAID", 0)
    again, _ = jax.jit(lambda params: draw(params))(params)
    assert laid and not any(laid)
    np.testing.assert_array_equal(strings.tokens, again.tokens)


def test_many_rows_few_steps_and_narrow_products_take_weights_as_they_are():
    spec = spec_of("llama")
    params = jax.eval_shape(model.policy(spec).init, jax.random.key(0))

    def laid(rows, horizon, precision="float32"):
        policy = model.policy(spec, block.Compute(precision=precision))
        tokens = jnp.zeros((rows, PROMPT), jnp.int32)
        prompts = Sequences(tokens, tokens > 0, jnp.ones(rows))
        return jax.eval_shape(lambda p: policy.start(p, prompts, horizon), params).laid

    assert laid(4, HORIZON) is not None
    assert laid(model.FEW_ROWS + 1, HORIZON) is None
    assert laid(4, HORIZON - 1) is None
    assert laid(4, HORIZON, "bfloat16") is None


def test_frozen_weights_are_kept_for_the_gradient_as_they_are_stored():
    """A scan over layers writes what the way back needs: no layer's weights, widened or not."""
    spec, policy, params = setting("llama", "bfloat16")
    tokens = jnp.asarray(random_tokens("llama"))
    strings = Sequences(tokens, tokens >= 0, jnp.ones(len(tokens)))
    strings = strings._replace(mask=strings.mask.at[:, 0].set(False))
    loss = lambda p: tk.log_probs(policy, p, strings, spec.vocab).sum()
    text = str(jax.make_jaxpr(jax.grad(loss))(params))
    shape = f"[{spec.layers},{spec.width},{spec.hidden}]"
    assert f"bf16{shape}" in text
    assert f"f32{shape}" not in text


def test_the_gradient_of_weights_as_they_are_stored_is_the_products():
    rows = jax.random.normal(jax.random.key(0), (5, 6))
    weights = jax.random.normal(jax.random.key(1), (2, 3, 4))
    of = lambda f: jax.grad(lambda *x: jnp.sum(f(*x) ** 2), (0, 1))(rows, weights)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        of(block.as_stored),
        of(block.product),
    )
