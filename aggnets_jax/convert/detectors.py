"""Weights of detectors to and from torchvision.

    detector = create_detector("mask_rcnn_fpn", "resnet50", 90, conventions="torchvision")
    variables = detector_from_torch(detector, read_state_dict("maskrcnn_resnet50_fpn_coco.pth"))

The names are taken from `fasterrcnn_resnet50_fpn` and `maskrcnn_resnet50_fpn`. The older names of
some parts in the published files are read, too. The 91 outputs there are COCO's category ids, with
gaps; a detector of 80 classes takes the rows of these classes.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.typing import DTypeLike

from aggnets_jax.arguments import check_number
from aggnets_jax.convert import cast_weights
from aggnets_jax.convert.names import DIALECTS, Rule, torch_names
from aggnets_jax.detection.detector import Detector
from aggnets_jax.errors import UserError, unknown

# The ids from 1 to 90 that COCO doesn't use.
_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = tuple(i for i in range(1, 91) if i not in _GAPS)
"""Category ids of COCO's 80 classes, in the order of the labels 0, ..., 79."""

_EPSILON = 1e-5  # of the networks here
_COUNTER = ".num_batches_tracked"
_BODY = "backbone.body."

_RULES: tuple[Rule, ...] = (
    (r"pyramid/lateral(\d)", "backbone.fpn.inner_blocks.{:-1}.0"),
    (r"pyramid/output(\d)", "backbone.fpn.layer_blocks.{:-1}.0"),
    (r"rpn/conv", "rpn.head.conv.0.0"),
    (r"rpn/logits", "rpn.head.cls_logits"),
    (r"rpn/deltas", "rpn.head.bbox_pred"),
    (r"boxes/fc1", "roi_heads.box_head.fc6"),
    (r"boxes/fc2", "roi_heads.box_head.fc7"),
    (r"boxes/scores", "roi_heads.box_predictor.cls_score"),
    (r"boxes/deltas", "roi_heads.box_predictor.bbox_pred"),
    (r"mask/conv(\d)", "roi_heads.mask_head.{:-1}.0"),
    (r"mask/upsample", "roi_heads.mask_predictor.conv5_mask"),
    (r"mask/masks", "roi_heads.mask_predictor.mask_fcn_logits"),
)

# Patterns of the published files' names, and the names of today.
_OLDER = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
)
_OLDER_MASK = r"roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)"

# Rows of each class in the weights of the last layers.
_BY_CLASS = {
    "roi_heads.box_predictor.cls_score": 1,
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_predictor.mask_fcn_logits": 1,
}


def detector_from_torch(
    detector: Detector,
    state_dict: Mapping[str, np.ndarray],
    /,
    *,
    dtype: DTypeLike = np.float32,
    epsilon: float = _EPSILON,
) -> dict[str, Any]:
    """Convert torchvision's weights of a detector.

    Args:
      detector: detector with the background as class 0, and a backbone that torchvision has.
      state_dict: arrays by torchvision's names.
      dtype: of the variables.
      epsilon: number that torchvision adds to variances; 0 for the published COCO_V1 weights. The
        networks here add 1e-5: scales are multiplied by sqrt((var + 1e-5) / (var + epsilon)).

    Returns:
      Variables for `detector.apply`: "params" and "batch_stats", NumPy arrays.

    Raises:
      UserError: for a detector without known names, a negative epsilon, and for a weight that is
        missing, unknown, of another shape, not finite in `dtype`, or a variance below 0.
    """
    check_number("epsilon", epsilon, 0)
    names, shapes = detector_names(detector), _shapes(detector)
    given = {_today(str(key)): np.asarray(value) for key, value in state_dict.items()}
    for key in given:
        if key not in names and not key.endswith(_COUNTER):
            raise unknown("weight of the detector", key, names)
    missing = [key for key in names if key not in given]
    if missing:
        raise UserError(f"{len(missing)} weights of the detector are missing, first {missing[0]!r}")
    converted = {}
    for key, path in names.items():
        value = _picked(key, cast_weights(key, given[key], np.dtype(dtype)), detector.num_classes)
        if key.startswith(_BODY) and path.endswith("/scale"):
            var = given[key.removesuffix("weight") + "running_var"]
            value = value * np.sqrt((var + _EPSILON) / (var + epsilon))
        value = value.transpose(_order(path, value.ndim, inverse=False)).astype(dtype)
        if value.shape != shapes[path]:
            raise UserError(
                f"{key!r} has the shape {given[key].shape}, which fits no {path!r} of the shape"
                f" {shapes[path]}"
            )
        if not np.isfinite(value).all():  # a variance and an epsilon of 0
            raise UserError(f"{key!r} must hold numbers that are finite as {np.dtype(dtype)}")
        converted[path] = value
    return traverse_util.unflatten_dict(converted, sep="/")


def epsilon_of(state_dict: Mapping[str, np.ndarray]) -> float:
    """Return the epsilon of a file's variances in torchvision: 0 for published COCO_V1 files.

    These are known by the older names of their parts.
    """
    return 0.0 if "backbone.fpn.inner_blocks.0.weight" in state_dict else _EPSILON


def detector_to_torch(detector: Detector, variables: Mapping[str, Any], /) -> dict[str, np.ndarray]:
    """Return a detector's variables by torchvision's names of today.

    Raises:
      UserError: for a detector without known names, or variables of another detector.
    """
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    shapes = _shapes(detector)
    for path, shape in shapes.items():
        here = np.shape(flat[path]) if path in flat else "missing"
        if here != shape:
            raise UserError(f"{path!r} of the detector must have the shape {shape}, it is {here}")
    return {
        key: np.asarray(flat[path]).transpose(_order(path, len(shapes[path]), inverse=True))
        for key, path in detector_names(detector).items()
    }


def detector_names(detector: Detector) -> dict[str, str]:
    """Return our paths, such as "params/rpn/conv/kernel", by torchvision's names.

    Raises:
      UserError: for a detector without known names.
    """
    if not detector.conventions.background_first:
        raise UserError(
            f"torchvision's background is class 0, in the conventions"
            f" {detector.conventions.name!r} it is the last; use 'torchvision' or 'legacy'"
        )
    network = detector.backbone.network
    rules = DIALECTS.get(type(network), {}).get("torchvision", lambda network: ())(network)
    body, rest = {}, []
    for path in _shapes(detector):
        collection, part, module = path.split("/", 2)
        if part == "backbone":
            body[f"{collection}/{module}"] = path
        else:
            rest.append(path)
    names = torch_names(rules, body) if rules else None
    if names is None:
        raise UserError("torchvision has no detector with this backbone; it must be a ResNet")
    named = {f"{_BODY}{name}": body[path] for name, path in names.items()}
    return named | torch_names(_RULES, rest)


def _shapes(detector: Detector) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a detector's variables by path."""
    images = jax.ShapeDtypeStruct((1, *detector.backbone.image_shape), jnp.float32)
    sizes = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    variables = jax.eval_shape(detector.init, jax.random.key(0), images, sizes)
    return {k: v.shape for k, v in traverse_util.flatten_dict(variables, sep="/").items()}


def _today(key: str) -> str:
    """Return today's name of a weight."""
    for pattern, name in _OLDER:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, name, key)
    if match := re.fullmatch(_OLDER_MASK, key):
        return f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"
    return key


def _picked(key: str, value: np.ndarray, num_classes: int) -> np.ndarray:
    """Pick the rows of the background and COCO's 80 classes from rows of its 91 ids."""
    rows = _BY_CLASS.get(key.rpartition(".")[0])
    if rows is None or num_classes != len(COCO_IDS) or len(value) != 91 * rows:
        return value
    by_class = value.reshape(91, rows, *value.shape[1:])[[0, *COCO_IDS]]
    return by_class.reshape(-1, *value.shape[1:])


def _order(path: str, dimensions: int, *, inverse: bool) -> tuple[int, ...]:
    """Return the order of the axes there in a variable here, or the inverse."""
    if dimensions == 2:
        return (1, 0)
    if dimensions != 4:
        return tuple(range(dimensions))
    # A transposed convolution has (in, out, 2, 2), the others (out, in, height, width).
    order = (2, 3, 0, 1) if path.endswith("mask/upsample/kernel") else (2, 3, 1, 0)
    return tuple(np.argsort(order).tolist()) if inverse else order
