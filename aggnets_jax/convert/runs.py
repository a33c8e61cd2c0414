"""`aggnets convert`: weights from PyTorch into a new workdir, and from a workdir to PyTorch."""

import jax
import jax.numpy as jnp
import ml_collections

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.convert import from_torch, read_state_dict, to_torch, write_state_dict
from aggnets_jax.convert.files import check_new_file
from aggnets_jax.errors import UserError
from aggnets_jax.files import PathLike, write_json
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tasks import get_task
from aggnets_jax.training.setup import set_up
from aggnets_jax.training.state import Variables
from aggnets_jax.workdir.checkpoint_writer import RunCheckpoints
from aggnets_jax.workdir.folder import CONFIG, open_workdir
from aggnets_jax.workdir.progress import Progress
from aggnets_jax.workdir.restore import restore_network


def import_weights(config: ml_collections.ConfigDict, workdir: PathLike, file: str) -> None:
    """Make the workdir of a run at step 0 with weights from a file.

    It can be evaluated, and training can go on from these weights; files are as for
    `read_state_dict`.

    Raises:
      UserError: if the weights are not the config's network's; nothing is written.
    """
    info = data.describe(config.data)
    if config.num_seeds > 1:
        raise UserError("a file has the weights of one network: set config.num_seeds=1")
    variables = from_torch(
        config.model.name,
        read_state_dict(file),
        num_classes=info.num_classes,
        input_shape=info.image_shape,
        **config_lib.model_arguments(config),
    )
    write_new_run(config, info, variables, workdir)
    print(f"{workdir} has the weights of {file} as those of {config.model.name}", flush=True)


def write_new_run(
    config: ml_collections.ConfigDict,
    info: data.DatasetInfo,
    variables: Variables,
    workdir: PathLike,
) -> None:
    """Make a new workdir of a run of one seed, at step 0, with "params" and maybe "batch_stats".

    Raises:
      UserError: if there is a run in it, or the config fits none; nothing is written.
    """
    setup = set_up(config, get_task(config), info=info)
    state = setup.state_from(jax.tree.map(jnp.asarray, variables))
    config_json = config_lib.to_json(config)
    with open_workdir(workdir, config_json) as path:
        if (path / CONFIG).exists():
            raise UserError(f"workdir {workdir} holds a run already; give a new one")
        with RunCheckpoints(path, keep=1, config=config_json, dataset=info) as checkpoints:
            checkpoints.save(state, Progress())
            checkpoints.finish()
        # Last, so that a workdir that is left half made does not count as a run's.
        write_json(path / CONFIG, config_json)


def export_weights(
    workdir: PathLike,
    file: str,
    *,
    which: str = "latest",
    seed: int | None = None,
    dialect: str | None = None,
) -> None:
    """Write the weights of a checkpoint, its averages if it has any, to a new file.

    The checkpoint is as for `restore_network`, the seed of a run with several, the file as for
    `write_state_dict`, and the dialect as for `to_torch`.

    Raises:
      UserError: if there is no such checkpoint, no such dialect of its network, or the file exists.
    """
    check_new_file(file)
    everywhere = mesh_lib.replicated(mesh_lib.make_mesh())
    restored = restore_network(workdir, which, everywhere)
    state_dict = to_torch(
        restored.config.model.name,
        restored.variables_at(seed),
        num_classes=restored.info.num_classes,
        input_shape=restored.info.image_shape,
        dialect=dialect,
        **config_lib.model_arguments(restored.config),
    )
    write_state_dict(file, state_dict)
    print(f"{file} has the weights of {workdir} after step {restored.step}", flush=True)
