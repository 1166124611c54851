"""Rows of a store as a task has them: drawn inside a program one batch at a time, or read ahead for
many updates at once.

A program that asks for a batch (`OnHost.__call__`, as a task's demonstrations are asked for) waits
for the host. Training does not: which rows an update has depends on a key and on its number alone,
so a thread reads those of the next updates (`Ahead`) while the devices are busy with these. Both
give the rows that `fdiv.benchmarks.text.Drawn` would give of the same rows on a device."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.store import Store
from fdiv.benchmarks.text_rows import Cut
from fdiv.types import PAD, Sequences


class Strings(NamedTuple):
    """Strings as they travel to a device."""

    tokens: Any  # [..., T] int32
    first: Any  # [...] column of the first action


@dataclasses.dataclass(frozen=True, eq=False)
class OnHost:
    """Rows drawn with replacement from a store: (key, n) -> [n, ...]."""

    store: Store
    numbers: np.ndarray  # of the rows that are drawn from, in the store
    cut: Cut
    end: int  # the token that ends rows that name no other

    def __len__(self) -> int:
        return len(self.numbers)

    def __call__(self, key: jax.Array, n: int) -> Sequences:
        chosen = jax.random.randint(key, (n,), 0, len(self))
        whole = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
        shapes = Strings(whole(n, sum(self.cut)), whole(n))
        read = lambda chosen: self.read(np.asarray(chosen))
        return sequences(jax.pure_callback(read, shapes, chosen, vmap_method="broadcast_all"))

    def read(self, chosen: np.ndarray) -> Strings:
        """Strings of the rows chosen [...] of those that are drawn from."""
        return Strings(*self.store.strings(self.numbers[chosen], self.cut, self.end))


def sequences(strings: Strings) -> Sequences:
    """Inside a program: strings [B, T] with their mask, each of weight one."""
    tokens, first = strings
    column = jnp.arange(tokens.shape[-1])[None]
    mask = (column >= first[:, None]) & (tokens != PAD)
    return Sequences(tokens, mask, jnp.ones(tokens.shape[0]))


class Ahead:
    """Batches of consecutive updates, read by a thread before they are asked for."""

    def __init__(self, load: Callable[[int], Any]):
        """`load(step)` gives the batches of some updates from `step` on."""
        self._load = load
        self._next: tuple[int, Future] | None = None

    def take(self, step: int, used: int) -> Any:
        """The batches of the updates from `step` on, of which `used` will be: those behind them are
        read meanwhile."""
        due, self._next = self._next, None
        batches = due[1].result() if due is not None and due[0] == step else self._load(step)
        self._next = step + used, self._begun(step + used)
        return batches

    def _begun(self, step: int) -> Future:
        """Batches that a thread has begun to read, which no exit waits for."""
        future: Future = Future()

        def read() -> None:
            try:
                future.set_result(self._load(step))
            except BaseException as error:  # raised where the batches are asked for
                future.set_exception(error)

        threading.Thread(target=read, name="rows", daemon=True).start()
        return future


class Order:
    """Which rows the updates of runs have, as `experiments.running.runs.batch` chooses them inside
    a program: drawn with replacement, or pass by pass."""

    def __init__(self, keys: jax.Array, order_keys: jax.Array, rows: int, batch: int, passes: bool):
        """`keys` [count]: those of each run's data; `order_keys`: those of its passes."""
        with _on_processor():
            self._keys, self._order_keys = map(_copied, (keys, order_keys))
        self._rows, self._batch, self._passes = rows, batch, passes
        self._orders: dict[int, np.ndarray] = {}

        def draw(key: jax.Array, step: jax.Array) -> jax.Array:
            return jax.random.randint(jax.random.fold_in(key, step), (batch,), 0, rows)

        permute = lambda key, i: jax.random.permutation(jax.random.fold_in(key, i), rows)
        self._draw, self._permute = (
            jax.jit(jax.vmap(f, in_axes=(0, None))) for f in (draw, permute)
        )

    def drawn(self, step: int) -> np.ndarray:
        """Rows drawn with replacement by the keys of a step, [count, batch]."""
        with _on_processor():
            return np.asarray(self._draw(self._keys, step))

    def of(self, steps: range) -> np.ndarray:
        """The rows of these updates, [count, steps, batch]."""
        if not self._passes:
            return np.stack([self.drawn(step) for step in steps], axis=1)
        places = np.arange(steps.start * self._batch, steps.stop * self._batch)
        chosen = np.zeros((len(self._keys), len(places)), np.int64)
        passes = places // self._rows
        for number in np.unique(passes):
            inside = passes == number
            chosen[:, inside] = self._of_pass(int(number))[:, places[inside] % self._rows]
        return chosen.reshape(len(self._keys), len(steps), self._batch)

    def _of_pass(self, number: int) -> np.ndarray:
        """Each run's order of a pass, [count, rows]; those long before are forgotten."""
        if number not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k == number - 1}
            with _on_processor():
                self._orders[number] = np.asarray(self._permute(self._order_keys, number))
        return self._orders[number]


def _on_processor() -> contextlib.AbstractContextManager[Any]:
    """Where the devices that train are not kept busy with it."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # a platform alone
        return contextlib.nullcontext()


def _copied(keys: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(
        jnp.asarray(np.asarray(jax.random.key_data(keys))), impl=jax.random.key_impl(keys)
    )
