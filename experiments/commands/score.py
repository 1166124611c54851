"""How likely a model or a run's policy finds a text:
`python -m experiments.score MODEL_OR_RUN --text TEXT [flags]`

Prints each token with its log-prob given those before it, and the entropy of the law that it was
drawn from; the first token has nothing before it. `--json True` prints one line of JSON:
{"ids": [n], "log_probs": [n - 1], "entropy": [n]}, in nats, where `log_probs[i]` is that of
`ids[i + 1]` and `entropy[i]` is of the law of what follows `ids[i]`.

Of a run, text is spelled as in its report, and the first token is what stands before every text:
so each of its symbols has a log-prob. Exit code 0, or 2 where it cannot be done, with the
reason."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments import cli

if TYPE_CHECKING:
    from experiments.models.ready import Ready, Scores


@dataclasses.dataclass(frozen=True)
class Options:
    """Score a text."""

    model: Annotated[Path, tyro.conf.Positional]
    """A folder in the Hugging Face layout, a GGUF file, or the folder of a run."""
    text: str
    """What to score, as the tokenizer reads a whole text: with its first token, where it adds
    one."""
    method: str | None = None
    """Of a run: which of its methods; it may be left out where there is one."""
    seed: int | None = None
    """Of a run: which of its seeds (0)."""
    json: bool = False
    """One line of JSON."""


def main(argv: list[str] | None = None) -> int:
    """Print the scores; `USAGE_EXIT` where there can be none."""
    return cli.script("python -m experiments.score", Options, __doc__, score, argv)


def score(options: Options) -> int:
    """Compute and print."""
    from experiments.models import ready
    from experiments.running import as_model

    loaded = as_model.read(options.model, options.method, options.seed)
    ids = loaded.words.encode(options.text)
    scores = ready.score(loaded, ids)
    if options.json:
        lists = {name: array.tolist() for name, array in scores._asdict().items()}
        print(json.dumps({"ids": ids, **lists}))
    else:
        _table(loaded, ids, scores)
    return 0


def _table(loaded: Ready, ids: list[int], scores: Scores) -> None:
    """A line for each token, and what they sum to."""
    print("   token   log-prob    entropy")
    for i, token in enumerate(ids):
        before = f"{scores.log_probs[i - 1]:>10.4f} {scores.entropy[i - 1]:>10.4f}" if i else ""
        print(f"{token:>8} {before:>21}  {loaded.words.decode([token], special=True)!r}")
    total = float(scores.log_probs.sum())
    mean = f", {-total / (len(ids) - 1):.4f} nats a token" if len(ids) > 1 else ""
    print(f"log-prob of all but the first: {total:.4f}{mean}")


if __name__ == "__main__":
    sys.exit(main())
