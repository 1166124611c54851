"""What an objective can be the gradient of, and which of these its exact expected gradient is.

The task is `world.random_world`, enumerated, in double precision under `jax.enable_x64`; all
gradients are in the policy's logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gradients.world import BETA, World
from fdiv import divergences, exact
from fdiv.checks import present
from fdiv.policies import tabular
from fdiv.types import Claim, Divergence, Level, Params

# Each program runs once, so compiling is what takes time.
QUICK = {"xla_backend_optimization_level": 0}
LEVELS = {  # of the card's columns
    "sequence": Level.sequence,
    "occupancy": Level.occupancy,
    "token": Level.token_policy,
    "token_expert": Level.token_expert,
}


def log_ratios(world: World) -> dict[str, np.ndarray]:
    """What an optimal discriminator's table holds, [states, V]: the true log-ratio of the "token"
    alone, and of the whole "prefix" that it ends; 0 in states that no string reaches."""
    space, policy = world.space, world.exact.policy
    automaton, tokens = tabular.full(space.vocab, space.horizon), space.sequences.tokens
    p, q = (
        exact.law(space, *present(world.exact.mdp.expert, "expert")),
        exact.law(space, policy, world.params),
    )
    states = np.asarray(tabular.read(automaton, jnp.asarray(tokens)))
    entry = states[space.node_at], tokens[space.node_at]
    prefix = np.asarray(p.node - q.node)
    before = np.asarray(p.arrival - q.arrival)[space.state[space.node_at]]
    tables = {key: np.zeros((automaton.states, space.vocab)) for key in ("token", "prefix")}
    tables["token"][entry], tables["prefix"][entry] = prefix - before, prefix
    return tables


# --- what an objective can be the gradient of -----------------------------------------------------

Row = dict[str, np.ndarray]  # divergence -> gradient


class Targets(NamedTuple):
    """Flat gradients in the policy's logits."""

    exact: dict[str, Row]  # by level
    fixed_prefixes: dict[str, Row]  # the effect on later prefixes left out: "token", "prefix"
    cross_entropy: np.ndarray  # of E_q[-log p]
    # By divergence from the reference, then by how the penalty is charged: "" is right.
    returns: dict[str, Row] = {}
    # By the phrase of a claim that is more than a divergence's: its measure on the "expert"'s
    # prefixes, on the policy's "own", and on these "fixed"; of strings the "whole" of it
    measures: dict[str, Row] = {}

    def of(self, claim: Claim) -> np.ndarray:
        """What a method is meant to follow."""
        if claim.level == "return":
            return self.returns[claim.minimises][""]
        if claim.how:
            rows = self.measures[phrase(claim)]
            return rows["whole"] if "whole" in rows else _mixed(claim, rows["own"], rows["expert"])
        if claim.level == Level.token_expert:
            return self.exact["token_expert"][claim.minimises]
        own = self.exact[claim.plain_level][claim.minimises]
        if claim.level != Level.token_policy:  # prefixes are whose strings they are
            return own
        return _mixed(claim, own, self.exact["token_expert"][claim.minimises])

    def without_later(self, claim: Claim) -> np.ndarray:
        """The same without the effect on later prefixes."""
        if claim.level == "return":
            return self.of(claim)
        if claim.how:
            rows = self.measures[phrase(claim)]
            return (
                rows["whole"] if "whole" in rows else _mixed(claim, rows["fixed"], rows["expert"])
            )
        if claim.level in (Level.sequence, Level.occupancy):
            return self.fixed_prefixes["prefix"][claim.minimises]
        expert = self.exact["token_expert"][claim.minimises]
        if claim.level == Level.token_expert:
            return expert
        return _mixed(claim, self.fixed_prefixes["token"][claim.minimises], expert)


def _mixed(claim: Claim, own: np.ndarray, expert: np.ndarray) -> np.ndarray:
    """Of the gradients at the policy's and at the expert's prefixes, as the claim has them."""
    share = 0.0 if claim.level == Level.token_expert else claim.policy_prefixes
    return share * own + (1 - share) * expert


def targets(world: World, names: list[str]) -> Targets:
    """Gradients of every divergence at every level, whole and with earlier tokens fixed."""
    space, policy = world.space, world.exact.policy
    family = [divergences.over_vocabulary(name) for name in names]
    parents = jnp.asarray(space.state[space.node_at])
    last = jnp.asarray(space.sequences.tokens)[space.node_at]

    def values(params: Params):
        p, q = (
            exact.law(space, *present(world.exact.mdp.expert, "expert")),
            exact.law(space, policy, params),
        )
        constant = jax.lax.stop_gradient(q)
        at_fixed = q._replace(arrival=constant.arrival)
        nodes = constant.arrival[parents] + q.conditional[parents, last]
        # every f is written once, over all that it is taken of
        log_p = jnp.concatenate([p.string, p.node, p.conditional.ravel(), p.node])
        log_q = jnp.concatenate([q.string, q.node, q.conditional.ravel(), nodes])
        ends = np.cumsum([len(q.string), len(q.node), q.conditional.size])
        whole = {key: [] for key in LEVELS}
        fixed = {key: [] for key in ("token", "prefix")}
        for d in family:
            strings, occupied, tokens, behind = jnp.split(d.perspective(log_p, log_q), ends)
            each = tokens.reshape(q.conditional.shape).sum(-1)
            whole["sequence"].append(strings.sum())
            whole["occupancy"].append(exact.over_nodes(space, occupied))
            whole["token"].append(exact.over_states(space, q, each))
            whole["token_expert"].append(exact.over_states(space, p, each))
            fixed["token"].append(exact.over_states(space, at_fixed, each))
            fixed["prefix"].append(behind.sum())
        return whole, fixed, exact.expectation(q, -p.string)

    gradients = jax.jit(jax.jacrev(values), compiler_options=QUICK)(world.params)
    whole, fixed, cross_entropy = jax.tree.map(np.ravel, gradients)

    def by_name(row: list[np.ndarray]) -> Row:
        return dict(zip(names, row))

    return Targets(
        {level: by_name(whole[level]) for level in LEVELS},  # jax sorts the keys of a dict
        {key: by_name(row) for key, row in fixed.items()},
        cross_entropy,
    )


def of_measure(world: World, claim: Claim) -> Row:
    """Gradients of a claim's measure of whole strings, or of its mean over prefixes, for
    `Targets.measures`."""
    space, policy = world.space, world.exact.policy
    measure = present(claim.measure, "measure")
    every = Divergence("measured", lambda p, q: measure(q, p)[:, None], _none, _none)

    def values(params: Params):
        p = exact.law(space, *present(world.exact.mdp.expert, "expert"))
        q = exact.law(space, policy, params)
        if claim.level == Level.sequence:
            return {"whole": measure(q.string, p.string)}
        fixed = q._replace(arrival=jax.lax.stop_gradient(q.arrival))
        on = lambda law, level: exact.divergence(every, space, p, law, level)
        return {
            "expert": on(q, Level.token_expert),
            "own": on(q, Level.token_policy),
            "fixed": on(fixed, Level.token_policy),
        }

    gradients = jax.jit(jax.jacrev(values), compiler_options=QUICK)(world.params)
    return jax.tree.map(np.ravel, gradients)


def _none(s: jax.Array) -> jax.Array:
    raise ValueError("a measure of two laws has no function of their ratio")


CHARGES = {
    "": "exact gradient of the regularised return",
    "fixed": "biased: drops the penalty's effect on later prefixes",
    "reversed": "biased: charges KL(reference||policy) instead",
    "reversed fixed": "biased: charges KL(reference||policy) of tokens, prefixes held",
}


def returns(world: World, divergence: str) -> Row:
    """Gradients of `charged` at the world's policy."""
    gradients = jax.jit(jax.jacrev(charged(world, divergence)), compiler_options=QUICK)
    return jax.tree.map(np.ravel, gradients(world.params))


def charged(world: World, divergence: str) -> Callable[[Params], dict[str, jax.Array]]:
    """What is lost, -E_q[r] + beta D_f(ref||q), and the same with a KL penalty charged wrongly, by
    the keys of `CHARGES`, of a policy's parameters."""
    space, components, d = world.space, world.exact, divergences.parse(divergence)
    rewards, forward = (
        present(components.mdp.score, "score")(space.sequences),
        divergences.forward_kl(),
    )

    def values(params: Params) -> dict[str, jax.Array]:
        q = exact.law(space, components.policy, params)
        ref = exact.law(
            space, *present(present(components.mdp.regulariser, "penalty").reference, "reference")
        )
        at_fixed = q._replace(arrival=jax.lax.stop_gradient(q.arrival))

        def with_fixed_prefixes(charge: Divergence):
            return space.horizon * exact.divergence(
                charge, space, ref, at_fixed, Level.token_policy
            )

        penalties = {"": exact.divergence(d, space, ref, q)}
        if divergence == "reverse_kl":
            penalties |= {
                "fixed": with_fixed_prefixes(d),
                "reversed": exact.divergence(forward, space, ref, q),
                "reversed fixed": with_fixed_prefixes(forward),
            }
        gain = exact.expectation(q, rewards)
        return {key: BETA * penalty - gain for key, penalty in penalties.items()}

    return values


# --- the verdict ----------------------------------------------------------------------------------

ZERO, SAME, NEAR = 1e-12, 1e-6, 0.9
Comparison = dict[str, float]  # cosine, norm_ratio, relative_error


def against(gradient: np.ndarray, target: np.ndarray) -> Comparison:
    """Cosine, ratio of norms and relative error; the cosine of nothing is 0."""
    size, target_size = np.linalg.norm(gradient), np.linalg.norm(target)
    product = size * target_size
    return {
        "cosine": float(np.clip(gradient @ target / product, -1, 1)) if product > 0 else 0.0,
        "norm_ratio": float(size / target_size),
        "relative_error": float(np.linalg.norm(gradient - target) / target_size),
    }


def phrase(claim: Claim) -> str:
    """A claim's divergence, level and prefixes."""
    if claim.level == "return":
        under = f" under {claim.minimises}" if claim.minimises != "reverse_kl" else ""
        return f"the regularised return{under}"
    if claim.plain_level != "token":
        return f"{claim.level} {claim.minimises} {claim.how}".rstrip()
    share = 0.0 if claim.level == Level.token_expert else claim.policy_prefixes
    pure = {0.0: "the expert's prefixes", 1.0: "the policy's prefixes"}
    whose = pure.get(share, f"prefixes {share:.0%} the policy's")
    return f"token {claim.minimises} {claim.how}".rstrip() + f" on {whose}"


def against_all(gradient: np.ndarray, candidates: Targets) -> dict[str, dict[str, Comparison]]:
    """Level -> divergence -> how the gradient compares."""
    return {
        level: {name: against(gradient, target) for name, target in row.items()}
        for level, row in candidates.exact.items()
    }


def verdict(gradient: np.ndarray, claim: Claim, candidates: Targets, at_expert: float = 1.0) -> str:
    """What the gradient is of, in words that rounding does not change; its own claim is tried
    first.

    `at_expert` is the size of the objective's gradient where the policy is the expert, as a share
    of its size here."""
    if np.linalg.norm(gradient) < ZERO:
        return "zero"
    if claim.level == "return":
        for charged, target in candidates.returns[claim.minimises].items():
            if along(gradient, target):
                scaled = against(gradient, target)["relative_error"] >= SAME
                return CHARGES[charged] + (f", {_scale(gradient, target)}" if scaled else "")
        if at_expert < SAME:
            return f"zero at the optimum of {phrase(claim)}; no divergence's on the way"
    others = [
        Claim(name, level, "") for key, level in LEVELS.items() for name in candidates.exact[key]
    ]
    for other in (claim, *others):
        if against(gradient, candidates.of(other))["relative_error"] < SAME:
            return f"exact gradient of {phrase(other)}"
    if along(gradient, candidates.of(claim)):
        return f"exact gradient of {phrase(claim)}, {_scale(gradient, candidates.of(claim))}"
    if along(gradient, candidates.without_later(claim)):
        return f"biased: drops the effect on later prefixes of {phrase(claim)}"
    if along(gradient, candidates.cross_entropy):
        return "no divergence's: maximises the expert's log-prob alone, without entropy"
    for other in others:
        if along(gradient, candidates.of(other)):
            return f"exact gradient of {phrase(other)}, {_scale(gradient, candidates.of(other))}"
    for other in others:
        if other.level == Level.token_policy and along(gradient, candidates.without_later(other)):
            return f"biased: drops the effect on later prefixes of {phrase(other)}"
    cosine = against(gradient, candidates.of(claim))["cosine"]
    if cosine < -0.5:
        return f"ascends {phrase(claim)}"
    return f"biased: {'near' if cosine > NEAR else 'far from'} {phrase(claim)}"


def along(gradient: np.ndarray, target: np.ndarray) -> bool:
    """The same direction, to rounding."""
    return against(gradient, target)["cosine"] > 1 - SAME**2


def _scale(gradient: np.ndarray, target: np.ndarray) -> str:
    return f"times {against(gradient, target)['norm_ratio']:.3g}"
