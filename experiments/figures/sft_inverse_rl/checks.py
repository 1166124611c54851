"""What the study of SFT as inverse RL is held to: the training curve in double precision, and laws
of the students."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures.common.base import Check, near
from experiments.figures.common.classes import EnumeratedTask
from experiments.figures.sft_inverse_rl.students import DRAWS, Course, Measures
from fdiv import divergences, exact
from fdiv.objectives.max_likelihood import max_likelihood
from fdiv.objectives.policy_gradient import policy_gradient
from fdiv.types import Components

FAR = 5.0  # standard errors that chance does not reach
# Of reverse_kl less sft.
SIGNS = {"entropy": -1, "distinct": -1, "cross_entropy": 1, "valid": 1, "expert_nll": -1}
VANISHED = 0.05  # of sft's value: at most so much is left of a difference in the full class

Curve = dict[str, np.ndarray]  # measure -> [P, S]


def curve(world: EnumeratedTask, components: Components, course: Course, batch: int) -> Curve:
    """At each point of a course, under `enable_x64`.

    forward_kl     by enumeration
    nll            SFT's loss on all strings, weighted by the expert, less the expert's entropy
    slope          how far SFT's gradient is from a policy gradient with reward e^s, that is p/q
    minibatch      SFT's loss on the next minibatch, less the entropy; [P - 1, S]
    standard_error of that one
    """
    sft = max_likelihood(components.policy, components.mdp.vocab)
    enumerated = components._replace(rollout=exact.enumerator(world.space))
    inverse = policy_gradient(enumerated, divergences.forward_kl())
    demos = exact.weighted(world.space, world.expert)
    entropy = exact.entropy(world.expert)

    def one(params):
        q = exact.law(world.space, components.policy, params)
        own, rewarded = (exact.expected_gradient(x, params, demos) for x in (sft, inverse))
        prepared = sft.prepare(jax.random.key(0), params, (), demos)[1]
        mean, square = (exact.expectation(world.expert, q.string**n) for n in (1, 2))
        return {
            "forward_kl": exact.divergence(divergences.forward_kl(), world.space, world.expert, q),
            "nll": sft.loss(params, (), prepared)[0] - entropy,
            "slope": jnp.abs(own - rewarded).max(),
            "standard_error": jnp.sqrt((square - mean**2) / batch),
        }

    flat = course.params.reshape(-1, *course.params.shape[2:])
    points = jax.jit(lambda params: jax.lax.map(one, params))(flat)
    points = {key: np.asarray(x).reshape(course.params.shape[:2]) for key, x in points.items()}
    return points | {"minibatch": course.loss - float(entropy)}


def follows(name: str, curve: Curve) -> list[Check]:
    """Loss less entropy is the divergence, the gradient a reward's, and fresh minibatches miss it
    by chance alone."""
    off = float(np.abs(curve["nll"] - curve["forward_kl"]).max())
    errors = (curve["minibatch"] - curve["nll"][:-1]) / curve["standard_error"][:-1]
    slope = float(curve["slope"].max())
    tests = [
        near(f"{name}: SFT's loss less the entropy is the forward KL", off, 0.0, 1e-6),
        near(f"{name}: SFT's gradient is that of reward e^s", slope, 0.0, 1e-9),
    ]
    if errors.size:
        chance = float(errors.mean() * errors.size**0.5)
        tests.append(near(f"{name}: minibatches follow it, in standard errors", chance, 0.0, FAR))
    return tests


def rows(name: str, stops: Sequence[int], curve: Curve) -> list[dict]:
    """The curve as a table, a row for each point of each seed."""
    columns = ("forward_kl", "nll", "minibatch")
    seeds = range(curve["nll"].shape[1])
    return [
        {"class": name, "update": stop, "seed": seed}
        | {key: float(curve[key][i, seed]) for key in columns if i < len(curve[key])}
        for i, stop in enumerate(stops)
        for seed in seeds
    ]


def adds_up(name: str, measures: Sequence[Measures], gaps: Measures) -> list[Check]:
    """Risks against divergences, students against the best of their class."""
    off = max(
        float(np.abs(of["expert_nll"] - of["entropy"] - of["reverse_kl"]).max()) for of in measures
    )
    least = min(float(gap.min()) for gap in gaps.values())
    about, detail = (
        f"{name}: no student beats the best of its class",
        f"the least gap is {least:.3g}",
    )
    return [
        near(f"{name}: likelihood risk less entropy is the reverse KL", off, 0.0, 1e-6),
        Check(about, least > -1e-6, detail),
    ]


def counted(name: str, measures: dict[str, Measures]) -> Check:
    """Distinct strings among those drawn against their expectation: whoever is furthest off."""
    off = {}
    for who, of in measures.items():
        error = np.sqrt(np.mean(of["distinct_variance"]) / (DRAWS * of["distinct"].size)) + 1e-12
        off[who] = float((of["distinct"] - of["distinct_expected"]).mean() / error)
    far = max(off, key=lambda who: abs(off[who]))
    about = f"{name}: distinct strings as expected, in standard errors ({far})"
    return near(about, off[far], 0.0, FAR)


def claims(name: str, result: dict) -> list[Check]:
    """How the students should differ where the class is too small, and that they do not where it
    holds the expert."""
    checks = []
    for key, sign in SIGNS.items():
        low, high = result["differences"]["reverse_kl - sft"][key]["ci95"]
        detail = f"{low:.4g} to {high:.4g}"
        if name == "full":
            room = VANISHED * abs(result["students"]["sft"][key]["iqm"])
            about, holds = f"full: reverse_kl and sft agree in {key}", -room < low and high < room
            checks.append(Check(about, holds, detail))
        elif "position" in result:
            side = "lower" if sign < 0 else "higher"
            about = f"{name}: reverse_kl is {side} in {key} than sft"
            checks.append(Check(about, min(sign * low, sign * high) > 0, detail))
    return checks
