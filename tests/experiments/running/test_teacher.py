"""Where a teacher is kept: by all that decides its numbers."""

from __future__ import annotations

import dataclasses

import pytest

from experiments import cli
from experiments import config as configs
from experiments.running import teacher


class Rows:
    """Rows of which only the digest is read."""

    def __init__(self, digest: str):
        self.digest = lambda: digest


def folder_of(tmp_path, digest: str = "rows", own: dict | None = None, **flat):
    preset = cli.presets()["text"][1]
    text = dataclasses.replace(preset.benchmark, **(own or {}))
    config = configs.replace(preset, cache=str(tmp_path), benchmark=text, **flat)
    return teacher._folder(config, text, Rows(digest), teacher._own_config(config, text))


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({}, True),
        ({"digest": "other rows"}, False),
        ({"seed": 5}, False),
        ({"own": {"teacher_width": 24}}, False),
        ({"own": {"teacher_updates": 7}}, False),
        ({"updates": 7}, True),  # the run's own, not the teacher's
    ],
)
def test_other_data_seeds_and_sizes_have_teachers_of_their_own(changed, same, tmp_path):
    assert (folder_of(tmp_path, **changed) == folder_of(tmp_path)) is same
