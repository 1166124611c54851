"""Groups of rows in widths of their own: the same sums as one width, rows that never see each
other, and widths that leave the least padding."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fdiv import buckets, divergences
from fdiv import tokens as tk
from fdiv.benchmarks import TwoTemplate
from fdiv.buckets import Buckets
from fdiv.learner import learner
from fdiv.objectives.distill import distill
from fdiv.objectives.max_likelihood import max_likelihood
from fdiv.policies import transformer
from fdiv.policies.transformer import Shape
from fdiv.types import PAD, Components, Model, Sequences

VOCAB, WHOLE = 7, 12
POLICY = transformer.policy(Shape(layers=1, width=8, heads=2, kv_heads=1), VOCAB)
POLICY = POLICY._replace(trunk=jax.jit(POLICY.trunk))
WIDTHS = Buckets((4, 7, WHOLE), parts=3)
TWO = Buckets((6, WHOLE), parts=3)  # each width is a body to compile


def rows(lengths, seed=0):
    """Strings with a prompt of one token, as numpy arrays."""
    size, column = np.array(lengths)[:, None], np.arange(WHOLE)[None]
    tokens = np.random.default_rng(seed).integers(0, VOCAB, (len(lengths), WHOLE))
    mask = (column > 0) & (column < size)
    weight = np.linspace(1, 2, len(lengths), dtype=np.float32)
    return Sequences(np.where(column < size, tokens, PAD).astype(np.int32), mask, weight)


@functools.cache
def drawn():
    """Parameters by seed, as one program."""
    return jax.jit(lambda: {seed: POLICY.init(jax.random.key(seed)) for seed in (2, 3, 5)})()


def objectives():
    teacher = Model(POLICY, drawn()[5])
    mdp = TwoTemplate(vocab=VOCAB, horizon=WHOLE).build()._replace(expert=teacher)
    components = Components(POLICY, mdp, None)
    return {
        "sft": max_likelihood(POLICY, VOCAB, "token"),
        "distill": distill(components, divergences.parse("js")),
    }


@functools.cache
def after(name, count, widths, seeds=1):
    """Metrics and parameters after an update of plain gradient descent, of each seed's own rows."""
    made = learner(
        objectives()[name],
        optax.sgd(1.0),
        in_parts=None if widths is None else functools.partial(buckets.gradient, widths),
    )
    # groups of 6 and of 7 columns, one more than the first width, the longer ones in a later seed
    lengths = np.random.default_rng(1).integers(2, WHOLE + 1, (seeds, count))[::-1]
    batches = jax.tree.map(lambda *xs: np.stack(xs), *map(rows, lengths))

    def update(params, batch):
        state, metrics = made.update(made.init(jax.random.key(0), params), batch)
        return state.params, metrics["loss"], metrics["gradient_norm"]

    found = jax.jit(jax.vmap(update, (None, 0)))(drawn()[2], batches)
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize(
    ("name", "count", "seeds"),
    [
        pytest.param("sft", 7, 2, marks=pytest.mark.wide),
        pytest.param("sft", 6, 1, marks=pytest.mark.wide),
        pytest.param("sft", 2, 1, marks=pytest.mark.wide),
        pytest.param("distill", 6, 1, marks=pytest.mark.wide),
    ],
)
def test_an_update_is_that_of_the_undivided_batch(name, count, seeds):
    """Also of rows that do not divide into groups, of fewer rows than groups, and of runs side by
    side whose rows need other widths."""
    own, whole = (after(name, count, widths, seeds) for widths in (TWO, None))
    assert np.linalg.norm(whole[2]) > 0.01
    for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(whole)):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-7)


def slope(params, aux, batch, part):
    loss = lambda params: -jnp.sum(batch.weight * tk.log_probs(POLICY, params, batch, VOCAB).sum(1))
    return jax.value_and_grad(loss)(params)


SUMMED = jax.jit(lambda params, batch: buckets.gradient(WIDTHS, slope, params, (), batch))
LENGTHS = (3, 4, 6, 7, 9, 12)


@pytest.mark.parametrize("row", range(len(LENGTHS)))
def test_a_row_does_not_see_another(row):
    """What stands in a row without weight changes no bit of the others' loss and gradient; another
    length of it, which may put others into a wider group, nothing but rounding."""
    weight = np.ones(len(LENGTHS), np.float32)
    weight[row] = 0
    own, other = (rows(LENGTHS, seed)._replace(weight=weight) for seed in (0, 1))
    here = np.arange(len(LENGTHS))[:, None] == row
    poisoned = own._replace(tokens=np.where(here, other.tokens, own.tokens))
    assert (poisoned.tokens != own.tokens).any()
    before, after_it = (jax.tree.leaves(SUMMED(drawn()[3], x)) for x in (own, poisoned))
    for a, b in zip(before, after_it):
        np.testing.assert_array_equal(a, b)
    long = list(LENGTHS)
    long[row] = WHOLE
    longer = own._replace(tokens=np.where(here, rows(long).tokens, own.tokens))
    for a, b in zip(before, jax.tree.leaves(SUMMED(drawn()[3], longer))):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # seen: 1.4e-6


def test_groups_hold_each_row_once_by_length():
    both = lambda x: (made := buckets.grouped(x, 3), jax.vmap(buckets.columns)(made.tokens))
    made, sizes = jax.tree.map(np.asarray, jax.jit(both)(rows((*LENGTHS[::-1], 5))))
    assert made.tokens.shape == (3, 3, WHOLE)
    assert sizes.tolist() == [[0, 0, 3], [4, 5, 6], [7, 9, 12]]
    assert made.weight[0, :2].tolist() == [0, 0]
    assert not made.mask[0, :2].any()


FITS = {
    "rows of one length": ([5] * 9, 5, 3),
    "two lengths": ([3] * 4 + [8] * 4, 8, 3),
    "none as long as the cut": ([3, 4, 4, 5], 9, 3),
    "some of everything": ([1, 2, 2, 3, 5, 6, 6, 7, 9, 10], 10, 3),
}


@pytest.mark.parametrize("name", FITS)
def test_widths_are_the_best_of_all(name):
    """Against every choice of as many widths."""
    lengths, whole, most = FITS[name]

    def computed(widths):
        return sum(min(w for w in widths if w >= length) for length in lengths)

    for count in range(1, most + 1):
        choices = itertools.combinations(range(1, whole), count - 1)
        best = min(computed((*choice, whole)) for choice in choices)
        widths = buckets.fit(lengths, whole, count)
        assert widths[-1] == whole and sorted(set(widths)) == list(widths)
        assert len(widths) <= count and computed(widths) == best


def test_padding_is_counted():
    """Rows of 2 and 4 columns: in one width of 4, and each in its own."""
    lengths = np.array([2, 4] * 50)
    assert buckets.padding(lengths, Buckets((4,)), 2) == pytest.approx(0.25, abs=0.03)
    assert buckets.padding(lengths, Buckets((2, 4)), 2) == 0
    # a batch of 3 in 2 groups: an empty row fills up the first
    assert buckets.padding(np.array([4]), Buckets((4,), parts=2), 3) == pytest.approx(0.25)
