"""Head and tail errors with Adam written out."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.figures import head_tail


def test_head_and_tail_errors_by_hand(made):
    result = made(head_tail, steps=(3, 8), seeds=3)
    x = np.arange(0, 100, 1.25)
    p = np.exp(-(x**2) / 512)
    p /= p.sum()
    assert len(p) == 80
    for step in (3, 8):
        heads = []
        for seed in range(3):
            logits, m, v = np.random.default_rng(seed).standard_normal(80), 0.0, 0.0
            for t in range(1, step + 1):
                q = np.exp(logits) / np.exp(logits).sum()
                m, v = 0.9 * m + 0.1 * (q - p), 0.999 * v + 0.001 * (q - p) ** 2
                logits = logits - 0.2 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            q = np.exp(logits) / np.exp(logits).sum()
            heads.append(np.abs(q - p)[:46].sum() / 2)
        assert result.values["head_error"][str(step)]["forward_kl"] == pytest.approx(
            np.mean(heads), abs=1e-9
        )
    assert result.values["share"]["8"] == {"head": 1.0, "tail": 1.0}
    assert result.values["tv"]["8"]["forward_kl"] < result.values["tv"]["3"]["forward_kl"]


BAD = [
    ({"seeds": 0}, "at least 1"),
    ({"steps": ()}, "steps"),
    ({"steps": (0,)}, "at least 1"),
    ({"steps": (10**6,)}, "at most"),
]


@pytest.mark.parametrize(("flags", "says"), BAD)
def test_flags_that_cannot_be_are_refused(flags, says, refused):
    refused(head_tail, flags, says=says)
