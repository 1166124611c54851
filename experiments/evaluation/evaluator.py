"""Measuring policies on all their seeds at once: exactly where strings are enumerated, else from
samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.assemble import Task
from experiments.devices import Layout
from fdiv import divergences, exact, metrics
from fdiv import tokens as tk
from fdiv.rollout import greedy, tempered
from fdiv.types import Components, Sequences
from fdiv.verified import verified_metrics

Measured = dict[str, np.ndarray]  # name -> [count]


class Evaluator:
    """Every metric of a set of policies [count, ...], and strings of theirs."""

    def __init__(
        self,
        config: Any,
        task: Task,
        components: Components,
        layout: Layout,
        params: Any,
        extra: Sequence[str] = (),
    ):
        """`extra` are divergences to measure beside the standard ones; `params` is an example, laid
        out by `runs`."""
        self.layout, self.exact = layout, task.space is not None
        self.family = [divergences.parse(name) for name in dict.fromkeys([*metrics.LOGGED, *extra])]
        self._key = jax.random.fold_in(jax.random.key(config.budget.seed), 1_000_003)
        held = task.mdp.held_out(jax.random.fold_in(self._key, 0), config.evaluation.samples)
        self._held, self._prompted = held, held.tokens.shape[1] > task.mdp.horizon
        prompts = tk.prompts_of(held, task.mdp.horizon)
        expert, known = None, task.mdp.expert
        if known is not None and not self.exact:
            expert = jax.jit(lambda key: components.rollout(key, *known, prompts)[0])(
                jax.random.fold_in(self._key, 1)
            )
        p = exact.known_law(task.space, known) if self.exact else None
        ref = _reference(task) if self.exact else None
        self._expert = {"law": p, "strings": expert, "task": task}

        def measure(params, temperature):
            policy = tempered(components.policy, temperature)
            if self.exact:
                q = exact.law(task.space, policy, params)
                found = metrics.exact_metrics(self.family, task.space, p, q, task.mdp.statistics)
                return found | (
                    {}
                    if ref is None
                    else metrics.return_metrics(task.space, task.mdp, p.string, ref, q)
                ), ()
            key = jax.random.fold_in(self._key, 2)
            own = components._replace(policy=policy)
            found, answered = metrics.sampled_metrics(
                self.family, own, key, params, *layout.rows((held, expert))
            )
            if task.mdp.solutions is not None:
                likeliest = greedy(task.mdp.horizon, task.mdp.eos)
                found |= verified_metrics(
                    own, likeliest, jax.random.fold_in(key, 1), params, layout.rows(prompts)
                )
            return found, answered

        def answer(params):
            return components.rollout(
                jax.random.fold_in(self._key, 3), components.policy, params, layout.rows(prompts)
            )

        one = jax.numpy.float32(1.0)
        self._measure, seconds = layout.compile(measure, params, one, shared=(1,))
        self._answer, more = layout.compile(answer, params)
        self.compile_seconds = seconds + more

    def measure(self, params: Any, temperature: float = 1.0) -> Measured:
        """Every metric at a sampling temperature, with diversity where strings are sampled."""
        measured, answered = self._measure(params, jax.numpy.float32(temperature))
        measured = self.layout.host(measured)
        return measured if self.exact else measured | self._diversity(self.layout.host(answered))

    def expert(self) -> dict[str, float]:
        """What the expert itself scores, as far as it is known: all of it exactly, or entropy and
        length from samples."""
        task, known = self._expert["task"], self._expert["task"].mdp.expert
        if self.exact:
            p, ref = self._expert["law"], _reference(task)

            @jax.jit
            def own(p):
                found = metrics.exact_metrics(self.family, task.space, p, p, task.mdp.statistics)
                return found | (
                    {}
                    if ref is None
                    else metrics.return_metrics(task.space, task.mdp, p.string, ref, p)
                )

            return {name: float(value) for name, value in own(p).items()}
        if known is None:
            return {"length": float(tk.lengths(self._held).mean())}
        strings = self._expert["strings"]
        nll = float(-tk.log_probs(*known, strings, task.mdp.vocab).sum(1).mean())
        own = -tk.log_probs(*known, self._held, task.mdp.vocab).sum() / self._held.mask.sum()
        found = {
            "entropy": nll,
            "likelihood": nll,
            "length": float(tk.lengths(strings).mean()),
            "validation_nll": float(own),
        }
        return found | {
            "self_bleu": metrics.self_bleu(strings),
            "distinct_2": metrics.distinct_n(strings, 2),
        }

    def references(self) -> dict[str, Sequences]:
        """Held-out strings: the expert's own, or for text the data's and the teacher's answers to
        the same prompts."""
        answers = self._expert["strings"]
        if answers is None:
            return {"expert" if self._expert["task"].mdp.expert is not None else "data": self._held}
        return {"data": self._held, "expert": answers} if self._prompted else {"expert": answers}

    def strings(self, params: Any) -> tuple[Sequences, np.ndarray]:
        """Strings drawn from each policy [count, samples, T], and their log-probs [count,
        samples]."""
        sequences, log_q = self.layout.host(self._answer(params))
        return sequences, log_q.sum(-1)

    def final(self, params: Any) -> tuple[Measured, Sequences, np.ndarray]:
        """Every metric, strings, and their log-probs; diversity is that of the strings."""
        sequences, log_q = self.strings(params)
        return self.measure(params) | self._diversity(sequences), sequences, log_q

    def _diversity(self, sequences: Sequences) -> Measured:
        each = [jax.tree.map(lambda x, i=i: x[i], sequences) for i in range(self.layout.count)]
        found = {
            f"distinct_{n}": np.array([metrics.distinct_n(x, n) for x in each]) for n in (1, 2, 3)
        }
        return found | {"self_bleu": np.array([metrics.self_bleu(x) for x in each])}


def _reference(task: Task) -> exact.Law | None:
    """The reference's law, where the task has one."""
    regulariser = task.mdp.regulariser
    return (
        exact.known_law(task.space, regulariser.reference)
        if regulariser and regulariser.reference
        else None
    )


def own_divergence(claim: Any, task: Task) -> Callable[[Measured], np.ndarray] | None:
    """What a method minimises, read from its metrics, at its own level; the regret, where it is
    known, of one that maximises the task's return. None where nothing says it."""
    if task.mdp.expert is None:
        return None
    name, share = claim.minimises, claim.policy_prefixes
    if claim.level == "return":
        regulariser = task.mdp.regulariser
        judged = (
            task.space is not None
            and regulariser
            and regulariser.reference
            and regulariser.divergence == name
        )
        return (lambda m: m["regret"]) if judged else None
    if claim.level != "token":
        return lambda m: m[name if claim.level == "sequence" else f"{name}_occupancy"]
    return lambda m: share * m[f"{name}_token"] + (1 - share) * m[f"{name}_token_expert"]
