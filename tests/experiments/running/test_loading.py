"""Runs as Python has them: tables, parameters, samples, and runs that go on from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import run_folders

import experiments
from experiments import assemble
from experiments import config as configs
from experiments.commands import generate
from experiments.config import make_config
from experiments.running import continuing, head_to_head, trained
from experiments.storage import files
from experiments.storage.run_folder import fresh
from fdiv.benchmarks import Arithmetic, Text, TwoTemplate
from fdiv.policies import Architecture
from fdiv.types import UsageError

METHODS = ("sft", "distill:js")
SMALL = {"benchmark": TwoTemplate(vocab=3, horizon=3), "methods": METHODS, "seeds": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("loaded") / "run"
    config = make_config(**SMALL, updates=2)
    return out, config, run_folders.made(out, config, spread=1.0)


@pytest.fixture(scope="module")
def run(made):
    return experiments.load(str(made[0]))


def test_a_run_says_what_it_is(run):
    assert run.complete and run.preset == "a-test" and run.config.budget.updates == 2
    assert list(run.methods) == list(METHODS) and "Distill:JS" in run.methods
    assert repr(run.methods["distill:js"]).startswith("<distill:js of")


def test_results_are_tables(run):
    rows = run.results.to_pylist()
    assert {row["method"] for row in rows} == set(METHODS)
    assert [r["value"] for r in rows if (r["method"], r["metric"]) == ("sft", "js")] == [0.1, 0.1]
    ranked = {row["method"]: row for row in run.ranking.to_pylist()}
    assert ranked["sft"]["js"] == pytest.approx(0.1) and "js_low" in ranked["sft"]
    assert run.curves.num_rows == 0


def test_parameters_are_those_of_the_save_in_numpy_or_jax(run, made):
    sft = run.methods["sft"]
    np.testing.assert_array_equal(sft.params(1), made[2]["sft"][1])
    named = sft.named_params(1)
    assert list(named) == ["logits"] and isinstance(named["logits"], np.ndarray)
    tokens = jnp.zeros((1, 3), jnp.int32)
    law = lambda params: run.policy.head(params, run.policy.trunk(params, tokens))
    np.testing.assert_array_equal(law(sft.params(1)), law(named["logits"]))


def test_log_probs_are_the_policys_own(run, made):
    _, config, params = made
    own = run.methods["sft"].log_probs(["0 1 2", "2 2"], seed=1)
    for value, tokens in zip(own, ([0, 1, 2], [2, 2])):
        wanted = sum(run_folders.log_probs(config, params["sft"], 1, tokens))
        assert value == pytest.approx(wanted, abs=1e-5)
    np.testing.assert_allclose(run.methods["sft"].log_probs([[0, 1, 2], [2, 2]], seed=1), own)


def test_what_follows_a_prompt_counts_alone(run):
    sft = run.methods["sft"]
    whole, beginning = sft.log_probs(["0 1 2", "0"])
    (after,) = sft.log_probs(["1 2"], prompts=["0"])
    assert after == pytest.approx(whole - beginning, abs=1e-5)


def test_samples_are_repeatable_and_know_their_log_probs(run):
    sft = run.methods["sft"]
    first = sft.sample(6, seed=1, key=4)
    assert first == sft.sample(6, seed=1, key=4) != sft.sample(6, seed=1, key=5)
    assert all(len(each.text.split()) == 3 == len(each.tokens) for each in first)
    np.testing.assert_allclose(sft.log_probs(first, seed=1), [s.log_prob for s in first], atol=1e-5)


@pytest.mark.wide
def test_samples_are_those_of_generate(run, capsys):
    words = [str(run.path), "--prompt", "0", "--method", "sft", "--samples", "2"]
    assert generate.main([*words, "--seed", "1", "--draw-seed", "3"]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line[0] != "-"]
    own = run.methods["sft"].sample(2, seed=1, prompts=["0"], key=3)
    assert [each.text for each in own] == printed
    assert {each.prompt for each in own} == {"0"}


@pytest.mark.wide
def test_each_prompt_is_answered_in_its_place(run):
    own = run.methods["sft"].sample(2, prompts=["0 1", "2", [0, 1]])
    assert [each.prompt for each in own] == ["0 1"] * 2 + ["2"] * 2 + ["0 1"] * 2
    assert [len(each.tokens) for each in own] == [1, 1, 2, 2, 1, 1]


@pytest.mark.wide
def test_a_cold_policy_says_the_likeliest(run):
    cold = run.methods["sft"].sample(3, temperature=1e-3)
    law = run.methods["sft"].exact()
    assert len(set(cold)) == 1 and sum(np.exp(law.log_policy)) == pytest.approx(1, abs=1e-5)
    assert law.divergence("js") > 0
    assert law.entropy == pytest.approx(-np.sum(np.exp(law.log_policy) * law.log_policy), abs=1e-4)
    assert law.strings[5] == "0 1 2"


REFUSED = {  # what is asked -> what is said
    "method": (lambda run: run.methods["sfd"], ["method = 'sfd'", "sft"]),
    "seed": (lambda run: run.methods["sft"].params(2), ["seed = 2", "0 to 1"]),
    "nothing to draw": (lambda run: run.methods["sft"].sample(0), ["n = 0", "at least 1"]),
    "temperature": (lambda run: run.methods["sft"].sample(1, temperature=0), ["temperature"]),
    "symbol": (lambda run: run.methods["sft"].log_probs(["0 7"]), ["'7'", "no symbol"]),
    "token": (lambda run: run.methods["sft"].log_probs([[0, 3]]), ["token = 3"]),
    "too long": (lambda run: run.methods["sft"].log_probs([[0, 1, 2, 0]]), ["strings here have 3"]),
    "whole prompt": (lambda run: run.methods["sft"].sample(1, prompts=["0 1 2"]), ["whole string"]),
    "whole tokens": (lambda run: run.methods["sft"].sample(1, prompts=[[0, 1, 2]]), ["whole"]),
    "half a string": (lambda run: run.methods["sft"].sample(1.5), ["n = 1.5", "whole number"]),
    "a draw beyond all": (
        lambda run: run.methods["sft"].sample(1, key=2**32),
        ["key = 4294967296"],
    ),
    "half a token": (lambda run: run.methods["sft"].sample(1, prompts=[[0.5]]), ["whole numbers"]),
    "true for a seed": (lambda run: run.methods["sft"].params(True), ["seed = True"]),
    "half a seed": (lambda run: run.methods["sft"].params(0.5), ["seed = 0.5"]),
    "level": (lambda run: run.methods["sft"].exact().divergence("js", "word"), ["level", "token"]),
    "samples and prompts": (
        lambda run: run.methods["sft"].log_probs(run.methods["sft"].sample(1), prompts=["0"]),
        ["prompts of their own"],
    ),
    "no option": (
        lambda run: run.methods["sft"].continue_from("x", updats=3),
        ["updats = 3", "updates"],
    ),
    "a benchmark's name for its options": (
        lambda run: run.methods["sft"].continue_from("x", benchmark="markov"),
        ["benchmark = 'markov'", "run.config.benchmark"],
    ),
    "a table for options": (
        lambda run: run.methods["sft"].continue_from("x", adversarial={"warmup": 0}),
        ["adversarial = {", "run.config.adversarial"],
    ),
    "nothing for options": (
        lambda run: run.methods["sft"].continue_from("x", budget=None),
        ["budget = None", "run.config.budget"],
    ),
    "no method by number": (lambda run: run.methods[0], ["method = 0"]),
    "one string": (lambda run: run.methods["sft"].log_probs("0 1"), ["Give a list"]),
    "prompts": (lambda run: run.methods["sft"].log_probs(["0"], prompts=[]), ["for 1 strings"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_said(case, run):
    asked, says = REFUSED[case]
    with pytest.raises(UsageError) as error:
        asked(run)
    assert all(text in str(error.value) for text in says), str(error.value)


def test_no_run_is_said(tmp_path):
    for path, says in ((tmp_path, "holds no run"), (tmp_path / "other", "is no folder")):
        with pytest.raises(UsageError, match=says):
            experiments.load(path)


def test_a_run_is_read_from_another_folder(made, monkeypatch):
    monkeypatch.chdir(made[0].parent)
    run = experiments.load(made[0].name)
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(run.methods["sft"].params(1), made[2]["sft"][1])
    with pytest.raises(UsageError, match="home"):
        experiments.load("~nobody-of-this-name/run")


BROKEN = {  # what is lost -> what is asked of the run, and what is said where that cannot be
    "config": (["config.json"], lambda run: run.config, "no config.json"),
    "config and results": (
        ["config.json", "results.json"],
        lambda run: run.methods["distill-js"].params(),
        "no config.json",
    ),
    "a config of another shape": ({"config.json": '{"config": 3}'}, lambda r: r.config, "no run's"),
    "no benchmark": ({"config.json": '{"config": {}}'}, lambda run: run.config, "benchmark"),
    "a method": ({"methods/sft.json": "", "results.json": None}, repr, "is damaged: it is empty"),
    "lines": ({"metrics.jsonl/x": "", "samples.jsonl/x": ""}, lambda run: run.curves, None),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_lost_of_a_run_is_said(case, made, tmp_path):
    lost, ask, says = BROKEN[case]
    place = shutil.copytree(made[0], tmp_path / "run")
    for name, text in (lost if isinstance(lost, dict) else dict.fromkeys(lost)).items():
        file = place / name
        if text is None:
            file.unlink()
            continue
        file.parent.is_file() and file.parent.unlink()
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    run = experiments.load(place)
    if says is None:
        assert ask(run).num_rows == 0
    else:
        with pytest.raises(UsageError, match=says):
            ask(run)


def test_a_continued_run_never_goes_beside_the_folder_that_is_named(made, tmp_path, monkeypatch):
    """Where another run has it, that is said, and the other run is not what comes back."""
    place = shutil.copytree(made[0], tmp_path / "run")
    with pytest.raises(UsageError, match="belongs to another config"):
        experiments.load(place).methods["sft"].continue_from(place, updates=3)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    asked = []
    monkeypatch.setattr("experiments.running.head_to_head.run", lambda *given: asked.append(given))
    experiments.load(place).methods["sft"].continue_from(place, methods="distill:js")
    assert asked[0][1].methods == ("distill:js",)


def test_an_old_run_has_its_results_and_says_why_not_its_policies(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "old")
    kept = json.loads((tmp_path / "old" / "config.json").read_text())
    kept["config"]["velocity"] = 3
    del kept["checksum"]
    files.write_checked(tmp_path / "old" / "config.json", kept)
    old = experiments.load(tmp_path / "old")
    assert old.results.num_rows and list(old.methods) == list(METHODS)
    with pytest.raises(UsageError, match="velocity"):
        old.methods["sft"].params()


def test_a_run_that_has_not_ended_has_the_methods_that_have(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "part")
    (tmp_path / "part" / "results.json").unlink()
    (tmp_path / "part" / "methods" / "sft.json").unlink()
    part = experiments.load(tmp_path / "part")
    assert not part.complete and list(part.methods) == ["distill:js"]
    with pytest.raises(UsageError, match="finished"):
        part.methods["sft"]


@pytest.mark.wide
def test_prompts_come_from_a_task_that_has_some(tmp_path):
    config = make_config(
        benchmark=Arithmetic(largest=3), methods=("sft",), seeds=1, policy=Architecture("markov")
    )
    run_folders.made(tmp_path / "sums", config)
    own = experiments.load(tmp_path / "sums").methods["sft"].sample(2)
    assert all(each.prompt for each in own)


def test_a_fresh_folder_is_numbered(tmp_path):
    assert fresh(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").mkdir()
    assert fresh(tmp_path / "run") == tmp_path / "run-3"


@pytest.fixture
def named(made):
    """A config that starts from a method of the run, with other fields."""

    def make(**fields):
        from_run = {"start_from": made[0], "start_method": "distill:js"}
        return make_config(**{**SMALL, **from_run, **fields})

    return make


def test_each_seed_starts_from_its_own_policy(made, named):
    policy = experiments.load(made[0]).policy
    own = continuing.start(named(seeds=1), policy)
    np.testing.assert_array_equal(own, made[2]["distill:js"][:1])
    assert continuing.identity(named()) != continuing.identity(named(start_method="sft"))
    assert continuing.identity(make_config(**SMALL)) == {}
    assert continuing.start(make_config(**SMALL), policy) is None


LEAKS = {
    "the same": ({}, {}, ""),
    "memory, said and not": ({"store": "memory"}, {}, ""),
    "fewer of the rows held out": ({"validation": 0.2}, {"validation": 0.05}, ""),
    "another file": ({"validation": 0.05}, {"validation": 0.2, "path": Path("other")}, ""),
    "more of the rows held out": ({"validation": 0.05}, {"validation": 0.2}, "validation"),
    "another hash": ({}, {"store": "host"}, "store"),
    "fewer rows and another hash": ({"validation": 0.2, "store": "host"}, {}, "store and"),
    "prompts cut elsewhere": ({"prompt_length": 5}, {"prompt_length": 9}, "prompt-length"),
}


@pytest.mark.parametrize("case", LEAKS)
def test_a_start_that_was_trained_on_held_out_rows_is_told(case, monkeypatch):
    before, now, told = LEAKS[case]
    text = lambda fields: make_config(benchmark=Text(**{"path": Path("rows"), **fields}))
    monkeypatch.setattr(trained, "read", lambda path: SimpleNamespace(config=text(before)))
    own = configs.replace(text(now), start_from=Path("run"))
    said = continuing.leak(own)
    assert bool(said) == bool(told) and told in said
    assert continuing.leak(text(now)) == ""


NO_START = {
    "seeds": ({"seeds": 3}, ["seeds = 3", "at most 2"]),
    "class": ({"policy": Architecture("full")}, ["start_from", "another class"]),
    "method": ({"start_method": "gail"}, ["start_method = 'gail'", "distill:js"]),
    "several": ({"start_method": None}, ["--start-method", "sft"]),
    "no run": ({"start_from": Path("/nowhere")}, ["start_from = '/nowhere'"]),
}


@pytest.mark.parametrize("case", NO_START)
def test_no_start_is_refused_by_its_option(case, named):
    fields, says = NO_START[case]
    config = named(**fields)
    task = assemble.task(config)
    policy = config.policy.policy(task.mdp.vocab, task.length)
    with pytest.raises(UsageError) as error:
        continuing.start(config, policy)
    assert all(text in str(error.value) for text in says), str(error.value)


def test_a_dry_run_looks_at_the_start_too(named, tmp_path):
    config = named(policy=Architecture("full"), dry_run=True, out=tmp_path / "run")
    with pytest.raises(UsageError, match="policies of another class"):
        head_to_head.run("two-template", config, named())


@pytest.mark.wide
def test_a_run_goes_on_from_another(made, tmp_path):
    """With next to nothing to learn, it ends where the other had ended."""
    before = experiments.load(made[0]).methods["distill:js"]
    flags = {"updates": 1, "evaluations": 1, "batch_size": 4, "optimum_starts": 1, "samples": 4}
    after = before.continue_from(
        tmp_path / "after", methods=("sft",), learning_rate=1e-9, report=False, **flags
    )
    for seed in (0, 1):
        np.testing.assert_allclose(
            after.methods["sft"].params(seed), before.params(seed), atol=1e-6
        )
    kept = after.kept["config"]
    assert kept["start_method"] == "distill:js" and len(kept["start_model"]) == 16


def test_a_text_whose_rows_have_changed_is_refused(tmp_path):
    """Prompts would be drawn from rows that the policy was not trained on."""
    rows = tmp_path / "rows.jsonl"
    lines = [json.dumps({"prompt": f"{i}?", "completion": f"{i}"}) for i in range(40)]
    rows.write_text("\n".join(lines))
    text = Text(path=rows, prompt_length=4, horizon=4, teacher="none")
    config = make_config(benchmark=text, policy=Architecture("markov"), methods=("sft",), seeds=1)
    run_folders.made(tmp_path / "run", config)
    with pytest.warns(UserWarning, match="6 tokens leaves 2 of 4.*at most 4"):
        (one,) = experiments.load(tmp_path / "run").methods["sft"].sample(1, prompts=["1 + 1?"])
    assert len(one.tokens) <= 2
    kept = files.load(tmp_path / "run" / "config.json", dict)
    kept["config"]["data"] = assemble.data(config).digest()
    files.write_checked(tmp_path / "run" / "config.json", kept)
    assert experiments.load(tmp_path / "run").task.mdp.vocab == 257
    rows.write_text("\n".join([*lines, lines[0].replace("0", "7")]))
    with pytest.raises(UsageError, match="holds other rows than when"):
        _ = experiments.load(tmp_path / "run").task
