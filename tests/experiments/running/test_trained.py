"""Runs read from their folders: the policies that `generate` and `score` take."""

import json
import shutil

import jax
import numpy as np
import pytest
import run_folders

from experiments import cli, escapes
from experiments import config as configs
from experiments.commands import generate, score
from experiments.config import make_config, replace
from experiments.running import trained
from experiments.storage import checkpoints, files
from experiments.storage.run_folder import final
from fdiv.benchmarks import Arithmetic, Markov, Text, TwoTemplate
from fdiv.policies import Architecture
from fdiv.types import UsageError

METHODS = ("sft", "distill:js")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two methods and two seeds, each of which has a policy of its own."""
    out = tmp_path_factory.mktemp("trained") / "run"
    benchmark = TwoTemplate(vocab=3, horizon=3)
    config = make_config(benchmark=benchmark, methods=METHODS, seeds=2, updates=2)
    run_folders.made(out, config, spread=1.0)
    return out


def call(main, *words):
    return main([str(word) for word in words])


def scores(capsys, *words):
    """What `score` prints as JSON."""
    capsys.readouterr()
    assert call(score.main, *words, "--json", "True") == 0
    return json.loads(capsys.readouterr().out)


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


def test_a_config_is_read_as_it_is_written():
    for _, config in cli.presets().values():
        plain = escapes.finite_json(json.loads(json.dumps(configs.as_dict(config))))
        assert configs.from_dict(plain) == config
        kept = json.loads(json.dumps(configs.identity(config)))
        assert configs.identity(configs.from_dict(kept)) == configs.identity(config)


def test_a_run_is_its_config_and_parameters(run):
    whole = trained.read(run)
    assert whole.names == METHODS
    assert whole.sizes == (3, 0, 3, None)
    assert whole.config.budget.updates == 2
    assert whole.task().space is not None
    for name in METHODS:
        assert jax.tree.map(np.shape, whole.params(name)) == (2, 4, 3)
        np.testing.assert_array_equal(whole.of(name, 1), whole.params(name)[1])
    assert not np.array_equal(whole.params("sft"), whole.params("distill:js"))
    assert whole.method_result("sft").target == whole.result().methods["sft"].target


def test_an_empty_text_has_the_law_of_the_first_token(run, capsys):
    own = scores(capsys, run, "--text", "", "--method", "sft")
    assert own["ids"] == [3] and own["log_probs"] == []
    first = [
        scores(capsys, run, "--text", str(i), "--method", "sft")["log_probs"][0] for i in (0, 1, 2)
    ]
    assert np.exp(first).sum() == pytest.approx(1, abs=1e-6)
    assert -np.sum(np.exp(first) * first) == pytest.approx(own["entropy"][0], abs=1e-6)


def test_a_run_writes_symbols_to_the_end_of_a_string(run, capsys):
    flags = (run, "--method", "sft", "--samples", "2")
    assert call(generate.main, *flags, "--prompt", "0 2") == 0
    out = capsys.readouterr()
    assert all(line in ("0", "1", "2", generate.BETWEEN) for line in out.out.splitlines())
    assert not out.err
    assert call(generate.main, *flags, "--prompt=", "--draw-seed", "1") == 0
    first = capsys.readouterr().out
    assert [len(line.split()) for line in first.splitlines()] == [3, 1, 3]
    assert call(generate.main, *flags, "--prompt=", "--draw-seed", "1") == 0
    assert capsys.readouterr().out == first


def without(name):
    return lambda path: next(path.glob(name)).unlink()


def unfinished(path):
    (path / "methods" / "sft.json").unlink()


def saved_with(**fields):
    """Other fields in what lies beside the arrays of a save."""

    def change(path):
        file = next(final(path, "sft").glob("[0-9]*")) / "about.json"
        about = {**json.loads(file.read_text()), **fields}
        about.pop("about_checksum")
        about["about_checksum"] = checkpoints._sum_of_about(about)
        file.write_text(json.dumps(about))

    return change


def gone(path):
    shutil.rmtree(final(path, "sft"))


def changed(**fields):
    """Other fields in the config of a run."""

    def change(path):
        whole = files.load(path / "config.json", lambda data: data)
        files.write_checked(
            path / "config.json", {**whole, "config": {**whole["config"], **fields}}
        )

    return change


def damaged(path):
    (path / "config.json").write_text("{")


SFT = ("--method", "sft")
REFUSED = {
    # what is done to the folder, flags, what is said
    "no method named": (None, (), "holds 2 methods. Give --method: sft, distill:js."),
    "a method of another run": (None, ("--method", "gail"), "no method of this run"),
    "no method at all": (None, ("--method", "nonsense"), "no method of this run"),
    "a seed that is not there": (None, (*SFT, "--seed", "2"), "Give 0 to 1"),
    "a seed below 0": (None, (*SFT, "--seed", "-1"), "Give 0 to 1"),
    "a method that has not finished": (unfinished, SFT, "has not finished"),
    "an older format": (saved_with(format=1), SFT, "format 1"),
    "no save": (gone, SFT, "holds no save. Put it back from a copy. Or, to train sft again"),
    "a damaged save": (saved_with(checksum="0"), SFT, "damaged: its checksum"),
    "a damaged config": (damaged, SFT, "damaged"),
    "no config": (without("config.json"), SFT, "holds no config.json"),
    "a field of another version": (changed(warmth=3), SFT, "warmth"),
    "another benchmark": (changed(benchmark={"name": "own"}), SFT, "--import"),
    "a file that was imported": (changed(imports={"own.py": "1"}), SFT, "--import own.py"),
    "another policy": (changed(policy={"name": "full"}), SFT, "another policy"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_run_does_not_hold_is_refused(name, run, tmp_path, capsys):
    """One paragraph and exit code 2, and the folder is left as it is."""
    change, flags, words = REFUSED[name]
    path = tmp_path / "run"
    shutil.copytree(run, path)
    if change is not None:
        change(path)
    before = sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*"))
    assert call(score.main, path, "--text", "0", *flags) == 2
    err = said(capsys)
    assert err.startswith("error: ") and words in err
    assert sorted((p, p.stat().st_mtime_ns) for p in path.rglob("*")) == before


TEXTS = {
    "3": "'3', which is no symbol",
    "end": "'end', which is no symbol",
    "0 1 2 0": "has 4 symbols",
    "one": "'one'",
    "-1": "'-1'",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_of_another_task_is_refused(text, run, capsys):
    assert call(score.main, run, "--text", text, "--method", "sft") == 2
    assert TEXTS[text] in said(capsys)


def test_a_whole_string_is_no_prompt(run, capsys):
    assert call(generate.main, run, "--prompt", "0 1 2", "--method", "sft") == 2
    assert "nothing follows" in said(capsys)
    assert call(generate.main, run, "--prompt", "0", "--method", "sft", "--chat", "True") == 2
    assert "chat template" in said(capsys)


def test_a_method_of_no_run_is_refused(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    for flags in (("--method", "sft"), ("--seed", "0")):
        assert call(score.main, tmp_path, "--text", "a", *flags) == 2
        assert "is of a run" in said(capsys)


SYMBOLS = {
    # benchmark, a text, its tokens after the first, the token before it
    "an end": (Markov(vocab=2, horizon=4), "1 0 end", [1, 0, 2], 2),
    "characters": (Arithmetic(terms=2, largest=3), "1+2=3", [1, 10, 2, 11, 3], 13),
}


@pytest.mark.parametrize("name", SYMBOLS)
def test_tasks_are_spelled_as_in_their_reports(name, tmp_path, capsys):
    benchmark, text, tokens, start = SYMBOLS[name]
    config = make_config(
        benchmark=benchmark, policy=Architecture("markov"), methods=("sft",), seeds=1
    )
    params = run_folders.made(tmp_path / "run", config, spread=1.0)["sft"]
    own = scores(capsys, tmp_path / "run", "--text", text)
    assert own["ids"] == [start, *tokens]
    expected = run_folders.log_probs(config, params, 0, tokens)
    np.testing.assert_allclose(own["log_probs"], expected, rtol=1e-5)
    assert (own["entropy"][-1] == 0) == text.endswith("end")
    prompt = text.removesuffix(" end")
    assert call(generate.main, tmp_path / "run", "--prompt", prompt) == 0
    written = capsys.readouterr().out.strip()
    assert own["ids"] != [start] and len(written) <= 40
    if name == "an end":
        assert call(score.main, tmp_path / "run", "--text", "end 0") == 2
        assert "goes on after its end" in said(capsys)


def test_text_is_bytes_after_the_token_that_ends_one(tmp_path, capsys):
    """A byte-level policy has a log-prob of the first byte, and none has rows to read for it."""
    config = make_config(
        benchmark=Text(path=tmp_path / "gone.jsonl", prompt_length=4, horizon=8),
        policy=Architecture("markov"),
        methods=("sft",),
        seeds=2,
    )
    params = run_folders.made(tmp_path / "run", config, spread=1.0)["sft"]
    own = scores(capsys, tmp_path / "run", "--text", "aé", "--seed", "1")
    assert own["ids"] == [256, 97, 195, 169]
    rows = np.asarray(jax.nn.log_softmax(params[1]))
    expected = [rows[0, 97], rows[98, 195], rows[196, 169]]
    np.testing.assert_allclose(own["log_probs"], expected, rtol=1e-5)
    assert own["entropy"][-1] > 0
    assert call(generate.main, tmp_path / "run", "--prompt=", "--max-new-tokens", "20") == 0
    assert "was made for 13" in said(capsys)


def test_lengths_of_text_are_those_that_the_run_found(tmp_path):
    """A run's config leaves them to its rows, which need not be there any more."""
    fitted = Text(path=tmp_path / "gone.jsonl", prompt_length=4, horizon=8)
    config = make_config(
        benchmark=fitted, policy=Architecture("markov_t", order=0), methods=("sft",), seeds=1
    )
    run_folders.made(tmp_path / "run", config)
    whole = files.load(tmp_path / "run" / "config.json", lambda data: data)
    for name in ("prompt_length", "horizon"):
        whole["config"]["benchmark"][name] = None
    files.write_checked(tmp_path / "run" / "config.json", whole)
    run = trained.read(tmp_path / "run")
    assert run.config == replace(config, out=run.config.output.out)
    assert run.params("sft").shape == (1, 12, 257)
    with pytest.raises(UsageError, match="no method"):
        run.of("gail", 0)
