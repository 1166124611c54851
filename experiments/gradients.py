"""What is an objective the gradient of? Its exact expected gradient against that of every divergence at every level.

The MDP is small enough to enumerate: a random expert as a full prefix tree over V symbols, the last of them EOS, and a
policy whose logits are the expert's plus noise. Everything is in double precision, under `jax.enable_x64`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fdiv import divergences, exact
from fdiv import tokens as tk
from fdiv.policies import tabular
from fdiv.rollout import sampler
from fdiv.types import Claim, Kit, Model, Sequences, TokenMDP, UsageError

MOST_STRINGS = 4096
QUICK = {"xla_backend_optimization_level": 0}  # each program runs once, so compiling is what takes time
LEVELS = {
    "sequence": ("sequence", 1.0),
    "occupancy": ("occupancy", 1.0),
    "token": ("token", 1.0),
    "token_expert": ("token", 0.0),
}


class World(NamedTuple):
    """The MDP with its expert, and a policy beside it."""

    space: exact.Space
    exact: Kit  # rollouts by enumeration
    sampled: Kit
    params: jax.Array  # the policy's
    demos: Sequences  # all strings, weighted by the expert
    ratio: dict[str, np.ndarray]  # [states, V] true log-ratios, of the "token" alone and of the whole "prefix" that it ends


def world(vocab: int, horizon: int, perturbation: float, seed: int) -> World:
    """Refuses an MDP with too many strings."""
    eos = vocab - 1
    try:
        space = exact.enumerate_strings(vocab, horizon, eos, MOST_STRINGS)
    except UsageError as error:
        raise UsageError(error.field, error.value, error.problem, f"{error.fix.partition(',')[0]}.") from error
    automaton = tabular.full(vocab, horizon)
    policy, scorer = tabular.policy(automaton, vocab), tabular.scorer(automaton, vocab)
    draw = np.random.default_rng(seed)
    expert = Model(policy, draw.standard_normal((automaton.states, vocab)))
    params = jnp.asarray(expert.params + perturbation * draw.standard_normal((automaton.states, vocab)))
    p, q = jax.jit(lambda: (exact.law(space, *expert), exact.law(space, policy, params)))()
    demos = exact.weighted(space, p)
    rollout = sampler(horizon, eos)
    drawn = lambda key, n: rollout(key, *expert, tk.empty_prompts(n))[0]
    mdp = TokenMDP(vocab, horizon, eos, lambda key, n: tk.empty_prompts(n), drawn, drawn, expert)
    whole = mdp._replace(held_out=lambda key, n: demos)
    own, drawing = Kit(policy, whole, exact.enumerator(space), scorer), Kit(policy, mdp, rollout, scorer)
    return World(space, own, drawing, params, demos, _ratios(space, automaton, p, q))


def _ratios(space: exact.Space, automaton: tabular.Automaton, p: exact.Law, q: exact.Law) -> dict[str, np.ndarray]:
    """What an optimal discriminator's table holds; 0 in states that no string reaches."""
    tokens = space.sequences.tokens
    entry = np.asarray(tabular.read(automaton, jnp.asarray(tokens)))[space.node_at], tokens[space.node_at]
    whole = np.asarray(p.node - q.node)
    before = np.asarray(p.arrival - q.arrival)[space.state[space.node_at]]
    tables = {"token": np.zeros((automaton.states, space.vocab)), "prefix": np.zeros((automaton.states, space.vocab))}
    tables["token"][entry], tables["prefix"][entry] = whole - before, whole
    return tables


# --- what an objective can be the gradient of ----------------------------------------------------------------------


class Targets(NamedTuple):
    """Flat gradients in the policy's logits."""

    exact: dict[str, dict[str, np.ndarray]]  # level -> divergence ->
    held: dict[str, dict[str, np.ndarray]]  # the same with earlier tokens held fixed: "token", "prefix" -> divergence ->
    cross_entropy: np.ndarray  # of E_q[-log p]

    def of(self, claim: Claim) -> np.ndarray:
        """What a method is meant to follow."""
        if claim.level != "token":
            return self.exact[claim.level][claim.minimises]
        own, expert = (self.exact[level][claim.minimises] for level in ("token", "token_expert"))
        return claim.policy_prefixes * own + (1 - claim.policy_prefixes) * expert

    def without_later(self, claim: Claim) -> np.ndarray:
        """The same without the effect on later prefixes."""
        if claim.level != "token":
            return self.held["prefix"][claim.minimises]
        own, expert = self.held["token"][claim.minimises], self.exact["token_expert"][claim.minimises]
        return claim.policy_prefixes * own + (1 - claim.policy_prefixes) * expert


def targets(world: World, names: list[str]) -> Targets:
    """Gradients of every divergence at every level, whole and with earlier tokens held."""
    space, kit = world.space, world.exact
    family = [divergences.parse(name) for name in names]
    parents = jnp.asarray(space.state[space.node_at])

    def values(params):
        p, q = exact.law(space, *kit.mdp.expert), exact.law(space, kit.policy, params)
        fixed = jax.lax.stop_gradient(q)
        last = jnp.asarray(space.sequences.tokens)[space.node_at]
        nodes = fixed.arrival[parents] + q.conditional[parents, last]
        held = {
            "token": [exact.divergence(d, space, p, q._replace(arrival=fixed.arrival), "token") for d in family],
            "prefix": [d.perspective(p.node, nodes).sum() for d in family],
        }
        whole = {k: [exact.divergence(d, space, p, q, *level) for d in family] for k, level in LEVELS.items()}
        return whole, held, exact.expectation(q, -p.string)

    whole, held, cross_entropy = jax.jit(jax.jacrev(values), compiler_options=QUICK)(world.params)
    flat = lambda row: dict(zip(names, (np.asarray(x).ravel() for x in row)))
    by_level = {level: flat(whole[level]) for level in LEVELS}  # tree functions sort their keys
    return Targets(by_level, {k: flat(row) for k, row in held.items()}, np.asarray(cross_entropy).ravel())


# --- the verdict ---------------------------------------------------------------------------------------------------

ZERO, SAME, NEAR = 1e-12, 1e-6, 0.9


def against(gradient: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Cosine, ratio of norms and relative error; the cosine of nothing is 0."""
    size, wanted = np.linalg.norm(gradient), np.linalg.norm(target)
    cosine = float(np.clip(gradient @ target / (size * wanted), -1, 1)) if size * wanted > 0 else 0.0
    return {
        "cosine": cosine,
        "norm_ratio": float(size / wanted),
        "relative_error": float(np.linalg.norm(gradient - target) / wanted),
    }


def phrase(claim: Claim) -> str:
    """A claim's divergence, level and prefixes."""
    if claim.level != "token":
        return f"{claim.level} {claim.minimises}"
    own = claim.policy_prefixes
    whose = {0.0: "the expert's prefixes", 1.0: "the policy's prefixes"}.get(own, f"prefixes {own:.0%} the policy's")
    return f"token {claim.minimises} on {whose}"


def everything(gradient: np.ndarray, known: Targets) -> dict[str, dict[str, dict[str, float]]]:
    """Level -> divergence -> how the gradient compares."""
    return {level: {name: against(gradient, target) for name, target in row.items()} for level, row in known.exact.items()}


def verdict(gradient: np.ndarray, claim: Claim, known: Targets) -> str:
    """What the gradient is of, in words that rounding does not change; its own claim is tried before all else."""
    if np.linalg.norm(gradient) < ZERO:
        return "zero"
    others = [Claim(name, level, "", prefixes) for key, (level, prefixes) in LEVELS.items() for name in known.exact[key]]
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
