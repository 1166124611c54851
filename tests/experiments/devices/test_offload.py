"""An optimiser's state in the host's memory: the same numbers, and it lies there; what cannot keep
it there is refused."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import assemble
from experiments import config as configs
from experiments.devices import offload
from experiments.devices.mesh import MeshLayout
from experiments.devices.seeds import SeedLayout
from experiments.optimiser import Optimiser
from experiments.running import finite, ready, runs, train
from experiments.running.resume import Saves
from experiments.storage import checkpoints
from fdiv.benchmarks import TwoTemplate
from fdiv.objectives.max_likelihood import MaxLikelihood
from fdiv.types import Objective, UsageError

SEEDS, UPDATES = 2, 6
OPTIMISERS = {
    "adam": {"max_grad_norm": 0.05},
    "adamw": {"weight_decay": 0.1, "warm_up": 2},
    "lion": {},
    "sgd": {"momentum": 0.5, "epochs": 2},
}
LAYOUTS = {
    "seeds": lambda: SeedLayout(SEEDS, jax.devices()[:1]),
    "mesh": lambda: MeshLayout(SEEDS, jax.devices()[:1], {"data": 1, "fsdp": 1, "tensor": 1}),
}


def config_of(**changes) -> configs.Config:
    given = {"updates": UPDATES, "batch_size": 8, "seeds": SEEDS, **changes}
    return configs.make_config(benchmark=TwoTemplate(vocab=2, horizon=3), **given)


def trained(config: configs.Config, layout, saves=None, updates: int = UPDATES, broken: int = 0):
    """The runs after so many updates of likelihood; `broken` is one whose gradient is infinite."""
    task = assemble.task(config)
    parts, keys = assemble.components(config, task), assemble.seed_keys(config, SEEDS)
    start = runs.starts(config, task, parts, keys)
    of = runs.Runs(
        keys, start, jnp.full(SEEDS, 0.1), runs.fixed_rows(config.budget, task.mdp, keys)
    )
    objective = MaxLikelihood().build(parts)
    training = train.prepare(config, task, _breaking(objective, broken), layout, of, saves=saves)
    return training.compiled.advance(training.train_state, jnp.int32(updates), jnp.bool_(True))


def _breaking(objective: Objective, update: int) -> Objective:
    if not update:
        return objective

    def prepare(key, params, aux, batch):
        _, batch, metrics = objective.prepare(key, params, (), batch)
        return aux + 1, batch, metrics

    def loss(params, aux, batch):
        value, metrics = objective.loss(params, (), batch)
        return value * jnp.where(aux == update, jnp.inf, 1.0), metrics

    return Objective(lambda key, params: jnp.int32(0), prepare, loss)


def kept(state) -> list[str]:
    """Where the arrays of the optimiser's state lie."""
    leaves = jax.tree.leaves(state.learner.opt)
    return [leaf.sharding.memory_kind for leaf in leaves if leaf.ndim > 1]


def same(one, other) -> None:
    """All but the number that says whether the state is sound, which the one has alone."""
    own = one.learner.opt
    assert isinstance(own, offload.Offloaded)
    one = one._replace(learner=one.learner._replace(opt=own.state))
    assert len(jax.tree.leaves(one)) == len(jax.tree.leaves(other))
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize(
    ("optimiser", "layout"), [("adam", "mesh"), *((name, "seeds") for name in OPTIMISERS)]
)
@pytest.mark.few(2)
def test_numbers_are_the_same_and_the_state_lies_on_the_host(optimiser, layout):
    given = {"optimiser": optimiser, **OPTIMISERS[optimiser]}
    moved = trained(config_of(offload=True, **given), LAYOUTS[layout]())
    assert kept(moved) and set(kept(moved)) == {offload.MEMORY}
    assert {x.sharding.memory_kind for x in jax.tree.leaves(moved.learner.params)} == {"device"}
    same(moved, trained(config_of(**given), LAYOUTS[layout]()))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.few(1)
def test_a_save_is_taken_up_where_it_was(layout, tmp_path):
    """After four of six updates, bit for bit, and the state lies on the host again."""
    own, config = LAYOUTS[layout](), config_of(offload=True)
    first = trained(config, own, updates=4)
    resumed = resumed_from(first, config, own, tmp_path, updates=2)
    whole = trained(config, own)
    assert set(kept(resumed)) == {offload.MEMORY}
    for x, y in zip(jax.tree.leaves(resumed.learner), jax.tree.leaves(whole.learner)):
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_a_run_without_it_is_the_run_it_was_before_there_was_such_a_flag():
    assert "offload" not in configs.identity(config_of())
    assert configs.identity(config_of(offload=True))["offload"] is True


def resumed_from(state, config, layout, folder, updates: int):
    """The runs after more updates, from a save of theirs."""
    about = {"update": 4, "seconds": 1.0, "tokens": [0.0] * SEEDS}
    checkpoints.save(folder / "saves", 4, layout.get(state), about)
    saves = Saves(folder / "saves", 2, 30.0, types.SimpleNamespace(asked=False))
    return trained(config, layout, saves, updates)


@pytest.mark.parametrize("skip", ["stop", "skip"])
@pytest.mark.few(1)
def test_a_state_that_is_not_finite_is_noticed_as_without(skip):
    """The third update's gradient is infinite, and so are both moments; or all stays as it was."""
    given = {"not_finite": skip}
    layout = LAYOUTS["seeds"]()
    moved, plain = (
        trained(config_of(offload=own, **given), layout, broken=3) for own in (True, False)
    )
    same(moved, plain)
    assert np.asarray(moved.log.broke).tolist() == [3] * SEEDS
    sound = np.isfinite(np.asarray(moved.learner.opt.sound))
    assert sound.tolist() == [skip == "skip"] * SEEDS


def test_a_state_alone_that_is_not_finite_is_noticed():
    """A second moment overflows where the gradient and the step of the parameters are finite."""
    tx = offload.offloaded(optax.scale_by_adam())
    params = jnp.ones(3)
    state = tx.init(params)
    _, state = tx.update(params, state)
    assert float(state.sound) == 0.0
    _, state = tx.update(jnp.full(3, 1e30), state)
    assert np.isnan(float(state.sound))
    assert len(finite._floats(state)) == 1  # what lies on the host is not read again


BAD = {
    "nothing is kept": (
        lambda: Optimiser(optimiser="sgd", offload=True).check(10),
        "keeps no state",
        "--momentum",
    ),
    "devices for seeds": (
        lambda: offload.refuse(jax.devices()[:1] * 2, meshed=False),
        "spread over 2 devices",
        "--devices.data -1",
    ),
    "no such memory": (
        lambda: offload.refuse([made_up(["device"])], meshed=False),
        "toy has no pinned_host memory (device)",
        "Drop it",
    ),
    "a compiler that cannot": (
        lambda: offload.refuse([made_up(["device", "pinned_host"])], meshed=True),
        "toy cannot keep it in pinned_host within a loop",
        "Drop it",
    ),
}


def made_up(memories: list[str]):
    """A device of no platform, with such memories."""
    own = [types.SimpleNamespace(kind=kind) for kind in memories]

    class Toy:
        device_kind, process_index = "toy", jax.process_index()

        def addressable_memories(self):
            return own

    return Toy()


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_keep_it_is_refused(case):
    refused_call, *says = BAD[case]
    with pytest.raises(UsageError) as refused:
        refused_call()
    assert refused.value.field == "offload"
    assert all(text in str(refused.value) for text in says), str(refused.value)


def test_a_platform_that_moves_it_back_is_refused(monkeypatch):
    """One that runs the loop and leaves the state on the device."""
    offload._lacking.cache_clear()
    monkeypatch.setattr(offload, "_tried", lambda device: False)
    with pytest.raises(UsageError, match="does not leave it in pinned_host"):
        offload.refuse(jax.devices()[:1], meshed=False)
    offload._lacking.cache_clear()


def test_a_run_asks_before_it_begins():
    config = config_of(offload=True)
    task = assemble.task(config)
    layout = SeedLayout(SEEDS, jax.devices()[:1] * 2)
    with pytest.raises(UsageError, match="spread over 2 devices"):
        ready.check(config, task, assemble.components(config, task), layout=layout)
