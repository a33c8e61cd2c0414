"""The same training on 1 device, on 4, and on 2 of each of 2 processes, in float64.

In float32 the losses part after some steps, because rounding flips ReLUs; in float64 it can be seen
that nothing else differs.
"""

import json
import os
import socket
import subprocess
import sys

import pytest

from tests import runs

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from sklearn.datasets import load_digits
from aggnets_jax import config as config_lib
from aggnets_jax.models import create_model
from aggnets_jax.runtime import distributed, mesh as mesh_lib
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.training.optimizer import make_optimizer
from aggnets_jax.training.state import create_state
from aggnets_jax.training.step import make_train_step

kind, address, number, *changes = sys.argv[1:]
output, sys.stdout = sys.stdout, sys.stderr
if address:
    distributed.join(address, 2, int(number), expected_processes=2, timeout=60)
config = config_lib.load("configs/digits.py", ["lr=0.001", "schedule=constant",
    "schedule_args={}", "batch_size=16", "data.crop_padding=0",
    "model.args={'growth_rate': 4, 'stage_depths': (3, 2)}", f"sharding={kind}", *changes])
model = create_model("sparsenet_bc", 10, dtype=jnp.float64, **config.model.args)
mesh = mesh_lib.make_mesh()
optimizer, _ = make_optimizer(config, 40, 22.5)
task, sums = Classification(), Classification.sums

def start():
    state = create_state(model, optimizer, config, (8, 8, 1), sums)
    wide = lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x
    return jax.tree.map(wide, state)

placed = mesh_lib.state_sharding(mesh, jax.eval_shape(start), kind)
state = jax.jit(start, out_shardings=placed)()
step = make_train_step(task, model, optimizer, lambda b, **_: b["image"], config, mesh=mesh)
step = jax.jit(step, out_shardings=placed)
digits, sharding = load_digits(), mesh_lib.batch_sharding(mesh)
losses = []
for i in range(40):
    rows = 16 * i + mesh_lib.local_rows(sharding, 16)
    batch = {"image": digits.images[rows, ..., None] / 8 - 1, "label": digits.target[rows]}
    batch = mesh_lib.place_rows(batch, sharding, 16)
    before = float(state.totals["loss"])
    state = step(state, batch)
    losses.append(float(state.totals["loss"]) - before)
    assert state.totals["loss"].dtype == jnp.float64
norm = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(state.params)))
print(json.dumps([*losses, float(norm)]), file=output)
"""


def losses(devices, kind="replicated", processes=1, changes=()):
    """Return the losses of 40 steps, and the norm of the parameters after them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}" if processes > 1 else ""
    flags = f"--xla_force_host_platform_device_count={devices // processes}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_ENABLE_X64": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, kind, address, str(number), *changes],
            cwd=runs.ROOT,
            env={**environment, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    ended = [runs.finish(process, timeout=900) for process in started]
    for code, _, err in ended:
        assert code == 0, err[-2000:]
    return json.loads(ended[0][1].splitlines()[-1])  # Gloo writes lines before it


@pytest.mark.slow
def test_devices_and_processes_change_rounding_alone():
    alone = losses(1)
    for several in (losses(4), losses(4, "fsdp"), losses(4, processes=2)):
        assert several != alone  # the sums are in another order
        assert several == pytest.approx(alone, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["lamb", "muon", "schedule_free_adamw"])
def test_optimisers_whose_state_is_divided_change_rounding_alone(optimizer):
    """Norms and products of whole arrays are of all their parts; so is the ascent of SAM."""
    changes = [f"optimizer={optimizer}", "sam_radius=0.05", "ema_decay=0"]
    alone = losses(1, changes=changes)
    assert losses(4, "fsdp", changes=changes) == pytest.approx(alone, rel=1e-7)


@pytest.mark.slow
def test_more_devices_than_cores_do_not_wait_for_ever(data_dir, tmp_path):
    # With XLA's own order of operations a device waited in two all-reduces at once, until no
    # thread was left for the last device; XLA then ended the process.
    process = runs.start(
        "--config=configs/digits.py",
        f"--config.data.data_dir={data_dir}",
        f"--workdir={tmp_path / 'run'}",
        "--config.num_seeds=5",
        "--config.total_steps=4",
        "--config.schedule_args.warmup_steps=1",
        devices=4,
    )
    code, _, error = runs.finish(process)
    assert (code, error) == (0, "")
