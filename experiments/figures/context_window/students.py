"""Students with a window, trained by the project's methods, as tables; and how far back a
transformer's attention reaches."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as configs
from experiments import validation
from experiments.config import Config
from experiments.figures.common.trained import train
from experiments.figures.context_window.flags import Flags
from fdiv import objectives
from fdiv import tokens as tk
from fdiv.benchmarks import Markov
from fdiv.checks import present
from fdiv.exact import Space
from fdiv.policies import Architecture, tabular, transformer
from fdiv.types import Params, Policy, UsageError

RATES = {"markov": 0.05, "transformer": 0.005}
SIZES: dict[str, Any] = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1}


class Student(NamedTuple):
    """One method on all its seeds."""

    window: int
    policy: str  # markov or transformer
    method: str
    critic: str  # what its discriminator reads: the whole prefix, the same window, or there is none
    minimises: str
    metrics: dict[str, np.ndarray]  # name -> [seeds], as `compare` measures them at the end
    tables: np.ndarray  # [seeds, W, V], the next token's law given the window
    # Most that the law of a token differs between prefixes that end in the same window.
    spread: float


class Lesson(NamedTuple):
    """One `compare` config: methods on a policy with a window."""

    window: int
    critic: str
    config: Config


def lessons(flags: Flags, benchmark: Markov) -> list[Lesson]:
    """Tables of every window, with critics of either kind, and transformers. Raises `UsageError`
    for what cannot be trained."""
    for name in flags.window_critics:
        if objectives.resolve(name).kind != "adversarial":
            fix, name = "Name adversarial methods, such as gail.", objectives.canonical(name)
            raise UsageError("window_critics", name, "has no discriminator.", fix)
    tables = {w: Architecture("markov", order=w) for w in flags.windows}
    transformers = {w: Architecture("transformer", window=w, **SIZES) for w in flags.transformers}
    plans = [(w, "prefix", flags.methods, policy) for w, policy in tables.items()]
    plans += [(w, "window", flags.window_critics, policy) for w, policy in tables.items()]
    plans += [(w, "prefix", flags.methods, policy) for w, policy in transformers.items()]
    return [
        Lesson(window, critic, _config(flags, benchmark, window, critic, methods, policy))
        for window, critic, methods, policy in plans
        if methods
    ]


def _config(
    flags: Flags,
    benchmark: Markov,
    window: int,
    critic: str,
    methods: tuple[str, ...],
    policy: Architecture,
) -> Config:
    of_window = Architecture("markov", order=window)
    config = configs.make_config(
        benchmark=benchmark,
        policy=policy,
        scorer=of_window if critic == "window" else Architecture("full"),
        methods=methods,
        seeds=flags.seeds,
        updates=flags.updates,
        batch_size=flags.batch_size,
        learning_rate=RATES[policy.name],
        max_grad_norm=0.0 if policy.name == "markov" else 1.0,
        evaluations=1,
        samples=2,
    )
    validation.check(config, config)
    return config


def train_students(plan: list[Lesson]) -> list[Student]:
    """All students of all lessons."""
    return [student for lesson in plan for student in _train(lesson)]


def _train(lesson: Lesson) -> list[Student]:
    window, critic, config = lesson
    school, students = train(config), []
    for name, method in configs.resolve(config).items():
        course = school.courses[name]
        last = {metric: np.asarray(x[-1], float) for metric, x in course.metrics.items()}
        space = present(school.task.space, "enumeration")
        tables, spread = as_tables(space, school.components.policy, course.params, window)
        reads = critic if method.kind == "adversarial" else "none"
        minimises = method.claim().minimises
        about = (window, config.policy.name, name, reads, minimises)
        students.append(Student(*about, last, tables, spread))
    return students


def as_tables(
    space: Space, policy: Policy, params: Params, window: int
) -> tuple[np.ndarray, float]:
    """Each seed's law of the next token given the window, read off every prefix, and how much it
    differs within a window."""
    codes = contexts(space, window)
    laws = np.asarray(jax.jit(jax.vmap(lambda x: conditionals(space, policy, x)))(params), float)
    tables = np.full((len(laws), (space.vocab + 1) ** window, space.vocab), 1 / space.vocab)
    tables[:, codes] = laws
    return tables, float(np.abs(tables[:, codes] - laws).max())


def contexts(space: Space, window: int) -> np.ndarray:
    """Which row of a window's table each prefix reads, [K]."""
    automaton = tabular.markov(space.vocab, space.horizon, window)
    return np.asarray(tabular.read(automaton, jnp.asarray(space.sequences.tokens)))[space.state_at]


def conditionals(space: Space, policy: Policy, params: Params) -> jax.Array:
    """Law of the next token after each prefix, [K, V]."""
    states = policy.trunk(params, space.sequences.tokens)[space.state_at]
    return jnp.exp(policy.head(params, states))


def reach(window: int, layers: int) -> int:
    """How many tokens back a transformer's next-token law depends on, by changing one token at a
    time."""
    shape = transformer.Shape(**SIZES | {"layers": layers}, window=window)
    policy, length = transformer.policy(shape, vocab=3), layers * window + 3
    # Row j has another token at position j; what is last is not read.
    strings = np.eye(length + 1, dtype=np.int32)

    @jax.jit
    def last_law(strings):
        params = policy.init(jax.random.key(0))
        return tk.distributions(policy, params, strings)[:, -1]

    law = np.asarray(last_law(strings))
    depends = np.abs(law - law[-1:])[:-1].max(1) > 1e-6
    return length - int(np.argmax(depends))  # the last token read is one back
