"""Every family computes what transformers does, and a planted mistake is seen."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from language_models import CASES, LENGTH, ROWS, golden, random_tensors, random_tokens, spec_of

from fdiv import tokens as tk
from fdiv.lm import model, parity, weights
from fdiv.lm.block import Compute
from fdiv.rollout import sampler
from fdiv.types import PAD, Sequences, UsageError


def load(spec, tensors=None):
    return weights.load(spec, weights.Arrays(tensors or random_tensors(spec)))


@functools.cache
def laws(spec, compute):
    """(params, strings) -> the law of each token, compiled once for an architecture."""
    policy = model.policy(spec, compute)
    return jax.jit(lambda params, strings: tk.distributions(policy, params, strings))


def own_logits(spec, params, tokens, compute=None):
    """Log-probs of what follows each token, [ROWS, LENGTH, V]."""
    strings = np.pad(tokens, [(0, 0), (0, 1)], constant_values=PAD)
    return np.asarray(laws(spec, compute)(params, strings))[:, 1:]


def measured(case, spec=None, tensors=None):
    spec = spec or spec_of(case)
    own = own_logits(spec, load(spec, tensors), random_tokens(case))
    return parity.compare(golden(case), own)


@pytest.mark.few(7)
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case):
    result = measured(case)
    print(case, result)
    assert result.holds


@pytest.mark.parametrize("case", ["llama3", "gemma2", "gemma3", "qwen3", "phi3_longrope"])
@pytest.mark.few(1)
def test_decoding_is_the_trunk(case):
    """From a prompt of 7 and of 4 tokens, each next token given; windows and caps among them."""
    spec = spec_of(case)
    policy, params, width = model.policy(spec), load(spec), 7
    tokens = jnp.asarray(random_tokens(case)).at[1, 4:width].set(PAD)
    prompts = Sequences(tokens[:, :width], jnp.zeros((ROWS, width), bool), jnp.ones(ROWS))
    actions = tokens[:, width:]
    strings = tk.append(prompts, actions, None).tokens

    @jax.jit
    def both(params):
        cache = policy.start(params, prompts, LENGTH - width)
        last = jnp.stack([tokens[0, 6], tokens[1, 3]])
        read = jnp.concatenate([last[:, None], actions[:, :-1]], axis=1)
        step = lambda cache, token: policy.step(params, cache, token)
        decoded = jax.lax.scan(step, cache, read.T)[1].swapaxes(0, 1)
        return decoded, tk.distributions(policy, params, strings)

    decoded, whole = both(params)
    for row, begin in enumerate((7, 4)):
        np.testing.assert_allclose(
            decoded[row], whole[row, begin : begin + LENGTH - width], atol=3e-5
        )


def interleaved(spec, tensors):
    """Rows of queries and keys in the order that GGUF keeps llama's in."""
    for name in tensors:
        if "q_proj" in name or "k_proj" in name:
            rows = tensors[name].reshape(-1, 2, spec.head_dim // 2, spec.width)
            tensors[name] = rows.swapaxes(1, 2).reshape(-1, spec.width)
    return spec, tensors


def changed(**fields):
    return lambda spec, tensors: (dataclasses.replace(spec, **fields), tensors)


def other_rope(**fields):
    def plant(spec, tensors):
        ropes = (dataclasses.replace(spec.ropes[0], **fields), *spec.ropes[1:])
        return dataclasses.replace(spec, ropes=ropes), tensors

    return plant


def swapped(spec, tensors):
    """Gate and up in each other's place."""
    other = {"gate_proj": "up_proj", "up_proj": "gate_proj"}
    rename = lambda name: next((name.replace(a, b) for a, b in other.items() if a in name), name)
    return spec, {rename(name): array for name, array in tensors.items()}


TRAPS = {
    "queries and keys interleaved": ("smollm2", interleaved),
    "theta of another model": ("smollm2", other_rope(theta=10_000.0)),
    "eps of another model": ("llama", changed(eps=1e-6)),
    "embedding scaled": ("smollm2", changed(scale_embedding=True)),
    "embedding not scaled": ("gemma3", changed(scale_embedding=False)),
    "weight instead of 1 + weight": ("gemma2", changed(unit_offset=False)),
    "1 + weight instead of weight": ("llama", changed(unit_offset=True)),
    "llama3 rope left out": ("llama3", other_rope(kind="default")),
    "linear rope left out": ("llama_linear", other_rope(kind="default")),
    "short factors left out": ("phi3_longrope", other_rope(short=(1.0,) * 6)),
    "amplitude left out": ("phi3_longrope", other_rope(amplitude=1.0)),
    "window one too wide": ("mistral", changed(windows=(6, 6))),
    "window left out": ("gemma2", changed(windows=(None,) * 4)),
    "layers' order of windows": ("gemma3", changed(windows=(None, 5, 5, None))),
    "one theta for both kinds of layer": ("gemma3_new", changed(rope_of=(0,) * 4)),
    "attention's cap left out": ("gemma2", changed(attention_cap=None)),
    "final cap left out": ("gemma2", changed(final_cap=None)),
    "attention scaled by the heads' size": ("gemma3", changed(attention_scale=8**-0.5)),
    "silu in gemma": ("gemma3", changed(activation="silu")),
    "gate and up swapped": ("qwen3", swapped),
}


@pytest.mark.parametrize("name", TRAPS)
@pytest.mark.few(7)
def test_a_planted_mistake_fails_the_bar(name):
    case, plant = TRAPS[name]
    spec = spec_of(case)
    assert not measured(case, *plant(spec, random_tensors(spec))).holds


@pytest.mark.parametrize("case", CASES)
def test_the_exporter_is_the_loader_read_backwards(case):
    """Bit for bit, and as contiguous arrays: a writer takes their memory as it lies."""
    spec, tensors = spec_of(case), random_tensors(spec_of(case))
    written = dict(weights.stored(spec, load(spec, tensors)))
    assert list(written) == list(tensors)
    for name, array in written.items():
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, tensors[name])


def test_gradients_are_the_same_with_remat():
    spec = spec_of("gemma2")
    params, tokens = load(spec), jnp.asarray(random_tokens("gemma2"))
    strings = Sequences(tokens, jnp.arange(LENGTH)[None].repeat(ROWS, 0) > 0, jnp.ones(ROWS))

    def loss(params, remat):
        policy = model.policy(spec, Compute(remat=remat))
        return tk.log_probs(policy, params, strings, spec.vocab).sum()

    plain, again = (jax.jit(jax.grad(lambda p: loss(p, r)))(params) for r in (False, True))  # noqa: B023
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=4e-5), plain, again)


def test_bfloat16_is_near():
    """The floor under every divergence that is measured in bfloat16: far above the bar."""
    spec, tokens = spec_of("qwen2"), random_tokens("qwen2")
    own = own_logits(spec, load(spec), tokens, Compute(precision="bfloat16"))
    result = parity.compare(golden("qwen2"), own)
    assert parity.MAX_KL < result.max_kl < 0.01


def test_a_token_before_every_string_gives_the_first_token_a_law():
    """With BOS = 5 read first, the law at column t is that of transformers after t + 1 tokens that
    begin with 5; empty prompts can be sampled from."""
    spec = spec_of("smollm2")
    params, policy = load(spec), model.policy(spec, bos=5)
    tokens = random_tokens("smollm2")
    whole = own_logits(spec, params, np.pad(tokens[:, :-1], [(0, 0), (1, 0)], constant_values=5))

    @jax.jit
    def read(params):
        roll = sampler(4, None)
        strings, log_probs = roll(jax.random.key(0), policy, params, tk.empty_prompts(3))
        again = tk.log_probs(policy, params, strings, spec.vocab)
        return tk.distributions(policy, params, jnp.asarray(tokens)), log_probs, again

    law, log_probs, again = read(params)
    np.testing.assert_allclose(law, whole, atol=1e-5)
    np.testing.assert_allclose(log_probs, again, atol=1e-5)


def test_without_it_a_prompt_is_needed():
    policy = model.policy(spec_of("smollm2"))
    with pytest.raises(UsageError, match="prompts"):
        policy.start(load(spec_of("smollm2")), tk.empty_prompts(2), 3)


def test_text_beyond_the_length_of_a_long_rope_is_refused():
    """What counts is what is read: the last column of strings is not, nor is a last token that is
    sampled, unless a token stands before the first."""
    spec = spec_of("phi3_longrope")
    params = jax.tree.map(jnp.asarray, load(spec))
    strings = lambda length: jnp.zeros((1, length), jnp.int32)

    def start(policy, horizon):
        prompts = Sequences(strings(3), jnp.zeros((1, 3), bool), jnp.ones(1))
        return jax.eval_shape(lambda p: policy.start(params, p, horizon), prompts)

    for bos, most in ((None, 33), (1, 32)):
        policy = model.policy(spec, bos=bos)
        jax.eval_shape(policy.trunk, params, strings(most))
        start(policy, most - 3)
        with pytest.raises(UsageError, match="32"):
            jax.eval_shape(policy.trunk, params, strings(most + 1))
        with pytest.raises(UsageError, match="32"):
            start(policy, most - 2)


def test_layers_are_taken_out():
    """Without its middle layers a model is that of a checkpoint without them."""
    spec, tensors = spec_of("gemma3"), random_tensors(spec_of("gemma3"))
    kept = (0, 3)
    params = weights.only(load(spec, tensors), kept)
    fewer = {n: a for n, a in tensors.items() if ".layers.1." not in n and ".layers.2." not in n}
    fewer = {n.replace(".layers.3.", ".layers.1."): a for n, a in fewer.items()}
    jax.tree.map(np.testing.assert_array_equal, params, load(spec.only(kept), fewer))
    assert spec.only(kept).windows == (5, 5)
    assert spec.only((0, 2)).rope_of == (1, 0)


MISTAKES = {
    "missing": (lambda t: t.pop("model.norm.weight"), "model.norm.weight.*not in the checkpoint"),
    "extra": (lambda t: t.update(extra=np.zeros(3)), "extra.*belongs to nothing"),
    "shape": (
        lambda t: t.update({"model.norm.weight": np.zeros(7, np.float32)}),
        r"model.norm.weight.*\[7\].*\[32\]",
    ),
    "another bias": (
        lambda t: t.update({"model.layers.0.self_attn.o_proj.bias": np.zeros(32)}),
        "o_proj.bias",
    ),
    "another head": (
        lambda t: t.update({"lm_head.weight": np.zeros((64, 32), np.float32)}),
        "lm_head.*differs",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_tensors_that_do_not_fit_are_refused_by_name(name):
    change, match = MISTAKES[name]
    tensors = random_tensors(spec_of("qwen2"))
    change(tensors)
    with pytest.raises(UsageError, match=match):
        load(spec_of("qwen2"), tensors)


def test_tensors_that_no_text_model_reads_are_left():
    """Buffers of old versions, a head that repeats the embedding, and a vision tower."""
    spec = spec_of("gemma3")
    tensors, params = random_tensors(spec), load(spec)
    head = {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4)}
    jax.tree.map(np.testing.assert_array_equal, params, load(spec, tensors | head | buffer))
    sees = {"vision_tower.embed.weight": np.zeros(3), "multi_modal_projector.w": np.zeros(3)}
    seeing = {f"language_model.{name}": array for name, array in tensors.items()} | sees
    jax.tree.map(np.testing.assert_array_equal, params, load(spec, seeing))
    new = {n.replace("model.", "model.language_model.", 1): a for n, a in tensors.items()}
    jax.tree.map(np.testing.assert_array_equal, params, load(spec, new | head))
