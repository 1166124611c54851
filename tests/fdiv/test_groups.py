"""Answers to one prompt whose prompt is computed once are what they are computed by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from language_models import random_tensors, spec_of

from experiments.models.symbols import preceded
from fdiv import few_rows, groups, objectives
from fdiv import tokens as tk
from fdiv.episodes import repeated
from fdiv.learner import apart, learner
from fdiv.lm import lora, model, weights
from fdiv.lm.block import Compute
from fdiv.lm.context import behind
from fdiv.lm.hidden import Hidden
from fdiv.parted import Parting, parted
from fdiv.policies import transformer
from fdiv.rollout import draw, draw_by_blocks, sampler, tempered
from fdiv.types import ALONE, PAD, Alike, Components, Regulariser, Sequences, TokenMDP

PROMPTS, WIDTH, GROUP, HORIZON, EOS = 3, 5, 4, 6, 2


def pretrained(case, bos=None, compute=None):
    spec = spec_of(case)
    params = weights.load(spec, weights.Arrays(random_tensors(spec)))
    return model.policy(spec, compute, bos), params, spec.vocab


def own(window=None, layers=2):
    shape = transformer.Shape(layers=layers, width=16, heads=2, kv_heads=1, window=window)
    policy = transformer.policy(shape, 11)
    params = jax.jit(lambda: jax.tree.map(lambda x: 2.5 * x, policy.init(jax.random.key(0))))()
    return policy, params, 11


def adapted():
    spec = spec_of("llama")
    base = jax.tree.map(
        lambda x: jnp.asarray(x, float), weights.load(spec, weights.Arrays(random_tensors(spec)))
    )
    adapters = lora.Lora(rank=3).adapters()
    policy = lora.policy(model.policy(spec), base, spec, adapters)
    moved = lora.perturbed(jax.random.key(1), policy.init(jax.random.key(0)))
    return policy, moved, spec.vocab


def soft():
    policy, params, vocab = own()
    return tempered(policy, 0.7), params, vocab


MODELS = {  # windows, caps, several windows and ropes, a token before the text, none, layers again
    "own": own,
    "own, a window": lambda: own(3),
    "gemma2": lambda: pretrained("gemma2"),
    "gemma3, bos": lambda: pretrained("gemma3", 5),
    "qwen3, remat": lambda: pretrained("qwen3", None, Compute(remat=True)),
    "adapters": adapted,
    "another temperature": soft,
}


def in_double(params):
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x, float)), params)


def prompts(vocab, empty=False):
    """Of 5, 2 and 1 tokens (or none), padded behind."""
    tokens = jax.random.randint(jax.random.key(2), (PROMPTS, WIDTH), 0, vocab)
    size = jnp.array([5, 2, 0 if empty else 1])[:, None]
    tokens = jnp.where(jnp.arange(WIDTH)[None] < size, tokens, PAD)
    return Sequences(tokens, jnp.zeros_like(tokens, bool), jnp.ones(PROMPTS))


def same(a, b, within):
    """Of the largest number there is."""
    largest = max(np.abs(x).max() for x in jax.tree.leaves(a))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=within * largest), a, b)


@pytest.fixture
def double():
    """Numbers in which rounding is no excuse."""
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.few(1)
def test_strings_log_probs_and_gradients_are_those_without_sharing(name, double, monkeypatch):
    monkeypatch.setattr(model, "LEAST_SHARED", 1)
    monkeypatch.setattr(few_rows, "WIDTH", 4)  # several tiles of keys
    policy, params, vocab = MODELS[name]()
    params = in_double(params)
    alike = Alike(GROUP, WIDTH)
    asked = repeated(prompts(vocab, empty="own" in name or "bos" in name), 1)
    asked = jax.tree.map(lambda x: np.repeat(x, GROUP, axis=0), asked)
    weight = jnp.arange(1.0, PROMPTS * GROUP + 1)
    assert groups.shares(policy, alike)

    @jax.jit
    def both(params):
        roll = sampler(HORIZON, EOS)
        plain = roll(jax.random.key(3), policy, params, asked)
        shared = roll(jax.random.key(3), groups.writer(policy, alike), params, asked)

        def loss(params, alike):
            log_q = groups.log_probs(policy, params, plain[0], vocab, alike)
            return weight @ log_q.sum(1), log_q

        slope = lambda alike: jax.value_and_grad(loss, has_aux=True)(params, alike)
        return plain, shared, slope(ALONE), slope(alike)

    plain, shared, alone, together = both(params)
    np.testing.assert_array_equal(plain[0].tokens, shared[0].tokens)
    same(plain[1], shared[1], 1e-9)
    same(alone[0][1], together[0][1], 1e-9)
    same(plain[1], together[0][1], 1e-9)
    same(alone[1], together[1], 1e-9)
    assert len({tuple(row) for row in plain[0].tokens.tolist()}) > PROMPTS


def test_no_answer_has_a_copy_of_its_prompt_until_some_are_left_behind(monkeypatch):
    """On a CPU: columns of a prompt are read where they are; in a batch of fewer rows each has its
    own again, as they are no groups any more."""
    policy, params, vocab = own()
    asked = jax.tree.map(lambda x: jnp.repeat(x, GROUP, axis=0), prompts(vocab, empty=True))
    writer = groups.writer(policy, Alike(GROUP, WIDTH))
    start = lambda p: writer.start(p, asked, HORIZON)
    assert jax.eval_shape(lambda p: start(p), params).shared is None  # of few columns
    monkeypatch.setattr(model, "LEAST_SHARED", WIDTH)
    cache = jax.eval_shape(start, params)
    assert cache.keys[0].shape == (PROMPTS * GROUP, 8, HORIZON)
    assert cache.shared.layers[0].keys.shape == (PROMPTS, 8, WIDTH)
    some = jnp.array([0, 5, 11])
    cache = jax.eval_shape(lambda p: writer.fewer(p, start(p), some), params)
    assert cache.keys[0].shape == (3, 8, WIDTH + HORIZON)
    assert cache.shared is None


@pytest.mark.parametrize("width", [64, 4])
def test_answers_that_are_left_read_what_they_read_before(width, double, monkeypatch):
    """Their prompts' keys and their own, in one tile or in several."""
    monkeypatch.setattr(model, "LEAST_SHARED", WIDTH)
    monkeypatch.setattr(few_rows, "WIDTH", width)
    policy, params, vocab = own()
    params = in_double(params)
    asked = jax.tree.map(lambda x: jnp.repeat(x, GROUP, axis=0), prompts(vocab))
    writer = groups.writer(policy, Alike(GROUP, WIDTH))
    tokens = jax.random.randint(jax.random.key(4), (3, PROMPTS * GROUP), 0, vocab)
    some = jnp.array([0, 5, 11])

    @jax.jit
    def both(params):
        cache = writer.start(params, asked, HORIZON)
        for token in tokens[:2]:
            cache, _ = writer.step(params, cache, token)
        few = writer.fewer(params, cache, some)
        _, law = writer.step(params, cache, tokens[2])
        return law[some], writer.step(params, few, tokens[2][some])[1]

    same(*both(params), 1e-12)


def test_a_large_batch_is_read_in_parts(monkeypatch, double):
    """Of whole groups: 3 groups of 4 rows of 11 columns, one or all at a time."""
    assert groups._at_once(128, 128, 8) == 8
    assert groups._at_once(128, 128, 1) == 8
    assert groups._at_once(96, 128, 16) == 16
    assert groups._at_once(7 * 40, 32, 1) == 28
    assert groups._at_once(63, 128, 1) == 63
    policy, params, vocab = own()
    params = in_double(params)
    rows, length = PROMPTS * GROUP, WIDTH + HORIZON
    asked = prompts(vocab, empty=True).tokens
    asked = jnp.repeat(jnp.where(asked == PAD, 1, asked), GROUP, axis=0)
    actions = jax.random.randint(jax.random.key(7), (rows, HORIZON), 0, vocab)
    tokens = jnp.concatenate([asked, actions], axis=1)
    mask = jnp.broadcast_to(jnp.arange(length) >= WIDTH, tokens.shape)
    x, alike = Sequences(tokens, mask, jnp.ones(rows)), Alike(GROUP, WIDTH)
    read = lambda: groups.log_probs_of_given(policy, params, x, vocab, alike)
    loops = lambda: str(jax.make_jaxpr(lambda: read())()).count("scan[")
    whole, before = jax.jit(read)(), loops()
    monkeypatch.setattr(groups, "LARGE", 1)
    monkeypatch.setattr(groups, "AT_ONCE", GROUP * length)
    assert loops() == before + 1
    same(whole, jax.jit(lambda: read())(), 1e-9)
    with parted(Parting(2)):
        assert loops() == before


def task(vocab, beta):
    """Strings that end, scored by their sum; the reference is the policy's start."""
    rows = 2 * PROMPTS * GROUP

    def given(key, n):
        tokens = jnp.tile(prompts(vocab).tokens, (n // PROMPTS, 1))
        none = jnp.full((len(tokens), HORIZON), PAD, jnp.int32)
        tokens = jnp.concatenate([tokens, none.at[:, 0].set(EOS)], axis=1)
        mask = jnp.arange(WIDTH + HORIZON)[None] == WIDTH
        return Sequences(tokens, jnp.broadcast_to(mask, tokens.shape), jnp.ones(len(tokens)))

    score = lambda x: jnp.where(x.mask, x.tokens % 3, 0).sum(1) * 0.1
    mdp = TokenMDP(vocab, HORIZON, EOS, None, given, given, None, score=score)
    return mdp._replace(regulariser=Regulariser("reverse_kl", beta)), given(None, rows)


UPDATES = {  # method, and how a batch is taken
    "grpo_std:k3-loss": ("grpo_std:k3-loss", {}),
    "rloo": ("rloo", {}),
    "in parts": ("grpo_std:k3-loss", {"accumulate": 3}),
    "parts that cut groups": ("grpo", {"accumulate": 12}),
    "shuffled, in parts": ("grpo_std:k3-loss", {"minibatches": 2, "accumulate": 3}),
}


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.few(1)
def test_an_update_is_what_it_is_without_sharing(name, double):
    """Also where the learner moves rows, or parts them within a group. Of one layer: more
    are in the law above."""
    method, how = UPDATES[name]
    policy, params, vocab = own(layers=1)
    params = in_double(params)
    mdp, batch = task(vocab, 0.1)

    def updated(policy):
        parts = Components(policy, mdp, sampler(HORIZON, EOS))
        made = learner(objectives.resolve(method, group=GROUP).build(parts), optax.sgd(1e-2), **how)
        moved = jax.tree.map(lambda x: 1.1 * x, params)
        update = lambda x: made.update(
            made.init(jax.random.key(1), params)._replace(params=x), batch
        )
        return jax.jit(update)(moved)

    (plain, old), (shared, new) = updated(policy._replace(answers=None)), updated(policy)
    same(old, new, 1e-9)
    step = lambda x: jax.tree.map(lambda a, b: np.asarray(a) - 1.1 * b, x.params, params)
    steps = [step(x) for x in (plain, shared)]
    same(*steps, 1e-9)
    assert max(np.abs(x).max() for x in jax.tree.leaves(steps[0])) > 1e-4


def test_rows_that_are_moved_are_alike_no_more():
    policy, _, _ = own()
    assert apart({"a": Alike(4, 5), "b": jnp.ones(2)})["a"] == ALONE
    assert not groups.shares(policy, ALONE)
    assert not groups.shares(policy, Alike(1, 5))
    with parted(Parting(2)):
        assert not groups.shares(policy, Alike(4, 5))


def test_a_policy_that_reads_something_else_shares_nothing():
    """Each of these replaces the trunk: what is behind it would read other tokens."""
    policy, params, _ = own(layers=1)
    tokens = jnp.zeros((2, 4), jnp.int32)
    x, read = Sequences(tokens, tokens == 0, jnp.ones(2)), []
    jax.eval_shape(lambda params: read.append(tk.read(policy, params, x)), params)
    for changed in (behind(policy, Hidden((1, 2), 0)), preceded(policy, 3), *read):
        assert changed.answers is None


def laws(vocab):
    """Laws of every sharpness, of which some have tokens without any mass at their ends."""
    scale = jnp.array([0.1, 1.0, 5.0, 30.0, 1.0])[:, None]
    logits = scale * jax.random.normal(jax.random.key(vocab), (5, vocab))
    logits = logits.at[4, : vocab // 3].set(-jnp.inf).at[4, -(vocab // 3) :].set(-jnp.inf)
    return jax.nn.log_softmax(logits)


@pytest.mark.parametrize("vocab", [3, 5, 257, 1000])
@pytest.mark.few(3)
def test_a_draw_by_blocks_is_the_plain_draw(vocab):
    """But where a uniform lies within rounding of a token's edge; and a token without mass is
    never drawn, nor one past the last."""
    log_probs = laws(vocab)
    uniforms = jax.random.uniform(jax.random.key(0), (20_000, 5))
    uniforms = uniforms.at[0].set(0.0).at[1].set(1 - 2**-24)
    plain, blocks = (
        np.asarray(jax.jit(jax.vmap(lambda u, f=f: f(u, log_probs)))(uniforms))
        for f in (draw, draw_by_blocks)
    )
    assert (plain != blocks).mean() <= 2e-4
    assert blocks.min() >= 0 and blocks.max() < vocab
    taken = np.take_along_axis(np.asarray(log_probs).T, blocks, axis=0)
    assert np.isfinite(taken).all()
    order = np.argsort(uniforms[:, 1])
    assert (np.diff(blocks[order, 1]) >= 0).all()  # the inverse of a distribution function
