"""A config is honoured or refused by name."""

import dataclasses

import pytest
from language_models import CASES, spec_of

from fdiv.lm import spec as specs
from fdiv.types import UsageError

LLAMA, GEMMA3 = CASES["llama"], CASES["gemma3"]


@pytest.mark.parametrize("case", CASES)
def test_a_config_that_is_written_reads_as_the_same_spec(case):
    spec = spec_of(case)
    assert specs.from_config(specs.to_config(spec)) == spec


def test_both_spellings_of_a_rope_are_read():
    old = {**LLAMA, "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}
    new = {k: v for k, v in LLAMA.items() if "rope" not in k}
    new["rope_parameters"] = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}
    assert specs.from_config(old) == specs.from_config(new)
    kinds = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    }
    new = {k: v for k, v in GEMMA3.items() if "rope" not in k}
    assert specs.from_config({**new, "rope_parameters": kinds}) == spec_of("gemma3")


def test_a_null_is_not_an_absent_field():
    """Gemma 2 has caps and Mistral a window unless the config says that there is none."""
    gemma, mistral = CASES["gemma2_wide"], CASES["mistral"]
    spec = specs.from_config(gemma)
    assert (spec.attention_cap, spec.final_cap) == (50.0, 30.0)
    spec = specs.from_config({**gemma, "attn_logit_softcapping": None})
    assert (spec.attention_cap, spec.final_cap) == (None, 30.0)
    without = {k: v for k, v in mistral.items() if k != "sliding_window"}
    assert specs.from_config(without).windows == (4096, 4096)
    assert specs.from_config({**mistral, "sliding_window": None}).windows == (None, None)


def test_the_text_of_a_gemma_with_eyes():
    """The text model's fields stand inside, most of them left to the family's defaults."""
    text = {"hidden_size": 2560, "num_hidden_layers": 7, "sliding_window": 1024}
    outer = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 3}}
    spec = specs.from_config({**outer, "torch_dtype": "bfloat16", "image_token_index": 4})
    assert (spec.vocab, spec.heads, spec.head_dim) == (262_208, 8, 256)
    assert spec.windows == (1024,) * 5 + (None, 1024)
    assert [rope.theta for rope in spec.ropes] == [1e6, 1e4]
    assert (spec.tied, spec.dtype) == (True, "bfloat16")
    with pytest.raises(UsageError, match="quantization_config"):
        specs.from_config({**outer, "quantization_config": {"bits": 4}})


def test_the_length_before_a_long_rope_changes():
    spec = spec_of("phi3_longrope")
    assert spec.longest == 32
    # sqrt(1 + log(256 / 32) / log(32)) = sqrt(1 + 3/5)
    assert spec.ropes[0].amplitude == pytest.approx(1.6**0.5)
    assert spec.ropes[0].turned(spec.head_dim) == 12


REFUSED = {
    "an unknown family": ({"model_type": "mamba"}, "model_type"),
    "no family": ({"model_type": None}, "model_type"),
    "quantised weights": ({"quantization_config": {"bits": 4}}, "quantization_config"),
    "remote code": ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
    "a classifier": ({"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
    "an unknown field": ({"mixture_of_depths": 2}, "mixture_of_depths"),
    "an unknown field that is false": ({"use_parallel_residual": False}, "use_parallel_residual"),
    "biases": ({"attention_bias": True}, "attention_bias"),
    "biases of the mlp": ({"mlp_bias": True}, "mlp_bias"),
    "another activation": ({"hidden_act": "gelu"}, "hidden_act"),
    "parts of a tensor": ({"pretraining_tp": 2}, "pretraining_tp"),
    "dropout": ({"attention_dropout": 0.1}, "attention_dropout"),
    "yarn": ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type"),
    "dynamic": ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type"),
    "longrope of another family": ({"rope_scaling": {"type": "longrope"}}, "rope_type"),
    "an unknown field of a rope": (
        {"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 3}},
        "beta_fast",
    ),
    "a rope without its factor": ({"rope_scaling": {"type": "linear"}}, "factor"),
    "two ropes": (
        {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear"}},
        "rope_scaling",
    ),
    "a window that nothing reads": ({"sliding_window": 4}, "sliding_window"),
    "two thetas": ({"rope_parameters": {"rope_theta": 5.0}, "rope_scaling": None}, "rope_theta"),
    "tokens beyond any": ({"vocab_size": 10**12}, "vocab_size"),
    "a length beyond any": ({"max_position_embeddings": 10**18}, "max_position_embeddings"),
    "two kinds of rope": (
        {"rope_scaling": {"rope_type": "linear", "type": "dynamic", "factor": 2.0}},
        "type",
    ),
    "a kind of rope in a list": ({"rope_scaling": {"rope_type": ["linear"]}}, "rope_type"),
    "a factor of text": ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "factor"),
    "part of the head": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "a window in llama's layers": ({"layer_types": ["sliding_attention"] * 2}, "layer_types"),
    "heads that do not divide": ({"num_key_value_heads": 3}, "num_key_value_heads"),
    "a size that is text": ({"hidden_size": "32"}, "hidden_size"),
    "a size that is true": ({"num_hidden_layers": True}, "num_hidden_layers"),
    "a size of nothing": ({"intermediate_size": 0}, "intermediate_size"),
    "eps of nothing": ({"rms_norm_eps": 0.0}, "rms_norm_eps"),
    "eps that is no number": ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
    "an unknown type": ({"torch_dtype": "float8_e4m3fn"}, "dtype"),
    "a tie that is text": ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
}
OTHERS = {
    "qwen's window": ("qwen2", {"use_sliding_window": True}, "use_sliding_window"),
    "qwen3's bias": ("qwen3", {"attention_bias": True}, "attention_bias"),
    "mistral's layers": ("mistral", {"layer_types": ["full_attention"] * 2}, "layer_types"),
    "both directions": ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional"),
    "gemma's layers": ("gemma3", {"layer_types": ["full_attention"] * 3}, "layer_types"),
    "a kind of layer": ("gemma3", {"layer_types": ["chunked_attention"] * 4}, "layer_types"),
    "no window where one is used": ("gemma2", {"sliding_window": None}, "sliding_window"),
    "no window at all": ("mistral", {"sliding_window": 0}, "sliding_window"),
    "a window of text": ("mistral", {"sliding_window": "5"}, "sliding_window"),
    "a window beyond any": ("mistral", {"sliding_window": 10**18}, "sliding_window"),
    "two thetas of full layers": (
        "gemma3_new",
        {"rope_theta": 10.0},
        "rope_theta",
    ),
    "a window backwards": ("phi3", {"sliding_window": -1}, "sliding_window"),
    "gemma2's pattern": ("gemma2", {"sliding_window_pattern": 3}, "sliding_window_pattern"),
    "no pattern": ("gemma3", {"sliding_window_pattern": 0}, "sliding_window_pattern"),
    "phi's dropout": ("phi3", {"resid_pdrop": 0.1}, "resid_pdrop"),
    "too few factors": (
        "phi3_longrope",
        {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
        "short_factor",
    ),
    "regimes the wrong way round": (
        "llama3",
        {"rope_parameters": CASES["llama3"]["rope_parameters"] | {"low_freq_factor": 4.0}},
        "high_freq_factor",
    ),
}


@pytest.mark.parametrize("name", [*REFUSED, *OTHERS])
def test_what_is_not_computed_is_refused_by_name(name):
    case, change, field = OTHERS[name] if name in OTHERS else ("llama", *REFUSED[name])
    with pytest.raises(UsageError) as refusal:
        specs.from_config({**CASES[case], **change})
    assert refusal.value.field.startswith(field)
    assert refusal.value.fix


@pytest.mark.parametrize("field", ["hidden_size", "num_attention_heads", "vocab_size"])
def test_a_field_that_is_not_there_is_asked_for(field):
    with pytest.raises(UsageError, match=field):
        specs.from_config({k: v for k, v in LLAMA.items() if k != field})


@pytest.mark.parametrize("layers", [(), (0, 2), (-1,)])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(UsageError, match="layers"):
        spec_of("llama").only(layers)


def test_no_family_is_told_by_its_name():
    """What sets one apart is a field of `Family`: a family by another name is read and written the
    same but for the name."""
    for case in CASES:
        config = dict(CASES[case])
        name = config["model_type"]
        if name not in specs.FAMILIES:  # a text model within another's config
            continue
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(specs.FAMILIES, "renamed", specs.FAMILIES[name])
            other = specs.from_config(config | {"model_type": "renamed"})
            own = specs.from_config(config)
            assert dataclasses.replace(other, family=name) == own
            assert specs.to_config(other) == specs.to_config(own) | {"model_type": "renamed"}
