"""The methods of a run, one after another or several at a time.

Programs on a table's policy are small: one of them leaves most of a CPU's cores idle, and while
the next method is traced, in Python, nothing would be trained at all. There the methods take turns
on as many threads as there are cores, and one thread more searches the best policies of the class.
What a method computes depends on nothing but its own program, so its numbers are the same either
way; its seconds are those of a machine that does something else besides.

Networks, GPUs, meshes and several processes go one method after another: a program fills those by
itself, and takes their memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from experiments.assemble import Task
from experiments.config import Config
from experiments.devices import Layout, cores
from experiments.running import method as methods
from experiments.running.context import RunContext
from experiments.running.stopping import Interrupted
from fdiv.policies import NETWORKS
from fdiv.types import Method

LEAVING = 60.0  # seconds that a second signal waits at most for programs that cannot be left midway


def at_once(config: Config, task: Task, layout: Layout) -> int:
    """How many methods are trained at a time."""
    alone = layout.devices[0].platform == "cpu" and len(layout.devices) == jax.process_count() == 1
    table = config.policy.name not in (*NETWORKS, "hf")
    # trackers are told of one method at a time
    if not (alone and table and task.space is not None) or config.output.track:
        return 1
    return max(1, min(len(config.methods), config.devices.at_once or cores.usable()))


def run(
    context: RunContext,
    of: Mapping[str, Method],
    count: int,
    afterwards: Callable[[], object] = lambda: None,
) -> None:
    """Train and measure all methods, `count` at a time. Raises `Interrupted` where a stop is asked
    for, and what a method raises once the others have saved what they have.

    `afterwards` is called once all searches are through, beside training where several methods are
    trained: it may load what comes next. One method after another leaves it out."""
    if count == 1:
        for name, each in of.items():
            methods.run(context, name, each)
        return
    _Crew(context, of, afterwards).run(count)


class _Crew:
    """Threads that take methods off a list, and one that searches for all of them."""

    def __init__(
        self, context: RunContext, of: Mapping[str, Method], afterwards: Callable[[], object]
    ):
        self._methods, self._afterwards = of, afterwards
        self._waiting = deque(of)
        self._looked_at = {name: threading.Event() for name in of}
        self._searched: set[str] = set()
        self._errors: list[BaseException] = []
        self._double = jnp.result_type(float) == jnp.float64  # a thread begins without it
        self._context = context._replace(await_search=self._await_search)

    def run(self, count: int) -> None:
        jobs = [self._search, *[self._work] * count]
        over = [threading.Event() for _ in jobs]  # a signal that comes during `join` spoils it
        for job in zip(jobs, over):
            threading.Thread(target=self._guarded, args=job, daemon=True).start()
        try:
            for event in over:
                event.wait()
        except KeyboardInterrupt:  # a process that ends in the middle of a program may crash
            for event in over:
                event.wait(LEAVING)
            raise
        self._errors.sort(key=lambda error: isinstance(error, Interrupted))
        if self._errors:
            raise self._errors[0]

    def _guarded(self, job: Callable[[], None], over: threading.Event) -> None:
        """A job whose error stops the others at the end of their stretch; `run` raises it."""
        try:
            with jax.enable_x64(self._double):
                job()
        except BaseException as error:
            self._errors.append(error)
            self._context.stop.asked = True
        finally:
            over.set()

    def _work(self) -> None:
        while True:
            try:
                name = self._waiting.popleft()
            except IndexError:
                return
            methods.run(self._context, name, self._methods[name])

    def _search(self) -> None:
        """In the order of the methods, whichever of them come first: a search starts from the ends
        of those before."""
        try:
            for name, each in self._methods.items():
                if self._context.stop.asked:
                    raise Interrupted
                methods.search(self._context, name, each, shown=False)
                self._searched.add(name)
                self._looked_at[name].set()
            self._afterwards()
        finally:
            for event in self._looked_at.values():
                event.set()

    def _await_search(self, name: str) -> None:
        """Wait until the searches that a method's result needs are done. Raises `Interrupted` where
        they were given up."""
        event = self._looked_at[name]
        if not event.is_set():
            self._context.recorder.state(name, "waiting for the class optimum")
        event.wait()
        if name not in self._searched:
            raise Interrupted
