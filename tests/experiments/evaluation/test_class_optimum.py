"""Searches of a network's class begin where the one for forward KL has ended; those of a table are
made once for all runs that would make the same."""

from __future__ import annotations

import dataclasses
import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import assemble, cli, devices
from experiments.commands import compare
from experiments.config import Evaluation, make_config
from experiments.evaluation import class_optimum
from experiments.evaluation.class_optimum import FEW, SHORT, ClassOptima
from experiments.running import head_to_head
from experiments.storage import files
from fdiv import exact
from fdiv.benchmarks import TwoTemplate
from fdiv.policies import Architecture
from fdiv.types import Claim, Level, UsageError


def test_a_network_is_searched_from_the_law_nearest_in_forward_kl(tmp_path, monkeypatch):
    config = make_config(
        benchmark=TwoTemplate(vocab=2, horizon=2),
        policy=Architecture("transformer", layers=1, width=8),
    )
    task = assemble.task(config)
    components = assemble.components(config, task)
    asked = []

    def search(family, space, expert, policy, level, share, digits):
        def best(name, initial, iterations):
            assert name in family
            asked.append((name, level, iterations, len(initial)))
            moved = {"one": np.float64(len(asked)), "from": initial[0]}
            return exact.Optimum(0.1, moved, [(0.1, moved)])

        return types.SimpleNamespace(best=best)

    monkeypatch.setattr(exact, "ClassSearch", search)
    monkeypatch.setattr(ClassOptima, "_measure", lambda self, params: {})
    optima = ClassOptima(config.policy, Evaluation(), 0, task, components, tmp_path / "optima.json")
    optima.search("tv")  # before forward KL's own row
    optima.search("forward_kl")
    optima.of(Claim("js", Level.occupancy, ""))
    sequence = Level.sequence
    assert asked == [
        ("forward_kl", sequence, SHORT, 1),
        ("tv", sequence, FEW, 1),
        ("js", Level.occupancy, FEW, 1),
    ]
    assert f"{FEW} more from its end" in optima.note
    assert "tv sequence 1" in json.loads((tmp_path / "optima.json").read_text())


def test_another_divergences_end_is_no_optimum_by_symmetry(tmp_path):
    """Two templates of one weight: the uniform law is forward KL's best of independent tokens, and
    JS has a slope of 0 there (.1837) though it falls to either side, to .1799."""
    even = TwoTemplate(vocab=2, horizon=4, weight=0.5)
    independent = Architecture("independent")
    optima = optima_of(tmp_path, policy=independent, benchmark=even, starts=4)
    optima.search("forward_kl")
    assert optima.of(JS).local == pytest.approx([0.1799129], abs=1e-6)


# --- what other runs have found -------------------------------------------------------------------

TABLE = Architecture("markov", order=1)
SMALL = TwoTemplate(vocab=2, horizon=3)
JS = Claim("js", Level.sequence, "")
OWN = Claim("mine", Level.sequence, "", measure=lambda q, p: jnp.sum((q - p) ** 2, -1))


def optima_of(tmp_path, run="run", policy=TABLE, benchmark=SMALL, starts=3, seed=0, **own):
    """Those of one run; all runs share a folder."""
    config = make_config(benchmark=benchmark, policy=policy)
    task = assemble.task(config)
    components = assemble.components(config, task)
    searching = Evaluation(optimum_starts=starts)
    path, kept = tmp_path / f"{run}.json", tmp_path / "kept"
    return ClassOptima(policy, searching, seed, task, components, path, **{"kept": kept} | own)


def kept_in(tmp_path) -> set[str]:
    return {path.name for path in (tmp_path / "kept").glob("*")}


def no_search(*_):
    raise AssertionError("searched again")


def searching_with(best, monkeypatch) -> None:
    monkeypatch.setattr(exact, "ClassSearch", lambda *_: types.SimpleNamespace(best=best))


@pytest.fixture
def quick(monkeypatch):
    """Searches that end a little beside where they begin, of a policy that is measured by little:
    what is kept for whom does not depend on either."""

    def best(name, initial, iterations):
        moved = jax.tree.map(lambda x: 1.1 * np.asarray(x, np.float64), initial[0])
        return exact.Optimum(0.1, moved, [(0.1, moved)])

    def measures(task, family, expert):
        return lambda law: {"first": law.string[0], "last": law.string[-1]}

    searching_with(best, monkeypatch)
    monkeypatch.setattr(class_optimum, "exact_measures", measures)


def test_another_run_reads_what_one_has_found(tmp_path, monkeypatch):
    first = optima_of(tmp_path, "first")
    found = [first.of(JS), first.of(Claim("reverse_kl", Level.token_policy, ""))]
    searching_with(no_search, monkeypatch)
    again = optima_of(tmp_path, "again", extra=["alpha:3"])
    read = [again.of(JS), again.of(Claim("reverse_kl", Level.token_policy, ""))]
    for mine, other in zip(read, found):
        assert mine._replace(metrics={}) == other._replace(metrics={})
        # it is measured here, also in what this run alone has a use for
        assert "alpha:3" in mine.metrics and "alpha:3" not in other.metrics
        same = {name: mine.metrics[name] for name in other.metrics}
        assert same == pytest.approx(other.metrics, rel=1e-12, abs=1e-12, nan_ok=True)
    assert (first.read, again.read) == (0, 2) and len(kept_in(tmp_path)) == 2


def test_whose_prefixes_count_is_a_search_of_its_own_at_the_policys_alone(quick, tmp_path):
    optima = optima_of(tmp_path)
    for level in exact.LEVELS:
        for share in (0.0, 0.5, 1.0):
            optima.of(Claim("js", level, "", policy_prefixes=share))
    known = json.loads((tmp_path / "run.json").read_text()).keys() - {"checksum"}
    alone = {f"js {x} 1" for x in ("sequence", "occupancy", "token_expert")}
    assert known == alone | {f"js token_policy {share}" for share in ("0", "0.5", "1")}


@pytest.mark.parametrize(
    "other",
    [
        {"starts": 2},
        {"seed": 1},
        {"benchmark": dataclasses.replace(SMALL, noise=0.2)},
        {"benchmark": dataclasses.replace(SMALL, horizon=4)},
        {"policy": Architecture("markov", order=2)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_search_that_differs_in_anything_is_made(quick, tmp_path, other):
    optima_of(tmp_path, "first").of(JS)
    another = optima_of(tmp_path, "another", **other)
    found = another.of(JS)
    assert another.read == 0 and len(kept_in(tmp_path)) == 2
    assert found == optima_of(tmp_path, "alone", **other, kept=None).of(JS)


def test_levels_shares_and_the_ends_before_are_told_apart(quick, tmp_path):
    optima = optima_of(tmp_path)
    for share in (0.5, 1.0):
        optima.of(Claim("js", Level.token_policy, "", policy_prefixes=share))
    optima.of(Claim("js", Level.token_expert, ""))
    optima.of(JS)
    # it begins from the ends of the three before, where this run has none
    optima_of(tmp_path, "another").of(JS)
    assert len(kept_in(tmp_path)) == 5


def test_other_code_searches_anew(quick, tmp_path, monkeypatch):
    optima_of(tmp_path, "first").of(JS)
    monkeypatch.setattr(class_optimum, "_code", lambda: "of another day")
    another = optima_of(tmp_path, "another")
    assert another.of(JS).value > 0 and another.read == 0


@pytest.mark.parametrize("fault", ["cut", "other end", "other shape", "ragged", "other metrics"])
def test_what_was_spoiled_is_searched_again(quick, tmp_path, fault):
    found = optima_of(tmp_path, "first").of(JS)
    (place,) = (tmp_path / "kept").glob("*")
    whole = files.load(place, dict)
    if fault == "cut":
        place.write_bytes(place.read_bytes()[:-40])
    elif fault == "other shape":
        files.write_checked(place, whole | {"end": whole["end"][0][0]})
    elif fault == "ragged":
        files.write_checked(place, whole | {"end": [[[1.0], [1.0, 2.0]]]})
    elif fault == "other end":
        files.write_checked(place, whole | {"end": (np.array(whole["end"]) * 1.001).tolist()})
    else:
        files.write_checked(place, whole | {"metrics": {"unheard of": 1.0}})
    again = optima_of(tmp_path, "again")
    assert again.of(JS) == found and again.read == 0
    assert files.load(place, dict)["end"] == whole["end"], "what was found now is kept"


def test_a_networks_end_is_kept_for_others_alone(quick, tmp_path):
    """The run's own file does without: nothing of it is searched from there."""
    network = Architecture("transformer", layers=1, width=8)
    first, again = (optima_of(tmp_path, name, policy=network) for name in ("first", "again"))
    assert first.of(JS) == again.of(JS)
    assert (first.read, again.read) == (0, 1)
    assert json.loads((tmp_path / "again.json").read_text())["js sequence 1"]["end"] == []
    # it sets out from the seed's own parameters
    other = optima_of(tmp_path, "other", policy=network, seed=1)
    assert other.of(JS).end == [] and other.read == 0


def test_a_long_policy_is_kept_for_no_other(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(class_optimum, "KEPT", 5)
    assert optima_of(tmp_path, policy=TABLE).of(JS).value == 0.1
    assert kept_in(tmp_path) == set()


@pytest.mark.parametrize(
    "own, claim",
    [
        ({"kept": None}, JS),
        ({"policy": Architecture("full")}, JS),
        ({}, OWN),
    ],
    ids=["a user's code", "every law", "a task's own measure"],
)
def test_what_no_digest_can_tell_is_kept_for_no_other(quick, tmp_path, own, claim):
    assert math.isfinite(optima_of(tmp_path, **own).of(claim).value)
    assert kept_in(tmp_path) == set()


@pytest.mark.parametrize("own", [False, True], ids=["ours alone", "an imported file"])
def test_a_run_with_code_of_the_users_own_shares_no_search(own, tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text("")
    module = types.ModuleType("mine")
    module.__file__ = str(file)
    monkeypatch.setattr(cli, "IMPORTED", [module] if own else [])
    given = []

    def seen(*arguments):
        given.append(arguments[-1])
        raise UsageError("seen", None, "is enough.", "")

    monkeypatch.setattr(head_to_head, "ClassOptima", seen)
    words = ["two-template", "--benchmark.vocab", "2", "--benchmark.horizon", "2", "--seeds", "1"]
    words += ["--methods", "sft", "--out", str(tmp_path / "run")]
    assert cli.run(compare.main, "experiments.compare", words) == cli.USAGE_EXIT
    assert given == [None if own else devices.cache_folder(None) / "optima"]
