"""Peak rates of devices."""

from types import SimpleNamespace

import jax
import pytest

from aggnets_jax.benchmark import peak_rates


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
    assert peak_rates.published_flops("bfloat16") == bfloat16
    assert peak_rates.published_flops("float32") == float32


def test_measured_ceilings_count_operations_and_bytes(monkeypatch):
    monkeypatch.setattr(peak_rates, "_best_seconds", lambda function, *arguments: 2.0)
    assert peak_rates.matmul_flops.__wrapped__("float32", 64) == 64**3
    assert peak_rates.copy_bytes.__wrapped__(4096) == 4096
