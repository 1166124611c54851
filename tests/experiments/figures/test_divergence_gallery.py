"""The family plate against formulas written out."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.figures import (
    discriminator_rewards,
    divergence_gallery,
)


@pytest.mark.wide
def test_family_plate_holds_its_laws_and_its_formulas():
    values, curves, off = divergence_gallery.members()
    assert max(most for laws in off.values() for most in laws.values()) <= 1e-12
    assert set(values) == set(curves) == {d.name for d in discriminator_rewards.FAMILY}
    u = np.exp(divergence_gallery.MARKS)
    wanted = {  # f, f', u f' - f
        "forward_kl": (u * np.log(u) - u + 1, np.log(u), u - 1),
        "reverse_kl": (-np.log(u) + u - 1, 1 - 1 / u, np.log(u)),
        "pearson_chi2": ((u - 1) ** 2, 2 * (u - 1), u**2 - 1),
        "neyman_chi2": ((u - 1) ** 2 / u, 1 - u**-2, 2 * (1 - 1 / u)),
        "hellinger2": ((np.sqrt(u) - 1) ** 2, 1 - u**-0.5, np.sqrt(u) - 1),
        "tv": (abs(u - 1) / 2, np.sign(u - 1) / 2, np.sign(u - 1) / 2),
    }
    for name, triple in wanted.items():
        for what, numbers in zip(("f", "witness", "reward"), triple, strict=True):
            assert values[name][what] == pytest.approx(numbers, abs=1e-12)
