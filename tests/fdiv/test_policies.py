"""Policies: the sampler's law is the trainer's, padding changes nothing, classes are what they
say."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import law

from experiments.models.symbols import preceded
from fdiv import exact, rollout
from fdiv import tokens as tk
from fdiv.benchmarks import Markov, TwoTemplate
from fdiv.lm.context import behind
from fdiv.lm.hidden import Hidden
from fdiv.parted import Parting, parted
from fdiv.policies import Architecture, tabular, transformer
from fdiv.rollout import among, draw, likeliest, sampler, tempered, until_ended
from fdiv.types import PAD, Sequences, UsageError

V, EOS, P, H = 5, 4, 3, 6
ARCHITECTURES = {
    "independent": Architecture("independent"),
    "markov": Architecture("markov", order=2),
    "markov_t": Architecture("markov_t"),
    "full": Architecture("full"),
    "transformer": Architecture("transformer", width=16, layers=2, heads=4, kv_heads=2),
    "windowed": Architecture("transformer", width=16, layers=1, heads=2, kv_heads=1, window=2),
}


@functools.cache
def made(name):
    policy = ARCHITECTURES[name].policy(V, P + H)

    @jax.jit
    def params():
        noise = jax.random.key(1)
        start = policy.init(jax.random.key(0))
        return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(noise, x.shape), start)

    return policy, params()


@functools.cache
def distributions(name):
    """A policy's laws of the next token, as one compiled program."""
    policy, _ = made(name)
    return jax.jit(lambda params, tokens: tk.distributions(policy, params, tokens))


@functools.cache
def ragged_prompts(n=64):
    size = jax.random.randint(jax.random.key(2), (n, 1), 0, P + 1)
    tokens = jax.random.randint(jax.random.key(3), (n, P), 0, V - 1)
    tokens = jnp.where(jnp.arange(P)[None] < size, tokens, PAD)
    return Sequences(tokens, jnp.zeros_like(tokens, bool), jnp.ones(n))


@functools.cache
def written(name, prompted):
    """temperature -> (strings, log-probs by the sampler and by the trainer, whether the prompts are
    kept, which tokens come after EOS), one program for all temperatures."""
    policy, params = made(name)
    prompts = ragged_prompts() if prompted else tk.empty_prompts(64)

    @jax.jit
    def write(params, heat):
        softened = tempered(policy, heat)
        strings, sampled = sampler(H, EOS)(jax.random.key(4), softened, params, prompts)
        trained = tk.log_probs(softened, params, strings, V)
        same_prompts = (tk.prompts_of(strings, H).tokens == prompts.tokens).all()
        after_eos = jnp.cumsum(tk.previous(strings.tokens) == EOS, axis=1) > 0
        return strings, sampled, trained, same_prompts, after_eos

    return lambda heat: write(params, heat)  # a table is too large to be the program's constant


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("prompted", [True, False])
@pytest.mark.few(3)
def test_the_sampler_says_what_the_trainer_says(name, prompted):
    """Trap: the sampler's log-probs differ from the trainer's; at another temperature too."""
    for heat in (1.0, 0.7):
        strings, sampled, trained, same_prompts, after_eos = written(name, prompted)(heat)
        np.testing.assert_allclose(sampled, trained, atol=1e-5)
        assert bool(same_prompts)
        assert not (np.asarray(strings.mask) & np.asarray(after_eos)).any()


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_padding_on_either_side_changes_nothing(name):
    """Trap: padding leaks."""
    policy, params = made(name)
    strings, sampled, *_ = written(name, True)(1.0)
    log_probs = jax.jit(lambda p, x: tk.log_probs(policy, p, x, V))
    plain = log_probs(params, strings)
    np.testing.assert_allclose(sampled, plain, atol=1e-5)  # without a temperature too
    pad = lambda x, c: np.pad(x, [(0, 0), (2, 3)], constant_values=c)
    wider = Sequences(pad(strings.tokens, PAD), pad(strings.mask, False), strings.weight)
    np.testing.assert_allclose(log_probs(params, wider)[:, 2:-3], plain, atol=2e-6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_token_sees_itself_or_what_follows(name):
    _, params = made(name)
    tokens = jax.random.randint(jax.random.key(5), (1, H), 0, V - 1)
    other = tokens.at[0, 3].set((tokens[0, 3] + 1) % (V - 1))
    a, b = (np.asarray(distributions(name)(params, x)) for x in (tokens, other))
    np.testing.assert_allclose(a[0, :4], b[0, :4], atol=1e-6)
    if name not in ("independent",):
        assert np.abs(a[0, 4] - b[0, 4]).max() > 1e-4


def test_a_window_is_as_long_as_it_says():
    _, params = made(
        "windowed"
    )  # one layer, two tokens back: the law at t depends on tokens t-1 and t-2 alone
    tokens = jax.random.randint(jax.random.key(5), (1, H), 0, V - 1)
    for at in range(4):
        other = tokens.at[0, at].set((tokens[0, at] + 1) % (V - 1))
        a, b = (np.asarray(distributions("windowed")(params, x))[0, 5] for x in (tokens, other))
        assert (np.abs(a - b).max() > 1e-5) == (at >= 3), at


@pytest.mark.wide
def test_half_precision_and_computing_again_change_little_and_nothing():
    """bfloat16 keeps 8 bits of a product: log-probs move by less than .05, and by .02 between
    sampler and trainer."""
    shape = {"width": 16, "layers": 2, "heads": 4, "kv_heads": 2}
    _, params = made("transformer")
    narrow = Architecture("transformer", **shape, precision="bfloat16").policy(V, P + H)
    write = jax.jit(
        lambda params: sampler(H, EOS)(jax.random.key(4), narrow, params, ragged_prompts())
    )
    strings, sampled = write(params)
    said, slope = {}, {}
    for name, more in {
        "plain": {},
        "narrow": {"precision": "bfloat16"},
        "again": {"remat": True},
        "in part": {"remat_policy": "dots_saveable"},
    }.items():
        policy = Architecture("transformer", **shape, **more).policy(V, P + H)
        start = jax.eval_shape(policy.init, jax.random.key(0))
        assert jax.tree.structure(start) == jax.tree.structure(params)
        each = lambda p, policy=policy: tk.log_probs(policy, p, strings, V)
        both = jax.jit(
            lambda p, each=each: (each(p), jax.jit(jax.grad(lambda p: each(p).mean()))(p))
        )
        said[name], slope[name] = both(params)
        assert {x.dtype for x in jax.tree.leaves((said[name], slope[name]))} == {
            jnp.dtype("float32")
        }
    np.testing.assert_allclose(said["narrow"], said["plain"], atol=0.05)
    np.testing.assert_allclose(sampled, said["narrow"], atol=0.02)
    assert np.abs(np.asarray(said["narrow"]) - np.asarray(said["plain"])).max() > 1e-4
    for name in ("again", "in part"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), slope[name], slope["plain"]
        )


def test_what_layers_keep_is_not_computed_again():
    """Products in the gradient's program, by what a layer keeps: all of it, all products, those
    with weights, nothing."""
    shape = {"width": 8, "layers": 1, "heads": 2, "kv_heads": 1}
    x = Sequences(jnp.zeros((2, P + H), jnp.int32), jnp.ones((2, P + H), bool), jnp.ones(2))

    def products(**more) -> int:
        policy = Architecture("transformer", **shape, **more).policy(V, P + H)
        params = jax.eval_shape(policy.init, jax.random.key(0))
        slope = jax.grad(lambda params: tk.log_probs(policy, params, x, V).mean())
        return str(jax.make_jaxpr(slope)(params)).count("dot_general[")

    named = [
        products(remat_policy=name)
        for name in ("dots_saveable", "dots_with_no_batch_dims_saveable", "nothing_saveable")
    ]
    assert products() == named[0] < named[1] < named[2] == products(remat=True)
    with pytest.raises(UsageError, match="remat_policy"):
        Architecture("transformer", remat=False, remat_policy="dots_saveable").sizes()


@pytest.mark.parametrize("more", [{}, {"window": 3}, {"remat": True}])
def test_for_an_nvidia_gpu_whole_strings_go_through_cudnn(more, monkeypatch):
    """As far as a machine without one can tell: lowered for CUDA, a gradient of several seeds at
    once calls its kernels."""
    from jax._src.cudnn import fused_attention_stablehlo

    from fdiv.lm.block import Compute

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(Compute, "_beyond_cudnn", lambda compute, spec: "")
    sizes = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "precision": "bfloat16"}
    policy = Architecture("transformer", **sizes, **more).policy(V, P + H)
    strings = Sequences(jnp.zeros((4, P + H), jnp.int32), jnp.ones((4, P + H), bool), jnp.ones(4))
    params = jax.eval_shape(jax.vmap(policy.init), jax.random.split(jax.random.key(0), 3))
    slope = jax.vmap(jax.grad(lambda params: tk.log_probs(policy, params, strings, V).mean()))
    text = jax.jit(slope).trace(params).lower(lowering_platforms=("cuda",)).as_text()
    forward, backward = (text.count(f"@__cudnn$fmhaSoftmax{way}(") for way in ("", "Backward"))
    assert backward == 2
    assert forward == (4 if "remat" in more else 2)


def test_classes_are_nested():
    """A table of each class is one of the next, read on every string of a small space."""
    space = exact.enumerate_strings(3, 4, 2)
    read = {
        name: tabular.read(tabular.AUTOMATA[name](3, 4), jnp.asarray(space.sequences.tokens))
        for name in tabular.AUTOMATA
    }
    mask = np.asarray(space.sequences.mask)
    coarse = None
    for name in ("full", "markov_t", "markov", "independent"):
        states = np.asarray(read[name])[mask]
        if coarse is not None:  # the finer state decides the coarser one
            pairs = {(int(f), int(c)) for f, c in zip(coarse, states)}
            assert len({f for f, _ in pairs}) == len(pairs)
        coarse = states
    assert len(np.unique(np.asarray(read["full"])[mask])) == len(space.state_at[0])


SHORT = {
    **{name: Architecture(name) for name in ("independent", "markov", "markov_t", "full")},
    "scorer": Architecture("markov_t"),
    "two_template": TwoTemplate(vocab=V, horizon=H).build().expert,
}


@functools.cache
def short(name):
    """A model that says a token's number without a row of V for it, and its parameters."""
    if name == "two_template":
        return SHORT[name].policy, jax.tree.map(jnp.asarray, SHORT[name].params)
    made = SHORT[name].scorer if name == "scorer" else SHORT[name].policy
    model = made(V, P + H)
    start = (
        model.init(jax.random.key(0), None) if name == "scorer" else model.init(jax.random.key(0))
    )
    return model, start + jax.random.normal(jax.random.key(1), start.shape)


@pytest.mark.parametrize("name", SHORT)
def test_the_short_way_to_a_token_is_its_rows_entry(name):
    """Values to rounding and gradients; nothing off the mask; NaN of what is no token, as a row
    has it."""
    model, params = short(name)
    assert model.short is not None
    strings = tk.append(ragged_prompts(), jax.random.randint(jax.random.key(4), (64, H), 0, V), EOS)

    @functools.partial(jax.jit, static_argnums=0)
    def read(model, params, strings):
        say = lambda params: tk.taken(model, params, strings, V)
        numbers, pull = jax.vjp(say, params)
        return numbers, pull(jnp.cos(jnp.arange(numbers.size)).reshape(numbers.shape))

    got, wanted = read(model, params, strings), read(model._replace(short=None), params, strings)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6), got, wanted)
    assert not np.asarray(got[0])[~np.asarray(strings.mask)].any()
    none = strings._replace(tokens=jnp.where(strings.mask, V, strings.tokens))
    assert np.isnan(np.asarray(read(model, params, none)[0])[np.asarray(strings.mask)]).all()


CHANGED = {  # what makes another policy of one
    "tempered": lambda policy, params, strings: tempered(policy, 0.5),
    "read": lambda policy, params, strings: tk.read(policy, 2 * params, strings),
    "behind": lambda policy, params, strings: behind(policy, Hidden((0, 1))),
    "preceded": lambda policy, params, strings: preceded(policy, 0),
    "another head": lambda policy, params, strings: policy._replace(
        head=lambda params, features: jax.nn.log_softmax(2 * features)
    ),
}


@pytest.mark.parametrize("way", CHANGED)
def test_another_policy_made_of_one_has_not_its_short_way(way):
    """Trap: log-probs of the policy that was changed."""
    policy, params = short("markov")
    strings = tk.append(ragged_prompts(), jax.random.randint(jax.random.key(4), (64, H), 0, V), EOS)
    changed = CHANGED[way](policy, params, strings)
    say = lambda policy: tk.log_probs(policy, params, strings, V)
    np.testing.assert_array_equal(say(changed), say(changed._replace(short=None)))
    assert np.abs(np.asarray(say(changed) - say(policy))).max() > 0.1


@pytest.mark.parametrize(
    "bench", [TwoTemplate(), TwoTemplate(vocab=2, horizon=4, weight=0.3, noise=0.3), Markov()]
)
@pytest.mark.few(1)
def test_experts_sample_what_they_say(bench):
    """Demonstrations follow the expert's law, and so does its own autoregressive sampling
    (chi-square over all strings)."""
    mdp = bench.build()
    space = exact.enumerate_strings(mdp.vocab, mdp.horizon, mdp.eos)
    chance = np.exp(law(space, *mdp.expert).string)
    index = {tuple(row): i for i, row in enumerate(np.asarray(space.sequences.tokens))}
    n = 20_000
    roll = sampler(mdp.horizon, mdp.eos)

    @jax.jit
    def draws(demo_key, roll_key, prompt_key):
        prompts = mdp.prompts(prompt_key, n)
        return mdp.demos(demo_key, n), roll(roll_key, *mdp.expert, prompts)[0]

    for strings in draws(*map(jax.random.key, (7, 8, 9))):
        counts = np.bincount(
            [index[tuple(row)] for row in np.asarray(strings.tokens)], minlength=len(index)
        )
        kept = n * chance > 5
        statistic = ((counts - n * chance)[kept] ** 2 / (n * chance)[kept]).sum()
        freedom = kept.sum()
        assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


def test_draw_follows_its_law_and_stays_inside():
    log_probs = jnp.log(jnp.array([[0.5, 0.0, 0.3, 0.2]]))
    uniform = (jnp.arange(1000) + 0.5) / 1000
    counts = np.bincount(np.asarray(draw(uniform, jnp.repeat(log_probs, 1000, 0))), minlength=4)
    np.testing.assert_array_equal(counts, [500, 0, 300, 200])
    assert int(draw(jnp.array([1.0 - 1e-7]), log_probs)[0]) == 3


@pytest.mark.parametrize("horizon", [3 * H - 2, 1, H, H + 1])
@pytest.mark.few(1)
def test_stretches_change_nothing(horizon, monkeypatch):
    """Strings and log-probs are those of one scan, where the last stretch is not full, and where
    all strings have ended before it."""
    policy, params = made("markov")
    both, prompts = [], ragged_prompts(8)
    for stretch in (H, 100):
        monkeypatch.setattr(rollout, "STRETCH", stretch)
        write = lambda params: sampler(horizon, (EOS, 0))(
            jax.random.key(4), policy, params, prompts
        )
        both.append(jax.jit(write)(params))
    jax.tree.map(np.testing.assert_array_equal, *both)


@pytest.mark.parametrize("prompted", [True, False])
@pytest.mark.parametrize("eos", [EOS, (EOS,), (EOS, 0)])
@pytest.mark.few(2)
def test_no_step_after_the_last_end_changes_nothing(eos, prompted):
    """The strings and log-probs of the whole loop, with one token that ends strings or two."""
    policy, params = made("markov")
    prompts = ragged_prompts() if prompted else tk.empty_prompts(64)
    both = jax.jit(
        lambda key: [loop(H, eos)(key, policy, params, prompts) for loop in (sampler, until_ended)]
    )
    (whole, log_probs), (early, early_log_probs) = both(jax.random.key(4))
    np.testing.assert_array_equal(whole.tokens, early.tokens)
    np.testing.assert_array_equal(whole.mask, early.mask)
    np.testing.assert_array_equal(log_probs, early_log_probs)
    ends = np.isin(whole.tokens, eos) & np.asarray(whole.mask)
    assert ends.any()
    assert ends.sum(1).max() == 1
    assert np.asarray(tk.ended(whole, eos)).tolist() == ends.any(1).tolist()
    if eos == (EOS,):
        same = sampler(H, EOS)(jax.random.key(4), policy, params, prompts)[0]
        np.testing.assert_array_equal(whole.tokens, same.tokens)


def test_a_choice_among_tokens_is_of_these_alone():
    """Probabilities .5, .1, .3, .1 of which the first and the last may not be: .25 and .75."""
    log_probs = jnp.log(jnp.array([[0.5, 0.1, 0.3, 0.1]]))
    some = jnp.array([1, 2])
    uniforms = jnp.linspace(0, 1, 1000, endpoint=False)
    drawn = among(some)(uniforms, jnp.tile(log_probs, (1000, 1)))
    np.testing.assert_array_equal(np.bincount(drawn, minlength=4), [0, 250, 750, 0])
    assert among(some, likeliest)(uniforms[:1], log_probs).tolist() == [2]


def test_temperature_one_is_no_change_and_cold_is_greedy():
    policy, params = made("markov")
    tokens = jnp.zeros((1, 3), jnp.int32)
    np.testing.assert_allclose(
        tk.distributions(tempered(policy, 1.0), params, tokens),
        tk.distributions(policy, params, tokens),
        atol=1e-6,
    )
    cold = jnp.exp(tk.distributions(tempered(policy, 0.01), params, tokens))
    assert float(cold.max(-1).min()) > 0.99


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        (Architecture("markov", layers=2), "no such size"),
        (Architecture("transformer", width=30), "multiple of"),
        (Architecture("transformer", heads=4, kv_heads=3), "divisor"),
        (Architecture("markov", order=-1), "from 0"),
        (Architecture("full"), "transformer"),
        (Architecture("transformer", window=0), "window"),
        (Architecture("transformer", attention="cudnn"), "no NVIDIA GPU"),
        (Architecture("transformer", attention="x"), "auto"),
    ],
)
def test_sizes_that_cannot_be_are_refused(architecture, says):
    with pytest.raises(UsageError, match=says):
        architecture.policy(257, 128)


def test_what_is_computed_of_rows_is_put_on_their_devices():
    """Once after the embedding, once after each of two layers; nothing where nobody says where."""
    policy = transformer.policy(transformer.Shape(layers=2, width=8, heads=2, kv_heads=1), 5)
    params = jax.eval_shape(policy.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((4, 3), jnp.int32)
    placed = []

    def place(x):
        placed.append(x.shape)
        return x

    jax.eval_shape(policy.trunk, params, tokens)
    assert placed == []
    with parted(Parting(2, place)):
        jax.eval_shape(lambda *arrays: policy.trunk(*arrays), params, tokens)
    assert placed == [(4, 3, 8)] * 3
