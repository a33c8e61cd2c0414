"""`aggnets convert`: weights from PyTorch into a new workdir, and from a workdir to PyTorch."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.convert import from_torch, read_state_dict, to_torch, write_state_dict
from aggnets_jax.convert.detectors import detector_from_torch, detector_to_torch, epsilon_of
from aggnets_jax.convert.facts import describe_weights
from aggnets_jax.convert.files import check_new_file, read_metadata
from aggnets_jax.convert.variants import epsilon_of_variant
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.files import PathLike, write_json
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tasks import get_task
from aggnets_jax.training.setup import set_up
from aggnets_jax.training.state import Variables
from aggnets_jax.workdir.checkpoint_writer import RunCheckpoints
from aggnets_jax.workdir.folder import CONFIG, open_workdir
from aggnets_jax.workdir.progress import Progress
from aggnets_jax.workdir.restore import restore_network


def import_weights(
    config: ml_collections.ConfigDict,
    workdir: PathLike,
    file: str,
    *,
    entry: str | None = None,
    class_names: str | None = None,
    epsilon: float | None = None,
) -> None:
    """Make the workdir of a run at step 0 with weights from a file.

    It can be evaluated, and training can go on from these weights. No data set is needed: see
    `describe_weights`. If the config has a `data_dir`, the set there is described instead.

    Args:
      config: resolved config of the run.
      workdir: new directory.
      file: as for `read_state_dict`.
      entry: as for `read_state_dict`.
      class_names: as for `describe_weights`; for classification alone.
      epsilon: as for `from_torch`; default the weights', as far as the file tells it.

    Raises:
      UserError: if the weights are not the config's network's, or for an argument that is not for
        its task; nothing is written.
    """
    if config.num_seeds > 1:
        raise UserError("a file has the weights of one network: set config.num_seeds=1")
    if config.task == "detection":
        if class_names is not None:
            raise UserError("--class_names is for classification: a detector's data name them")
        task = get_task(config)
        info, state_dict = task.describe(config), read_state_dict(file, entry)
        detector = task.make_network(config, info.num_classes)
        epsilon = epsilon_of(state_dict) if epsilon is None else epsilon
        variables = detector_from_torch(detector, state_dict, epsilon=epsilon)
    else:
        info, variables = _classifier(config, file, entry, epsilon, class_names)
    write_new_run(config, info, variables, workdir)
    print(f"{workdir} has the weights of {file} as those of {config.model.name}", flush=True)


def _classifier(
    config: ml_collections.ConfigDict,
    file: str,
    entry: str | None,
    epsilon: float | None,
    class_names: str | None,
) -> tuple[data.DatasetInfo, Variables]:
    """Return the data set and the variables of a classifier from a file."""
    state_dict, metadata = read_state_dict(file, entry), read_metadata(file)
    arguments = config_lib.model_arguments(config)
    own = epsilon_of_variant(metadata, arguments)
    if config.data.data_dir is not None:
        if class_names is not None:
            raise UserError("--class_names and a folder of data (--data_dir) both name the classes")
        info = data.describe(config.data)
    else:
        info = describe_weights(config, state_dict, metadata, class_names)
    variables = from_torch(
        config.model.name,
        state_dict,
        num_classes=info.num_classes,
        input_shape=info.image_shape,
        epsilon=own if epsilon is None else epsilon,
        **arguments,
    )
    return info, variables


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
    # A length in epochs of unknown data changes nothing here.
    sizes = dataclasses.replace(info, num_train=info.num_train or config.batch_size)
    setup = set_up(config, get_task(config), info=sizes)
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
    epsilon: float | None = None,
) -> None:
    """Write the weights of a checkpoint, its averages if it has any, to a new file.

    The checkpoint is as for `restore_network`, the seed of a run with several, the file as for
    `write_state_dict`, and dialect and epsilon as for `to_torch`. A `.safetensors` file gets the
    names of the classes, the size of the images, mean and deviation, too.

    Raises:
      UserError: if there is no such checkpoint, no such dialect of its network, or the file exists,
        and for the epsilon of a detector.
    """
    check_new_file(file)
    everywhere = mesh_lib.replicated(mesh_lib.make_mesh())
    restored = restore_network(workdir, which, everywhere)
    facts = None
    if restored.config.task == "detection":
        if dialect not in (None, "torchvision"):
            raise unknown("dialect of detectors", dialect, ["torchvision"])
        if epsilon is not None:
            raise UserError("--epsilon is for --from_torch, and for --to_torch of a classifier")
        state_dict = detector_to_torch(restored.model, restored.variables_at(seed))
    else:
        info = restored.info
        state_dict = to_torch(
            restored.config.model.name,
            restored.variables_at(seed),
            num_classes=info.num_classes,
            input_shape=info.image_shape,
            dialect=dialect,
            epsilon=epsilon,
            **config_lib.model_arguments(restored.config),
        )
        names = ("class_names", "image_shape", "mean", "std")
        facts = {name: getattr(info, name) for name in names}
    write_state_dict(file, state_dict, facts)
    print(f"{file} has the weights of {workdir} after step {restored.step}", flush=True)
