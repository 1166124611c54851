"""What the long tests of several devices and processes share."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(devices: int) -> dict[str, str]:
    """A CPU that shows itself as so many devices."""
    forced = f"--xla_force_host_platform_device_count={devices}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {forced}".strip()
    return {**os.environ, "XLA_FLAGS": flags, "PJRT_NPROC": "8", "JAX_PLATFORMS": "cpu"}


def compare(words: Sequence[str], devices: int, **more: str) -> subprocess.Popen:
    """`python -m experiments.compare WORDS` under way; it is ended after a quarter of an hour."""
    return subprocess.Popen(
        ["timeout", "-s", "KILL", "900", sys.executable, "-m", "experiments.compare", *words],
        cwd=ROOT,
        env=environment(devices) | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def two_processes(words: Sequence[str], devices: int, **more: str) -> tuple[list[int], list[str]]:
    """(exit codes, what they said) of two processes over a mesh, joined by flags, as hosts without
    SLURM would be."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    joined = [
        "--devices.data",
        "-1",
        "--devices.coordinator",
        f"127.0.0.1:{port}",
        "--devices.processes",
        "2",
    ]
    processes = [
        compare([*words, *joined, "--devices.process", str(i)], devices, **more) for i in range(2)
    ]
    with ThreadPoolExecutor() as pool:
        said = list(pool.map(lambda process: process.communicate()[0], processes))
    return [process.returncode for process in processes], said


def ends(said: Sequence[str]) -> str:
    """How what they said begins and ends, for a message."""
    return "\n\n".join(text[:3000] + text[-2000:] for text in said)
