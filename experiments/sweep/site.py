"""What a cluster is told of a sweep's tasks: from flags, from a file, and into a script."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

from experiments import escapes, paths
from experiments.sweep import scalars
from experiments.sweep.folder import SweepFolder
from fdiv.checks import at_least
from fdiv.types import UsageError

TEMPLATE = Path(__file__).resolve().parents[2] / "slurm" / "array.sbatch"


@dataclasses.dataclass(frozen=True)
class Site:
    """What a cluster is told. None leaves its default; a YAML file of the same names can hold all
    of it (--site)."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | None = None
    """Limit of a task, as SLURM writes it: 4:00:00."""
    mem: str | None = None
    """Memory of a node, such as 16G."""
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    nodes: int | None = None
    """Nodes of a task; with more than one, each line is a step over all of them."""
    signal: int | None = None
    """Seconds before the limit at which a run saves and leaves."""
    concurrent: int = 16
    """Most tasks at once."""
    lines_per_task: int = 1
    """Lines that a task runs, one after another in one process."""
    setup: str = ""
    """Shell lines before the run, such as `module load cuda`."""


def read_site(path: Path | None, flags: Site) -> Site:
    """The site of a file, with what the flags say instead of it. Raises `UsageError`."""
    default, site = Site(), Site()
    if path is not None:
        path = paths.expanded("site", path)
        said = scalars.read("site", path)
        if not isinstance(said, dict | None):
            fix = "Give a YAML file of names and values."
            raise UsageError("site", str(path), "holds no names and values.", fix)
        given = {name.replace("-", "_"): value for name, value in (said or {}).items()}
        kinds = {field.name: str(field.type) for field in dataclasses.fields(Site)}
        if unknown := sorted(set(given) - set(kinds)):
            known = f"Known: {', '.join(sorted(kinds))}."
            raise UsageError("site", ", ".join(unknown), "is nothing that a site has.", known)
        own: dict[str, Any] = {k: _typed(k, v, kinds[k]) for k, v in given.items() if v is not None}
        site = dataclasses.replace(site, **own)
    asked: dict[str, Any] = {
        k: v for k, v in dataclasses.asdict(flags).items() if v != getattr(default, k)
    }
    return checked(dataclasses.replace(site, **asked))


def _typed(name: str, value: object, kind: str) -> str | int:
    """A value of the file: text as it is written, a number where the field is one."""
    if not isinstance(value, str):
        raise UsageError(f"site.{name}", value, "is not one value.", "Give one.")
    if not kind.startswith("int"):
        return value
    try:
        return int(value)
    except ValueError as error:
        raise UsageError(f"site.{name}", value, "is no whole number.", "Give one.") from error


def checked(site: Site) -> Site:
    """The site, if sbatch can be told all of it. Raises `UsageError` for what would be read as
    more lines of the script, and for a number that cannot be."""
    for name, value in dataclasses.asdict(site).items():
        if isinstance(value, str) and name != "setup" and escapes.breaks_line(value):
            problem = "holds a line break or another control character."
            raise UsageError(f"site.{name}", value, problem, "Give one line.")
        if isinstance(value, int):
            at_least(f"site.{name}", value, 1)
    return site


def render(site: Site, sweep: SweepFolder) -> str:
    """The script: the template with the site's options, its own where the site is silent. Raises
    `UsageError` for a site, or a folder, of which sbatch would read something else."""
    options = {
        k.replace("_", "-"): str(v)
        for k, v in dataclasses.asdict(checked(site)).items()
        if v is not None and k not in ("concurrent", "lines_per_task", "setup", "signal")
    }
    options |= {"signal": f"USR1@{site.signal}"} if site.signal is not None else {}
    options |= {"output": f"{escapes.sbatch_path(_logs(sweep))}/%A_%a.log"}
    first, *rest = TEMPLATE.read_text(encoding="utf-8").splitlines()
    kept = [
        text for text in rest if not any(text.startswith(f"#SBATCH --{name}=") for name in options)
    ]
    script = "\n".join(kept) + "\n"
    script = script.replace("${FDIV_PYTHON:-python}", shlex.quote(sys.executable))
    script = script.replace("# (site)", site.setup)
    told = [f"#SBATCH --{name}={escapes.sbatch(value)}" for name, value in options.items()]
    return "\n".join([first, *told, script])


def _logs(sweep: SweepFolder) -> str:
    """Where the tasks' logs go. A backslash would keep SLURM from filling in their numbers."""
    folder = str((sweep.path / "slurm").resolve())
    if escapes.breaks_line(folder) or "\\" in folder:
        problem = "has a line break, a control character or a backslash in its path."
        fix = "SLURM cannot write there: move it to a plainer path."
        raise UsageError("dir", str(sweep.path), problem, fix)
    return folder
