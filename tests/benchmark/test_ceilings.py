"""What devices can do at best."""

from types import SimpleNamespace

import jax
import pytest

from aggnets_jax.benchmark import ceilings


@pytest.mark.parametrize(
    "kind, bfloat16, float32",
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12, 494.7e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 156e12),
        ("NVIDIA H100 PCIe", None, None),  # has another peak
        ("cpu", None, None),
    ],
)
def test_published_peaks(kind, bfloat16, float32, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind=kind)])
    assert ceilings.published("bfloat16") == bfloat16
    assert ceilings.published("float32") == float32


def test_measured_ceilings_count_operations_and_bytes(monkeypatch):
    monkeypatch.setattr(ceilings, "_best", lambda function, *arguments: 2.0)
    assert ceilings.matmul_flops.__wrapped__("float32", 64) == 64**3
    assert ceilings.copy_bytes.__wrapped__(4096) == 4096
