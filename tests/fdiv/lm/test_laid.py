"""Weights that a step wants laid otherwise than training does: the strings are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from language_models import CASES, random_tensors, random_tokens, spec_of

from fdiv import few_rows
from fdiv import tokens as tk
from fdiv.lm import block, lora, model, weights
from fdiv.rollout import sampler
from fdiv.types import Sequences

HORIZON, PROMPT = model.FEWEST_STEPS, 3


def setting(case, stored="float32"):
    """A model with adapters that take part, over frozen weights in a type."""
    spec, draw = spec_of(case), np.random.default_rng(0)
    base = weights.load(spec, weights.Arrays(random_tensors(spec)))
    base = jax.tree.map(lambda x: jnp.asarray(np.asarray(x).astype(jnp.dtype(stored))), base)
    policy = lora.policy(model.policy(spec), base, spec, lora.Lora(rank=3).adapters())
    some = lambda x: jnp.asarray(0.1 * draw.standard_normal(x.shape), x.dtype)
    return spec, policy, jax.tree.map(some, jax.eval_shape(policy.init, jax.random.key(0)))


LAID = {  # constants of the model -> how kernels and the head lie
    "tiles": dict(SMALL=0, LARGE_HEAD=0),
    "turned": dict(SMALL=0, TILED_ROWS=0),
    "as they are": {},  # all of these kernels are small, so they are taken as they are
}
WIDENED = [(case, "bfloat16") for case in ("llama", "smollm2", "gemma2", "phi3")]


def how(cache):
    """Where a cache has laid kernels, and of how many dimensions its head is."""
    names = {kind for layer in cache.laid.layers for kind, own in layer.items() if own}
    return names, cache.laid.head.ndim


@pytest.mark.parametrize("way", LAID)
@pytest.mark.parametrize("case, stored", [(case, "float32") for case in CASES] + WIDENED)
@pytest.mark.few(3)
def test_strings_do_not_depend_on_how_weights_lie(case, stored, way, monkeypatch):
    for name, value in LAID[way].items():
        monkeypatch.setattr(model, name, value)
    monkeypatch.setattr(few_rows, "WIDTH", 4)  # of keys' columns too
    spec, policy, params = setting(case, stored)
    tokens = jnp.asarray(random_tokens(case)[:, :PROMPT])
    prompts = Sequences(tokens, jnp.zeros(tokens.shape, bool), jnp.ones(len(tokens)))

    @jax.jit
    def drawn(params):
        cache = policy.start(params, prompts, HORIZON)
        # kernels that are widened are laid in any case
        kinds = {way} if way != "as they are" else {"tiles"} if stored == "bfloat16" else set()
        assert how(cache) == (kinds, 3 if way == "tiles" else 2)
        behind = lambda cache: policy._replace(start=lambda *given: cache)
        roll = lambda policy: sampler(HORIZON, None)(jax.random.key(2), policy, params, prompts)
        both = [roll(behind(x)) for x in (cache, cache._replace(laid=None))]
        return *both, tk.log_probs(policy, params, both[0][0], spec.vocab)

    (strings, log_probs), (others, _), read = drawn(params)
    np.testing.assert_allclose(log_probs, read, atol=3e-5)
    np.testing.assert_array_equal(strings.tokens, others.tokens)


def test_many_rows_few_steps_and_narrow_products_take_weights_as_they_are(monkeypatch):
    """And weights of which another copy is too many."""
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
    monkeypatch.setattr(model, "LARGE_HEAD", 0)
    assert laid(4, HORIZON).head.ndim == 3
    layers = jax.tree.leaves({name: x for name, x in params["params"].items() if name == "layers"})
    kernels = sum(x.size for x in layers if x.ndim > 2)  # a norm has a number a layer and column
    monkeypatch.setattr(model, "MOST_LAID", 4 * kernels)
    assert laid(4, HORIZON).head.ndim == 2  # the layers alone
    monkeypatch.setattr(model, "MOST_LAID", 4 * kernels - 1)
    assert laid(4, HORIZON) is None


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


@pytest.mark.parametrize("other", [block.as_stored, block.into_few])
def test_gradients_of_products_that_are_taken_otherwise_are_the_usual_ones(other):
    rows = jax.random.normal(jax.random.key(0), (5, 6))
    weights = jax.random.normal(jax.random.key(1), (2, 3, 4))
    of = lambda f: jax.grad(lambda *x: jnp.sum(f(*x) ** 2), (0, 1))(rows, weights)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        of(other),
        of(block.product),
    )
