"""The table of programs for TPUs, without their compiler."""

import csv

import pytest

from aggnets_jax.models.registry import find_family
from results import tpu
from tests import runs

FOUND = {
    "compile_seconds": 61.2,
    "allocated_bytes": 2e9,
    "flops": 3e9,
    "model_flops": 2e9,
    "bytes": 5e9,
    "model_bytes": 4e9,
    "memory_bytes": 2e9,
    "collectives": {"all-reduce": {"count": 7, "bytes": 2_000_000, "overlapped": 0}},
    "roofline": {"arithmetic": 1e-3, "memory": 2e-2, "links": 3e-4},
}


def test_networks_are_of_all_families_once():
    families = [find_family(name) for name in tpu.networks()]
    assert len({family.name for family in families}) == len(families) > 50
    assert {family.input_shape[0] for family in families} == {32, 224}


@pytest.fixture
def compiled(monkeypatch):
    seen = []

    def compiled(network, target, dtype, images, level):
        seen.append((network, target, images) if level == "O1" else (network, level))
        return {} if network == "densenet121" else FOUND

    monkeypatch.setattr(tpu, "compiled", compiled)
    return seen


def test_rows_are_kept_and_failures_are_empty(compiled, tmp_path):
    file = tmp_path / "tpu.csv"
    flags = ["--networks=densenet40_k12,densenet121", "--targets=v5e:2x2", f"--output={file}"]
    tpu.main(flags)
    assert [network for network, _, _ in compiled] == ["densenet40_k12", "densenet121"]
    with file.open() as lines:
        first, failed = csv.DictReader(lines)
    assert (first["memory_gb"], first["flop_ratio"], first["byte_ratio"]) == ("2", "1.500", "1.25")
    assert (first["hbm_gb"], first["hbm_ratio"]) == ("2", "0.50")
    assert (first["all_reduces"], first["all_reduce_mb"]) == ("7", "2")
    assert (first["other_collectives"], first["memory_ms"]) == ("none", "20")
    assert failed["network"] == "densenet121" and failed["memory_gb"] == ""
    tpu.main(flags)
    assert compiled[2:] == [("densenet121", "v5e:2x2", 32)]  # the other row is there
    tpu.main([*flags, "--again"])
    assert len(compiled) == 5
    tpu.main([*flags, "--images=128"])
    assert compiled[5:] == [(name, "v5e:2x2", 128) for name in ("densenet40_k12", "densenet121")]
    with file.open() as lines:
        assert [line["batch_per_chip"] for line in csv.DictReader(lines)] == [
            *("64", "32"),
            *("128", "128"),
        ]


def test_kept_programs_send_no_images_and_compute_little_but_the_network():
    with (runs.ROOT / "results" / "tpu.csv").open() as lines:
        kept = list(csv.DictReader(lines))
    assert kept
    for line in kept:
        assert line["other_collectives"] == "none"
        assert 0.8 < float(line["flop_ratio"]) < 1.3
        if line["level"] == "default":
            # At most twice; docs/performance.md says why two are above.
            above = line["network"] in ("resnet18", "densenet40_k12")
            assert 0 < float(line["hbm_ratio"]) < (2.5 if above else 2)
            assert float(line["hbm_ratio"]) < float(line["byte_ratio"])
