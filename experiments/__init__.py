"""Everything that touches the world: flags, files, clocks, devices, pictures. The mathematics is in
`fdiv`.

From Python, `experiments.load("runs/compare")` is a run that was made, with its results and its
policies; `experiments.add_metric` gives every run one more metric, and `experiments.add_reward`
tasks a reward of yours."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.reporting.own_metric import add_metric
    from experiments.running.loading import load
    from fdiv.benchmarks.own_reward import add_reward

__all__ = ["add_metric", "add_reward", "load"]
_PLACES = {  # loaded when they are asked for, as every command begins here
    "add_metric": "experiments.reporting.own_metric",
    "add_reward": "fdiv.benchmarks.own_reward",
    "load": "experiments.running.loading",
}
# `python -m experiments.NAME` is commands/NAME.py: commands have a folder of their own, and the
# names that people type, in scripts and notebooks too, are those they always were
__path__.append(os.path.join(__path__[0], "commands"))


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


PRECISION = "JAX_DEFAULT_MATMUL_PRECISION"


def _multiply_in_full() -> None:
    """float32 matrix products in float32, where nothing else is asked for.

    JAX's own default takes ten bits of each factor on an NVIDIA GPU and seven on a TPU: on an H200
    the logits of a model of 135M parameters move by .003, and a sampler's log-probs differ from the
    trainer's by .0009 nats. Exact values would carry the same error. bfloat16 models are not
    slowed by this, and on a CPU it changes nothing."""
    if PRECISION in os.environ:
        return
    os.environ[PRECISION] = "highest"  # read by JAX when it is loaded, here and in workers
    if (jax := sys.modules.get("jax")) and jax.config.jax_default_matmul_precision is None:
        jax.config.update("jax_default_matmul_precision", "highest")


_multiply_in_full()
# A search of the class's optimum solves systems of a few dozen unknowns. With more than one thread
# SciPy's BLAS spent three times the processor time on them, waiting (5.1 s against 1.5 for one
# divergence of two-template, beside other programs). Read when NumPy and SciPy load theirs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def leave_while_loading(number: int, frame: object) -> None:
    """The handler of signals until a command has loaded, and puts its own in this one's place: the
    code is that which has a scheduler start it again (`cli.STOPPED_EXIT`)."""
    os.write(2, b"Stopped before it began. The same command goes on.\n")
    os._exit(130)


if sys.argv[:1] == ["-m"]:  # `python -m experiments.NAME`, while Python looks for the module
    for _number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        if signal.getsignal(_number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(_number, leave_while_loading)
