"""Operations and bytes, by hand and as XLA counts them."""

import jax
import jax.numpy as jnp
import pytest

from experiments.bench import works
from experiments.models import counts
from experiments.models.counts import Dimensions, Phase
from fdiv.lm.lora import Lora
from fdiv.policies import transformer

TINY = Dimensions(vocab=11, width=8, hidden=24, layers=2, heads=2, kv_heads=1, head_dim=4)
SHAPE = transformer.Shape(layers=2, width=8, heads=2, kv_heads=1)


def flops_of_xla(function, *arguments) -> float:
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def test_a_product_is_counted_as_xla_does():
    arrays = jnp.ones((3, 5)), jnp.ones((5, 7))
    assert counts.product(3, 5, 7) == 210 == flops_of_xla(lambda x, y: x @ y, *arrays)


def test_kernels_and_adapters_are_those_of_the_models():
    """A layer has 8 x 8 of queries, 2 x 8 x 4 of keys and values, 8 x 8 out of attention and 3 x 8
    x 24 of the MLP: 768."""
    assert TINY.kernels == 2 * 768
    params = jax.eval_shape(transformer.policy(SHAPE, 11).init, jax.random.key(0))
    kernels = [x for path, x in jax.tree.leaves_with_path(params) if "kernel" in str(path)]
    assert sum(x.size for x in kernels) == TINY.kernels
    assert TINY.adapters(3) == Lora(rank=3).adapters().size(SHAPE.spec(11))


@pytest.mark.wide
def test_a_pass_is_a_little_less_than_what_xla_counts():
    """XLA counts norms, softmaxes and the whole square of attention as well. The products, 2 x 2 x
    16 x (1,536 kernels + 88 of the head), are most of it at this length."""
    policy = transformer.policy(SHAPE, 11)
    tokens = jnp.ones((2, 16), jnp.int32)
    params = policy.init(jax.random.key(0))
    whole = lambda params: policy.head(params, policy.trunk(params, tokens))
    products = 2 * 2 * 16 * (1536 + 88)
    counted = counts.forward(TINY, 2, 16, 16).flops
    # attention: 2 strings x 2 layers x 4 x 8 x (16 x 17 / 2)
    assert counted == products + 2 * 2 * 4 * 8 * 136
    assert counted < flops_of_xla(whole, params) < 2 * counted


def test_a_step_of_training_is_three_passes_and_adapters_have_less():
    forward = counts.forward(TINY, 2, 16, 16).flops
    assert counts.training(TINY, 2, 16, 16).flops == 3 * forward
    core = counts.attention(TINY, 2, 16)
    adapted = counts.training(TINY, 2, 16, 16, rank=1)
    # frozen kernels pass the gradient on: two products in the place of three
    assert adapted.flops == 2 * (forward - core) + 3 * core + 6 * 32 * TINY.adapters(1)


def test_sampling_by_hand():
    """3 strings, prompts of 2, 2 new tokens: one column of prompts, then two steps that see 2 and 3
    tokens; a token keeps 2 layers x 2 x 4 numbers of 4 bytes."""
    prompts, steps = counts.sampling(TINY, strings=3, prompt=2, new=2)
    attention = 3 * 2 * 4 * 8
    assert prompts.flops == 2 * 3 * 1536 + attention
    assert steps.flops == 2 * 3 * 2 * (1536 + 88) + attention * (2 + 3)
    assert steps.bytes == 2 * 4 * (1536 + 88) + 3 * 64 * (2 + 3)
    shared = counts.sampling(TINY, strings=3, prompt=2, new=2, prompts=1)
    assert shared[0].flops == prompts.flops / 3
    assert shared[1] == steps


def test_without_prompts_the_first_step_sees_itself():
    prompts, steps = counts.sampling(TINY, strings=1, prompt=0, new=1)
    assert prompts.flops == prompts.bytes == 0
    assert steps.flops == 2 * (1536 + 88) + 2 * 4 * 8


def test_a_bound_takes_what_holds_each_phase_up():
    counted = counts.together(Phase("a", 100, 1, 1), [Phase("b", 10, 500, 500)])
    assert (counted.flops, counted.bytes) == (110, 501)
    assert counted.seconds(10, 100) == 10 + 5
    assert counted.seconds(10, 100, cache=500) == 10 + 1  # the second fits into the cache


def test_the_benchmarks_own_sizes():
    """At width 256 a layer has 2 x 256 x (256 + 128) of attention and 3 x 256 x 768 of the MLP."""
    d = works.SHAPES["w256"].dimensions
    assert d.kernels == 4 * (196_608 + 589_824)
    step = counts.training(d, 32, 128, 128)
    # 6 x 4,096 tokens x 3.21M numbers, and the attention of 32 strings
    attention = 3 * 32 * 4 * 4 * 256 * 128 * 129 / 2
    assert step.flops == 6 * 4096 * (d.kernels + 257 * 256) + attention
