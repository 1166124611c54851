"""A sweep on SLURM: what is missing becomes an array of tasks, each with a share of the lines."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import subprocess
from typing import Any, TypedDict, cast

from experiments.storage import files, lease, shapes
from experiments.sweep.folder import SweepFolder
from experiments.sweep.site import Site, render
from fdiv.types import UsageError

LARGEST = 1000  # tasks in an array; SLURM's own default limit is 1001


def submit(sweep: SweepFolder, site: Site, dry_run: bool = False) -> list[str]:
    """Queue the lines that are neither done, nor at work, nor in the queue already; the numbers of
    the jobs.

    A second call finds nothing to queue. Two calls at once: the second is refused.
    """
    if not dry_run and not shutil.which("sbatch"):
        raise UsageError(
            "dir",
            str(sweep.path),
            "there is no sbatch here to submit it with.",
            "Use a login node, or run --local N.",
        )
    if dry_run:
        return _submit(sweep, site, dry_run)
    held = lease.take(
        sweep.leases, "submit", sweep.lapse, lease.read(sweep.leases, sweep.lapse).get("submit")
    )
    if held is None:
        raise UsageError(
            "dir", str(sweep.path), "is being submitted by another process.", "Wait for it."
        )
    try:
        return _submit(sweep, site, dry_run)
    finally:
        held.give_back()


def _submit(sweep: SweepFolder, site: Site, dry_run: bool) -> list[str]:
    waiting, size = queued(sweep), max(1, site.lines_per_task)
    numbers = [line["line"] for line in sweep.idle_lines() if line["line"] not in waiting]
    shares = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    arrays = [shares[i : i + LARGEST] for i in range(0, len(shares), LARGEST)]
    return [_array(sweep, site, array, dry_run) for array in arrays]


def _array(sweep: SweepFolder, site: Site, shares: list[list[int]], dry_run: bool) -> str:
    script, folder = render(site, sweep), sweep.path / "slurm"
    # past those that were set aside as well, as their jobs may still wait
    number = max([0, *(int(path.stem) for path in folder.glob("[0-9]*.sbatch"))]) + 1
    place = folder / f"{number:04d}.sbatch"
    words = [
        f"--array=0-{len(shares) - 1}%{site.concurrent}",
        str(place.resolve()),
        str(sweep.path.resolve()),
        "--share",
        str(number),
    ]
    if (
        (site.nodes or 1) > 1
    ):  # in so many words: the worker is itself a step, of one node, and srun would take that over
        words += [
            "--launcher",
            f"srun --overlap --kill-on-bad-exit=1 --nodes={site.nodes} --ntasks={site.nodes}",
        ]
    words += ["--trust", "True"] if sweep.trusted else []
    command = ["sbatch", "--parsable", *words, "--lapse", str(sweep.lapse)]
    print(f"{shlex.join(command)}\n" + (f"\n{script}" if dry_run else ""), end="")
    if dry_run:
        return ""
    files.write_text(place, script)
    record = {"job": None, "shares": shares, "site": dataclasses.asdict(site)}
    files.write_checked(place.with_suffix(".json"), record)  # before it can start
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, encoding="utf-8", errors="replace"
    )
    if done.returncode:
        place.with_suffix(".json").unlink()
        raise UsageError(
            "sbatch",
            " ".join(words),
            f"was refused: {done.stderr.strip()}.",
            "See docs/cluster.md.",
        )
    job = done.stdout.strip().split(";")[0]
    files.write_checked(place.with_suffix(".json"), record | {"job": job})
    return job


class Submission(TypedDict):
    """An array that was handed to SLURM."""

    job: str | None  # none until SLURM has said it
    shares: list[list[int]]  # of each task, its lines
    site: dict[str, Any]


def submissions(sweep: SweepFolder) -> list[Submission]:
    """What was submitted so far. A damaged file is set aside: its lines may then be queued twice,
    and whoever comes second finds them at work or done."""
    paths = sorted((sweep.path / "slurm").glob("[0-9]*.json"))
    return [one for path in paths if (one := files.read(path, _submission)) is not None]


def _submission(data: dict[str, Any]) -> Submission:
    shapes.check(data, Submission)
    Site(**data["site"])
    return cast(Submission, {name: data[name] for name in Submission.__annotations__})


def last_site(sweep: SweepFolder) -> Site:
    """What the cluster was told the last time; the defaults where nothing was submitted."""
    return Site(**submissions(sweep)[-1]["site"]) if submissions(sweep) else Site()


def share(sweep: SweepFolder, number: int, task: int) -> list[int]:
    """The lines of a task of a submission."""
    path = sweep.path / "slurm" / f"{number:04d}.json"
    try:
        return files.load(path, lambda data: _submission(data)["shares"][task])
    except (FileNotFoundError, files.Damaged) as error:
        reason = str(error) if isinstance(error, files.Damaged) else "it is not there"
        files.refuse(path, reason, "Use submit again, which queues what is missing.")


def queued(sweep: SweepFolder) -> set[int]:
    """Lines of tasks that SLURM still has, waiting or at work."""
    known = {one["job"]: one["shares"] for one in submissions(sweep)}
    if not known or not shutil.which("squeue"):
        return set()
    asked = subprocess.run(
        ["squeue", "--noheader", "--array", "--me", "--format=%F %K"],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    if asked.returncode:
        raise UsageError(
            "squeue", asked.stderr.strip(), "does not answer.", "Try again; nothing was submitted."
        )
    tasks = [text.split() for text in asked.stdout.splitlines()]
    return {
        line
        for job, task in tasks
        if job in known and task.isdigit()
        for line in known[job][int(task)]
    }


def cancel(sweep: SweepFolder) -> list[str]:
    """Take every task of this sweep out of the queue; those at work save and leave."""
    jobs = [one["job"] for one in submissions(sweep) if one["job"]]
    if jobs and shutil.which("scancel"):
        subprocess.run(["scancel", "--quiet", *jobs], check=False)
    return jobs
