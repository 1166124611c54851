"""From a config to values: the task, the components that objectives are built from, the learner."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import fields
from experiments.config import Config, prefixed, replace, resolve, strings_possible, teacher_of
from experiments.data import files, hidden, own_reward, padding, stored
from experiments.data import reading as readings
from experiments.data.layouts import listed
from experiments.data.tokenised import Tokenizer
from experiments.devices import Layout, cache_folder, memory, offload
from experiments.models import pretrained, vocabulary, words
from fdiv import buckets, exact, metrics, objectives
from fdiv.benchmarks import Text
from fdiv.benchmarks.own_reward import known
from fdiv.buckets import Buckets
from fdiv.learner import learner
from fdiv.lm.hidden import Hidden
from fdiv.policies import NETWORKS, Architecture, tabular
from fdiv.rollout import sampler_of
from fdiv.types import (
    PAD,
    Components,
    Learner,
    Method,
    Model,
    Objective,
    Params,
    Policy,
    Scorer,
    Sequences,
    TokenMDP,
    UsageError,
)

BYTES = Path("bytes")  # of --benchmark.tokenizer: no tokenizer
KINDS = (None, "trained", "base")  # of teachers that are no path
BYTES_ENCODED = 5  # a token of a row, and its place in the mask
BYTES_ENUMERATED = 16  # the same of an enumerated string, while the tree of prefixes is made


class Task(NamedTuple):
    """A benchmark made real."""

    mdp: TokenMDP
    space: exact.Space | None  # its strings, where they are enumerated
    length: int  # most tokens of a string, prompt included
    notes: list[str]  # what a reader should know of the data
    # tokens, mask -> what the marked tokens say, where they are characters
    spell: Callable[[np.ndarray, np.ndarray], str] | None = None
    buckets: Buckets | None = None  # widths of its rows, where these are not all padded to one
    hidden: Hidden | None = None  # what a teacher alone reads before each string
    reward: str | None = None  # the name of what is rewarded, where the config has one


def data(config: Config) -> files.Reading | None:
    """The rows of a text benchmark; other benchmarks are their own data."""
    if not isinstance(config.benchmark, Text):
        return None
    _refuse_other_words(config, config.benchmark)
    return read(config)


def read(config: Config) -> files.Reading:
    """The rows of a text benchmark, in memory or in files of the cache folder."""
    benchmark = config.benchmark
    if not isinstance(benchmark, Text):
        raise TypeError(f"{type(benchmark).__name__} has no rows to read")
    own = tokenizer(benchmark, config.policy)
    if not stored.wanted(benchmark):
        return files.read(benchmark, own)
    passing = passing_folder() if config.output.dry_run else None
    return stored.read(benchmark, own, cache_folder(config.output.cache), passing)


@functools.cache
def passing_folder() -> Path:
    """A folder for what is written and thrown away when this process ends."""
    return Path(_kept_until_the_end().name)


@functools.cache
def _kept_until_the_end() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fdiv-")


def tokenizer(benchmark: Text, policy: Architecture | None = None) -> Tokenizer | None:
    """What the benchmark's text is read with; None for bytes. Raises `UsageError` for one that
    cannot be read."""
    path = tokenizer_path(benchmark, policy)
    if path is None:
        return None
    with named_as("benchmark.tokenizer", path):
        own = words.at(pretrained.local(path))
        return Tokenizer(str(path), own, vocabulary.of(own), own.digest())


def tokenizer_path(benchmark: Text, policy: Architecture | None = None) -> str | None:
    """The benchmark's own tokenizer, else that of a pretrained policy; None for bytes."""
    if benchmark.tokenizer is not None:
        return None if benchmark.tokenizer == BYTES else str(benchmark.tokenizer)
    return policy.path if policy is not None and policy.name == "hf" else None


def _refuse_other_words(config: Config, benchmark: Text) -> None:
    """Raise `UsageError` for a pretrained policy or teacher to which a token is another word than
    to the tokenizer."""
    path = tokenizer_path(benchmark, config.policy)
    policy = config.policy.path if config.policy.name == "hf" else None
    kind = teacher_of(config)
    models = {"policy.path": policy, "benchmark.teacher": None if kind in KINDS else kind}
    others = {field: place for field, place in models.items() if place and place != path}
    if path is None or not others:
        return
    with named_as("benchmark.tokenizer", path):
        own = words.at(pretrained.local(path)).backend.get_vocab()
    for field, place in others.items():
        try:
            theirs = words.at(pretrained.local(place)).backend.get_vocab()
        except UsageError:  # a folder of weights alone
            continue
        spelled = {i: token for token, i in theirs.items()}
        other = next((t for t, i in own.items() if spelled.get(i, t) != t), None)
        if other is not None:
            problem = (
                f"reads other tokens than {path}: {own[other]:,} is {spelled[own[other]]!r} there "
                f"and {other!r} here."
            )
            raise UsageError(field, place, problem, "Give models and a tokenizer that agree.")


@contextlib.contextmanager
def named_as(field: str, path: str) -> Iterator[None]:
    """What is wrong with a model or a part of it is said of the flag that names it."""
    try:
        yield
    except UsageError as error:
        if error.field == "path":
            raise UsageError(field, error.value or path, error.problem, error.fix) from error
        problem = f"has {error.field} = {error.value!r}, which {error.problem}"
        raise UsageError(field, path, problem, error.fix) from error


def fitted(config: Config, reading: files.Reading | None) -> Config:
    """The config with what it leaves to its rows: the lengths of a text benchmark, and how many
    updates make so many passes over them. Raises `UsageError` where there are no rows to pass
    over."""
    rows, benchmark = config.budget.demos, config.benchmark
    if reading is not None and isinstance(benchmark, Text):
        benchmark = reading.fitted_to(benchmark)
        config = replace(config, benchmark=benchmark)
        if config.budget.epochs_over_data and not rows:
            rows = reading.demonstrations(benchmark)
    passes = config.budget.epochs_over_data
    if passes is None:
        return config
    if not rows:
        problem = "is how often fixed rows are passed over, and new ones are drawn at every update."
        raise UsageError("epochs_over_data", passes, problem, "Give --demos, or --updates.")
    config = replace(config, updates=-(-passes * rows // config.budget.batch_size))
    config.optimiser.check(config.budget.updates)
    return config


def task(
    config: Config, reading: files.Reading | None = None, teacher: Model | None = None
) -> Task:
    """Build the benchmark; text is read here where no reading of it is given. Raises `UsageError`
    where exact values are asked for and the strings are too many."""
    benchmark = config.benchmark
    if isinstance(benchmark, Text):
        reading = reading or read(config)
        benchmark = reading.fitted_to(benchmark)
        _refuse_long(benchmark, len(reading.rows))
        _refuse_on_host(config, benchmark, reading)
        build_task = readings.build if reading.store is None else stored.build
        mdp = build_task(reading, benchmark, teacher)
        with prefixed(benchmark=benchmark):
            words = tokenizer(benchmark, config.policy) if benchmark.reward else None
            mdp = own_reward.given(mdp, benchmark, reading, words)
            mdp = _with_own_metrics(own_reward.tried(mdp, benchmark.reward))
        reads = {name: method.reads for name, method in resolve(config).items()}
        readings.suits(reading, benchmark, reads)
        spell = reading.vocabulary.spell
        behind = hidden.of(benchmark, reading, tokenizer(benchmark, config.policy))
        _refuse_beyond_positions(config, benchmark, 0 if behind is None else behind.longer)
        step = config.budget.batch_size // config.budget.minibatches
        widths = padding.widths(reading, benchmark, step)
        used = widths if any(map(fields.in_widths, resolve(config).values())) else None
        notes = [*reading.notes(benchmark), *_width_notes(config, reading, benchmark, used)]
        return Task(mdp, None, sum(benchmark.cut), notes, spell, widths, behind, benchmark.reward)
    own = getattr(benchmark, "reward", None)
    with prefixed(benchmark=benchmark):
        mdp = _with_own_metrics(own_reward.tried(benchmark.build(), own))
    prompted = prompt_columns(mdp)
    space = _enumerated(mdp, config) if strings_possible(config) and not prompted else None
    spell = getattr(benchmark, "spell", None)
    return Task(mdp, space, prompted + mdp.horizon, [], spell, reward=own)


def _with_own_metrics(mdp: TokenMDP) -> TokenMDP:
    """The task with the statistics of imported files. Raises `UsageError`, by the name of one,
    where it fails on strings of the task, or does not give a number for each."""
    if not metrics.STATISTICS:
        return mdp
    for name, function in metrics.STATISTICS.items():
        measure = lambda key, function=function: function(_in_jax(mdp.held_out(key, 2)))
        fix = "Give a number for each string, [B], computed in jax.numpy."
        try:
            shape = jax.eval_shape(measure, jax.random.key(0))
        except UsageError:
            raise
        except Exception as error:  # of the user's own code
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            problem = f"fails on strings of this task ({type(error).__name__}: {reason})."
            raise UsageError("metric", name, problem, fix) from error
        _refuse_shape(name, shape, 2)
    own = {name: _own_metric(name, function) for name, function in metrics.STATISTICS.items()}
    return mdp._replace(statistics={**mdp.statistics, **own})


def _own_metric(
    name: str, function: Callable[[Sequences], jax.Array]
) -> Callable[[Sequences], jax.Array]:
    """A user's statistic, whose shape is looked at for every number of strings."""

    def measured(strings: Sequences) -> jax.Array:
        values = function(_in_jax(strings))
        _refuse_shape(name, values, len(strings.tokens))
        return jnp.asarray(values, float)

    return measured


def _refuse_shape(name: str, values: Any, count: int) -> None:
    """Raise `UsageError` for what is not a real number for each of so many strings."""
    given = getattr(values, "shape", type(values).__name__)
    if given != (count,) or jnp.issubdtype(values.dtype, jnp.complexfloating):
        given = "complex numbers" if given == (count,) else given
        fix = "Give a number for each string, [B], computed in jax.numpy."
        raise UsageError("metric", name, f"gives {given} for {count} strings.", fix)


def _in_jax(strings: Sequences) -> Sequences:
    """Strings as arrays that a user's function can index, those of an enumeration too."""
    return jax.tree.map(jnp.asarray, strings)


def prompt_columns(mdp: TokenMDP) -> int:
    """Most tokens of a prompt of this task."""
    return jax.eval_shape(lambda key: mdp.prompts(key, 1), jax.random.key(0)).tokens.shape[1]


def _enumerated(mdp: TokenMDP, config: Config) -> exact.Space:
    """All strings of a task. Raises `UsageError` where they are too many."""
    size, limit = (mdp.vocab, mdp.horizon, mdp.eos), config.evaluation.exact_limit
    try:
        exact.refuse_unless_enumerable(*size, limit)
    except UsageError as error:
        fix = f"{error.fix.rstrip('.')} with --exact-limit (0 estimates instead of enumerating)."
        raise UsageError(_horizon_flag(config), error.value, error.problem, fix) from error
    takes = exact.count_strings(*size) * mdp.horizon * BYTES_ENUMERATED
    if takes > memory.of_machine():
        problem = f"would take {memory.spelled(takes)} of memory for the strings within it."
        raise UsageError("exact_limit", limit, problem, "Give less; 0 estimates instead.")
    return exact.enumerate_strings(*size, limit)


def _horizon_flag(config: Config) -> str:
    """The option that says how long strings are."""
    made_of = hasattr(config.benchmark, "base")
    return f"benchmark.{'base.' if made_of else ''}horizon"


def _refuse_long(benchmark: Text, rows: int) -> None:
    """Raise `UsageError` where rows that are cut to these lengths are more than memory holds."""
    takes = rows * sum(benchmark.cut) * BYTES_ENCODED
    if takes > memory.of_machine():
        field = max(("horizon", "prompt_length"), key=lambda name: getattr(benchmark, name) or 0)
        problem = f"takes {memory.spelled(takes)} of memory for {rows:,} rows of that length."
        fix = "Give less, or keep rows on the host: --benchmark.store host."
        raise UsageError(f"benchmark.{field}", getattr(benchmark, field), problem, fix)


def _refuse_on_host(config: Config, benchmark: Text, reading: files.Reading) -> None:
    """Raise `UsageError` for what is made of rows in memory, where these stay on the host."""
    if reading.store is None:
        return
    asked = {
        "teacher_cache": benchmark.teacher_cache and not config.budget.demos,
        "teacher_system": benchmark.teacher_system is not None,
        "checked": benchmark.checked is not None,
        "reward": benchmark.reward is not None and bool(known(benchmark.reward).columns),
    }
    for field in (name for name, wanted in asked.items() if wanted):
        value, problem = getattr(benchmark, field), "needs all rows in memory."
        fix = "Drop it; or --benchmark.store memory."
        if field == "teacher_cache":
            problem = "keeps features of all rows on the devices, and these rows stay on the host."
            fix = "Drop it, or give --demos."
        raise UsageError(f"benchmark.{field}", value, problem, fix)


def _refuse_beyond_positions(config: Config, benchmark: Text, hidden: int) -> None:
    """Raise `UsageError` where strings are longer than a pretrained model was made for; a teacher
    reads so many `hidden` tokens more."""
    kind = teacher_of(config)
    places = [config.policy.path] if config.policy.name == "hf" else []
    places += [] if kind in KINDS else [kind]
    size, length = benchmark.cut, sum(benchmark.cut) + max(0, hidden)
    for place in dict.fromkeys(places):
        spec = pretrained.source(place or "").spec
        most = min((x for x in (spec.max_length, spec.longest) if x is not None), default=length)
        if length > most:
            problem = (
                f"makes strings of up to {length:,} tokens with prompts of {size.prompt_length:,}, "
                f"and {place} was made for {most:,}."
            )
            room = most - size.prompt_length - max(0, hidden)
            fix = f"Give at most {room:,}." if room > 0 else "Give a shorter prompt_length as well."
            raise UsageError("benchmark.horizon", size.horizon, problem, fix)


def components(config: Config, task: Task, layout: Layout | None = None) -> Components:
    """Policy, task, sampler, scorers. A scorer is built only where a method has a use for it; the
    frozen weights of a pretrained policy are put where `layout` has what all runs share."""
    mdp = task.mdp
    needs = lambda what: any(what in method.needs for method in resolve(config).values())
    scorer = critic = None
    with prefixed(scorer=config.scorer):
        if needs("scorer"):
            scorer = make_scorer(config, task, None, layout)
        if needs("critic"):
            critic = make_scorer(config, task, 1, layout)
    with prefixed(policy=config.policy):
        policy = make_policy(config.policy, mdp.vocab, task.length, mdp.horizon, layout)
    return Components(
        policy,
        mdp,
        sampler_of(mdp),
        scorer,
        critic,
        config.penalty,
        config.control,
        optimiser=config.optimiser.scorer,
    )


def make_policy(
    architecture: Architecture,
    vocab: int,
    length: int,
    horizon: int,
    layout: Layout | None = None,
) -> Policy:
    """A policy for strings of at most `length` tokens, prompt included, read from its files where
    it is pretrained. Raises `UsageError` naming a field of the architecture."""
    if architecture.name != "hf":
        return architecture.policy(vocab, length)
    _refuse_other_vocab(architecture, pretrained.check(architecture).vocab, vocab)
    return pretrained.policy(architecture, layout, _bos(architecture, length, horizon))


def make_scorer(
    config: Config, task: Task, outputs: int | None, layout: Layout | None = None
) -> Scorer:
    """The scorer of a task: a number per next token, or so many `outputs` per prefix. Raises
    `UsageError` naming a field of the architecture."""
    mdp, judge = task.mdp, pretrained.of_scorer(config.scorer, config.policy)
    if judge.name != "hf":
        return judge.scorer(mdp.vocab, task.length, config.policy, outputs)
    _refuse_other_vocab(judge, pretrained.check_scorer(judge).vocab, mdp.vocab)
    return pretrained.scorer(judge, outputs, layout, _bos(judge, task.length, mdp.horizon))


def _refuse_other_vocab(architecture: Architecture, own: int, vocab: int) -> None:
    """Raise `UsageError` for a pretrained model over other symbols than the task's."""
    if own != vocab:
        problem = f"has a vocabulary of {own:,}, and the task has {vocab:,} symbols."
        fix = "Use --benchmark text with the tokenizer of this model, or a model of as many tokens."
        raise UsageError("path", architecture.path, problem, fix)


def _bos(architecture: Architecture, length: int, horizon: int) -> int | None:
    """What a pretrained model reads before strings that have no prompt. Raises `UsageError` where
    there is no such token."""
    if length > horizon:
        return None
    source = pretrained.source(architecture.path or "")
    bos = source.config.get("bos_token_id")
    # a law of the first token is needed
    if isinstance(bos, bool) or not isinstance(bos, int) or not 0 <= bos < source.spec.vocab:
        problem = "has no law of a first token, and this task has no prompts."
        problem += "" if bos is None else f" Its bos_token_id, {bos!r}, is none of its tokens."
        fix = "Use a task with prompts, or a model whose config.json has a bos_token_id."
        raise UsageError("path", architecture.path, problem, fix)
    return bos


def build(config: Config, method: Method, components: Components) -> Objective:
    """A method's objective. Raises `UsageError` where the task lacks what it needs."""
    with blamed(config, method):
        return method.build(components)


@contextlib.contextmanager
def blamed(config: Config, method: Method) -> Iterator[None]:
    """What a method is refused for is said under the flag that it reads."""
    groups = {"benchmark": config.benchmark, "penalty": config.penalty, "control": config.control}
    with prefixed(**objectives.parts(method), **groups):
        yield


def common_start(config: Config, task: Task, policy: Policy) -> Params | None:
    """What all runs start from: a pretrained model's weights, or the task's reference as a table of
    the policy's class, or the class's nearest to it; None where each starts anew."""
    if config.policy.name == "hf":
        return pretrained.start(config.policy, policy)
    regulariser = task.mdp.regulariser
    if (
        task.space is None
        or regulariser is None
        or regulariser.reference is None
        or config.policy.name in NETWORKS
    ):
        return None
    automaton = config.policy.automaton(task.mdp.vocab, task.length)
    with jax.enable_x64(True):
        return tabular.nearest(
            automaton, task.space, exact.known_law(task.space, regulariser.reference)
        ).astype(np.float32)


def make_learner(
    config: Config,
    objective: Objective,
    rate: float | jax.Array,
    updates: int,
    widths: Buckets | None = None,
) -> Learner:
    """The config's optimiser and schedule over so many updates; `rate` may be traced, so that runs
    can have different ones. With `widths` a step's rows are computed in them."""
    budget = config.budget
    if widths is not None:
        widths = widths._replace(parts=max(widths.parts, budget.accumulate))
    steps = updates * budget.epochs * budget.minibatches
    optimiser = config.optimiser.policy(rate, updates, steps)
    return learner(
        objective,
        offload.offloaded(optimiser) if config.optimiser.offload else optimiser,
        epochs=budget.epochs,
        minibatches=budget.minibatches,
        accumulate=budget.accumulate,
        in_parts=None if widths is None else functools.partial(buckets.gradient, widths),
        bound=config.optimiser.max_grad_norm,
        in_training=pretrained.in_training(config.policy),
    )


def widths_of(task: Task, method: Method) -> Buckets | None:
    """The widths that a method's rows are computed in; None: all in that of the longest. Rows that
    a policy draws keep it, and so do comparisons, whose two sides are computed at once."""
    return task.buckets if fields.in_widths(method) else None


def _width_notes(
    config: Config, reading: files.Reading, benchmark: Text, widths: Buckets | None
) -> list[str]:
    """How much of a step is padding, and which methods' rows stay in one width, and why."""
    methods = resolve(config)
    if config.policy.name != "hf" and widths is None:  # of a network so small it matters little
        return []
    batch = config.budget.batch_size // config.budget.minibatches
    said = [padding.note(reading, benchmark, widths, batch)]
    others = [name for name, method in methods.items() if not fields.in_widths(method)]
    if widths is not None and others:
        why = "the policy draws them, or both sides of a comparison are computed at once"
        said.append(f"Rows of {listed(others)} stay in the one width of the longest: {why}.")
    return said


def readable(task: Task, sequences: Sequences) -> list[tuple[str, str]]:
    """(prompt, completion) of each string for people to read."""
    pairs = []
    for tokens, mask in zip(jax.device_get(sequences.tokens), jax.device_get(sequences.mask)):
        before = (tokens != PAD) & ~mask & (mask.cumsum() == 0)
        if task.spell is not None:
            pairs.append((task.spell(tokens, before), task.spell(tokens, mask)))
        else:
            spell = lambda keep, tokens=tokens: " ".join(
                "end" if t == task.mdp.eos else str(t) for t in tokens[keep]
            )
            pairs.append((spell(before), spell(mask)))
    return pairs


def seed_keys(config: Config, count: int, offset: int = 0) -> jax.Array:
    """One key per run: the i-th is the same whatever the number of runs."""
    base = jax.random.key(config.budget.seed)
    return jax.vmap(lambda i: jax.random.fold_in(base, i))(jnp.arange(offset, offset + count))
