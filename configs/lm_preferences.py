"""python -m experiments.compare lm-preferences --benchmark.path pairs.jsonl

A real language model on comparisons of a file (columns prompt, chosen, rejected). Without a file
the pairs are docstrings of Python's standard library: a name's own is preferred to another's.

dpo, one seed: of a batch's 8 pairs half are in order at the start, 7 of the last one's and all of
some before. The NLL of what is preferred rises meanwhile, from 4.13 to 4.73 nats a token, and the
entropy falls from 95 to 66: the margin is won by driving the rejected away. 3 minutes on loaded
cores. f_dpo:js and kto have run with a quarter of the learning rate and a third of the pairs, which
taught them, and dpo, next to nothing."""

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
