"""Measuring policies on all their seeds at once: exactly where strings are enumerated, else from
samples.

Each run is judged on strings of its own. Then the errors of sampling are independent from seed to
seed, and an interval over seeds holds them as well as the spread of the seeds. Methods of one seed
share its strings, so that paired differences are not blurred by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.assemble import Task
from experiments.config import Evaluation
from experiments.devices import Layout, Program
from fdiv import divergences, exact, metrics
from fdiv import tokens as tk
from fdiv.benchmarks import own_reward
from fdiv.rollout import greedy, likeliest, sampler_of, tempered
from fdiv.types import Claim, Components, Divergence, Level, Model, Params, Sequences
from fdiv.verified import verified_metrics

Measured = dict[str, np.ndarray]  # name -> [count]
Own = Callable[[Measured], np.ndarray]  # metrics -> what a method minimises, [count]
FEW = 8  # strings that sampling and training are compared on
COMPARED = 2048  # strings of a task, up to which what is minimised may be of every pair of them
COLD = 0.7  # temperature of answers for readers, beside the likeliest
SALT = 1_000_003  # what sets the evaluator's keys apart from those of training


def enumerated(task: Task) -> exact.Space:
    """The strings of a task that has them all."""
    assert task.space is not None, "its strings are not enumerated"
    return task.space


def known_expert(task: Task) -> Model:
    """The expert of a task that knows it, as every enumerated task does."""
    assert task.mdp.expert is not None, "its expert is not known"
    return task.mdp.expert


def known_reference(task: Task) -> Model | None:
    """What a return is charged for leaving, where that is known before training."""
    regulariser = task.mdp.regulariser
    return regulariser.reference if regulariser else None


def measured_as(claim: Claim, task: Task) -> Divergence | None:
    """What a claim says is minimised, as `exact.divergence` computes it, where it is more than the
    divergence of the two laws. None where it is not, and where it cannot be computed: strings are
    not enumerated, or too many for every pair of them."""
    measure = claim.measure
    if measure is None or task.space is None:
        return None
    if claim.level == Level.sequence and len(task.space.sequences.tokens) > COMPARED:
        return None

    def perspective(log_p: Array, log_q: Array) -> Array:
        return measure(log_q, log_p)[..., None]

    # it is measured and searched by its perspective alone
    # pyrefly: ignore[bad-argument-type]
    return Divergence(claim.metric, perspective, None, None, of_ratio=False)


def exact_measures(
    task: Task, family: Sequence[Divergence], expert: exact.Law, claims: Sequence[Claim] = ()
) -> Callable[[exact.Law], dict[str, Array]]:
    """Every metric of a policy's law on a task whose strings are enumerated, held against the
    expert's; returns too where it has a reward and a known reference, and what is minimised by
    `claims` that are more than a divergence of the two laws."""
    space, mdp = enumerated(task), task.mdp
    own = [(claim, d) for claim in claims if (d := measured_as(claim, task)) is not None]
    reference = known_reference(task)
    reference_law = exact.known_law(space, reference) if reference else None

    def measure(law: exact.Law) -> dict[str, Array]:
        measured = metrics.exact_metrics(family, space, expert, law, mdp.statistics)
        for claim, d in own:
            for level in _levels(claim):
                value = exact.divergence(d, space, expert, law, level)
                measured[claim.metric + level.suffix] = value
        if reference_law is None:
            return measured
        return measured | metrics.return_metrics(space, mdp, expert.string, reference_law, law)

    return measure


def _levels(claim: Claim) -> tuple[Level, ...]:
    """Those at which what it minimises is measured."""
    if claim.level == Level.token_policy and claim.policy_prefixes != 1:
        return Level.token_policy, Level.token_expert
    return (Level(claim.level),)


def judging_keys(seed: int, count: int, offset: int = 0) -> Array:
    """A key of judging strings for each run: the i-th is the same whatever the number of runs."""
    base = jax.random.fold_in(jax.random.key(seed), SALT)
    return jax.vmap(lambda i: jax.random.fold_in(base, i))(jnp.arange(offset, offset + count))


class HeldOut(NamedTuple):
    """The strings that each run is measured against, [count, samples, ...]."""

    data: Sequences  # held-out demonstrations
    prompts: Sequences  # theirs
    expert: Sequences | None  # the expert's own answers to them; None where it is not known


class Judged(NamedTuple):
    """What judges each run: a key [count] and the strings that were drawn from it."""

    key: Array
    held_out: HeldOut


class Evaluator:
    """Every metric of a set of policies [count, ...], and strings of theirs."""

    def __init__(
        self,
        evaluation: Evaluation,
        keys: Array,
        task: Task,
        components: Components,
        layout: Layout,
        params: Params,
        extra: Sequence[str] = (),
        claims: Sequence[Claim] = (),
    ):
        """`keys` [count] draw the strings that each run is judged on (`judging_keys`; runs of one
        key are judged on the same); `extra` are divergences to measure beside the standard ones,
        `claims` those of the run's methods; `params` is an example, laid out by `layout`."""
        self.layout, self.exact = layout, task.space is not None
        self.claims = tuple(claims)
        self.family = [
            divergences.over_vocabulary(name)
            for name in dict.fromkeys([*divergences.logged(), *extra])
        ]
        own = [claim for claim in self.claims if measured_as(claim, task) is not None]
        self._of_claims = {claim.metric + level.suffix for claim in own for level in _levels(claim)}
        self._task, self._components = task, components
        self._judged = self._drawn(layout.put(keys), evaluation.samples)
        measure = self._exactly() if self.exact else self._from_samples
        settings = self._settings(1.0)
        shared = tuple(range(2, 2 + len(settings)))
        self._measure, _ = layout.compile(measure, params, self._judged, *settings, shared=shared)
        self._answer, _ = layout.compile(self._answered, params, self._judged)
        self._at_start: Measured = {}  # what each string adds to metrics there, [count, N]
        self._known: dict[str, Program] = {}  # log-probs of strings under a known law
        self._continue = None
        if task.mdp.pieces is not None:
            policy = components.policy
            continued = lambda params, judged: self._to_read(Model(policy, params), judged)
            self._continue, _ = layout.compile(continued, params, self._judged)

    def _settings(self, temperature: float, of_expert: bool = False) -> tuple[Array, ...]:
        """Beside policies and strings: on an enumerated task, whether the expert is meant."""
        own = (jnp.bool_(of_expert),) if self.exact else ()
        return jnp.float32(temperature), *own

    def _drawn(self, keys: Array, samples: int) -> Judged:
        mdp = self._task.mdp

        def draw(key: Array) -> HeldOut:
            data = mdp.held_out(jax.random.fold_in(key, 0), samples)
            prompts = tk.prompts_of(data, mdp.horizon)
            if mdp.expert is None or self.exact:
                return HeldOut(data, prompts, None)
            key = jax.random.fold_in(key, 1)
            return HeldOut(data, prompts, self._components.rollout(key, *mdp.expert, prompts)[0])

        program, _ = self.layout.compile(draw, keys)
        return Judged(keys, program(keys))

    def _exactly(self) -> Callable[..., tuple[dict[str, Array], tuple[()]]]:
        of_law = exact_measures(self._task, self.family, self._expert_law, self.claims)
        space, expert = enumerated(self._task), self._expert_law

        def measure(params: Params, judged: Judged, temperature: Array, of_expert: Array):
            policy = tempered(self._components.policy, temperature)
            own = exact.law(space, policy, params)
            # measures take far longer to compile than a law, and are the same for both
            law = jax.tree.map(lambda *both: jnp.where(of_expert, *both), expert, own)
            return of_law(law), ()

        return measure

    def _from_samples(
        self, params: Params, judged: Judged, temperature: Array
    ) -> tuple[dict[str, Array], Sequences]:
        mdp, held_out = self._task.mdp, self.layout.rows(judged.held_out)
        policy = tempered(self._components.policy, temperature)
        own = self._components._replace(policy=policy)
        key = jax.random.fold_in(judged.key, 2)
        measured, answered = metrics.sampled_metrics(
            self.family, own, key, params, held_out.data, held_out.expert
        )
        if mdp.solutions is not None:
            certain = greedy(mdp.horizon, mdp.eos)
            measured |= verified_metrics(
                own, certain, jax.random.fold_in(key, 1), params, held_out.prompts
            )
        return measured, answered

    def _answered(self, params: Params, judged: Judged) -> tuple[Sequences, Array]:
        """The policy's answers to its held-out prompts."""
        key, prompts = jax.random.fold_in(judged.key, 3), self.layout.rows(judged.held_out.prompts)
        return self._components.rollout(key, self._components.policy, params, prompts)

    def _to_read(self, model: Model, judged: Judged) -> dict[str, Sequences]:
        key, prompts = jax.random.fold_in(judged.key, 4), self.layout.rows(judged.held_out.prompts)
        certain, (policy, params) = sampler_of(self._task.mdp, likeliest), model
        cold = self._components.rollout(key, tempered(policy, COLD), params, prompts)
        return {
            "likeliest": certain(key, policy, params, prompts)[0],
            f"at_temperature_{COLD:g}": cold[0],
        }

    def measure(self, params: Params, temperature: float = 1.0) -> Measured:
        """Every metric at a sampling temperature, with diversity where strings are sampled."""
        measured, _, answered = self._measured(params, temperature)
        return measured if self.exact else measured | self._diversity(self.layout.host(answered))

    def estimates(self, params: Params) -> Measured:
        """The metrics but diversity, which takes as long as all others where runs are many."""
        return self._measured(params, 1.0)[0]

    def measure_start(self, params: Params) -> Measured:
        """The same of what training begins from. Everything measured later is held against it
        string by string, as both answer the same prompts with the same random numbers and are
        judged on the same strings: `NAME_since_stderr` is the error of the difference."""
        measured, self._at_start, answered = self._measured(params, 1.0)
        return measured if self.exact else measured | self._diversity(self.layout.host(answered))

    def _measured(self, params: Params, temperature: float) -> tuple[Measured, Measured, Sequences]:
        """Metrics [count], what each string adds to some of them [count, N], and the strings."""
        measured, answered = self._measure(params, self._judged, *self._settings(temperature))
        measured = self.layout.host(measured)
        own_reward.raise_failed()
        names = [name for name in measured if name.endswith(metrics.EACH)]
        each = {name.removesuffix(metrics.EACH): measured.pop(name) for name in names}
        return measured | self._since_start(each), each, answered

    def _since_start(self, each: Measured) -> Measured:
        """The errors of what the run reports as changes."""
        own = (claim.minimises + Level.token_policy.suffix for claim in self.claims)
        names = {"precision", *metrics.MODES, *own} & self._at_start.keys() & each.keys()
        moved = {name: each[name] - self._at_start[name] for name in sorted(names)}
        return {
            f"{name}_since_stderr": x.std(axis=1, ddof=1) / np.sqrt(x.shape[1])
            for name, x in moved.items()
            if x.shape[1] > 1  # one string has no spread
        }

    def expert(self, params: Params) -> dict[str, float]:
        """What the expert itself scores, as far as it is known: all of it exactly, or entropy and
        length from samples. `params` are of any policies."""
        known, task = self._task.mdp.expert, self._task
        if self.exact:
            own, _ = self._measure(params, self._judged, *self._settings(1.0, of_expert=True))
            scores = self.layout.host(own)
            return {name: float(x[0]) for name, x in scores.items() if name not in self._of_claims}
        data, _, answers = self.layout.host(self._judged.held_out)
        if known is None or answers is None:
            return {"length": float(data.mask.sum(-1).mean())}  # [count, samples, T]

        def judge(judged: Judged) -> dict[str, Array]:
            data, _, answers = judged.held_out
            assert answers is not None
            nll = -tk.log_probs(*known, answers, task.mdp.vocab).sum(1)
            held_out = -tk.log_probs(*known, data, task.mdp.vocab).sum(1)
            measured = metrics.averages({"entropy": nll, "length": tk.lengths(answers)})
            measured |= metrics.modes_of_expert(known, answers, task.mdp.vocab)
            return measured | metrics.nll_per_unit(held_out, data, task.mdp)

        program, _ = self.layout.compile(judge, self._judged)
        seeds = self.layout.host(program(self._judged))
        seeds |= {"expert_nll": seeds["entropy"], "expert_nll_stderr": seeds["entropy_stderr"]}
        diversity = self._diversity(answers)
        seeds |= {name: diversity[name] for name in ("self_bleu", "distinct_2")}
        return {name: over_seeds(name, values) for name, values in seeds.items()}

    def references(self) -> dict[str, Sequences]:
        """Held-out strings of the first run: the expert's own, or for text the data's and the
        teacher's answers to the same prompts."""
        held_out = self.layout.host(self._judged.held_out)
        data, _, answers = jax.tree.map(lambda x: x[0], held_out)
        if answers is None:
            return {"expert" if self._task.mdp.expert is not None else "data": data}
        prompted = data.tokens.shape[1] > self._task.mdp.horizon
        return {"data": data, "expert": answers} if prompted else {"expert": answers}

    def strings(self, params: Params) -> tuple[Sequences, np.ndarray]:
        """Strings drawn from each policy, and the log-probs of their actions, [count, samples, T]
        both."""
        return self.layout.host(self._answer(params, self._judged))

    def known_log_probs(
        self, sequences: Sequences, reference: Params | None = None
    ) -> np.ndarray | None:
        """Log-probs of the actions of strings [count, n, T], under the expert or, where one is
        given, under each run's reference, which is the policy at parameters `reference` where the
        task names no other. None where the law is not known."""
        mdp, policy = self._task.mdp, self._components.policy
        known = mdp.expert
        if reference is not None:
            known = mdp.regulariser.reference if mdp.regulariser else None
        arguments: list[Any] = [self.layout.put(sequences)]
        if known is None:
            if reference is None:
                return None
            arguments.append(self.layout.put(reference))

        def log_probs(strings: Sequences, *start: Params) -> Array:
            model = known or Model(policy, start[0])
            return tk.log_probs(model.policy, model.params, strings, mdp.vocab)

        whose = "expert" if reference is None else "reference"
        if whose not in self._known:
            self._known[whose], _ = self.layout.compile(log_probs, *arguments)
        return self.layout.host(self._known[whose](*arguments))

    @cached_property
    def _expert_law(self) -> exact.Law:
        """Of an enumerated task."""
        return exact.known_law(enumerated(self._task), known_expert(self._task))

    @cached_property
    def _places(self) -> dict[bytes, int]:
        """Where each string of an enumerated task stands among all."""
        return {key: i for i, key in enumerate(_keys(enumerated(self._task).sequences))}

    def expert_log_probs(self, sequences: Sequences) -> np.ndarray | None:
        """The expert's log-probs of strings [n, T] of an enumerated task, [n]; None elsewhere."""
        if not self.exact:
            return None
        return np.asarray(self._expert_law.string)[[self._places[key] for key in _keys(sequences)]]

    def to_read(self, params: Params) -> dict[str, Sequences]:
        """Each policy's answers of the likeliest token at every step, and drawn at temperature
        `COLD`, [count, samples, T], where symbols are pieces of text: a reader sees there what
        draws at temperature 1, of which alone metrics are, hide."""
        return self.layout.host(self._continue(params, self._judged)) if self._continue else {}

    def expert_to_read(self) -> dict[str, Sequences]:
        """The same of the expert, where it is known, with the same random numbers."""
        known = self._task.mdp.expert
        if known is None or self._continue is None:
            return {}
        program, _ = self.layout.compile(lambda judged: self._to_read(known, judged), self._judged)
        return self.layout.host(program(self._judged))

    def sampling_error(self, params: Params) -> float:
        """The largest difference between the log-probs of actions when they are drawn, a token at a
        time, and when strings are learned from: of a few answers of each policy."""
        policy, vocab = self._components.policy, self._task.mdp.vocab

        def apart(params: Params, drawn: tuple[Sequences, Array]) -> Array:
            strings, log_q = jax.tree.map(lambda x: x[:FEW], drawn)
            learned = tk.log_probs(policy, params, strings, vocab)
            return jnp.max(jnp.where(strings.mask, jnp.abs(log_q - learned), 0.0))

        drawn = self._answer(params, self._judged)
        program, _ = self.layout.compile(apart, params, drawn)
        return float(np.max(self.layout.host(program(params, drawn))))

    def final(
        self, params: Params, measured: Measured | None = None
    ) -> tuple[Measured, Sequences, np.ndarray]:
        """Every metric (`measured`, where these policies were measured already), strings, and the
        log-probs of their actions; diversity is that of the strings."""
        sequences, log_q = self.strings(params)
        measured = self.measure(params) if measured is None else measured
        return measured | self._diversity(sequences), sequences, log_q

    def _diversity(self, sequences: Sequences) -> Measured:
        each = [jax.tree.map(lambda x, i=i: x[i], sequences) for i in range(self.layout.count)]
        distinct = {
            f"distinct_{n}": np.array([metrics.distinct_n(x, n) for x in each]) for n in (1, 2, 3)
        }
        pieces = self._task.mdp.pieces
        if pieces is not None:
            data, sizes = self.layout.host(self._judged.held_out.data), np.asarray(pieces.sizes)
            wanted = (jax.tree.map(lambda x, i=i: x[i], data) for i in range(self.layout.count))
            scores = [metrics.rouge_l(x, y, sizes) for x, y in zip(each, wanted)]
            distinct["rouge_l"] = np.array(scores)
        return distinct | {"self_bleu": np.array([metrics.self_bleu(x) for x in each])}


def _keys(sequences: Sequences) -> list[bytes]:
    """What tells strings [n, T] apart: their tokens, with nothing where there are none."""
    tokens, mask = np.asarray(sequences.tokens), np.asarray(sequences.mask)
    return [row.tobytes() for row in np.where(mask, tokens, -1).astype(np.int32)]


def over_seeds(name: str, values: np.ndarray) -> float:
    """The mean over runs; of standard errors, that of the mean of independent estimates."""
    if name.endswith("_stderr"):
        return float(np.sqrt(np.mean(np.square(values)) / len(values)))
    return float(np.mean(values))


def own_divergence(claim: Claim, task: Task) -> Own | None:
    """What a method minimises, read from its metrics, at its own level; the regret, where it is
    known, of one that maximises the task's return. None where nothing says it."""
    if task.mdp.expert is None or (claim.measure is not None and measured_as(claim, task) is None):
        return None
    name, share = claim.metric, claim.policy_prefixes
    if claim.level == "return":
        regulariser = task.mdp.regulariser
        charged = regulariser is not None and regulariser.divergence == name
        known = charged and task.space is not None and known_reference(task) is not None
        return (lambda m: m["regret"]) if known else None
    if claim.level != Level.token_policy or share == 1:
        return lambda m: m[name + Level(claim.level).suffix]
    own, expert = (name + level.suffix for level in (Level.token_policy, Level.token_expert))
    return lambda m: share * m[own] + (1 - share) * m[expert]
