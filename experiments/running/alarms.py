"""What has gone wrong in a run, in plain words, each with the flag to try."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from fdiv.types import Method

Last = Mapping[str, np.ndarray]  # metric -> [seeds], at the end of a stretch
# field, as `group.field`, and a value: whether the run's method reads it and takes that value
Takes = Callable[[str, object], bool]
COLLAPSED = 0.1  # share of the expert's entropy below which a policy has collapsed
STOP = 5.0  # nats between a policy's log-prob of stopping and its expert's: a factor of 150
LONG, SHORT = 1.5, 0.5  # times the expert's length
SURE = 0.99  # accuracy from which on a discriminator's reward says little
OVERFIT = 0.15  # how much better it is on its own demonstrations
WAITING = {"reward_model": "reward_updates"}  # what `warmup` is called, where it is not
STILL = 1e-6  # norm of a gradient that moves nothing
REACHED = 0.005  # nats above the best of the class at which a method has arrived
FALLING = 0.1  # share of that distance by which a run that still learns falls in its last third


class Alarm(NamedTuple):
    """A name to find it by, and what to say."""

    name: str
    message: str


class Advice(NamedTuple):
    """A change of a field: in words, and as what has to be taken for the words to be said."""

    words: str
    field: str
    value: object


LOWER_RATE = Advice("a lower", "learning_rate", 1e-4)  # the method's own where it has one
PENALISED = Advice("", "adversarial.gradient_penalty", 1.0)


def alarms(
    last: Last,
    expert: Mapping[str, float],
    takes: Takes,
    warm: bool = True,
    at_start: Last | None = None,
) -> list[Alarm]:
    """Alarms that most seeds of a method raise, with the flags that its run takes. `expert` has its
    entropy and length; `warm` is False while only a discriminator learns, when a still policy is no
    alarm; a length that strings had `at_start` already is no method's doing."""
    medians = {name: float(np.median(values)) for name, values in last.items()}
    began = float(np.median(at_start["length"])) if at_start and "length" in at_start else None
    return [
        *_of_the_policy(medians, expert, takes, began),
        *_of_the_end(medians, takes),
        *_of_the_discriminator(medians, takes),
        *(_of_the_gradient(medians, takes) if warm else ()),
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


def advised(takes: Takes, *advice: Advice) -> str:
    """` Try a lower --learning-rate, ... or ...`: what of it the run takes, or nothing."""
    taken = [x for x in advice if takes(x.field, x.value)]
    if not taken:
        return ""
    said = []
    for words, field, value in taken:
        flag = f"--{field.replace('_', '-')}"
        shown = f"{value:g}" if isinstance(value, float) else f"{value}"
        said.append(f"{words} {flag}" if words else f"{flag} {shown}")
    listed = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} or {said[-1]}"
    return f" Try {listed}."


def _of_the_policy(
    medians: Mapping[str, float], expert: Mapping[str, float], takes: Takes, began: float | None
) -> Iterator[Alarm]:
    nan = float("nan")
    entropy, wanted = medians.get("entropy", nan), expert.get("entropy", nan)
    if entropy < COLLAPSED * wanted:
        advice = advised(
            takes,
            LOWER_RATE,
            Advice("a longer", "adversarial.warmup", 1000),
            Advice("", "adversarial.entropy", 0.1),
            Advice("", "ppo.entropy", 0.1),
            Advice("", "max_grad_norm", 1.0),
        )
        yield Alarm(
            "collapse",
            f"The policy has collapsed: entropy {entropy:.3g} nats, the expert's is {wanted:.3g}."
            f"{advice}",
        )
    length, usual = medians.get("length", nan), expert.get("length", nan)
    side = lambda tokens: 1 if tokens > LONG * usual else -1 if tokens < SHORT * usual else 0
    if side(length) and (began is None or side(began) != side(length)):
        look = " Look at length_accuracy beside d_accuracy." if "length_accuracy" in medians else ""
        advice = advised(takes, Advice("", "adversarial.level", "sequence"), LOWER_RATE)
        yield Alarm(
            "length",
            f"Strings are {length:.1f} tokens long, the expert's {usual:.1f}.{look}{advice}",
        )


def _of_the_end(medians: Mapping[str, float], takes: Takes) -> Iterator[Alarm]:
    nan = float("nan")
    own, wanted = medians.get("log_stop", nan), medians.get("log_stop_expert", nan)
    if not abs(own - wanted) > STOP:
        return
    less = own < wanted
    what = "hardly ever ends its strings" if less else "ends its strings too early"
    fix = (
        " Look whether rows keep their EOS (experiments.show_data), and whether it is the token "
        "that the model ends with."
        if less
        else advised(takes, LOWER_RATE)
    )
    yield Alarm(
        "stop",
        f"The policy {what}: where the expert's strings end it stops with probability "
        f"{np.exp(own):.2g}, the expert with {np.exp(wanted):.2g}.{fix}",
    )


def _of_the_discriminator(medians: Mapping[str, float], takes: Takes) -> Iterator[Alarm]:
    accuracy = medians.get("d_accuracy", float("nan"))
    if accuracy > SURE:
        advice = advised(
            takes,
            Advice("a lower", "adversarial.discriminator_learning_rate", 1e-3),
            PENALISED,
            Advice("more", "warm_start", 1000),
        )
        yield Alarm(
            "discriminator",
            f"The discriminator is right {accuracy:.1%} of the time, so its reward says little."
            f"{advice}",
        )
    overfit = medians.get("d_accuracy_train", float("nan")) - accuracy
    if overfit > OVERFIT:
        yield Alarm(
            "overfit",
            f"The discriminator knows its demonstrations by heart: {overfit:.0%} better on them "
            f"than on held-out ones.{advised(takes, Advice('more', 'demos', 10**6), PENALISED)}",
        )


def _of_the_gradient(medians: Mapping[str, float], takes: Takes) -> Iterator[Alarm]:
    gradient = medians.get("gradient_norm", float("nan"))
    if gradient < STILL:
        yield Alarm(
            "no gradient",
            f"The policy gets no gradient (norm {gradient:.1g}): it has converged, or its reward "
            f"is flat.{advised(takes, Advice('a larger', 'batch_size', 4096))}",
        )


def ending(curve: Mapping[int, float], gap: float, gradient: float, takes: Takes) -> list[Alarm]:
    """How a run ended that is further than `REACHED` from the best of its class: unfinished, where
    its own divergence (update -> nats) still falls, or stuck. `gradient` is the policy's last
    norm."""
    updates = sorted(curve)
    last = [update for update in updates if update >= updates[-1] * 2 / 3]
    if not gap > REACHED or len(last) < 3:
        return []
    slope = float(np.polyfit(last, [curve[update] for update in last], 1)[0])
    span = last[-1] - last[0]
    away, stretch = f"{gap:.3g} nats above the best of its class", f"the last {span} updates"
    if -slope * span > FALLING * gap:
        advice = advised(takes, Advice("more", "updates", 10 * updates[-1]))
        fell = f"its divergence still fell, by {-slope * span:.2g} nats over {stretch}"
        return [Alarm("unfinished", f"Unfinished: {away}, and {fell}.{advice}")]
    flat = "no gradient" if gradient < STILL else f"a gradient of norm {gradient:.2g}"
    advice = advised(
        takes,
        LOWER_RATE,
        Advice("more", "adversarial.discriminator_steps", 4),
        Advice("a larger", "batch_size", 4096),
    )
    stood = f"without getting nearer over {stretch}, with {flat}"
    return [Alarm("stuck", f"Stuck: {away}, {stood}. More updates alone will not help.{advice}")]
