"""One method on one seed (or several): `python -m experiments.train PRESET --methods NAME [flags]`.

The same run as a column of the head-to-head, with the same report; without --out it goes to
runs/train/PRESET/NAME."""

from __future__ import annotations

import sys
from pathlib import Path

from experiments import cli
from experiments.config import replace
from fdiv.types import UsageError

OUT = Path("runs/train")


def one_run(config):
    """A preset's config for a single run."""
    return replace(config, methods=("sft",), seeds=1, out=OUT)


def main(preset: str, config) -> int:
    """Run it, from the config that the command line gave."""
    from experiments.running import head_to_head
    from experiments.storage.run_folder import file_name

    if len(config.methods) != 1:
        fix = "Name one with --methods, or use experiments.compare."
        raise UsageError("methods", " ".join(config.methods), "a single run has one method.", fix)
    if config.output.out == OUT:
        config = replace(config, out=OUT / preset / file_name(config.methods[0]))
    return head_to_head.run(preset, config, one_run(cli.presets()[preset][1]))


if __name__ == "__main__":
    sys.exit(cli.run(main, "experiments.train", adapt=one_run))
