"""What other codes' configurations minimise: by the terms of their losses, in numpy, and the
command that reads them."""

from __future__ import annotations

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.commands import card
from experiments.foreign import meaning, reading
from fdiv import divergences, objectives
from fdiv.types import UsageError


def means(name: str, **given) -> meaning.Meaning:
    entry = reading.FOREIGN[name]
    return entry.meaning(meaning.filled(name, entry, given))


# configuration -> what it minimises, and a part of what it is the gradient of and of its command
CASES = [
    ("trl:SFTConfig", {}, "forward_kl", "sequence forward_kl", "sft"),
    ("trl:SFTConfig", {"loss_type": "dft"}, "none", "of no f", ""),
    ("trl:GKDConfig", {}, "js", "temperature 0.9", "distill:js --distill.temperature 0.9"),
    ("trl:GKDConfig", {"lmbda": 1.0, "beta": 0.0}, "forward_kl", "policy's", "dagger:forward_kl"),
    ("trl:GKDConfig", {"lmbda": 0, "beta": 0.1}, "gjs:0.1", "the data's", "distill:gjs:0.1"),
    ("trl:DistillationConfig", {}, "reverse_kl", "held fixed", "dagger:reverse_kl"),
    ("trl:DistillationConfig", {"beta": 0}, "forward_kl", "held fixed", "dagger:forward_kl"),
    ("trl:DistillationConfig", {"beta": 0.5}, "js", "token js", "dagger:js"),
    ("trl:SDFTConfig", {}, "js", "conditioned on the student's top 100", ""),
    (
        "trl:SDFTConfig",
        {"distillation_add_tail": True},
        "js",
        "over 100 tokens and the rest",
        "dagger:js --distill.top-k 100",
    ),
    ("trl:SDPOConfig", {}, "reverse_kl", "token reverse_kl", "discount 0"),
    ("trl:SDPOConfig", {"distillation_mode": "full_logits"}, "reverse_kl", "", "dagger:reverse_kl"),
    ("trl:DPOConfig", {}, "reverse_kl", "of no divergence on the way", "dpo --beta 0.1"),
    (
        "trl:DPOConfig",
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
        "alpha:0.7",
        "zero at the optimum",
        "f_dpo:alpha:0.7",
    ),
    (
        "trl:DPOConfig",
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1},
        "reverse_kl",
        "",
        "dpo",
    ),
    ("trl:DPOConfig", {"f_divergence_type": "js_divergence"}, "js", "", ""),
    ("trl:GRPOConfig", {}, "none", "the return alone", "grpo_std"),
    ("trl:GRPOConfig", {"beta": 0.04}, "forward_kl", "KL(reference||policy)", "grpo_std:k3-loss"),
    (
        "trl:GRPOConfig",
        {"beta": 0.04, "use_bias_correction_kl": True, "scale_rewards": "none"},
        "reverse_kl",
        "token reverse_kl",
        "grpo:k3-ratio",
    ),
    ("trl:RLOOConfig", {}, "reverse_kl", "sequence reverse_kl", "rloo --beta 0.05"),
    ("trl:MiniLLMConfig", {}, "reverse_kl", "weighed by 0", "discount 0"),
    (
        "trl:MiniLLMConfig",
        {"gamma": 1.0, "length_normalization": False},
        "reverse_kl",
        "sequence reverse_kl",
        "discount 1",
    ),
    ("verl:distillation_loss", {}, "forward_kl", "token forward_kl", "dagger:forward_kl"),
    ("verl:distillation_loss", {"loss_mode": "k1"}, "nothing", "zero in expectation", ""),
    ("verl:distillation_loss", {"loss_mode": "mse"}, "reverse_kl", "", "dagger:reverse_kl"),
    (
        "verl:distillation_loss",
        {"loss_mode": "k1", "use_policy_gradient": True},
        "reverse_kl",
        "",
        "discount 0",
    ),
    (
        "verl:distillation_loss",
        {"loss_mode": "k3", "use_policy_gradient": True},
        "nothing",
        "no f-divergence's",
        "",
    ),
    ("verl:distillation_loss", {"loss_mode": "forward_kl_topk"}, "forward_kl", "no divergence", ""),
    ("verl:actor", {"use_kl_loss": True}, "forward_kl", "token forward_kl", "grpo:k3-loss"),
    ("verl:actor", {"use_kl_loss": True, "kl_loss_type": "k3+"}, "reverse_kl", "", "grpo:k2-loss"),
    ("tinker:distillation", {}, "reverse_kl", "token reverse_kl", "discount 0"),
    ("tinker:distillation", {"kl_discount_factor": 1}, "reverse_kl", "exactly", "discount 1"),
    ("torchrl:DistillationLoss", {}, "forward_kl", "token forward_kl", "dagger:forward_kl"),
    ("openrlhf:ppo", {"use_kl_loss": True, "kl_estimator": "k2"}, "reverse_kl", "", ""),
    ("distillm:loss", {"loss": "srkl"}, "skew_reverse_kl:0.1", "the data's", "distill:skew"),
    ("distillm2:loss", {}, "gjs:0.9", "1 / 0.1 times token gjs:0.9", "--distill.towards 0.9"),
    ("minillm:loss", {}, "reverse_kl", "length", "policy_gradient:reverse_kl"),
    ("abkd:loss", {}, "reverse_kl", "", "distill:reverse_kl"),
    ("abkd:loss", {"ab_alpha": 0.2, "ab_beta": 0.7}, "ab:0.2,0.7", "", "distill:ab:0.2,0.7"),
    ("opsd:loss", {}, "forward_kl", "token forward_kl", "dagger:forward_kl"),
]


@pytest.mark.parametrize(("name", "given", "minimises", "gradient", "command"), CASES)
def test_what_each_minimises(name, given, minimises, gradient, command):
    found = means(name, **given)
    assert found.minimises == minimises
    assert gradient in found.gradient
    assert command in found.command if command else not found.command
    if minimises not in ("none", "nothing"):
        assert divergences.over_vocabulary(minimises).name == minimises
    if found.command:
        _holds(found.command)


def _holds(command: str) -> None:
    """Its method is one, and its flags are fields of it with values that can be."""
    words = command.split()[words_before(command) :]
    method = objectives.resolve(words[0])
    flags = dict(zip(words[1::2], words[2::2]))
    for flag, text in flags.items():
        if flag == "--beta":
            continue
        kind, _, field = flag.removeprefix("--").replace("-", "_").partition(".")
        assert kind in (method.kind, type(method).kind), flag
        assert field in {x.name for x in dataclasses.fields(method)}, flag
        method = dataclasses.replace(method, **{field: reading.literal(text)})
    method.check()


def words_before(command: str) -> int:
    return command.split().index("--methods") + 1


def test_every_configuration_has_a_case_and_every_choice_a_meaning():
    assert {name for name, *_ in CASES} == set(reading.FOREIGN)
    for name, entry in reading.FOREIGN.items():
        for key, option in entry.options.items():
            for choice in option.choices:
                found = means(name, **{key: choice})
                assert all(found[:5]), (name, key, choice)


# --- the estimators, by enumeration ---------------------------------------------------------------

ESTIMATES = {
    "k1": lambda s: -s,
    "k2": lambda s: s**2 / 2,
    "k3": lambda s: np.exp(s) - 1 - s,
    "abs": np.abs,
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_sampled_tokens_have_the_gradient_that_is_said(name):
    """E_q of the derivative of k(s), s = log p - log q of the sampled token, by enumerating tokens:
    -E_q[k'(s) grad log q]; as a reward E_q[k(s) grad log q]."""
    p, q = np.random.default_rng(0).dirichlet(np.ones(5), 2)
    s = np.log(p / q)
    slope = {"k1": -1 + 0 * s, "k2": s, "k3": np.exp(s) - 1, "abs": np.sign(s)}[name]
    np.testing.assert_allclose(
        slope, (ESTIMATES[name](s + 1e-6) - ESTIMATES[name](s - 1e-6)) / 2e-6, atol=1e-6
    )
    score = lambda weight: q * (weight - q @ weight)  # E_q[weight grad log q] on the logits
    found, minimises = -score(slope), meaning.ESTIMATORS[name][0]
    if minimises == "nothing":
        assert np.abs(found).max() < 1e-15
    else:
        d = divergences.parse(minimises)
        with jax.enable_x64(True):
            reward = np.asarray(d.reward(jnp.asarray(s)))
        np.testing.assert_allclose(found, -score(reward) * (2 if name == "abs" else 1), atol=1e-12)
    as_reward, minimises = score(ESTIMATES[name](s)), meaning.REWARDS[name][0]
    if minimises == "reverse_kl":
        np.testing.assert_allclose(as_reward, -score(s), atol=1e-12)
    else:
        with pytest.raises(UsageError, match="decreases"):
            jax_of = {
                "k2": lambda s: -(s**2) / 2,
                "k3": lambda s: s + 1 - jnp.exp(s),
                "abs": lambda s: -jnp.abs(s),
            }
            divergences.from_reward(jax_of[name], name)


# --- the command ----------------------------------------------------------------------------------


def printed(capsys, *words: str) -> str:
    assert card.main(list(words)) == 0
    return re.sub(r"\s+", " ", capsys.readouterr().out)


FILES = {
    "config.yaml": "beta: 0.5\nlearning_rate: 1.0e-6\nteacher_model_name_or_path: a/b\nbeto: 1\n",
    "config.json": json.dumps({"training": {"beta": 0.5, "beto": 1}}),
    "train.py": (
        "from trl import DistillationConfig\nraise SystemExit\n"
        "args = DistillationConfig(output_dir=folder / 'x', beta=0.5, beto=1)\n"
    ),
    "config.py": "CONFIG = {'beta': 0.5, 'beto': 1}\n",
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_and_what_is_unknown_is_named(name, tmp_path, capsys):
    path = tmp_path / name
    path.write_text(FILES[name])
    words = [str(path)] if name == "train.py" else ["trl:DistillationConfig", str(path)]
    text = printed(capsys, *words)
    assert "minimises js" in text
    assert "beto (did you mean beta?)" in text
    assert "learning_rate" not in text
    text = printed(capsys, *words, "beta=0")  # what is typed comes before what is read
    assert "minimises forward_kl" in text


def test_several_at_once_and_the_note_of_a_disagreement(capsys):
    text = printed(capsys, "trl:distillationconfig", "beta=.1", "tinker:distillation")
    assert "minimises gjs:0.1" in text
    assert "tinker:distillation" in text
    text = printed(capsys, "trl:SDFTConfig")
    assert "per-token forward KL (author, idanshen/Self-Distillation #5)" in text


BAD = {
    "unknown option": (["trl:GKDConfig", "lambda=1"], "Did you mean lmbda?"),
    "unknown class": (["trl:GKD"], "trl:GKDConfig"),
    "out of range": (["trl:GKDConfig", "beta=1.5"], "from 0 to 1"),
    "no number": (["trl:GKDConfig", "beta=half"], "is no number"),
    "a truth value": (["trl:GKDConfig", "beta=true"], "is no number"),
    "no choice": (["trl:DPOConfig", "f_divergence_type=tv"], "alpha_divergence"),
    "option of nothing": (["beta=1"], "is an option of nothing"),
    "both": (["js", "trl:GKDConfig"], "one after the other"),
    "no file": (["trl:GKDConfig", "/nowhere.yaml"], "cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_paragraph_and_exit_code_2(case, capsys):
    argv, says = BAD[case]
    assert card.main(argv) == cli.USAGE_EXIT
    message = " ".join(capsys.readouterr().err.split())
    assert says in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("x.yaml", "a: [", "is no YAML"),
        ("x.yaml", "- a\n", "holds no options"),
        ("x.json", "{", "not what its suffix says"),
        ("x.py", "def", "not what its suffix says"),
        ("y.yaml", "beta: 1\n", "does not say which"),
    ],
)
def test_files_that_cannot_be_read(name, text, says, tmp_path, capsys):
    path = tmp_path / name
    path.write_text(text)
    words = [str(path)] if name == "y.yaml" else ["trl:GKDConfig", str(path)]
    assert card.main(words) == cli.USAGE_EXIT
    assert says in " ".join(capsys.readouterr().err.split())
