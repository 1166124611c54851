"""The architecture of a language model, read from the config.json of a Hugging Face checkpoint.

Every field of a config is honoured, known to change no number, or refused by its name: a field
that is silently left out is a model that silently computes something else. Two spellings of the
rotary embedding are read, `rope_theta` with `rope_scaling` and the newer `rope_parameters`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from fdiv.ranges import LARGEST_COUNT, MOST_SYMBOLS
from fdiv.types import UsageError

RopeKind = Literal["default", "linear", "llama3", "longrope"]
Activation = Literal["silu", "gelu_tanh"]
FULL, SLIDING = "full_attention", "sliding_attention"
ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
MOST_LAYERS = 1 << 12
DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Rope:
    """A rotary embedding: the first `share` of a head's dimensions, in pairs (i, i + half), turn by
    position x frequency. Su et al. 2021 (arXiv 2104.09864)."""

    theta: float = 10_000.0
    kind: RopeKind = "default"
    share: float = 1.0  # of a head's dimensions that turn
    factor: float = 1.0  # linear and llama3: how many times slower, all or the low frequencies
    low: float = 1.0  # llama3: below so many turns within `original`, a pair is slowed in full
    high: float = 4.0  # llama3: above so many, not at all
    original: int | None = None  # llama3 and longrope: the length of text before it was extended
    short: tuple[float, ...] = ()  # longrope: what each frequency is divided by within `original`
    long: tuple[float, ...] = ()  # longrope: the same beyond it, which is not computed here
    amplitude: float = 1.0  # longrope: what turned keys and queries are multiplied by

    def turned(self, head_dim: int) -> int:
        """Number of dimensions of a head that turn, an even number."""
        return int(head_dim * self.share)

    def frequencies(self, head_dim: int) -> np.ndarray:
        """Radians a position for each pair [turned / 2], float32 as checkpoints were trained
        with."""
        size = self.turned(head_dim)
        steps = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
        plain = np.float32(1) / np.float32(self.theta) ** steps
        if self.kind == "linear":
            return plain / np.float32(self.factor)
        if self.kind == "llama3":
            return self._llama3(plain)
        if self.kind == "longrope":
            return plain / np.asarray(self.short, np.float32)
        return plain

    def _llama3(self, plain: np.ndarray) -> np.ndarray:
        """Low frequencies are slowed by `factor`, high ones left, those between interpolated."""
        turns = np.float32(self.original or 0) * plain / np.float32(2 * np.pi)
        kept = np.clip((turns - self.low) / (self.high - self.low), 0, 1).astype(np.float32)
        return (1 - kept) * plain / np.float32(self.factor) + kept * plain


@dataclasses.dataclass(frozen=True)
class Spec:
    """A decoder-only transformer, complete: two models of one spec differ in their weights
    alone."""

    family: str  # of `FAMILIES`; "fdiv": of no checkpoint's
    vocab: int  # symbols that the law is over, those without a token among them
    width: int  # of the residual stream
    hidden: int  # units of the gated MLP
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float  # of every norm
    tied: bool  # the head is the embedding
    ropes: tuple[Rope, ...]
    rope_of: tuple[int, ...]  # each layer's place in `ropes`
    windows: tuple[int | None, ...]  # tokens back that each layer sees, itself included; None: all
    attention_scale: float  # of the product of a query and a key
    activation: Activation = "silu"
    qkv_bias: bool = False
    qk_norm: bool = False  # RMSNorm of each head's query and key, before they turn
    four_norms: bool = False  # norms after attention and MLP as well as before
    unit_offset: bool = False  # a norm multiplies by 1 + its weight
    scale_embedding: bool = False  # by sqrt(width)
    attention_cap: float | None = None  # cap tanh(x / cap) of attention's logits
    final_cap: float | None = None  # the same of the next token's
    start_row: bool = False  # one more row of the embedding is read before every text
    max_length: int | None = None  # that the checkpoint was made for
    dtype: str = "float32"  # that its weights are stored in

    @property
    def rows(self) -> int:
        """Of the embedding."""
        return self.vocab + self.start_row

    @property
    def window(self) -> int | None:
        """The window of every layer. Raises `ValueError` where layers differ."""
        if len(set(self.windows)) != 1:
            raise ValueError("layers have windows of their own")
        return self.windows[0]

    @property
    def longest(self) -> int | None:
        """The longest text that is computed as the checkpoint's authors do; None: no bound."""
        bounds = [rope.original for rope in self.ropes if rope.kind == "longrope"]
        return min((bound for bound in bounds if bound is not None), default=None)

    def only(self, layers: tuple[int, ...]) -> Spec:
        """The same with these layers alone, in this order. Raises `UsageError` for one that is not
        there."""
        for layer in layers:
            if not 0 <= layer < self.layers:
                raise UsageError(
                    "layers", layer, f"is none of {self.layers} layers.", "Count from 0."
                )
        if not layers:
            raise UsageError("layers", "", "none is left.", "Leave at least one.")
        return dataclasses.replace(
            self,
            layers=len(layers),
            rope_of=tuple(self.rope_of[i] for i in layers),
            windows=tuple(self.windows[i] for i in layers),
        )


class Family(NamedTuple):
    """What the members of a family have in common, and what an absent field of a config means."""

    architecture: str
    defaults: Mapping[str, Any]
    features: Mapping[str, Any] = {}  # fields of `Spec`
    honoured: tuple[str, ...] = ()  # fields of a config that others of the table do not have
    fixed: Mapping[str, tuple] = {}  # field -> the values that are computed
    activation: str = "hidden_act"
    fused: bool = False  # query, key and value are one tensor of the file, gate and up another
    ropes: tuple[RopeKind, ...] = ("default", "linear")
    partial_rope: bool = False  # a config says which share of a head's dimensions turns
    local_rope: bool = False  # sliding layers have a rope of their own
    # a config has caps of logits and what attention's are divided by, not always sqrt(head_dim)
    scaled_logits: bool = False
    # of layers of two kinds, so many end with a full one by default; None: layers are alike
    period: int | None = None
    patterned: bool = False  # a config may say another number than `period`


_NO_BIAS = {"attention_bias": (False, None), "mlp_bias": (False, None)}
_GEMMA = {"four_norms": True, "unit_offset": True, "scale_embedding": True}
_GEMMA_FIXED = {"attention_bias": (False, None), "use_bidirectional_attention": (False, None)}
FAMILIES: dict[str, Family] = {
    "llama": Family(
        "LlamaForCausalLM",
        {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048},
        fixed=_NO_BIAS | {"pretraining_tp": (1, None), "rope_interleaved": (False, None)},
        ropes=("default", "llama3", "linear"),
    ),
    "mistral": Family(
        "MistralForCausalLM",
        {"rms_norm_eps": 1e-6, "max_position_embeddings": 131_072, "sliding_window": 4096},
        honoured=("sliding_window",),
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        {"rms_norm_eps": 1e-6, "max_position_embeddings": 32_768},
        {"qkv_bias": True},
        fixed={"use_sliding_window": (False, None)},
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        {"rms_norm_eps": 1e-6, "max_position_embeddings": 32_768, "head_dim": 128},
        {"qk_norm": True},
        fixed=_NO_BIAS | {"use_sliding_window": (False, None)},
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 8192,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "tie_word_embeddings": True,
            "hidden_activation": "gelu_pytorch_tanh",
        },
        _GEMMA,
        fixed=_GEMMA_FIXED,
        activation="hidden_activation",
        scaled_logits=True,
        period=2,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        {
            "vocab_size": 262_208,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131_072,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "tie_word_embeddings": True,
            "hidden_activation": "gelu_pytorch_tanh",
            "rope_theta": 1_000_000.0,
        },
        {**_GEMMA, "qk_norm": True},
        fixed=_GEMMA_FIXED,
        activation="hidden_activation",
        local_rope=True,
        scaled_logits=True,
        period=6,
        patterned=True,
    ),
    "phi3": Family(
        "Phi3ForCausalLM",
        {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "sliding_window": None,
        },
        honoured=("sliding_window",),
        fixed={**_NO_BIAS, "embd_pdrop": (0, None), "resid_pdrop": (0, None)},
        fused=True,
        ropes=("default", "longrope"),
        partial_rope=True,
    ),
}
# fields that change no number of a forward pass
HARMLESS = frozenset(
    [
        "_name_or_path",
        "_attn_implementation_autoset",
        "attn_implementation",
        "transformers_version",
        "use_cache",
        "initializer_range",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "unk_token_id",
        "sep_token_id",
        "cache_implementation",
        "max_window_layers",
        "is_llama_config",
        "transformers.js_config",
        "unsloth_fixed",
        "unsloth_version",
        "return_dict",
        "output_hidden_states",
        "output_attentions",
        "id2label",
        "label2id",
        "chunk_size_feed_forward",
        "problem_type",
        "task_specific_params",
        "tokenizer_class",
        "max_length_tokenizer",
        "_commit_hash",
        "return_dict_in_generate",
        "torchscript",
        "name_or_path",
    ]
)
# fields of any family: the values that are computed
FIXED: dict[str, tuple] = {
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "attention_dropout": (0, None),  # dropout is for training anew, and a rollout must not have it
    "pruned_heads": ({}, None),
    "use_bfloat16": (False, None),
}
REFUSED = {
    "quantization_config": (
        "says that the weights are quantised.",
        "Give the checkpoint that they were made from, in float32, bfloat16 or float16.",
    ),
    "auto_map": (
        "says that the model is code that comes with it, and none is run from a checkpoint.",
        f"Use a checkpoint of {', '.join(FAMILIES)} that needs none.",
    ),
}


def from_config(config: Mapping[str, Any]) -> Spec:
    """The `Spec` of a config.json. Raises `UsageError` naming a field that cannot be honoured."""
    config = _text_of(dict(config))
    for name, (problem, fix) in REFUSED.items():
        if config.get(name) is not None:
            raise UsageError(name, _brief(config[name]), problem, fix)
    name = config.pop("model_type", None)
    if not isinstance(name, str) or name not in FAMILIES:
        raise UsageError(
            "model_type", name, "is not a family that is known.", f"Use {', '.join(FAMILIES)}."
        )
    family = FAMILIES[name]
    fields = _Fields(config, family.defaults)
    _check_architecture(fields, family)
    for field, values in {**FIXED, **family.fixed}.items():
        fields.fixed(field, values)
    spec = _read(name, family, fields)
    fields.refuse_rest()
    return spec


def to_config(spec: Spec) -> dict[str, Any]:
    """A config.json that `from_config` reads as this spec, in the spelling that older readers know
    too."""
    family = FAMILIES[spec.family]
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": spec.family,
        "vocab_size": spec.vocab,
        "hidden_size": spec.width,
        "intermediate_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "rms_norm_eps": spec.eps,
        "tie_word_embeddings": spec.tied,
        "max_position_embeddings": spec.max_length,
        "torch_dtype": spec.dtype,
        family.activation: {own: name for name, own in ACTIVATIONS.items()}[spec.activation],
    }
    if not family.fused:  # phi3's heads always share out the width
        config["head_dim"] = spec.head_dim
    if family.scaled_logits:
        config |= {
            "query_pre_attn_scalar": _tidy(spec.attention_scale**-2),
            "attn_logit_softcapping": spec.attention_cap,
            "final_logit_softcapping": spec.final_cap,
        }
    window = next((w for w in spec.windows if w is not None), None)
    if family.period is not None:
        config["layer_types"] = [FULL if w is None else SLIDING for w in spec.windows]
        if window is not None:  # the field may not be null
            config["sliding_window"] = window
    elif "sliding_window" in family.honoured:
        config["sliding_window"] = window
    return config | _rope_config(spec, family)


def _rope_config(spec: Spec, family: Family) -> dict[str, Any]:
    rope = spec.ropes[0]
    config: dict[str, Any] = {"rope_theta": rope.theta, "rope_scaling": None}
    if rope.kind == "linear":
        config["rope_scaling"] = {"rope_type": "linear", "factor": rope.factor}
    if rope.kind == "llama3":
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": rope.factor,
            "low_freq_factor": rope.low,
            "high_freq_factor": rope.high,
            "original_max_position_embeddings": rope.original,
        }
    if rope.kind == "longrope":
        config["rope_scaling"] = {
            "type": "longrope",
            "short_factor": list(rope.short),
            "long_factor": list(rope.long),
            "attention_factor": rope.amplitude,
        }
        config["original_max_position_embeddings"] = rope.original
    if family.local_rope:
        config["rope_local_base_freq"] = spec.ropes[1].theta
    if family.partial_rope:
        config["partial_rotary_factor"] = rope.share
    return config


def _tidy(x: float) -> int | float:
    """A number without what the square root of its root added in the last digits."""
    near = round(x)
    return near if math.isclose(x, near, rel_tol=1e-9) else x


def _list(name: str, value: object) -> list[Any]:
    """A value that has to be a list."""
    if not isinstance(value, list | tuple):
        raise UsageError(name, _brief(value), "is no list.", "Mend the config.json.")
    return list(value)


def _group(name: str, value: object) -> dict[str, Any]:
    """A value that has to hold fields; a null holds none."""
    if value is not None and not isinstance(value, Mapping):
        raise UsageError(name, _brief(value), "holds no fields.", "Mend the config.json.")
    return dict(value or {})


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _text_of(config: dict[str, Any]) -> dict[str, Any]:
    """The text model of a Gemma 3 with a vision tower; other configs as they are."""
    if config.get("model_type") != "gemma3" or "text_config" not in config:
        return config
    text = _group("text_config", config["text_config"])
    for name in REFUSED:
        if config.get(name) is not None:
            text[name] = config[name]
    text.setdefault("model_type", "gemma3_text")
    for name in ("dtype", "torch_dtype"):
        if config.get(name) is not None and text.get("dtype", text.get("torch_dtype")) is None:
            text[name] = config[name]
    # the outer config's class ties them, and writes the field where it does not
    text.setdefault("tie_word_embeddings", config.get("tie_word_embeddings", True))
    return text


_ABSENT = object()


class _Fields:
    """A config being read: what nobody has asked for in the end is unknown."""

    def __init__(self, config: dict[str, Any], defaults: Mapping[str, Any]):
        self._left, self._defaults = config, defaults

    def take(self, name: str, default: Any = _ABSENT) -> Any:
        """The value; a null stands for itself, an absent field for the family's default."""
        if name in self._left:
            return self._left.pop(name)
        value = self._defaults.get(name, default)
        if value is _ABSENT:
            raise UsageError(name, None, "is not in the config.", "Give a complete config.json.")
        return value

    def count(self, name: str, default: Any = _ABSENT) -> int:
        """A whole number above 0."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(name, value, "is no whole number above 0.", "Mend the config.json.")
        if value > LARGEST_COUNT:
            problem = f"is more than {LARGEST_COUNT:,}."
            raise UsageError(name, value, problem, "Mend the config.json.")
        return value

    def given(self, name: str) -> bool:
        """Whether the config has the field, which nobody has asked for yet."""
        return self._left.get(name) is not None

    def number(self, name: str, default: Any = _ABSENT) -> float:
        """A finite number above 0."""
        return _positive(name, self.take(name, default))

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of finite numbers above 0."""
        value = self.take(name)
        return tuple(_positive(name, x) for x in _list(name, value))

    def flag(self, name: str, default: bool) -> bool:
        """True or false; a null is the default."""
        value = self.take(name, default)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise UsageError(name, value, "is neither true nor false.", "Mend the config.json.")
        return value

    def fixed(self, name: str, values: tuple) -> None:
        """Refuse any other value than those that are computed."""
        value = self._left.pop(name, None)
        if value is not None and not any(value == v and v is not None for v in values):
            known = " or ".join(str(v) for v in values if v is not None)
            raise UsageError(
                name,
                _brief(value),
                f"is not computed, {known} alone is.",
                "Use another checkpoint.",
            )

    def refuse_rest(self) -> None:
        """Refuse the first field that nobody has read and that may change a number."""
        for name, value in self._left.items():
            if name not in HARMLESS and value is not None:
                raise UsageError(
                    name,
                    _brief(value),
                    "is a field that is not known, so the model may compute something else.",
                    "Drop it from config.json if it changes no number, or use another checkpoint.",
                )


def _positive(name: str, value: object) -> float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not math.isfinite(value) or value <= 0:  # pyrefly: ignore[bad-argument-type]
        raise UsageError(name, value, "is no finite number above 0.", "Mend the config.json.")
    return float(value)  # pyrefly: ignore[bad-argument-type]


def _check_architecture(fields: _Fields, family: Family) -> None:
    """A classifier or a reward model has the same config, and another head."""
    named = fields.take("architectures", None)
    known = (family.architecture, "Gemma3ForConditionalGeneration")
    if named is not None and not all(name in known for name in _list("architectures", named)):
        raise UsageError(
            "architectures",
            named,
            f"is not {family.architecture}.",
            "Give a causal language model.",
        )


def _read(name: str, family: Family, fields: _Fields) -> Spec:
    heads, width = fields.count("num_attention_heads"), fields.count("hidden_size")
    kv_heads = fields.take("num_key_value_heads", None)
    head_dim = fields.take("head_dim", None)
    if head_dim is None and width % heads:
        raise UsageError("hidden_size", width, f"does not split into {heads} heads.", "Mend it.")
    layers = fields.count("num_hidden_layers")
    if layers > MOST_LAYERS:
        problem = f"are more layers than {MOST_LAYERS:,}."
        raise UsageError("num_hidden_layers", layers, problem, "Mend the config.json.")
    vocab = fields.count("vocab_size")
    if vocab > MOST_SYMBOLS:
        problem = f"are more tokens than {MOST_SYMBOLS:,}."
        raise UsageError("vocab_size", vocab, problem, "Mend the config.json.")
    max_length = fields.count("max_position_embeddings")
    head_dim = width // heads if head_dim is None else _whole("head_dim", head_dim)
    ropes = _ropes(name, family, fields, max_length, head_dim)
    windows = _windows(name, family, fields, layers)
    scaled = family.scaled_logits
    scale = fields.number("query_pre_attn_scalar") if scaled else float(head_dim)
    spec = Spec(
        family=name,
        vocab=vocab,
        width=width,
        hidden=fields.count("intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=heads if kv_heads is None else _whole("num_key_value_heads", kv_heads),
        head_dim=head_dim,
        eps=fields.number("rms_norm_eps"),
        tied=fields.flag("tie_word_embeddings", family.defaults.get("tie_word_embeddings", False)),
        ropes=ropes,
        rope_of=tuple(int(len(ropes) > 1 and window is not None) for window in windows),
        windows=windows,
        attention_scale=scale**-0.5,
        activation=_activation(family, fields),
        attention_cap=_cap("attn_logit_softcapping", fields) if scaled else None,
        final_cap=_cap("final_logit_softcapping", fields) if scaled else None,
        max_length=max_length,
        dtype=_dtype(fields),
        **family.features,
    )
    if spec.heads % spec.kv_heads:
        problem = f"does not divide {heads} heads."
        raise UsageError("num_key_value_heads", spec.kv_heads, problem, "Mend the config.json.")
    return spec


def _whole(name: str, value: object) -> int:
    return _Fields({name: value}, {}).count(name)


def _activation(family: Family, fields: _Fields) -> Activation:
    value = fields.take(family.activation, "silu")
    if value is None:  # Gemma's null stands for its own
        value = family.defaults.get(family.activation, "silu")
    if family.activation != "hidden_act":
        # written beside `hidden_activation`, and not read by the model
        fields.fixed("hidden_act", ("gelu_pytorch_tanh", "gelu"))
    expected = family.defaults.get(family.activation, "silu")
    if value != expected:
        problem = f"is not computed, {expected} alone is."
        raise UsageError(family.activation, value, problem, "Use another checkpoint.")
    return ACTIVATIONS[expected]


def _cap(field: str, fields: _Fields) -> float | None:
    value = fields.take(field)
    return None if value is None else _positive(field, value)


def _dtype(fields: _Fields) -> str:
    """What the weights are stored in, by the old name of the field or the new one."""
    value = fields.take("dtype", None)
    old = fields.take("torch_dtype", None)
    value = str(value or old or "float32").removeprefix("torch.")
    if value not in DTYPES:
        raise UsageError("dtype", value, "is not read.", f"Use {', '.join(DTYPES)}.")
    return value


def _windows(name: str, family: Family, fields: _Fields, layers: int) -> tuple[int | None, ...]:
    """Each layer's window."""
    pattern = fields.take("sliding_window_pattern", None)
    pattern = fields.take("_sliding_window_pattern", None) if pattern is None else pattern
    types = fields.take("layer_types", None)
    types = None if types is None else _list("layer_types", types)
    size = fields.take("sliding_window", None)
    if family.period is None:
        if pattern is not None:
            raise UsageError(
                "sliding_window_pattern", pattern, f"is no field of {name}.", "Drop it."
            )
        if "sliding_window" not in family.honoured:
            # Qwen's size counts where use_sliding_window is true alone, and that is refused
            if size is not None and "use_sliding_window" not in family.fixed:
                problem = f"is not computed for {name}."
                raise UsageError("sliding_window", size, problem, "Drop it if nothing reads it.")
            size = None
        expected = FULL if size is None else SLIDING
        if types is not None and types != [expected] * layers:
            problem = f"is not {expected} on all {layers} layers."
            raise UsageError("layer_types", _brief(types), problem, "Use another checkpoint.")
        return (None if size is None else _whole("sliding_window", size),) * layers
    if types is None:
        every = family.period
        every = every if pattern is None else _whole("sliding_window_pattern", pattern)
        if every != family.period and not family.patterned:
            problem = f"is not computed for {name}, {family.period} alone is."
            raise UsageError("sliding_window_pattern", every, problem, "Write layer_types.")
        types = [SLIDING if (i + 1) % every else FULL for i in range(layers)]
    if len(types) != layers or not all(kind in (FULL, SLIDING) for kind in types):
        problem = f"is not {FULL} or {SLIDING} for each of {layers} layers."
        raise UsageError("layer_types", _brief(types), problem, "Use another checkpoint.")
    window = _whole("sliding_window", size) if SLIDING in types else None
    return tuple(window if kind == SLIDING else None for kind in types)


def _ropes(
    name: str, family: Family, fields: _Fields, max_length: int, head_dim: int
) -> tuple[Rope, ...]:
    """The ropes of full layers and, where those have their own, of sliding ones."""
    new = fields.take("rope_parameters", None)
    old = fields.take("rope_scaling", None)
    stated = fields.given("rope_theta")
    theta = fields.take("rope_theta", 10_000.0)
    share = fields.take("partial_rotary_factor", None) if family.partial_rope else None
    local = fields.take("rope_local_base_freq", 10_000.0) if family.local_rope else None
    extended = "longrope" in family.ropes
    original = fields.take("original_max_position_embeddings") if extended else None
    if new is not None and old is not None and new != old:
        problem = "says something else than rope_parameters."
        raise UsageError("rope_scaling", _brief(old), problem, "Leave one of them.")
    given = _group("rope_parameters", new) if new is not None else _group("rope_scaling", old)
    common = {"rope_theta": theta, "partial_rotary_factor": share, "original": original}
    one = lambda entry, **own: _rope(name, family, entry, common | own, max_length, head_dim)
    whole = given if FULL not in given else _group("rope_parameters", given[FULL])
    if stated and whole.get("rope_theta", theta) != theta:
        problem = "says something else than rope_parameters."
        raise UsageError("rope_theta", theta, problem, "Leave one of them.")
    if not family.local_rope:
        return (one(given),)
    if FULL in given or SLIDING in given:
        if rest := sorted(set(given) - {FULL, SLIDING}):
            raise UsageError("rope_parameters", rest, "belongs to no kind of layer.", "Mend it.")
        full, sliding = (_group("rope_parameters", given.get(kind)) for kind in (FULL, SLIDING))
    else:
        full, sliding = given, {}
    ropes = one(full), one(sliding, rope_theta=local)
    if ropes[1].kind != "default":
        problem = "is not computed for sliding layers."
        raise UsageError("rope_type", ropes[1].kind, problem, "Use another checkpoint.")
    return ropes


def _rope(
    name: str,
    family: Family,
    given: Mapping[str, Any],
    common: dict[str, Any],
    max_length: int,
    head_dim: int,
) -> Rope:
    """One rope from an entry of `rope_parameters` or `rope_scaling`, and from fields beside it."""
    entry = _Fields(dict(given), {})
    kinds = [entry.take(field, None) for field in ("rope_type", "type")]
    kinds = ["longrope" if kind == "su" else kind for kind in kinds if kind]
    kind = kinds[0] if kinds else "default"
    if any(other != kind for other in kinds):
        problem = f"says something else than rope_type = {kind!r}."
        raise UsageError("type", kinds[-1], problem, "Leave one of them.")
    theta = _positive("rope_theta", entry.take("rope_theta", common["rope_theta"]))
    share = entry.take("partial_rotary_factor", common["partial_rotary_factor"])
    share = 1.0 if share is None else _positive("partial_rotary_factor", share)
    if share > 1 or (share < 1 and not family.partial_rope):
        raise UsageError("partial_rotary_factor", share, f"is not computed for {name}.", "Mend it.")
    if kind not in family.ropes:
        problem, fix = f"is not computed for {name}.", " or ".join(family.ropes)
        raise UsageError("rope_type", kind, problem, f"Use a checkpoint of {fix}.")
    rope = Rope(theta, share=share)
    if kind == "linear":
        rope = Rope(theta, "linear", share, factor=entry.number("factor"))
    if kind == "llama3":
        rope = _llama3(theta, entry)
    if kind == "longrope":
        rope = _longrope(rope, entry, common["original"], max_length, head_dim)
    entry.take("original_max_position_embeddings", None)
    entry.take("factor", None) if kind == "default" else None
    entry.refuse_rest()
    if rope.turned(head_dim) % 2 or not rope.turned(head_dim):
        raise UsageError("head_dim", head_dim, "does not turn in pairs.", "Mend the config.json.")
    return rope


def _llama3(theta: float, entry: _Fields) -> Rope:
    rope = Rope(
        theta,
        "llama3",
        factor=entry.number("factor"),
        low=entry.number("low_freq_factor"),
        high=entry.number("high_freq_factor"),
        original=entry.count("original_max_position_embeddings"),
    )
    if rope.high <= rope.low:
        problem = f"is not above low_freq_factor = {rope.low:g}."
        raise UsageError("high_freq_factor", rope.high, problem, "Mend the config.json.")
    return rope


def _longrope(rope: Rope, entry: _Fields, original: object, max_length: int, head_dim: int) -> Rope:
    length = _whole("original_max_position_embeddings", original)
    inner = entry.take("original_max_position_embeddings", None)
    if inner is not None and inner != length:
        problem = f"is not the model's own {length}."
        fix = "Write one number in both places."
        raise UsageError("original_max_position_embeddings", inner, problem, fix)
    stretch = entry.take("factor", None)
    stretch = max_length / length if stretch is None else _positive("factor", stretch)
    given = entry.take("attention_factor", None)
    amplitude = 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(length))
    short, long = (entry.numbers(f"{k}_factor") for k in ("short", "long"))
    pairs = rope.turned(head_dim) // 2
    for name, factors in (("short_factor", short), ("long_factor", long)):
        if len(factors) != pairs:
            problem = f"is not {pairs} numbers above 0."
            raise UsageError(name, _brief(factors), problem, "Mend the config.json.")
    return dataclasses.replace(
        rope,
        kind="longrope",
        original=length,
        short=short,
        long=long,
        amplitude=amplitude if given is None else _positive("attention_factor", given),
    )
