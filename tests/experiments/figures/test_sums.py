"""Sums with every right way: strings by hand, distances against the family, and what is learned."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.figures import precision_coverage
from experiments.figures.common import sums
from fdiv import divergences
from fdiv.benchmarks.sums import CHARACTERS, EOS, Sums


def test_every_way_of_a_sum_once():
    """Of 1+1+1 two of the three ways with steps are the same string."""
    found = sums.answered(jnp.array([[1, 1, 1], [3, 4, 5]]), Sums.of(3, 5, True))
    spell = lambda row, keep: "".join(CHARACTERS[t] for t in row[keep] if t < EOS)
    each = zip(found.strings.tokens, found.strings.mask)
    texts = np.array([spell(row, keep) for row, keep in each]).reshape(2, 4)
    assert sorted(texts[0][found.own[0]]) == ["1+1=2,1+2=3", "1+1=2,2+1=3", "3"]
    steps = ["3+4=7,7+5=12", "3+5=8,8+4=12", "4+5=9,3+9=12"]
    assert sorted(texts[1][found.own[1]]) == ["12", *steps]


def test_distances_are_the_familys():
    p, q = np.random.default_rng(0).dirichlet(np.ones(4), 2)
    q = 0.6 * q  # the rest is on strings that are wrong
    log = lambda x: jnp.log(jnp.asarray(np.append(x, 0.0), jnp.float32))
    of = lambda a: float(sums.distance(log(p), log(q), a))
    whole = lambda name: float(
        divergences.parse(name)
        .perspective(
            jnp.log(jnp.asarray(np.append(p, 0.0))), jnp.log(jnp.asarray(np.append(q, 0.4)))
        )
        .sum()
    )
    assert of(0.0) == pytest.approx(whole("forward_kl"), rel=1e-4)
    assert of(0.5) == pytest.approx(whole("alpha:0.5"), rel=1e-4)
    assert of(0.75) == pytest.approx(whole("alpha:0.25"), rel=1e-4)
    assert of(1.0) == pytest.approx(-0.6, rel=1e-5)


def test_what_a_policy_is_worth_by_hand():
    right = np.array([[0.1, 0.2], [0.5, 0.0]])
    with np.errstate(divide="ignore"):
        row = precision_coverage.of_sums(np.log(right), np.log(right), 3)
    assert row["pass@1"] == pytest.approx((0.3 + 0.5) / 2)
    assert row["pass@3"] == pytest.approx((1 - 0.7**3 + 1 - 0.5**3) / 2)
    assert row["pass@3, less base"] == 0
    third = -(np.log(1 / 3) / 3 + np.log(2 / 3) * 2 / 3)
    assert row["entropy of right"] == pytest.approx(0.3 * third / 0.8)


@pytest.mark.wide
def test_training_raises_what_is_right(monkeypatch):
    monkeypatch.setattr(sums, "LARGEST", 3)
    monkeypatch.setattr(precision_coverage, "SUMS", (16, 1))
    flags = precision_coverage.Flags(
        alphas=(0.0, 0.9), sums=20, sums_betas=(0.0, 0.5), sums_base=30
    )
    own = precision_coverage.on_sums(flags)
    grpo = ["GRPO, beta 0.5", "GRPO, beta 0"]
    assert list(own) == ["base", "A 0", "A 0.9", "RL, no penalty", *grpo]
    trained = [row["pass@1, trained on"] for row in own.values()]
    assert min(trained[1:]) > trained[0]
