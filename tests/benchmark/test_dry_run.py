"""`aggnets dry-run`: a train step on devices that are not there."""

import json
import os
import subprocess
import sys

import pytest

from aggnets_jax.benchmark.dry_run import collectives
from aggnets_jax.main import main
from tests import runs

PROGRAM = """
%all-reduce.1 = f32[64]{0} all-reduce(%x), replica_groups=[1,8]<=[8]
%all-reduce.2 = (f32[3,3,4,8]{3,2,1,0}, bf16[8]{0}) all-reduce(%y, %z), channel_id=1
%ag = f32[8,16]{1,0} all-gather(%w), dimensions={0}
%start = (f32[4]{0}, f32[8]{0}) collective-permute-start(%v)
%add = f32[64]{0} add(%all-reduce.1, %all-reduce.1)
"""


def test_collectives_are_counted_with_the_bytes_of_their_results():
    assert collectives(PROGRAM) == {
        "all-reduce": {"count": 2, "bytes": 4 * 64 + 4 * 288 + 2 * 8},
        "all-gather": {"count": 1, "bytes": 4 * 128},
        "collective-permute": {"count": 1, "bytes": 48},
    }


def dry_run(tmp_path, **changes):
    """What the command writes, for a network with bottlenecks on 2 x 4 devices."""
    config = runs.tiny_config(None, **{"model": {"name": "sparsenet_bc16_k4"}, **changes})
    file = runs.write_config(tmp_path / "tiny.py", config)
    written = tmp_path / "found.json"
    flags = (f"--config={file}", "--processes=2", "--devices=4", f"--json={written}")
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-m", "aggnets_jax", "dry-run", *flags],
        cwd=runs.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(written.read_text())


def test_what_a_step_takes_replicated_and_fully_sharded(tmp_path):
    out, copied = dry_run(tmp_path)
    assert "4,714 parameters, replicated; batches of 32 over 2 x 4 devices, 4 on each" in out
    assert copied["params"] == 4714
    # Parameters and momentum, 4 bytes each; the rest is statistics and counts.
    assert 8 * 4714 <= copied["state_bytes"] <= 8 * 4714 + 2048
    assert copied["model_flops"] == 6 * 128_336 * 4
    assert 0.5 < copied["flops"] / copied["model_flops"] < 2
    assert set(copied["collectives"]) == {"all-reduce"}
    # The gradients, each once, and the statistics of normalisations, there and back.
    assert 4 * 4714 <= copied["collectives"]["all-reduce"]["bytes"] <= 2 * 4 * 4714

    _, divided = dry_run(tmp_path, sharding="fsdp")
    assert divided["state_bytes"] < 0.5 * copied["state_bytes"]
    gathered = divided["collectives"]["all-gather"]
    assert 0.5 * 4 * 4714 < gathered["bytes"] <= 4 * 4714


@pytest.mark.slow
def test_gradients_of_grouped_convolutions_are_of_each_devices_images(tmp_path):
    """XLA's partitioner would gather all images on each device for them."""
    _, found = dry_run(tmp_path, model={"name": "resnext11_2x4d"})
    assert set(found["collectives"]) == {"all-reduce"}
    assert 4 * 761_290 <= found["collectives"]["all-reduce"]["bytes"] < 1.1 * 4 * 761_290
    assert 0.9 < found["flops"] / found["model_flops"] < 1.5


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--devices=0"], "devices must be a whole number of at least 1"),
        (["--json=/nowhere/at/all.json"], "it is a folder, or in none"),
        (["--json=/tmp"], "it is a folder, or in none"),
        (["--config.batch_sizes=3"], "nearest: batch_size"),
        (["--colour"], "unknown flag"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(flags, said, capsys):
    assert main(["dry-run", "--config=configs/digits.py", *flags]) == 2
    assert said in capsys.readouterr().err
