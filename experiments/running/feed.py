"""Batches of rows that stay on the host: read by a thread for the next updates while the devices
are busy with these (`experiments.data.on_host`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Budget
from experiments.data.on_host import Ahead, OnHost, Order, Strings
from experiments.devices import Layout
from experiments.running import runs

READ = 1 << 25  # bytes of tokens that are read ahead at most, unless one update has more
MOST = 64  # updates


class Feed:
    """The batches of all runs of a program."""

    def __init__(self, budget: Budget, rows: OnHost, layout: Layout, data_keys: jax.Array):
        """`data_keys` [count] of the runs."""
        order_keys = jax.vmap(lambda key: jax.random.fold_in(key, runs.ORDER))(data_keys)
        passes = budget.epochs_over_data is not None
        self._order = Order(data_keys, order_keys, len(rows), budget.batch_size, passes)
        self._rows, self._layout, self._batch = rows, layout, budget.batch_size
        size = layout.count * budget.batch_size * sum(rows.cut) * 4
        self.count = max(1, min(MOST, budget.updates, READ // size))
        self._ahead = Ahead(self.updates)

    def updates(self, step: int) -> Strings:
        """The batches of `count` updates from `step` on, [count of runs, updates, B, ...] as the
        layout has them."""
        return self._laid_out(self._order.of(range(step, step + self.count)))

    def probed(self, train_state: Any) -> Strings:
        """The batch that the runs are probed on where they stand."""
        return self._laid_out(self._order.drawn(-1 - self._step(train_state))[:, None])

    def wrapped(self, advance: Callable, probe: Callable) -> tuple[Callable, Callable]:
        """The programs as if they read their rows themselves."""

        def fed(train_state: Any, count: Any, fresh: Any) -> Any:
            step, end = self._step(train_state), self._step(train_state) + int(count)
            while step < end:
                now = min(self.count, end - step)
                strings = self._ahead.take(step, now)
                train_state = advance(train_state, jnp.int32(now), fresh, strings)
                step, fresh = step + now, jnp.bool_(False)
            return train_state

        return fed, lambda train_state: probe(train_state, self.probed(train_state))

    def _step(self, train_state: Any) -> int:
        return int(np.ravel(self._layout.host(train_state.learner.step))[0])

    def _laid_out(self, chosen: np.ndarray) -> Strings:
        load = lambda places: self._rows.read(chosen[places])
        return self._layout.put_rows(chosen.shape, load)


def of(budget: Budget, new_rows: Any, layout: Layout, train_state: Any) -> Feed | None:
    """What reads the rows of runs such as these; None where a program has them on its devices."""
    if not isinstance(new_rows, OnHost) or budget.demos:
        return None
    return Feed(budget, new_rows, layout, layout.get(train_state.data_key))
