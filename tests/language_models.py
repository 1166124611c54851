"""Tiny language models of every family, their weights drawn from their tensors' names, and the
logits that transformers gives them, made by `make_golden.py`."""

import zlib
from pathlib import Path

import numpy as np

from fdiv.lm import spec as specs
from fdiv.lm import weights

GOLDEN = Path(__file__).parent / "golden"
ROWS, LENGTH, VOCAB = 2, 20, 64
SMALL = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
GQA = {"num_attention_heads": 4, "num_key_value_heads": 2}
GEMMA = {**SMALL, **GQA, "head_dim": 8, "query_pre_attn_scalar": 12, "num_hidden_layers": 4}
CASES = {
    "llama": {
        "model_type": "llama",
        **SMALL,
        **GQA,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "torch_dtype": "float32",
    },
    "llama3": {  # pairs turn 6.4, .24, .009 and .0003 times within 40 tokens: all three regimes
        "model_type": "llama",
        **SMALL,
        **GQA,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 0.1,
            "high_freq_factor": 2.0,
            "original_max_position_embeddings": 40,
        },
    },
    "llama_linear": {
        "model_type": "llama",
        **SMALL,
        "num_attention_heads": 4,
        "rope_scaling": {"type": "linear", "factor": 2.5},
    },
    "smollm2": {
        "model_type": "llama",
        **SMALL,
        "hidden_size": 24,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000,
        "tie_word_embeddings": True,
    },
    "mistral": {"model_type": "mistral", **SMALL, **GQA, "sliding_window": 5},
    "mistral_full": {
        "model_type": "mistral",
        **SMALL,
        **GQA,
        "sliding_window": None,
        "head_dim": 12,
        "rope_theta": 1000000.0,
    },
    "qwen2": {"model_type": "qwen2", **SMALL, **GQA, "tie_word_embeddings": True},
    "qwen2_untied": {
        "model_type": "qwen2",
        **SMALL,
        **GQA,
        "use_sliding_window": False,
        "sliding_window": 3,
        "max_window_layers": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "qwen3": {"model_type": "qwen3", **SMALL, **GQA, "head_dim": 16, "attention_bias": False},
    "gemma2": {
        "model_type": "gemma2",
        **GEMMA,
        "sliding_window": 6,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma2_wide": {"model_type": "gemma2", **GEMMA, "sliding_window": 64},
    "gemma3": {
        "model_type": "gemma3_text",
        **GEMMA,
        "sliding_window": 5,
        "sliding_window_pattern": 3,
        "rope_local_base_freq": 100.0,
        "rope_theta": 1000000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "gemma3_new": {
        "model_type": "gemma3_text",
        **GEMMA,
        "sliding_window": 64,
        "layer_types": ["full_attention", *["sliding_attention"] * 2, "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 200.0},
        },
    },
    "phi3": {"model_type": "phi3", **SMALL, **GQA, "sliding_window": 7, "pad_token_id": 0},
    "phi3_longrope": {
        "model_type": "phi3",
        **SMALL,
        "num_attention_heads": 2,
        "pad_token_id": 0,
        "partial_rotary_factor": 0.75,
        "max_position_embeddings": 256,
        "original_max_position_embeddings": 32,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.1, 1.5, 2.0, 2.5, 3.0],
            "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
        },
    },
}

# a tokenizer of fewer tokens than the models have rows, as a GGUF file says it
PIECES = [*"abcdefghijklmnopqrstuvwxyzĠABCDEFGHIJ.,?!", "th", "the", "Ġt", "in"]
TOKENS = ["<s>", "</s>", "<end>", *PIECES]  # 48 of the model's 64 rows
FIELDS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3] * 3 + [1] * len(PIECES),
    "tokenizer.ggml.merges": ["t h", "th e", "Ġ t", "i n"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.chat_template": "{{ bos_token }}{{ messages[-1].content }}<end>",
}


def spec_of(case: str) -> specs.Spec:
    """The case's architecture."""
    return specs.from_config(CASES[case])


def random_tensors(spec: specs.Spec) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint, float32. A tensor's name is its seed; embeddings of untied
    models are small, so that eps shows."""
    arrays = {}
    for entry in weights.table(spec):
        draw = np.random.RandomState(zlib.crc32(entry.name.encode())).standard_normal(entry.shape)
        if "norm" in entry.name:
            draw = 0.2 * draw + (not spec.unit_offset)
        elif "embed" in entry.name:
            draw *= 0.2 if spec.tied else 0.01
        else:
            draw *= 0.3 if "bias" in entry.name else entry.shape[-1] ** -0.5
            # sharp enough attention that positions matter
            draw *= 2 if "lm_head" in entry.name or "attn" in entry.name else 1
        arrays[entry.name] = draw.astype(np.float32)
    return arrays


def random_tokens(case: str) -> np.ndarray:
    """[ROWS, LENGTH]"""
    return np.random.RandomState(zlib.crc32(case.encode())).randint(0, VOCAB, (ROWS, LENGTH))


def golden(case: str) -> np.ndarray:
    """transformers' logits of what follows each token, [ROWS, LENGTH, VOCAB]."""
    with np.load(GOLDEN / f"{case}.npz") as file:
        return file["logits"]
