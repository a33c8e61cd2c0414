"""Collectives in the text of a compiled program."""

import pytest

from aggnets_jax.benchmark.hlo import collectives, memory_bytes, moved_bytes

PROGRAM = """
%all-reduce.3 = f32[] all-reduce(%count), channel_id=2
%all-reduce.1 = f32[64]{0} all-reduce(%x), replica_groups=[1,8]<=[8]
%all-reduce.2 = (f32[3,3,4,8]{3,2,1,0}, bf16[8]{0}) all-reduce(%y, %z), channel_id=1
%ag = f32[8,16]{1,0:T(8,128)} all-gather(%w), dimensions={0}
%start = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%v)
%add = f32[64]{0} add(%all-reduce.1, %all-reduce.1)
%fusion = f32[64]{0} fusion(%add), kind=kLoop
%done = f32[8]{0} collective-permute-done(%start)
%all-reduce-start.1 = f32[16]{0} all-reduce-start(%fusion)
%all-reduce-done.1 = f32[16]{0} all-reduce-done(%all-reduce-start.1)
%fusion.1 = f32[64]{0} fusion(%add), kind=kLoop
%ag.1 = ((f32[2]{0}, bf16[4]{0}), (f32[16]{0}, bf16[32]{0})) all-gather-start(%p, %q)
%ag.2 = pred[16]{0} all-gather(%mask), dimensions={0}
"""


def test_collectives_are_counted_with_the_bytes_of_their_results_and_hidden_or_not():
    assert collectives(PROGRAM) == {
        "all-reduce": {"count": 4, "bytes": 4 + 4 * 64 + 4 * 288 + 2 * 8 + 4 * 16, "overlapped": 0},
        "all-gather": {"count": 3, "bytes": 4 * 128 + 4 * 16 + 2 * 32 + 16, "overlapped": 0},
        "collective-permute": {"count": 1, "bytes": 4 * 8, "overlapped": 1},
    }


def test_a_ring_moves_the_parts_of_each_device():
    kinds = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute")
    moved = {kind: moved_bytes({kind: {"bytes": 400}}, 4) for kind in kinds}
    # All-reduces scatter 400 bytes and gather them; a scatter leaves 400 bytes of 1600.
    assert moved == pytest.approx(
        {"all-reduce": 600, "all-gather": 300, "reduce-scatter": 1200, "collective-permute": 400}
    )
    assert moved_bytes({"all-reduce": {"bytes": 400}}, 1) == 0


TPU_PROGRAM = """
%fused_computation.1 (param_0: f32[8]) -> f32[8] {
  %param_0 = f32[8]{0:T(128)} parameter(0)
  ROOT %add.9 = f32[8]{0:T(128)} add(%param_0, %param_0)
}

ENTRY %main (x: f32[100], y: bf16[4,100]) -> f32[100] {
  %x = f32[100]{0:T(128)} parameter(0), metadata={op_name="x"}
  %y = bf16[4,100]{1,0:T(8,128)(2,1)} parameter(1)
  %moved = (f32[100]{0:T(128)S(1)}, f32[100]{0:T(128)}, u32[]{:S(2)}) copy-start(%x)
  %there = f32[100]{0:T(128)S(1)} copy-done(%moved)
  %part = ((bf16[4,100]{1,0}), bf16[2,100]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%y), slice={[0:2]}
  %inside = f32[100]{0:T(128)S(1)} fusion(%there, %there), kind=kLoop, calls=%fused_computation.1
  %pair = (f32[100]{0:T(128)}, f32[]{:T(128)S(6)}) fusion(%inside, %y), kind=kLoop, calls=%f.2
  %mask = pred[1024]{0:T(1024)} custom-call()
  ROOT %out = f32[100]{0:T(128)} get-tuple-element(%pair), index=0
}
"""


def test_bytes_of_hbm_are_without_those_of_the_memory_on_the_chip():
    # In whole tiles: 100 numbers take 128, and the four rows of y take eight.
    copied, sliced, read, written, mask = 4 * 128, 2 * 100 * 2, 8 * 128 * 2, 4 * 128, 1024
    assert memory_bytes(TPU_PROGRAM) == copied + sliced + read + written + mask


PARTS = """
%fused_computation.1 (a: f32[8,128], b: f32[16,128], c: f32[16,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = f32[16,128]{1,0:T(8,128)} parameter(1)
  %half = f32[8,128]{1,0:T(8,128)} slice(%b), slice={[8:16], [0:128]}
  %c = f32[16,128]{1,0:T(8,128)} parameter(2)
  %other = f32[8,128]{1,0:T(8,128)} slice(%c), slice={[8:16], [0:128]}
  %whole = f32[16,128]{1,0:T(8,128)} negate(%c)
  ROOT %sum = f32[8,128]{1,0:T(8,128)} add(%a, %half)
}

%fused_computation.2 (a: f32[16,128], b: f32[8,128]) -> f32[16,128] {
  %a = f32[16,128]{1,0:T(8,128)} parameter(0)
  %b = f32[8,128]{1,0:T(8,128)} parameter(1)
  %zero = u32[] constant(0)
  ROOT %new = f32[16,128]{1,0:T(8,128)} dynamic-update-slice(%a, %b, %zero, %zero)
}

%region (x: f32[]) -> f32[] {
  ROOT %x = f32[] parameter(0)
}

ENTRY %main (a: f32[8,128], b: f32[16,128]) -> f32[16,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = f32[16,128]{1,0:T(8,128)} parameter(1)
  %sum = f32[8,128]{1,0:T(8,128)} fusion(%a, %b, %b), kind=kLoop, calls=%fused_computation.1
  ROOT %new = f32[16,128]{1,0:T(8,128)} fusion(%b, %sum), kind=kLoop, calls=%fused_computation.2
}
"""


def test_of_slices_the_parts_are_counted():
    tile = 8 * 128 * 4
    # a, half of b, all of b, and the sum; then the sum is read, and written into b.
    assert memory_bytes(PARTS) == tile * (1 + 1 + 2 + 1) + tile * (1 + 1)
