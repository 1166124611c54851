"""Adapters: nothing at first, the same model once merged, and PEFT's files both ways."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from language_models import random_tensors, random_tokens, spec_of

from fdiv import objectives
from fdiv import tokens as tk
from fdiv.learner import learner
from fdiv.lm import lora, model, peft, weights
from fdiv.lm.block import Compute
from fdiv.rollout import sampler
from fdiv.types import Components, Pairs, Regulariser, Sequences, TokenMDP, UsageError

CASES = ("llama", "phi3", "gemma3")  # plain, fused tensors, four norms and windows
PROMPT = 4


@functools.cache
def setting(case):
    """A model's policy, its weights, its adapted policy, and adapters that are not zero."""
    spec = spec_of(case)
    base = jax.tree.map(jnp.asarray, weights.load(spec, weights.Arrays(random_tensors(spec))))
    own = model.policy(spec, Compute(remat=True))
    adapters = lora.Lora(rank=3, alpha=4.5).adapters()
    adapted = lora.policy(own, base, spec, adapters)
    moved = lambda: lora.perturbed(jax.random.key(1), adapted.init(jax.random.key(0)))
    return spec, own, base, adapters, adapted, jax.jit(moved)()


@functools.cache
def laws(policy):
    return jax.jit(lambda params, tokens: tk.distributions(policy, params, tokens))


def law(policy, params, tokens):
    return np.asarray(laws(policy)(params, tokens))


@pytest.mark.few(1)
@pytest.mark.parametrize("case", CASES)
def test_they_change_nothing_at_first_and_are_the_model_once_merged(case):
    spec, own, base, adapters, adapted, moved = setting(case)
    tokens = jnp.asarray(random_tokens(case))
    start = jax.jit(adapted.init)(jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(start)) == adapters.size(spec)
    np.testing.assert_array_equal(law(adapted, start, tokens), law(own, base, tokens))
    merged = law(own, jax.jit(lambda x: lora.merged(base, adapters, x))(moved), tokens)
    np.testing.assert_allclose(law(adapted, moved, tokens), merged, rtol=1e-5, atol=1e-5)
    assert np.abs(merged - law(own, base, tokens)).max() > 0.1


@pytest.mark.parametrize("case", CASES)
@pytest.mark.few(1)
def test_what_writes_is_what_is_trained(case):
    """The sampler's log-probs, a token at a time, are the trunk's, adapters on."""
    spec, _, _, _, adapted, moved = setting(case)
    tokens = jnp.asarray(random_tokens(case))[:, :PROMPT]
    prompts = Sequences(tokens, jnp.zeros(tokens.shape, bool), jnp.ones(len(tokens)))

    @jax.jit
    def both(params):
        strings, drawn = sampler(8, None)(jax.random.key(2), adapted, params, prompts)
        return strings.mask, drawn, tk.log_probs(adapted, params, strings, spec.vocab)

    mask, drawn, trained = both(moved)
    np.testing.assert_allclose(drawn[mask], trained[mask], atol=1e-5)


def test_only_adapters_have_a_gradient():
    *_, adapted, moved = setting("llama")
    tokens = jnp.asarray(random_tokens("llama"))
    loss = lambda params: jnp.sum(tk.distributions(adapted, params, tokens)[..., 0])
    gradient = jax.eval_shape(jax.grad(loss), moved)
    assert jax.tree.structure(gradient) == jax.tree.structure(moved)
    assert set(gradient) == {"lora"}


# passes over whole strings that an update takes, one of them by the reference
PASSES = {"rloo": 2, "rloo:k3-loss": 2, "grpo:k3-loss": 2, "dpo": 2}


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.few(2)
def test_the_reference_is_the_base_for_nothing(name):
    """It costs a copy of the adapters and one pass a batch; of the frozen weights there is one
    copy, which is neither a part of the state nor closed over twice."""
    spec, _, base, adapters, adapted, moved = setting("llama")
    rows, length = 8, PROMPT + 8
    tokens = jnp.zeros((rows, length), jnp.int32)
    strings = Sequences(
        tokens, jnp.broadcast_to(jnp.arange(length) >= PROMPT, tokens.shape), jnp.ones(rows)
    )
    prompts = lambda key, n: Sequences(tokens[:, :PROMPT], tokens[:, :PROMPT] < 0, jnp.ones(rows))
    task = TokenMDP(
        spec.vocab, 8, None, prompts, lambda key, n: strings, lambda key, n: strings, None
    )
    task = task._replace(
        score=lambda x: x.tokens.sum(1) * 1.0, regulariser=Regulariser("reverse_kl", 0.1)
    )
    calls = []

    def trunk(params, tokens):
        calls.append(params)
        return adapted.trunk(params, tokens)

    def features(params, prompts, actions):
        calls.append(params)
        return adapted.answers.features(params, prompts, actions)

    shared = adapted.answers._replace(features=features)
    counted = adapted._replace(trunk=trunk, answers=shared)
    objective = objectives.resolve(name).build(Components(counted, task, sampler(8, None)))
    own = learner(objective, optax.adam(1e-3))
    state = own.init(jax.random.key(0), moved)
    held = sum(x.size for x in jax.tree.leaves(state.aux))
    assert adapters.size(spec) <= held < adapters.size(spec) + 20
    batch = Pairs(strings, strings) if name == "dpo" else strings
    traced = jax.make_jaxpr(own.update)(state, batch)
    assert len(calls) == PASSES[name]
    leaves = [id(x) for x in jax.tree.leaves(base)]
    closed_over = [id(x) for x in traced.consts]
    assert (
        sum(x in leaves for x in closed_over) == len(leaves) == len(set(closed_over) & set(leaves))
    )
    rest = sum(x.nbytes for x in traced.consts if id(x) not in leaves)
    assert rest < 0.05 * sum(x.nbytes for x in jax.tree.leaves(base))


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_narrow_weights_are_the_numbers_they_hold(stored):
    """Kept in half the memory, and computed in float32 as if they were kept in float32."""
    spec, own, base, adapters, _, moved = setting("gemma3")
    kept = lambda base, dtype: jax.tree.map(lambda x: np.asarray(x).astype(dtype), base)
    narrow = kept(base, jnp.dtype(stored))
    models = [
        lora.policy(own, jax.tree.map(jnp.asarray, x), spec, adapters)
        for x in (narrow, kept(narrow, np.float32))
    ]
    tokens = jnp.asarray(random_tokens("gemma3"))
    both = jax.jit(lambda params: [tk.distributions(x, params, tokens) for x in models])
    try:
        one, other = both(moved)
    except jax.errors.JaxRuntimeError as error:  # XLA has no float16 below AVX (jaxlib 0.10)
        pytest.skip(f"{stored} cannot be compiled for this processor: {error}")
    np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("targets", [None, ("query", "value", "down")])
def test_peft_files_hold_them_whole(case, targets):
    spec, _, base, *_ = setting(case)
    adapters = lora.Lora(rank=3, targets=targets).adapters()
    draw = np.random.default_rng(4)
    some = lambda x: draw.standard_normal(x.shape).astype(x.dtype)
    params = jax.tree.map(
        some, jax.eval_shape(lambda: lora.init(spec, adapters, jax.random.key(5)))
    )
    tensors, config = peft.to_tensors(spec, adapters, params)
    read = peft.from_tensors(spec, config, tensors)
    there, back = (
        lora.merged(base, *each)["params"]["layers"]
        for each in ((adapters, params), (read.adapters, read.params))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), there, back)
    if case != "phi3":  # whose fused tensors have one A
        jax.tree.map(np.testing.assert_array_equal, read.params, params)


def test_ranks_and_scales_of_their_own():
    """alpha_pattern, ranks by module, and alpha / sqrt(rank)."""
    spec = spec_of("llama")
    adapters = lora.Lora(rank=2, alpha=2, targets=("query", "up")).adapters()
    params = lora.perturbed(jax.random.key(4), lora.init(spec, adapters, jax.random.key(5)))
    tensors, config = peft.to_tensors(spec, adapters, params)
    wider = {
        name: np.concatenate([x, x], axis=0 if "lora_A" in name else 1) if "up_" in name else x
        for name, x in tensors.items()
    }
    more = {"rank_pattern": {"up_proj": 4}, "alpha_pattern": {"up_proj": 6}, "use_rslora": True}
    config |= more
    read = peft.from_tensors(spec, config, wider)
    own = {name: (a, b) for name, a, b in lora.each(params)}
    # query: 2 / sqrt(2) in place of 1; up: the same twice over, 2 x 6 / sqrt(4)
    for name, a, b in lora.each(read.params):
        times = {"query": 2 / 2**0.5, "up": 6.0}[name]
        a2, b2 = np.reshape(a, (2, -1, 4)), np.reshape(b, (2, 4, -1))
        a1, b1 = np.reshape(own[name][0], (2, -1, 2)), np.reshape(own[name][1], (2, 2, -1))
        np.testing.assert_allclose(read.adapters.scale * a2 @ b2, times * a1 @ b1, atol=1e-7)


BAD_CONFIGS = {
    "another kind": {"peft_type": "IA3"},
    "dora": {"use_dora": True},
    "biases": {"bias": "all"},
    "whole modules": {"modules_to_save": ["lm_head"]},
    "some layers twice": {"layer_replication": [[0, 1]]},
    "what is not known": {"some_new_field": 3},
    "some layers alone": {"layers_to_transform": [0]},
    "the first layer alone": {"layers_to_transform": 0},
    "the other way round": {"fan_in_fan_out": True},
    "biases of their own": {"lora_bias": True},
    "parameters outside layers": {"target_parameters": ["experts"]},
    "what changed the base": {"init_lora_weights": "pissa"},
    "what changed the base in steps": {"init_lora_weights": "pissa_niter_4"},
    "a scale that is text": {"use_rslora": "yes"},
    "what quantised the base": {"init_lora_weights": "loftq"},
    "a beginning that is none": {"init_lora_weights": [1]},
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_what_is_not_computed_is_refused_by_name(name):
    config = {"peft_type": "LORA", **BAD_CONFIGS[name]}
    with pytest.raises(UsageError, match=next(iter(BAD_CONFIGS[name]))):
        peft.check(config)


BAD_NUMBERS = {
    "r": [5, "3", 0, None, True],
    "lora_alpha": [0, "16", None, float("nan"), [1]],
    "rank_pattern": [[1], {"(": 3}, {"q_proj": 4}],
    "alpha_pattern": [3, {"(": 3}, {"up_proj": "x"}],
}


@pytest.mark.parametrize("field", BAD_NUMBERS)
def test_numbers_that_are_none_or_not_the_tensors_are_refused(field):
    spec, _, _, adapters, _, moved = setting("llama")
    tensors, config = peft.to_tensors(spec, adapters, moved)
    peft.from_tensors(spec, config, tensors)
    for value in BAD_NUMBERS[field]:
        with pytest.raises(UsageError) as error:
            peft.from_tensors(spec, config | {field: value}, tensors)
        assert error.value.field in (field, "r", "lora_alpha")


def broken(name, tensors):
    first = sorted(tensors)[0]
    if name == "missing":
        del tensors[first]
    elif name == "shape":
        tensors[first] = tensors[first][:, :-1]
    elif name == "finite":
        tensors[first] = tensors[first] * np.nan
    elif name == "layer":
        tensors[first.replace("layers.0", "layers.7")] = tensors[first]
    else:
        tensors["base_model.model.lm_head.lora_A.weight"] = tensors[first]
    return tensors


@pytest.mark.parametrize("name", ["missing", "shape", "layer", "head", "finite"])
def test_tensors_of_another_model_are_refused_by_name(name):
    spec, _, _, adapters, _, moved = setting("llama")
    tensors, config = peft.to_tensors(spec, adapters, moved)
    said = "not finite" if name == "finite" else "lora_A"
    with pytest.raises(UsageError, match=said):
        peft.from_tensors(spec, config, broken(name, tensors))


def test_peft_reads_what_is_written(tmp_path):
    """And computes the same with it; PEFT itself is the oracle, where it is installed."""
    reader = pytest.importorskip("peft", reason="needs the extra hf-test").PeftModel
    torch = pytest.importorskip("torch")
    of_model = pytest.importorskip("transformers").AutoModelForCausalLM

    from experiments.models import adapters as files
    from experiments.models import folder

    spec, _, base, adapters, adapted, moved = setting("llama")
    adapters = adapters._replace(dropout=0.25)
    folder.write(tmp_path / "model", spec, jax.tree.map(np.asarray, base))
    files.write(tmp_path / "adapters", spec, adapters, moved)
    theirs = of_model.from_pretrained(tmp_path / "model", dtype=torch.float32)
    theirs = reader.from_pretrained(theirs, tmp_path / "adapters").eval()
    assert theirs.peft_config["default"].lora_dropout == adapters.dropout == 0.25
    tokens = random_tokens("llama")
    with torch.no_grad():
        logits = theirs(torch.tensor(tokens)).logits.log_softmax(-1).numpy()
    strings = jnp.pad(jnp.asarray(tokens), [(0, 0), (0, 1)])
    np.testing.assert_allclose(law(adapted, moved, strings)[:, 1:], logits, atol=1e-4)
    theirs.save_pretrained(tmp_path / "back")
    back = files.read(tmp_path / "back", spec)
    jax.tree.map(np.testing.assert_array_equal, back.params, moved)
    assert back.adapters == adapters


def test_flags_that_cannot_be():
    refused = {
        "dropout": lora.Lora(dropout=0.1),
        "alpha": lora.Lora(alpha=2.0),
        "targets": lora.Lora(targets=("query",)),
        "rank": lora.Lora(rank=2, path="adapters"),
    }
    for field, flags in refused.items():
        with pytest.raises(UsageError) as error:
            flags.check()
        assert error.value.field == field
