"""The transformer that runs train is a `Spec` of the block of `fdiv.lm`: the same parameters by the
same names, and the same law, as when it was a network of its own, which made the golden numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv import tokens as tk
from fdiv.policies import transformer
from fdiv.rollout import sampler
from fdiv.types import PAD, Sequences

VOCAB, EOS, LENGTH, HORIZON = 7, 6, 9, 5
SHAPES = {
    "whole": transformer.Shape(layers=2, width=8, heads=2, kv_heads=1),
    "window": transformer.Shape(layers=2, width=12, heads=3, kv_heads=3, window=2),
}
GOLDEN = Path(__file__).parents[2] / "golden" / "own_transformer.npz"


def strings():
    """With padding before, behind, and on both sides."""
    tokens = jax.random.randint(jax.random.key(1), (5, LENGTH), 0, VOCAB - 1)
    begin, end = jnp.array([0, 0, 2, 1, 3]), jnp.array([9, 5, 9, 7, 4])
    column = jnp.arange(LENGTH)[None]
    mask = (column >= begin[:, None]) & (column < end[:, None])
    return Sequences(jnp.where(mask, tokens, PAD), mask, jnp.arange(1.0, 6.0))


def prompts():
    """Of 0 to 3 tokens."""
    tokens = jax.random.randint(jax.random.key(2), (6, 3), 0, VOCAB - 1)
    size = jnp.array([0, 1, 2, 3, 3, 0])[:, None]
    tokens = jnp.where(jnp.arange(3)[None] < size, tokens, PAD)
    return Sequences(tokens, jnp.zeros_like(tokens, bool), jnp.ones(6))


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.few(1)
def test_it_is_what_it_was(name):
    """Saves are read again, runs start from the same draws, and laws, gradients and samples agree.
    Weights are 2.5 times as drawn, so that laws are sharp."""
    golden = {
        key.removeprefix(f"{name}_"): value
        for key, value in np.load(GOLDEN).items()
        if key.startswith(name)
    }
    policy, x = transformer.policy(SHAPES[name], VOCAB), strings()
    start = policy.init(jax.random.key(0))
    paths, _ = jax.tree_util.tree_flatten_with_path(start)
    spelled = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    assert spelled == golden["paths"].tolist()
    np.testing.assert_allclose(flat(start), golden["start"], atol=1e-6)  # 6e-7 on a GPU

    def loss(params):
        laws = tk.distributions(policy, params, x.tokens)
        log_probs = tk.pick(laws, x.tokens, x.mask)
        return (x.weight[:, None] * log_probs).sum(), laws

    @jax.jit
    def all_of_it(params):
        slope, laws = jax.grad(loss, has_aux=True)(params)
        written = sampler(HORIZON, EOS)(jax.random.key(3), policy, params, prompts())
        return laws, slope, written

    laws, slope, (written, drawn) = all_of_it(jax.tree.map(lambda x: 2.5 * x, start))
    laws = np.where(np.asarray(x.mask)[..., None], laws, 0)
    np.testing.assert_allclose(laws, golden["laws"], atol=3e-5)  # 1.2e-5 on jaxlib 0.12
    np.testing.assert_allclose(flat(slope), golden["slope"], rtol=1e-5, atol=1e-3)  # up to 300
    np.testing.assert_array_equal(written.tokens, golden["written"])
    np.testing.assert_allclose(drawn, golden["drawn"], atol=3e-5)
    assert golden["laws"].std() > 1


@pytest.mark.wide
def test_layers_that_are_unrolled_and_layers_that_are_scanned_are_one_model():
    """`fdiv.lm.model` takes layers as a tuple of trees, or stacked: the same laws and the same
    cache, computed again for the gradient or not."""
    from fdiv.lm import model
    from fdiv.lm.block import Compute

    shape = SHAPES["window"]
    spec = shape.spec(VOCAB)
    apart = transformer.as_blocks(spec, transformer.initial(spec, jax.random.key(0)))
    apart = jax.tree.map(lambda x: 2.5 * x, apart)
    layers = jax.tree.map(lambda *each: jnp.stack(each), *apart["params"]["layers"])
    stacked = {"params": {**apart["params"], "layers": layers}}
    tokens = strings().tokens

    @jax.jit
    def all_of_it(apart, stacked):
        results = []
        for params, compute in ((apart, Compute()), (apart, Compute(remat=True)), (stacked, None)):
            policy = model.policy(spec, compute)
            loss = lambda p, policy=policy: tk.distributions(policy, p, tokens)[..., 0].mean()
            value, slope = jax.value_and_grad(loss)(params)
            cache = policy.start(params, prompts(), HORIZON)
            results.append((value, slope["params"]["embedding"], cache))
        return results

    first, *others = all_of_it(apart, stacked)
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), first, other)


def test_angles_are_constants_of_training_and_of_sampling():
    """XLA on a CPU takes a cosine again for every layer and head that is turned by it."""
    policy = transformer.policy(SHAPES["window"], VOCAB)
    params = jax.eval_shape(policy.init, jax.random.key(0))
    write = lambda params: sampler(HORIZON, EOS)(jax.random.key(3), policy, params, prompts())
    loss = lambda params: tk.log_probs(policy, params, strings(), VOCAB).sum()
    for program in (write, jax.grad(loss)):
        text = jax.jit(program).lower(params).as_text()
        assert "dot_general" in text
        assert "cosine" not in text
