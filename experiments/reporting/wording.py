"""What a report, a table and the screen say of a run in sentences, each chosen by what the run is
and has: its kind, its seeds, its data, and what was drawn."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from experiments.evaluation.class_optimum import NEAR
from experiments.reporting import scoreboards, style
from experiments.reporting.metrics import Metric
from experiments.reporting.schema import VARIED, Change, MethodResult, RunResult, Summary
from experiments.reporting.scoreboards import Plane, Scoreboard
from fdiv.statistics import FEW_SEEDS, FEW_SEEDS_NOTE, ONE_SEED_NOTE, distinguishable

LINES = {"-": "solid", "--": "dashed", "-.": "dash-dotted", ":": "dotted"}  # matplotlib's
INTERVAL = "[95% interval]"  # as a table's note names what stands in brackets
LOST = (
    "n of m finite: what is shown is of these seeds alone. Such a method stands below those whose "
    "seeds are all finite, is never marked best, and is not compared with others."
)
OF_PAIRS = (
    "Of pairs: the divergence between the law of (demonstration, answer) and that of (answer, "
    "demonstration), which is 0 where the two laws are equal alone."
)
OF_THE_EXPERT = (
    "distill",
    "policy_gradient",
    "fdpg",
)  # groups of methods that read the expert's law
MANY = 6  # names, beyond which not all are listed
UNEQUAL = 1.01  # the most tokens learned from over the least, from which on they differ


# --- how a run was made ---------------------------------------------------------------------------


def lead(result: RunResult) -> list[str]:
    """What all methods have in common, and what not."""
    count, seeds = len(result.methods), result.seeds
    of = result.benchmark, result.demos, result.benchmark.get("passes")
    if VARIED in (result.updates, result.batch_size):
        size = "updates or batches that vary"
    else:
        size = f"{result.updates} updates, batches of {result.batch_size}"
    sentences = [
        f"{count} method{'s' if count != 1 else ''}, {seeds} seed{'s' if seeds != 1 else ''}, "
        f"{size} ({scoreboards.rows(*of)})."
    ]
    if not merged(result) and count > 1:
        sentences.append(f"The same start and number of updates for every method; {_rates(result)}")
    return [*sentences, *_tokens(result.methods)]


def merged(result: RunResult) -> bool:
    """Whether runs of different settings stand side by side."""
    settings = (result.updates, result.batch_size, result.demos, result.trials)
    inner = (*result.benchmark.values(), *result.policy.values())
    return VARIED in (*settings, *inner) or any(" @ " in name for name in result.methods)


def _rates(result: RunResult) -> str:
    if result.trials == 1:
        return "learning rates are those given, none was searched."
    return f"the best of {result.trials} learning rates for each."


def _tokens(methods: Mapping[str, MethodResult]) -> list[str]:
    """Equal updates need not be equal tokens: methods read or write different strings, and some
    both."""
    tokens = {name: m.tokens for name, m in methods.items()}
    least, most = min(tokens, key=tokens.__getitem__), max(tokens, key=tokens.__getitem__)
    if tokens[most] <= UNEQUAL * tokens[least]:
        return []
    return [
        f"Tokens learned from differ: {tokens[least]:,.0f} for {least}, {tokens[most]:,.0f} for "
        f"{most}, all seeds together."
    ]


def takeaway(result: RunResult) -> str:
    """Two sentences computed from the numbers: who is best by what and who cannot be told from it,
    and what failed."""
    board = scoreboards.of_result(result)
    metric = board.metric(board.rank_by)
    scores = {
        name: m.metrics[board.rank_by]
        for name, m in result.methods.items()
        if board.rank_by in m.metrics and m.metrics[board.rank_by].whole
    }
    return " ".join(filter(None, [_best_of(scores, metric), _failed(result)]))


def _best_of(scores: Mapping[str, Summary], metric: Metric) -> str:
    if len(scores) < 2:
        return ""
    best = max(scores, key=lambda name: (metric.better or -1) * scores[name].iqm)
    first = f"Best by {metric.title}: {best} ({scores[best].iqm:.4g})"
    others = [name for name in scores if name != best]
    if any(len(own.seeds) < 2 for own in scores.values()):
        return f"{first}; of one seed, so how much of that is chance nobody knows."
    tied = [n for n in others if not distinguishable(scores[best].seeds, scores[n].seeds)]
    if tied:
        return f"{first}, which these seeds do not tell from {_few(tied, 0)}."
    return f"{first}, by more than the error of its difference from every other."


def _failed(result: RunResult) -> str:
    states = {name: status(m) for name, m in result.methods.items()}
    groups = {
        "diverged": [name for name, state in states.items() if state == "diverged"],
        "ended away from the best of the class": [n for n, s in states.items() if "away" in s],
        "raised an alarm": [name for name, state in states.items() if state == "alarm"],
    }
    said = [f"{_few(names, len(states))} {what}" for what, names in groups.items() if names]
    if said:
        return f"{'; '.join(said)}."
    gaps = any(m.gap for m in result.methods.values())
    return f"All methods are finite to the end{', and near the best of the class' * gaps}."


def _few(names: list[str], count: int) -> str:
    """Names of methods, or how many where these are many or all."""
    if len(names) == count > 1:
        return "All methods"
    if len(names) > MANY:
        return f"{', '.join(names[: MANY - 1])} and {len(names) - MANY + 1} other methods"
    return _listed(names)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# --- under the table ------------------------------------------------------------------------------


def under_table(result: RunResult, shown: Collection[str], references: Iterable[str]) -> list[str]:
    """What the numbers are, and what the columns and rows that are shown mean."""
    board = scoreboards.of_result(result)
    words = {
        "penalty": board.metric("divergence_to_reference").short,
        "expert": board.expert,
    }
    meanings = {
        board.expert: f"Row {board.expert}: what {board.law} scores itself.",
        "start": "Row start: what training began from, on average over seeds.",
    }
    return [
        f"Rows in order of {board.metric(board.rank_by).title}. {_over_seeds(result.seeds)}; "
        "divergences and entropies in nats.",
        *_seeds(result, board),
        board.values,
        *(text.format(**words) for name, text in board.notes.items() if name in shown),
        *(meanings[name] for name in references),
        *_objectives(result),
        *_lost(result, shown),
        *_bold(result, board),
        _status(result),
    ]


def _objectives(result: RunResult) -> list[str]:
    """What methods minimise that is more than a divergence of the two laws, and whose gradient is
    not that of the divergence that is shown."""
    asides: dict[str, list[str]] = {}
    for name, m in result.methods.items():
        if m.aside:
            asides.setdefault(m.aside, []).append(name)
    pairs = [OF_PAIRS] if any(m.how == "of pairs" for m in result.methods.values()) else []
    return [*pairs, *(f"{_listed(names)}: {aside}" for aside, names in asides.items())]


def _over_seeds(seeds: int) -> str:
    return f"IQM over {seeds} seeds {INTERVAL}" if seeds > 1 else "Values of one seed"


def _seeds(result: RunResult, board: Scoreboard) -> list[str]:
    """How far the intervals go, where that is less than one expects."""
    if result.seeds == 1:
        also = " What follows ± is the standard error of sampling alone." * board.estimated
        return [ONE_SEED_NOTE + also]
    said = [FEW_SEEDS_NOTE] if result.seeds < FEW_SEEDS else []
    if board.estimated:
        said.append(
            "Intervals hold the spread of seeds and the error of sampling together; numbers have "
            "the digits that these support."
        )
    return said


def _lost(result: RunResult, shown: Collection[str]) -> list[str]:
    """What the count beside a number means, where some method has lost seeds."""
    scores = ({**m.metrics, "gap": m.gap} for m in result.methods.values())
    columns = (own for each in scores for name, own in each.items() if name in shown)
    return [LOST] if any(own and not own.whole for own in columns) else []


def _bold(result: RunResult, board: Scoreboard) -> list[str]:
    if result.seeds == 1 or len(result.methods) == 1:
        return []
    return [
        "Bold: the best, where its difference from every other method, seed by seed, is beyond its "
        f"error. No value above the {board.expert}'s own is called best."
    ]


def _status(result: RunResult) -> str:
    if not any(m.gap for m in result.methods.values()):
        return "Status ok: finite to the end, and no alarm. How near to its best nobody knows here."
    return (
        f"Status ok: finite to the end, no alarm, and within {NEAR:g} of the best of the class; "
        "away counts the seeds that ended further off."
    )


def status(m: MethodResult) -> str:
    """Of a method in a word or two; `ok` only where nothing that is known speaks against it."""
    if m.status != "ok":
        return m.status
    if m.gap is not None:
        away = sum(value > NEAR for value in m.gap.seeds)
        if away:
            return f"{away} of {len(m.gap.seeds)} away"
    return "alarm" if m.alarms else "ok"


# --- what became of the start ---------------------------------------------------------------------


def since_start(result: RunResult) -> dict[str, str]:
    """Method -> whether it ended below its start in what it minimises, on its own prefixes, by more
    than two standard errors, and why not; and whether it sought modes or covered them."""
    board = scoreboards.of_result(result)
    said = {}
    for name, m in result.methods.items():
        own = {change.metric: change for change in m.changes}
        first = own.get(f"{m.minimises}_token")
        sentences = [] if first is None else [_fell(first, m, board)]
        if "seeking" in own:
            sentences.append(_sought(own, board))
        elif "precision" in own and "recall" in own:  # of an older run
            sentences.append(_of_drawn_tokens(own["precision"], own["recall"]))
        if sentences:
            said[name] = " ".join(sentences)
    return said


def _fell(change: Change, m: MethodResult, board: Scoreboard) -> str:
    title = board.metric(change.metric).title
    values = f"{change.start:.3f} at the start, {change.end:.3f} at the end"
    error = f"two standard errors: {2 * change.stderr:.3f}"
    if change.clear and change.moved < 0:
        return f"{title}: {values}, lower by {-change.moved:.3f} ({error})."
    how = "higher by" if change.moved > 0 else "lower by only"
    return (
        f"{title}: {values}, {how} {abs(change.moved):.3f} ({error}): it does not end below its "
        f"start. {_why_not(m, board)}"
    )


def _why_not(m: MethodResult, board: Scoreboard) -> str:
    """Why a method did not come nearer to the expert on its own prefixes, as far as its result
    says."""
    if m.status != "ok":
        return f"It diverged ({m.reason})."
    still = [alarm for alarm in m.alarms if "never moves" in alarm]
    if still:
        return still[0]
    if m.group not in OF_THE_EXPERT:
        return (
            f"It learns from rows, whose law is not the {board.expert}'s, at the rows' prefixes: "
            "nothing in it asks for less there."
        )
    if m.level != "token" or m.how or m.aside or "the expert's prefixes" in m.target:
        return "It is not what is minimised: see its level and the sentence of its card."
    return "It is within the error of sampling: more --updates move it, more --samples show it."


def _sought(own: Mapping[str, Change], board: Scoreboard) -> str:
    """Which of precision and recall gained more at the expert's prefixes, where that leaves the
    policy, and what became of its entropy and of the mass off either support."""
    ahead = own["seeking"]
    kind = "neither more than the other"
    if ahead.clear:
        kind = "it seeks modes" if ahead.moved > 0 else "it covers"
    precision, recall = (own[name].moved for name in ("precision_token_expert", "recall"))
    entropy, off, dropped = (
        own[name] for name in ("entropy_token_expert", "off_support", "dropped_support")
    )
    from_to = lambda change, form: f"{change.start:{form}} → {change.end:{form}}"
    return (
        f"At the {board.expert}'s prefixes precision gained {precision:+.3f}, recall {recall:+.3f} "
        f"nats a token, {ahead.moved:+.3f} ± {2 * ahead.stderr:.3f} apart: {kind}. There precision "
        f"less recall goes {from_to(ahead, '+.2f')} (0 is the {board.expert}, above it narrower), "
        f"entropy {from_to(entropy, '.2f')}, mass off the {board.expert}'s support "
        f"{from_to(off, '.1%')}, the {board.expert}'s off the policy's {from_to(dropped, '.1%')}."
    )


def _of_drawn_tokens(precision: Change, recall: Change) -> str:
    """Which of both gained more, where they were estimated at drawn tokens."""
    ahead = precision.moved - recall.moved
    error = 2 * float(np.hypot(precision.stderr, recall.stderr))
    kind = "neither more than the other"
    if abs(ahead) > error:
        kind = "it seeks modes" if ahead > 0 else "it covers"
    moves = f"precision {precision.moved:+.2f}, recall {recall.moved:+.2f} nats a token"
    return f"{moves[0].upper()}{moves[1:]}, {ahead:+.2f} ± {error:.2f} apart: {kind}."


def from_covering_to_seeking(result: RunResult) -> str:
    """All methods in one order, and which of them two standard errors do not tell apart; nothing
    where there are not two."""
    moved = {
        name: change
        for name, m in result.methods.items()
        for change in m.changes
        if change.metric == "seeking"
    }
    names = sorted(moved, key=lambda name: moved[name].moved)
    if len(names) < 2:
        return ""
    # both are differences from one start, on the same strings: their errors add up to less
    error = lambda a, b: 2 * float(np.hypot(moved[a].stderr, moved[b].stderr))
    tied = [
        f"{a} and {b}"
        for a, b in itertools.combinations(names, 2)
        if moved[b].moved - moved[a].moved <= error(a, b)
    ]
    order = ", ".join(f"{name} ({moved[name].moved:+.3f})" for name in names)
    apart = f"not told apart by two standard errors: {'; '.join(tied)}" if len(tied) <= MANY else ""
    apart = apart or f"{len(tied)} pairs of them are not told apart by two standard errors"
    return f"From covering to seeking: {order}; {apart if tied else 'all of them told apart'}."


# --- under pictures -------------------------------------------------------------------------------


def under_curves(
    result: RunResult, panels: Collection[str], lined: Collection[str], floor: float
) -> str:
    """What the lines of the learning curves are; `lined` are the panels with the expert's value."""
    board = scoreboards.of_result(result)
    band = "IQM over seeds with its 95% interval as a band." if result.seeds > 1 else "One seed."
    floored = f" The gap is floored at {floor:g}." * ("gap" in panels)
    line = f" The fine dotted line is the {board.expert}'s own value." * bool(lined)
    return f"{band} {_looks(result.methods)}{floored}{line}"


def under_modes(result: RunResult, to_gain: Mapping[str, float]) -> str:
    """What the marks of the picture of modes are; `to_gain` is what the expert has more than the
    start of recall and of precision."""
    expert = scoreboards.of_result(result).expert
    whole = ""
    if to_gain:
        recall, precision = to_gain["recall"], to_gain["precision_token_expert"]
        whole = f" The {expert} itself is at ({recall:.2f}, {precision:.2f})."
    return (
        f"What each method gained since the start in precision, E_q log p, and in recall, E_p log "
        f"q: summed over the vocabulary at the {expert}'s prefixes, p the {expert} and q the "
        "policy; bars are two standard errors, string by string. Above the line it sought modes, "
        f"below it covered them.{whole}"
    )


def under_cost(result: RunResult) -> str:
    """What the marks of the picture of costs are."""
    marks = "IQMs with 95% intervals" if result.seeds > 1 else "Values of the one seed"
    return (
        f"{marks}. Seconds are of training, as this machine was busy then; compiling, evaluations "
        "and learning rates that were tried come on top."
    )


def under_rewards(result: RunResult) -> str:
    """What the lines and marks of the rewards are."""
    board = scoreboards.of_result(result)
    levels = {m.level for m in result.methods.values()}
    of = {
        "sequence": "of whole strings",
        "token": "of a method at the token level, of each token",
        "occupancy": "at the level of occupancies, of each prefix",
    }
    ratios = "; ".join(text for level, text in of.items() if level in levels)
    parts = [f"s is log p - log q, p the {board.expert}'s law: {ratios}"] if ratios else []
    if "return" in levels:
        parts.append(
            "where a return is maximised, s is log ref - log q, and what is paid is beta times "
            "the line"
        )
    said = "; ".join(parts)
    beyond = [name for name, m in result.methods.items() if m.how]
    marks = (
        "Marks are the mean s of the policy's own strings, which is -KL(q||p), and of the "
        f"{board.expert}'s, KL(p||q), at the end of training; those further out than the axes are "
        "not shown. "
    )
    left = f" No line for {_few(beyond, 0)}: no function of one log-ratio." if beyond else ""
    return (
        "What each divergence pays a log-ratio s: e^s f'(e^s) - f(e^s), up to a constant. "
        f"{said[0].upper()}{said[1:]}. "
        f"{marks * ('sequence' in levels)}Strips are what the policies wrote in samples.jsonl, all "
        f"seeds together, where its log-probs are known.{left}"
    )


def under_training(result: RunResult) -> str:
    """What the panels of training itself are."""
    band = "IQM over seeds, the band from the least of them to the most."
    band = band if result.seeds > 1 else "One seed."
    return (
        f"{band} The gradient norm is that of the policy before it is bounded; where "
        "--max-grad-norm bounds it, the share of steps in which it does stands beside it, and "
        "where a batch serves several steps, the share of actions that a clip of q / q_old stops."
    )


def _looks(named: Mapping[str, MethodResult]) -> str:
    """What colours and lines tell of these methods."""
    own = style.looks(named)
    as_given = all(own[name] == style.look(m) for name, m in named.items())
    methods = list(named.values())
    by_divergence = [m for m in methods if m.level != "return"]
    colours = {m.minimises: style.colour(m.minimises) for m in by_divergence}
    apart = len(set(colours.values())) == len(colours) and style.OTHER not in colours.values()
    if len(by_divergence) < len(methods) or not apart or not as_given:
        return "Each method has the colour, line and mark of the legend."
    legends: dict[str, list[str]] = {}
    for m in methods:
        known = legends.setdefault(LINES.get(m.look.line, m.look.line), [])
        known += [m.look.legend] if m.look.legend and m.look.legend not in known else []
    lines = "; ".join(f"{line}: {', '.join(of)}" for line, of in legends.items() if of)
    return f"Colour is the divergence minimised. Lines by where the log-ratio comes from: {lines}."


def under_plane(plane: Plane, result: RunResult, y: str | None) -> str:
    """What the marks of a plane are."""
    if y is None:
        return ""
    both = lambda row: plane.x in row and y in row
    marks = (
        "Large marks are IQMs with 95% intervals, dots are seeds"
        if result.seeds > 1
        else "Marks are the one seed"
    )
    stars = any(map(both, result.class_optimum.values()))
    sweep = (
        " The grey line is the SFT policy at sampling temperatures from cold to hot: a method is "
        "worth its trouble where it leaves that line."
    ) * any(map(both, result.temperatures))
    best = ", stars the best policy of the class for each divergence" * stars
    own = f" {plane.caption}" * bool(plane.caption)
    return f"{marks}{best}.{own}{sweep}"


def under_frontier(seeds: int) -> str:
    """What the two panels of the frontier show."""
    marks = "Large marks are IQMs, dots are seeds." if seeds > 1 else "Marks are the one seed."
    return (
        "The line is exact: no policy earns more at as small a divergence from the reference; "
        f"the star is the optimum at this run's beta. {marks} "
        "Right: how much more than its reward needs each method's divergence is."
    )
