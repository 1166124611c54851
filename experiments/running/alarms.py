"""What has gone wrong in a run, in plain words, each with the flag to try."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from fdiv.types import Method

Last = Mapping[str, np.ndarray]  # metric -> [seeds], at the end of a stretch
COLLAPSED = 0.1  # share of the expert's entropy below which a policy has collapsed
LONG, SHORT = 1.5, 0.5  # times the expert's length
SURE = 0.99  # accuracy from which on a discriminator's reward says little
OVERFIT = 0.15  # how much better it is on its own demonstrations
WAITING = {"reward_model": "reward_updates"}  # what `warmup` is called, where it is not
STILL = 1e-6  # norm of a gradient that moves nothing


class Alarm(NamedTuple):
    """A name to find it by, and what to say."""

    name: str
    message: str


def alarms(last: Last, expert: Mapping[str, float], group: str, warm: bool = True) -> list[Alarm]:
    """Alarms that most seeds of a method raise. `expert` has its entropy and length; `warm` is
    False while only a discriminator learns, when a still policy is no alarm."""
    medians = {name: float(np.median(values)) for name, values in last.items()}
    return [
        *_of_the_policy(medians, expert, group),
        *_of_the_discriminator(medians),
        *(_of_the_gradient(medians) if warm else ()),
    ]


def standing_still(method: Method, updates: int) -> list[Alarm]:
    """The alarm of a method whose updates all lie before its policy's first step."""
    if method.warmup < updates:
        return []
    field = f"--{method.kind}.{WAITING.get(method.kind, 'warmup')}".replace("_", "-")
    message = (
        f"The policy never moves: all {updates} updates are among the {method.warmup} before its "
        f"first step. Try more --updates than that, or a smaller {field}."
    )
    return [Alarm("standing still", message)]


def _of_the_policy(
    medians: Mapping[str, float], expert: Mapping[str, float], group: str
) -> Iterator[Alarm]:
    nan = float("nan")
    entropy, wanted = medians.get("entropy", nan), expert.get("entropy", nan)
    if entropy < COLLAPSED * wanted:
        more = (
            ", a longer --adversarial.warmup or --adversarial.entropy 0.1."
            if group == "adversarial"
            else " or --max-grad-norm 1."
        )
        yield Alarm(
            "collapse",
            f"The policy has collapsed: entropy {entropy:.3g} nats, the expert's is {wanted:.3g}. "
            f"Try a lower --learning-rate{more}",
        )
    length, usual = medians.get("length", nan), expert.get("length", nan)
    if length > LONG * usual or length < SHORT * usual:
        remedy = (
            "look at length_accuracy beside d_accuracy, and try --adversarial.level sequence or a "
            "lower --learning-rate."
            if group == "adversarial"
            else "try a lower --learning-rate."
        )
        yield Alarm(
            "length",
            f"Strings are {length:.1f} tokens long, the expert's {usual:.1f}: {remedy}",
        )


def _of_the_discriminator(medians: Mapping[str, float]) -> Iterator[Alarm]:
    accuracy = medians.get("d_accuracy", float("nan"))
    if accuracy > SURE:
        yield Alarm(
            "discriminator",
            f"The discriminator is right {accuracy:.1%} of the time, so its reward says little. "
            "Try a lower --adversarial.discriminator-learning-rate, "
            "--adversarial.gradient-penalty 1, or more --warm-start.",
        )
    overfit = medians.get("d_accuracy_train", float("nan")) - accuracy
    if overfit > OVERFIT:
        yield Alarm(
            "overfit",
            f"The discriminator knows its demonstrations by heart: {overfit:.0%} better on them "
            "than on held-out ones. Try more --demos or --adversarial.gradient-penalty 1.",
        )


def _of_the_gradient(medians: Mapping[str, float]) -> Iterator[Alarm]:
    gradient = medians.get("gradient_norm", float("nan"))
    if gradient < STILL:
        yield Alarm(
            "no gradient",
            f"The policy gets no gradient (norm {gradient:.1g}): it has converged, or its reward "
            "is flat. Try a larger --batch-size or another divergence.",
        )
