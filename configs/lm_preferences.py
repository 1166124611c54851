"""python -m experiments.compare lm-preferences --benchmark.path pairs.jsonl

A real language model on comparisons of a file (columns prompt, chosen, rejected). Without a file
the pairs are docstrings of Python's standard library: a name's own is preferred to another's.

One seed, 26 November 2026: of a batch's 8 pairs half are in order at the start, at the end

    method     pairs in order  NLL of held-out rows, nats a token  entropy, nats a string
    dpo              7                      4.73                             66
    f_dpo:js         6                      5.35                             55
    kto              7                      4.22                             69
    (start)          4                      4.13                             95

All win the margin by driving the rejected away: none makes what is preferred likelier, and kto, of
which a string is judged alone, makes it least unlikely. 13 minutes of processor time.
`python -m experiments.reproduce lm-preferences` holds a new run against the recorded one
(docs/recorded.md)."""

from pathlib import Path

from experiments.config import make_config
from experiments.paths import SMOLLM2
from fdiv.benchmarks import Text
from fdiv.lm.lora import Lora
from fdiv.policies import Architecture

PRESETS = {
    "lm-preferences": (
        "Comparisons of your own, or of docstrings, with a real language model's adapters.",
        make_config(
            benchmark=Text(
                rows="pairs", teacher="none", prompt_length=16, horizon=24, buckets=1, beta=0.1
            ),
            policy=Architecture("hf", path=SMOLLM2, lora=Lora(rank=8)),
            scorer=Architecture("hf"),
            methods=("dpo", "f_dpo:js", "kto"),
            seeds=1,
            updates=16,
            batch_size=8,
            learning_rate=2e-3,
            max_grad_norm=1.0,
            evaluations=1,
            samples=12,
            temperatures=(1.0,),
            exact_limit=0,
            out=Path("runs/lm-preferences"),
        ),
    ),
}
