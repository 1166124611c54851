"""What is an objective the gradient of? Its exact expected gradient against that of every
divergence at every level.

The MDP is small enough to enumerate: a random expert as a full prefix tree over V symbols, the last
of them EOS, and a policy whose logits are the expert's plus noise. It has a reward too, and a
random reference: the reward under which the expert is the optimum of E_q[r] - beta D_f(ref||q), r =
-beta reward(log ref - log p); comparisons are Bradley-Terry in it. Everything is in double
precision, under `jax.enable_x64`."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fdiv import divergences, exact
from fdiv import tokens as tk
from fdiv.policies import tabular
from fdiv.rollout import sampler
from fdiv.types import (
    Claim,
    Components,
    Level,
    Model,
    Pairs,
    Regulariser,
    Sequences,
    TokenMDP,
    UsageError,
)

MOST_STRINGS = 4096
BETA = 0.5  # weight of the divergence from the reference
QUICK = {
    "xla_backend_optimization_level": 0
}  # each program runs once, so compiling is what takes time
LEVELS = {  # of the card's columns
    "sequence": Level.sequence,
    "occupancy": Level.occupancy,
    "token": Level.token_policy,
    "token_expert": Level.token_expert,
}


class World(NamedTuple):
    """The MDP with its expert, and a policy beside it."""

    space: exact.Space
    exact: Components  # rollouts by enumeration
    sampled: Components
    params: jax.Array  # the policy's
    demos: Sequences  # all strings, weighted by the expert
    reference: Model
    ratio: dict[
        str, np.ndarray
    ]  # [states, V] true log-ratios, of the "token" alone and of the whole "prefix" that it ends


def world(vocab: int, horizon: int, perturbation: float, seed: int) -> World:
    """Refuses an MDP with too many strings."""
    eos = vocab - 1
    try:
        space = exact.enumerate_strings(vocab, horizon, eos, MOST_STRINGS)
    except UsageError as error:
        raise UsageError(
            error.field, error.value, error.problem, f"{error.fix.partition(',')[0]}."
        ) from error
    automaton = tabular.full(vocab, horizon)
    policy, scorer = tabular.policy(automaton, vocab), tabular.scorer(automaton, vocab)
    draw = np.random.default_rng(seed)
    expert = Model(policy, draw.standard_normal((automaton.states, vocab)))
    params = jnp.asarray(
        expert.params + perturbation * draw.standard_normal((automaton.states, vocab))
    )
    p, q = jax.jit(lambda: (exact.law(space, *expert), exact.law(space, policy, params)))()
    demos = exact.weighted(space, p)
    rollout = sampler(horizon, eos)
    drawn = lambda key, n: rollout(key, *expert, tk.empty_prompts(n))[0]
    mdp = TokenMDP(vocab, horizon, eos, lambda key, n: tk.empty_prompts(n), drawn, drawn, expert)
    whole = mdp._replace(held_out=lambda key, n: demos)
    critic = tabular.scorer(automaton, vocab, 1)
    own = Components(policy, whole, exact.enumerator(space), scorer, critic, enumerated=True)
    drawing = Components(policy, mdp, rollout, scorer, critic)
    reference = Model(policy, draw.standard_normal((automaton.states, vocab)))
    return World(space, own, drawing, params, demos, reference, _ratios(space, automaton, p, q))


def rewarded(world: World, divergence: str) -> World:
    """The same MDP with the reward under which the expert is the optimum, and comparisons by it."""
    mdp, reference, d = world.exact.mdp, world.reference, divergences.parse(divergence)

    def score(x: Sequences):
        said = lambda model: tk.log_probs(*model, x, mdp.vocab).sum(1)
        return -BETA * d.reward(said(reference) - said(mdp.expert))

    def drawn(key, n: int) -> Pairs:
        keys = jax.random.split(key, 3)
        x, y = (world.sampled.rollout(k, *reference, tk.empty_prompts(n))[0] for k in keys[:2])
        first = jax.random.uniform(keys[2], (n,)) < jax.nn.sigmoid(score(x) - score(y))
        choose = lambda a, b: jnp.where(first.reshape(-1, *[1] * (a.ndim - 1)), a, b)
        return Pairs(jax.tree.map(choose, x, y), jax.tree.map(choose, y, x))

    every = comparisons(
        world.space, exact.law(world.space, *reference).string, score(world.space.sequences)
    )
    task = {"score": score, "regulariser": Regulariser(d.name, BETA, reference)}
    whole = {"pairs": lambda key, n: every, "held_out_pairs": lambda key, n: every}
    own = world.exact._replace(mdp=mdp._replace(**task, **whole))
    sampled = world.sampled._replace(
        mdp=world.sampled.mdp._replace(**task, pairs=drawn, held_out_pairs=drawn)
    )
    return world._replace(exact=own, sampled=sampled)


def comparisons(space: exact.Space, log_ref: jax.Array, score: jax.Array) -> Pairs:
    """Every ordered pair of strings drawn from a reference, the first one preferred, by its
    Bradley-Terry probability."""
    first, second = (
        x.ravel() for x in np.meshgrid(np.arange(len(score)), np.arange(len(score)), indexing="ij")
    )
    weight = jnp.exp(log_ref[first] + log_ref[second]) * jax.nn.sigmoid(
        score[first] - score[second]
    )
    side = lambda rows: Sequences(space.sequences.tokens[rows], space.sequences.mask[rows], weight)
    return Pairs(side(first), side(second))


def _ratios(
    space: exact.Space, automaton: tabular.Automaton, p: exact.Law, q: exact.Law
) -> dict[str, np.ndarray]:
    """What an optimal discriminator's table holds; 0 in states that no string reaches."""
    tokens = space.sequences.tokens
    entry = (
        np.asarray(tabular.read(automaton, jnp.asarray(tokens)))[space.node_at],
        tokens[space.node_at],
    )
    whole = np.asarray(p.node - q.node)
    before = np.asarray(p.arrival - q.arrival)[space.state[space.node_at]]
    tables = {
        "token": np.zeros((automaton.states, space.vocab)),
        "prefix": np.zeros((automaton.states, space.vocab)),
    }
    tables["token"][entry], tables["prefix"][entry] = whole - before, whole
    return tables


# --- what an objective can be the gradient of -----------------------------------------------------


class Targets(NamedTuple):
    """Flat gradients in the policy's logits."""

    exact: dict[str, dict[str, np.ndarray]]  # level -> divergence ->
    held: dict[
        str, dict[str, np.ndarray]
    ]  # the same with earlier tokens held fixed: "token", "prefix" -> divergence ->
    cross_entropy: np.ndarray  # of E_q[-log p]
    returns: dict[
        str, dict[str, np.ndarray]
    ] = {}  # divergence from the reference -> what is charged ("" is right) ->

    def of(self, claim: Claim) -> np.ndarray:
        """What a method is meant to follow."""
        if claim.level == "return":
            return self.returns[claim.minimises][""]
        if claim.level == Level.token_expert:
            return self.exact["token_expert"][claim.minimises]
        own = self.exact[claim.plain_level][claim.minimises]
        return _mixed(claim, own, self.exact["token_expert"][claim.minimises])

    def without_later(self, claim: Claim) -> np.ndarray:
        """The same without the effect on later prefixes."""
        if claim.level == "return":
            return self.of(claim)
        if claim.level in (Level.sequence, Level.occupancy):
            return self.held["prefix"][claim.minimises]
        expert = self.exact["token_expert"][claim.minimises]
        if claim.level == Level.token_expert:
            return expert
        return _mixed(claim, self.held["token"][claim.minimises], expert)


def _mixed(claim: Claim, own: np.ndarray, expert: np.ndarray) -> np.ndarray:
    """Of the gradients at the policy's and at the expert's prefixes, as the claim has them."""
    return claim.policy_prefixes * own + (1 - claim.policy_prefixes) * expert


def targets(world: World, names: list[str]) -> Targets:
    """Gradients of every divergence at every level, whole and with earlier tokens held."""
    space, components = world.space, world.exact
    family = [divergences.parse(name) for name in names]
    parents = jnp.asarray(space.state[space.node_at])

    def values(params):
        p, q = exact.law(space, *components.mdp.expert), exact.law(space, components.policy, params)
        fixed = jax.lax.stop_gradient(q)
        last = jnp.asarray(space.sequences.tokens)[space.node_at]
        nodes = fixed.arrival[parents] + q.conditional[parents, last]
        held = {
            "token": [
                exact.divergence(d, space, p, q._replace(arrival=fixed.arrival), Level.token_policy)
                for d in family
            ],
            "prefix": [d.perspective(p.node, nodes).sum() for d in family],
        }
        whole = {
            k: [exact.divergence(d, space, p, q, level) for d in family]
            for k, level in LEVELS.items()
        }
        return whole, held, exact.expectation(q, -p.string)

    whole, held, cross_entropy = jax.jit(jax.jacrev(values), compiler_options=QUICK)(world.params)
    flat = lambda row: dict(zip(names, (np.asarray(x).ravel() for x in row)))
    by_level = {level: flat(whole[level]) for level in LEVELS}  # tree functions sort their keys
    return Targets(
        by_level, {k: flat(row) for k, row in held.items()}, np.asarray(cross_entropy).ravel()
    )


CHARGES = {
    "": "exact gradient of the regularised return",
    "held": "biased: drops the penalty's effect on later prefixes",
    "turned": "biased: charges KL(reference||policy) instead",
    "turned held": "biased: charges KL(reference||policy) of tokens, prefixes held",
}


def returns(world: World, divergence: str) -> dict[str, np.ndarray]:
    """Gradients of what is lost, -E_q[r] + beta D_f(ref||q), and of the same with a KL penalty
    charged wrongly."""
    space, components, d = world.space, world.exact, divergences.parse(divergence)
    rewards, forward = components.mdp.score(space.sequences), divergences.forward_kl()

    def values(params):
        q, ref = (
            exact.law(space, components.policy, params),
            exact.law(space, *components.mdp.regulariser.reference),
        )
        fixed = q._replace(arrival=jax.lax.stop_gradient(q.arrival))
        held = lambda d: space.horizon * exact.divergence(d, space, ref, fixed, Level.token_policy)
        charged = {"": exact.divergence(d, space, ref, q)}
        if divergence == "reverse_kl":
            charged |= {
                "held": held(d),
                "turned": exact.divergence(forward, space, ref, q),
                "turned held": held(forward),
            }
        return {k: BETA * x - exact.expectation(q, rewards) for k, x in charged.items()}

    found = jax.jit(jax.jacrev(values), compiler_options=QUICK)(world.params)
    return {k: np.asarray(x).ravel() for k, x in found.items()}


# --- the verdict ----------------------------------------------------------------------------------

ZERO, SAME, NEAR = 1e-12, 1e-6, 0.9


def against(gradient: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Cosine, ratio of norms and relative error; the cosine of nothing is 0."""
    size, wanted = np.linalg.norm(gradient), np.linalg.norm(target)
    cosine = (
        float(np.clip(gradient @ target / (size * wanted), -1, 1)) if size * wanted > 0 else 0.0
    )
    return {
        "cosine": cosine,
        "norm_ratio": float(size / wanted),
        "relative_error": float(np.linalg.norm(gradient - target) / wanted),
    }


def phrase(claim: Claim) -> str:
    """A claim's divergence, level and prefixes."""
    if claim.level == "return":
        return "the regularised return" + (
            f" under {claim.minimises}" if claim.minimises != "reverse_kl" else ""
        )
    if claim.plain_level != "token":
        return f"{claim.level} {claim.minimises}"
    own = 0.0 if claim.level == Level.token_expert else claim.policy_prefixes
    whose = {0.0: "the expert's prefixes", 1.0: "the policy's prefixes"}.get(
        own, f"prefixes {own:.0%} the policy's"
    )
    return f"token {claim.minimises} on {whose}"


def everything(gradient: np.ndarray, known: Targets) -> dict[str, dict[str, dict[str, float]]]:
    """Level -> divergence -> how the gradient compares."""
    return {
        level: {name: against(gradient, target) for name, target in row.items()}
        for level, row in known.exact.items()
    }


def verdict(gradient: np.ndarray, claim: Claim, known: Targets, at_expert: float = 1.0) -> str:
    """What the gradient is of, in words that rounding does not change; its own claim is tried
    before all else.

    `at_expert` is the size of the objective's gradient where the policy is the expert, as a share
    of its size here."""
    if np.linalg.norm(gradient) < ZERO:
        return "zero"
    if claim.level == "return":
        for charged, target in known.returns[claim.minimises].items():
            if along(gradient, target):
                scaled = against(gradient, target)["relative_error"] >= SAME
                return CHARGES[charged] + (f", {_scale(gradient, target)}" if scaled else "")
        if at_expert < SAME:
            return f"zero at the optimum of {phrase(claim)}; no divergence's on the way"
    others = [Claim(name, level, "") for key, level in LEVELS.items() for name in known.exact[key]]
    for other in (claim, *others):
        if against(gradient, known.of(other))["relative_error"] < SAME:
            return f"exact gradient of {phrase(other)}"
    if along(gradient, known.of(claim)):
        return f"exact gradient of {phrase(claim)}, {_scale(gradient, known.of(claim))}"
    if along(gradient, known.without_later(claim)):
        return f"biased: drops the effect on later prefixes of {phrase(claim)}"
    if along(gradient, known.cross_entropy):
        return "no divergence's: maximises the expert's log-prob alone, without entropy"
    for other in others:
        if along(gradient, known.of(other)):
            return f"exact gradient of {phrase(other)}, {_scale(gradient, known.of(other))}"
    cosine = against(gradient, known.of(claim))["cosine"]
    if cosine < -0.5:
        return f"ascends {phrase(claim)}"
    return f"biased: {'near' if cosine > NEAR else 'far from'} {phrase(claim)}"


def along(gradient: np.ndarray, target: np.ndarray) -> bool:
    """The same direction, to rounding."""
    return against(gradient, target)["cosine"] > 1 - SAME**2


def _scale(gradient: np.ndarray, target: np.ndarray) -> str:
    return f"times {against(gradient, target)['norm_ratio']:.3g}"
