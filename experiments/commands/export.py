"""A trained policy as a language model that others can load:
`python -m experiments.export RUN METHOD --seed 0 --to DIR`

Writes a folder in the Hugging Face layout: weights, tokenizer, and a README.md that says what was
minimised, what came of it, and how it was made. It is read again, and held against the run's own
policy, before it is there. Exit code 0, or 2 where it cannot be done, with the reason."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from experiments import cli


@dataclasses.dataclass(frozen=True)
class Options:
    """Write a trained policy as a model's folder."""

    run: Annotated[Path, tyro.conf.Positional]
    """The folder of a run."""
    method: Annotated[str, tyro.conf.Positional]
    """Which of its methods."""
    to: Path
    """The folder to write, which must not be there."""
    seed: int = 0
    """Which of its seeds."""
    adapter: bool = False
    """The low-rank adapters alone, as PEFT reads them, in place of the merged model."""


def main(argv: list[str] | None = None) -> int:
    """Write the folder; `USAGE_EXIT` where there can be none."""
    return cli.script("python -m experiments.export", Options, __doc__, export, argv)


def export(options: Options) -> int:
    """Write and say so; the last line is the folder."""
    from experiments.running import exporting, trained

    run = trained.read(options.run)
    made = exporting.export(run, options.method, options.seed, options.to, options.adapter)
    spec = made.spec
    print(f"{spec.family}, {spec.layers} layers, {made.numbers:,} numbers")
    near = "" if made.apart is None else f", log-probs within {made.apart:.1e} of the run's"
    print(f"read again: the same numbers{near}")
    print(options.to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
