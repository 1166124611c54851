"""make compare-lm, or where the model is there (python -m experiments.smollm2):
python -m experiments.compare lm [--benchmark.path rows.jsonl] [--policy.path FOLDER]

SmolLM2-135M-Instruct without six of its layers, with adapters, taught by the whole model on the
standard library's docstrings. On two cores, 26 November 2026, in nats a token on the policy's own
prefixes, from the start to the end, +- two standard errors; at the teacher's prefixes what was
gained in precision, E_q log p, and in recall, E_p log q, and their difference (above 0: modes were
sought, below it covered):

    method                      what it minimises      precision  recall  difference    entropy
    policy_gradient:reverse_kl  .926 -> .710 +- .113      +.26    +.14   +.13 +- .08     99
    distill:reverse_kl          .926 -> .563 +- .113      +.22    +.24   -.02 +- .11    105
    gail                        .166 -> .174 +- .019      -.35    -.27   -.07 +- .14     97
    distill:js                  .166 -> .105 +- .014      +.01    +.26   -.25 +- .09    108
    distill:forward_kl          .829 -> .514 +- .086      -.09    +.27   -.36 +- .08    114
    sft                         .829 -> .846 +- .142     -1.09    -.47   -.62 +- .52     74
    (start)                                                                      107

sft and gail learn rows that the teacher did not write: the NLL of held-out ones falls from 4.86 to
3.91 and 4.59 nats a token, and neither comes nearer to the teacher. 30 CPU-minutes.
`python -m experiments.reproduce lm` holds a new run against the recorded one (docs/recorded.md)."""

from pathlib import Path

from experiments.config import group, make_config
from experiments.paths import SMOLLM2
from fdiv.benchmarks import Text
from fdiv.lm.lora import Lora
from fdiv.policies import Architecture

PRESETS = {
    "lm": (
        (
            "A real language model without six of its layers, taught by the whole: the "
            "divergences on tokens of text."
        ),
        make_config(
            benchmark=Text(teacher="whole", prompt_length=16, horizon=24, buckets=1),
            policy=Architecture("hf", path=SMOLLM2, without_layers=("12-17",), lora=Lora(rank=8)),
            scorer=Architecture("hf"),
            methods=(
                "sft",
                "distill:forward_kl",
                "distill:js",
                "distill:reverse_kl",
                "policy_gradient:reverse_kl",
                "gail",
            ),
            seeds=3,
            updates=16,
            batch_size=4,
            learning_rate=1e-3,
            max_grad_norm=1.0,
            evaluations=1,
            samples=12,
            temperatures=(0.7,),
            exact_limit=0,
            distill=group("distill", policy_prefixes=1.0),
            policy_gradient=group("policy_gradient", level="token", discount=0.0),
            adversarial=group(
                "adversarial", level="token", discriminator_learning_rate=1e-2, warmup=4
            ),
            out=Path("runs/lm"),
        ),
    ),
}
