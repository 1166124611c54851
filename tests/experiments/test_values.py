"""Values that cannot be are refused before anything is made, by option, value and fix: numbers that
are none, numbers beyond any machine, and configs drawn at random."""

from __future__ import annotations

import dataclasses
import math
import time
import typing

import jax
import numpy as np
import pytest

from experiments import assemble, cli, fields, validation
from experiments.commands import fuzz
from experiments.config import GROUPS, Config, make_config
from experiments.config import replace as changed
from experiments.running import footprint
from experiments.running.alarms import standing_still
from experiments.running.footprint import Sizes
from fdiv import divergences, exact, objectives, ranges
from fdiv.benchmarks import BENCHMARKS, Markov, Rewarded
from fdiv.checks import at_least, between, positive, share
from fdiv.policies import Architecture, tabular
from fdiv.ranges import Range, check_ranges, ranged
from fdiv.types import UsageError, hidden


def every_field() -> dict[str, tuple[Config, fields.Field]]:
    """Each option of every benchmark -> a config that has it, and the option."""
    found: dict[str, tuple[Config, fields.Field]] = {}
    for kind in [*(kind() for kind in BENCHMARKS.values()), Rewarded(base=Markov())]:
        config = make_config(benchmark=kind)
        for name, field in fields.table(config).items():
            found.setdefault(name, (config, field))
    return found


FIELDS = every_field()


def numeric(field: fields.Field) -> bool:
    kinds = ranges.alternatives(field.kind)
    return any({int, float} & {kind, *typing.get_args(kind)} for kind in kinds)


NUMBERS = [name for name, (_, field) in FIELDS.items() if numeric(field)]


def hostile(field: fields.Field) -> list[object]:
    """What no option may be, and what is just outside this one's range."""
    own = field.range
    values: list[float] = [math.nan, math.inf, -math.inf, 1e300, 10**18]
    values += [x for x in (own.above, own.below) if x is not None]
    values += [own.least - 1] if own.least is not None else []
    values += [own.most + 1] if own.most is not None else []
    outside = [x for x in values if x not in own.also]
    several = [(x, x) for x in outside] if "tuple" in str(field.kind) else outside
    return [*several, "7", True]


def set_to(config: Config, name: str, value: object) -> Config:
    return fuzz.changed_config(config, {name: value})


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_passes_that_is_none(name):
    """Whoever reads the option: also of methods that are not run."""
    config, field = FIELDS[name]
    field.check()
    for value in hostile(field):
        broken = set_to(config, name, value)
        with pytest.raises(UsageError) as refused:
            validation.check(broken, config)
        assert refused.value.field == name
        assert refused.value.fix.startswith("Give ")


@pytest.mark.parametrize("name", [n for n, (_, f) in FIELDS.items() if f.kind is not None])
def test_no_option_takes_another_type(name):
    config, field = FIELDS[name]
    wrong = 3 if str in ranges.alternatives(field.kind) else b"x"
    with pytest.raises(UsageError, match=name.rpartition(".")[2]):
        validation.check(set_to(config, name, wrong), config)


def test_every_number_has_a_range_at_its_definition():
    """The widest range, finite and no more, is no thought about what the number means."""
    unbounded = [name for name in NUMBERS if FIELDS[name][1].range == ranges.FINITE]
    assert unbounded == []


def test_the_core_checks_its_own_fields():
    """A method that is built without any command line."""
    for kind, flags in GROUPS.items():
        method = next(m for m in objectives.METHODS.values() if m.kind == kind)
        for field in dataclasses.fields(flags):
            if "range" in field.metadata:
                with pytest.raises(UsageError, match=field.name):
                    dataclasses.replace(method, **{field.name: math.nan}).check()


@dataclasses.dataclass(frozen=True)
class Own:
    """What a user may define, some of it without a range."""

    plain: float = 1.0
    count: int = 3
    shares: tuple[float, ...] = ranged((0.5,), least=0, most=1)
    name: str = hidden("x")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"plain": math.nan}, "plain = nan: is not a number"),
        ({"plain": -math.inf}, "not finite"),
        ({"plain": 1e13}, "too large"),
        ({"count": 2**31}, "too large"),
        ({"count": 2.0}, "whole number"),
        ({"count": True}, "whole number"),
        ({"shares": (0.5, 1.5)}, "shares = 1.5: is too large. Give numbers, each from 0 to 1"),
        ({"shares": 0.5}, "not of its type"),
    ],
)
def test_fields_without_a_range_are_finite_and_fit(values, says):
    check_ranges(Own(plain=2, shares=(), name="hidden from the options: anything"))
    check_ranges(Own(count=np.arange(5).max(), plain=np.ones(1).sum()))
    with pytest.raises(UsageError, match=says):
        check_ranges(Own(**values))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "check",
    [
        lambda x: at_least("x", x, 0),
        lambda x: between("x", x, -1, 1),
        lambda x: share("x", x),
        lambda x: positive("x", x),
        Range(also=(-1,)).problem,
    ],
)
def test_no_check_lets_nan_or_infinity_pass(check, value):
    try:
        assert check(value)
    except UsageError as error:
        assert error.field == "x"


@pytest.mark.parametrize(
    "spec",
    ["alpha:nan", "alpha:inf", "alpha:1e9", "alpha:-65", "gjs:0", "gjs:1e-9", "skew_kl:1", "js:1"],
)
def test_parameters_of_divergences_that_cannot_be(spec):
    for name in (f"adversarial:{spec}", f"distill:{spec}", f"f_dpo:{spec}"):
        with pytest.raises(UsageError, match="methods = "):
            objectives.resolve(name)


@pytest.mark.parametrize("spec", ["alpha:0.1234567", "gjs:0.30000001", "skew_reverse_kl:0.9999"])
def test_a_divergences_name_is_its_parameter_to_the_last_digit(spec):
    assert divergences.lookup(divergences.parse(spec).name)[1] == float(spec.partition(":")[2])


def test_seeds_that_are_accepted_have_keys_of_their_own():
    """2^32 would be seed 0 over again."""
    seeds = (0, 1, 2**31 - 1, 2**31, 2**32 - 1)
    keys = {bytes(jax.random.key_data(jax.random.key(seed))) for seed in seeds}
    assert len(keys) == len(seeds)
    for seed in (-1, 2**32, 2**40):
        with pytest.raises(UsageError, match="seed"):
            validation.check(make_config(seed=seed), make_config())


# --- sizes ----------------------------------------------------------------------------------------

QUICK = {
    "horizon": lambda: exact.refuse_unless_enumerable(3, 10**9, None),
    "horizon with an end": lambda: exact.refuse_unless_enumerable(257, 10**9, 256),
    "order": lambda: tabular.markov(3, 6, 10**9),
    "order and position": lambda: tabular.markov_t(3, 6, 10**9),
    "tree": lambda: tabular.full(3, 10**9),
    "policy of an order": lambda: Architecture("markov", order=10**9).policy(3, 6),
    "policy of a tree": lambda: Architecture("full").policy(3, 60_000),
    "layers": lambda: Architecture("transformer", layers=2**32).policy(3, 6),
    "chain": lambda: Markov(order=10**9).build(),
    "chain of an order": lambda: Markov(order=60_000).build(),
    "chain of many numbers": lambda: Markov(order=11).build(),
}


@pytest.mark.parametrize("case", QUICK)
def test_sizes_beyond_any_table_are_refused_at_once(case):
    began = time.thread_time()
    with pytest.raises(UsageError):
        QUICK[case]()
    assert time.thread_time() - began < 0.5


@pytest.mark.parametrize(
    ("vocab", "horizon", "eos"), [(3, 6, None), (4, 8, 3), (2, 5, 1), (1, 3, 0)]
)
def test_strings_counted_in_logs(vocab, horizon, eos):
    assert exact.log_count(vocab, horizon, eos) == pytest.approx(
        math.log(exact.count_strings(vocab, horizon, eos)), abs=1e-12
    )


def test_the_longest_horizon_that_is_offered_fits():
    """3^11 = 177,147 strings are within the limit of 200,000, 3^12 are not."""
    with pytest.raises(UsageError, match="at most 11"):
        exact.refuse_unless_enumerable(3, 10_000, None)
    exact.refuse_unless_enumerable(3, 11, None)


NETWORK = {"policy": Architecture("transformer"), "methods": ("sft",)}
MACHINE = 16 * 10**9  # bytes
SMALL = Sizes(3, 6, 729)
# what is asked for -> (options, the one that is to blame)
TOO_LARGE = {
    "batch": ({"batch_size": 10**9}, "batch_size"),
    "seeds": ({"seeds": 10**9}, "seeds"),
    "rows": ({"demos": 2 * 10**9}, "demos"),
    "samples": ({"samples": 10**9}, "samples"),
    "width": ({"policy": Architecture("transformer", width=2**20)}, "policy.width"),
    "layers and width": (
        {"policy": Architecture("transformer", layers=48, width=2**14)},
        "policy.width",
    ),
    "scorer": (
        {"methods": ("gail",), "scorer": Architecture("transformer", width=2**20)},
        "scorer.width",
    ),
    "order": ({"policy": Architecture("markov", order=12), "seeds": 40}, "policy.order"),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_memory_is_counted_first_and_laid_to_what_asked_for_it(case):
    options, field = TOO_LARGE[case]
    preset = make_config(**NETWORK)
    config = changed(preset, **options)
    with pytest.raises(UsageError, match="of memory") as refused:
        footprint.refuse_beyond(MACHINE, config, preset, SMALL)
    assert refused.value.field == field
    assert refused.value.fix.startswith("Give ")


def test_what_is_offered_fits_and_one_more_does_not():
    preset = make_config(**NETWORK)
    with pytest.raises(UsageError) as refused:
        footprint.refuse_beyond(MACHINE, changed(preset, batch_size=10**9), preset, SMALL)
    most = int(refused.value.fix.split()[-1].strip(".").replace(",", ""))
    footprint.refuse_beyond(MACHINE, changed(preset, batch_size=most), preset, SMALL)
    more = changed(preset, batch_size=most + most // 1000)
    with pytest.raises(UsageError):
        footprint.refuse_beyond(MACHINE, more, preset, SMALL)


@pytest.mark.parametrize("name", ["markov", "transformer"])
def test_parameters_are_counted_as_they_are_made(name):
    sizes = Sizes(5, 7)
    architecture = Architecture(name)
    shapes = jax.eval_shape(architecture.policy(5, 7).init, jax.random.key(0))
    made = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert footprint.parameters(architecture, sizes) == made


def test_memory_by_hand():
    """A Markov policy over 5 symbols has 6 x 5 numbers of 4 bytes, in 4 copies with Adam (itself,
    its gradient, two moments), in each of 3 seeds: 1440. Eight fixed rows of 7 tokens of 5 bytes,
    a seed: 840. A batch of 16 rows in 2 parts, each token with a row of 5 numbers:
    3 x 7 x 16 x (5 + 20 / 2) = 5040. A hundred strings with a number for the expert and one for
    each seed: 100 x 7 x (5 + 4 x 4) = 14,700."""
    config = make_config(
        methods=("sft",), seeds=3, demos=8, batch_size=16, minibatches=2, samples=4
    )
    counted = {need.what: need.bytes for need in footprint.needs(config, Sizes(5, 7, 100))}
    assert counted == {
        "the policies' parameters": 1440,
        "the fixed rows": 840,
        "a batch": 5040,
        "the enumerated strings": 14_700,
    }
    drawn = footprint.needs(changed(config, samples=40), Sizes(5, 7))
    assert {need.what: need.bytes for need in drawn}["the strings of an evaluation"] == (
        3 * 7 * 40 * 25  # each token with its whole row
    )


@pytest.mark.parametrize(("optimiser", "kept"), [("adam", 2), ("lion", 1), ("sgd", 0)])
def test_moments_of_an_optimiser(optimiser, kept):
    assert footprint.moments(make_config(optimiser=optimiser, warm_up=5)) == kept


@pytest.mark.parametrize("field", ["vocab", "horizon"])
def test_the_language_of_a_reward_is_named_where_it_is_too_large(field):
    config = set_to(make_config(benchmark=Rewarded()), f"benchmark.base.{field}", 1000)
    with pytest.raises(UsageError, match="over the limit") as refused:
        assemble.task(config)
    assert refused.value.field == "benchmark.base.horizon"


def test_enumerated_strings_and_rows_are_counted_before_they_are_made():
    long = make_config(exact_limit=2**31 - 1)
    long = set_to(long, "benchmark.horizon", 19)  # 3^19 = 1,162,261,467 strings
    with pytest.raises(UsageError, match="exact_limit"):
        assemble.task(long)


@pytest.mark.parametrize("name", ["rloo", "grpo", "bt_rloo", "bt_grpo"])
def test_a_batch_that_holds_no_whole_groups_is_refused_before_anything_is_trained(name):
    config = make_config(benchmark=Rewarded(), methods=("sft", name), batch_size=500)
    with pytest.raises(UsageError, match="multiple of 8") as refused:
        validation.check(config, config)
    assert refused.value.field == "batch_size"


# --- runs that would do nothing -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "updates", "flag"),
    [
        ("gail", 50, "--adversarial.warmup"),
        ("airl", 20, "--adversarial.warmup"),
        ("bt_rloo", 300, "--reward-model.reward-updates"),
    ],
)
def test_a_policy_that_never_moves_is_told_with_the_numbers(name, updates, flag):
    method = objectives.resolve(name)
    (alarm,) = standing_still(method, updates)
    assert f"all {updates} updates" in alarm.message
    assert str(method.warmup) in alarm.message
    assert flag in alarm.message
    assert standing_still(method, method.warmup + 1) == []


# --- help and fuzz --------------------------------------------------------------------------------


def test_help_gives_the_range_of_every_number(capsys):
    with pytest.raises(SystemExit):
        cli.parse("experiments.compare", ["rlhf", "--help-all"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    own = fields.table(cli.presets()["rlhf"][1])
    ranged_ones = [name for name, field in own.items() if field.range != ranges.FINITE]
    assert said.count("Range:") == len(ranged_ones)
    assert "Updates of the policy, the same for every method. Range: at least 1." in said


@pytest.mark.parametrize("preset", ["two-template", "markov"])
@pytest.mark.few(1)
def test_a_tenth_of_the_fuzz(preset):
    """`python -m experiments.fuzz` draws ten times as many, from all presets, and runs some."""
    outcome = fuzz.checked(500, seed=1, presets=(preset,))
    assert not outcome.faults
    assert len(outcome.accepted) > 50
    assert len(outcome.refused) > 60


def test_the_fuzz_sees_what_is_wrong(monkeypatch):
    def broken(config, preset):
        raise (ZeroDivisionError if config.budget.seeds != 5 else UsageError("no", 1, "x.", "y."))

    calls = iter([None])
    monkeypatch.setattr(fuzz, "check", lambda c, p: next(calls) if c is p else broken(c, p))
    faults = fuzz.checked(20, seed=0, presets=("two-template",)).faults
    assert len(faults) == 20
    assert any("names no option" in fault.problem for fault in faults)
