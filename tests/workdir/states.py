"""Small states, saved and restored as checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax import config as config_lib
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.training.state import TrainState, zero_totals
from aggnets_jax.workdir.checkpoint_writer import RunCheckpoints
from aggnets_jax.workdir.progress import Progress
from tests.runs import DATASET

CONFIG = config_lib.to_json(config_lib.resolve({}))


def make_state(step, seed=0, width=3):
    """A state of little arrays, of which each has values of its own."""
    rng = np.random.default_rng(step)
    array = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params = {"conv": {"kernel": array(3, 3, 1, width)}, "classifier": {"bias": array(2)}}
    return TrainState(
        seed=jnp.asarray(seed, jnp.int32),
        step=jnp.asarray(step, jnp.int32),
        params=params,
        batch_stats={"norm": {"mean": array(width)}},
        opt_state=(jax.tree.map(jnp.ones_like, params), jnp.asarray(step, jnp.int32)),
        ema=None,
        strength=None,
        totals=zero_totals(Classification.sums),
    )


def open_checkpoints(workdir, *, keep=2, config=CONFIG, dataset=DATASET):
    return RunCheckpoints(workdir, keep=keep, config=config, dataset=dataset)


def save(workdir, *steps):
    with open_checkpoints(workdir) as checkpoints:
        for step in steps:
            checkpoints.save(make_state(step), Progress(evaluated=step))
        checkpoints.finish()


def restore(workdir, *, state=None, allow_config_change=False, **changes):
    with open_checkpoints(workdir, **changes) as checkpoints:
        return checkpoints.restore(
            make_state(0) if state is None else state, allow_config_change=allow_config_change
        )


def assert_is(restored, step):
    state, progress = restored
    assert progress.evaluated == step
    jax.tree.map(np.testing.assert_array_equal, state, make_state(step))


def files_of(workdir, step):
    return sorted(f for f in (workdir / "checkpoints" / str(step)).rglob("*") if f.is_file())


def changed(**changes):
    return config_lib.to_json(config_lib.resolve({**CONFIG, **changes}))
