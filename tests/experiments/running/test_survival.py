"""What a run survives: signals, damaged saves, full disks, numbers that are not finite. Kills are
in tests/long."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_lines import over

from experiments import assemble, cli, devices
from experiments.cli import STOPPED_EXIT
from experiments.commands import compare, doctor
from experiments.config import make_config, value_of
from experiments.devices.seeds import SeedLayout
from experiments.evaluation import class_optimum
from experiments.running import finite, program, resume, runs, train
from experiments.running.runs import Runs
from experiments.running.stopping import SIGNALS, Interrupted, StopFlag
from experiments.storage import checkpoints
from fdiv.benchmarks import TwoTemplate
from fdiv.objectives.max_likelihood import max_likelihood
from fdiv.types import Objective, UsageError

pytestmark = pytest.mark.usefixtures("few_logged")

ROOT = Path(__file__).parents[3]
CONFIG = make_config(
    benchmark=TwoTemplate(vocab=2, horizon=3),
    methods=("sft",),
    seeds=3,
    updates=24,
    batch_size=16,
    schedule="constant",
)
SMALL = [
    "two-template",
    "--benchmark.vocab",
    "2",
    "--benchmark.horizon",
    "3",
    "--policy.name",
    "full",
    "--seeds",
    "2",
    "--updates",
    "60",
    "--batch-size",
    "32",
    "--evaluations",
    "6",
    "--methods",
    "sft",
    "--save-every",
    "0",
]


def begin(objective_of, **changes):
    """(program, runs before the first update) of an objective on the smallest task, all seeds side
    by side."""
    config = make_config(
        **{
            **{
                f: value_of(CONFIG, f)
                for f in ("benchmark", "methods", "seeds", "updates", "batch_size")
            },
            **changes,
        }
    )
    task = assemble.task(config)
    components, keys = (
        assemble.components(config, task),
        assemble.seed_keys(config, config.budget.seeds),
    )
    objective = objective_of(max_likelihood(components.policy, task.mdp.vocab))
    rates = jnp.full(config.budget.seeds, config.optimiser.learning_rate)
    own = Runs(keys, runs.starts(config, task, components, keys), rates)
    train_state = program.begin(config, objective, own)
    layout = SeedLayout(config.budget.seeds, jax.devices()[:1])
    return program.build(config, task, objective, layout, train_state), train_state


@pytest.fixture(scope="module")
def likelihood():
    return begin(lambda objective: objective)


def same(a, b) -> bool:
    """Equal to the bit, keys and logs too."""
    return checkpoints._checksum(checkpoints._numpy(a)) == checkpoints._checksum(
        checkpoints._numpy(b)
    )


def fresh(train_state):
    """A copy that may be given away."""
    return jax.tree.map(lambda x: x.copy(), train_state)


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_and_a_second_one_leaves(number):
    before = [signal.getsignal(n) for n in SIGNALS]
    with StopFlag() as stop:
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked
        assert stop.hurried == (number != signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert [signal.getsignal(n) for n in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.few(1)
def test_a_command_that_is_stopped_while_it_loads_is_to_be_started_again(number):
    words = f"import sys, os; sys.argv = ['-m']; import experiments; os.kill(os.getpid(), {number})"
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == cli.STOPPED_EXIT
    assert b"goes on" in done.stderr and b"Traceback" not in done.stderr


class Dying:
    """What is asked to end while Python throws exceptions away."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        time.sleep(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", ["command", "run"])
def test_a_signal_that_nothing_was_made_of_comes_again(kind, number):
    with contextlib.ExitStack() as stack, pytest.raises(KeyboardInterrupt):
        stack.enter_context(cli.interruptible())
        if kind == "run":
            stack.enter_context(stack.enter_context(StopFlag()).at_once())
        Dying(number)
        time.sleep(5)


def test_a_run_hears_what_its_command_was_asked(monkeypatch):
    monkeypatch.setattr(cli, "_HEARD", ["SIGTERM"])  # raised, and thrown away on the way
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), StopFlag():
        pass


def test_a_stopped_run_goes_on_to_the_same_bits(likelihood, tmp_path):
    """Stopped after each of its stretches in turn; parameters, keys, sums and metrics are those of
    an undisturbed run."""
    compiled, train_state = likelihood
    measure = lambda train_state: {"step": np.asarray(train_state.learner.step)}
    stops = train.curve(compiled.updates, 4)
    undisturbed = list(train.stretches(compiled, fresh(train_state), measure, stops))
    whole = [(p.update, p.metrics, p.tokens) for p in undisturbed if p.metrics]
    end, found, starts = undisturbed[-1], [], 0
    progress = None
    while progress is None or progress.update < compiled.updates:
        stop, starts = StopFlag(), starts + 1
        saves = resume.Saves(tmp_path / "saves", keep=2, every=1e9, stop=stop)
        state, start = resume.newest(saves, train_state)
        stretches = train.stretches(compiled, fresh(state), measure, stops, start)
        try:
            for progress in resume.saved(
                stretches, saves, compiled.layout, compiled.updates, start
            ):
                found += (
                    [(progress.update, progress.metrics, progress.tokens)]
                    if progress.metrics
                    else []
                )
                stop.asked = progress.update > 0
        except Interrupted:
            assert len(list(saves.folder.glob("0*"))) <= 2
    assert starts > 3
    assert same(progress.train_state, end.train_state)
    assert [x[0] for x in found] == [x[0] for x in whole]
    for (_, a, tokens), (_, b, wanted) in zip(found, whole):
        np.testing.assert_equal(a, b)
        np.testing.assert_array_equal(tokens, wanted)


@pytest.mark.wide
def test_a_scheduler_and_a_full_disk_from_the_command_line(tmp_path, monkeypatch, capsys):
    out, original = tmp_path / "run", train.stretches
    command = lambda: cli.run(
        compare.main, "experiments.compare", [*SMALL, "--keep", "1", "--out", str(out)]
    )

    def told(compiled, *rest, **more):
        for progress in original(compiled, *rest, **more):
            if progress.update >= 20:
                os.kill(os.getpid(), signal.SIGTERM)
            yield progress

    monkeypatch.setattr(train, "stretches", told)
    assert command() == STOPPED_EXIT
    assert "goes on from here" in capsys.readouterr().out
    assert [p.name for p in (out / "checkpoints/sft").iterdir()] == ["000000020"]
    monkeypatch.setattr(train, "stretches", original)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    assert command() == cli.USAGE_EXIT
    said = capsys.readouterr()
    assert "goes on from update 20" in said.out
    assert str(out) in said.err.replace("\n", "")
    assert "full disk. Free some space" in said.err.replace("\n", " ")
    assert [p.name for p in (out / "checkpoints/sft").iterdir()] == ["000000020"]
    updates = [
        (line["update"], line["seed"])
        for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    ]
    assert len(updates) == len(set(updates))


@pytest.mark.wide
def test_a_stop_while_the_best_of_the_class_is_searched(tmp_path, monkeypatch, capsys):
    """What was found is kept, and the run goes on to the very numbers of an undisturbed one."""
    less = [
        *("--policy.name", "independent", "--optimum-starts", "1", "--temperatures", "1.0"),
        *("--samples", "16", "--updates", "12", "--evaluations", "2", "--report", "False"),
    ]
    few = over(SMALL, less)
    command = lambda name: cli.run(
        compare.main, "experiments.compare", [*few, "--out", str(tmp_path / name)]
    )
    original, searched = class_optimum.ClassOptima.search, []

    def told(class_optima, name):
        original(class_optima, name)
        searched.append(name)
        if len(searched) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(class_optimum.ClassOptima, "search", told)
    # each run searches for itself
    monkeypatch.setattr(class_optimum.ClassOptima, "_place", lambda *_: None)
    assert command("run") == STOPPED_EXIT
    assert searched == list(class_optimum.STANDARD[:2])
    assert command("run") == 0
    assert searched == list(class_optimum.STANDARD)
    assert command("whole") == 0
    found, whole = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("run", "whole")
    )
    assert found["class_optimum"] == whole["class_optimum"]
    assert found["methods"]["sft"]["metrics"] == whole["methods"]["sft"]["metrics"]


# --- saves ----------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit_about(place: Path, **fields) -> dict:
    """Change fields of a save's about.json and leave its checksum as it was."""
    about = json.loads((place / "about.json").read_text()) | fields
    (place / "about.json").write_text(json.dumps(about))
    return about


DAMAGE = {
    "flipped bit in the arrays": lambda place: flip(
        max(place.glob("arrays/**/d/*"), key=lambda p: p.stat().st_size)
    ),
    "truncated array": lambda place: os.truncate(
        max(place.glob("arrays/**/d/*"), key=lambda p: p.stat().st_size), 20
    ),
    "no arrays": lambda place: shutil.rmtree(place / "arrays"),
    "no about.json": lambda place: (place / "about.json").unlink(),
    "half an about.json": lambda place: os.truncate(place / "about.json", 10),
    "another update in about.json": lambda place: edit_about(place, update=3),
    "another format in about.json": lambda place: edit_about(place, format=checkpoints.FORMAT + 1),
    "empty folder": lambda place: [shutil.rmtree(place), place.mkdir()],
    "fewer arrays": lambda place: checkpoints._write(place.parent, 2, [np.ones(1)], {}, 9),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_save_is_set_aside(damage, tmp_path, capsys):
    train_state = {
        # large enough that a changed bit is no error of the compression's own
        "a": np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32),
        "b": np.ones((2, 3), np.float32),
        "key": jax.random.key(3),
    }
    checkpoints.save(tmp_path, 1, train_state, {"update": 1})
    if damage != "fewer arrays":
        checkpoints.save(tmp_path, 2, train_state, {"update": 2})
    (tmp_path / "damaged-000000002").mkdir()  # from an earlier time
    DAMAGE[damage](tmp_path / "000000002")
    found, about = checkpoints.restore(tmp_path, train_state)
    assert about == {"update": 1}
    assert same(found, train_state)
    assert "set aside" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "000000001",
        "damaged-000000002",
        "damaged-000000002-2",
    ]


def as_format(place: Path, number: int | None) -> None:
    """Rewrite a save's about.json as a version of that format would have written it; None for the
    first one, which kept no number."""
    about = edit_about(place, format=number)
    about.pop("about_checksum")
    if number is None:
        about.pop("format")
    else:
        about["about_checksum"] = checkpoints._sum_of_about(about)
    (place / "about.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("number", "shown", "whose"),
    [
        (None, 1, "an older"),
        (checkpoints.FORMAT - 1, checkpoints.FORMAT - 1, "an older"),
        (checkpoints.FORMAT + 1, checkpoints.FORMAT + 1, "a newer"),
    ],
)
def test_a_save_in_another_format_is_refused_and_left_alone(number, shown, whose, tmp_path):
    """Refused for its format even where a sound save in this one lies behind it."""
    state = {"a": np.arange(4.0)}
    for step in (1, 2):
        checkpoints.save(tmp_path, step, state, {"update": step})
    as_format(tmp_path / "000000002", number)
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    with pytest.raises(UsageError) as refused:
        checkpoints.restore(tmp_path, state)
    assert refused.value.value == str(tmp_path / "000000002")
    assert f"format {shown} by {whose} version" in refused.value.problem
    assert f"delete {tmp_path}" in refused.value.fix
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before


@pytest.mark.wide
def test_a_run_saved_in_an_older_format_is_refused_from_the_command_line(tmp_path, capsys):
    """What is refused is named, with what to do, and the run's folder stays as it was."""
    saves = tmp_path / "run" / "checkpoints" / "sft"
    command = [*SMALL, "--out", str(tmp_path / "run")]
    assert cli.run(compare.main, "experiments.compare", command) == 0
    place = max(saves.glob("0*"))
    as_format(place, None)
    for finished in ("results.json", "methods/sft.json"):
        (tmp_path / "run" / finished).unlink()
    capsys.readouterr()
    assert cli.run(compare.main, "experiments.compare", command) == cli.USAGE_EXIT
    message = " ".join(capsys.readouterr().err.split())
    assert "was saved in format 1 by an older version" in message
    assert "Start anew with another --out" in message
    assert place.is_dir()


def test_as_many_saves_as_asked_for_and_no_drafts(tmp_path):
    (tmp_path / "draft-000000001").mkdir()  # of a save that was killed
    with checkpoints.writer(tmp_path, keep=3) as write:
        for step in range(1, 6):
            array = np.full(2, float(step))
            write(step, {"a": array}, {"update": step})
            array[:] = -1  # what comes later is no part of the save
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000003", "000000004", "000000005"]
    assert checkpoints.restore(tmp_path, {"a": np.zeros(2)})[0]["a"].tolist() == [5.0, 5.0]


def test_what_cannot_be_written_is_said_and_leaves_the_rest_whole(tmp_path, monkeypatch):
    checkpoints.save(tmp_path / "saves", 1, {"a": np.zeros(2)}, {})
    monkeypatch.setattr(checkpoints, "ROOM", 1 << 62)
    with (
        pytest.raises(OSError) as full,
        checkpoints.writer(tmp_path / "saves", keep=1) as write,
    ):  # it waits for its last save
        write(2, {"a": np.zeros(2)}, {})
    assert full.value.errno == errno.ENOSPC
    assert [p.name for p in (tmp_path / "saves").iterdir()] == ["000000001"]
    with pytest.raises(FileNotFoundError):
        checkpoints.save(tmp_path / "gone" / "saves", 1, {"a": np.zeros(2)}, {})
    assert not (tmp_path / "gone").exists()


# --- not finite -----------------------------------------------------------------------------------


def breaks_at(update: int):
    """The loss, and so the gradient, of seeds with an even key is not finite once an own count has
    come to an update.

    An update that is left out counts nothing: it comes again.
    """

    def of(objective: Objective) -> Objective:
        def prepare(key, params, aux, batch):
            inner, batch, metrics = objective.prepare(key, params, aux[0], batch)
            bad = (aux[1] == update - 1) & (aux[2] == 0)
            return (inner, aux[1] + 1, aux[2]), (batch, jnp.full(len(batch.weight), bad)), metrics

        def loss(params, aux, batch):
            value, metrics = objective.loss(params, aux[0], batch[0])
            return jnp.where(batch[1].any(), jnp.inf, 1.0) * value, metrics

        def init(key, params):
            odd = jax.random.key_data(key).sum() % 2
            return objective.init(key, params), jnp.int32(0), odd.astype(jnp.int32)

        return Objective(init, prepare, loss)

    return of


@pytest.mark.parametrize("mode", ["stop", "skip"])
def test_an_update_that_is_not_finite_is_told_and_stays_its_seeds_own(mode, likelihood):
    sound = likelihood[0]
    stops = train.curve(sound.updates, 2)
    *_, wanted = train.stretches(sound, fresh(likelihood[1]), lambda train_state: {}, stops)
    compiled, train_state = begin(breaks_at(5), not_finite=mode)
    broken = np.flatnonzero(np.asarray(train_state.learner.aux[2]) == 0)
    assert 0 < len(broken) < 3, "seeds of both kinds are needed"
    *_, end = train.stretches(compiled, train_state, lambda train_state: {}, stops)
    params, others = (
        np.asarray(jax.tree.leaves(p.train_state.learner.params)[0]) for p in (end, wanted)
    )
    log = compiled.layout.host(end.train_state.log)
    whole = np.setdiff1d(np.arange(3), broken)
    np.testing.assert_allclose(params[whole], others[whole], atol=1e-6)
    assert log.broke[broken].tolist() == [5] * len(broken)
    assert not log.broke[whole].any()
    said = finite.described(log, compiled.watched, mode == "skip")
    assert f"seed {broken[0]}: loss was not finite at update 5" in said
    assert np.isfinite(params[broken]).all() == (mode == "skip")
    assert log.skipped.tolist() == [
        CONFIG.budget.updates - 4 if mode == "skip" and i in broken else 0 for i in range(3)
    ]
    assert np.isfinite(end.metrics["loss"][whole]).all()


# --- before a run ---------------------------------------------------------------------------------


def test_the_doctor(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    flags = ["--out", str(tmp_path / "runs"), "--cache", str(tmp_path)]
    assert doctor.main(flags) == 0
    assert capsys.readouterr().out.count(" ok  ") == len(doctor.CHECKS)
    assert not (tmp_path / "runs").exists()
    monkeypatch.setattr(
        doctor, "CHECKS", {"disk": doctor.check_disk, "Python": doctor.check_python}
    )
    monkeypatch.setattr(doctor, "FREE", 1 << 62)
    assert doctor.main(flags) == 1
    assert "make room" in capsys.readouterr().out


def test_entries_of_the_compile_cache_are_whole_or_absent(tmp_path):
    """Written beside their place; what is there already is left alone."""
    before = (
        jax.config.jax_compilation_cache_dir,
        jax.config.jax_persistent_cache_min_compile_time_secs,
    )
    try:
        devices.use_compile_cache(tmp_path)
        from jax._src.lru_cache import LRUCache

        cache = LRUCache(str(tmp_path / "programs"), max_size=-1)
        cache.put("a", b"first")
        cache.put("a", b"second")
        assert cache.get("a") == b"first"
        assert [
            p.name for p in (tmp_path / "programs").iterdir() if p.name.startswith((".", "a"))
        ] == ["a-cache"]
    finally:
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
