"""The fused head is the plain way: values and gradients for every f, whatever the chunks, and no
array over all tokens and symbols."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import EVERY

from fdiv import divergences, head, objectives, prefixes
from fdiv import tokens as tk
from fdiv.head import Head, Readout
from fdiv.policies import Architecture
from fdiv.rollout import sampler, tempered
from fdiv.types import (
    PAD,
    Components,
    Model,
    Pairs,
    Regulariser,
    Scorer,
    Sequences,
    TokenMDP,
    UsageError,
)

SHAPE, D, E, V = (3, 5), 6, 4, 11  # of the target's features E
CAP = 5.0
OWN = divergences.from_generator(lambda u: (u - 1) ** 2 / (u + 1), "own")
MEMBERS = {**{name: divergences.parse(name) for name in EVERY}, "own": OWN}


def numbers(dtype=np.float32, seed=0):
    """(features, weights, bias, temperature), (the target's features and weights), tokens, the
    mask, a weight per token."""
    draw = np.random.default_rng(seed)
    some = lambda *shape: jnp.asarray(draw.standard_normal(shape), dtype)
    own = (some(*SHAPE, D), some(V, D), some(V), jnp.asarray(0.8, dtype))
    target = (some(*SHAPE, E), some(V, E))
    mask = draw.random(SHAPE) < 0.6
    tokens = np.where(mask, draw.integers(0, V, SHAPE), PAD).astype(np.int32)
    weight = np.where(mask, np.abs(draw.standard_normal(SHAPE)), 0)
    return own, target, jnp.asarray(tokens), jnp.asarray(mask), jnp.asarray(weight, dtype)


def as_head(features, weights, bias=None, temperature=1.0):
    return Head(features, Readout(weights, bias, None if bias is None else CAP, temperature))


def plainly(features, weights, bias, temperature):
    """The law [..., V] by the formula in the readout's docstring."""
    z = features @ weights.T + bias[None, None]
    return jax.nn.log_softmax(CAP * jnp.tanh(z / CAP) / temperature)


def slopes(loss, numbers, which=(0, 1, 2, 3)):
    """Value and gradients, one compiled program."""
    return jax.tree.leaves(jax.jit(jax.value_and_grad(loss, which))(*numbers))


def near(got, wanted, tolerance):
    """The largest error of each array, over its largest entry."""
    for x, y in zip(got, wanted, strict=True):
        x, y = (np.asarray(a, np.float64) for a in (x, y))
        assert np.isfinite(x).all()
        assert np.abs(x - y).max() <= tolerance * max(np.abs(y).max(), 1e-30)


def check_divergence(d, dtype, tolerance, parts):
    """Both forms against autodiff of the plain way, a chunk of four tokens at a time."""
    own, (other, other_weights), _, mask, weight = numbers(dtype)
    target = as_head(other, other_weights)
    log_p = jax.nn.log_softmax(other @ other_weights.T)

    def plain(*own):
        return jnp.sum(weight * d.perspective(log_p, plainly(*own)).sum(-1))

    def summed(*own):
        return head.divergence(d, as_head(*own), target, weight, chunk=4)

    def each(*own):
        return jnp.sum(weight * head.divergences([d], as_head(*own), target, mask, chunk=4)[0])

    wanted = slopes(plain, own)
    for loss in (summed, each):
        near(slopes(loss, own)[:parts], wanted[:parts], tolerance)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.few(2)
def test_every_divergence_equals_the_plain_way(name):
    check_divergence(MEMBERS[name], np.float64, 1e-12, parts=5)


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.few(1)
def test_every_divergence_equals_the_plain_way_in_single_precision(name):
    """Bias and temperature are left to double precision: their gradients are sums that cancel, in
    the plain way too."""
    check_divergence(MEMBERS[name], np.float32, 1e-6, parts=3)


def test_the_slope_is_reward_minus_its_mean():
    """dlogits = -(r - q sum r), r = q reward(log p - log q): with weights the identity and D = V
    features are logits."""
    z, other = np.random.default_rng(1).standard_normal((2, 4, V)).astype(np.float32)
    law = lambda z: Head(z, Readout(jnp.eye(V)))

    def both(z, other, d):
        log_p, log_q = jax.nn.log_softmax(other), jax.nn.log_softmax(z)
        r = jnp.exp(log_q) * d.reward(log_p - log_q)
        loss = lambda z: head.divergence(d, law(z), law(other), jnp.ones(4))
        return jax.grad(loss)(z), -(r - jnp.exp(log_q) * r.sum(-1, keepdims=True))

    for name in ("js", "own"):
        found, wanted = jax.jit(functools.partial(both, d=MEMBERS[name]))(z, other)
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@functools.cache
def others():
    """Losses that need no target, as (fused with a chunk, plain): name -> pair of functions of the
    arrays and the rest."""

    def likelihoods(own, tokens):
        return jnp.take_along_axis(plainly(*own), jnp.maximum(tokens, 0)[..., None], -1)[..., 0]

    def disorder(own):
        log_q = plainly(*own)
        return -(jnp.exp(log_q) * log_q).sum(-1)

    def best(own):
        law = -jnp.sort(-plainly(*own))
        return law[..., :3], jax.nn.logsumexp(law[..., 3:], axis=-1)

    def squares(w, top, tail):
        return jnp.sum(w[..., None] * top**2) + jnp.sum(w * tail**2)

    def top(own, mask, w, chunk):
        found = head.top_k(as_head(*own), 3, mask, chunk)
        return squares(w, found.log_probs, found.tail)

    return {
        "negative_log_likelihood": (
            lambda own, t, m, w, c: head.negative_log_likelihood(as_head(*own), t, w, c),
            lambda own, t, w: -jnp.sum(w * likelihoods(own, t)),
        ),
        "log_probs": (
            lambda own, t, m, w, c: jnp.sum(w * head.log_probs(as_head(*own), t, m, c) ** 2),
            lambda own, t, w: jnp.sum(w * likelihoods(own, t) ** 2),
        ),
        "entropy": (
            lambda own, t, m, w, c: head.entropy(as_head(*own), w, c),
            lambda own, t, w: jnp.sum(w * disorder(own)),
        ),
        "entropies": (
            lambda own, t, m, w, c: jnp.sum(w * head.entropies(as_head(*own), m, c) ** 2),
            lambda own, t, w: jnp.sum(w * disorder(own) ** 2),
        ),
        "top_k": (
            lambda own, t, m, w, c: top(own, m, w, c),
            lambda own, t, w: squares(w, *best(own)),
        ),
    }


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", others())
@pytest.mark.few(2)
def test_the_other_losses_equal_the_plain_way_at_any_chunk(name):
    """4 of 15 tokens at a time, a size that divides nothing, and all at once."""
    own, _, tokens, mask, weight = numbers(np.float64)
    fused, plain = others()[name]
    wanted = slopes(lambda *own: plain(own, tokens, weight), own)
    for chunk in (4, None):
        loss = lambda *own, chunk=chunk: fused(own, tokens, mask, weight, chunk)
        near(slopes(loss, own), wanted, 1e-12)


def test_top_k_names_the_likeliest_tokens_and_the_rest_of_the_mass():
    own, _, _, mask, _ = numbers()
    law = np.asarray(plainly(*own))
    for chunk in (4, None):
        first = lambda *own, chunk=chunk: head.top_k(as_head(*own), 3, mask, chunk)
        found = jax.jit(first)(*own)
        order = np.argsort(-law, axis=-1)[..., :3]
        np.testing.assert_array_equal(found.tokens, np.where(mask[..., None], order, 0))
        total = np.exp(found.log_probs).sum(-1) + np.exp(found.tail)
        np.testing.assert_allclose(np.asarray(total)[mask], 1.0, rtol=1e-6)


def test_what_stands_at_tokens_that_do_not_count_is_never_read():
    """Neither a feature that is no number nor a token past the vocabulary, at any chunk."""
    own, (other, other_weights), tokens, mask, weight = numbers()
    dirt = lambda x: np.where(mask[..., None], x, np.float32(np.nan))
    clean = own, (other, other_weights), tokens
    strange = np.where(mask, tokens, V + 3)
    dirty = (dirt(own[0]), *own[1:]), (dirt(other), other_weights), strange

    def both(own, target, tokens, chunk):
        own, target = as_head(*own), as_head(*target)
        nll = head.negative_log_likelihood(own, tokens, weight, chunk)
        return nll + head.divergence(MEMBERS["js"], own, target, weight, chunk)

    slopes = jax.jit(jax.value_and_grad(both), static_argnums=3)
    wanted = jax.tree.leaves(slopes(*clean, None))
    for chunk in (4, None):
        near(jax.tree.leaves(slopes(*dirty, chunk)), wanted, 1e-6)


def test_a_token_past_the_vocabulary_has_no_probability():
    own, _, tokens, mask, _ = numbers()
    wrong = np.where(mask, V, tokens)
    found = jax.jit(lambda own: head.log_probs(as_head(*own), wrong, mask, 4))(own)
    assert np.isnan(np.asarray(found)[np.asarray(mask)]).all()


@pytest.mark.usefixtures("double")
def test_mapped_over_seeds_with_one_teacher():
    """Weights vmapped, the teacher broadcast, the gradient inside the map and around it."""
    seeds = 3
    runs = [numbers(np.float64, seed) for seed in range(seeds)]
    own = [jnp.stack(x) for x in zip(*(run[0][:2] for run in runs))]
    weight = jnp.stack([run[4] for run in runs])
    target, d = as_head(*runs[0][1]), MEMBERS["js"]
    loss = lambda h, w, weight: head.divergence(d, as_head(h, w), target, weight, chunk=4)
    inside = jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1))))(*own, weight)
    total = lambda h, w: jax.vmap(loss)(h, w, weight).sum()
    near(jax.tree.leaves(jax.jit(jax.grad(total, (0, 1)))(*own)), inside[1], 1e-12)
    alone = jax.jit(jax.value_and_grad(loss, (0, 1)))
    each = [alone(*(x[seed] for x in own), weight[seed]) for seed in range(seeds)]
    near(jax.tree.leaves(inside), [jnp.stack(x) for x in zip(*map(jax.tree.leaves, each))], 1e-12)


def test_half_precision_is_read_and_sums_are_single():
    """The value is that of the rounded arrays; slopes are rounded once to 8 bits before their
    product (1 in 256)."""
    (h, w, *_), (other, other_weights), *_ = numbers()
    weight = jnp.ones(SHAPE)
    half = lambda x: x.astype(jnp.bfloat16)
    loss = lambda h, w, p, wp: head.divergence(
        MEMBERS["js"], as_head(h, w), as_head(p, wp), weight, chunk=4
    )
    rounded = [half(x) for x in (h, w, other, other_weights)]
    found = jax.jit(jax.value_and_grad(loss, (0, 1)))(*rounded)
    assert found[0].dtype == jnp.float32
    assert {x.dtype for x in found[1]} == {jnp.dtype(jnp.bfloat16)}
    wide = [x.astype(jnp.float32) for x in rounded]
    value, wanted = jax.jit(jax.value_and_grad(loss, (0, 1)))(*wide)
    assert float(found[0]) == pytest.approx(float(value), rel=1e-6)
    near(found[1], wanted, 1 / 100)


def test_weights_have_a_gradient_too():
    """The value of each token, those of weight 0 among them."""
    own, target, _, mask, weight = numbers()

    @jax.jit
    def both(own, target, weight):
        laws = as_head(*own), as_head(*target)
        loss = lambda w: 3 * head.divergence(MEMBERS["js"], *laws, w, chunk=4)
        each = head.divergences([MEMBERS["js"]], *laws, jnp.ones_like(mask))[0]
        return jax.grad(loss)(weight), 3 * each

    np.testing.assert_allclose(*both(own, target, weight), rtol=1e-6)


# --- what is not made -----------------------------------------------------------------------------


def shapes(jaxpr) -> set[tuple[int, ...]]:
    """Of every array that a program makes, in its loops too."""
    made = set()
    for equation in jaxpr.eqns:
        made |= {x.aval.shape for x in equation.outvars}
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                made |= shapes(inner)
    return made


def made_by(function, *arguments) -> set[tuple[int, ...]]:
    return shapes(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_a_frozen_head_has_no_gradient_made():
    """Neither where only features are differentiated, nor through stop_gradient, nor a
    teacher's."""
    own, (other, other_weights), *_, weight = numbers()
    target = as_head(other, other_weights)
    loss = lambda h, w: head.divergence(MEMBERS["js"], as_head(h, w), target, weight, chunk=4)
    trained = made_by(jax.grad(loss, (0, 1)), *own[:2])
    assert (1, V, D) in trained
    assert (1, V, E) not in trained
    frozen = made_by(jax.grad(loss), *own[:2])
    stopped = made_by(jax.grad(lambda h, w: loss(h, jax.lax.stop_gradient(w))), *own[:2])
    assert (1, V, D) not in frozen | stopped
    near(slopes(loss, own[:2], (0,)), slopes(loss, own[:2], (0, 1))[:2], 1e-6)


def test_as_many_chunks_as_the_tokens_that_count_need():
    """9 of 15 tokens in fours: three chunks, not four; of two mapped runs the longer one's."""
    counts = np.isin(np.arange(15), [0, 2, 3, 5, 7, 8, 11, 13, 14])[None]
    trips = lambda counts: jnp.asarray(head._chunks(counts, V, 4).trips)
    assert int(jax.jit(trips)(counts)) == 3
    both = np.stack([counts, counts & (np.arange(15) < 3)])
    assert jax.jit(jax.vmap(trips))(both).tolist() == [3, 3]


def test_unlike_laws_are_refused():
    """Another vocabulary, and features of another model."""
    (h, w, *_), (other, other_weights), *_, weight = numbers()
    target = as_head(other, other_weights)
    with pytest.raises(UsageError, match="vocab"):
        head.divergence(OWN, as_head(h, w), as_head(other, other_weights[:-1]), weight)
    with pytest.raises(UsageError, match="features"):
        head.divergence(OWN, as_head(other, w), target, weight)


# --- policies -------------------------------------------------------------------------------------

H = 6
SMALL = Architecture("transformer", width=8, layers=1, heads=2, kv_heads=1)
PLAIN_ARRAY = 4 * H * V  # B, T, V


@functools.cache
def transformer():
    """(policy, params, a teacher, strings)."""
    policy = SMALL.policy(V, H)
    # each is traced once for all losses and methods
    once = {name: jax.jit(getattr(policy, name)) for name in ("init", "trunk", "step")}
    policy = policy._replace(**once)
    own, other = (policy.init(jax.random.key(seed)) for seed in (0, 1))
    draw = np.random.default_rng(0)
    tokens = jnp.asarray(draw.integers(0, V, (4, H)))
    mask = jnp.arange(H)[None] < jnp.asarray([[6], [4], [5], [2]])
    weight = jnp.asarray([1.0, 0.5, 2.0, 1.0])
    return policy, own, other, Sequences(jnp.where(mask, tokens, PAD), mask, weight)


@pytest.mark.wide
def test_a_transformer_goes_through_its_readout(monkeypatch):
    """Losses of a policy with a readout and of the same one without: values and gradients."""
    policy, params, other, strings = transformer()

    def losses(policy):
        def at(params):
            own, teacher = Model(tempered(policy, 0.7), params), Model(policy, other)
            scored = prefixes.Scored(strings, jnp.where(strings.mask, 0.5, 0.0))
            members = [MEMBERS[name] for name in ("reverse_kl", "js")]
            each = prefixes.divergences(members, teacher, own, strings, V)
            return (
                prefixes.likelihood_loss(own, strings, V)
                + prefixes.policy_gradient_loss(own, scored, V) ** 2
                + prefixes.divergence_loss(MEMBERS["js"], teacher, own, strings, V) ** 2
                + jnp.sum(each[0] ** 2 + each[1])
                + prefixes.entropy_sum(own, strings, V) ** 2
                + jnp.sum(tk.log_probs(*own, strings, V) ** 2)
            )

        return jax.tree.leaves(jax.jit(jax.value_and_grad(at))(params))

    wanted = losses(policy._replace(readout=None))
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 5 * V)
    monkeypatch.setattr(head, "FEWEST_TOKENS", 5)
    near(losses(policy), wanted, 1e-5)


def task() -> Components:
    """A score, a reference, a teacher and comparisons, all of one transformer."""
    policy, params, other, strings = transformer()
    some = lambda key, n: strings
    mdp = TokenMDP(
        V,
        H,
        None,
        lambda key, n: tk.empty_prompts(4),
        some,
        some,
        Model(policy, other),
        score=lambda x: x.mask.sum(1).astype(jnp.float32),
        regulariser=Regulariser("reverse_kl", 0.1, Model(policy, other)),
    )
    value = lambda params, x: x @ params
    critic = Scorer(
        lambda key, start: jnp.zeros((8, 1)), lambda p, t: policy.trunk(params, t), value
    )
    return Components(policy, mdp, sampler(H, None), critic=critic)


METHODS = {
    "sft": {},
    "distill:js": {},
    "dagger:reverse_kl": {},
    "reverse_kl": {},
    "reinforce": {},
    "rloo": {"group": 2},
    "grpo": {"group": 2},
    "ppo": {"entropy": 0.1},
    "dpo": {},
    "ipo": {},
    "kto": {},
    "simpo": {},
    "spin": {},
}


@pytest.mark.few(3)
@pytest.mark.parametrize("name", METHODS)
def test_no_method_holds_all_tokens_and_symbols(name, monkeypatch):
    """Neither in its preparation nor in its loss and gradient; without a readout all of them do."""
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 5 * V)
    monkeypatch.setattr(head, "FEWEST_TOKENS", 5)
    _, params, _, strings = transformer()

    def largest(policy):
        components = task()._replace(policy=policy)
        method = objectives.resolve(name, **METHODS[name])
        objective = method.build(components)
        batch = Pairs(strings, strings) if method.reads in ("pairs", "labels") else strings

        def update(params):
            aux = objective.init(jax.random.key(0), params)
            aux, rows, _ = objective.prepare(jax.random.key(1), params, aux, batch)
            return jax.value_and_grad(objective.loss, has_aux=True)(params, aux, rows)

        return max(np.prod(x, dtype=int) for x in made_by(update, params) if V in x)

    policy = transformer()[0]
    assert largest(policy) < PLAIN_ARRAY
    assert largest(policy._replace(readout=None)) >= PLAIN_ARRAY


# --- devices --------------------------------------------------------------------------------------

PARTED = """
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from fdiv import divergences, head
from fdiv.head import Head, Readout
from fdiv.parted import Parting, parted

mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
draw = np.random.default_rng(0)
some = lambda *shape: jnp.asarray(draw.standard_normal(shape), jnp.float32)
B, T, D, V = 4, 6, 8, 64
h, w, p, wp = some(B, T, D), some(V, D), some(B, T, D), some(V, D)
tokens = jnp.asarray(draw.integers(0, V, (B, T)))
weight = 1.0 * jnp.asarray(draw.random((B, T)) < 0.7)
d = divergences.js()

def loss(h, w, p, wp, tokens, weight):
    own = Head(h, Readout(w))
    picked = head.log_probs(own, tokens, weight > 0, 8)
    return head.divergence(d, own, Head(p, Readout(wp)), weight, 8) + jnp.sum(picked ** 2)

step = jax.value_and_grad(loss, (0, 1))
alone = jax.jit(step)(h, w, p, wp, tokens, weight)
def two(*arguments):
    with parted(Parting(2)):
        return step(*arguments)
rows, vocab = (NamedSharding(mesh, spec) for spec in (P("data"), P("tensor")))
places = (rows, vocab, rows, vocab, rows, rows)
arguments = [jax.device_put(x, s) for x, s in zip((h, w, p, wp, tokens, weight), places)]
compiled = jax.jit(two, out_shardings=(None, (rows, vocab))).lower(*arguments).compile()
for x, y in zip(jax.tree.leaves(compiled(*arguments)), jax.tree.leaves(alone)):
    # terms of an array's largest size cancel in its smallest, in another order on each processor
    np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6 * np.max(np.abs(y)))
# no device gathers the weights or all logits: what it makes is its part of V
text = compiled.as_text()
assert "all-reduce" in text
assert not re.search(r"f32\\[(\\d+,)*64(,\\d+)*\\]\\S* all-gather", text), "weights are gathered"
print("parted")
"""


def test_a_vocabulary_parted_over_devices_gives_the_same():
    """Four devices, tokens over two and symbols over two; a process of its own, which alone may
    have four."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PARTED],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "parted", done.stderr[-2000:]
