"""Planted faults: each small change of the package turns the test that is named beside it red.

`faults.py` has the table. A fault is planted in a copy of the project, and its test is run there in
a process of its own, which is forked from one that has loaded the libraries."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pytest
from faults import FAULTS, Fault

ROOT = Path(__file__).parents[2]
PARTS = ("fdiv", "experiments", "configs", "tests", "docs", "pyproject.toml", "README.md")
# What tests load that is not the project's own, and the plugins of pytest that these need not have.
LIBRARIES = ["pytest", "numpy", "jax", "optax", "flax.linen", "orbax.checkpoint", "scipy.optimize"]
LIBRARIES += ["chex", "tyro", "hypothesis", "jinja2", "matplotlib.pyplot"]
WITHOUT = ("cacheprovider", "xdist", "unraisableexception", "threadexception", "faulthandler")
FAILED = 1  # pytest's exit code where tests ran and some failed


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The project, to be changed."""
    folder = tmp_path_factory.mktemp("faults") / "project"
    ignored = shutil.ignore_patterns("long", "figures.png")  # what Python compiled is used there
    for part in PARTS:
        place = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        more = {"ignore": ignored} if (ROOT / part).is_dir() else {}
        folder.mkdir(exist_ok=True)
        place(ROOT / part, folder / part, **more)
    return folder


@pytest.fixture(scope="module")
def server():
    """Processes that begin with the libraries loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context


def run_test(folder: Path, test: str, answer) -> None:
    """Send pytest's exit code for a test of a project in a folder, and what it printed."""
    os.chdir(folder)
    sys.dont_write_bytecode = True  # a fault of a file's length, planted soon after, would be it
    sys.path[:] = [str(folder), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main(["-x", *(x for name in WITHOUT for x in ("-p", f"no:{name}")), test])
    import fdiv

    where = Path(fdiv.__file__)
    answer.send((int(code), said.getvalue()[-2000:], where.is_relative_to(folder)))


def outcome(server, folder: Path, test: str) -> tuple[int, str]:
    """Exit code and last words of a test run in a folder."""
    receive, send = server.Pipe(duplex=False)
    process = server.Process(target=run_test, args=(folder, test, send))
    process.start()
    send.close()
    try:
        code, said, planted = receive.recv()
    except EOFError:  # the process ended by itself: a fault may do that, and a test would notice
        return FAILED, "the process ended"
    finally:
        process.join()
    assert planted, "the test ran on the project itself, not on the copy"
    return code, said


@contextlib.contextmanager
def planted(folder: Path, fault: Fault):
    """The copy with a fault in it. The text that is changed stands exactly once in its file."""
    path = folder / fault.file
    whole = path.read_text(encoding="utf-8")
    assert whole.count(fault.old) == 1, f"{fault.file} has {whole.count(fault.old)} x {fault.old!r}"
    path.write_text(whole.replace(fault.old, fault.new), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(whole, encoding="utf-8")


def test_every_fault_can_be_planted():
    """All that a change of the package has made obsolete at once, before any is tried."""
    text = {fault.file: (ROOT / fault.file).read_text(encoding="utf-8") for fault in FAULTS}
    counts = {fault.name: text[fault.file].count(fault.old) for fault in FAULTS}
    assert {name: count for name, count in counts.items() if count != 1} == {}
    assert len(counts) == len(FAULTS) >= 60, "names are their own, and there are enough"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_turns_its_test_red(fault, copy, server):
    with planted(copy, fault):
        code, said = outcome(server, copy, fault.test)
    assert code == FAILED, f"{fault.test} ended with {code} though {fault.name}:\n{said}"


def test_without_a_fault_a_test_stays_green(copy, server):
    code, said = outcome(server, copy, FAULTS[0].test)
    assert code == 0, said
