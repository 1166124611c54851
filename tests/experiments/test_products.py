"""float32 is float32 on every device: the scripts never take JAX's rounded matrix products."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import experiments


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_products_are_asked_for_in_full(platform):
    x = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    lowered = jax.jit(lambda a, b: a @ b).trace(x, x).lower(lowering_platforms=(platform,))
    assert "precision = [HIGHEST, HIGHEST]" in lowered.as_text()


@pytest.mark.parametrize("given, taken", [(None, "highest"), ("tensorfloat32", "tensorfloat32")])
def test_whoever_asks_for_others_gets_them(given, taken):
    environment = {k: v for k, v in os.environ.items() if k != experiments.PRECISION}
    if given:
        environment[experiments.PRECISION] = given
    program = "import experiments, jax; print(jax.config.jax_default_matmul_precision)"
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == taken
