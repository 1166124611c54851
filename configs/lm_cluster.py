"""python -m experiments.sweep plan slurm/lm_cluster.yaml --out runs/lm-cluster --cost False
python -m experiments.sweep submit runs/lm-cluster --site slurm/lm_site.yaml --dry-run True

A student of 1B parameters with adapters of rank 16 and a teacher of 8B with the same tokenizer, in
folders models/llama-1b and models/llama-8b, over eight GPUs. To plan, their config.json and
tokenizer are enough.

The plan has 75 runs: five divergences, three shares of the policy's own prefixes, five seeds. An
update of likelihood of the student, 8,192 tokens over eight devices, compiles to 2.7 GB on each
(python -m experiments.fit_model llama-1b --fsdp 8 --batch-size 8 --length 1024 --rank 8).
An update here is 64 strings of 384 tokens: 3.9e14 FLOP of the teacher in float32, 1.8e14 of the
student in bfloat16, and 256 steps that read its weights. By arithmetic, not by a clock, that is 1.2
s on eight H100 without the policy's strings and 2.5 s with them: 20 to 42 minutes a run, and some
350 GPU-hours for all.
"""

from pathlib import Path

from experiments.config import group, make_config
from experiments.devices import Devices
from fdiv.benchmarks import Text
from fdiv.lm.lora import Lora
from fdiv.policies import Architecture

PRESETS = {
    "lm-cluster": (
        "A grid for larger models on a cluster: divergences, whose prefixes, seeds.",
        make_config(
            benchmark=Text(
                rows="questions",
                teacher="models/llama-8b",
                prompt_length=128,
                horizon=256,
            ),
            policy=Architecture(
                "hf", path="models/llama-1b", precision="bfloat16", lora=Lora(rank=16)
            ),
            scorer=Architecture("hf"),
            methods=("distill:js",),
            seeds=1,
            updates=1000,
            batch_size=64,
            learning_rate=2e-4,
            warm_up=20,
            max_grad_norm=1.0,
            evaluations=10,
            samples=256,
            temperatures=(1.0,),
            exact_limit=0,
            distill=group("distill", policy_prefixes=1.0),
            devices=Devices(fsdp=8),
            out=Path("runs/lm-cluster"),
        ),
    ),
}
