"""Strings that have ended are left behind: what is drawn is what a whole batch draws, at the cost
of those that go on."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from language_models import CASES, random_tensors, spec_of

from fdiv import exact, few_rows, groups, kept, rollout
from fdiv import tokens as tk
from fdiv.benchmarks import Markov
from fdiv.checks import present
from fdiv.lm import attention, lora, model, weights
from fdiv.lm import spec as specs
from fdiv.parted import Parting, parted
from fdiv.policies import Architecture, transformer
from fdiv.rollout import among, draw, greedy, sampler, tempered
from fdiv.types import PAD, Alike, Sequences

BATCH, WIDTH, HORIZON, VOCAB, EOS = 16, 3, 12, 7, 2
WINDOW = 5


@functools.cache
def own(window=None):
    shape = transformer.Shape(layers=1, width=16, heads=2, kv_heads=1, window=window)
    policy = transformer.policy(shape, VOCAB)
    params = jax.jit(policy.init)(jax.random.key(0))
    return policy, jax.tree.map(np.asarray, params), VOCAB


def pretrained(case, bos=None, **fields):
    """Of two layers: of a gemma one within its window and one that sees everything."""
    spec = specs.from_config({**CASES[case], **fields, "num_hidden_layers": 2})
    params = weights.load(spec, weights.Arrays(random_tensors(spec)))
    assert not case.startswith("gemma") or (spec.windows[0], spec.windows[1]) == (WINDOW, None)
    return model.policy(spec, None, bos), params, spec.vocab


def adapted():
    base, params, vocab = pretrained("llama")
    params = jax.tree.map(jnp.asarray, params)
    policy = lora.policy(base, params, spec_of("llama"), lora.Lora(rank=3).adapters())
    drawn = lambda first, moved: lora.perturbed(moved, policy.init(first))
    return policy, jax.jit(drawn)(*map(jax.random.key, (0, 1))), vocab


def alike():
    policy, params, vocab = own()
    return groups.writer(policy, Alike(4, WIDTH)), params, vocab


def soft():
    policy, params, vocab = own()
    return tempered(policy, 0.8), params, vocab


MODELS = {
    "own": own,
    "own, a window": lambda: own(3),
    "prompts computed once": alike,
    "another temperature": soft,
    "gemma2": lambda: pretrained("gemma2", sliding_window=WINDOW),
    "gemma3, bos": lambda: pretrained("gemma3", 5, sliding_window=WINDOW, sliding_window_pattern=2),
    "adapters": adapted,
}


def prompts(vocab, batch=BATCH, group=4):
    """Of one to three tokens, the same for each group in a row."""
    count = batch // group
    tokens = np.random.default_rng(2).integers(0, vocab, (count, WIDTH), np.int32)
    size = 1 + np.arange(count)[:, None] % WIDTH
    tokens = np.where(np.arange(WIDTH) < size, tokens, np.int32(PAD))
    tokens = jnp.asarray(np.repeat(tokens, group, axis=0))
    return Sequences(tokens, jnp.zeros(tokens.shape, bool), jnp.ones(batch))


def ending_at(policy, lengths):
    """The policy, each of whose strings has a length given by its row."""

    def start(params, prompts, horizon):
        return policy.start(params, prompts, horizon), jnp.asarray(lengths)

    def step(params, cache, token):
        cache, left = cache
        cache, log_probs = policy.step(params, cache, token)
        end = (jnp.arange(log_probs.shape[1]) == EOS)[None]
        log_probs = jnp.where(end == (left <= 1)[:, None], log_probs, -jnp.inf)
        return (cache, left - 1), jax.nn.log_softmax(log_probs)

    def fewer(params, cache, rows):
        return policy.fewer(params, cache[0], rows), cache[1][rows]

    return policy._replace(start=start, step=step, fewer=fewer)


def counting(policy, steps):
    """The policy, which notes how many rows each step is of."""

    def step(params, cache, token):
        note = functools.partial(steps.update, [token.shape[0]])
        jax.debug.callback(note)
        return policy.step(params, cache, token)

    return policy._replace(step=step)


def both_ways(policy, roll, key, params, prompts):
    """Strings and log-probs of the whole batch, and where strings are left behind, after prompts
    that are read once, by a step that is traced once for each size of batch."""
    begun = policy.start(params, prompts, HORIZON)
    staged = policy._replace(start=lambda *_: begun, step=jax.jit(policy.step))
    whole = staged._replace(fewer=None)
    assert rollout.stages(policy, BATCH) == (16, 8, 4)
    assert rollout.stages(whole, BATCH) == (16,)
    return [roll(key, each, params, prompts) for each in (whole, staged)]


@pytest.fixture
def short(monkeypatch):
    """Stretches of two tokens, batches that are halved, prompts that answers share."""
    monkeypatch.setattr(model, "LEAST_SHARED", 1)
    monkeypatch.setattr(rollout, "STRETCH", 2)
    monkeypatch.setattr(rollout, "SHARES", (2, 4))


def same(plain, staged):
    """Equal tokens, log-probs but for rounding, and strings that are left behind once and twice."""
    (whole, log_probs), (strings, others) = plain, staged
    jax.tree.map(np.testing.assert_array_equal, whole, strings)
    np.testing.assert_allclose(log_probs, others, atol=2e-5)
    alive = {int(np.sum(tk.lengths(whole) > written)) for written in range(2, HORIZON, 2)}
    assert alive & set(range(5, 9)) and alive & set(range(1, 5))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.few(1)
def test_strings_and_log_probs_are_those_of_the_whole_batch(name, short):
    """In their order too, of every kind of model, whoever chooses."""
    policy, params, vocab = MODELS[name]()
    eos = tuple(range(EOS, EOS + vocab // 3))
    choose = among(jnp.arange(1, vocab)) if name == "own" else draw
    roll = sampler(HORIZON, eos, choose)
    both = jax.jit(functools.partial(both_ways, policy, roll))
    same(*both(jax.random.key(5), params, prompts(vocab)))


LENGTHS = {  # rows of a step -> steps, in stretches of two
    # eight go on after two tokens, four after four
    "one long": ([2] * 8 + [4] * 4 + [5] * 3 + [12], {16: 2, 8: 2, 4: 8}),
    # nine go on after two tokens: one too many
    "one too many": ([2] * 7 + [3] * 8 + [12], {16: 4, 4: 8}),
    # all as long as each other: nothing is left behind
    "alike": ([12] * 16, {16: 12}),
    # all end within one stretch
    "short": ([1, 2] * 8, {16: 2}),
    # from sixteen to one at once: batches between are passed over
    "at once": ([3] * 15 + [12], {16: 4, 4: 8}),
    # the end is at the horizon, where no batch begins
    "at the horizon": ([11] * 8 + [12] * 8, {16: 12}),
}


@functools.cache
def rolled_to():
    """(strings of given lengths, as one program of all lengths; the rows of its steps, counted)."""
    steps = collections.Counter()
    policy, params, _ = own()

    def strings(params, lengths):
        ending = counting(ending_at(policy, lengths), steps)
        return sampler(HORIZON, EOS)(jax.random.key(3), ending, params, prompts(VOCAB))

    return functools.partial(jax.jit(strings), params), steps


@pytest.mark.parametrize("name", LENGTHS)
def test_a_batch_does_not_wait_for_its_longest_string(name, short):
    """Rows of a step by how many steps there are of them, and no string is lost or cut."""
    lengths, wanted = LENGTHS[name]
    roll, steps = rolled_to()
    steps.clear()
    strings, _ = roll(np.array(lengths))
    assert np.asarray(tk.lengths(strings)).tolist() == lengths
    assert np.asarray(tk.ended(strings, EOS)).all()
    jax.effects_barrier()
    assert steps == wanted


@pytest.mark.wide
def test_a_cache_that_is_read_as_far_as_it_is_filled(monkeypatch):
    """The first 4 of 15 columns or all: the same numbers."""
    assert attention.reached(15) == (15,)
    policy, params, _ = own()
    policy = ending_at(policy, [3] * 8 + [7] * 6 + [12] * 2)
    drawn = []
    for width, shortest in ((64, 100), (64, 4), (4, 4)):  # one tile of keys, and four
        monkeypatch.setattr(few_rows, "WIDTH", width)
        monkeypatch.setattr(attention, "SHORTEST", shortest)
        roll = lambda p: sampler(HORIZON, EOS)(jax.random.key(3), policy, p, prompts(VOCAB))
        drawn.append(jax.jit(roll)(params))
    assert attention.reached(15) == (4, 15)
    assert attention.reached(16) == (4, 8, 16)
    (whole, a), *others = drawn
    for strings, b in others:
        np.testing.assert_array_equal(whole.tokens, strings.tokens)
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.wide
def test_the_likeliest_strings_are_the_same(short):
    policy, params, _ = own()
    policy = ending_at(policy, [2] * 8 + [7] * 6 + [12] * 2)
    roll = greedy(HORIZON, EOS)
    both = jax.jit(functools.partial(both_ways, policy, roll))
    (whole, a), (strings, b) = both(jax.random.key(0), params, prompts(VOCAB))
    np.testing.assert_array_equal(whole.tokens, strings.tokens)
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.wide
def test_seeds_that_are_mapped_are_each_as_it_is_alone(short):
    """The seed with the most strings that go on decides when rows are left behind. Alone none
    are."""
    policy, params, vocab = own()
    params = jax.tree.map(lambda x: np.stack([x, 2 * x, 0.5 * x]), params)
    roll = lambda policy: (
        lambda key, params: sampler(HORIZON, EOS)(key, policy, params, prompts(vocab))
    )

    @jax.jit
    def both(params):
        keys = jax.random.split(jax.random.key(3), 3)
        alone = lambda each: roll(policy._replace(fewer=None))(*each)
        return jax.vmap(roll(policy))(keys, params), jax.lax.map(alone, (keys, params))

    (strings, log_probs), alone = both(params)
    np.testing.assert_array_equal(strings.tokens, alone[0].tokens)
    np.testing.assert_allclose(log_probs, alone[1], atol=2e-5)


@pytest.mark.wide
def test_the_law_of_strings_is_the_policys(short, monkeypatch):
    """Chi-square over all strings of a small task, most of whose strings end early."""
    monkeypatch.setattr(rollout, "STRETCH", 1)
    vocab, horizon, n = 3, 4, 20_000
    policy = Architecture("transformer", width=8, layers=1, heads=2, kv_heads=1).policy(
        vocab, horizon
    )
    params = jax.tree.map(lambda x: 2.5 * np.asarray(x), jax.jit(policy.init)(jax.random.key(0)))
    assert rollout.stages(policy, n) == (n, n // 2, n // 4)
    space = exact.enumerate_strings(vocab, horizon, EOS)
    chance = np.exp(jax.jit(lambda p: exact.law(space, policy, p).string)(params))
    index = {tuple(row): i for i, row in enumerate(np.asarray(space.sequences.tokens))}
    roll = sampler(horizon, EOS)
    strings, _ = jax.jit(lambda p: roll(jax.random.key(5), policy, p, tk.empty_prompts(n)))(params)
    rows = [index[tuple(row)] for row in np.asarray(strings.tokens)]
    counts = np.bincount(rows, minlength=len(index))
    often = n * chance > 5
    statistic = ((counts - n * chance)[often] ** 2 / (n * chance)[often]).sum()
    assert abs(statistic - often.sum()) < 5 * np.sqrt(2 * often.sum())
    ended = np.asarray(tk.lengths(strings)) < horizon
    assert ended.mean() > 0.5


def test_who_leaves_nothing_behind():
    """Tables, whose strings stay as they were to the bit; rows parted over devices; few rows; and
    on an accelerator batches that it computes as fast as smaller ones."""
    policy, _, _ = own()
    table = present(Markov().build().expert, "expert").policy
    assert rollout.stages(table, 4096) == (4096,)
    with parted(Parting(2)):
        assert rollout.stages(policy, 4096) == (4096,)
    assert rollout.stages(policy, 7) == (7, 4)
    assert rollout.stages(policy, 6) == (6,)
    assert rollout.stages(policy, 128) == (128, 64, 16)


def test_an_accelerators_batches_are_larger(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    policy, _, _ = own()
    assert rollout.stages(policy, 64) == (64,)
    assert rollout.stages(policy, 512) == (512, 256, 64)


def test_a_policy_within_another_still_leaves_strings_behind():
    """One that looks its features up, one at another temperature; and likewise one that cannot."""
    policy, _, _ = own()
    for made in (kept.policy(policy), tempered(policy, 2.0)):
        assert made.fewer is not None
    assert kept.policy(policy._replace(fewer=None)).fewer is None
