"""Tests run on the CPU, refuse silent broadcasts between ranks, and share compiled programs."""

import gc
import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "JAX_DISABLE_MOST_OPTIMIZATIONS", "1"
)  # compiling takes far longer here than running
os.environ.setdefault(
    "FDIV_CACHE", os.path.join(tempfile.gettempdir(), f"fdiv-test-cache-{os.getuid()}")
)

import jax
import pytest

gc.set_threshold(
    100_000, 20, 50
)  # tracing leaves many small objects, and looking through them took a seventh of the time

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.environ["FDIV_CACHE"] + "/programs")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture
def double():
    """Double precision, for laws that hold to rounding."""
    with jax.enable_x64(True):
        yield
