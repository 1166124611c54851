"""The gradient card, what each objective is the gradient of: `python -m experiments.check_gradients
[OBJECTIVE ...] [flags]`.

Every registered objective (and what `--import FILE.py` adds) at its defaults and in its variants,
and losses as other codes have them (`experiments/gradients/published.py`),
on an MDP small enough to enumerate. At the defaults policy gradients and optimal discriminators are
exact at their level, discount 0 drops the effect on later prefixes (of forward KL there is none),
distillation is exact on the expert's prefixes alone, and fairl ascends forward KL. Prints the table
and writes gradients.json, .csv, .png and .pdf; `--page docs/gradient_card.md` writes the table into
that page, `--expect gradients.json` of an earlier run exits with 1 when a verdict has changed. The
whole card has three more tables (`experiments/gradients/finite.py`): small groups, one batch for
several epochs, and the variance by position and horizon."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments import cli, paths
from experiments.cli import spelling
from experiments.storage.whole import write_text
from fdiv.checks import at_least, between, seeding
from fdiv.ranges import check_ranges
from fdiv.types import Method, UsageError

ARGUMENT = "hellinger2"  # for methods that need a divergence and have no default


@dataclasses.dataclass(frozen=True)
class Options:
    """What each objective is the gradient of."""

    vocab: int = 3
    """Number of symbols V, the last of them EOS."""
    horizon: int = 4
    """Most tokens in a string."""
    perturbation: float = 0.5
    """Standard deviation of the policy's logits about the expert's."""
    seed: int = 0
    """Which expert and which policy."""
    expect: Path | None = None
    """A gradients.json to compare verdicts with."""
    out: Path = Path("runs/gradients")
    """Folder to write to."""
    page: Path | None = None
    """A page of Markdown whose table, between the marks of a card, is to be this one:
    docs/gradient_card.md."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Objectives and options."""

    objectives: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="OBJECTIVE ...")
    ] = ()
    """Objectives as --methods takes them; none: every registered one."""
    options: Annotated[Options, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Options)


def main(argv: list[str] | None = None) -> int:
    """Measure what the command line names; everything that is registered where it names nothing."""
    flags: dict[str, Path] = {}
    try:
        names, options = _parse(cli.arguments(argv))
        flags = paths.given(options)
        chosen = methods(names)
        expected = _expected(options.expect)
        page = _page(options.page)
        for field, folder in (("out", options.out), ("page", options.page and options.page.parent)):
            if folder:
                paths.try_and_leave(field, folder)
        with cli.interruptible():
            rows = card(options, chosen)
            tables = [] if names else finite()
            return _write(options, rows, tables, page, expected)
    except KeyboardInterrupt:
        return cli.stopped("Nothing was written. The same command begins anew.")
    except UsageError as error:
        return cli.refused(error)
    except OSError as error:
        return cli.refused(paths.unusable(error, flags))


def _write(
    options: Options,
    rows: dict[str, dict[str, Any]],
    tables: list[Any],
    page: str,
    expected: dict[str, str] | None,
) -> int:
    """Show and write the card, with its tables where it is whole; 1 where a verdict is not the
    expected one."""
    from experiments.gradients import card as gradient_card

    gradient_card.show(rows, tables)
    gradient_card.write(options.out, dataclasses.asdict(options), rows, tables)
    if options.page is not None:
        write_text(options.page, gradient_card.with_table(page, rows, tables))
    changed = [] if expected is None else gradient_card.changes(rows, expected, bool(tables))
    for line in changed:
        print(line)
    return 1 if changed else 0


def _parse(argv: list[str]) -> tuple[tuple[str, ...], Options]:
    asked = tyro.cli(
        Command,
        prog="python -m experiments.check_gradients",
        description=__doc__,
        args=spelling.completed(argv, cli.kinds_of(Options), positional=True),
        config=(tyro.conf.FlagConversionOff,),
    )
    options = paths.with_homes(asked.options)
    check_ranges(options)
    at_least("vocab", options.vocab, 2)
    at_least("horizon", options.horizon, 1)
    between("perturbation", options.perturbation, 0, 10)
    seeding("seed", options.seed)
    if options.out.exists() and not options.out.is_dir():
        raise UsageError("out", str(options.out), "is a file.", "Give a folder.")
    return asked.objectives, options


def methods(names: tuple[str, ...]) -> dict[str, Method]:
    """The methods named, or all of the registry and other codes' losses."""
    from experiments.gradients.published import PUBLISHED
    from fdiv import objectives
    from fdiv.penalties import MARKERS

    if len(set(names)) < len(names):
        raise UsageError("objectives", names, "names one twice.", "Name each once.")
    every = [
        f"{name}:{ARGUMENT}" if objectives.needs_argument(name) else name
        for name in objectives.METHODS
    ]
    every += [f"rloo:{penalty}" for penalty in MARKERS]
    every += ["grpo_std:k3-loss", "dagger:reverse_kl", *PUBLISHED]
    return {
        name if name in PUBLISHED else objectives.canonical(name): PUBLISHED.get(name)
        or objectives.resolve(name)
        for name in names or every
    }


def _expected(path: Path | None) -> dict[str, str] | None:
    """Verdicts of an earlier run."""
    if path is None:
        return None
    try:
        return {
            key: row["verdict"]
            for key, row in json.loads(path.read_text(encoding="utf-8"))["rows"].items()
        }
    except OSError as error:
        raise UsageError(
            "expect", str(path), "cannot be read.", "Give the gradients.json of an earlier run."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            "expect", str(path), "holds no verdicts.", "Give the gradients.json of an earlier run."
        ) from error


def _page(path: Path | None) -> str:
    """The page that the card is to be written into."""
    from experiments.gradients.card import MARKS

    if path is None:
        return ""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not all(mark in text for mark in MARKS):
        fix = f"Give a file with the lines {MARKS[0]} and {MARKS[1]}."
        raise UsageError("page", str(path), "has no place for a card.", fix)
    return text


def finite() -> list[Any]:
    """The tables of small groups, of a batch used again and of the variance."""
    import jax

    from experiments.gradients import finite as tables

    with jax.enable_x64(True):
        return tables.grids()


def card(options: Options, methods: Mapping[str, Method]) -> dict[str, dict[str, Any]]:
    """A row for each objective, variant and discriminator, by its label."""
    import jax
    from rich.console import Console
    from rich.progress import track

    from experiments.gradients import cases as gradient_cases
    from experiments.gradients import targets
    from experiments.gradients.world import random_world, rewarded
    from fdiv import divergences

    rows: dict[str, dict[str, Any]] = {}
    with jax.enable_x64(True):
        size = (options.vocab, options.horizon)
        world = random_world(*size, options.perturbation, options.seed)
        cases = gradient_cases.cases(methods)
        named = [*divergences.every(), *(case.claim.minimises for case in cases)]
        candidates = targets.targets(world, list(dict.fromkeys(named)))
        penalties = {case.claim.minimises for case in cases if case.claim.level == "return"}
        worlds = {name: rewarded(world, name) for name in penalties | {"reverse_kl"}}
        returns = {name: targets.returns(with_reward, name) for name, with_reward in worlds.items()}
        measures = {
            targets.phrase(case.claim): targets.of_measure(world, case.claim)
            for case in cases
            if case.claim.measure is not None
        }
        candidates = candidates._replace(returns=returns, measures=measures)
        critics: dict[Any, Any] = {}
        for case in track(cases, "measuring", console=Console(stderr=True), transient=True):
            penalty = case.claim.minimises if case.claim.level == "return" else "reverse_kl"
            optimal = None
            for measured in gradient_cases.measure(worlds[penalty], case, critics):
                row = gradient_cases.row(case, measured, candidates, optimal)
                rows[case.label + (" (trained)" if measured.critic == "trained" else "")] = row
                optimal = measured.gradient
    return rows


if __name__ == "__main__":
    sys.exit(main())
