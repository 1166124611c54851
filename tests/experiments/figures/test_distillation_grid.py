"""A small grid of distillation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.figures import distillation_grid
from fdiv import divergences
from fdiv.benchmarks import TwoTemplate
from fdiv.objectives.distill import distill
from fdiv.policies import tabular
from fdiv.rollout import sampler
from fdiv.types import Components


@pytest.mark.wide
def test_a_small_grid(made):
    few = {"seeds": 2, "updates": 2}
    values = made(distillation_grid, fractions=(0.0, 0.3), divergences=("js",), **few).values
    cells = values["cells"]["js"]
    assert set(cells) == {"0", "0.3"}
    assert values["few_seeds"]
    for cell in cells.values():
        for key, most in (("quality", 1.0), ("diversity", 6 * np.log(3))):
            low, high = cell[key]["ci95"]
            assert 0 < cell[key]["mean"] <= most
            # of two seeds: mean +- 12.706 |a - b| / 2
            apart = abs(np.subtract(*cell[key]["seeds"]))
            assert high - low == pytest.approx(12.706 * apart, rel=1e-3)
            assert len(cell[key]["seeds"]) == 2
    assert sorted(values["by_quality"]["js"]) == [0.0, 0.3]


def test_any_fraction_is_a_reweighting_of_halves():
    mdp = TwoTemplate(horizon=3).build()
    policy = tabular.policy(tabular.markov(mdp.vocab, mdp.horizon), mdp.vocab)
    components = Components(policy, mdp, sampler(mdp.horizon, mdp.eos))
    d = divergences.parse("reverse_kl")

    def loss(objective, params, batch):
        _, rows, _ = objective.prepare(jax.random.key(1), params, (), batch)
        return objective.loss(params, (), rows)[0]

    @jax.jit
    def losses():
        params, batch = policy.init(jax.random.key(0)), mdp.demos(jax.random.key(2), 8)
        pairs = []
        for fraction in (0.25, 0.5):
            reweighted = distillation_grid.mixed(distill(components, d, 0.5), jnp.asarray(fraction))
            both = (distill(components, d, fraction), reweighted)
            pairs.append([loss(objective, params, batch) for objective in both])
        return pairs

    for plain, reweighted in losses():
        assert float(plain) == pytest.approx(float(reweighted), rel=1e-5)


BAD = [
    ({"fractions": (0.5, 1.5)}, "0 to 1"),
    ({"divergences": ("gjs:2",)}, "between 0 and 1"),
    ({"divergences": ("js", "js")}, "once"),
    ({"updates": 0}, "at least 1"),
]


@pytest.mark.parametrize(("flags", "says"), BAD)
def test_flags_that_cannot_be_are_refused(flags, says, refused):
    refused(distillation_grid, flags, says=says)
