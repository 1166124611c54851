"""A pretrained model over many devices is trained as on one, and a large one is laid out without
its weights."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from joining import ROOT, environment


def output(*words: str) -> str:
    own = environment(8) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=own, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_every_layout_gives_what_one_device_gives():
    """Adapters of a frozen model, whose weights are parted by their names too, and all weights."""
    apart = json.loads(output("tests/long/pretrained_step.py"))
    assert len(apart) == 10
    assert max(apart.values()) < 1e-5, apart


def test_a_model_of_a_billion_numbers_compiles_for_eight_devices():
    text = output("-m", "experiments.fit_model", "llama-1b")
    assert "1,235,814,400 frozen" in text
    whole, before = re.search(
        r": ([\d.]+) GB on each device, of which ([\d.]+) MB before it begins", text
    ).groups()
    assert 1 < float(whole) < 4  # GB on each; 5.7 where batches are parted as weights are
    assert 300 < float(before) < 450  # MB: an eighth of the weights in bfloat16 are 309
    # forward and back and once more: 7/8 of 2.5 GB of weights each time at least
    sent, unit = re.search(r"each device sends ([\d.]+) (GB|MB)", text).groups()
    assert unit == "GB" and float(sent) > 3 * 7 / 8 * 2.4
    assert "of the stated pace" in text
