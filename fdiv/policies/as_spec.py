"""The transformer that runs train from nothing (`fdiv.policies.transformer`) as other programs know
it: a Llama, or a Mistral where it has a window, with its weights.

Two fields of its `Spec` are of no checkpoint's. Its embedding is scaled by sqrt(width) and read out
unscaled; there the scale is in the embedding, and the head is apart. And a row of its own, the last
of its embedding, stands for what is before the start. There the symbol that ends a text also begins
it, as nothing is ever read after an end: its row of the embedding is that of the start, its row of
the head its own. So the law is over the same symbols, and no row is left that a probability would
have to be kept from."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from fdiv.lm.spec import Spec
from fdiv.policies.transformer import Shape, as_blocks
from fdiv.types import Params


def spec_of(shape: Shape, vocab: int, length: int) -> Spec:
    """The architecture over `vocab` symbols, the last of which ends a text; `length` is the most
    tokens that it was trained on, the one before the start among them."""
    return dataclasses.replace(
        shape.spec(vocab),
        family="llama" if shape.window is None else "mistral",
        tied=False,
        scale_embedding=False,
        start_row=False,
        max_length=length,
    )


def params_of(shape: Shape, params: Params) -> Params:
    """The same parameters as that model's, numpy in float32, layers stacked."""
    own = as_blocks(shape.spec(1), params)["params"]
    own = jax.tree.map(lambda x: np.asarray(x, np.float32), own)
    table = own["embedding"]
    read, written = table.copy()[:-1], table[:-1]
    read[-1] = table[-1]
    return {
        "params": {
            "embedding": read * np.float32(shape.width**0.5),
            "head": written,
            "norm": own["norm"],
            "layers": jax.tree.map(lambda *each: np.stack(each), *own["layers"]),
        }
    }
