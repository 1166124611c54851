"""Precision and recall against a teacher's temperature: closed forms against samples."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.figures import teacher_temperature as figure


def test_measures_are_those_of_samples():
    """E_p log q and E_q log p of one Gaussian, from 200,000 points of either law."""
    q = figure.Gaussians(np.ones(1), np.array([[0.3, 0.8]]), np.array([[0.5, 0.1]]))
    draw = np.random.default_rng(3)
    own = q.means[0] + np.sqrt(q.variances[0]) * draw.standard_normal((200_000, 2))
    measured = figure.measure(q)
    sampled = q.log_density(figure.sample(draw, 200_000)).mean()
    assert measured["recall"] == pytest.approx(sampled, abs=0.1)
    assert measured["precision"] == pytest.approx(figure.TRUTH.log_density(own).mean(), abs=0.1)


def test_one_component_is_left_of_a_sharpened_mixture():
    weights = np.array([0.24, 0.26, 0.25, 0.25])
    q = figure.Gaussians(weights, figure.CENTRES[:4], np.full((4, 2), 0.1))
    assert figure.sharpened(q, 1.0).weights == pytest.approx(weights)
    cold = figure.sharpened(q, 1000.0)
    assert cold.weights == pytest.approx([0, 1, 0, 0], abs=1e-10)
    assert figure.single(cold).means[0] == pytest.approx(figure.CENTRES[1])


def test_em_finds_clusters_that_are_apart():
    draw = np.random.default_rng(0)
    centres = 10 * np.array([[0, 0], [0, 1], [1, 0], [1, 1.0]])
    x = centres[draw.integers(4, size=400)] + draw.standard_normal((400, 2))
    found = figure.fit(x, draw)
    order = np.lexsort(np.round(found.means).T[::-1])
    assert found.means[order] == pytest.approx(centres, abs=0.5)
    assert found.variances == pytest.approx(np.ones((4, 2)), abs=0.4)


@pytest.mark.wide
def test_colder_teachers(made):
    values = made(figure, powers=(1.0, 100.0), temperatures=(0.8, 1.0)).values
    cold, warm = (values["language"]["markov"][t] for t in ("0.8", "1"))
    assert cold["valid"] > warm["valid"] + 0.1
    # at temperature 1 the student is forward KL's best, whose cross-entropy is its entropy
    assert warm["recall"] == pytest.approx(-warm["entropy"], abs=1e-6)


BAD = [({"powers": (0.5,)}, "powers"), ({"temperatures": ()}, "temperatures")]


@pytest.mark.parametrize(("flags", "field"), BAD, ids=[field for _, field in BAD])
def test_flags_that_cannot_be_are_refused(flags, field, refused):
    refused(figure, flags, field)
