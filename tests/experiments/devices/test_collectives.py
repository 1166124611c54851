"""What devices send each other, read from a program's text."""

import pytest

from experiments.devices import collectives

PROGRAM = """HloModule jit_update

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%inner (p: f32[4]) -> f32[4] {
  ROOT %permute = f32[4]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
}

%body (p: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %gathered = bf16[8,16]{1,0} all-gather(%part), replica_groups={{0,1,2,3}}, dimensions={0}
  %loop.2 = f32[4]{0} while(%q), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %t = (s32[], bf16[8,16]) tuple(%i, %gathered)
}

%condition (p: (s32[], bf16[8,16])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[10]) -> f32[10] {
  %loop = (s32[], bf16[8,16]) while(%init), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %scattered = f32[5]{0} reduce-scatter(%x), replica_groups=[4,2]<=[8], to_apply=%add
  %started = (f32[10]{0}, f32[10]{0}) all-reduce-start(%x), replica_groups={{0,1}}, to_apply=%add
  %done = f32[10]{0} all-reduce-done(%started)
  ROOT %turned = f32[10]{0} all-to-all(%x), replica_groups={{0,1}}
}
"""  # noqa: E501


def test_bytes_by_hand():
    """all-gather: 3 x 256 bytes x 3/4; permute: 3 x 5 x 16; reduce-scatter: 20 bytes x 1; all-
    reduce: 2 x 40 x 1/2; all-to-all: 40 x 1/2."""
    found = collectives.read(PROGRAM)
    assert found.bytes == {
        "all-gather": 576,
        "collective-permute": 240,
        "reduce-scatter": 20,
        "all-reduce": 40,
        "all-to-all": 20,
    }
    assert found.count == {
        "all-gather": 3,
        "collective-permute": 15,
        "reduce-scatter": 1,
        "all-reduce": 1,
        "all-to-all": 1,
    }
    assert found.total == 896
    assert found.within == 896


@pytest.mark.parametrize(
    ("groups", "node", "close"),
    [
        ("{{0,1,2,3}}", 8, True),
        ("{{0,1,2,3}}", 2, False),
        ("{{0,8},{1,9}}", 8, False),
        ("[64,8]<=[512]", 8, True),
        ("[8,64]<=[512]", 8, False),
        ("[64,8]<=[8,64]T(1,0)", 8, False),
        ("mesh['a'=1,'b'=64,'c'=8] {'c'}", 8, True),
        ("mesh['a'=1,'b'=64,'c'=8] {'b'}", 8, False),
        ("mesh['a'=1,'b'=2,'c'=4] {'b','c'}", 8, True),
    ],
)
def test_what_stays_within_a_node(groups, node, close):
    line = f"  %g = f32[8] all-gather(%x), replica_groups={groups}"
    found = collectives.read(f"ENTRY %main (x: f32[1]) -> f32[1] {{\n{line}\n}}", node)
    assert found.total > 0
    assert found.within == (found.total if close else 0)


def test_devices_of_a_mesh():
    """2 x 3 x 2 devices: along the first and the last axis 0, 6 and their neighbours."""
    line = "mesh['a'=2,'b'=3,'c'=2] {'a','c'}"
    assert collectives._group(f"replica_groups={line}", 12) == (4, True)
    assert collectives._of_mesh({"a": 2, "b": 3, "c": 2}, ["a", "c"]) == [0, 1, 6, 7]


def test_groups_that_cannot_be_read_are_no_pairs():
    """A number of devices that is guessed would be a wrong number of bytes."""
    with pytest.raises(ValueError, match="cannot be read"):
        collectives.read(
            "ENTRY %m (x: f32[1]) -> f32[1] {\n  %g = f32[8] all-gather(%x), of=all\n}"
        )


def test_a_loop_of_unknown_length_counts_once():
    text = PROGRAM.replace("known_trip_count", "nothing_known")
    assert collectives.read(text).bytes["all-gather"] == pytest.approx(192)


def test_a_program_of_one_device_sends_nothing():
    assert collectives.read("ENTRY %main (x: f32[1]) -> f32[1] {\n}\n") == ({}, {}, 0)
