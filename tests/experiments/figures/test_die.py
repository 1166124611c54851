"""The die by hand."""

from __future__ import annotations

import math

import pytest

from experiments.figures import (
    die,
)


def test_die_by_hand(made):
    """Three faces, 1/2 on the first: each number as a sum written out."""
    result = made(die, faces=3, loaded_probability=0.5)
    log2, third = math.log2, 1 / 3
    wanted = {
        "forward_bits": third * log2(third / 0.5) + 2 * third * log2(third / 0.25),
        "reverse_bits": 0.5 * log2(1.5) + 0.5 * log2(0.75),
        "js_bits": 0.5 * (third * log2(third / (5 / 12)) + 2 * third * log2(third / (7 / 24)))
        + 0.5 * (0.5 * log2(0.5 / (5 / 12)) + 0.5 * log2(0.25 / (7 / 24))),
        "tv": 1 / 6,
        "entropy_bits": log2(3),
        "cross_entropy_bits": third * 1 + 2 * third * 2,
    }
    assert result.values == pytest.approx(wanted, abs=1e-12)
