"""Starting a run from the weights of another run or of a file, instead of its initialisation."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from aggnets_jax import config as config_lib
from aggnets_jax.buckets import is_url
from aggnets_jax.connectivity.scan_variables import match_layout
from aggnets_jax.convert import from_torch, read_state_dict, some
from aggnets_jax.convert.detectors import COCO_IDS, detector_from_torch, epsilon_of
from aggnets_jax.convert.files import ENDINGS, is_file_of_weights, read_metadata
from aggnets_jax.convert.variants import epsilon_of_variant
from aggnets_jax.data import DatasetInfo
from aggnets_jax.detection import Detector
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.files import PathLike, any_path
from aggnets_jax.hub import is_on_hub
from aggnets_jax.models import create_configured_model
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tasks import get_task
from aggnets_jax.training.state import Variables, at_seed, leaves_by_path, model_shapes, over_seeds
from aggnets_jax.workdir.restore import Restored, restore_network

_CLASSIFIER = "params/classifier/"
# The parts of a detector that have outputs for each class.
_PREDICTORS = ("params/boxes/scores/", "params/boxes/deltas/", "params/mask/masks/")
_BOX_PREDICTOR = "roi_heads.box_predictor.cls_score.weight"


def initial_variables(
    config: ml_collections.ConfigDict, info: DatasetInfo, variables: Variables, workdir: PathLike
) -> Variables:
    """Replace the variables of a new network by those in `config.init_from`.

    All parameters and batch statistics are replaced, by a run's averages if it has any. The
    classifier alone stays new if its shape, or the names of a run's classes, differ; that is
    printed. Several seeds, the first axis of each array, may start from one network. Config, data
    set and workdir are those of the run that starts.

    A detector may start from another detector, of which the predictors of classes stay new alike,
    or from a classifier, which gives it the backbone.

    Raises:
      UserError: if there are no such weights, or they are another network's.
    """
    if config.task == "detection":
        return _replaced_in_detector(config, info, variables, workdir)
    if not config.model.scan:
        return _replaced(config, info, variables, workdir)
    # Other runs and files have the weights of each layer apart.
    apart = config.copy_and_resolve_references()
    apart.model.scan = False
    first = jax.eval_shape(partial(at_seed, number=0, num_seeds=config.num_seeds), variables)
    model = create_configured_model(apart, info.num_classes)
    like = model_shapes(model, info.image_shape)
    variables = over_seeds(partial(match_layout, like=like), config.num_seeds)(variables)
    variables = _replaced(apart, info, variables, workdir)
    return over_seeds(partial(match_layout, like=first), config.num_seeds)(variables)


def _replaced(
    config: ml_collections.ConfigDict, info: DatasetInfo, variables: Variables, workdir: PathLike
) -> Variables:
    """Replace the variables of a network without loops."""
    if is_file_of_weights(config.init_from):
        source, num_seeds = config.init_from, 1
        given = _from_file(config, _read(config), info.image_shape)
        # A file does not name them; a repository on the Hub may.
        names = read_metadata(source).get("class_names") if is_on_hub(source) else None
        same_classes = names is None or tuple(names) == info.class_names
    else:
        restored = _from_run(config, workdir)
        source, given = f"{config.init_from} after step {restored.step}", restored.variables
        num_seeds = restored.config.num_seeds
        same_classes = restored.info.class_names == info.class_names
    if num_seeds not in (1, config.num_seeds):
        raise UserError(
            f"{source} has networks of {num_seeds} seeds, and config.num_seeds is"
            f" {config.num_seeds}; allowed: {num_seeds}"
        )
    new, old = leaves_by_path(variables), leaves_by_path(given)
    if num_seeds < config.num_seeds:
        old = {path: jnp.broadcast_to(x, (config.num_seeds, *x.shape)) for path, x in old.items()}
    _check_paths(source, config.model.name, new, old)
    other = [path for path in new if new[path].shape != old[path].shape]
    new_head = bool(other) or not same_classes
    for path in other:
        if not path.startswith(_CLASSIFIER):
            raise UserError(
                f"{source} does not fit {config.model.name!r}: {path} has the shape"
                f" {old[path].shape} there, and must have {new[path].shape}"
            )
    print(
        f"starting from {source}"
        + (f"; the classifier is new, for {info.num_classes} classes" if new_head else ""),
        flush=True,
    )
    replaced = [
        x if new_head and path.startswith(_CLASSIFIER) else jnp.asarray(old[path], x.dtype)
        for path, x in new.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(variables), replaced)


def _replaced_in_detector(
    config: ml_collections.ConfigDict, info: DatasetInfo, variables: Variables, workdir: PathLike
) -> Variables:
    """Replace the variables of a detector, or of its backbone."""
    detector = get_task(config).make_network(config, info.num_classes)
    source, same_classes, is_detector = config.init_from, True, False
    if is_file_of_weights(config.init_from):
        state_dict = _read(config)
        is_detector = _BOX_PREDICTOR in state_dict
        if is_detector and len(state_dict[_BOX_PREDICTOR]) == 91:  # a file names no classes
            coco = info.category_ids == COCO_IDS
            same_classes = coco or detector.num_classes != len(COCO_IDS)
        given = _detector_from_file(config, detector, state_dict)
    else:
        restored = _from_run(config, workdir)
        source = f"{config.init_from} after step {restored.step}"
        is_detector = restored.config.task == "detection"
        same_classes = restored.info.class_names == info.class_names
        given = restored.variables
    if not is_detector:
        given = {name: {"backbone": x} for name, x in detector.backbone.pretrained(given).items()}
    new, old = leaves_by_path(variables), leaves_by_path(given)
    if is_detector:
        _check_paths(source, config.task_args.get("detector", "detector"), new, old)
    other = {path for path in old if new[path].shape != old[path].shape}
    for path in other:
        if not path.startswith(_PREDICTORS):
            raise UserError(
                f"{source} does not fit: {path} has the shape {old[path].shape} there, and must"
                f" have {new[path].shape}"
            )
    new_head = is_detector and (bool(other) or not same_classes)
    left = {path for path in new if new_head and path.startswith(_PREDICTORS)}
    print(
        f"starting from {source}"
        + ("" if is_detector else "; all but the backbone is new")
        + (f"; the predictors are new, for {info.num_classes} classes" if new_head else ""),
        flush=True,
    )
    replaced = [
        jnp.asarray(old[path], x.dtype) if path in old and path not in left else x
        for path, x in new.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(variables), replaced)


def _detector_from_file(
    config: ml_collections.ConfigDict, detector: Detector, state_dict: dict[str, Any]
) -> dict[str, Any]:
    """Return the variables of a detector, or of the network of its backbone."""
    if _BOX_PREDICTOR in state_dict:
        outputs = len(state_dict[_BOX_PREDICTOR])
        if not (outputs == 91 and detector.num_classes == len(COCO_IDS)):
            detector = detector.clone(num_classes=outputs - 1)
        return detector_from_torch(detector, state_dict, epsilon=epsilon_of(state_dict))
    return _from_file(config, state_dict, detector.backbone.image_shape)


def _from_run(config: ml_collections.ConfigDict, workdir: PathLike) -> Restored:
    folder, own = any_path(config.init_from), any_path(workdir)
    if folder == own or (not is_url(folder) and folder.resolve() == own.resolve()):
        raise UserError(f"config.init_from {config.init_from} is the workdir itself")
    if folder.is_file():
        raise UserError(
            f"config.init_from {config.init_from} is neither a workdir nor a file of weights"
            f" ({', '.join(ENDINGS)})"
        )
    everywhere = mesh_lib.replicated(mesh_lib.make_mesh())
    return restore_network(folder, config.init_checkpoint, everywhere)


def _read(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Read the weights of the file that `config.init_from` names."""
    if config.init_checkpoint != "latest":
        raise UserError(
            f"config.init_checkpoint={config.init_checkpoint} is for the workdir of a run, and"
            f" config.init_from is the file {config.init_from}"
        )
    return read_state_dict(config.init_from)


def _from_file(
    config: ml_collections.ConfigDict,
    state_dict: dict[str, Any],
    image_shape: tuple[int, int, int],
) -> dict[str, Any]:
    """Return the variables of the config's network from weights that `_read` has read."""
    arguments = config_lib.model_arguments(config)
    epsilon = epsilon_of_variant(read_metadata(config.init_from), arguments)
    return from_torch(
        config.model.name, state_dict, input_shape=image_shape, epsilon=epsilon, **arguments
    )


def _check_paths(
    source: str, network: str, new: dict[str, jax.Array], old: dict[str, jax.Array]
) -> None:
    for path in old:
        if path not in new:
            raise UserError(
                f"{source} does not fit: " + str(unknown(f"variable of {network!r}", path, new))
            )
    if missing := [path for path in new if path not in old]:
        raise UserError(
            f"{source} does not fit: {len(missing)} variables of {network!r} are missing:"
            f" {some(missing)}"
        )
