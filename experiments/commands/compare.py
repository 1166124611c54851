"""The head-to-head: `python -m experiments.compare PRESET [flags]`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from experiments import cli

if TYPE_CHECKING:  # imported files come before it: their groups become fields of it
    from experiments.config import Config


def main(preset: str, config: Config) -> int:
    """Run it, from the config that the command line gave."""
    from experiments.running import head_to_head

    return head_to_head.run(preset, config, cli.presets()[preset][1])


if __name__ == "__main__":
    sys.exit(cli.run(main, "experiments.compare"))
