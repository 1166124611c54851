"""Students with a window, trained by the project's methods, as tables; and how far back a
transformer's attention reaches."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as configs
from experiments import validation
from experiments.figures.common.trained import School, train
from fdiv import objectives
from fdiv import tokens as tk
from fdiv.exact import Space
from fdiv.policies import Architecture, tabular, transformer
from fdiv.types import Policy, UsageError

RATES = {"markov": 0.05, "transformer": 0.005}
SIZES = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1}


class Student(NamedTuple):
    """One method on all its seeds."""

    window: int
    policy: str  # markov or transformer
    method: str
    critic: str  # what its discriminator reads: the whole prefix, the same window, or there is none
    minimises: str
    metrics: dict[str, np.ndarray]  # name -> [seeds], as `compare` measures them at the end
    tables: np.ndarray  # [seeds, W, V], the next token's law given the window
    spread: (
        float  # most that the law of a token differs between prefixes that end in the same window
    )


class Lesson(NamedTuple):
    """One `compare` config: methods on a policy with a window."""

    window: int
    critic: str
    config: Any


def asked(flags: Any, benchmark: Any) -> list[Lesson]:
    """Tables of every window, with critics of either kind, and transformers. Raises `UsageError`
    for what cannot be trained."""
    for name in flags.window_critics:
        if objectives.resolve(name).kind != "adversarial":
            raise UsageError(
                "window_critics",
                objectives.canonical(name),
                "has no discriminator.",
                "Name adversarial methods, such as gail.",
            )
    markov = lambda window: Architecture("markov", order=window)
    plans = [(w, "prefix", flags.methods, markov(w)) for w in flags.windows]
    plans += [(w, "window", flags.window_critics, markov(w)) for w in flags.windows]
    plans += [
        (w, "prefix", flags.methods, Architecture("transformer", window=w, **SIZES))
        for w in flags.transformers
    ]
    lessons = []
    for window, critic, methods, policy in plans:
        if methods:
            scorer = markov(window) if critic == "window" else Architecture("full")
            config = configs.make_config(
                benchmark=benchmark,
                policy=policy,
                scorer=scorer,
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
            lessons.append(Lesson(window, critic, config))
    return lessons


def students(lessons: list[Lesson]) -> list[Student]:
    """Train them all."""
    return [student for lesson in lessons for student in _taught(lesson)]


def _taught(lesson: Lesson) -> list[Student]:
    window, critic, config = lesson
    school, found = train(config), []
    for name, method in configs.resolve(config).items():
        course = school.courses[name]
        last = {metric: np.asarray(x[-1], float) for metric, x in course.metrics.items()}
        tables, spread = seen_as_tables(school, course.params, window)
        reads = critic if method.kind == "adversarial" else "none"
        minimises = method.claim().minimises
        found.append(
            Student(window, config.policy.name, name, reads, minimises, last, tables, spread)
        )
    return found


def seen_as_tables(school: School, params: Any, window: int) -> tuple[np.ndarray, float]:
    """Each seed's law of the next token given the window, read off every prefix, and how much it
    differs within a window."""
    space, policy = school.task.space, school.components.policy
    codes = contexts(space, window)
    laws = np.asarray(jax.jit(jax.vmap(lambda x: conditionals(space, policy, x)))(params), float)
    tables = np.full((len(laws), (space.vocab + 1) ** window, space.vocab), 1 / space.vocab)
    tables[:, codes] = laws
    return tables, float(np.abs(tables[:, codes] - laws).max())


def contexts(space: Space, window: int) -> np.ndarray:
    """Which row of a window's table each prefix reads, [K]."""
    automaton = tabular.markov(space.vocab, space.horizon, window)
    return np.asarray(tabular.read(automaton, jnp.asarray(space.sequences.tokens)))[space.state_at]


def conditionals(space: Space, policy: Policy, params: Any) -> jax.Array:
    """Law of the next token after each prefix, [K, V]."""
    return jnp.exp(
        policy.head(params, policy.trunk(params, space.sequences.tokens)[space.state_at])
    )


def reach(window: int, layers: int) -> int:
    """How many tokens back a transformer's next-token law depends on, by changing one token at a
    time."""
    policy = transformer.policy(
        transformer.Shape(**SIZES | {"layers": layers}, window=window), vocab=3
    )
    length = layers * window + 3
    strings = np.eye(
        length + 1, dtype=np.int32
    )  # row j has another token at position j; what is last is not read
    law = jax.jit(lambda x: tk.distributions(policy, policy.init(jax.random.key(0)), x)[:, -1])(
        strings
    )
    moved = np.abs(np.asarray(law - law[-1:]))[:-1].max(1) > 1e-6
    return length - int(np.argmax(moved))  # the last token read is one back
