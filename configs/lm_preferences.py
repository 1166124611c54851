"""python -m experiments.compare lm-preferences --benchmark.path pairs.jsonl

A real language model on comparisons of a file (columns prompt, chosen, rejected). Without a file
the pairs are docstrings of Python's standard library: a name's own is preferred to another's."""

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
            updates=10,
            batch_size=4,
            learning_rate=5e-4,
            max_grad_norm=1.0,
            evaluations=1,
            samples=12,
            temperatures=(1.0,),
            exact_limit=0,
            out=Path("runs/lm-preferences"),
        ),
    ),
}
