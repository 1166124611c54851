"""Seeds side by side on several devices: what is put there comes back."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from experiments.devices.seeds import SeedLayout


@pytest.mark.parametrize("shape", [(), (2,), (4, 0), (0,)])
def test_what_is_put_on_devices_comes_back(shape):
    """Arrays without elements too, such as the prompts of a task without any."""
    layout = SeedLayout(3, jax.devices()[:1] * 4)
    given = np.arange(3 * int(np.prod(shape))).reshape(3, *shape)
    np.testing.assert_array_equal(layout.host(layout.put(given)), given)
