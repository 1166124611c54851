"""`kill -9` at random moments loses nothing but time, for each kind of objective.

Every start is a process of its own that runs the real command and saves after each stretch. They
are forked from a server that has imported the libraries and made no device yet: what is saved by
that is loading, not any step of a run. `--kills 20` asks for more than the two of every day."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import cli
from experiments.commands import compare
from experiments.storage import checkpoints

MORE = 5  # starts that may be spent on a kill inside a save, beyond those asked for
SMALL = {
    "vocab": 2,
    "horizon": 3,
    "policy.name": "full",
    "seeds": 2,
    "batch-size": 16,
    "samples": 16,
    "save-every": 0,
}
KINDS = {
    "likelihood": ("two-template", "sft"),
    "policy gradient": ("two-template", "js"),
    "adversarial": ("two-template", "gail"),
    "distillation": ("two-template", "distill:js"),
    "value function": ("rlhf", "ppo"),
    "preferences": ("rlhf", "dpo"),
    "learned reward": ("rlhf", "bt_rloo"),
    "a user's reward": ("rlhf", "rloo"),
}
OWN_REWARD = """from experiments import add_reward


def mine(completions):
    return [len(set(text)) / (1 + text.count("1")) for text in completions]


add_reward("mine", mine)
"""


def flags(kind: str, kills: int, out: Path) -> list[str]:
    """Long enough that no start comes to the end: each sees four saves at most."""
    preset, method = KINDS[kind]
    sizes = "benchmark.base" if preset == "rlhf" else "benchmark"
    saves = 4 * (kills + MORE)
    # no start is killed as late as in a report, so one kind's is enough
    report = kind == "likelihood"
    small = SMALL | {"updates": 3 * saves, "evaluations": saves, "report": report}
    named = {(f"{sizes}.{k}" if k in ("vocab", "horizon") else k): v for k, v in small.items()}
    if kind == "a user's reward":
        file = out.parent / "own_reward.py"
        file.write_text(OWN_REWARD)
        named |= {"import": file, "benchmark.reward": "mine"}
    return [
        preset,
        "--methods",
        method,
        *(str(x) for k, v in named.items() for x in (f"--{k}", v)),
        "--out",
        str(out),
    ]


def command(arguments: list[str], log: Path) -> None:
    """`python -m experiments.compare ARGUMENTS`, its output in a file, measured by few
    divergences."""
    importlib.import_module("few")
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(cli.run(compare.main, "experiments.compare", arguments))


@pytest.fixture(scope="module")
def start():
    """Arguments, log -> a process that has just started on them."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # so that the server has no threads of its own
    context = multiprocessing.get_context("forkserver")
    running = ["experiments.running.head_to_head", "experiments.running.finish"]
    context.set_forkserver_preload([*running, "orbax.checkpoint", "tyro", "pytest"])

    def begin(arguments: list[str], log: Path):
        process = context.Process(target=command, args=(arguments, log))
        process.start()
        return process

    return begin


def saves(out: Path, named: str = "*") -> set[str]:
    """Everything in the folders of checkpoints, drafts too, or what is named so."""
    return {str(p) for p in out.glob(f"checkpoints/*/{named}")}


def kill_at_random(process, out: Path, chance: random.Random, inside: bool) -> str:
    """One in five at any moment of a start; else up to .15 s after it has begun a save or two, or
    at once if it is to be inside a save, which a draft is a sign of. Says where it was."""
    anywhere = not inside and chance.random() < 0.2
    deadline = time.monotonic() + (chance.uniform(0, 8) if anywhere else 120)
    before, wanted, signs = saves(out), chance.randint(1, 4), "draft-*" if inside else "*"
    seen = before
    while wanted and time.monotonic() < deadline and process.is_alive():
        time.sleep(0.002)
        now = saves(out, signs)
        wanted -= now - seen != set()
        seen |= now
    time.sleep(0 if inside else chance.uniform(0, 0.15))
    process.kill()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        return f"not killed: it had ended with {process.exitcode}"
    if saves(out) == before:
        return "before a save"
    return "in a save" if any(out.glob("checkpoints/*/draft-*")) else "between saves"


def numbers(out: Path) -> dict:
    """All that must be the same to the bit: parameters and all else of the last state, metrics,
    samples, results."""
    clock = ("seconds", "compile_seconds")
    lines = lambda name: [json.loads(text) for text in (out / name).read_text().splitlines()]
    place = next(out.glob("checkpoints/*-final/0*"))
    (method,) = json.loads((out / "results.json").read_text())["methods"].values()
    return {
        "state": json.loads((place / "about.json").read_text())["checksum"],
        "metrics": [
            {k: v for k, v in line.items() if k not in clock} for line in lines("metrics.jsonl")
        ],
        "samples": sorted(lines("samples.jsonl"), key=json.dumps),
        "result": {k: v for k, v in method.items() if k not in clock},
    }


@pytest.mark.parametrize("kind", KINDS)
def test_kills_change_no_bit(kind, start, tmp_path, pytestconfig):
    kills = pytestconfig.getoption("kills")
    inside = max(1, 3 * kills // 20)  # kills that must fall inside a save
    chance = random.Random(f"{kind} {os.environ.get('FDIV_KILL_SEED', 0)}")
    whole, out, log = tmp_path / "whole", tmp_path / "run", tmp_path / "log"
    undisturbed = start(flags(kind, kills, whole), log)
    undisturbed.join()
    assert undisturbed.exitcode == 0, log.read_text()[-4000:]
    moments = []
    while len(moments) < kills or (
        moments.count("in a save") < inside and len(moments) < kills + MORE
    ):
        within = len(moments) >= kills - inside
        moments.append(kill_at_random(start(flags(kind, kills, out), log), out, chance, within))
    print(kind, {moment: moments.count(moment) for moment in moments})
    assert set(moments) <= {"before a save", "in a save", "between saves"}, log.read_text()[-4000:]
    assert moments.count("in a save") >= inside
    last = start(flags(kind, kills, out), log)
    last.join()
    assert last.exitcode == 0, log.read_text()[-4000:]
    assert "Traceback" not in log.read_text()
    assert "damaged" not in log.read_text()
    found, wanted = numbers(out), numbers(whole)
    steps = [(line["update"], line["seed"]) for line in found["metrics"]]
    assert len(steps) == len(set(steps))
    for part in wanted:
        assert found[part] == wanted[part], part


def test_the_comparison_can_fail(tmp_path):
    """One bit of one parameter is enough."""
    sums = []
    for i, value in enumerate((1.0, np.nextafter(np.float32(1), np.float32(2)))):
        checkpoints.save(tmp_path / str(i), 1, {"w": np.full(3, value, np.float32)}, {})
        sums.append(
            json.loads(next((tmp_path / str(i)).glob("0*/about.json")).read_text())["checksum"]
        )
    assert sums[0] != sums[1]
