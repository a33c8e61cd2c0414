"""`aggnets dry-run`: a train step on devices that are not there."""

import json
import os
import subprocess
import sys

import jax
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax.benchmark import dry_run as module
from aggnets_jax.benchmark.targets import CHIPS, Target
from aggnets_jax.errors import UserError
from aggnets_jax.main import main
from aggnets_jax.tasks import get_task
from tests import runs
from tests.tasks import detection_runs


def dry_run(tmp_path, config=None, **changes):
    """Return what the command writes, by default for bottlenecks on 2 x 4 devices."""
    config = config or runs.tiny_config(None, **{"model": {"name": "sparsenet_bc16_k4"}, **changes})
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_steps_of_a_detector(tmp_path):
    """They get the arrays that the task says; each device finds the objects of its own images."""
    config = detection_runs.tiny_detection("/nowhere")
    config["data"] = {"name": "aggnets_digit_scenes", "flip": False}
    _, found = dry_run(tmp_path, config={**config, "batch_size": 8, "eval_batch_size": 8})
    assert set(found["collectives"]) == {"all-reduce"}
    assert found["model_flops"] > 0 and found["model_bytes"] > 0


def test_a_detector_has_the_first_size_of_training():
    task = get_task(config_lib.load("configs/detection/digit_scenes.py", []))
    config = config_lib.load("configs/detection/digit_scenes.py", [])
    assert task.describe_known(config).image_shape == (64, 64, 3)
    wide = config_lib.load("configs/detection/digit_scenes.py", ["task_args.long=96"])
    assert get_task(wide).describe_known(wide).image_shape == (64, 96, 3)
    config.data.mixup = 1.0
    with pytest.raises(UserError, match=r"config\.data\.mixup is not for detection"):
        task.describe_known(config)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("image_size=-8", "image_size must be a whole number of at least 1, got -8"),
        ("crop_padding=50", "crop_padding must be between 0 and 8, not 50"),
    ],
)
def test_a_config_is_checked_as_it_is_for_training(change, said):
    config = config_lib.load("configs/digits.py", [f"data.{change}"])
    with pytest.raises(UserError, match=said):
        get_task(config).describe_known(config)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--devices=0"], "devices must be a whole number of at least 1"),
        (["--json=/nowhere/at/all.json"], "it is a folder, or its folder is missing"),
        (["--json=/tmp"], "it is a folder, or its folder is missing"),
        (["--config.batch_sizes=3"], "nearest: batch_size"),
        (["--colour"], "unknown flag"),
        (["--target=v5e:2x2", "--devices=4"], "leave --processes and --devices out"),
        (["--target=v4:2x2"], "unknown target 'v4:2x2'; nearest: v"),
        (["--fit"], "--fit needs the memory of a --target"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(flags, said, capsys):
    assert main(["dry-run", "--config=configs/digits.py", *flags]) == 2
    assert said in capsys.readouterr().err


V5E = Target("tpu", CHIPS["v5e"], [None] * 4)


class Full:
    """A program that needs more memory than there is."""

    def lower(self, *arguments):
        return self

    def compile(self):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total"
            " memory required for HLO temporaries (43.14G) exceeds available HBM (15.75G)."
        )


def test_a_full_device_is_told_with_its_memory():
    with pytest.raises(module.DoesNotFit, match=r"needs 43\.14GiB of 15\.75GiB of each device$"):
        module._costs(Full())


def test_changes_are_tried_until_one_fits(monkeypatch, capsys):
    tried = []

    def dry_run(config, target):
        assert target is V5E
        tried.append((config.model.remat, config.sharding, config.batch_size))
        if config.batch_size > 12:
            raise module.DoesNotFit("too much")
        return {"devices": 4}

    monkeypatch.setattr(module, "dry_run", dry_run)
    config, found = module.fit(config_lib.resolve({"batch_size": 48}), V5E)
    assert found == {"devices": 4}
    assert tried == [
        ("auto", "replicated", 48),
        ("norm", "replicated", 48),
        ("layer", "replicated", 48),
        ("layer", "fsdp", 48),
        ("layer", "replicated", 24),
        ("layer", "replicated", 12),
    ]
    assert (config.model.remat, config.batch_size) == ("layer", 12)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "as the config is: too much"
    assert lines[-1] == "--config.model.remat=layer --config.batch_size=12: it fits"


@pytest.mark.parametrize(
    ("devices", "parts", "batch_size", "halves"),
    [(4, 1, 48, [24, 12]), (4, 2, 48, [24]), (1, 4, 16, [8]), (1, 1, 2, [1]), (4, 1, 4, [])],
)
def test_batches_are_halved_as_far_as_devices_and_parts_allow(
    monkeypatch, devices, parts, batch_size, halves
):
    tried = []

    def dry_run(config, target):
        tried.append(config.batch_size)
        raise module.DoesNotFit("too much")

    monkeypatch.setattr(module, "dry_run", dry_run)
    config = config_lib.resolve({"batch_size": batch_size, "accumulation_steps": parts})
    with pytest.raises(UserError, match="no change that was tried fits"):
        module.fit(config, V5E._replace(devices=[None] * devices))
    assert [*dict.fromkeys(tried)] == [batch_size, *halves]


def test_the_roofline_is_each_resource_at_its_published_rate():
    sent = {"all-reduce": {"count": 2, "bytes": 8e8, "overlapped": 0}}
    costs = {"flops": 197e9, "memory_bytes": 819e7, "collectives": sent}
    found = module.roofline(costs, CHIPS["v5e"], 4)
    # A ring of 4 moves each byte 2 * 3/4 times, at 200 GB/s.
    assert found == pytest.approx({"arithmetic": 1e-3, "memory": 1e-2, "links": 6e-3})
    own = {"flops": None, "memory_bytes": None, "model_flops": 394e9, "model_bytes": 819e6}
    found = module.roofline({**costs, **own}, CHIPS["v5e"], 4)
    # Of a loop, XLA counts one turn.
    once = {**own, "flops": 197e9, "memory_bytes": 819e7}
    looped = module.roofline({**costs, **once}, CHIPS["v5e"], 4, loops=True)
    assert (looped["arithmetic"], looped["memory"]) == pytest.approx((2e-3, 1e-2))
    assert found == pytest.approx({"arithmetic": 2e-3, "memory": 1e-3, "links": 6e-3})
