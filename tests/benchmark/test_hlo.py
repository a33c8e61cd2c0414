"""Collectives in the text of a compiled program."""

import pytest

from aggnets_jax.benchmark.hlo import collectives, moved_bytes

PROGRAM = """
%all-reduce.1 = f32[64]{0} all-reduce(%x), replica_groups=[1,8]<=[8]
%all-reduce.2 = (f32[3,3,4,8]{3,2,1,0}, bf16[8]{0}) all-reduce(%y, %z), channel_id=1
%ag = f32[8,16]{1,0:T(8,128)} all-gather(%w), dimensions={0}
%start = (f32[4]{0}, f32[8]{0}) collective-permute-start(%v)
%add = f32[64]{0} add(%all-reduce.1, %all-reduce.1)
%fusion = f32[64]{0} fusion(%add), kind=kLoop
%done = f32[8]{0} collective-permute-done(%start)
%all-reduce-start.1 = f32[16]{0} all-reduce-start(%fusion)
%all-reduce-done.1 = f32[16]{0} all-reduce-done(%all-reduce-start.1)
%fusion.1 = f32[64]{0} fusion(%add), kind=kLoop
"""


def test_collectives_are_counted_with_the_bytes_of_their_results_and_hidden_or_not():
    assert collectives(PROGRAM) == {
        "all-reduce": {"count": 3, "bytes": 4 * 64 + 4 * 288 + 2 * 8 + 4 * 16, "overlapped": 0},
        "all-gather": {"count": 1, "bytes": 4 * 128, "overlapped": 0},
        "collective-permute": {"count": 1, "bytes": 48, "overlapped": 1},
    }


def test_a_ring_moves_the_parts_of_each_device():
    kinds = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute")
    moved = {kind: moved_bytes({kind: {"bytes": 400}}, 4) for kind in kinds}
    # All-reduces scatter 400 bytes and gather them; a scatter leaves 400 bytes of 1600.
    assert moved == pytest.approx(
        {"all-reduce": 600, "all-gather": 300, "reduce-scatter": 1200, "collective-permute": 400}
    )
    assert moved_bytes({"all-reduce": {"bytes": 400}}, 1) == 0
