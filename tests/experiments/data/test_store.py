"""Rows that stay on the host: what is written, what is read of it, which rows are held out, and
that training on them is training on the same rows in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from likelihood_runs import prepared

from experiments import assemble
from experiments.commands import show_data
from experiments.config import make_config
from experiments.data import files, on_host, store, stored
from experiments.data.sources import Share
from experiments.running import feed, train
from experiments.running.stopping import Interrupted
from fdiv.benchmarks import Text
from fdiv.benchmarks.text import Drawn
from fdiv.policies import Architecture
from fdiv.types import UsageError

ROWS = [{"prompt": f"{i % 37}?", "completion": f"{i}" * (1 + i % 5), "id": i} for i in range(120)]


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Rows in pieces of 500 bytes, one of which is bad, in two files."""
    monkeypatch.setattr(files, "PIECE", 500)
    folder = tmp_path / "rows"
    folder.mkdir()
    lines = [json.dumps(row) for row in ROWS]
    lines[70] = "{"
    (folder / "a.jsonl").write_text("\n".join(lines[:50]) + "\n")
    (folder / "b.jsonl").write_text("\n".join(lines[50:]) + "\n")
    return folder


def config_of(path, **fields):
    text = Text(path=path, store="host", validation=0.2, **fields.pop("text", {}))
    return make_config(
        benchmark=text,
        policy=Architecture("markov"),
        methods=("sft",),
        seeds=2,
        batch_size=7,
        learning_rate=0.1,
        cache=path.parent / "cache",
        **fields,
    )


def task_of(config):
    reading = assemble.data(config)
    config = assemble.fitted(config, reading)
    return config, reading, assemble.task(config, reading)


@pytest.mark.parametrize("lengths", [{}, {"prompt_length": 2, "horizon": 3}])
def test_strings_are_those_of_rows_in_memory(path, lengths):
    """Cut in the same way, at the same lengths; and bad rows have the same numbers."""
    config = config_of(path, text=lengths)
    fitted, reading, _ = task_of(config)
    plain = files.read(dataclasses.replace(config.benchmark, store=None))
    in_memory = config.benchmark.fitted(plain.rows)
    assert fitted.benchmark.cut == in_memory.cut
    assert (len(reading.store), reading.bad) == (len(plain.rows), plain.bad)
    wanted = in_memory.encode(plain.rows)
    made = on_host.sequences(reading.store.strings(np.arange(len(plain.rows)), in_memory.cut, 256))
    np.testing.assert_array_equal(made.tokens, wanted.tokens)
    np.testing.assert_array_equal(made.mask, wanted.mask)
    assert [reading.store.row(i) for i in (0, 60)] == [plain.rows[i] for i in (0, 60)]
    lengths = reading.store.lengths(np.arange(len(plain.rows)), in_memory.cut)
    np.testing.assert_array_equal(lengths, (wanted.tokens >= 0).sum(1))


def test_what_is_held_out_is_not_trained_on(path):
    _, reading, task = task_of(config_of(path))
    config = reading.fitted_to(config_of(path).benchmark)
    sides = reading.store.sides(config)
    prompts = [{reading.store.row(i).prompt for i in side} for side in sides[:2]]
    assert not prompts[0] & prompts[1] and min(map(len, prompts)) > 2
    assert len(sides.train) + len(sides.held_out) + sides.left_out == len(reading.store)
    drawn = task.mdp.held_out(jax.random.key(0), 5)
    assert drawn.tokens.shape == (5, sum(config.cut))
    other = dataclasses.replace(config, validation=0.3)
    assert set(sides.held_out) <= set(reading.store.sides(other).held_out)


def test_rows_of_a_conversation_stay_together(tmp_path):
    talk = lambda i: [
        message
        for turn in range(3)
        for message in (
            {"role": "user", "content": f"{i} {turn}"},
            {"role": "assistant", "content": f"a{i}"},
        )
    ]
    place = tmp_path / "talks.jsonl"
    place.write_text("".join(json.dumps({"messages": talk(i)}) + "\n" for i in range(40)))
    config, reading, _ = task_of(config_of(place, text={"prompt_length": 6}))
    sides = reading.store.sides(config.benchmark)
    talks = [set(reading.store.index["talk"][side]) for side in sides[:2]]
    assert not talks[0] & talks[1] and min(map(len, talks)) > 1


def test_it_is_made_once_and_by_several_processes_the_same(path, monkeypatch):
    """Another tokenizer, other columns or another byte of the file is another store."""
    config = config_of(path)
    made = assemble.data(config).store
    monkeypatch.setattr(store, "_make", lambda *given: pytest.fail("it is there"))
    assert assemble.data(config).store.folder == made.folder
    (path / "b.jsonl").write_text((path / "b.jsonl").read_text().replace('"id": 119', '"id": 118'))
    with pytest.raises(BaseException, match="it is there"):
        assemble.data(config)
    assert not list(made.folder.parent.glob("draft-*"))
    shares = [list(files.stream(config.benchmark, Share(i, 3), None)) for i in range(3)]
    numbers = sorted(part.number for share in shares for part in share)
    assert numbers == list(range(len(numbers))) and len(numbers) > 6


KEPT = {
    "plain text": ("text.txt", "a b c " * 99, {}, "plain text"),
    "comparisons": (
        "p.jsonl",
        '{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 3,
        {},
        "comparisons",
    ),
    "labels": ("l.jsonl", '{"prompt": "a", "completion": "b", "label": true}\n', {}, "labels"),
    "no rows": ("n.jsonl", '{"prompt": 3, "completion": "b"}\n', {}, "no good row"),
    "one row": ("o.jsonl", '{"prompt": "a", "completion": "b"}\n', {}, "leaves no"),
    "features": (
        "f.jsonl",
        "".join(json.dumps(row) + "\n" for row in ROWS),
        {"teacher_cache": True},
        "stay on the host",
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_cannot_stay_on_the_host_is_refused(name, tmp_path):
    file, content, fields, says = KEPT[name]
    (tmp_path / file).write_text(content)
    with pytest.raises(UsageError, match=says):
        task_of(config_of(tmp_path / file, text=fields))
    assert not list(tmp_path.glob("cache/rows/*/about.json")) or name in ("one row", "features")


def trained(config, task, mdp, folder, stop_at=None):
    """The end of likelihood training, or where it was stopped."""
    training, stop = prepared(config, task._replace(mdp=mdp), folder)
    evaluate = lambda state: training.compiled.layout.host(training.compiled.probe(state))
    with contextlib.suppress(Interrupted):
        for progress in train.fit(training, evaluate, [stop_at] if stop_at else [4]):
            stop.asked = progress.update == stop_at
    return progress


@pytest.mark.parametrize(
    "fields",
    [pytest.param({"epochs_over_data": 1}, marks=pytest.mark.wide), {"updates": 9}],
)
def test_training_is_that_on_the_same_rows_in_memory(path, fields, tmp_path, monkeypatch):
    """To the bit, in order, read four updates at a time; also of a run that is stopped and goes
    on."""
    monkeypatch.setattr(feed, "MOST", 4)
    config, _, task = task_of(config_of(path, **fields))
    rows = task.mdp.demos
    assert isinstance(rows, on_host.OnHost)
    table = on_host.sequences(jax.tree.map(jnp.asarray, rows.read(np.arange(len(rows)))))
    in_memory = task.mdp._replace(demos=Drawn(table))
    wanted = trained(config, task, in_memory, tmp_path / "memory")
    whole = trained(config, task, task.mdp, tmp_path / "host")
    stopped = trained(config, task, task.mdp, tmp_path / "stopped", stop_at=3)
    assert stopped.update == 3
    again = trained(config, task, task.mdp, tmp_path / "stopped")
    for own in (whole, again):
        assert own.tokens.tolist() == wanted.tokens.tolist()
        pairs = zip(*(jax.tree.leaves(x.train_state.learner.params) for x in (own, wanted)))
        assert all((a == b).all() for a, b in pairs)


@pytest.mark.wide
def test_batches_are_those_that_a_program_would_draw(path):
    """Asked for inside a program, of several runs at once."""
    _, _, task = task_of(config_of(path))
    rows, keys = task.mdp.demos, jax.random.split(jax.random.key(3), 2)
    drawn = jax.jit(jax.vmap(lambda key: rows(key, 5)))(keys)
    table = on_host.sequences(jax.tree.map(jnp.asarray, rows.read(np.arange(len(rows)))))
    wanted = jax.vmap(lambda key: Drawn(table)(key, 5))(keys)
    assert all((a == b).all() for a, b in zip(drawn, wanted))
    prompts = task.mdp.prompts(keys[0], 4)
    assert not prompts.mask.any() and (prompts.tokens[:, 0] >= 0).all()


def test_an_error_of_the_thread_is_raised_where_its_batches_are_asked_for():
    def load(step):
        if step == 2:
            raise OSError("gone")
        return step

    ahead = on_host.Ahead(load)
    assert ahead.take(0, 2) == 0
    with pytest.raises(OSError, match="gone"):
        ahead.take(2, 2)
    assert ahead.take(7, 1) == 7


def test_it_is_shown(path, capsys, monkeypatch):
    monkeypatch.setenv("FDIV_CACHE", str(path.parent / "cache"))
    argv = [str(path), "--rows", "2", "--benchmark.store", "host"]
    assert show_data.main(argv) == 0
    said = capsys.readouterr().out
    assert "119 rows from a.jsonl, b.jsonl stay on the host" in said
    assert "trained on      11[EOS]" in said
    assert "1 rows were bad and left out: row 71: b.jsonl, its row 21: not JSON" in said
    assert "--benchmark.store host" in said.splitlines()[-1]


@pytest.mark.parametrize(("bytes_there", "stays"), [(1 << 40, False), (1000, True)])
def test_a_source_that_memory_does_not_hold_stays_on_the_host(
    bytes_there, stays, path, monkeypatch
):
    """By itself; a folder, a file or a pattern. Asked for or not, what is said comes first."""
    monkeypatch.setattr(stored.memory, "of_machine", lambda: bytes_there)
    for given in (path, path / "b.jsonl", path / "*.jsonl"):
        assert stored.wanted(Text(path=given)) == stays
        assert not stored.wanted(Text(path=given, store="memory"))
        assert stored.wanted(Text(path=given, store="host"))
    assert not stored.wanted(Text(path=path / "none.jsonl"))
    assert not stored.wanted(Text())


def test_columns_that_are_refused_are_refused_of_a_store_that_is_there(path):
    """Rows that an earlier run has kept are not those that a label or a comparison asks for."""
    assert assemble.data(config_of(path)).store is not None
    for field in ("label_field", "rejected_field"):
        text = {"completion_field": "completion", field: "id"}
        assemble.data(config_of(path, text={"completion_field": "completion"}))
        with pytest.raises(UsageError):
            assemble.data(config_of(path, text=text))


def test_prompts_within_words_are_taken_off_all_rows_or_refused(path):
    """Memory looks at all rows together; pieces that would settle it differently are refused."""
    begun = [{"prompt": f"{i}a", "completion": f"{i}ab"} for i in range(40)]
    lines = "".join(json.dumps(row) + "\n" for row in begun)
    for other, wanted in ((lines, 80), (json.dumps({"prompt": "x", "completion": "y"}), None)):
        (path / "a.jsonl").write_text(lines)
        (path / "b.jsonl").write_text(other)
        if wanted is None:
            with pytest.raises(UsageError, match="piece by piece"):
                assemble.data(config_of(path))
        else:
            assert assemble.data(config_of(path)).taken_off == wanted


def test_a_dry_run_keeps_nothing_in_the_cache(path):
    config = config_of(path, dry_run=True)
    made = assemble.data(config).store
    assert len(made) == len(ROWS) - 1 and not config.output.cache.exists()
    kept = assemble.data(config_of(path)).store
    assert kept.folder.parent.parent == config.output.cache
    assert assemble.data(config).store.folder == kept.folder  # what is there already is read
