"""Truth by enumeration: every divergence at every level, exact gradients, the best policy in a
class.

All four levels (`fdiv.types.Level`) are read off the strings of a token MDP and two policies'
log-probs on them:

    sequence      D_f of the laws of whole strings;
    occupancy     mean over positions t of D_f between the laws of the first t+1 tokens, finished
                  strings staying put;
    token_policy  mean over positions t of E_prefix[D_f(p(.|prefix) || q(.|prefix))], prefixes from
                  the policy, finished strings contributing 0;
    token_expert  the same at prefixes from the expert.

So T times token_policy is the sequence level for reverse_kl, and T times token_expert for
forward_kl. Values are in nats."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fdiv import divergences
from fdiv import tokens as tk
from fdiv.types import (
    PAD,
    Divergence,
    Level,
    Model,
    Objective,
    Params,
    Policy,
    Rollout,
    Sequences,
    TokenMDP,
    UsageError,
)

LEVELS = (Level.sequence, Level.occupancy, Level.token_policy, Level.token_expert)
LOOKS_AHEAD = 1e-4  # nats by which a law may differ for rounding
LIMIT = 200_000  # strings enumerated unless the caller raises it


def one_end(eos: tk.Eos) -> int | None:
    """The symbol that ends strings, where they are to be enumerated. Raises `UsageError` where
    several do."""
    if isinstance(eos, tuple):
        problem = "are several symbols that end a string, and strings are enumerated for one."
        raise UsageError("eos", eos, problem, "Estimate from samples instead.")
    return eos


def count_strings(vocab: int, horizon: int, eos: tk.Eos) -> int:
    """How many strings an MDP has for one prompt: V^T, or sum_{t<T} (V-1)^t + (V-1)^T when EOS may
    end them."""
    if one_end(eos) is None:
        return vocab**horizon
    return sum((vocab - 1) ** t for t in range(horizon)) + (vocab - 1) ** horizon


def log_count(vocab: int, horizon: int, eos: int | None) -> float:
    """Natural log of `count_strings`, which itself has as many digits as the horizon asks for."""
    if eos is None:
        return horizon * math.log(vocab)
    ways = vocab - 1  # sum_{t<T} w^t + w^T = (w^{T+1} - 1) / (w - 1), of w ways to go on
    if ways <= 1:
        return math.log(horizon * ways + 1)
    top = (horizon + 1) * math.log(ways)
    return top + math.log1p(-math.exp(-top)) - math.log(ways - 1)


def refuse_unless_enumerable(vocab: int, horizon: int, eos: tk.Eos, limit: int = LIMIT) -> None:
    """Raise `UsageError` saying how many strings there are and which horizon would fit, if they are
    more than `limit`."""
    eos = one_end(eos)
    digits = log_count(vocab, horizon, eos) / math.log(10)
    few = digits < 9  # few enough to be counted one by one
    if few and (count := count_strings(vocab, horizon, eos)) <= limit:
        return
    if not few and digits <= math.log10(max(limit, 1)):
        return
    longest = _longest(vocab, horizon, eos, limit)
    size = f"{count:,}" if few else f"about 10^{int(digits):,}"
    raise UsageError(
        "horizon",
        horizon,
        (
            f"enumerating its strings over {vocab} symbols needs {size} of them, over the limit "
            f"of {limit:,}."
        ),
        f"Use {f'a horizon of at most {longest}' if longest else 'fewer symbols'}, or raise the "
        "limit.",
    )


def _longest(vocab: int, horizon: int, eos: int | None, limit: int) -> int:
    """The longest horizon below this one whose strings are no more than `limit`, or 0."""
    low, high = 0, horizon
    while high - low > 1:
        middle = (low + high) // 2
        fits = log_count(vocab, middle, eos) <= math.log(max(limit, 1)) + 1e-12
        low, high = (middle, high) if fits else (low, middle)
    return low


class Space(NamedTuple):
    """All strings of an MDP for the empty prompt, and the prefix tree that they make.

    A state is a prefix that goes on (K of them), a node a non-empty prefix, whole strings included
    (M of them)."""

    sequences: Sequences  # [N, T] sorted, each of weight one
    state: np.ndarray  # [N, T] which state each token was written in (K where there is no action)
    state_at: tuple[
        np.ndarray, np.ndarray
    ]  # row and column of a token written in each state, [K] each
    node_at: tuple[np.ndarray, np.ndarray]  # row and column of each node's last token, [M] each
    node_time: (
        np.ndarray
    )  # [M] how many positions a string spends at each node: one, or the rest where it has ended
    vocab: int
    horizon: int
    eos: int | None


def enumerate_strings(vocab: int, horizon: int, eos: tk.Eos, limit: int = LIMIT) -> Space:
    """Every string without a prompt. Raises `UsageError` if there are more than `limit`."""
    eos = one_end(eos)
    refuse_unless_enumerable(vocab, horizon, eos, limit)
    alive, finished = np.zeros((1, 0), np.int32), []
    ordinary = np.array([v for v in range(vocab) if v != eos], np.int32)
    for t in range(horizon):
        if eos is not None:
            tail = np.full((len(alive), horizon - t), PAD, np.int32)
            tail[:, 0] = eos
            finished.append(np.concatenate([alive, tail], axis=1))
        alive = np.concatenate(
            [np.repeat(alive, len(ordinary), 0), np.tile(ordinary, len(alive))[:, None]], axis=1
        )
    tokens = np.concatenate([*finished, alive])
    tokens = tokens[np.lexsort(tokens.T[::-1])]
    return _tree(tokens, vocab, horizon, eos)


def _tree(tokens: np.ndarray, vocab: int, horizon: int, eos: int | None) -> Space:
    """The prefix tree of sorted strings: strings that share a prefix are neighbours, so the first
    of them stands for it."""
    mask = tokens != PAD
    changed = np.cumsum(tokens[1:] != tokens[:-1], axis=1) > 0
    first_node = mask & np.concatenate([np.ones((1, horizon), bool), changed])
    first_state = mask & np.concatenate(
        [np.ones((1, horizon), bool), np.pad(changed, [(0, 0), (1, 0)])[:, :-1]]
    )
    number = (
        np.cumsum(first_state, axis=0)
        - 1
        + np.concatenate([[0], np.cumsum(first_state.sum(0))[:-1]])
    )
    small = lambda indices: tuple(
        x.astype(np.int32) for x in indices
    )  # the same arrays serve both precisions
    column, row = small(np.nonzero(first_state.T))  # column by column, as the states are numbered
    ends = np.pad(~mask, [(0, 0), (0, 1)], constant_values=True)[:, 1:]
    time = np.where(ends, horizon - np.arange(horizon), 1).astype(np.int32)
    node_at = small(np.nonzero(first_node))
    state = np.where(mask, number, first_state.sum()).astype(np.int32)
    arrays: tuple[Any, ...] = (tokens, mask, np.ones(len(tokens), np.float32))  # in numpy
    sequences = Sequences(*arrays)
    return Space(sequences, state, (row, column), node_at, time[node_at], vocab, horizon, eos)


class Law(NamedTuple):
    """A policy's log-probs over a `Space`."""

    conditional: Array  # [K, V] log q(. | state)
    arrival: Array  # [K] log q(state is reached)
    node: Array  # [M] log q(node is reached)
    string: Array  # [N] log q(string)


def law(space: Space, policy: Policy, params: Params) -> Law:
    """What the policy says of every string of the space; the head runs once a state, not once a
    string."""
    tokens, mask, _ = space.sequences
    features = policy.trunk(params, tokens)
    conditional = policy.head(params, features[space.state_at])
    entry = space.state * space.vocab + np.maximum(tokens, 0)
    action = jnp.where(mask, jnp.pad(conditional, [(0, 1), (0, 0)]).reshape(-1)[entry], 0.0)
    prefix = jnp.cumsum(action, axis=1)
    before = jnp.pad(prefix, [(0, 0), (1, 0)])
    return Law(conditional, before[space.state_at], prefix[space.node_at], prefix[:, -1])


def known_law(space: Space, model: Model) -> Law:
    """`law` as data: computed once, compiled, in the precision of the moment."""
    return jax.tree.map(
        np.asarray, jax.jit(lambda params: law(space, model.policy, params))(model.params)
    )


def divergence(
    d: Divergence,
    space: Space,
    p: Law,
    q: Law,
    level: Level = Level.sequence,
    policy_prefixes: float = 1.0,
) -> Array:
    """Exact `D_f(p||q)` in nats at a level (module docstring).

    At `token_policy`, `policy_prefixes` is the share of prefixes that are the policy's, the others
    being the expert's."""
    level = Level(level)
    if level is Level.sequence:
        return d.perspective(p.string, q.string).sum()
    if level is Level.occupancy:
        return over_nodes(space, d.perspective(p.node, q.node))
    each = d.perspective(p.conditional, q.conditional).sum(-1)
    if level is Level.token_expert:
        return over_states(space, p, each)
    return jnp.asarray(
        sum(
            share * over_states(space, x, each)
            for share, x in ((policy_prefixes, q), (1 - policy_prefixes, p))
            if share
        )
    )


def over_nodes(space: Space, each: Array) -> Array:
    """A number per node [M], `f` of its masses, as the divergence of occupancies."""
    return jnp.sum(space.node_time * each) / space.horizon


def over_states(space: Space, visitor: Law, each: Array) -> Array:
    """A number per state [S], the mean over the states that a law visits, per step."""
    return jnp.sum(jnp.exp(visitor.arrival) * each) / space.horizon


def every_level(d: Divergence, space: Space, p: Law, q: Law) -> tuple[Array, Array, Array, Array]:
    """`divergence` at each of `LEVELS`, f written once."""
    log_p, log_q = (jnp.concatenate([x.string, x.node, x.conditional.reshape(-1)]) for x in (p, q))
    strings, nodes = len(q.string), len(q.node)
    each = d.perspective(log_p, log_q)
    token = each[strings + nodes :].reshape(q.conditional.shape).sum(-1)
    occupancy = over_nodes(space, each[strings : strings + nodes])
    return (
        each[:strings].sum(),
        occupancy,
        over_states(space, q, token),
        over_states(space, p, token),
    )


def entropy(q: Law) -> Array:
    """Entropy of the law of whole strings, in nats."""
    return -jnp.sum(jnp.where(jnp.isneginf(q.string), 0.0, jnp.exp(q.string) * q.string))


def expectation(q: Law, values: Array) -> Array:
    """E_q of a number per string [N]."""
    return jnp.sum(jnp.exp(q.string) * values)


def weighted(space: Space, q: Law) -> Sequences:
    """The space as a population of q: each string weighs its probability."""
    return space.sequences._replace(weight=jnp.exp(q.string))


def enumerator(space: Space) -> Rollout:
    """A rollout that returns all strings weighted by their probability: a sampler's place taken by
    the exact expectation.

    The same objective, given this rollout and demonstrations `weighted(space, expert law)`, yields
    its exact expected gradient. Prompts are not read: the space is that of the empty prompt."""

    def rollout(
        key: Array, policy: Policy, params: Params, prompts: Sequences
    ) -> tuple[Sequences, Array]:
        log_probs = tk.log_probs(policy, params, space.sequences, space.vocab)
        return space.sequences._replace(weight=jnp.exp(log_probs.sum(1))), log_probs

    return rollout


def expected_gradient(
    objective: Objective, params: Params, demos: Sequences, aux=None, key: Array | None = None
) -> Params:
    """The exact expected gradient of an objective built on an `enumerator`, given all
    demonstrations by weight."""
    init_key, prepare_key = jax.random.split(jax.random.key(0) if key is None else key)
    aux = objective.init(init_key, params) if aux is None else aux
    aux, batch, _ = objective.prepare(prepare_key, params, aux, demos)
    return jax.grad(lambda x: objective.loss(x, aux, batch)[0])(params)


# --- the best policy in a class -------------------------------------------------------------------


DIGITS = (2, 3, 4, 5, 6)  # of the widths 10^-k that a kink is rounded over on the way to it
APART = 1e-4  # nats: minima whose values differ by less count as one


class Optimum(NamedTuple):
    """The best policy found, and every local minimum met on the way, best first."""

    value: float
    params: Params
    minima: list[tuple[float, Params]]


def best_policy(
    stages: Sequence[Callable[[Params], Array]],
    initial: Sequence[Params],
    *,
    iterations: int = 5000,
    apart: float = APART,
) -> Optimum:
    """Minimise the last of `stages` by L-BFGS in double precision from each of `initial`, through
    the others in turn.

    Minima whose values differ by less than `apart` count as one. The losses are traced in float64:
    give them numpy float64 constants. Source: Liu & Nocedal 1989, through scipy."""
    return _descended(
        [jax.jit(jax.value_and_grad(loss)) for loss in stages], initial, iterations, apart
    )


def _descended(
    slopes: Sequence[Callable[[Params], tuple[Array, Params]]],
    initial: Sequence[Params],
    iterations: int,
    apart: float,
) -> Optimum:
    """`best_policy` of losses that are given as functions to their value and gradient."""
    from scipy.optimize import minimize  # slow to load, and training does without it

    options = {
        "maxiter": iterations,
        "maxfun": 4 * iterations,
        "ftol": 1e-15,
        "gtol": 1e-10,
        "maxcor": 30,
    }
    shape = jax.tree.map(np.asarray, initial[0])

    def descend(slope: Callable, start: np.ndarray):
        def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = slope(_like(shape, flat))
            return float(value), _flat(gradient)

        return minimize(evaluate, start, jac=True, method="L-BFGS-B", options=options)

    points = [_flat(params) for params in initial]
    runs = []
    with jax.enable_x64(True):
        for slope in slopes:
            runs = [descend(slope, point) for point in points]
            points = [run.x for run in runs]
    runs = sorted((run for run in runs if np.isfinite(run.fun)), key=lambda run: run.fun)
    minima: list[tuple[float, Params]] = []
    for run in runs:
        if not minima or run.fun > minima[-1][0] + apart:
            minima.append((float(run.fun), _like(shape, run.x)))
    if not minima:
        problem = f"has no finite value at any of {len(initial)} starts."
        raise UsageError("policy", "params", problem, "Give a divergence or starts that have one.")
    return Optimum(*minima[0], minima)


def _flat(params: Params) -> np.ndarray:
    """All numbers of a tree, in float64; by numpy, as a search asks for it thousands of times."""
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(params)])


def _like(shape: Params, flat: np.ndarray) -> Params:
    """A tree of that shape of so many numbers."""
    leaves, structure = jax.tree.flatten(shape)
    parts = np.split(flat, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return structure.unflatten([x.reshape(leaf.shape) for x, leaf in zip(parts, leaves)])


def random_starts(
    policy: Policy, count: int, seed: int = 0, scales: Sequence[float] = (0.3, 1.0, 3.0)
) -> list[Params]:
    """Starting points for `best_policy`: normal parameters of the policy's shape, at each scale in
    turn."""
    shape = jax.eval_shape(policy.init, jax.random.key(0))
    generator = np.random.default_rng(seed)
    fill = lambda scale: jax.tree.map(lambda x: scale * generator.standard_normal(x.shape), shape)
    return [fill(scales[i % len(scales)]) for i in range(count)]


READS = {  # the fields of a policy's law that a divergence at a level is computed from
    Level.sequence: ("string",),
    Level.occupancy: ("node",),
    Level.token_expert: ("conditional",),
    Level.token_policy: ("conditional", "arrival"),
}


class ClassSearch:
    """The policies of a class nearest to an expert at one level, in several divergences.

    One compiled program gives each one's value and gradient, and those of the smooth ones that a
    kink is approached by: most of it is the policy's law of every string, which is all theirs."""

    def __init__(
        self,
        family: Mapping[str, Divergence],
        space: Space,
        expert: Model | Law,
        policy: Policy,
        level: Level = Level.sequence,
        policy_prefixes: float = 1.0,
        digits: Sequence[int] = DIGITS,
    ):
        """`family` are the divergences by any names, `expert` may be its law in float64, `digits`
        are those of `stages`."""
        self._stages: dict[str, range] = {}
        all_stages: list[Divergence] = []
        for name, d in family.items():
            own = stages(d, digits)
            self._stages[name] = range(len(all_stages), len(all_stages) + len(own))
            all_stages += own
        with jax.enable_x64(True):
            # once, as data: traced, the compiler would work it out again in every search
            p = expert if isinstance(expert, Law) else known_law(space, expert)
        read = READS[Level(level)]

        def value_of(d: Divergence) -> Callable:
            def value(own: dict[str, Array]) -> Array:
                nats = divergence(d, space, p, p._replace(**own), level, policy_prefixes)
                return nats.astype(float)  # a user's own may have another type than the others

            return jax.value_and_grad(value)

        branches = [value_of(d) for d in all_stages]

        def slope(index: Array, params: Params) -> tuple[Array, Params]:
            def read_of(params: Params) -> dict[str, Array]:
                q = law(space, policy, params)
                return {field: getattr(q, field) for field in read}

            own, back = jax.vjp(read_of, params)
            # with its gradient: else each branch would hand out what the others need for theirs
            value, along = jax.lax.switch(index, branches, own)
            return value, back(along)[0]

        self._slope = jax.jit(slope)

    def value_and_gradient(self, name: str, params: Params) -> tuple[Array, Params]:
        """The divergence of that name from the expert, in nats, and its gradient; in double
        precision under `jax.enable_x64` alone."""
        return self._slope(np.int32(self._stages[name][-1]), params)

    def best(self, name: str, initial: Sequence[Params], iterations: int = 5000) -> Optimum:
        """The nearest in the divergence of that name, as `best_policy` searches it."""
        each = [functools.partial(self._slope, np.int32(i)) for i in self._stages[name]]
        return _descended(each, initial, iterations, APART)


def best_in_class(
    d: Divergence,
    space: Space,
    expert: Model,
    policy: Policy,
    initial: Sequence[Params],
    level: Level = Level.sequence,
    policy_prefixes: float = 1.0,
    iterations: int = 5000,
    digits: Sequence[int] = DIGITS,
) -> Optimum:
    """`ClassSearch` of one divergence."""
    search = ClassSearch({d.name: d}, space, expert, policy, level, policy_prefixes, digits)
    return search.best(d.name, initial, iterations)


def class_optimum(
    d: str | Divergence,
    mdp: TokenMDP,
    policy: Policy,
    *,
    level: Level | str = Level.sequence,
    starts: int = 12,
    seed: int = 0,
    limit: int = LIMIT,
) -> Optimum:
    """The policy of a class nearest to a task's expert, searched from so many random starts.

    `d` is a divergence or its name. Any policy will do, a user's own too
    (`fdiv.policies.from_function`); its value is in nats. Raises `UsageError` for a task whose
    expert is not known, whose strings have prompts, or are more than `limit`, and for a policy that
    is none: of other symbols, without parameters, or whose law of a token changes with that token
    or a later one."""
    if not isinstance(mdp, TokenMDP):
        fix = "Give what its build() makes."
        raise UsageError("mdp", type(mdp).__name__, "is no task.", fix)
    if not isinstance(starts, (int, np.integer)) or starts < 1:
        raise UsageError("starts", starts, "is no number of starts.", "Give at least 1.")
    if level not in [each.value for each in Level]:
        fix = f"Give one of {', '.join(each.value for each in Level)}."
        raise UsageError("level", level, "is no level.", fix)
    if mdp.expert is None:
        fix = "Use a task whose expert is known."
        raise UsageError("mdp.expert", None, "is what a policy would be near to.", fix)
    if jax.eval_shape(lambda key: mdp.prompts(key, 1), jax.random.key(0)).tokens.shape[1]:
        problem = "come before its strings, and strings are enumerated without."
        raise UsageError("mdp.prompts", "prompts", problem, "Use a task without prompts.")
    space = enumerate_strings(mdp.vocab, mdp.horizon, mdp.eos, limit)
    measure = divergences.parse(d) if isinstance(d, str) else d
    if not isinstance(policy, Policy):
        fix = "Make one with fdiv.policies.from_function."
        raise UsageError("policy", type(policy).__name__, "is no policy.", fix)
    initial = random_starts(policy, starts, seed)
    _refuse_unsound(policy, mdp, initial[0])
    return best_in_class(measure, space, mdp.expert, policy, initial, Level(level))


def _refuse_unsound(policy: Policy, mdp: TokenMDP, params: Params) -> None:
    """Raise `UsageError` for what gives numbers that are no law of the next token: a search would
    end somewhere all the same."""
    if not sum(np.size(leaf) for leaf in jax.tree.leaves(params)):
        fix = "Give an init that makes some; exact.divergence measures one policy."
        raise UsageError("policy", "init", "makes no parameters to search over.", fix)
    vocab, horizon = mdp.vocab, mdp.horizon
    tokens = np.random.default_rng(0).integers(vocab, size=horizon)
    later = np.arange(horizon) >= np.arange(horizon + 1)[:, None]  # from each place on, and nowhere
    batch = jnp.asarray(np.where(later, (tokens + 1) % vocab, tokens), jnp.int32)
    fix = "Give numbers [B, T, V] for tokens [B, T], row t the law of token t."
    try:
        own = jax.tree.map(lambda x: jnp.asarray(x, float), params)
        laws = np.asarray(policy.head(own, policy.trunk(own, batch)))
    except UsageError:
        raise
    except Exception as error:  # of the user's own code
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        problem = f"fails on strings of this task ({type(error).__name__}: {reason})."
        raise UsageError("policy", "logits", problem, fix) from error
    if laws.shape != (*batch.shape, vocab):
        problem = f"gives {laws.shape} for tokens {batch.shape} of {vocab} symbols."
        raise UsageError("policy", "logits", problem, fix)
    if np.isnan(laws).any():
        raise UsageError("policy", "logits", "gives numbers that are none (nan).", fix)
    for place in range(horizon):
        apart = np.nan_to_num(laws[place, : place + 1]) - np.nan_to_num(laws[-1, : place + 1])
        if np.abs(apart).max() > LOOKS_AHEAD:
            row = int(np.flatnonzero(np.abs(apart).max(-1) > LOOKS_AHEAD)[0])
            problem = f"changes its law of token {row} with token {place}: it looks ahead."
            raise UsageError("policy", "logits", problem, f"{fix[:-1]}, of tokens before t alone.")


def stages(d: Divergence, digits: Sequence[int] = DIGITS) -> list[Divergence]:
    """A divergence as a sequence of ever closer smooth ones: L-BFGS stalls on the kink of total
    variation.

    It is rounded over a width of 10^-k for each k of `digits`, and comes last as it is.
    """
    if d.name != "tv":
        return [d]

    def rounded(width: float) -> Divergence:
        root = lambda lp, lq: 0.5 * (jnp.sqrt((jnp.exp(lp) - jnp.exp(lq)) ** 2 + width**2) - width)
        return d._replace(perspective=root)

    return [rounded(10.0**-k) for k in digits] + [d]
