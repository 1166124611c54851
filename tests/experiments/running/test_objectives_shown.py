"""What a run says of its methods' objectives: the gap is of what is minimised, or a sentence under
the table says that it is not; log-ratios that policies visit; shares of what was bounded."""

from __future__ import annotations

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import recorded

from experiments import cli
from experiments.commands import compare
from experiments.reporting import tables, wording
from experiments.running import finite
from experiments.running.context import RunContext
from experiments.storage import checkpoints
from fdiv import objectives
from fdiv.types import Level, Sequences

SMALL = [
    *("--benchmark.vocab", "2", "--benchmark.horizon", "3", "--seeds", "2", "--updates", "4"),
    *("--batch-size", "16", "--samples", "16", "--evaluations", "2", "--optimum-starts", "1"),
]


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def run(out, *words) -> None:
    command = [*words, "--out", str(out)]
    assert cli.run(compare.main, "experiments.compare", command) == 0


def test_a_table_says_whose_gap_it_is():
    """Of methods that never ran: the words of the table."""
    names = ("relativistic:js", "fairl", "spin", "js")
    claims = {name: objectives.resolve(name).claim() for name in names}
    methods = {
        name: recorded.method(
            {"js": [0.1, 0.2]}, minimises=claim.minimises, how=claim.how, aside=claim.aside
        )
        for name, claim in claims.items()
    }
    ranking = tables.ranking(recorded.run(methods))
    shown = {row[0].text: row[1].text for row in ranking.rows}
    assert shown["relativistic:js"] == "js of pairs (sequence)"
    assert shown["js"] == "js (sequence)"
    notes = " ".join(ranking.notes)
    assert wording.OF_PAIRS in notes
    assert "fairl: its reward is no f-divergence's; what is shown is forward_kl" in notes
    assert "spin: between renewals" in notes
    assert "js: " not in notes
    said = wording.under_rewards(recorded.run(methods))
    assert "No line for relativistic:js: no function of one log-ratio" in said


OTHERWISE = {  # whose gradient is not that of the divergence that is shown
    "fairl": {},
    "airl": {"reward_form": "expert"},
    "gail": {"entropy": 0.1},
    "relativistic:pearson_chi2": {"entropy": 0.1},
    "spin": {},
    "spin:reverse_kl": {"form": "single"},
    "iq_learn": {},
    "distill:jeffreys": {"weights": "akl"},
    "distill:js": {"target": "e", "towards": 0.5},
    "simpo": {},
    "ipo": {},
    "kto": {},
}
AS_SHOWN = {
    "sft": {},
    "gail": {},
    "airl": {"reward_form": "expert", "entropy": 1.0},
    "relativistic:js": {},
    "spin": {"refresh": 1},
    "distill:js": {"top_k": 2},
    "dagger:reverse_kl": {"target": "m", "towards": 0.9},
    "rloo": {},
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_gradient_of_something_else_is_said(name):
    assert objectives.resolve(name, **OTHERWISE[name]).claim().aside


@pytest.mark.parametrize("name", AS_SHOWN)
def test_and_nothing_else_is(name):
    assert not objectives.resolve(name, **AS_SHOWN[name]).claim().aside


@pytest.mark.wide
def test_the_gap_of_a_run_is_of_pairs(tmp_path):
    """From the class's least: of a Markov policy it is more than 0."""
    words = ("two-template", *SMALL, "--methods", "relativistic:js", "--adversarial.warmup", "1")
    run(tmp_path, *words, "--report", "False")
    own = json.loads((tmp_path / "results.json").read_text())["methods"]["relativistic:js"]
    assert own["how"] == "of pairs"
    value, gap = (np.array(x["seeds"]) for x in (own["metrics"]["js_of_pairs"], own["gap"]))
    np.testing.assert_allclose(value - own["best"], gap, atol=1e-6)
    assert own["best"] > 1e-4
    assert (gap > -1e-6).all()
    assert not np.allclose(value, own["metrics"]["js"]["seeds"], rtol=1e-2)
    assert "js of pairs (sequence)" in (tmp_path / "table.md").read_text()


@pytest.mark.wide
def test_log_ratios_where_strings_are_not_enumerated(tmp_path):
    """Nothing has been learned at a rate of nothing: every string's log-prob is the reference's."""
    flags = "arithmetic --benchmark.terms 2 --benchmark.largest 3 --methods rloo sft"
    sizes = "--policy.name markov --samples 8 --warm-start 2 --seeds 1 --updates 2 --batch-size 8"
    rest = "--evaluations 1 --learning-rate 1e-12 --rloo.learning-rate 1e-12"
    run(tmp_path, *f"{flags} {sizes} {rest}".split())
    own = [x for x in lines(tmp_path, "samples.jsonl") if x["method"] == "rloo"]
    assert len(own) == 8
    for line in own:
        assert line["log_ref"] == pytest.approx(line["log_q"], abs=1e-4)
    assert not any(
        "log_ref" in x or "log_p" in x
        for x in lines(tmp_path, "samples.jsonl")
        if x["method"] == "sft"
    )
    page = (tmp_path / "report.html").read_text()
    assert "log-ratios of what the policies wrote" in page
    assert "log ref - log q" in page


@pytest.mark.wide
def test_log_ratios_are_of_what_the_reward_is_of(tmp_path):
    """At a rate of nothing a method writes what the start wrote: its tokens' add up to what the
    start's strings have, whose log-probs under the expert are looked up."""
    words = ("two-template", *SMALL[:-2], "--policy.name", "full", "--methods", "distill:js")
    run(tmp_path, *words, "--learning-rate", "1e-12", "--report", "False")
    samples = lines(tmp_path, "samples.jsonl")
    assert {x["method"] for x in samples} == {"start", "expert", "distill:js"}
    whole, parts = ([x for x in samples if x["method"] == name] for name in ("start", "distill:js"))
    assert len(whole) == len(parts) == 32
    for string, tokens in zip(whole, parts):
        assert string["completion"] == tokens["completion"]
        assert len(tokens["ratios"]) == 3
        apart = string["log_p"] - string["log_q"]
        assert sum(tokens["ratios"]) == pytest.approx(apart, abs=1e-3)
    assert any(abs(s) > 1e-2 for x in parts for s in x["ratios"])


KNOWN = np.array(
    [[[-1.0, -2.0, -4.0], [-1.0, -9.0, -9.0]]]
)  # of two strings of three and one token
OWN = np.full((1, 2, 3), -0.5)
RATIOS = {  # level -> what the two lines hold
    Level.token_policy: ("ratios", [[-0.5, -1.5, -3.5], [-0.5]]),
    Level.occupancy: ("ratios", [[-0.5, -2.0, -5.5], [-0.5]]),
    Level.sequence: ("log_p", [-7.0, -1.0]),
    "return": ("log_ref", [-7.0, -1.0]),
}


@pytest.mark.parametrize("level", RATIOS)
def test_which_log_ratios_are_kept(level):
    mask = np.array([[[True, True, True], [True, False, False]]])
    known = np.where(mask, KNOWN, 0.0)
    evaluator = SimpleNamespace(exact=False, known_log_probs=lambda strings, start: known)
    task = SimpleNamespace(mdp=SimpleNamespace(regulariser=True))
    context = SimpleNamespace(evaluator=evaluator, task=task, start=())
    name, wanted = RATIOS[level]
    strings = Sequences(np.zeros(mask.shape, int), mask, np.ones((1, 2)))
    found = RunContext._ratios(context, strings, np.where(mask, OWN, 0.0), level)
    assert found == {name: [wanted]}
    task.mdp.regulariser = None
    evaluator.known_log_probs = lambda strings, start: None
    assert RunContext._ratios(context, strings, OWN, level) == {}


@pytest.mark.wide
def test_shares_of_bounded_gradients_and_clipped_actions(tmp_path):
    flags = "rlhf --policy.name full --benchmark.base.vocab 3 --benchmark.base.horizon 4"
    rest = "--methods grpo --epochs 3 --max-grad-norm 1e-6 --seeds 1 --updates 4 --evaluations 2"
    run(tmp_path, *f"{flags} {rest} --batch-size 16 --learning-rate 0.5".split())
    after = [x for x in lines(tmp_path, "metrics.jsonl") if x["update"]]
    assert all(x["bounded_share"] == 1 for x in after)
    assert all(0 <= x["clip_share"] <= 1 for x in after)
    assert any(x["clip_share"] > 0 for x in after)
    page = (tmp_path / "report.html").read_text()
    assert "actions that the clip stops" in page
    assert "gradients that are bounded" in page


def test_shares_are_means_since_the_evaluation():
    """Two updates, the second with an infinite loss that is left out: (1 + -) / 1, and no clip."""
    log = finite.empty(finite.SHARES)
    state = jax.tree.map(np.float32, {"x": 0.0})

    class State(tuple):
        aux = opt = params = state
        step = np.int32(1)

    for loss, share in ((1.0, 1.0), (np.inf, 0.0)):
        metrics = {"loss": loss, "gradient_norm": 2.0, "tokens": 3, "bounded_share": share}
        metrics = jax.tree.map(np.asarray, metrics)
        kept = finite.watched(State(), State(), metrics)
        assert "bounded_share" not in kept
        counts = np.bool_(np.isfinite(loss))
        added = finite._with_shares(log.shares, metrics, finite.SHARES, counts)
        log = log._replace(shares=added, used=log.used + counts)
    host = jax.tree.map(lambda x: np.asarray(x)[None], log)
    found = finite.means(host, finite.SHARES)
    assert found["bounded_share"].tolist() == [1.0]
    assert "clip_share" not in found


@pytest.mark.wide
def test_a_save_from_before_there_were_shares_is_read(tmp_path):
    """Its log lacks the last leaf, which begins at 0; one that lacks more is damaged."""
    whole = {"a": np.arange(3.0), "b": np.float32(2), "z": np.zeros(2)}
    checkpoints.save(tmp_path, 4, [whole["a"], whole["b"]], {"update": 4})
    found, about = checkpoints.restore(tmp_path, whole, lacking=1)
    assert about == {"update": 4}
    assert found["a"].tolist() == [0, 1, 2]
    assert found["z"].tolist() == [0, 0]
    more = {**whole, "zz": np.zeros(2)}
    assert checkpoints.restore(tmp_path, more, lacking=1) is None
