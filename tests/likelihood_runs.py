"""Likelihood training as a run does it, on two seeds, to be stopped and gone on with."""

from __future__ import annotations

import numpy as np

from experiments import assemble, devices
from experiments import config as configs
from experiments.running import resume, runs, train
from experiments.running.stopping import StopFlag


def prepared(config, task, folder, widths=None):
    """The training of the config's one method, which saves into `folder`, and what stops it."""
    components, keys = assemble.components(config, task), assemble.seed_keys(config, 2)
    own = runs.Runs(keys, runs.starts(config, task, components, keys), np.full(2, 0.1))
    (method,) = configs.resolve(config).values()
    stop = StopFlag()
    training = train.prepare(
        config,
        task,
        assemble.build(config, method, components),
        devices.lay_out(2, config.devices),
        own,
        saves=resume.Saves(folder, keep=1, every=1e9, stop=stop),
        widths=widths,
    )
    return training, stop
