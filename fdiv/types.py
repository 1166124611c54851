"""The types that everything else is made of.

`p` is the expert, `q` the policy, `s = log p - log q` the log-ratio; B strings, T tokens, V
symbols; logs are natural. A state is a prefix, an action is a token, a transition appends it: a
benchmark is data only."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

Params = Any

# padding is a negative token, so it can be mistaken neither for EOS nor for any other symbol
PAD = -1


class Level(enum.StrEnum):
    """Between which laws a divergence is taken; the two token levels differ in whose prefixes the
    next tokens' laws are compared at."""

    sequence = "sequence"  # of whole strings
    occupancy = "occupancy"  # of (prefix, token) pairs, a mean over positions
    token_expert = "token_expert"  # of the next token, at the expert's prefixes
    token_policy = "token_policy"  # of the next token, at the policy's prefixes

    @property
    def plain(self) -> Literal["sequence", "occupancy", "token"]:
        """The level without whose prefixes: what options and results call it."""
        if self is Level.sequence:
            return "sequence"
        return "occupancy" if self is Level.occupancy else "token"

    @property
    def suffix(self) -> str:
        """What follows a divergence's name in the name of its metric: `js_token_expert`."""
        return {"sequence": "", "token_policy": "_token"}.get(self.value, f"_{self.value}")


LONGEST = 1200  # characters of what an error says
LONGEST_VALUE = 300  # and of a name or a value in it


def _cut(text: str, longest: int = LONGEST_VALUE) -> str:
    """The text, or its two ends where it is too long to be read."""
    half = longest // 2
    if len(text) <= longest:
        return text
    return f"{text[:half]} ... ({len(text):,} characters) ... {text[-half:]}"


def _shown(value: object) -> str:
    """`repr`, also of what is nested too deeply, or has too many digits, for it."""
    try:
        return repr(value)
    except (RecursionError, ValueError):
        return f"(a {type(value).__name__} that is too large to be shown)"


class UsageError(ValueError):
    """Something the user asked for that cannot be done: the field, its value, what is wrong and the
    fix. However long these are, the text is short enough to be read; the attributes are whole."""

    def __init__(self, field: str, value: object, problem: str, fix: str):
        said = (_cut(field), _cut(_shown(value)), _cut(problem, LONGEST), _cut(fix, LONGEST))
        super().__init__("{} = {}: {} {}".format(*said))
        self.field, self.value, self.problem, self.fix = field, value, problem, fix

    def under(self, owner: str) -> UsageError:
        """The same error of a field of `owner`: `width` becomes `scorer.width`."""
        return UsageError(f"{owner}.{self.field}", self.value, self.problem, self.fix)

    def __reduce__(self) -> tuple:
        return type(self), (
            self.field,
            self.value,
            self.problem,
            self.fix,
        )  # pickled, to be raised in another process


class Sequences(NamedTuple):
    """B strings in T columns: prompt, then completion, then padding (`PAD`)."""

    tokens: Array  # [B, T] int32
    mask: Array  # [B, T] True where the token was an action (EOS included, prompt and padding not)
    weight: (
        Array  # [B] how much each string counts: ones for samples, probabilities when enumerated
    )


class Divergence(NamedTuple):
    """`D_f(p||q) = E_q[f(p/q)]`, `f` convex with `f(1) = f'(1) = 0`, as three functions in log
    space."""

    name: str
    perspective: Callable[[Array, Array], Array]  # (log p, log q) -> q f(p/q), what is measured
    witness: Callable[[Array], Array]  # s -> f'(e^s), what a critic learns
    reward: Callable[[Array], Array]  # s -> e^s f'(e^s) - f(e^s), what a policy maximises
    # False: a sum over a vocabulary that is of no f, its perspective more than q f(p/q)
    of_ratio: bool = True

    def f(self, u: ArrayLike) -> Array:
        """f(u), elementwise, for a ratio u = p / q of 0 and more; NaN below. It is normalised:
        f(1) = f'(1) = 0."""
        if not self.of_ratio:
            self.reward(jnp.zeros(()))  # which says why there is no f
        ratio = jnp.asarray(u, float)
        value = self.perspective(jnp.log(ratio), jnp.zeros_like(ratio))
        return jnp.where(ratio < 0, jnp.nan, value)


class Readout(NamedTuple):
    """A policy's last step as data: `log q = log_softmax(c tanh((W h + bias) / c) / temperature)`
    of features h [..., D].

    Products are taken in the type of the weights, sums in float32 or wider."""

    weights: Array  # W [V, D]
    bias: Array | None = None  # [V]
    softcap: float | None = None  # c, as in Gemma 2; None: the product as it is
    temperature: Array | float = 1.0  # a number, or an array [], which may have a gradient


class Answers(NamedTuple):
    """What a policy computes of several answers to each prompt, which stand in a row: of the prompt
    once. N prompts, B = N x answers to each."""

    # params, prompts [N, P], horizon, answers to each -> what `start` gives of the prompts [B, P]
    start: Callable[[Params, Sequences, int, int], Any]
    # params, prompts [N, P], actions [B, H] -> features [B, H, D], row t has seen the prompt and
    # actions < t
    features: Callable[[Params, Sequences, Array], Array]


class ShortWay(NamedTuple):
    """What a model's head says of each token, by a shorter way than a row of V for it. It holds for
    the model with this trunk and this head: another that replaces either has no short way."""

    trunk: Callable[[Params, Array], Array]
    head: Callable[[Params, Array], Array]
    taken: Callable[[Params, Array], Array]  # params, tokens [B, T] -> [B, T], any at padding


class Policy(NamedTuple):
    """A law of the next token given the prefix, as pure functions. Row t of `trunk` has seen tokens
    < t."""

    init: Callable[[Array], Params]  # key -> params
    trunk: Callable[[Params, Array], Array]  # params, tokens [B, T] -> features [B, T, D]
    head: Callable[[Params, Array], Array]  # params, features [..., D] -> log-probs [..., V]
    start: Callable[
        [Params, Sequences, int], Any
    ]  # params, prompts, horizon -> cache of all but the last token
    step: Callable[
        [Params, Any, Array], tuple[Any, Array]
    ]  # params, cache, last token [B] -> cache, log-probs [B, V]
    # the head as data, for `fdiv.head`, which never holds [B, T, V]; None: it is no such head
    readout: Callable[[Params], Readout] | None = None
    # several answers to one prompt; None: each is computed by itself. Who replaces `trunk` or
    # `start` replaces this too
    answers: Answers | None = None
    # params, cache, rows [n] -> the cache of these strings alone, so that a sampler can leave ended
    # ones behind; None: a batch stays whole. Who replaces what a cache is replaces this too
    fewer: Callable[[Params, Any, Array], Any] | None = None
    short: ShortWay | None = None  # None: a token's log-prob is read off its row of `head`


class Model(NamedTuple):
    """A policy with its parameters: a known expert, a teacher, a reference."""

    policy: Policy
    params: Params


class Scorer(NamedTuple):
    """A real number for every (prefix, token): a discriminator, reward or potential net. Shaped as
    a policy is."""

    init: Callable[
        [Array, Params], Params
    ]  # key, the policy's starting params (its trunk may serve) -> params
    trunk: Callable[
        [Params, Array], Array
    ]  # params, tokens [B, T] -> features [B, T, D], row t has seen tokens < t
    head: Callable[
        [Params, Array], Array
    ]  # params, features [..., D] -> a number per next token [..., V]
    short: ShortWay | None = None  # as a policy's


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Alike:
    """What is known of a batch's rows before it is computed: each `group` in a row answer one
    prompt, which is within the first `columns`. It holds as long as rows stay in their order."""

    group: int = 1
    columns: int = 0


ALONE = Alike()


class Pairs(NamedTuple):
    """n comparisons: of two strings on one prompt, the one preferred. A string labelled alone
    leaves the other weight 0."""

    chosen: Sequences
    rejected: Sequences


class Regulariser(NamedTuple):
    """What a policy pays for leaving a reference: beta D_f(reference||policy); reverse_kl is
    KL(policy||reference)."""

    divergence: str  # by the name that `divergences.parse` takes
    beta: float
    reference: Model | None = None  # None: the policy as it was when training began


class Pieces(NamedTuple):
    """Symbols that are pieces of text, as a tokenizer has them."""

    sizes: Array  # [V] bytes of text of each; 0 of what is no text, such as EOS
    # [N] those that stand for something, None: all do. The others have the probability that a model
    # gives them, and are never sampled
    known: Array | None = None


class TokenMDP(NamedTuple):
    """A task: who asks, who answers well, and when a string ends."""

    vocab: int  # number of symbols, EOS among them
    horizon: int  # most actions in a string
    # the symbol that ends a string, or several of which any does; None: every string has `horizon`
    # actions
    eos: int | tuple[int, ...] | None
    prompts: Callable[[Array, int], Sequences]  # key, n -> prompts [n, P], no actions
    demos: Callable[[Array, int], Sequences]  # key, n -> strings of the expert [n, P + horizon]
    held_out: Callable[[Array, int], Sequences]  # the same, never trained on
    expert: Model | None  # when its law is known
    statistics: Mapping[
        str, Callable[[Sequences], Array]
    ] = {}  # name -> strings -> [B], reported in expectation
    score: Callable[[Sequences], Array] | None = (
        None  # the true return of each string [B], where there is one
    )
    regulariser: Regulariser | None = None  # what is taken off the return
    pairs: Callable[[Array, int], Pairs] | None = None  # key, n -> labelled comparisons
    labels: Callable[[Array, int], Pairs] | None = (
        None  # the same, strings judged alone among them; None: as `pairs`
    )
    held_out_pairs: Callable[[Array, int], Pairs] | None = None  # the same, never trained on
    solutions: Callable[[Sequences], Array] | None = (
        None  # strings -> which of the right ways each is, -1 for wrong [B]
    )
    pieces: Pieces | None = None  # of text; None: symbols stand for themselves


# key, policy, params, prompts -> strings and the log-probs [B, T] of their actions under the policy
Rollout = Callable[[Array, Policy, Params, Sequences], tuple[Sequences, Array]]


class Claim(NamedTuple):
    """What a method is meant to minimise, at which level, and what it really does, in one
    sentence."""

    minimises: str  # a divergence, by the name that `divergences.parse` takes
    # return: maximises the regularised return, less this divergence from the reference
    level: Level | Literal["return"]
    sentence: str
    # token_policy: the share of prefixes that are the policy's, the others being the expert's
    policy_prefixes: float = 1.0
    # in which way it is more than the divergence of the two laws, "at temperature 2", and then
    # (logits of q, logits of p) -> what it is the gradient of at each prefix, or of whole strings
    how: str = ""
    measure: Callable[[Array, Array], Array] | None = None
    # what a table has to say where its gradient is that of no divergence of the two laws, or of
    # another than the one that is shown
    aside: str = ""

    @property
    def metric(self) -> str:
        """What it minimises as a metric is called, without its level: `js`, `js_of_pairs`."""
        return "_".join([self.minimises, *self.how.split()])

    @property
    def plain_level(self) -> Literal["sequence", "occupancy", "token", "return"]:
        """The level as results have it."""
        return "return" if self.level == "return" else Level(self.level).plain


class Optimiser(Protocol):
    """Makes the optimiser of what a method learns beside its policy: a discriminator, a value
    function, a reward model."""

    def __call__(
        self, rate: optax.ScalarOrSchedule, betas: tuple[float, float] = (0.9, 0.999)
    ) -> optax.GradientTransformation:
        """At a learning rate or a schedule of it; `betas` are Adam's where no one asks for other
        ones."""
        ...


def adam(
    rate: optax.ScalarOrSchedule, betas: tuple[float, float] = (0.9, 0.999)
) -> optax.GradientTransformation:
    """The `Optimiser` where none is given. Kingma & Ba 2015 (arXiv 1412.6980)."""
    return optax.adam(rate, b1=betas[0], b2=betas[1])


class Components(NamedTuple):
    """The values an objective is built from."""

    policy: Policy
    mdp: TokenMDP
    rollout: Rollout
    scorer: Scorer | None = None
    critic: Scorer | None = None  # one number per prefix: a value function
    penalty: Any = (
        None  # `fdiv.penalties.Penalty`: how the mdp's regulariser is estimated and applied
    )
    control: Any = None  # `fdiv.control.Control`: how its weight changes
    # the rollout gives all strings by weight: one population, whatever groups are asked for
    enumerated: bool = False
    optimiser: Optimiser = adam  # of discriminators, value functions and reward models
    # the expert with its features at the task's demonstrations kept (`fdiv.kept`), for methods that
    # ask it of nothing else; None: it is asked anew
    kept_expert: Model | None = None


class Objective(NamedTuple):
    """A method. What is not differentiated goes in `prepare`; what is goes in `loss`, a weighted
    *sum* over rows.

    A batch is a pytree whose leaves have rows in front; `prepare` normalises the weights, so
    splitting rows over microbatches and adding up changes nothing. `prepare`'s metrics hold
    `tokens`, how many actions the loss learns from."""

    init: Callable[[Array, Params], Any]  # key, params -> aux
    prepare: Callable[
        [Array, Params, Any, Any], tuple[Any, Any, dict]
    ]  # key, params, aux, batch -> aux, batch, metrics
    loss: Callable[
        [Params, Any, Any], tuple[Array, dict]
    ]  # params, aux, batch -> scalar, metrics (also sums over rows)


class Look(NamedTuple):
    """How a method is drawn, as plain data. Its line's colour is its divergence's, so that pictures
    of one divergence agree, except where all methods beside it share one."""

    marker: str = "v"  # of matplotlib
    line: str = "-."  # of matplotlib
    legend: str = ""  # where its log-ratio or its reward comes from
    colour: str | None = None  # its own, where it maximises a return


@runtime_checkable
class Method(Protocol):
    """A method with its hyperparameters: a frozen dataclass whose fields are all that it knows.

    Fields made by `hidden` are what a name of `fdiv.objectives.METHODS` fixes (its divergence,
    whose samples it reads); the others are the user's to set, with a line of text below each.
    Classes inherit from this one for the defaults below, and override what differs by a field, a
    `ClassVar` or a property."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    kind: ClassVar[str]  # one word for the class: a group of hyperparameters has this name

    @property
    def reads(self) -> str:
        """What its batches are: "demos", "pairs" or "labels"."""
        return "demos"

    @property
    def needs(self) -> tuple[str, ...]:
        """What it is built from beside a policy: "scorer", "critic"."""
        return ()

    @property
    def reusable(self) -> bool:
        """Whether a batch may serve several optimiser steps."""
        return False

    @property
    def charges(self) -> bool:
        """Whether leaving the task's reference is part of what it minimises."""
        return False

    @property
    def penalty(self) -> Any:
        """Its own `fdiv.penalties.Penalty`, where it charges; None: the one common to all."""
        return None

    @property
    def warmup(self) -> int:
        """Updates before the policy moves."""
        return 0

    @property
    def divergence(self) -> str | None:
        """By the name that `divergences.parse` takes, where it has one."""
        return None

    @property
    def published(self) -> str:
        """Which paper's formulas it keeps, though they are not the divergence's own."""
        return ""

    @property
    def learning_rate(self) -> float | None:
        """The policy's; None: the one common to all methods."""
        return None

    @property
    def look(self) -> Look:
        """How it is drawn."""
        return Look()

    def check(self) -> None:
        """Raise `UsageError`, naming one of its own fields, for values that cannot be."""
        return None

    def claim(self) -> Claim:
        """What it minimises."""
        ...

    def build(self, components: Components) -> Objective:
        """The objective, from values alone. Raises `UsageError` where the task lacks something."""
        ...

    def variants(self) -> Sequence[Mapping[str, Any]]:
        """Other values of its fields that the gradient card has a line for."""
        return ()


Value = TypeVar("Value")


def hidden(default: Value) -> Value:
    """A dataclass field that a method's name fixes: no option of the command line."""
    return dataclasses.field(default=default, metadata={"hidden": True})


def is_hidden(field: dataclasses.Field) -> bool:
    """Whether a method's field was made by `hidden`."""
    return bool(field.metadata.get("hidden"))


class LearnerState(NamedTuple):
    """Everything that decides the rest of a run."""

    step: Array
    key: Array
    params: Params
    opt: Any
    aux: Any


class Learner(NamedTuple):
    """The one training loop's two functions."""

    init: Callable[[Array, Params], LearnerState]
    update: Callable[[LearnerState, Any], tuple[LearnerState, dict]]
