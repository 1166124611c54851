"""Dropout of adapters: by hand, in the mean, the same in both directions, and in losses alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from language_models import random_tensors, random_tokens, spec_of

from fdiv import buckets, objectives
from fdiv.buckets import Buckets
from fdiv.learner import learner
from fdiv.lm import lora, model, peft, weights
from fdiv.lm.block import Compute, Linear
from fdiv.rollout import sampler
from fdiv.types import PAD, Components, Objective, Regulariser, Sequences, TokenMDP, UsageError

SHARE = 0.25
ROWS, INPUTS, RANK, OUTPUTS = 3, 8, 2, 4


def kernel(seed=0):
    """x, W, A, B of one kernel."""
    draw = np.random.default_rng(seed).standard_normal
    shapes = (ROWS, INPUTS), (INPUTS, OUTPUTS), (INPUTS, RANK), (RANK, OUTPUTS)
    return [jnp.asarray(draw(shape), jnp.float32) for shape in shapes]


def computed(x, w, a, b, key):
    own = {"a": a, "b": b, "key": key, "stays": jnp.float32(1 - SHARE)}
    return Linear((OUTPUTS,)).apply({"params": {"kernel": w}, "lora": own}, x)


def test_an_adapter_is_what_masks_by_hand_make_it():
    """y = x W + d A B with d = m x / (1 - p), and the four gradients, in numpy."""
    parts, key = kernel(), jax.random.key(5)
    x, w, a, b = (np.asarray(part, np.float64) for part in parts)
    mask = np.asarray(jax.random.bernoulli(key, 1 - SHARE, x.shape))
    assert 0 < mask.sum() < mask.size
    d, g = mask * x / (1 - SHARE), np.asarray(kernel(1)[0] @ kernel(1)[1], np.float64)
    y, pull = jax.vjp(lambda *own: computed(*own, key), *parts)
    np.testing.assert_allclose(y, x @ w + d @ a @ b, rtol=1e-5, atol=1e-5)
    by_hand = (
        g @ w.T + mask / (1 - SHARE) * (g @ b.T @ a.T),
        x.T @ g,
        d.T @ (g @ b.T),
        (d @ a).T @ g,
    )
    for own, hand in zip(pull(jnp.asarray(g, jnp.float32)), by_hand):
        np.testing.assert_allclose(own, hand, rtol=1e-5, atol=1e-5)


def test_its_mean_over_keys_is_the_adapter_without():
    """Of n masks the mean of d A B is within five standard errors: of each output p / (1 - p) times
    the sum over inputs of (x_i (A B)_i)^2, over n."""
    parts, count = kernel(), 4096
    x, w, a, b = (np.asarray(part, np.float64) for part in parts)
    each = jax.vmap(lambda key: computed(*parts, key))(jax.random.split(jax.random.key(0), count))
    error = np.sqrt(SHARE / (1 - SHARE) * (x**2) @ ((a @ b) ** 2) / count)
    apart = np.abs(np.asarray(each, np.float64).mean(0) - x @ (w + a @ b))
    assert (apart < 5 * error).all() and (error < 0.1).all()
    assert np.allclose(np.asarray(each).std(0) / count**0.5, error, rtol=0.1)


@functools.cache
def setting(remat=True, case="llama"):
    """(spec, a policy whose adapters have dropout, adapters that are not zero)"""
    spec = spec_of(case)
    base = jax.tree.map(jnp.asarray, weights.load(spec, weights.Arrays(random_tensors(spec))))
    adapters = lora.Lora(rank=2, targets=("query", "down"), dropout=SHARE).adapters()
    policy = lora.policy(model.policy(spec, Compute(remat=remat)), base, spec, adapters)
    moved = lora.perturbed(jax.random.key(1), policy.init(jax.random.key(0)))
    return spec, policy, moved


@functools.cache
def slope(remat):
    """(parameters, key) -> a sum of features, and its gradient."""
    _, policy, _ = setting(remat)
    tokens = jnp.asarray(random_tokens("llama"))
    wave = lambda x: jnp.sum(jnp.sin(jnp.arange(x.size).reshape(x.shape)) * x)
    loss = lambda params, key: wave(policy.trunk(lora.in_training(params, key), tokens))
    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.wide
def test_layers_that_are_computed_again_have_the_same_masks():
    """Gradients through a scan over layers, each computed again on the way back, are those of what
    was kept; a key gives the same numbers each time, and another key others."""
    *_, moved = setting()
    one, other = jax.random.key(3), jax.random.key(4)
    value, gradient = slope(True)(moved, one)
    again, kept = slope(False)(moved, one)
    np.testing.assert_allclose(value, again, rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), gradient, kept
    )
    same = jax.tree.leaves(slope(True)(moved, one))
    assert all((a == b).all() for a, b in zip(same, jax.tree.leaves((value, gradient))))
    assert abs(slope(True)(moved, other)[0] - value) > 1e-2


def test_every_kernel_of_every_layer_has_a_key_of_its_own():
    spec, _, moved = setting()
    adapters = lora.Lora(rank=2, targets=("query", "down"), dropout=SHARE).adapters()
    plain = lora.adapted({"params": {}}, adapters, moved)
    assert set(plain["lora"]["layers"]["mlp"]["down"]) == {"a", "b"}
    own = lora.adapted({"params": {}}, adapters, lora.in_training(moved, jax.random.key(0)))
    pairs = [own["lora"]["layers"][m][n] for m, n in (("attention", "query"), ("mlp", "down"))]
    keys = np.concatenate([jax.random.key_data(pair["key"]) for pair in pairs])
    assert len(np.unique(keys, axis=0)) == 2 * spec.layers
    assert all((pair["stays"] == np.float32(1 - SHARE)).all() for pair in pairs)


# --- where keys reach -----------------------------------------------------------------------------


def probe():
    """An objective whose gradient [B] is, of each row, a number drawn from the key that the loss of
    its part had."""

    def prepare(key, params, aux, batch):
        assert set(params) == {"w"}
        return aux, batch, {"tokens": jnp.zeros(())}

    def loss(params, aux, batch):
        drawn = jax.random.uniform(params[lora.DROPOUT], minval=1.0, maxval=2.0)
        return drawn * jnp.sum(params["w"][batch.tokens[:, 0]]), {}

    return Objective(lambda key, params: (), prepare, loss)


def drawn(key, rows=12, **how):
    """What each of 12 rows saw in one update, [B], and the state after it."""
    made = learner(probe(), optax.sgd(1.0), in_training=lora.in_training, **how)
    # row b has b + 1 tokens, the first of which is its number
    number, column = np.arange(rows)[:, None], np.arange(rows)[None]
    tokens = jnp.asarray(np.where(column <= number, number, PAD))
    batch = Sequences(tokens, tokens != PAD, jnp.ones(rows))
    state = made.init(key, {"w": jnp.zeros(rows)})
    after, _ = made.update(state, batch)
    again, _ = made.update(after, batch)
    own = lambda x: -x.params["w"]
    return own(after), own(again) - own(after)


PARTED = {  # how a batch of 12 rows is parted -> how many keys an update has
    "undivided": ({}, 1),
    "accumulated": ({"accumulate": 3}, 3),
    "minibatches": ({"minibatches": 2}, 2),
    "both": ({"minibatches": 2, "accumulate": 3}, 6),
    "widths": ({"in_parts": functools.partial(buckets.gradient, Buckets((4, 12), parts=4))}, 4),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("name", PARTED)
def test_each_part_of_each_step_and_each_seed_has_a_key_of_its_own(name):
    """And the same keys give the same."""
    how, count = PARTED[name]
    keys = jax.vmap(jax.random.key)(jnp.arange(3) % 2)
    update = jax.jit(jax.vmap(functools.partial(drawn, **how)))
    first, second, again = np.round(np.concatenate(update(keys), axis=1), 5)
    assert (first > 0).all()
    assert len(np.unique(np.concatenate([first, second]))) == 2 * 2 * count
    np.testing.assert_array_equal(first, again)


@pytest.mark.wide
def test_epochs_do_not_share_their_keys():
    """Of two epochs of two minibatches each row adds up two numbers of four: rows differ in more
    ways than one epoch's two."""
    first, _ = drawn(jax.random.key(1), epochs=2, minibatches=2)
    assert len(np.unique(np.round(first, 5))) > 2


@pytest.mark.wide
def test_what_is_not_differentiated_is_without():
    """Strings, their log-probs and the reference's are those of an update without dropout bit for
    bit, and the step is another one."""
    spec, policy, moved = setting()
    moved = jax.tree.map(lambda x: 5 * x, moved)
    tokens = jnp.asarray(np.random.RandomState(0).randint(0, spec.vocab, (8, 12)))
    actions = jnp.broadcast_to(jnp.arange(12) >= 4, tokens.shape)
    prompts = Sequences(tokens, actions, jnp.ones(8))
    fixed = lambda key, n: prompts
    task = TokenMDP(spec.vocab, 8, None, fixed, fixed, fixed, None)
    task = task._replace(
        score=lambda x: x.tokens.sum(1) * 1.0, regulariser=Regulariser("reverse_kl", 0.1)
    )
    objective = objectives.resolve("grpo:k3-loss").build(Components(policy, task, sampler(8, None)))
    ends = []
    for how in (None, lora.in_training):
        made = learner(objective, optax.sgd(0.1), in_training=how)
        state = made.init(jax.random.key(0), moved)
        state = state._replace(aux=state.aux._replace(start=policy.init(jax.random.key(0))))
        after, metrics = jax.jit(made.update)(state, prompts)
        assert set(after.params) == {"lora"}
        ends.append((after.params, metrics))
    (plain, before), (own, metrics) = ends
    for name in ("score", "penalty", "tokens"):
        assert before[name] == metrics[name] and before[name] != 0
    assert before["clip_share"] == 0 < metrics["clip_share"]
    assert before["gradient_norm"] != metrics["gradient_norm"]
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(own)))


# --- files ----------------------------------------------------------------------------------------


def test_a_file_says_it_both_ways():
    spec, _, moved = setting()
    adapters = lora.Lora(rank=2, targets=("query", "down"), dropout=SHARE).adapters()
    tensors, config = peft.to_tensors(spec, adapters, moved)
    assert config["lora_dropout"] == SHARE
    assert peft.from_tensors(spec, config, tensors).adapters == adapters
    for absent in ({}, {"lora_dropout": None}, {"lora_dropout": 0}):
        rest = {name: x for name, x in config.items() if name != "lora_dropout"}
        assert peft.from_tensors(spec, rest | absent, tensors).adapters.dropout == 0
    for wrong in (1, -0.1, "0.1", True, float("nan"), [0.1]):
        with pytest.raises(UsageError, match="lora_dropout"):
            peft.from_tensors(spec, config | {"lora_dropout": wrong}, tensors)
