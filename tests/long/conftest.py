"""How much of the long tests is run, and a SLURM for those that ask for one."""

from __future__ import annotations

import os
import subprocess

import pytest
from sweeping import ROOT

SCRIPT = str(ROOT / "slurm" / "local.sh")


def pytest_addoption(parser):
    group = parser.getgroup("fdiv")
    group.addoption(
        "--kills", type=int, default=2, help="kills of a run, for each kind of objective"
    )
    group.addoption(
        "--runs", type=int, default=12, help="runs of the sweep whose workers are killed"
    )
    group.addoption("--configs", type=int, default=4000, help="random configs that are checked")
    group.addoption(
        "--trained", type=int, default=16, help="random configs that are trained for two updates"
    )


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A SLURM of our own, stopped at the end; skipped, with the reason, where the machine cannot
    host one."""
    folder = tmp_path_factory.mktemp("slurm") / "s"
    own = os.environ | {"FDIV_SLURM": str(folder)}
    for step in ("install", "start"):
        done = subprocess.run([SCRIPT, step], env=own, capture_output=True, text=True, check=False)
        if done.returncode == 3:
            pytest.skip(done.stderr.strip())
        assert done.returncode == 0, done.stderr
    before, os.environ["SLURM_CONF"] = os.environ.get("SLURM_CONF"), str(folder / "slurm.conf")
    yield
    os.environ.pop("SLURM_CONF") if before is None else os.environ.update(SLURM_CONF=before)
    subprocess.run([SCRIPT, "stop"], env=own, check=True)
