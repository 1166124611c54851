"""Next-token laws of a pretrained model, and of the same model without some of its layers: pairs
of a teacher and a student that are no random draws."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fdiv.policies import Architecture
from fdiv.types import Params, UsageError

TEXT = (
    "The river rises in the hills, two days on foot from the nearest road. In spring it carries so "
    "much water that the bridge at the mill has to be closed, and people on the other side "
    "walk an hour to the next one. Asked why nobody builds a higher bridge, the miller counts on "
    "his fingers: stone, wood, iron, and a winter without floods. Then he adds that a boat costs "
    "less than any of them, and that he has three."
)
DROPPED = (13, 4)  # first layer that the student lacks and how many, of SmolLM2-135M's 30
LAYERS = 30
FEWEST = 8  # tokens of a text


def without(layers: int, dropped: tuple[int, int] = DROPPED) -> tuple[str, ...]:
    """The layers that a student of a model of so many lacks: as large a part of them, and as far
    up, as `dropped` says of 30."""
    first, count = (max(1, round(x * layers / LAYERS)) for x in dropped)
    return (f"{first}-{first + count - 1}",)


def laws(
    path: Path, text: str = TEXT, dropped: tuple[str, ...] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """log p and log q of what follows each token of a text but the last, p the model's and q its
    own without those layers (none named: those of `without`). [tokens - 1, V] each, in double
    precision, normalised there. Raises `UsageError` where the model or its tokenizer cannot be
    read."""
    from experiments.models import folder, pretrained, words

    source = folder.source(path)
    ids = words.read(source).encode(text)
    if len(ids) < FEWEST:
        raise UsageError("text", text, f"has fewer than {FEWEST} tokens.", "Give more text.")
    tokens = jnp.asarray([ids], jnp.int32)

    def law(dropped: tuple[str, ...] | None) -> np.ndarray:
        architecture = Architecture("hf", path=str(path), without_layers=dropped)
        policy = pretrained.policy(architecture)
        params = pretrained.start(architecture, policy)

        def of(params: Params) -> jax.Array:
            # the features of a column are of the tokens before it
            return policy.head(params, policy.trunk(params, tokens)[0, 1:])

        log = np.asarray(jax.jit(of)(params), np.float64)
        return log - np.log(np.exp(log).sum(1, keepdims=True))

    return law(None), law(dropped or without(source.spec.layers))
