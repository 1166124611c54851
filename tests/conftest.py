"""Tests run on the CPU, refuse silent broadcasts between ranks, and share compiled programs."""

import ctypes
import gc
import os
import signal
import threading
from importlib import metadata
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
KEPT = 1.2e9  # bytes of a process from which on its compiled programs are let go

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling takes far longer here than running. Processes that tests start inherit both settings.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
known = tuple(map(int, metadata.version("jaxlib").split(".")[:2])) <= (0, 10)
if known and os.environ["JAX_PLATFORMS"] == "cpu":
    # XLA ends the process at a flag that it does not know, so only where the flag is known; a
    # plugin for a GPU has an XLA of its own. Workers inherit them, and flags given twice would be
    # another key of the compile cache.
    flags = os.environ.get("XLA_FLAGS", "").split()
    wanted = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
    os.environ["XLA_FLAGS"] = " ".join([x for x in wanted if x not in flags] + flags)
os.environ.setdefault("FDIV_CACHE", str(ROOT / ".cache"))

import jax  # noqa: E402
import pytest  # noqa: E402
from jax._src.interpreters import mlir  # noqa: E402

from experiments import devices  # noqa: E402
from fdiv import divergences  # noqa: E402

# Tracing leaves many small objects, and looking through them took a seventh of the time.
gc.set_threshold(100_000, 20, 50)
shared = []

# A shell's background jobs ignore Ctrl-C, and so would the commands that tests send it to.
ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
if ignored and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

if known:
    # JAX makes a context for each program that it lowers, which for small ones takes three times as
    # long as all else; one is shared here, until programs are let go.
    make_context = mlir.make_ir_context

    def one_context():
        if mlir.ir.Context.current is not None:  # this program is needed to lower another
            return make_context()
        if not shared:
            shared.append(make_context())
        return shared[0]

    mlir.make_ir_context = one_context

jax.config.update("jax_numpy_rank_promotion", "raise")
devices.use_compile_cache(None)


def pytest_addoption(parser):
    parser.getgroup("fdiv").addoption(
        "--extent",
        choices=("quick", "rest", "all"),
        default="quick",
        help="quick: without what is marked `wide`, and of what is marked `few(count)` so many "
        "parameters; rest: what quick leaves out. Tests named one by one are always run",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    extent = config.getoption("extent")
    if extent == "all" or any("::" in argument for argument in config.args):
        return
    left_out = beyond_quick(items)
    leave = left_out if extent == "quick" else set(items) - left_out
    config.hook.pytest_deselected(items=list(leave))
    items[:] = [item for item in items if item not in leave]


def beyond_quick(items: list[pytest.Item]) -> set[pytest.Item]:
    """What the quick extent leaves out."""
    left_out = {item for item in items if item.get_closest_marker("wide")}
    functions: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("few"):
            functions.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for each in functions.values():
        count = each[0].get_closest_marker("few").args[0]
        taken = {i * len(each) // count for i in range(count)}
        left_out |= {item for i, item in enumerate(each) if i not in taken}
    return left_out


@pytest.fixture
def double():
    """Double precision, for laws that hold to rounding."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def few_logged():
    """For a whole module: its runs are measured by few divergences of the family, and by what a
    test adds to it. Measuring by all of them is a third of what a small run compiles."""
    every = divergences.logged
    left_out = {*every()} - {"forward_kl", "reverse_kl", "js", "tv"}
    few = lambda: tuple(name for name in every() if name not in left_out)
    with mock.patch.object(divergences, "logged", few):
        yield


def resident() -> int:
    """Bytes of memory that this process holds; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def pytest_runtest_logfinish():
    """JAX keeps 1.3 MB a program: past a bound all are let go, between two tests."""
    if resident() < KEPT:
        return
    jax.clear_caches()
    shared.clear()
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
