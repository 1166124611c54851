"""One model over many devices gives what one device gives: every mesh, an objective of each
kind.

The runs on one device and over one of the meshes are measured by every divergence, and search the
best of the policy class; the others leave most of that out (`trained.py`)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from command_lines import over
from joining import ROOT, ends, environment, two_processes

SIZES = {"name": "transformer", "layers": 1, "width": 16, "heads": 8, "kv-heads": 8}
SMALL = [
    "two-template",
    "--benchmark.horizon",
    "3",
    "--seeds",
    "1",
    "--updates",
    "8",
    "--batch-size",
    "64",
    "--evaluations",
    "2",
    "--learning-rate",
    "0.003",
    "--temperatures",
    "1.0",
    "--report",
    "False",
]
METHODS = ("sft", "distill:js", "js", "gail")
ADVERSARIAL = ["--adversarial.warmup", "2"]
TRAINED = ["--import", str(Path(__file__).parent / "trained.py")]
MESHES = {
    "8x1x1": (8, 1, 1),
    "2x2x2": (2, 2, 2),
    "1x8x1": (1, 8, 1),
    "1x1x8": (1, 1, 8),
    "1x2x-1": (1, 2, -1),
}


MEASURED = "2x2x2"  # by every divergence


def transformers(*owners: str) -> list[str]:
    """Flags of a policy, a scorer or both."""
    return [
        word for owner in owners for k, v in SIZES.items() for word in (f"--{owner}.{k}", str(v))
    ]


RUN = [*SMALL, "--methods", *METHODS, *ADVERSARIAL, *transformers("policy", "scorer")]


def command(out: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "experiments.compare", *words, "--out", str(out)]


def metrics(out: Path) -> dict[tuple[str, str], list[float]]:
    methods = json.loads((out / "results.json").read_text())["methods"]
    return {(name, k): v["seeds"] for name, m in methods.items() for k, v in m["metrics"].items()}


def same(one: Path, other: Path, every: bool = False, methods: Sequence[str] = METHODS) -> None:
    """In single precision, sums in another order; counts of strings may not differ at all. By
    every divergence, or by few."""
    wanted, found = metrics(one), metrics(other)
    assert dict.fromkeys(name for name, _ in found) == dict.fromkeys(methods)
    assert found.keys() == wanted.keys() if every else found.keys() < wanted.keys()
    few = ("forward_kl", "js_token", "cross_entropy", "entropy", "valid", "self_bleu")
    assert {(name, metric) for name in methods for metric in few} <= found.keys()
    for key, values in found.items():
        np.testing.assert_allclose(values, wanted[key], rtol=1e-5, atol=1e-5, err_msg=str(key))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """On one device."""
    out = tmp_path_factory.mktemp("one") / "run"
    subprocess.run(
        command(out, *RUN), cwd=ROOT, env=environment(1), check=True, capture_output=True
    )
    return out


def test_seeds_over_four_devices_give_what_one_gives(tmp_path):
    """Three seeds: neither five nor three divide by four. Counts of draws may round the other
    way."""
    words = [*SMALL, "--methods", *METHODS, *ADVERSARIAL, "--scorer.name", "full", *TRAINED]
    for devices in (1, 4):
        out = tmp_path / f"on-{devices}"
        subprocess.run(
            command(out, *over(words, ["--seeds", "3"])),
            cwd=ROOT,
            env=environment(devices),
            check=True,
            capture_output=True,
        )
        assert len(json.loads((out / "environment.json").read_text())["devices"]) == devices
    wanted, found = metrics(tmp_path / "on-1"), metrics(tmp_path / "on-4")
    for key, values in wanted.items():
        if key[1] not in (
            "self_bleu",
            "d_accuracy",
            "d_accuracy_train",
            "length_accuracy",
            "d_calibration",
        ):
            np.testing.assert_allclose(found[key], values, rtol=2e-3, atol=2e-4, err_msg=str(key))


@pytest.mark.parametrize("mesh", MESHES)
def test_every_mesh_gives_what_one_device_gives(mesh, one, tmp_path):
    """Of the last, the size that is left out is filled in; one method is enough for it."""
    shape, every = MESHES[mesh], mesh == MEASURED
    axes = ("data", "fsdp", "tensor")
    words = [word for axis, n in zip(axes, shape) for word in (f"--devices.{axis}", str(n))]
    words += [] if every else TRAINED
    methods = METHODS[:1] if -1 in shape else METHODS
    run = RUN if methods == METHODS else [*SMALL, "--methods", *methods, *transformers("policy")]
    done = subprocess.run(
        command(tmp_path / "run", *run, *words),
        cwd=ROOT,
        env=environment(8),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    filled = (n if n > 0 else 4 for n in shape)
    sizes = " x ".join(f"{axis} {n}" for axis, n in zip(axes, filled))
    assert f"a mesh of {sizes}" in done.stdout
    same(one, tmp_path / "run", every, methods)


STOPPED = """
import os, signal
import jax
from experiments.running import train

def told(*arguments, **more):
    for point in stretches(*arguments, **more):
        second = jax.process_index() == 1
        if point.update == 4 and second and not os.path.exists(os.environ["TOLD"]):
            open(os.environ["TOLD"], "w").close()
            os.kill(os.getpid(), signal.SIGTERM)
        yield point

stretches, train.stretches = train.stretches, told
"""


def test_two_processes_of_four_devices_give_what_one_gives(one, tmp_path):
    """The first one's folder is the one that is written, with its report. One of them is told to
    stop half-way: both do, and go on."""
    (tmp_path / "stopped.py").write_text(STOPPED)
    words = [*over(RUN, ["--report", "True"]), *TRAINED]
    words += ["--import", str(tmp_path / "stopped.py"), "--out", str(tmp_path / "run")]
    codes, said = two_processes(words, 4, TOLD=str(tmp_path / "told"))
    assert codes == [130, 130], ends(said)
    codes, said = two_processes(words, 4, TOLD=str(tmp_path / "told"))
    assert codes == [0, 0], ends(said)
    assert "goes on from update 4" in said[0]
    assert "a mesh of data 8" in said[0]
    assert "a mesh of" not in said[1]
    assert (tmp_path / "run" / "report.html").is_file()
    same(one, tmp_path / "run")


ALONE = """
import jax
from experiments.devices import processes
from experiments.running import runs

def fail(*arguments, **more):
    if jax.process_index() == 1:
        raise RuntimeError("broken here alone")
    return starts(*arguments, **more)

processes.ALONE = 5
starts, runs.starts = runs.starts, fail
"""


def test_a_process_that_fails_alone_ends_the_other(tmp_path):
    """It says why; the other one, waiting for it, is told once `ALONE` seconds are over, which are
    fewer here than the thirty that Gloo waits."""
    (tmp_path / "alone.py").write_text(ALONE)
    words = [*SMALL, "--methods", "sft", "--policy.name", "markov"]
    words += ["--import", str(tmp_path / "alone.py"), "--out", str(tmp_path / "run")]
    began = time.monotonic()
    codes, said = two_processes(words, 4)
    assert 0 not in codes
    assert "broken here alone" in said[1]
    assert "another task died" in said[0]
    assert time.monotonic() - began < 200  # five minutes is what JAX would wait


def test_processes_without_a_mesh_are_refused(tmp_path):
    flags = [
        "--devices.coordinator",
        "127.0.0.1:1",
        "--devices.processes",
        "2",
        "--devices.process",
        "2",
    ]
    done = subprocess.run(
        command(tmp_path / "run", *RUN, *flags),
        cwd=ROOT,
        env=environment(1),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "devices.process = 2" in done.stderr
