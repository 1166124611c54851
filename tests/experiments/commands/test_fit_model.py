"""The memory of an update without weights: of one device here, of more in a process of its own."""

import json
import os

import jax
import pytest
from pretrained_models import CONFIG

from experiments import cli
from experiments.commands import fit_model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    jax.devices()  # as many as this process has, whatever is asked for later
    monkeypatch.setattr(os, "environ", dict(os.environ))
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "torch_dtype": "bfloat16"}))
    return str(tmp_path)


@pytest.mark.parametrize("rank", ["0", "2"])
@pytest.mark.few(1)
def test_an_update_is_planned_from_a_config_alone(rank, folder, capsys):
    flags = ["--fsdp", "1", "--batch-size", "2", "--length", "8", "--rank", rank]
    assert fit_model.main([folder, *flags]) == 0
    text = capsys.readouterr().out
    assert ("and 0 frozen" in text) == (rank == "0")
    assert "on each device" in text
    assert "each device sends 0 B, 0 B of it within its node of 8: nothing" in text
    assert "of the stated pace" in text


@pytest.mark.parametrize(
    "flags",
    [
        ["--fsdp", "0"],
        ["--fsdp", "9999"],
        ["--length", "1"],
        ["--rank", "-1"],
        ["--pace", "0"],
        ["--link", "-1"],
    ],
)
def test_what_cannot_be_is_refused(flags, folder, capsys):
    assert fit_model.main([folder, *flags]) == cli.USAGE_EXIT
    assert flags[0].strip("-") in capsys.readouterr().err


def test_more_devices_than_there_are(folder, capsys):
    assert fit_model.main([folder, "--fsdp", "8"]) == cli.USAGE_EXIT
    assert "Begin a new process" in capsys.readouterr().err
