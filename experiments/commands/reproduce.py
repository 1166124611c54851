"""A preset again, its numbers beside the recorded ones:
`python -m experiments.reproduce [PRESET ... | all]`

Without a preset it lists those that are recorded, and what a run of each took. Each preset is run
as it is into `--out` (a run that is there already, or was stopped, goes on), and every number of
its table is held against that of `configs/recorded/PRESET.json`: `same` to four decimals, `inside`
the recorded 95 % interval, or one that overlaps it, else `outside`. Of a single seed, whose values
are estimated from samples, two standard errors stand for the interval. Exit code 1 where something
is outside."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from experiments import cli
from experiments.cli import filled
from fdiv.types import UsageError

if TYPE_CHECKING:
    from experiments.reporting.schema import RunResult, Summary
    from experiments.running.loading import Run

RECORDED = Path(__file__).parents[2] / "configs" / "recorded"
PAGE = Path(__file__).parents[2] / "docs" / "recorded.md"
INTRODUCTION = """# Recorded numbers

Of presets as they are, written by `python -m experiments.reproduce PRESET --record`; without
`--record` it runs a preset again and holds its numbers against these
([what a run leaves](results.md#recorded-numbers)). IQM over seeds with its 95 % interval;
divergences and entropies in nats, [metrics](metrics.md) by their names.
"""
SAME = 5e-5  # of two numbers that are alike to four decimals
ALL = "all"  # in the place of a preset


@dataclasses.dataclass(frozen=True)
class Options:
    """Run presets again, and compare."""

    presets: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Which, or `all` that have recorded numbers; none: list these."""
    out: Path = Path("runs/reproduce")
    """Each preset's run goes to a folder of its name in this one."""
    run: Path | None = None
    """A finished run of the one preset, to compare in place of running it."""
    record: bool = False
    """Write what came out as the recorded numbers, and compare nothing."""


class Number(NamedTuple):
    """One of a table, recorded and new."""

    method: str
    metric: str
    recorded: Mapping[str, Any]  # iqm, ci95, of one seed perhaps stderr
    here: Mapping[str, Any] | None  # the same; None where it is not there any more

    @property
    def verdict(self) -> str:
        """`same`, `inside`, `outside` or `missing`."""
        if self.here is None:
            return "missing"
        own, other = self.here["iqm"], self.recorded["iqm"]
        if abs(own - other) <= SAME:
            return "same"
        low, high = _ends(self.recorded) or (other, other)
        least, most = _ends(self.here) or (own, own)
        return "inside" if least <= high and low <= most else "outside"


def _ends(one: Mapping[str, Any]) -> tuple[float, float] | None:
    """Of the interval about a number."""
    if one["ci95"]:
        return tuple(one["ci95"])
    error = one.get("stderr")
    return None if error is None else (one["iqm"] - 2 * error, one["iqm"] + 2 * error)


def _kept(summary: Summary) -> dict[str, Any]:
    """What is recorded of a number."""
    own: dict[str, Any] = {"iqm": summary.iqm, "ci95": summary.ci95}
    errors = summary.stderr
    return own | ({"stderr": errors[0]} if errors and len(errors) == 1 else {})


def main(argv: list[str] | None = None) -> int:
    """Compare; 1 where a number is outside, `USAGE_EXIT` where nothing can be compared."""
    return cli.script("python -m experiments.reproduce", Options, __doc__, reproduce, argv)


def reproduce(options: Options) -> int:
    """Each preset in turn."""
    known = cli.presets()
    recorded = sorted(place.stem for place in RECORDED.glob("*.json"))
    names = tuple(recorded) if options.presets == (ALL,) else options.presets
    if options.run is not None and len(names) != 1:
        raise UsageError("run", str(options.run), "is of one preset.", "Name that preset alone.")
    if options.record and not names:
        raise UsageError("record", True, "is of presets, and none is named.", "Name them.")
    for name in names:
        if name not in known:
            fix = f"Give one of {', '.join(known)}, or all."
            raise UsageError("preset", name, "is no preset.", fix)
        if not options.record and name not in recorded:
            fix = (
                f"Recorded are {', '.join(recorded) or 'none'}; python -m experiments.compare "
                f"{name} runs it by itself, and --record here records it, on a commit without "
                "changes."
            )
            raise UsageError("preset", name, "has no recorded numbers.", fix)
    if not names:
        return _list(recorded)
    return max(_one(name, options) for name in names)


def _list(recorded: list[str]) -> int:
    """Print what is recorded."""
    from experiments.running.console import print_table

    rows = []
    for name in recorded:
        kept = json.loads(_place(name).read_text(encoding="utf-8"))
        where, seconds = kept["where"], kept.get("seconds")
        took = "" if seconds is None else f"{seconds / 60:.1f} min"
        devices = ", ".join(dict.fromkeys(name.partition(":")[0] for name in where["devices"]))
        made = f"{where['commit']} {devices} ({where['cores']})"
        rows.append([name, str(len(kept["methods"])), str(kept["seeds"]), took, made])
    caption = (
        "Name one or more, or all, to run them again and hold their numbers against these. "
        "Training and compiling: of all methods, added up."
    )
    titles = ["preset", "methods", "seeds", "training", "commit, cores"]
    print_table(titles, rows, caption)
    return 0


def _place(preset: str) -> Path:
    return RECORDED / f"{preset}.json"


def _one(preset: str, options: Options) -> int:
    from experiments.running import loading

    run = loading.load(options.run or _made(preset, options.out))
    _refuse_other(run, preset)
    assert run.result is not None, "it is complete"
    if options.record:
        from experiments.storage import files, whole

        files.write_json(_place(preset), record(preset, run, run.result))
        whole.write_text(PAGE, page())
        print(f"{_place(preset)}, and all of them on {PAGE}")
        return 0
    before = json.loads(_place(preset).read_text(encoding="utf-8"))
    compared = numbers(before, run.result)
    _print(preset, before, compared)
    print(filled(_where(before["where"], run.environment)))
    return int(any(one.verdict in ("outside", "missing") for one in compared))


def _where(then: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """By which code and on what the run was made, where that is not as recorded, and whether it is
    today's code."""
    from experiments.storage import run_folder

    made = _about(here)
    apart = [f"{name} {made[name]} ({was})" for name, was in then.items() if made.get(name) != was]
    sentences = [f"Here, and in brackets as recorded: {'; '.join(apart)}." if apart else ""]
    today = run_folder.commit()
    if today and made["commit"] != today:
        sentences.append(
            f"The run is of commit {made['commit']}, and this code is {today}: without --run, or "
            "with another --out, the preset is run by this code."
        )
    return " ".join(filter(None, sentences)) or "Here all of that is the same."


def _about(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What is recorded of where a run was made."""
    where = {name: environment.get(name) for name in ("commit", "platform", "devices", "cores")}
    return where | {"jax": (environment.get("packages") or {}).get("jax")}


def _made(preset: str, out: Path) -> Path:
    """The folder of the preset's run, made here."""
    from experiments import config as configs
    from experiments.running import head_to_head

    default = cli.presets()[preset][1]
    head_to_head.run(preset, configs.replace(default, out=out / preset), default)
    return out / preset


def _refuse_other(run: Run, preset: str) -> None:
    """Raise `UsageError` for what is no finished run of the preset as it is."""
    problem = ""
    if run.preset != preset or run.kept.get("changed"):
        problem = f"is no run of {preset} as it is."
    elif not run.complete:
        problem = "has not come to its end: the same command goes on with it."
    if problem:
        raise UsageError("run", str(run.path), problem, "Run it to its end, without other flags.")


def record(preset: str, run: Run, result: RunResult) -> dict[str, Any]:
    """The numbers of a run's table, and where they were measured."""
    from experiments.reporting import scoreboards

    board = scoreboards.of_result(result)
    columns = board.shown(board.columns, result.measured)
    methods = {}
    for name, m in result.methods.items():
        scores = {metric: m.metrics[metric] for metric in columns if metric in m.metrics}
        scores |= {"gap": m.gap} if m.gap else {}
        methods[name] = {k: _kept(s) for k, s in scores.items()}
    seconds = sum(m.seconds + m.compile_seconds for m in result.methods.values())
    return {
        "preset": preset,
        "where": _about(run.environment),
        "seeds": result.seeds,
        "seconds": round(seconds, 1),
        "methods": methods,
    }


def page() -> str:
    """All recorded numbers as a page of the docs."""
    kept = [
        json.loads(place.read_text(encoding="utf-8")) for place in sorted(RECORDED.glob("*.json"))
    ]
    return "\n".join([INTRODUCTION, *map(_section, kept)])


def _section(kept: Mapping[str, Any]) -> str:
    where, methods = kept["where"], kept["methods"]
    place = f"commit `{where['commit']}`, {where['cores']} cores, jax {where['jax']}"
    columns = list(dict.fromkeys(metric for scores in methods.values() for metric in scores))
    if kept.get("seconds") is not None:
        place += f"; {kept['seconds'] / 60:.1f} minutes of training and compiling, methods added up"
    lines = ["| method | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for name, scores in methods.items():
        cells = [_cell(scores.get(metric)) for metric in columns]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    seeds = "1 seed, ± a standard error" if kept["seeds"] == 1 else f"{kept['seeds']} seeds"
    return f"## {kept['preset']}\n\n{seeds}; {place}.\n\n" + "\n".join(lines) + "\n"


def _cell(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return ""
    return f"{one['iqm']:.4f}{_interval(one)}"


def _interval(one: Mapping[str, Any]) -> str:
    if one["ci95"]:
        return " [{:.4f}, {:.4f}]".format(*one["ci95"])
    return f" ± {one['stderr']:.4f}" if one.get("stderr") is not None else ""


def numbers(before: Mapping[str, Any], result: RunResult) -> list[Number]:
    """Every recorded number and today's."""
    compared = []
    for name, scores in before["methods"].items():
        m = result.methods.get(name)
        own = {} if m is None else {**m.metrics, **({"gap": m.gap} if m.gap else {})}
        for metric, then in scores.items():
            now = own.get(metric)
            here = None if now is None else _kept(now)
            compared.append(Number(name, metric, then, here))
    return compared


def _print(preset: str, before: Mapping[str, Any], compared: list[Number]) -> None:
    from experiments.running.console import print_table

    shown = lambda one: "" if one is None else f"{one['iqm']:.4f}"
    rows = [
        [
            f"{x.method} {x.metric}",
            shown(x.recorded) + _interval(x.recorded),
            shown(x.here),
            x.verdict,
        ]
        for x in compared
    ]
    verdicts = [one.verdict for one in compared]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    spelled = lambda value: ", ".join(value) if isinstance(value, list) else value
    where = ", ".join(f"{k} {spelled(v)}" for k, v in before["where"].items() if v)
    caption = f"{preset}: {counts}. Recorded with {where}."
    print_table(["number", "recorded", "here", "verdict"], rows, caption)


if __name__ == "__main__":
    sys.exit(main())
