"""What is shown of a task, by the kind of task it is. A kind is said once, in `kind_of`; screen,
tables, curves, planes and report read the rest from its `Scoreboard`.

- exact: strings are enumerated, so every divergence is known.
- return: the same, with a reward and a known reference, so the best return is known too.
- verified: answers are checked, right or wrong.
- sampled: text, and whatever else is too large to enumerate; comparisons among it add metrics of
  pairs.

Names of metrics are looked up in `metrics`. One that no method of a run has is left out, so a
scoreboard may name what only some of its tasks have."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from experiments.assemble import Task
from experiments.reporting.metrics import Metric, metric
from experiments.reporting.schema import VARIED, Kind, RunResult


@dataclasses.dataclass(frozen=True)
class Plane:
    """A picture of two metrics against each other, a mark a method."""

    file: str
    x: str
    y: tuple[str, ...]  # the first of them that was measured
    caption: str = ""  # what its place says, beside what holds for all planes
    log: bool = False
    start: bool = False  # mark where training began
    alike: str = ""  # what the line says on which both are the same; none is drawn without


@dataclasses.dataclass(frozen=True)
class Scoreboard:
    """Columns, order, curves and words for one kind of task."""

    kind: Kind
    rank_by: str  # the metric that orders the rows; which way is better stands with the metric
    columns: tuple[str, ...]  # of the table
    live: tuple[str, ...]  # of the screen
    curves: tuple[str, ...]  # a panel each
    planes: tuple[Plane, ...]
    planes_heading: str
    values: str  # where the numbers come from, in one sentence
    notes: Mapping[str, str]  # metric -> what is said under a table that shows it
    expert: str = "expert"  # what the task's known law is called
    law: str = "the law that demonstrations come from"  # what it is
    estimated: bool = False  # from samples, so that numbers have an error of their own
    penalty: str | None = None  # the divergence that the task takes off its return

    def metric(self, name: str) -> Metric:
        """How a metric is shown on this task."""
        return metric(name, self.penalty, self.expert)

    def once(self, names: Collection[str]) -> list[str]:
        """Metrics without the one that says the same twice: where the penalty is KL(policy||
        reference), it is `kl_to_reference`."""
        twice = self.penalty == "reverse_kl" and "kl_to_reference" in names
        return [name for name in names if not (twice and name == "divergence_to_reference")]

    def shown(self, names: Collection[str], there: Collection[str]) -> list[str]:
        """Those of some metrics that were measured; the precision of a policy's own strings alone
        where an older run has no other."""
        old = "precision_token_expert" not in there
        return [x for x in self.once(names) if x in there and (old or x != "precision")]

    def loss(self, measured: Mapping[str, np.ndarray]) -> np.ndarray:
        """What the rows are ranked by, the best lowest."""
        return -self.metric(self.rank_by).better * measured[self.rank_by]

    def live_columns(self) -> list[Metric]:
        """What the screen may show; it leaves out what no method has."""
        return [self.metric(name) for name in self.once(self.live)]


GAP = (
    "Gap: a method's own divergence at its own level, minus the least that any policy of the class "
    "has."
)
ENUMERATED = "All values are exact, by enumerating every string."

EXACT = Scoreboard(
    kind="exact",
    rank_by="js",
    columns=("forward_kl", "reverse_kl", "js", "tv", "valid", "mode_b", "entropy"),
    live=("js", "entropy", "gradient_norm"),
    curves=("gap", "js", "valid", "entropy"),
    planes=(
        Plane("quality_diversity", "entropy", ("valid", "expert_nll")),
        Plane(
            "divergence_divergence",
            "forward_kl",
            ("reverse_kl",),
            "What each method pays in either direction, exactly. Lower left is better.",
            log=True,
        ),
    ),
    planes_heading="Quality, diversity, and the two KLs",
    values=ENUMERATED,
    notes={"gap": GAP},
)

RETURN = Scoreboard(
    kind="return",
    rank_by="regret",
    columns=(
        "regret",
        "reward",
        "divergence_to_reference",
        "kl_to_reference",
        "tv",
        "forward_kl",
        "reverse_kl",
        "valid",
        "mode_b",
        "entropy",
    ),
    live=("reward", "divergence_to_reference", "kl_to_reference", "entropy", "gradient_norm"),
    curves=("gap", "reward", "divergence_to_reference", "kl_to_reference", "entropy"),
    planes=(
        Plane("quality_diversity", "entropy", ("reward",)),
        Plane(
            "divergence_divergence",
            "forward_kl",
            ("reverse_kl",),
            "How far each method is from the optimum of the regularised return in either "
            "direction, exactly. Lower left is better.",
            log=True,
        ),
    ),
    planes_heading="Reward, diversity, and the two KLs to the optimum",
    values=ENUMERATED,
    notes={
        "gap": (
            "Gap: for methods that maximise the return, the best regularised return less theirs; "
            "for the others, their own divergence at its own level minus the least that any policy "
            "of the class has."
        ),
        "tv": "TV, forward KL and reverse KL: from the optimum of the regularised return.",
        "divergence_to_reference": (
            "{penalty} to reference: what is taken off the return, D_f(reference||policy)."
        ),
        "kl_to_reference": "KL to reference: KL(policy||reference).",
    },
    expert="optimum",
    law="the optimum of the regularised return",
)

VERIFIED = Scoreboard(
    kind="verified",
    estimated=True,
    rank_by="greedy_accuracy",
    columns=(
        "greedy_accuracy",
        "accuracy",
        "pass_8",
        "answer",
        "ways",
        "way_entropy",
        "penalty",
        "entropy",
    ),
    live=("greedy_accuracy", "accuracy", "entropy", "gradient_norm"),
    curves=("greedy_accuracy", "accuracy", "penalty", "way_entropy", "entropy"),
    planes=(
        Plane("quality_diversity", "way_entropy", ("accuracy",), start=True),
        Plane(
            "divergence_divergence",
            "penalty",
            ("accuracy",),
            "What each method's accuracy cost: its divergence from the reference, the common "
            "start, on its own strings. Upper left is better.",
            start=True,
        ),
    ),
    planes_heading="Quality, diversity, and their price",
    values=(
        "All values but those of a method's own batch are estimated on held-out problems, of which "
        "each seed draws its own."
    ),
    notes={
        "penalty": (
            "{penalty} to reference: estimated from the last batch of the method's own training; "
            "the reference is the common start."
        ),
        "accuracy": (
            "Accuracy: share of right answers, of the likeliest tokens (greedy) and drawn; pass@8: "
            "that one of 8 draws is right; right answer: whatever its steps; distinct ways: right "
            "ways in 16 draws, and their entropy given the problem."
        ),
    },
)

SAMPLED = Scoreboard(
    kind="sampled",
    estimated=True,
    rank_by="validation_nll",
    columns=(
        "reward",
        "validation_nll",
        "bits_per_byte",
        "margin_accuracy",
        "margin",
        "forward_kl_token_expert",
        "reverse_kl_token",
        "js_token",
        "precision",
        "precision_token_expert",
        "recall",
        "seeking",
        "expert_nll",
        "entropy",
        "log_stop",
        "self_bleu",
        "distinct_2",
    ),
    live=("reward", "validation_nll", "margin_accuracy", "entropy", "gradient_norm"),
    curves=("validation_nll", "margin_accuracy", "js_token", "expert_nll", "entropy"),
    planes=(
        Plane(
            "quality_diversity",
            "entropy",
            ("reward", "expert_nll", "validation_nll"),
        ),
        Plane(
            "divergence_divergence",
            "forward_kl_token_expert",
            ("reverse_kl_token",),
            "What each method pays in either direction, per token and estimated. Lower left is "
            "better.",
            log=True,
        ),
        Plane(
            "pairs",
            "validation_nll",
            ("margin_accuracy",),
            "What each method's order of the pairs cost: the NLL of held-out completions. Upper "
            "left is better.",
        ),
    ),
    planes_heading="Quality, diversity, and what was paid for them",
    values="All values are estimated from samples, of which each seed draws its own.",
    notes={
        "validation_nll": "Validation NLL: of held-out completions, in nats per token.",
        "bits_per_byte": (
            "NLL per byte: the same in bits per byte of text, comparable over tokenizers."
        ),
        "precision": (
            "Precision: mean log-prob that the {expert} gives a token that the policy wrote; "
            "recall: that the policy gives a token that the {expert} wrote. Seeking modes raises "
            "the first, covering them the second."
        ),
        "precision_token_expert": (
            "Precision: E_q log p, the mean log-prob that the {expert} p gives a token of the "
            "policy q; recall: E_p log q; both summed over the vocabulary at the {expert}'s "
            "prefixes, the same for the start and every method."
        ),
        "seeking": (
            "Precision less recall: 0 of the {expert} itself, more of a policy on fewer modes, "
            "less of a broader one."
        ),
        "log_stop": (
            "Log P(stop): mean log-prob of a token that ends the string where the {expert}'s "
            "strings ended."
        ),
        "js_token": (
            "Divergences are from the law of the {expert}, summed over the vocabulary at the "
            "prefixes that the title names."
        ),
        "margin_accuracy": (
            "Pairs in order: share of the pairs of the last batch whose chosen completion has the "
            "larger margin (each method's own)."
        ),
    },
)

SCOREBOARDS: dict[Kind, Scoreboard] = {
    board.kind: board for board in (EXACT, RETURN, VERIFIED, SAMPLED)
}


def kind_of(task: Task) -> Kind:
    """What kind a task is."""
    regulariser = task.mdp.regulariser
    if task.mdp.solutions is not None:
        return "verified"
    if task.space is None:
        return "sampled"
    return "return" if regulariser and regulariser.reference else "exact"


def of_task(task: Task) -> Scoreboard:
    """The scoreboard of a task."""
    regulariser = task.mdp.regulariser
    penalty = regulariser.divergence if regulariser else None
    board = _rewarded(SCOREBOARDS[kind_of(task)], task.reward)
    return dataclasses.replace(board, penalty=penalty)


def _rewarded(board: Scoreboard, reward: str | None) -> Scoreboard:
    """The scoreboard of a task whose answers have a reward of their own, by which it ranks; where
    strings are enumerated there is one already."""
    if reward is None or not board.estimated:
        return board
    first = lambda *names: tuple(dict.fromkeys(names))
    return dataclasses.replace(
        board,
        rank_by="reward",
        columns=first("reward", "penalty", *board.columns),
        live=first("reward", *board.live),
        curves=first("reward", "penalty", *board.curves),
        notes={"penalty": VERIFIED.notes["penalty"], **board.notes, "reward": f"Reward: {reward}."},
    )


# name of a benchmark -> what its known law is called, and what it is: nobody knows the law of the
# rows of a text
KNOWN_LAWS = {
    "text": ("teacher", "a larger model trained on the same training rows"),
    "rewarded": (RETURN.expert, RETURN.law),
}

OF_THE_POLICY = {  # teachers that are made of the policy's own model
    "base": "the policy before its adapters",
    "whole": "the model that the policy is made of, with all its layers",
}


def of_result(result: RunResult) -> Scoreboard:
    """The scoreboard of a run, from what it left."""
    own = result.benchmark.get("reward")
    board = _rewarded(SCOREBOARDS[result.kind], None if own is None else str(own))
    board = dataclasses.replace(board, penalty=result.penalty)
    expert, law = KNOWN_LAWS.get(result.benchmark.get("name", ""), (board.expert, board.law))
    teacher = result.benchmark.get("teacher")
    if teacher not in (None, "trained"):
        law = OF_THE_POLICY.get(str(teacher), str(teacher))
    if result.benchmark.get("teacher_system"):
        law += ", behind a message that it alone reads,"
    return dataclasses.replace(board, expert=expert, law=law)


def rows(benchmark: Mapping[str, Any], demos: int | str, passes: int | str | None = None) -> str:
    """Which rows methods learn from: demonstrations, comparisons or labels, as each reads."""
    text = benchmark.get("name") == "text"
    if passes:
        fixed = f"{demos} fixed rows" if demos else "the training rows"
        return f"{passes} pass{'es' if passes != 1 else ''} over {fixed}, each row once a pass"
    if demos == VARIED:
        return "numbers of rows that vary"
    if demos:
        return f"{demos} {'training rows, drawn once,' if text else 'rows'} for each seed"
    return "training rows drawn again at every update" if text else "new rows at every update"
