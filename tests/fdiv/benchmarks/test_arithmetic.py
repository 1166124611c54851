"""Sums with several right ways: the verifier against plain Python, the split, tries and ways,
greedy strings, a small run."""

from __future__ import annotations

import itertools
import json
import math
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import EVERY

from experiments import assemble, cli
from experiments.commands import compare
from experiments.config import make_config
from fdiv import regularised, verified
from fdiv import tokens as tk
from fdiv.benchmarks import Arithmetic, sums
from fdiv.benchmarks.arithmetic import held_out
from fdiv.policies import transformer
from fdiv.rollout import greedy, sampler
from fdiv.types import PAD, Components, Sequences, TokenMDP, UsageError

KINDS = [(2, 9, True), (3, 120, False), (4, 9, True)]  # terms, largest, direct
STEP = re.compile(r"(0|[1-9]\d*)\+(0|[1-9]\d*)=(0|[1-9]\d*)")


# --- plain Python ---------------------------------------------------------------------------------


def holds(numbers: list[int], text: str) -> bool:
    """Whether a text is steps that add the numbers up, trying every pair that a step may mean."""
    step, comma, rest = text.partition(",")
    found = STEP.fullmatch(step)
    if not found:
        return False
    x, y, z = map(int, found.groups())
    if x + y != z:
        return False
    for i, j in itertools.combinations(range(len(numbers)), 2):
        if (numbers[i], numbers[j]) == (x, y):
            left = [*numbers[:i], z, *numbers[i + 1 : j], *numbers[j + 1 :]]
            if (len(left) == 1 and not comma) or (len(left) > 1 and comma and holds(left, rest)):
                return True
    return False


def is_right(numbers: list[int], text: str, direct: bool) -> bool:
    return (direct and text == str(sum(numbers))) or holds(numbers, text)


def ends_right(numbers: list[int], text: str) -> bool:
    return text.rpartition("=")[2] == str(sum(numbers))


def built(**fields) -> TokenMDP:
    """The task, each of its functions one compiled program, not an operation at a time."""
    mdp = Arithmetic(**fields).build()
    rows = ("prompts", "demos", "held_out")
    return mdp._replace(
        solutions=jax.jit(mdp.solutions),
        score=jax.jit(mdp.score),
        statistics={name: jax.jit(of) for name, of in mdp.statistics.items()},
        **{name: jax.jit(getattr(mdp, name), static_argnums=1) for name in rows},
    )


def some_way(numbers: list[int], draw: random.Random, direct: bool) -> str:
    """A right text, by taking two of the numbers at random until one is left."""
    if direct and draw.random() < 0.2:
        return str(sum(numbers))
    left, said = list(numbers), []
    while len(left) > 1:
        i, j = sorted(draw.sample(range(len(left)), 2))
        said.append(f"{left[i]}+{left[j]}={left[i] + left[j]}")
        left[i] += left[j]
        del left[j]
    return ",".join(said)


def spoiled(text: str, draw: random.Random) -> str:
    """A text with a character changed, put in, left out or moved."""
    at, letter = draw.randrange(len(text)), draw.choice(sums.CHARACTERS)
    return draw.choice(
        [
            text[:at] + letter + text[at + 1 :],
            text[:at] + letter + text[at:],
            text[:at] + text[at + 1 :],
            text[:at] + text[at : at + 2][::-1] + text[at + 2 :],
            text + "," + text,
            "0" + text,
        ]
    )


def encoded(
    rows: list[tuple[list[int], str, bool]], horizon: int, largest: int, shift: bool = False
) -> Sequences:
    """(numbers, text, whether EOS follows) as strings; with `shift` padding stands in front."""
    room = len(rows[0][0]) * (len(str(largest)) + 1)
    tokens = np.full((len(rows), room + horizon), PAD, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for i, (numbers, text, ends) in enumerate(rows):
        prompt = [sums.CHARACTERS.index(c) for c in "+".join(map(str, numbers)) + "="]
        actions = ([sums.CHARACTERS.index(c) for c in text] + [sums.EOS] * ends)[:horizon]
        begin = room - len(prompt) if shift else 0
        end = begin + len(prompt) + len(actions)
        tokens[i, begin:end] = prompt + actions
        mask[i, end - len(actions) : end] = True
    return Sequences(jnp.asarray(tokens), jnp.asarray(mask), jnp.ones(len(rows)))


def texts(task: Arithmetic, x: Sequences) -> list[tuple[list[int], str]]:
    """Strings read back: (numbers, what was written)."""
    found = []
    for tokens, mask in zip(np.asarray(x.tokens), np.asarray(x.mask)):
        prompt = task.spell(tokens, (tokens != PAD) & ~mask)
        found.append(
            ([int(n) for n in prompt.removesuffix("=").split("+")], task.spell(tokens, mask))
        )
    return found


# --- the verifier ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("terms", "largest", "direct"), KINDS)
@pytest.mark.few(1)
def test_the_verifier_agrees_with_plain_python(terms, largest, direct):
    """On right, nearly right, foreign, cut, endless, empty and random texts, wherever the padding
    is."""
    draw = random.Random(terms * largest)
    mdp = built(terms=terms, largest=largest, direct=direct)
    rows = []
    for i in range(1500):
        numbers = [
            draw.randint(0, draw.choice([3, largest])) for _ in range(terms)
        ]  # small ones collide
        text = some_way(numbers, draw, direct)
        kind = i % 6
        if kind == 1:
            text = spoiled(text, draw)
        elif kind == 2:
            text = some_way(numbers[::-1], draw, True)
        elif kind == 3:
            text = "".join(
                draw.choice(sums.CHARACTERS) for _ in range(draw.randint(0, mdp.horizon))
            )
        rows.append((numbers, text, kind != 4 and len(text) < mdp.horizon))
    wanted = [ends and is_right(numbers, text, direct) for numbers, text, ends in rows]
    answer = [ends and ends_right(numbers, text) for numbers, text, ends in rows]
    assert 300 < sum(wanted) < sum(answer) < 1300
    for shift in (False, True):
        x = encoded(rows, mdp.horizon, largest, shift)
        which = np.asarray(mdp.solutions(x))
        np.testing.assert_array_equal(which >= 0, wanted)
        np.testing.assert_array_equal(np.asarray(mdp.statistics["answer"](x)) > 0, answer)
    np.testing.assert_array_equal(mdp.score(x), np.array(wanted, np.float32))
    halves = jax.tree.map(lambda a: a.reshape(2, -1, *a.shape[1:]), x)
    np.testing.assert_array_equal(jax.jit(jax.vmap(mdp.solutions))(halves).reshape(-1), which)


def test_nothing_written_is_wrong():
    mdp = built()
    x = encoded(
        [([1, 2, 3], "", False), ([1, 2, 3], "", True), ([0, 0, 0], "", True)], mdp.horizon, 19
    )
    assert list(mdp.solutions(x)) == [-1, -1, -1]
    assert list(mdp.statistics["answer"](x)) == [0, 0, 0]


def test_answers_by_hand():
    mdp = built(largest=25)
    cases = {
        "50": 0,
        "17+25=42,42+8=50": 1,
        "17+8=25,25+25=50": 2,
        "25+8=33,17+33=50": 3,
        "25+17=42,42+8=50": -1,
        "25+8=33,33+17=50": -1,
        "17+25=43,43+8=51": -1,
        "17+25=42": -1,
        "17+25=42,42+8=50,50": -1,
        "050": -1,
        "8+25=33": -1,
        "17+25=42,42+8=51": -1,
    }
    x = encoded([([17, 25, 8], text, True) for text in cases], mdp.horizon, 25)
    assert list(map(int, mdp.solutions(x))) == list(cases.values())
    assert list(map(int, mdp.statistics["direct"](x))) == [text == "50" for text in cases]
    longest = encoded([([25, 25, 25], "25+25=50,25+50=75", True)], mdp.horizon, 25)
    assert int(longest.mask.sum()) == mdp.horizon  # there is room for every way, and for no more
    assert list(mdp.solutions(longest)) == [3]


@pytest.mark.parametrize(("terms", "count"), [(2, 1), (3, 3), (4, 18)])
def test_how_many_ways_there_are(terms, count):
    assert count == math.factorial(terms) * math.factorial(terms - 1) // 2 ** (terms - 1)
    assert len(sums.Sums.of(terms, 9, True).equations) == count
    mdp, draw = built(terms=terms, largest=9), random.Random(0)
    for numbers in ([1, 2, 4, 8][:terms], [5] * terms, [0] * terms):
        found = sorted({some_way(numbers, draw, True) for _ in range(2000)})
        padded = found + found[:1] * (count + 1 - len(found))  # one shape, so one program
        which = list(
            map(
                int,
                mdp.solutions(encoded([(numbers, text, True) for text in padded], mdp.horizon, 9)),
            )
        )
        assert len(set(which)) == len(found)  # each text is a way of its own
        assert min(which) >= 0
        assert len(found) == count + 1 if len(set(numbers)) == terms else len(found) <= count + 1


# --- demonstrations and the split -----------------------------------------------------------------


@pytest.mark.parametrize(("terms", "largest", "direct"), KINDS)
@pytest.mark.few(1)
def test_every_demonstration_is_right_and_every_way_is_shown(terms, largest, direct):
    fields = {"terms": terms, "largest": largest, "direct": direct}
    task, mdp = Arithmetic(**fields), built(**fields)
    n = 600
    for rows in (
        mdp.demos(jax.random.key(0), n),
        mdp.held_out(jax.random.key(1), n),
    ):
        assert float(mdp.score(rows).min()) == 1
        assert all(
            is_right(numbers, text, direct) and max(numbers) <= largest
            for numbers, text in texts(task, rows)
        )
        many = len(sums.Sums.of(terms, largest, direct).equations) + direct
        counts = np.bincount(np.asarray(mdp.solutions(rows)), minlength=many)
        assert counts.min() > 0 if many > 2 else True
        if direct and largest > 9:
            assert abs(counts[0] / n - 1 / many) < 5 * (1 / many / n) ** 0.5
    prompts = mdp.prompts(jax.random.key(0), 5)
    assert not prompts.mask.any()
    assert prompts.tokens.shape[1] + mdp.horizon == rows.tokens.shape[1]


def test_held_out_sums_are_never_trained_on_in_any_order():
    fields = {"terms": 3, "largest": 9, "validation": 0.3}
    task, mdp = Arithmetic(**fields), built(**fields)
    seen = lambda draw: {
        tuple(sorted(numbers)) for numbers, _ in texts(task, draw(jax.random.key(0), 4000))
    }
    train, asked, held = seen(mdp.demos), seen(mdp.prompts), seen(mdp.held_out)
    assert not held & (train | asked)
    assert len(held | train) == math.comb(12, 3)  # every sum is on one side, whatever its order


def test_the_split_takes_its_share_and_each_side_is_uniform():
    every = jnp.array(list(itertools.combinations_with_replacement(range(40), 3)))
    for share in (0.1, 0.5):
        side = held_out(every, share)
        assert abs(float(side.mean()) - share) < 5 * (share / len(every)) ** 0.5
        assert bool(
            jnp.all(side <= held_out(every, share + 0.2))
        )  # a larger share keeps what was held out
        np.testing.assert_array_equal(side, held_out(every[:, ::-1], share))
    task = Arithmetic(terms=2, largest=4, validation=0.4)
    pairs = [
        tuple(numbers)
        for numbers, _ in texts(
            task, built(terms=2, largest=4, validation=0.4).demos(jax.random.key(1), 8000)
        )
    ]
    counts = np.unique(np.array([10 * a + b for a, b in pairs]), return_counts=True)[1]
    assert 5 < len(counts) < 25
    assert np.abs(counts - counts.mean()).max() < 5 * counts.mean() ** 0.5


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"terms": 1}, "terms"),
        ({"terms": 5}, "from 2 to 4"),
        ({"largest": 0}, "largest"),
        ({"largest": 1000}, "from 1 to 999"),
        ({"validation": 0.0}, "between 0 and 1"),
        ({"validation": 1.0}, "between 0 and 1"),
        ({"validation": 1e-9}, "no held-out sum"),
        ({"terms": 2, "largest": 1, "validation": 0.999}, "no training sum"),
        ({"beta": -1.0}, "beta"),
        ({"beta": math.nan}, "beta"),
        ({"divergence": "tv"}, "flat"),
        ({"divergence": "total"}, "total"),
    ],
)
def test_fields_that_cannot_be(fields, says):
    with pytest.raises(UsageError, match=says):
        Arithmetic(**fields).build()


def test_only_a_flat_penalty_is_refused():
    for name in EVERY:
        if name != "tv":
            assert Arithmetic(divergence=name, beta=0.0).build().regulariser.divergence == name


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", list(regularised.members()))
def test_at_the_optimum_right_answers_stay_as_likely_among_each_other_as_they_were(name):
    """Whatever the divergence and its weight: what is lost in ways is lost on the way to the
    optimum, not at it."""
    draw = np.random.default_rng(3)
    log_ref, right = np.log(draw.dirichlet(np.ones(9))), np.arange(9) < 4
    best = regularised.optimum(regularised.members()[name], right.astype(float), log_ref, 0.2)
    among = lambda log_p: jax.nn.log_softmax(jnp.asarray(log_p)[:4])
    np.testing.assert_allclose(among(best), among(log_ref), atol=1e-6)
    assert float(jnp.exp(best[:4]).sum()) > np.exp(log_ref[:4]).sum()


# --- tries and ways -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tries", "right", "k", "value"),
    [
        (5, 2, 3, 0.9),
        (4, 1, 2, 0.5),
        (4, 0, 2, 0.0),
        (4, 3, 2, 1.0),
        (4, 4, 4, 1.0),
        (16, 1, 8, 0.5),
        (10, 3, 1, 0.3),
    ],
)
def test_pass_at_k_by_hand(tries, right, k, value):
    """1 - C(3, 3) / C(5, 3) = 1 - 1/10; 1 - C(3, 2) / C(4, 2) = 1 - 3/6; 1 - C(15, 8) / C(16, 8) =
    8/16."""
    assert float(verified.pass_at_k(jnp.array([right]), tries, k)[0]) == pytest.approx(
        value, abs=1e-6
    )


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("tries", "k"), [(16, 8), (6, 1), (5, 5)])
def test_pass_at_k_is_unbiased(tries, k):
    """Its binomial expectation is the chance 1 - (1 - p)^k."""
    count = np.arange(tries + 1)
    found = np.asarray(verified.pass_at_k(jnp.asarray(count), tries, k))
    for p in (0.03, 0.4, 0.9):
        chance = [math.comb(tries, c) * p**c * (1 - p) ** (tries - c) for c in count]
        assert np.dot(chance, found) == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


def test_ways_and_their_entropy_by_hand():
    """Of 3 right, two alike add 1/2 each and the third 1 + 1/2; of 4 alike each adds 0: 2.5 / 7."""
    ways = jnp.array([[0, 5, 0, -1], [-1, -1, -1, -1], [2, 2, 2, 2]])
    np.testing.assert_array_equal(verified.distinct(ways), [2, 0, 1])
    assert float(verified.way_entropy(ways)) == pytest.approx(2.5 / 7, abs=1e-6)
    assert float(verified.way_entropy(-jnp.ones((3, 4), int))) == 0


@pytest.mark.parametrize("tries", [3, 16])
def test_the_entropy_of_ways_has_the_bias_it_says(tries):
    """Its expectation lacks sum over v >= n of E[(1 - p)^v] / v (Zhang 2012): .33 of 1.28 at 3
    tries, .01 at 16."""
    law, draw = np.array([0.4, 0.3, 0.2, 0.1]), np.random.default_rng(0)
    ways = draw.choice(4, size=(6000, tries), p=law)
    wrong = np.full((6000, 2), -1)
    missing = sum(law @ (1 - law) ** v / v for v in range(tries, 1000))
    found = float(verified.way_entropy(jnp.asarray(np.concatenate([ways, wrong], axis=1))))
    assert found == pytest.approx(-(law @ np.log(law)) - missing, abs=0.02)


def test_verified_metrics_of_answers_that_are_known():
    """Each prompt's tries take the ways in turn, every fifth one wrong; greedy answers are right
    for every other prompt."""
    mdp = built(terms=3, largest=15)
    kind = sums.Sums.of(3, 15, True)

    def answers(pattern):
        def rollout(key, policy, params, prompts):
            n = prompts.tokens.shape[0]
            every = sums.ways(sums.read(prompts, 3), kind)
            chosen = jnp.asarray(pattern)[jnp.arange(n) % len(pattern)]
            actions = every[jnp.arange(n), jnp.maximum(chosen, 0)]
            return tk.append(
                prompts, jnp.where(chosen[:, None] < 0, sums.EOS, actions), sums.EOS
            ), None

        return rollout

    prompts = tk.prompts_of(
        encoded([([1, 2, 4], "7", True), ([3, 9, 14], "26", True)], mdp.horizon, 15), mdp.horizon
    )
    tries = [0, 1, 2, 3, -1, 0, 1, 2] + [-1] * 7 + [0]  # the same 16 for each prompt
    components = Components(None, mdp, answers(tries))
    found = jax.jit(
        lambda key: verified.verified_metrics(components, answers([0, -1]), key, None, prompts)
    )(jax.random.key(0))
    assert float(found["greedy_accuracy"]) == 0.5
    assert float(found["accuracy"]) == 8 / 16
    for k in (2, 4, 8):  # the chance that k of the 16 are all among the 8 that are wrong
        missed = math.comb(8, k) / math.comb(16, k)
        assert float(found[f"pass_{k}"]) == pytest.approx(1 - missed, abs=1e-6)
    assert float(found["pass_16"]) == 1
    assert float(found["ways"]) == 4
    seven = sum(1 / j for j in range(1, 8))  # ways had 3, 2, 2 and 1 of the 8 that are right
    assert float(found["way_entropy"]) == pytest.approx(
        (3 * (seven - 1.5) + 4 * (seven - 1) + seven) / 8, abs=1e-6
    )


@pytest.mark.wide
def test_greedy_is_the_path_of_likeliest_tokens():
    """In one pass over the whole string, every action is the likeliest after its prefix; the key
    changes nothing."""
    mdp = built(terms=2, largest=99)
    policy = transformer.policy(
        transformer.Shape(layers=1, width=16, heads=2, kv_heads=1), mdp.vocab
    )
    params = jax.tree.map(lambda x: 3 * x, policy.init(jax.random.key(0)))
    prompts = mdp.prompts(jax.random.key(1), 12)
    assert len(set((np.asarray(prompts.tokens) != PAD).sum(1).tolist())) > 1
    rollout = jax.jit(lambda key: greedy(mdp.horizon, mdp.eos)(key, policy, params, prompts))
    found, log_q = rollout(jax.random.key(2))
    law = jax.jit(lambda tokens: tk.distributions(policy, params, tokens))(found.tokens)
    np.testing.assert_array_equal(
        np.where(found.mask, law.argmax(-1), PAD), np.where(found.mask, found.tokens, PAD)
    )
    np.testing.assert_allclose(log_q, np.where(found.mask, law.max(-1), 0.0), atol=1e-3)
    assert bool(jnp.all(tk.ended(found, mdp.eos) | (tk.lengths(found) == mdp.horizon)))
    np.testing.assert_array_equal(rollout(jax.random.key(9))[0].tokens, found.tokens)
    drawn = jax.jit(lambda key: sampler(mdp.horizon, mdp.eos)(key, policy, params, prompts))(
        jax.random.key(2)
    )[0]
    assert not np.array_equal(drawn.tokens, found.tokens)


# --- a run ----------------------------------------------------------------------------------------


def test_a_task_with_prompts_is_never_enumerated():
    task = assemble.task(make_config(benchmark=Arithmetic(terms=2, largest=9)))
    assert task.space is None
    assert task.length == 4 + 7  # 9+9= and 9+9=18 with its end
    x = encoded([([1, 2], "3", True)], task.mdp.horizon, 9)
    assert assemble.readable(task, x) == [("1+2=", "3")]


SMALL_RUN = """arithmetic --benchmark.terms 2 --benchmark.largest 5 --policy.width 8
    --policy.layers 1 --policy.heads 1 --policy.kv-heads 1 --methods grpo --seeds 1 --warm-start 3
    --updates 3 --batch-size 16 --evaluations 1 --samples 8 --report False"""


@pytest.mark.wide
def test_a_small_run_from_the_command_line(tmp_path):
    flags = [*SMALL_RUN.split(), "--out", str(tmp_path / "run")]
    assert cli.run(compare.main, "experiments.compare", flags) == 0
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    first = next(line for line in lines if line["method"] == "grpo" and line["update"] == 0)
    assert abs(first["penalty"]) < 1e-4  # the reference is the start, after its likelihood updates
    last = next(line for line in lines if line["method"] == "grpo" and line["update"] == 3)
    assert last["penalty"] != first["penalty"]
    for name in (
        "greedy_accuracy",
        "accuracy",
        "pass_8",
        "ways",
        "way_entropy",
        "answer",
        "direct",
        "score",
        "beta",
    ):
        assert np.isfinite(last[name]), name
