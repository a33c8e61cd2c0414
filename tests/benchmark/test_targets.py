"""Programs for TPUs that are not here, by their own compiler where it is installed."""

import csv
import importlib.util
import json
import subprocess
import sys

import pytest

from aggnets_jax.benchmark import targets
from aggnets_jax.errors import UserError
from results import tpu
from tests import runs

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu (the extra tpu)"
)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5a:2x2", "unknown target 'v5a:2x2'; nearest: v5"),
        ("v5e", "target 'v5e' has no topology; allowed: such as v5e:2x2"),
        ("v5e:16", "target 'v5e:16' has no topology"),
        ("h100:2x2", "target 'h100:2x2' has no topology; allowed: such as h100:8"),
    ],
)
def test_targets_that_are_none(name, message):
    with pytest.raises(UserError, match=message):
        targets.open_target(name)


@pytest.mark.parametrize(("name", "extra"), [("v5e:2x2", "tpu"), ("h100:8", "cuda13")])
def test_without_its_compiler_a_target_says_what_to_install(name, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install 'aggnets-jax\[{extra}\]'"):
        targets.open_target(name)


@needs_libtpu
@pytest.mark.parametrize(
    ("name", "slices", "kind", "count"),
    [
        ("v5e:4x4", 1, "TPU v5 lite", 16),
        ("v5p:2x2x2", 1, "TPU v5", 8),
        ("v6e:2x2", 2, "TPU v6 lite", 8),
    ],
)
def test_targets_have_their_chips(name, slices, kind, count):
    target = targets.open_target(name, slices)
    assert len(target.devices) == count
    assert {device.device_kind for device in target.devices} == {kind}


@needs_libtpu
@pytest.mark.slow
def test_the_steps_of_a_recipe_with_mixup_are_compiled_for_chips(tmp_path):
    config = {
        "batch_size": 64,
        "eval_batch_size": 64,
        "model": {"name": "sparsenet_bc16_k4"},
        "data": {"name": "cifar10", "mixup": 1.0, "cutmix": 1.0},
    }
    file, written = runs.write_config(tmp_path / "tiny.py", config), tmp_path / "found.json"
    command = [sys.executable, "-m", "aggnets_jax", "dry-run", f"--config={file}"]
    command += ["--target=v5e:2x2", f"--json={written}"]
    done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "4 chips of v5e:2x2, 16 on each" in done.stdout
    found = json.loads(written.read_text())
    sent = found["collectives"]
    assert set(sent) == {"all-reduce"}
    # Gradients and statistics; the images of a chip have 200 kB in float32.
    assert 4 * 4858 <= sent["all-reduce"]["bytes"] < 2 * 4 * 4858
    assert 0.5 < found["flops"] / found["model_flops"] < 2
    assert found["state_bytes"] < found["allocated_bytes"] < 16e9
    assert found["bytes"] >= found["model_bytes"]
    assert found["bytes"] > found["memory_bytes"] > found["state_bytes"]
    assert found["evaluation"]["flops"] < found["flops"]
    assert set(found["evaluation"]["collectives"]) == {"all-reduce"}


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("name", ["all_cnn_c", "resnet20_cifar", "dsnet26_cifar_w25"])
def test_a_row_of_the_table_is_found_again(name):
    key = {"network": name, "target": "v5e:2x2", "level": "O1"}
    with (runs.ROOT / "results" / "tpu.csv").open() as lines:
        (kept,) = (line for line in csv.DictReader(lines) if key.items() <= line.items())
    found = tpu.row(name, "v5e:2x2", kept["dtype"], int(kept["batch_per_chip"]), "O1")
    for column in ("memory_gb", "gflop", "gb", "hbm_gb", "all_reduces", "all_reduce_mb"):
        assert float(found[column]) == pytest.approx(float(kept[column]), rel=0.02), column
    assert found["other_collectives"] == "none"
