"""A reward is learned first, then followed: reinforcement learning from human feedback in two
stages.

    updates 1 .. K   the reward model alone learns (`fdiv.reward_model`), the policy stands still
    from then on     the model is frozen; the policy maximises E_q[proxy] - beta D_f(ref||q)
                     by RLOO, GRPO or PPO

    bt_rloo, bt_grpo, bt_ppo  comparisons, Bradley-Terry                         proxy R
    bt_var_rloo               the same, each comparison's noise learned as well  proxy R
    classifier_rloo           demonstrations against samples of the reference    proxy
                              -beta reward(-s), s its logit

A comparison at temperature 1 says R in the task's own units, so beta is as it is. The optimum for
an f earns r = -beta reward(log ref / p) + constant, beta log p / ref for reverse_kl: the
classifier's s gives it back. `proxy` is what the policy earns by the model and `score` by the task:
where the first goes on up and the second down, the policy has found what the model got wrong.
Sources: Christiano et al. 2017 (arXiv 1706.03741); Ziegler et al. 2019 (arXiv 1909.08593); Gao,
Schulman & Hilton 2023 (arXiv 2210.10760) on over-optimisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fdiv import divergences
from fdiv import tokens as tk
from fdiv.checks import buildable, positive, present
from fdiv.comparisons import compare_rows, divisor, mean, reweighted, start
from fdiv.episodes import return_claim
from fdiv.penalties import Penalty, marker
from fdiv.ranges import MOST_STEPS, check_ranges, ranged
from fdiv.regularised import extended_reward
from fdiv.reward_model import (
    RewardModel,
    accuracy,
    bradley_terry,
    calibration,
    classifier,
    fit,
    with_noise,
)
from fdiv.types import (
    Claim,
    Components,
    Look,
    Method,
    Model,
    Objective,
    Pairs,
    Params,
    Sequences,
    UsageError,
    hidden,
)

Reads = Literal["pairs", "demos"]


@dataclasses.dataclass(frozen=True)
class LearnedReward(Method):
    """A reward model, then a policy that follows it (bt_rloo, bt_grpo, bt_ppo, bt_var_rloo,
    classifier_rloo)."""

    kind: ClassVar = "reward_model"
    charges = True
    follower: Method = dataclasses.field(kw_only=True, metadata={"hidden": True})
    reads: Reads = hidden("pairs")
    noise: bool = hidden(False)  # whether each comparison's noise is learned as well
    penalty: Penalty | None = hidden(None)
    reward_updates: int = ranged(300, least=1)
    """Updates in which the reward model alone learns; then it is frozen."""
    reward_steps: int = ranged(1, least=1, most=MOST_STEPS)
    """Steps of the reward model per update."""
    reward_learning_rate: float = ranged(0.05, above=0)
    """First learning rate of the reward model; it falls to 0 as a cosine, so that the last batches
    are not all it knows."""
    group: int | None = ranged(None, least=2)
    """Answers to each prompt, in place of what rloo or grpo are given for themselves (8)."""
    learning_rate: float | None = ranged(None, above=0)
    """Learning rate of the policy, in place of the one common to all methods."""

    @property
    def needs(self) -> tuple[str, ...]:
        return ("scorer", *self.follower.needs)

    @property
    def warmup(self) -> int:
        return self.reward_updates

    @property
    def look(self) -> Look:
        marks = {"grpo": "^", "ppo": "P"}
        own = "D" if self.noise else "s" if self.reads == "demos" else "d"
        own = marks.get(self.follower.kind, own)
        return Look(marker(self.penalty, own), "-.", "learned reward", "#882255")

    def check(self) -> None:
        check_ranges(self)
        grouped = "group" in {field.name for field in dataclasses.fields(self.follower)}
        if self.group is not None and not grouped:
            problem = f"{self.follower.kind} answers each prompt once."
            raise UsageError("group", self.group, problem, "Drop it.")
        self.following.check()

    @property
    def following(self) -> Method:
        """What follows the learned reward, with this method's penalty and group."""
        fields = {"penalty": self.penalty} | ({"group": self.group} if self.group else {})
        return dataclasses.replace(self.follower, **fields)

    def build(self, components: Components) -> Objective:
        buildable(self, components)
        if components.mdp.regulariser is None:
            fix = (
                "Use a benchmark with one (rewarded, or text with comparisons), or an "
                "adversarial method."
            )
            raise UsageError(
                "methods",
                "reward model",
                "needs a task with a reference to stay near, and this one has none.",
                fix,
            )
        teaching = (
            demonstrations(components)
            if self.reads == "demos"
            else comparisons(components, self.noise)
        )
        return reward_model(
            components,
            teaching,
            self.following.build,
            reward_updates=self.reward_updates,
            reward_steps=self.reward_steps,
            reward_learning_rate=self.reward_learning_rate,
        )

    def claim(self) -> Claim:
        learned = "A Bradley-Terry model of the reward" + (
            " and of each comparison's noise" if self.noise else ""
        )
        if self.reads == "demos":
            learned = "A classifier of demonstrations against samples of the reference"
        sentence = (
            f"{learned} is learned for {self.reward_updates} updates and frozen, then "
            f"{self.follower.kind.upper()} follows it"
        )
        bias = "what is maximised is the learned reward in the task's place"
        return return_claim(self.penalty, sentence, bias)


class Teaching(NamedTuple):
    """What a reward model is, and what it learns from."""

    model: RewardModel
    proxy: Callable[
        [Array], Array
    ]  # what the model says of strings -> what the policy earns, [B] each
    evidence: Callable[[Array, Params, Any], Pairs]  # key, the policy as it was, rows -> by weight
    held_out: Callable[[Array, int], Any] | None  # key, n -> rows never trained on
    prompts: Callable[[Any], Sequences]  # rows -> what the policy answers


def comparisons(components: Components, noise: bool = False) -> Teaching:
    """Strings labelled alone, and rows that compare a string with itself, weigh 0."""
    mdp = components.mdp
    if mdp.pairs is None:
        fix = "Use a benchmark with them (rewarded, or text with such columns), or classifier_rloo."
        raise UsageError(
            "methods", "reward model", "needs a task with comparisons, and this one has none.", fix
        )

    def evidence(key, origin, pairs):
        paired, same = compare_rows(pairs)
        weight = jnp.where(paired & ~same, pairs.chosen.weight, 0.0)
        weight = weight / divisor(weight.sum())
        return reweighted(pairs, weight, weight)

    prompts = lambda pairs: pairs.chosen._replace(
        weight=jnp.ones_like(pairs.chosen.weight)
    )  # they weigh alike, labels do not
    scorer = present(components.scorer, "scorer")
    model = (
        with_noise(scorer, mdp.vocab, mdp.horizon) if noise else bradley_terry(scorer, mdp.vocab)
    )
    return Teaching(model, lambda value: value, evidence, mdp.held_out_pairs, prompts)


def demonstrations(components: Components) -> Teaching:
    """Demonstrations, and fresh answers of the reference to the same prompts."""
    mdp, (name, beta, known) = components.mdp, present(components.mdp.regulariser, "reference")
    d = divergences.parse(name)
    positive("beta", beta)

    def evidence(key, origin, demos):
        reference = known or Model(components.policy, origin)
        answers, _ = components.rollout(key, *reference, tk.prompts_of(demos, mdp.horizon))
        return Pairs(tk.normalise(demos), tk.normalise(answers))

    model = classifier(present(components.scorer, "scorer"), mdp.vocab)
    return Teaching(
        model,
        lambda value: -beta * extended_reward(d, -value),
        evidence,
        mdp.held_out,
        lambda demos: demos,
    )


class RewardState(NamedTuple):
    reward: Any  # the model's (params, optimiser state)
    policy: Any  # the state of what follows the model
    origin: Params  # the policy as it was, where that is the reference, else ()
    step: Array


def reward_model(
    components: Components,
    teaching: Teaching,
    follow: Callable[[Components], Objective],
    reward_updates: int = 300,
    reward_steps: int = 1,
    reward_learning_rate: float = 0.05,
) -> Objective:
    """The objective on a batch of comparisons or of demonstrations, whose prompts the policy
    answers."""
    mdp, (model, proxy, evidence, held_out, prompts) = components.mdp, teaching
    tx = components.optimiser(
        optax.cosine_decay_schedule(reward_learning_rate, reward_updates * reward_steps)
    )

    def following(learned) -> Objective:
        score = lambda x: proxy(model.reward(learned, x))
        return follow(components._replace(mdp=mdp._replace(score=score)))

    followed = following(None)  # its start and its loss read no reward

    def init(key, params):
        learned = model.init(key, params)
        policy = followed.init(jax.random.fold_in(key, 1), params)
        return RewardState(
            (learned, tx.init(learned)), policy, start(mdp, params), jnp.zeros((), jnp.int32)
        )

    def prepare(key, params, aux, batch):
        fit_key, held_key, play_key = jax.random.split(key, 3)
        learning = aux.step < reward_updates
        rows = lambda k: evidence(k, aux.origin, batch)
        reward = fit(model, tx, aux.reward, rows, fit_key, jnp.where(learning, reward_steps, 0))
        policy, answers, measured = following(aux.reward[0]).prepare(
            play_key, params, aux.policy, prompts(batch)
        )
        policy = jax.tree.map(lambda now, then: jnp.where(learning, then, now), policy, aux.policy)
        metrics = {"proxy": measured.pop("score")} | measured | true_score(answers.sequences)
        metrics |= health(held_key, aux, len(answers.sequences.weight))
        x = answers.sequences._replace(weight=jnp.where(learning, 0.0, answers.sequences.weight))
        return (
            aux._replace(reward=reward, policy=policy, step=aux.step + 1),
            answers._replace(sequences=x),
            metrics,
        )

    def true_score(x: Sequences) -> dict:
        """What the policy's strings earn from the task."""
        if mdp.score is None:
            return {}
        score = jnp.asarray(mdp.score(x), x.weight.dtype)
        finite = jnp.isfinite(score)
        return {"score": mean(jnp.where(finite, score, 0.0), jnp.where(finite, x.weight, 0.0))}

    def health(key, aux, rows: int) -> dict:
        """How well the model predicts what it has not learned from."""
        if held_out is None:
            return {}
        held_key, sample_key = jax.random.split(key)
        predictions = model.predict(
            aux.reward[0], evidence(sample_key, aux.origin, held_out(held_key, rows))
        )
        return {
            "reward_accuracy": accuracy(predictions),
            "reward_calibration": calibration(predictions),
        }

    return Objective(
        init, prepare, lambda params, aux, batch: followed.loss(params, aux.policy, batch)
    )
