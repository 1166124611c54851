"""`python -m experiments` lists the scripts: what each does, and what it costs."""

from __future__ import annotations

import sys
import textwrap

from experiments import cli

# what each does, and what it costs on two cores
SCRIPTS = {
    "compare": ("Methods side by side on a preset, with a report.", "1 to 10 min a preset"),
    "train": ("One method on one seed, with the same report.", "under a minute"),
    "figures": ("Known figures of the field and the studies, recomputed.", "seconds each"),
    "check_gradients": ("What each method is the gradient of, exactly.", "minutes"),
    "card": ("A divergence: its formula, its source, its names elsewhere.", "seconds"),
    "show_data": ("A data file as it will be trained on.", "seconds"),
    "generate": ("Text by a trained policy or a language model.", "seconds to a minute"),
    "score": ("The log-probs of a text under one.", "seconds to a minute"),
    "export": ("A policy of text as a Hugging Face folder.", "seconds to a minute"),
    "runs": ("Finished runs: list, show, diff, compare, clean.", "seconds"),
    "reproduce": ("A preset again, beside the recorded numbers.", "as the preset"),
    "sweep": ("Many runs, here or on SLURM.", "as its runs"),
    "speed": ("Tokens a second of each method.", "half a minute"),
    "bench": ("Speeds beside other codes and the machine's bound.", "20 minutes"),
    "doctor": ("Whether this machine is ready, and what it has.", "seconds"),
    "smollm2": ("A small real language model from the package index.", "a download"),
    "check_model": ("A language model against another program's logits.", "a minute"),
    "fit_model": ("What an update of a large model takes on a mesh.", "minutes"),
    "intervals": ("How often the intervals of tables hold the truth.", "minutes"),
    "fuzz": ("Random configs, checked and some of them trained.", "minutes"),
}
EPILOGUE = (
    "Each answers --help. The first word after compare and train is a preset: {presets}. Results "
    "go to runs/; from Python, experiments.load reads them."
)


def main(argv: list[str] | None = None) -> int:
    """Print the list; a script's name after it is told how it is run."""
    argv = list(sys.argv[1:] if argv is None else argv)
    cli.answer_version(argv)
    if argv and argv[0] in SCRIPTS:
        print(f"Run it as: python -m experiments.{' '.join(argv)}", file=sys.stderr)
        return cli.USAGE_EXIT
    width = max(map(len, SCRIPTS)) + len("experiments.")
    print("python -m SCRIPT, where SCRIPT is\n")
    for name, (what, cost) in SCRIPTS.items():
        print(f"  {'experiments.' + name:<{width}}  {what:<60}  {cost}")
    print()
    print(
        textwrap.fill(
            EPILOGUE.format(presets=", ".join(cli.presets())), 100, break_on_hyphens=False
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
