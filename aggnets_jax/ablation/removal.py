"""A network without some links, as a smaller network: its topologies and its remaining weights.

A mask multiplies the features of cut links by 0. Here these features are removed, with the weights
that multiply them: where features are concatenated, channels of a layer's input; where features are
added with weights of their own (DSNet), these weights.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn
from flax import traverse_util

from aggnets_jax import config as config_lib
from aggnets_jax.ablation.sets import StageLink, Stages, to_text
from aggnets_jax.connectivity.links import collection, find_links, masks_without
from aggnets_jax.connectivity.patterns import Link
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.errors import UserError
from aggnets_jax.models import create_configured_model
from aggnets_jax.training.state import Variables, leaves_by_path
from aggnets_jax.workdir.restore import Restored

# Largest difference between logits of the masked and the smaller network, relative to the largest.
_TOLERANCE = 1e-3


def obstacle(stages: Stages, cut: Iterable[StageLink]) -> str | None:
    """Return the reason why a network without some links can't be built, or None."""
    for name, links in _by_stage(cut).items():
        stage = stages[name]
        depth = stage.topology.depth
        # Shortcuts: layers read the layer before them besides their links, the output nothing.
        has_shortcuts = all(layer <= depth for layer, _ in stage.links)
        left = [link for link in stage.links if link not in links]
        for layer, source in links:
            if all(n != layer for n, _ in left):
                reader = "the output" if layer > depth else f"layer {layer}"
                return f"{reader} of {name} would read nothing"
            if source > 0 and not has_shortcuts and all(s != source for _, s in left):
                return f"nothing would read layer {source} of {name}"
    return None


def least_harmful(
    stages: Stages,
    ordered: Iterable[StageLink],
    number: int,
    fits: Callable[[StageLink], bool] = lambda link: True,
) -> tuple[list[StageLink], list[StageLink]]:
    """Choose the first links of an order that can be removed together from the network.

    `fits` says whether a link may be cut at all. Returns the links to cut, `number` of them, and
    the links before the last of them that must stay.

    Raises:
      UserError: if there are fewer.
    """
    cut, kept = [], []
    for link in ordered:
        if len(cut) == number:
            break
        (cut if fits(link) and not obstacle(stages, [*cut, link]) else kept).append(link)
    if len(cut) < number:
        raise UserError(f"{number} links can't be cut out of this network; at most {len(cut)} can")
    return cut, kept


def _by_stage(links: Iterable[StageLink]) -> dict[str, list[Link]]:
    found: dict[str, list[Link]] = {}
    for name, link in links:
        found.setdefault(name, []).append(link)
    return found


class Smaller(NamedTuple):
    """A network without some links, and the config that builds it."""

    config: ml_collections.ConfigDict
    model: nn.Module


def smaller_network(
    restored: Restored, stages: Stages, cut: Sequence[StageLink], seed: int | None = None
) -> Smaller:
    """Build a network without some links from custom patterns.

    The config is the run's, without the paper's numbers, for one seed, by default the first.

    Raises:
      UserError: if it can't be built, or patterns of its stages can't be set one by one.
    """
    if why := obstacle(stages, cut):
        raise UserError(f"without {to_text(cut)} there is no network: {why}")
    given = config_lib.to_json(restored.config)
    given.update(num_seeds=1, seed=given["seed"] if seed is None else seed)
    given.update(init_from=None, init_checkpoint="latest", file="", paper={})
    links = _by_stage(cut)
    left = {name: stage.topology.remove(links.get(name, ())) for name, stage in stages.items()}
    given["model"].update(topology="custom", patterns={})
    given["model"]["topology_args"] = [
        {"edges": [list(link) for link in topology.links]} for topology in left.values()
    ]
    refused = f"patterns of {given['model']['name']!r} can't be set stage by stage"
    try:
        if any("/" in stage for stage in stages):
            raise UserError("some stages are within blocks, which share one pattern")
        config = config_lib.resolve(given)
        model = create_configured_model(config, restored.info.num_classes)
        found = find_links(model, restored.info.image_shape)
    except UserError as error:
        raise UserError(f"{refused}: {error}") from error
    built = {name: stage.topology.sources for name, stage in found.items()}
    if built != {name: topology.sources for name, topology in left.items()}:
        raise UserError(refused)
    return Smaller(config, model)


class _Widths(NamedTuple):
    """Widths and the order of modules, by their paths.

    Attributes:
      outputs: channels of each output of each stage, by number; the input is counted as layers
        after the first one read it.
      before: the stage that ended last before each module outside of the stages.
      order: place of each module.
    """

    outputs: Mapping[str, Mapping[int, int]]
    before: Mapping[str, str]
    order: Mapping[str, int]


def _find_widths(model: nn.Module, images: jax.Array) -> _Widths:
    """Record the calls of the modules; nothing is computed."""
    outputs: dict[str, dict[int, int]] = {}
    before: dict[str, str] = {}
    order: dict[str, int] = {}
    running: list[str] = []
    ended = ""

    def record(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        nonlocal ended
        module, path = context.module, "/".join(context.module.path)
        if context.method_name != "__call__" or not path:
            return call(*arguments, **keywords)
        order.setdefault(path, len(order))
        if isinstance(module, Stage):
            outputs[path] = {0: _channels(arguments[0])}
            running.append(path)
            result = call(*arguments, **keywords)
            ended = running.pop()
            return result
        if not running:
            before[path] = ended
        result = call(*arguments, **keywords)
        name = path.removeprefix(f"{running[-1]}/") if running else ""
        if match := re.fullmatch(r"projection|layer(\d+)", name):
            outputs[running[-1]][int(match[1] or 0)] = _channels(result)
        return result

    with nn.intercept_methods(record):
        jax.eval_shape(model.init, jax.random.key(0), images)
    return _Widths(outputs, before, order)


def _channels(output: Any) -> int:
    """Return the channels of an array; 0 for other outputs, which are concatenated by leaves."""
    return output.shape[-1] if hasattr(output, "shape") else 0


def fitting_variables(
    restored: Restored, stages: Stages, cut: Sequence[StageLink], smaller: Smaller
) -> Variables:
    """Cut the variables of a network (with one seed) to fit the network without some links.

    They are cut by their shapes; `check_same_function` says whether the smaller network then
    computes the same as the masked one. Returns NumPy arrays.

    Raises:
      UserError: if one does not fit.
    """
    images = jnp.zeros((1, *restored.info.image_shape))
    widths = _find_widths(restored.model, images)
    wanted = leaves_by_path(jax.eval_shape(smaller.model.init, jax.random.key(0), images))
    given = leaves_by_path(restored.variables)

    def place(path: str) -> int:
        module = path.partition("/")[2].rpartition("/")[0]
        return widths.order.get(module, len(widths.order))

    fitting = {}
    # In the order of computation, so that the first that does not fit is the cause.
    for path, like in sorted(wanted.items(), key=lambda item: place(item[0])):
        if path.startswith("strength/"):  # of a regularisation, no weight
            continue
        if path not in given:
            raise UserError(f"there are no weights for {path}")
        value = np.asarray(given[path])
        if value.shape != like.shape:
            value = _cut_axis(path, value, like.shape, _kept(path, widths, stages, set(cut)))
        fitting[tuple(path.split("/"))] = value
    return traverse_util.unflatten_dict(fitting)


def _kept(path: str, widths: _Widths, stages: Stages, cut: set[StageLink]) -> np.ndarray | None:
    """Return which entries of the input of a variable's module are left, bool; None if unknown."""
    module = path.partition("/")[2]
    stage = next((name for name in stages if module.startswith(f"{name}/")), None)
    if stage is None:
        owners = [m for m in widths.before if module.startswith(f"{m}/")]
        stage = widths.before[max(owners, key=len)] if owners else ""
        layer, repeated = stages[stage].topology.depth + 1 if stage in stages else 0, True
    else:
        match = re.match(r"(layer|weights)(\d+)/", module.removeprefix(f"{stage}/"))
        layer, repeated = (int(match[2]), match[1] == "layer") if match else (0, True)
    if not layer:
        return None
    sources = stages[stage].topology.sources_of(layer)
    left = [(stage, (layer, source)) not in cut for source in sources]
    outputs = widths.outputs[stage]
    return np.repeat(left, [outputs.get(s, 0) for s in sources] if repeated else 1)


def _cut_axis(
    path: str, value: np.ndarray, shape: tuple[int, ...], kept: np.ndarray | None
) -> np.ndarray:
    """Cut a variable along its one axis that is longer than the shape's."""
    axes = [axis for axis in range(value.ndim) if value.shape[axis] != shape[axis]]
    if value.ndim == len(shape) and len(axes) == 1 and kept is not None and len(kept):
        (axis,) = axes
        # A map that is flattened channel by channel has several entries of each.
        each, rest = divmod(value.shape[axis], len(kept))
        entries = np.flatnonzero(np.repeat(kept, each))
        if not rest and len(entries) == shape[axis]:
            return value.take(entries, axis)
    raise UserError(
        f"{path} would have the shape {shape} instead of {value.shape}, and this is more than fewer"
        " input channels"
    )


def check_same_function(
    restored: Restored,
    stages: Stages,
    cut: Sequence[StageLink],
    smaller: Smaller,
    fitting: Variables,
    images: jax.Array,
) -> None:
    """Compare the smaller network, with variables from `fitting_variables`, with the masked one.

    Images are [batch, height, width, channels], normalised; the network has one seed's variables.

    Raises:
      UserError: if their logits differ by more than rounding.
    """
    masks = collection(masks_without(stages, cut))
    with jax.default_matmul_precision("float32"):
        masked = _logits(restored.model)({**restored.variables, **masks}, images)
        found = _logits(smaller.model)(fitting, images)
    difference = float(jnp.max(jnp.abs(masked - found)))
    if not difference <= _TOLERANCE * max(1.0, float(jnp.max(jnp.abs(masked)))):
        raise UserError(
            "the network without the links differs from the one with masked links: logits differ by"
            f" {difference:.3g}"
        )


def _logits(model: nn.Module) -> Callable[[Variables, jax.Array], jax.Array]:
    """Make the compiled function from variables and images to logits, computed in float32."""
    model = model.clone(dtype=jnp.float32)
    return jax.jit(lambda variables, images: model.apply(variables, images, train=False)[0])
