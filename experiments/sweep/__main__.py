"""Sweeps: `python -m experiments.sweep plan|submit|run|status|resume|collect|cancel`, each with
`--help`."""

from __future__ import annotations

import sys
import typing
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagConversionOff, OmitArgPrefixes, Positional

from experiments import cli, paths
from experiments.cli import spelling
from experiments.sweep.folder import SweepFolder
from experiments.sweep.site import Site, read_site
from fdiv.types import UsageError

Dir = Positional[Path]
Flags = Annotated[Site, OmitArgPrefixes]
DEFAULT = Site()


def plan(grid: Positional[Path], out: Path, cost: bool = True) -> int:
    """Expand and check a grid, and write its plan; with --cost, time each method and say what all
    of it will take."""
    from experiments.sweep import plan as plans
    from experiments.sweep.cost import estimate

    grid, out = paths.expanded("grid", grid), paths.expanded("out", out)
    paths.refuse_blocked("out", out)
    paths.refuse_unsavable("out", out)
    sweep, same = plans.make(
        grid, out, [str(Path(path).resolve()) for path in cli.imported_files()]
    )
    print(
        f"{len(sweep.lines)} runs in {sweep.path / 'plan.jsonl'}."
        + (f" {same} more were the same as others." if same else "")
    )
    if cost:
        total, longest = estimate(sweep.lines)
        print(
            f"About {_hours(total)} one after another on this machine's device, "
            f"{_hours(longest)} the longest (a rough guess)."
        )
    return 0


def run(dir: Dir, local: int = 1, worker: bool = False, launcher: str = "", lapse: float = 120.0,
        share: int | None = None, task: int | None = None, most: int = 0,
        trust: bool = False) -> int:  # fmt: skip
    """Run what is missing with --local N workers here. --task (with --share) is for the tasks of an
    array, --lapse how many seconds without a sign make a worker dead, --launcher what starts a line
    as a process of its own, --trust runs the plan of another user."""
    sweep = SweepFolder(dir, lapse)
    sweep.refuse_strangers(trust)
    if worker or task is not None:
        from experiments.storage import lease
        from experiments.sweep import slurm, work

        if task is not None and (
            job := lease.me()["job"]
        ):  # back from the queue: whoever it was before is gone
            lease.bury(sweep.leases, lease.FREE, job=job)
        lines = slurm.share(sweep, share, task) if share is not None and task is not None else None
        return work.work(sweep, lines, launcher, most)
    from experiments.sweep import local as here

    sweep.stop.unlink(missing_ok=True)
    if not sweep.idle_lines():
        print(
            "Nothing to run: every line has ended or is at work. `resume` tries those again "
            "that failed."
        )
        return 0
    code = here.run(sweep, local, launcher)
    status(dir, lapse=lapse)
    return code


def submit(
    dir: Dir,
    site: Path | None = None,
    flags: Flags = DEFAULT,
    dry_run: bool = False,
    lapse: float = 120.0,
    trust: bool = False,
) -> int:
    """Queue on SLURM what is neither done, nor at work, nor queued already; --dry-run prints it."""
    from experiments.sweep import slurm

    sweep = SweepFolder(dir, lapse)
    sweep.refuse_strangers(trust)
    if not dry_run:
        sweep.stop.unlink(missing_ok=True)
    jobs = slurm.submit(sweep, read_site(site, flags), dry_run)
    print(
        "" if dry_run and jobs else f"Submitted {' '.join(jobs)}." if jobs else "Nothing to submit."
    )
    return 0


def resume(
    dir: Dir,
    local: int = 0,
    site: Path | None = None,
    flags: Flags = DEFAULT,
    lapse: float = 120.0,
    trust: bool = False,
) -> int:
    """Run what is missing, the failed ones too: with --local N here, else on SLURM, as submitted
    last unless told anew."""
    from experiments.sweep import slurm

    SweepFolder(dir, lapse).refuse_strangers(trust)
    if site is None and flags == DEFAULT:
        flags = slurm.last_site(SweepFolder(dir))
    again = SweepFolder(dir, lapse).forget_failures()
    print(f"{again} failed lines are open again." if again else "No line had failed.", flush=True)
    if local:
        return run(dir, local=local, lapse=lapse, trust=trust)
    return submit(dir, site, flags, lapse=lapse, trust=trust)


def status(dir: Dir, every: bool = False, lapse: float = 120.0) -> int:
    """How many lines are done, running, failed, preempted and not started, and why; --every shows
    all lines."""
    from experiments.sweep import status as states

    states.show(states.rows(SweepFolder(dir, lapse)), every)
    return 0


def collect(dir: Dir, axis: str | None = None, partial: bool = False) -> int:
    """One table of all lines (collected.parquet) and the report over an axis of the grid; --partial
    with lines missing."""
    from experiments.sweep import collect as tables

    return tables.collect(SweepFolder(dir), axis, partial)


def cancel(dir: Dir) -> int:
    """Ask every worker to save and leave, and take the rest out of SLURM's queue. `resume` goes
    on."""
    from experiments.sweep import slurm

    sweep = SweepFolder(dir)
    sweep.stop.touch()
    jobs = slurm.cancel(sweep)
    print(
        "Asked every worker to save and leave"
        + (f", and cancelled {' '.join(jobs)}." if jobs else ".")
    )
    return 0


COMMANDS = {one.__name__: one for one in (plan, submit, run, status, resume, collect, cancel)}


def _hours(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds > 5400
        else f"{seconds / 60:.1f} min"
        if seconds > 90
        else f"{seconds:.0f} s"
    )


def _completed(argv: list[str]) -> list[str]:
    """The words of a command line as its parser takes them: `--partial` alone, `--cost false`."""
    if not argv or argv[0] not in COMMANDS:
        return argv
    kinds = typing.get_type_hints(COMMANDS[argv[0]]) | cli.kinds_of(Site)
    return [argv[0], *spelling.completed(argv[1:], kinds, positional=True)]


def main(argv: list[str] | None = None) -> int:
    """Parse and do; what cannot be done is said in one paragraph, exit code 2."""
    flags: dict[str, Path] = {}
    try:
        argv = cli.arguments(argv)
        if argv[1:] and not argv[1].startswith("-"):
            flags = {"grid" if argv[0] == "plan" else "dir": Path(argv[1])}
        argv = _completed(argv)
        parse = tyro.extras.subcommand_cli_from_dict
        with cli.interruptible():
            return parse(
                COMMANDS, prog="python -m experiments.sweep", args=argv, config=(FlagConversionOff,)
            )
    except KeyboardInterrupt:
        return cli.stopped("The same command goes on with what is not done.")
    except UsageError as error:
        return cli.refused(error)
    except OSError as error:
        return cli.refused(paths.unusable(error, flags))


if __name__ == "__main__":
    sys.exit(main())
