"""What a run can be refused for is found out before its folder is claimed and before anything is
trained, whatever finds it out: the mended command then has the folder to itself."""

from __future__ import annotations

import json

import jax
import pytest
from command_lines import over

from experiments import cli
from experiments.commands import compare
from experiments.running import head_to_head, ready, teacher
from experiments.storage import run_lease
from fdiv import objectives
from fdiv.types import Objective, UsageError

SMALL = ["--seeds", "1", "--updates", "2", "--evaluations", "1", "--batch-size", "8"]
TINY = ["--benchmark.vocab", "2", "--benchmark.horizon", "3", *SMALL]
BASE = ["--benchmark.base.vocab", "2", "--benchmark.base.horizon", "3", *SMALL]
REFUSED = {  # command -> what is said of it
    "no pairs": (["two-template", "--methods", "dpo", *TINY], "need a task with a reference"),
    "no score": (["two-template", "--methods", "rloo", *TINY], "needs a task with a score"),
    "group": (
        over(["rlhf", "--methods", "rloo", *BASE], ["--batch-size", "6", "--rloo.group", "4"]),
        "batch_size = 6: does not divide into rloo's groups of 4",
    ),
    "weight 0": (
        ["rlhf", "--methods", "rloo", *BASE, "--beta", "0", "--control.kind", "adaptive"],
        "benchmark.beta = 0.0",
    ),
    "devices": (["two-template", "--methods", "sft", *TINY, "--devices.count", "99"], "only"),
    "mesh": (["two-template", "--methods", "sft", *TINY, "--devices.data", "64"], "devices"),
    "text without pairs": (
        ["text", "--methods", "sft", "dpo", *SMALL, "--warm-start", "0"],
        "no pairs to learn from",
    ),
    "text without a score": (
        ["text", "--methods", "sft", "ppo", *SMALL, "--warm-start", "0"],
        "needs a task with a score",
    ),
}


@pytest.fixture
def nothing_trained(monkeypatch):
    """A run ends where it would begin to train."""
    monkeypatch.setattr(head_to_head, "_train_and_finish", lambda launch, reading: 0)
    monkeypatch.setattr(teacher, "get", lambda *words: pytest.fail("a teacher was trained"))


def run(words, out) -> int:
    return cli.run(compare.main, "experiments.compare", [*words, "--out", str(out)])


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    lines = [{"prompt": f"{i}?", "completion": f"answer {i}"} for i in range(60)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.few(4)
@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_run_leaves_nothing(name, nothing_trained, rows, tmp_path, capsys):
    words, said = REFUSED[name]
    if words[0] == "text":
        words = [*words, "--benchmark.path", str(rows), "--policy.width", "8"]
        words += ["--policy.layers", "1", "--benchmark.teacher-width", "8"]
    assert run(words, tmp_path / "run") == cli.USAGE_EXIT
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_an_error_of_a_first_update_comes_before_the_claim(nothing_trained, tmp_path, monkeypatch):
    """Of a method of the user's own, in what is only traced."""

    def prepare(key, params, aux, batch):
        raise UsageError("methods", "sft", "has a fault.", "Mend it.")

    sound = objectives.METHODS["sft"]
    broken = lambda self, components: Objective(lambda key, params: (), prepare, prepare)
    monkeypatch.setattr(type(sound), "build", broken)
    words = ["two-template", "--methods", "sft", *TINY]
    assert run(words, tmp_path / "run") == cli.USAGE_EXIT
    assert not (tmp_path / "run").exists()


def test_a_run_before_its_first_update_is_taken_over_and_one_at_work_is_not(
    nothing_trained, tmp_path, capsys
):
    words = ["two-template", "--methods", "sft", *TINY]
    assert run(words, tmp_path / "run") == 0
    assert run([*words, "--seed", "3"], tmp_path / "run") == 0
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["seed"] == 3
    with run_lease.hold(tmp_path / "run"):
        assert run([*words, "--seed", "4"], tmp_path / "run") == cli.USAGE_EXIT
    assert "is in use by the run of process" in " ".join(capsys.readouterr().err.split())
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["seed"] == 3


def test_what_is_traced_once_is_not_traced_when_a_run_goes_on(nothing_trained, tmp_path):
    words = ["two-template", "--methods", "sft", *TINY]
    assert run(words, tmp_path / "run") == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ready, "_trace", lambda *words: pytest.fail("traced again"))
        assert run(words, tmp_path / "run") == 0


PLACES = {  # a path that cannot be used -> the flag that is named
    "--out": "out",
    "--cache": "cache",
}


@pytest.mark.parametrize("flag", PLACES)
@pytest.mark.parametrize("kind", ["below a file", "dangling link"])
def test_a_path_that_cannot_be_used_is_refused_under_its_flag(
    flag, kind, nothing_trained, tmp_path, capsys
):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    place = tmp_path / ("file/run" if kind == "below a file" else "link")
    words = ["two-template", "--methods", "sft", *TINY, "--out", str(tmp_path / "run")]
    code = cli.run(compare.main, "experiments.compare", over(words, [flag, str(place)]))
    assert code == cli.USAGE_EXIT
    said = " ".join(capsys.readouterr().err.split())
    assert f"error: {PLACES[flag]} = '{place}" in said.replace("' ", "'")
    assert ("lies below a file" if kind == "below a file" else "is a link to") in said


def test_a_save_of_another_version_is_refused_before_the_methods_before_it_train(
    nothing_trained, tmp_path, capsys
):
    words = ["two-template", "--methods", "sft", "js", *TINY]
    assert run(words, tmp_path / "run") == 0
    place = tmp_path / "run/checkpoints/js/000000001"
    place.mkdir(parents=True)
    (place / "about.json").write_text('{"checksum": "0", "update": 1}')
    assert run(words, tmp_path / "run") == cli.USAGE_EXIT
    assert "format 1 by an older version" in " ".join(capsys.readouterr().err.split())


def test_a_run_in_double_precision_is_another_config(nothing_trained, tmp_path, capsys):
    """Its saves hold other numbers: going on from them in single precision is no going on."""
    words = ["two-template", "--methods", "sft", *TINY]
    assert run(words, tmp_path / "run") == 0
    (tmp_path / "run/methods/sft.json").write_text("{}")
    with jax.enable_x64(True):
        assert run(words, tmp_path / "run") == cli.USAGE_EXIT
    said = " ".join(capsys.readouterr().err.split())
    assert "jax_enable_x64 is None there and True here" in said
