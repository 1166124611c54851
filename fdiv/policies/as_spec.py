"""The transformer that runs train from nothing (`fdiv.policies.transformer`) as a `Spec` with its
weights: a Llama, or a Mistral where it has a window.

Two things differ. It scales its embedding by sqrt(width) and reads the unscaled one out; here the
scale is in the embedding, and the head is apart. And a row of its own, the last of its embedding,
stands for what is before the start. Here the symbol that ends a text also begins it, as nothing is
ever read after an end: its row of the embedding is that of the start, its row of the head its own.
So the law is over the same symbols, and no row is left that a probability would have to be kept
from."""

from __future__ import annotations

from typing import Any

import numpy as np

from fdiv.lm.spec import Rope, Spec
from fdiv.policies.transformer import Shape
from fdiv.types import Params

EPS, THETA, HIDDEN = 1e-6, 10_000.0, 3  # of its norms, its rotary embedding, its MLP


def spec_of(shape: Shape, vocab: int, length: int) -> Spec:
    """The architecture over `vocab` symbols, the last of which ends a text; `length` is the most
    tokens that it was trained on, the one before the start among them."""
    size = shape.width // shape.heads
    return Spec(
        family="llama" if shape.window is None else "mistral",
        vocab=vocab,
        width=shape.width,
        hidden=HIDDEN * shape.width,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=size,
        eps=EPS,
        tied=False,
        ropes=(Rope(THETA),),
        rope_of=(0,) * shape.layers,
        windows=(shape.window,) * shape.layers,
        attention_scale=size**-0.5,
        max_length=length,
    )


def params_of(shape: Shape, params: Params) -> Params:
    """The same parameters as the block's, numpy in float32, layers stacked."""
    own = params["params"]
    layers = range(shape.layers)
    stacked = lambda name, *path: np.stack([_leaf(own[f"{name}{i}"], path) for i in layers])
    kernels = lambda module, names: {
        name: {"kernel": stacked(f"{module}_", name, "kernel")} for name in names
    }
    table = np.asarray(own["embedding"], np.float32)
    read, written = table.copy()[:-1], table[:-1]
    read[-1] = table[-1]
    return {
        "params": {
            "embedding": read * np.float32(shape.width**0.5),
            "head": written,
            "norm": {"scale": _leaf(own["norm_out"], ("scale",))},
            "layers": {
                "attention": kernels("attention", ("query", "key", "value", "out")),
                "mlp": kernels("mlp", ("gate", "up", "down")),
                "norm_attention": {"scale": stacked("norm_a", "scale")},
                "norm_mlp": {"scale": stacked("norm_b", "scale")},
            },
        }
    }


def _leaf(tree: Any, path: tuple[str, ...]) -> np.ndarray:
    for name in path:
        tree = tree[name]
    return np.asarray(tree, np.float32)
