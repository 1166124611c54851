"""What has gone wrong in a run, in plain words, each with the flag to try."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Last = Mapping[str, np.ndarray]  # metric -> [seeds], at the end of a stretch


class Alarm(NamedTuple):
    """A name to find it by, and what to say."""

    name: str
    message: str


def alarms(last: Last, expert: Mapping[str, float], group: str, warm: bool = True) -> list[Alarm]:
    """Alarms that most seeds of a method raise. `expert` has its entropy and length; `warm` is
    False while only a discriminator learns, when a still policy is no alarm."""
    found = []
    middle = lambda name: float(np.median(last[name])) if name in last else float("nan")

    def raise_if(condition: bool, name: str, message: str) -> None:
        if condition:
            found.append(Alarm(name, message))

    entropy, wanted = middle("entropy"), expert.get("entropy", float("nan"))
    raise_if(
        entropy < 0.1 * wanted,
        "collapse",
        (
            f"The policy has collapsed: entropy {entropy:.3g} nats, the expert's is {wanted:.3g}. "
            "Try a lower --learning-rate"
        )
        + (
            ", a longer --adversarial.warmup or --adversarial.entropy 0.1."
            if group == "adversarial"
            else " or --clip 1."
        ),
    )
    length, usual = middle("length"), expert.get("length", float("nan"))
    raise_if(
        length > 1.5 * usual or length < 0.5 * usual,
        "length",
        f"Strings are {length:.1f} tokens long, the expert's {usual:.1f}: look at "
        "length_accuracy beside d_accuracy, "
        "and try --adversarial.level sequence or a lower --learning-rate.",
    )
    accuracy = middle("d_accuracy")
    raise_if(
        accuracy > 0.99,
        "discriminator",
        f"The discriminator is right {accuracy:.1%} of the time, so its reward says little. "
        "Try a lower "
        "--adversarial.discriminator-learning-rate, --adversarial.gradient-penalty 1, or "
        "more --warm-start.",
    )
    overfit = middle("d_accuracy_train") - accuracy
    raise_if(
        overfit > 0.15,
        "overfit",
        f"The discriminator knows its demonstrations by heart: {overfit:.0%} better on them "
        "than on held-out ones. Try more "
        "--demos or --adversarial.gradient-penalty 1.",
    )
    gradient = middle("gradient_norm")
    raise_if(
        warm and gradient < 1e-6,
        "no gradient",
        f"The policy gets no gradient (norm {gradient:.1g}): it has converged, or its reward "
        "is flat. Try a larger "
        "--batch-size or another divergence.",
    )
    return found
