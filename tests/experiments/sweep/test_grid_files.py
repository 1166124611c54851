"""Grid and site files as people write them, and as they come damaged: values stay as written, what
cannot be read is refused in a few words, and a value never becomes a line of a script."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from experiments import cli
from experiments.config import value_of
from experiments.storage import lease
from experiments.sweep import __main__ as commands
from experiments.sweep import attempt, flags, grid, plan, scalars, slurm, status
from experiments.sweep.folder import SweepFolder
from experiments.sweep.site import Site, read_site, render
from fdiv.types import LONGEST, LONGEST_VALUE, UsageError

ROOT = Path(__file__).parents[3]
MOST = 3 * LONGEST + LONGEST_VALUE  # characters of an error's text


def site_of(tmp_path: Path, text: str) -> Site:
    (tmp_path / "site.yaml").write_text(text, encoding="utf-8")
    return read_site(tmp_path / "site.yaml", Site())


AS_WRITTEN = {
    "time: 1:30:00": ("time", "1:30:00"),
    "time: 90": ("time", "90"),
    "account: 0123": ("account", "0123"),
    "account: 010": ("account", "010"),
    "account: yes": ("account", "yes"),
    "account: No": ("account", "No"),
    "account: 1_000": ("account", "1_000"),
    "account: 1e3": ("account", "1e3"),
    "account: 0x1F": ("account", "0x1F"),
    "account: 2020-01-01": ("account", "2020-01-01"),
    "account: 'null'": ("account", "null"),
    "account: null": ("account", None),
    "account:": ("account", None),
    "nodes: 010": ("nodes", 10),
    "cpus-per-task: 1_6": ("cpus_per_task", 16),
    "setup: |\n  module load a\n  module load b": ("setup", "module load a\nmodule load b"),
}


@pytest.mark.parametrize("text", AS_WRITTEN)
def test_a_site_is_what_is_written(text, tmp_path):
    name, value = AS_WRITTEN[text]
    assert getattr(site_of(tmp_path, text), name) == value


BAD_SITES = {
    "time: 1:00\ntime: 2:00": ["'time' is given twice", "line 2"],
    "cpus-per-task: 1\ncpus_per_task: 2": ["given twice", "line 2"],
    "nodes: two": ["site.nodes", "'two'", "whole number"],
    "nodes: 1.5": ["site.nodes", "'1.5'"],
    "nodes: 0": ["site.nodes", "at least 1"],
    "account: [a, b]": ["site.account", "not one value"],
    "partitions: a": ["partitions", "nothing that a site has"],
    "- a": ["no names and values"],
    'account: "lab\\n#SBATCH --wrap=evil"': ["site.account", "line break"],
    'account: "lab\\revil"': ["site.account", "line break"],
    'partition: "a\\tb"': ["site.partition", "control character"],
}


@pytest.mark.parametrize("text", BAD_SITES)
def test_a_site_that_cannot_be_is_refused(text, tmp_path):
    with pytest.raises(UsageError) as refused:
        site_of(tmp_path, text)
    assert all(words in str(refused.value) for words in BAD_SITES[text]), str(refused.value)


DAMAGED = {
    "brackets": b"[" * 5000 + b"]" * 5000,
    "braces": b"{a: " * 5000,
    "invalid UTF-8": b"a: \xff\xfe\xfd",
    "NUL": b"a: \0",
    "open list": b"a: [1, 2",
    "object": b"a: !!python/object/apply:os.system ['true']",
    "itself": b"a: &x [*x]",
    "bomb": b"a0: &a0 [x]\n" + b"".join(
        b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 20)) for i in range(1, 9)
    ),
    "documents": b"preset: a\n---\npreset: b",
    "long key": b"k" * 1_000_000 + b": 1\n" + b"k" * 1_000_000 + b": 2",
    "long preset": b"preset: " + b"p" * 2_000_000,
    "long block": b"p" * 100_000 + b": 1",
    "key twice": b"preset: two-template\nproduct: {seed: [0],\n  seed: [1]}",
    "key spelled twice": b"preset: two-template\nflags: {batch-size: 2, batch_size: 4}",
    "nested value": b"preset: two-template\nflags: {seed: {a: 1}}",
    "nested list": b"preset: two-template\nproduct: {seed: [[[1]]]}",
    "flag in a value": b"preset: two-template\nflags: {methods: [sft, --out=x]}",
    "preset is a mapping": b"preset: {a: 1}",
    "preset of lists": b"preset: [[a]]",
    "no preset in the list": b"preset: []",
    "too many points": b"preset: a\nproduct: {a: &l [" + b"1," * 400 + b"1], b: *l, c: *l}",
    "too many draws": b"preset: a\nrandom: {count: 1000000000, of: {seed: [1]}}",
    "long value": b"preset: two-template\nflags: {seed: " + b"9" * 100_000 + b"}",
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_grid_is_refused_in_a_few_words(case, tmp_path, capsys):
    (tmp_path / "grid.yaml").write_bytes(DAMAGED[case])
    began = time.process_time()
    argv = ["plan", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "out")]
    assert commands.main([*argv, "--cost", "False"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert len(said) < 1.2 * MOST
    assert not (tmp_path / "out").exists()
    assert time.process_time() - began < 10
    if "twice" in case:
        assert "given twice" in " ".join(said.split())
        assert "line" in said


def test_a_key_given_twice_in_python_is_refused(tmp_path):
    (tmp_path / "grid.py").write_text("GRID = {'preset': 'a',\n'flags': {'seed': 1, 'seed': 2}}")
    with pytest.raises(UsageError, match=r"'seed' is given twice \(first in line 2\), line 2"):
        grid.read(tmp_path / "grid.py")


def test_an_error_is_short_whatever_its_parts_are():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10_000_000, deep, 10**5000, ["y" * 1000] * 1000):
        error = UsageError("f" * 10_000, value, "p" * 10_000_000, "z" * 10_000_000)
        assert len(str(error)) < MOST
        assert error.value is value
    while deep:  # a chain of lists is taken apart by hand: its own destructor recurses
        deep = deep[0]


WORDS = {  # of YAML -> what the flag's own parser makes of it
    ("seed", "010"): 10,
    ("seed", "1_000"): 1000,
    ("learning_rate", "1e-3"): 0.001,
    ("learning_rate", "0.10"): 0.1,
    ("report", "false"): False,
    ("report", "yes"): True,
    ("clip", "0.5"): 0.5,  # a flag of an earlier version
}


@pytest.mark.parametrize("case", WORDS, ids=str)
def test_a_grid_of_yaml_says_what_its_flags_make_of_it(case, tmp_path):
    flag, word = case
    text = f"preset: two-template\nproduct: {{{flag}: [{word}]}}"
    (tmp_path / "grid.yaml").write_text(text)
    line = plan.resolve(0, grid.expand(grid.read(tmp_path / "grid.yaml"))[0])
    field = {"clip": "max_grad_norm"}.get(flag, flag)
    if field != "report":  # where a run lives is no part of its config
        assert line["point"][flag] == line["config"][field] == WORDS[case]
    # what the plan holds is what the command line takes
    parsed = flags.parsed("two-template", line["flags"], "line 0")
    assert value_of(parsed, field) == WORDS[case]


@pytest.mark.parametrize("case", [("seed", "1e3"), ("seed", "0x10"), ("report", "maybe")], ids=str)
def test_a_word_that_its_flag_does_not_take_is_refused(case):
    with pytest.raises(UsageError):
        plan.resolve(0, {"preset": "two-template", case[0]: case[1]})


def test_several_presets_are_an_axis():
    points = grid.expand({"preset": ["a", "b"], "product": {"seed": [0, 1]}})
    assert [(p["preset"], p["seed"]) for p in points] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


def test_values_are_one_however_they_are_written(tmp_path):
    text = "product: {a: [1e-3, 2], b: [true, no]}\nskip: [{a: 0.001, b: True}, {a: 2.0}]"
    (tmp_path / "grid.yaml").write_text(text)
    assert grid.expand(scalars.read("grid", tmp_path / "grid.yaml")) == [{"a": "1e-3", "b": "no"}]


def test_the_quick_way_is_the_command_lines(monkeypatch):
    """Every kind of flag once: its value alone makes the config that the whole line makes."""
    words = [
        *("--seeds", "3", "--methods", "sft", "gail", "--learning-rate", "-0", "--report", "False"),
        *("--policy.order", "2", "--policy.width", "None", "--temperatures", "1.0", "2"),
        *("--benchmark.horizon", "4", "--adversarial.level", "token", "--cache", "/a b"),
        *("--schedule", "cosine", "--betas", "0.5", "0.9"),
    ]
    monkeypatch.setattr(flags, "_agree", {})
    flags.parsed("two-template", words, "here")
    assert list(flags._agree.values()) == [True]
    calls = []
    monkeypatch.setattr(flags.cli, "parse", lambda *args: calls.append(args))
    again = flags.parsed("two-template", ["--seeds", "4", *words[2:]], "here")
    assert again.budget.seeds == 4
    assert not calls


def test_a_line_takes_milliseconds():
    """10,000 of them are to take less than a minute: 6 ms each, with five times that as room for a
    busy machine."""
    plan.resolve(0, {"preset": "two-template", "learning_rate": 0.5, "seed": 0})
    began = time.process_time()
    for i in range(60):
        plan.resolve(i, {"preset": "two-template", "learning_rate": 1e-3 * (i + 1), "seed": i})
    assert (time.process_time() - began) / 60 < 0.030


def test_renamed_flags_are_said_once_a_plan(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(flags.cli, "_RENAMED", set())
    (tmp_path / "g.yaml").write_text("preset: two-template\nproduct: {clip: [0.5, 1.0]}")
    argv = ["plan", str(tmp_path / "g.yaml"), "--out", str(tmp_path / "s"), "--cost", "False"]
    assert commands.main(argv) == 0
    assert capsys.readouterr().err.count("--clip is now called --max-grad-norm") == 1


NAMED = {  # blocks of a grid that give a flag under two names -> the two
    "flags": {"flags": {"clip": 1, "max_grad_norm": 2}},
    "a product": {"product": {"max-grad-norm": [1], "clip": [2]}},
    "a zip": {"zip": {"clip": [1], "max_grad_norm": [2]}},
    "a list": {"list": [{"clip": 1}, {"clip": 1, "max_grad_norm": 2}]},
    "random": {"random": {"count": 1, "of": {"clip": [1], "max_grad_norm": [2]}}},
    "two at once": {"flags": {"noise": 0.1, "benchmark.flips": 0.2}},
    "under a condition": {
        "product": {"seed": [0]},
        "when": [{"if": {"seed": 0}, "flags": {"clip": 1, "max_grad_norm": 2}}],
    },
}


@pytest.mark.parametrize("name", NAMED)
def test_a_block_with_two_names_of_one_flag_is_refused(name):
    with pytest.raises(UsageError, match="is the same flag"):
        grid.expand({"preset": "two-template", **NAMED[name]})


WRONG = {  # a grid -> what is said of it
    "a law up to what is no number": (
        {"random": {"count": 1, "of": {"seed": {"uniform": ["nan", 1]}}}},
        "no bounds",
    ),
    "a law backwards": (
        {"random": {"count": 1, "of": {"seed": {"integers": [5, 1]}}}},
        "no bounds",
    ),
    "a law without an end": (
        {"random": {"count": 1, "of": {"seed": {"uniform": [0, "inf"]}}}},
        "no bounds",
    ),
    "a logarithm of 0": (
        {"random": {"count": 1, "of": {"seed": {"log_uniform": [0, 1]}}}},
        "above 0",
    ),
    "dashes": ({"flags": {"--seed": 1}}, "Write seed."),
    "a skip of what is not there": (
        {"product": {"seed": [1, 2]}, "skip": [{"sed": 1}]},
        "Did you mean seed?",
    ),
    "a condition on what is not there": (
        {"product": {"seed": [1, 2]}, "when": [{"if": {"preset": "a", "rate": 1}, "flags": {}}]},
        "never holds",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_grid_that_cannot_be_meant_is_refused(name):
    content, said = WRONG[name]
    with pytest.raises(UsageError, match=re.escape(said)):
        for number, point in enumerate(grid.expand({"preset": "two-template", **content})):
            plan.resolve(number, point)


def test_a_condition_on_what_some_points_say_is_one():
    content = {"list": [{"seed": 1}, {"seed": 1, "seeds": 2}], "skip": [{"seeds": 2}, {"seed": 7}]}
    assert grid.expand({"preset": "a", **content}) == [{"preset": "a", "seed": 1}]


OVER = {  # flags of a grid and an axis over them, under whatever name
    "the same": ("max_grad_norm", "max_grad_norm"),
    "another spelling": ("max_grad_norm", "max-grad-norm"),
    "a name of today over an earlier one": ("clip", "max_grad_norm"),
    "an earlier name over today's": ("max-grad-norm", "clip"),
}


@pytest.mark.parametrize("name", OVER)
def test_an_axis_comes_before_the_flags_that_all_points_have(name):
    flag, axis = OVER[name]
    points = grid.expand({"preset": "markov", "flags": {flag: 5}, "product": {axis: [1, 2]}})
    lines = [plan.resolve(i, point) for i, point in enumerate(points)]
    assert [line["config"]["max_grad_norm"] for line in lines] == [1, 2]
    assert [line["flags"] for line in lines] == [["--max-grad-norm", x] for x in "12"]
    conditions = {"skip": [{flag: 2}], "flags": {flag: 5}, "product": {axis: [1, 2]}}
    assert len(grid.expand(conditions)) == 1


def test_a_part_of_a_flag_of_two_is_given_over_it(tmp_path, monkeypatch):
    """`noise` is two flags, of which an axis changes one; the command of the line has each once, as
    a command line wants it."""
    points = grid.expand(
        {
            "preset": "demos-vs-preferences",
            "flags": {"noise": 0.1},
            "product": {"benchmark.flips": [0.2]},
        }
    )
    line = plan.resolve(0, points[0])
    whole = {"line": 0, "preset": "demos-vs-preferences", "flags": line["flags"], "imports": []}
    ran = []
    monkeypatch.setattr(
        attempt.subprocess,
        "run",
        lambda command, **_: ran.append(command) or subprocess.CompletedProcess(command, 0),
    )
    sweep = folder_at(tmp_path / "s", **whole)
    sweep.log(sweep.lines[0]).write_text("")
    assert attempt._launched(sweep, sweep.lines[0], "").code == 0
    words = cli.arguments(ran[0][ran[0].index("experiments.compare") + 1 :])
    config = cli.parse("experiments.compare", words)[1]
    assert (config.benchmark.flips, config.benchmark.slips) == (0.2, 0.1)


# --- scripts and folders --------------------------------------------------------------------------


def folder_at(path: Path, **line) -> SweepFolder:
    """A plan of one line that nobody will run."""
    for part in ("slurm", "runs", "ends", "leases", "logs"):
        (path / part).mkdir(parents=True)
    whole = {"line": 0, "preset": "two-template", "flags": [], "point": {}, "imports": []}
    (path / "plan.jsonl").write_text(plan.plan_text([whole | {"config": {}} | line]))
    return SweepFolder(path)


OUTPUTS = {  # the name of a folder -> how sbatch reads the option's word
    "plain": "plain",
    "two words": r"two\ words",
    "job %j of %A": r"job\ %%j\ of\ %%A",
    "a#b": r"a\#b",
    "it's": r"it\'s",
    "$(id)": r"\$\(id\)",
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_log_of_a_task_goes_into_its_folder(name, tmp_path):
    script = render(Site(), folder_at(tmp_path / name))
    (line,) = [text for text in script.splitlines() if text.startswith("#SBATCH --output=")]
    assert line == f"#SBATCH --output={tmp_path}/{OUTPUTS[name]}/slurm/%A_%a.log"


@pytest.mark.parametrize("name", ["a\nb", "a\n#SBATCH --wrap=x", "a\\b", "a\rb"])
def test_a_folder_that_slurm_cannot_write_to_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match="SLURM cannot write there"):
        render(Site(), folder_at(tmp_path / name))


HOSTILE = ["a b", "a#b", "$(id)", "a;b", "`id`", "${FDIV_PYTHON:-python}", "# (site)", "a'b"]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_of_a_site_stays_in_its_option(value, tmp_path):
    sweep = folder_at(tmp_path / "s")
    plain = render(Site(account="x", setup="module load a"), sweep).splitlines()
    lines = render(Site(account=value, setup="module load a"), sweep).splitlines()
    differ = [(a, b) for a, b in zip(plain, lines, strict=True) if a != b]
    (found,) = differ
    assert found[1].startswith("#SBATCH --account=")
    read = subprocess.run(
        ["bash", "-c", f"printf %s {found[1].partition('=')[2]}"], capture_output=True, check=True
    )
    assert read.stdout.decode() == value


def test_a_value_of_a_flag_or_of_an_earlier_submission_is_looked_at_too(tmp_path):
    for site in (Site(account="a\nb"), Site(time="1\n2")):
        with pytest.raises(UsageError, match="line break"):
            read_site(None, site)
        with pytest.raises(UsageError, match="line break"):
            slurm.submit(folder_at(tmp_path / str(site.time)), site, dry_run=True)


@pytest.mark.parametrize(
    ("age", "state"), [(0, "running"), (-1e6, "preempted"), (1e6, "preempted")]
)
def test_a_lease_dated_ahead_lapses(age, state, tmp_path):
    sweep = folder_at(tmp_path / "s")
    taken = lease.take(sweep.leases, "0000", 120.0, None)
    os.utime(taken.path, (time.time() - age,) * 2)
    (row,) = status.rows(sweep)
    assert row.state == state
    seen = lease.read(sweep.leases, 120.0)["0000"]
    assert (lease.take(sweep.leases, "0000", 120.0, seen) is None) == (state == "running")


def test_reasons_are_shown_as_they_are(tmp_path, capsys):
    sweep = folder_at(tmp_path / "s")
    sweep.keep_end(sweep.lines[0], "failed", "KeyError: [/red] [bold] :tv:")
    status.show(status.rows(sweep), every=True)
    assert "[/red]" in capsys.readouterr().out


def test_the_plan_of_another_user_is_run_only_when_trusted(tmp_path, monkeypatch, capsys):
    sweep = folder_at(tmp_path / "s", imports=["/home/them/own.py"])
    sweep.refuse_strangers(trust=False)
    assert "executes /home/them/own.py" in capsys.readouterr().out
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    for command in ("run", "submit", "resume"):
        assert commands.main([command, str(sweep.path)]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "/home/them/own.py" in said
        assert "--trust True" in said
    sweep.refuse_strangers(trust=True)
    assert sweep.trusted
    monkeypatch.undo()
    (sweep.path / "plan.jsonl").chmod(0o666)
    with pytest.raises(UsageError, match="anybody's to write"):
        SweepFolder(sweep.path).refuse_strangers(trust=False)


def test_a_throw_away_slurm_takes_no_folder_that_others_prepared(tmp_path):
    """A link in a place that anybody can write to would lead root elsewhere."""
    script = ROOT / "slurm" / "local.sh"
    text = script.read_text(encoding="utf-8")
    assert not [part for part in text.split() if part.startswith("/tmp/")]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    own = os.environ | {"FDIV_SLURM": str(tmp_path / "link")}
    done = subprocess.run([script, "start"], env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "is a link" in done.stderr
    assert not list((tmp_path / "theirs").iterdir())
