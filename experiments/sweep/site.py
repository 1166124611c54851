"""What a cluster is told of a sweep's tasks: from flags, from a file, and into a script."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

from experiments.sweep.folder import SweepFolder
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
    """The site of a file, with what the flags say instead of it."""
    import yaml

    if path is None:
        return flags
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        known = {field.name for field in dataclasses.fields(Site)}
        unknown = set(said) - known
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise UsageError(
            "site", str(path), "cannot be read.", "Give a YAML file of names and values."
        ) from error
    if unknown:
        raise UsageError(
            "site",
            ", ".join(sorted(unknown)),
            "is nothing that a site has.",
            f"Known: {', '.join(sorted(known))}.",
        )
    default = Site()
    given: dict[str, Any] = dataclasses.asdict(flags)
    changed = {k: v for k, v in given.items() if v != getattr(default, k)}
    return dataclasses.replace(Site(**said), **changed)


def render(site: Site, sweep: SweepFolder) -> str:
    """The script: the template with the site's options, its own where the site is silent."""
    options = {
        k.replace("_", "-"): v
        for k, v in dataclasses.asdict(site).items()
        if v is not None and k not in ("concurrent", "lines_per_task", "setup", "signal")
    }
    options |= {"signal": f"USR1@{site.signal}"} if site.signal is not None else {}
    options |= {"output": f"{(sweep.path / 'slurm').resolve()}/%A_%a.log"}
    first, *rest = TEMPLATE.read_text(encoding="utf-8").splitlines()
    kept = [
        text for text in rest if not any(text.startswith(f"#SBATCH --{name}=") for name in options)
    ]
    script = (
        "\n".join([first, *(f"#SBATCH --{name}={value}" for name, value in options.items()), *kept])
        + "\n"
    )
    return script.replace("${FDIV_PYTHON:-python}", shlex.quote(sys.executable)).replace(
        "# (site)", site.setup
    )
