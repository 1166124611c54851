"""A plug-in for the long tests: every stretch takes $SLOW seconds longer, and seed 13 breaks while
the file $BREAK exists."""

import os
import time
from pathlib import Path

from experiments.running import head_to_head, train

original, started = train.stretches, head_to_head.run


def slowly(*words, **more):
    for point in original(*words, **more):
        yield point
        time.sleep(float(os.environ.get("SLOW", "0")))


def breaking(preset, config, default):
    if config.budget.seed == 13 and Path(os.environ.get("BREAK", "/nowhere")).exists():
        raise RuntimeError("seed 13 is broken")
    return started(preset, config, default)


train.stretches, head_to_head.run = slowly, breaking
