"""Students of a pretrained model: losses by hand, a tiny model taught, and a plan from its config
alone."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pretrained_models import BYTES, CONFIG, made

from experiments import cli
from experiments.figures import __main__ as command
from experiments.figures import kl_mixing, opd_plus, teacher_temperature
from experiments.figures.common import real_laws
from experiments.figures.common import real_students as students

LAYERS = 5
soft = lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True)
Z_P, Z_Q = np.random.default_rng(0).standard_normal((2, 3, 5))
LOG_P, LOG_Q = np.log(soft(Z_P)), np.log(soft(Z_Q))
KEY = jax.random.key(0)
# of the cluster preset
STUDENTS = {"teacher_temperature": 8, "kl_mixing": 40, "opd_plus": 0, "future_coupling": 0}


def test_losses_by_hand():
    p, q = soft(Z_P), soft(Z_Q)
    log_q, log_p = jnp.asarray(LOG_Q, jnp.float32), jnp.asarray(LOG_P, jnp.float32)
    cold = soft(2 * LOG_P)
    found = teacher_temperature.likelihood(log_q, log_p, 0.5, KEY)
    assert float(found) == pytest.approx(-(cold * LOG_Q).sum(1).mean(), rel=1e-5)
    forward, reverse = (p * (LOG_P - LOG_Q)).sum(1), (q * (LOG_Q - LOG_P)).sum(1)
    found = kl_mixing.mixed_kls(log_q, log_p, 0.25, KEY)
    assert float(found) == pytest.approx((0.25 * forward + 0.75 * reverse).mean(), rel=1e-5)
    judged = teacher_temperature.at_places(LOG_P, LOG_Q)
    assert judged["recall"] == pytest.approx((p * LOG_Q).sum(1))
    assert judged["precision"] == pytest.approx((q * LOG_P).sum(1))


def test_what_is_paid_for_one_token_by_hand():
    """Advantages of a group against its mean, at each place; nothing where all answers agree."""
    answers = np.array([1, 0, 4])
    loss = kl_mixing.paid_for(answers)
    log_q = jnp.asarray(LOG_Q, jnp.float32)
    drawn = np.asarray(jax.random.categorical(KEY, log_q, shape=(kl_mixing.GROUP, 3)))
    right = (drawn == answers).astype(float)
    advantage = right - right.mean(0)
    own = np.take_along_axis(LOG_Q, drawn.T, 1).T
    wanted = -(advantage * own).mean()
    assert 0 < right.mean() < 1
    assert float(loss(log_q, log_q, 0.0, KEY)) == pytest.approx(wanted, rel=1e-5)
    judged = kl_mixing.judge(LOG_Q, answers)
    assert judged["right"] == pytest.approx(soft(Z_Q)[np.arange(3), answers].mean())


def test_which_layers_are_left_out():
    """As large a part of every model, as far up."""
    assert real_laws.without(30) == ("13-16",)
    assert real_laws.without(30, students.DROPPED) == ("12-17",)
    assert real_laws.without(16, students.DROPPED) == ("6-8",)
    assert real_laws.without(3) == ("1-1",)


def test_places():
    every = students.everywhere([[5, 6, 7], [8, 9]])
    assert every.tokens.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert list(zip(every.rows, every.columns)) == [(0, 1), (0, 2), (1, 1)]
    after = students.ends([[5, 6], [7, 8]])
    assert after.tokens.tolist() == [[5, 6, 0], [7, 8, 0]]
    assert after.columns.tolist() == [2, 2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A tiny model, whose tokens are bytes."""
    monkeypatch.setattr(
        students, "encoded", lambda path, texts: [[*x.encode()][:20] for x in texts]
    )
    return made(tmp_path / "model", monkeypatch, num_hidden_layers=LAYERS)


@pytest.mark.wide
def test_a_colder_model_teaches(folder):
    flags = teacher_temperature.Flags(model=folder, model_temperatures=(0.5, 1.0), model_updates=6)
    own = teacher_temperature.of_model(flags)
    assert list(own) == ["no teacher", "T 1", "T 0.5", "the model itself"]
    gibbs, _ = teacher_temperature._of_model(flags, own)  # what it learns is not the other text's
    assert gibbs.holds
    assert own["T 1"]["recall, less warmest"] == 0
    assert own["T 0.5"]["precision, less warmest +-"] > 0


@pytest.mark.wide
def test_distilled_and_then_paid(folder, monkeypatch):
    monkeypatch.setattr(kl_mixing, "SHOTS", "")
    sizes = {"model_weights": (0.0, 1.0), "model_seeds": 2}
    flags = kl_mixing.Flags(model=folder, model_distilled=6, model_updates=2, **sizes)
    rows = kl_mixing.of_model(flags)
    assert [row["about"] for row in rows[2:]] == ["weight 0", "weight 1"]
    for row in rows[2:]:
        assert row["least"] <= row["after RL"] <= row["most"]
        assert 0 < row["right"] < 1


@pytest.mark.wide
@pytest.mark.parametrize("key", STUDENTS)
def test_the_cluster_preset_lowers_from_a_config_alone(key, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    config = {**CONFIG, "num_hidden_layers": LAYERS, "torch_dtype": "bfloat16"}
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    words = [key, "--preset", "cluster", "--model", str(tmp_path / "model"), "--plan", "1"]
    assert command.main([*words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "1 of 1 checks hold" in said
    kept = json.loads((tmp_path / f"out/{key}/{key}.json").read_text())
    assert kept["values"]["students"] == STUDENTS[key]
    assert kept["values"]["frozen"] > BYTES * config["hidden_size"]


def test_plans_that_cannot_be(tmp_path, refused, capsys):
    refused(teacher_temperature, {"plan": 1}, "plan")
    refused(kl_mixing, {"plan": 1}, "plan")
    refused(opd_plus, {"plan": 1}, "plan")
    refused(kl_mixing, {"plan": 10_000, "model": tmp_path}, "plan")
    words = ["kl_mixing", "--plan", "1", "--model", str(tmp_path), "--out", str(tmp_path / "out")]
    assert command.main(words) == cli.USAGE_EXIT
    assert "config.json" in capsys.readouterr().err
