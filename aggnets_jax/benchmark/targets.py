"""Devices that this machine lacks, as targets of a compiler."""

import importlib.util
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from aggnets_jax.errors import UserError, one_line, unknown


class Chip(NamedTuple):
    """Published rates of an accelerator.

    Attributes:
      flops: peak rate of products in bfloat16, FLOP/s; TPUs by default round float32 to bfloat16.
      memory_bytes: size of its memory (HBM).
      memory_bandwidth: rate of reading and writing its memory, bytes/s.
      link_bandwidth: rate to other chips of the slice in one direction, bytes/s.
    """

    flops: float
    memory_bytes: float
    memory_bandwidth: float
    link_bandwidth: float


# From docs.cloud.google.com/tpu/docs, pages v5e, v5p and v6e, and NVIDIA's data sheet of the H100
# (SXM), without sparsity; its links are those of a node.
CHIPS = {
    "v5e": Chip(197e12, 16e9, 819e9, 200e9),
    "v5p": Chip(459e12, 95e9, 2765e9, 600e9),
    "v6e": Chip(918e12, 32e9, 1640e9, 448e9),
    "h100": Chip(989.4e12, 80e9, 3352e9, 450e9),
}
# Facts for which the CUDA compiler would ask the device, in XLA's text form (GpuTargetConfigProto).
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84929347584
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Target(NamedTuple):
    """Devices of one kind, in slices."""

    platform: str
    chip: Chip
    devices: list[jax.Device]


def open_target(name: str, slices: int = 1) -> Target:
    """Describe the devices of a target such as "v5e:4x4" or "h100:8".

    There are `slices` slices of this topology; a slice of GPUs is a node.

    Raises:
      UserError: if there is no such target, or its compiler is not installed.
    """
    kind, _, topology = name.partition(":")
    examples = {chip: f"{chip}:2x2" for chip in CHIPS} | {"h100": "h100:8"}
    if kind not in CHIPS:
        raise unknown("target", name, examples.values())
    form = r"[1-9]\d*" if kind == "h100" else r"\d+(x\d+){1,2}"
    if not re.fullmatch(form, topology):
        raise UserError(f"target {name!r} has no topology; allowed: such as {examples[kind]}")
    open_kind = _gpus if kind == "h100" else _tpus
    try:
        platform, devices = open_kind(topology if kind == "h100" else name, slices)
    except UserError:
        raise
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
        raise UserError(f"target {name} can't be compiled for: {one_line(error)}") from error
    return Target(platform, CHIPS[kind], devices)


def _tpus(name: str, slices: int) -> tuple[str, list[jax.Device]]:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"target {name} needs libtpu: pip install 'aggnets-jax[tpu]'")
    # Otherwise libtpu asks the cloud which machine this is, and warns that it is none.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # A second process may compile as well: no chip is used.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    return "tpu", topologies.get_topology_desc(name, "tpu", num_slices=slices).devices


def _gpus(count: str, slices: int) -> tuple[str, list[jax.Device]]:
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise UserError("a target of GPUs needs CUDA: pip install 'aggnets-jax[cuda13]'")
    found = topologies.get_topology_desc(
        platform="cuda", target_config=_H100, topology=f"{slices}x1x{count}"
    )
    return "gpu", found.devices
