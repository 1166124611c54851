"""A plug-in for the long tests: the file $COUNTED.I says how many JSON texts process I parsed when
it read its rows. Runs are measured by two divergences, as all of them are a third of their cost."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import jax

from experiments.data import files, sources
from fdiv import divergences

original, parsed = files.read, []


def loads(text, **how):
    parsed.append(1)
    return json.loads(text, **how)


def counting(*arguments):
    reading = original(*arguments)
    Path(f"{os.environ['COUNTED']}.{jax.process_index()}").write_text(str(len(parsed)))
    return reading


sources.json, files.read = SimpleNamespace(**(vars(json) | {"loads": loads})), counting
divergences.logged = lambda: ("forward_kl", "js")
