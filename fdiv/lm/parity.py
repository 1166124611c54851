"""How far two computations of one model's logits lie apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fdiv.types import UsageError

MAX_KL = 1e-5  # nats, of any position, in float32
MIN_AGREEMENT = 1.0
# of a logit: another eps (1e-6 for 1e-5) in SmolLM2 gives a KL of 2e-6 and 8e-3 here; rounding 3e-4
MAX_DIFFERENCE = 2e-3


class Parity(NamedTuple):
    """Over all positions. A wrong rotary order, theta, eps or scale leaves text fluent: only
    numbers tell."""

    mean_kl: float  # KL(reference || own), nats
    max_kl: float
    max_difference: float  # of a logit, after each row's mean is taken off
    agreement: float  # share of positions whose likeliest token is the same
    positions: int

    @property
    def holds(self) -> bool:
        """Whether the two are one model in float32."""
        near = self.max_kl <= MAX_KL and self.max_difference <= MAX_DIFFERENCE
        return near and self.agreement >= MIN_AGREEMENT

    def __str__(self) -> str:
        return (
            f"KL mean {self.mean_kl:.1e}, largest {self.max_kl:.1e} nats; largest logit difference "
            f"{self.max_difference:.1e}; same likeliest token at {self.agreement:.2%} of "
            f"{self.positions:,} positions"
        )


def compare(reference: np.ndarray, own: np.ndarray) -> Parity:
    """Of logits or log-probs [..., V], in float64. Raises `UsageError` where shapes differ."""
    if reference.shape != own.shape:
        problem = f"is not {list(reference.shape)}, the reference's."
        raise UsageError("shape", list(own.shape), problem, "Compare the same tokens.")
    p, q = (_log_softmax(np.asarray(x, np.float64)) for x in (reference, own))
    kl = (np.exp(p) * (p - q)).sum(-1)
    # a NaN is no agreement, and numpy's max hands it on
    centred = [x - x.mean(-1, keepdims=True) for x in (p, q)]
    return Parity(
        float(kl.mean()),
        float(kl.max()),
        float(np.abs(centred[0] - centred[1]).max()),
        float((p.argmax(-1) == q.argmax(-1)).mean()),
        kl.size,
    )


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
