"""Meshes of simulated devices: slices, and blocks of examples that lie on several devices."""

import os
import subprocess
import sys

import jax
import pytest

from aggnets_jax.errors import UserError
from aggnets_jax.runtime import mesh as mesh_lib
from tests import runs

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from aggnets_jax import config as config_lib
from aggnets_jax.benchmark.hlo import collectives
from aggnets_jax.data import make_mix
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.training.gradients import inside_mesh

def reversed_blocks(batch, number):
    return {"y": batch["x"].reshape(-1, 16)[:, ::-1].ravel() + number}

def on(mesh, function, *arguments):
    sharding = mesh_lib.batch_sharding(mesh)
    placed = jax.device_put(arguments, sharding)
    program = jax.jit(inside_mesh(function, mesh), out_shardings=sharding).lower(*placed).compile()
    return program(*placed), collectives(program.as_text())

mix = make_mix(config_lib.resolve({"data": {"mixup": 1.0, "cutmix": 1.0}}).data)
images = jnp.arange(96 * 48.0).reshape(96, 4, 4, 3)
batch = {"epoch": jnp.full(96, 3), "index": jnp.arange(96) * 7}
example = images, jnp.eye(96), batch
mixed = jax.jit(lambda *x: mix(*x, 4))(*example)
for devices, slices in ((2, 1), (4, 1), (8, 2)):
    mesh = mesh_lib.make_mesh(slices, jax.devices()[:devices])
    assert mesh.size == devices and mesh.shape["data"] == devices // slices
    x = {"x": jnp.arange(96.0)}
    found, sent = on(mesh, lambda x: mesh_lib.map_blocks(reversed_blocks, 16)(x, 1), x)
    assert np.array_equal(found["y"], reversed_blocks(x, 1)["y"]), devices
    # 48 and 24 examples on each of 2 and 4 devices; 12 on each of 8, of which 4 hold 3 blocks.
    wanted = {2: {}, 4: {"bytes": 4 * 48}, 8: {"bytes": 4 * 48}}[devices]
    assert {"bytes": sent["all-gather"]["bytes"]} == wanted if sent else not wanted, sent
    found, _ = on(mesh, lambda *x: mix(*x, 4), *example)
    for one, other in zip(mixed, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
"""


@pytest.mark.slow
def test_blocks_are_mapped_where_they_lie_on_any_number_of_devices():
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=runs.ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_slices_are_as_many_as_asked_for_or_as_there_are():
    assert dict(mesh_lib.make_mesh(0).shape) == {"data": jax.device_count()}
    devices = [jax.devices()[0]] * 4
    with pytest.raises(UserError, match="4 devices can't be divided equally over 3 slices"):
        mesh_lib.make_mesh(3, devices)


class Chip:
    """A device of a slice."""

    platform, device_kind = "tpu", "TPU v0"

    def __init__(self, number, slice_index):
        self.id, self.slice_index, self.process_index = number, slice_index, number // 2
        self.coords, self.core_on_chip = (number // 2, 0, 0), 0


def test_slices_of_chips_are_found_whatever_the_order_of_their_devices():
    chips = [Chip(number, number % 2) for number in range(8)]
    mesh = mesh_lib.make_mesh(0, chips)
    assert dict(mesh.shape) == {"slice": 2, "data": 4}
    assert [{chip.slice_index for chip in row} for row in mesh.devices] == [{0}, {1}]
