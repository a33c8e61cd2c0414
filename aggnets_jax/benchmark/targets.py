"""Devices that are not here, for which their compiler still makes programs."""

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
      flops: peak of products in bfloat16, FLOP/s; TPUs also round float32 to bfloat16 by default.
      memory_bytes: of its memory (HBM).
      memory_bandwidth: of reading and writing it, bytes/s.
      link_bandwidth: to other chips of the slice in one direction, bytes/s.
    """

    flops: float
    memory_bytes: float
    memory_bandwidth: float
    link_bandwidth: float


# From docs.cloud.google.com/tpu/docs, pages v5e, v5p and v6e.
CHIPS = {
    "v5e": Chip(197e12, 16e9, 819e9, 200e9),
    "v5p": Chip(459e12, 95e9, 2765e9, 600e9),
    "v6e": Chip(918e12, 32e9, 1640e9, 448e9),
}


class Target(NamedTuple):
    """Devices of one kind, in slices."""

    platform: str
    chip: Chip
    devices: list[jax.Device]


def open_target(name: str, slices: int = 1) -> Target:
    """Describe the devices of a target such as "v5e:4x4", a number of slices of that topology.

    Raises:
      UserError: if there is no such target, or its compiler is not installed.
    """
    kind, _, topology = name.partition(":")
    if kind not in CHIPS:
        raise unknown("target", name, [f"{chip}:2x2" for chip in CHIPS])
    if not re.fullmatch(r"\d+(x\d+){1,2}", topology):
        raise UserError(f"target {name!r} has no topology; allowed: {kind}:2x2, {kind}:4x4, ...")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"target {name} needs libtpu: pip install 'aggnets-jax[tpu]'")
    # Otherwise libtpu asks the cloud which machine this is, and warns that it is none.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    try:
        found = topologies.get_topology_desc(name, "tpu", num_slices=slices)
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        raise UserError(f"target {name} can't be compiled for: {one_line(error)}") from error
    return Target("tpu", CHIPS[kind], found.devices)
