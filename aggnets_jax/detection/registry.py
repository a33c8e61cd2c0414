"""Detectors by name: `create_detector`, `list_detectors`, `detector_info`.

A detector has a kind ("mask_rcnn_fpn"), a network of the registry as its backbone, and a number of
classes. `NAMED` has the combinations of the papers, with the tables that print their numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from aggnets_jax.arguments import check_number, check_whole_number, choose, no_argument
from aggnets_jax.detection.backbone import make_backbone
from aggnets_jax.detection.conventions import CONVENTIONS
from aggnets_jax.detection.detector import Detector, Sizes
from aggnets_jax.detection.operations import count_detector
from aggnets_jax.detection.proposals import Limits
from aggnets_jax.detection.roi_align import METHODS
from aggnets_jax.detection.training import SampleSizes
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.models.flops import Count

KINDS = {"mask_rcnn_fpn": True, "faster_rcnn_fpn": False}
"""Whether detectors of a kind have masks, by the name of the kind."""


class Named(NamedTuple):
    """A detector of a paper.

    Attributes:
      kind: a key of `KINDS`.
      backbone: name of the network.
      conventions: a key of `CONVENTIONS`.
      paper: paper and table that have its row.
    """

    kind: str
    backbone: str
    conventions: str
    paper: str


_HCGNET = "HCGNet, AAAI 2020, arXiv 1908.09699, Table 4"
_DSNET = "DSNet, WACV 2021, arXiv 2010.12496, Table 8"

NAMED = {
    "mask_rcnn_hcgnet_b_fpn": Named("mask_rcnn_fpn", "hcgnet_b", "legacy", _HCGNET),
    "mask_rcnn_resnet50_fpn": Named("mask_rcnn_fpn", "resnet50", "legacy", _HCGNET),
    "mask_rcnn_aognet_12m_fpn": Named("mask_rcnn_fpn", "aognet_12m", "legacy", _HCGNET),
    "faster_rcnn_resnet50_fpn": Named("faster_rcnn_fpn", "resnet50", "center", _DSNET),
    "faster_rcnn_dsnet50_fpn": Named("faster_rcnn_fpn", "dsnet50", "center", _DSNET),
    "faster_rcnn_ds2net50_fpn": Named("faster_rcnn_fpn", "ds2net50", "center", _DSNET),
}
"""The papers' detectors by name, for the 80 classes of COCO."""


def list_detectors() -> list[str]:
    """Return the names of the papers' detectors."""
    return sorted(NAMED)


def create_detector(
    name: str,
    /,
    backbone: str | None = None,
    num_classes: int = 80,
    *,
    conventions: str | None = None,
    levels: Sequence[str] | None = None,
    frozen: int = 1,
    trains_statistics: bool = False,
    backbone_args: dict[str, Any] | None = None,
    dtype: Any = jnp.float32,
    **fields: Any,
) -> Detector:
    """Make a detector.

    Args:
      name: "mask_rcnn_fpn" or "faster_rcnn_fpn", or one of `list_detectors()`.
      backbone: name of a network, as for `create_model`; needed for a kind. Default: the named
        detector's.
      num_classes: classes of objects, without the background.
      conventions: "legacy", "center" or "torchvision"; default: the named detector's, else
        "legacy".
      levels: stages of the backbone that are levels, see `make_backbone`.
      frozen: levels of the backbone that are frozen with all before them; 1: stem and first stage.
      trains_statistics: whether training normalises by the batch, see `Backbone`.
      backbone_args: further arguments of the network.
      dtype: dtype of the computation.
      **fields: further fields of `Detector`; `sizes`, `samples` and each of `limits` may be a
        dictionary.

    Raises:
      UserError: for an unknown name or argument, or a backbone without fitting levels.
    """
    named = NAMED.get(name)
    kind = named.kind if named else name
    if kind not in KINDS:
        raise unknown("detector", str(name), [*KINDS, *NAMED])
    if backbone is None:
        if named is None:
            raise UserError(f"detector {name!r} needs the argument 'backbone', a network's name")
        backbone = named.backbone
    check_whole_number("num_classes", num_classes, 1)
    if conventions is None:
        conventions = named.conventions if named else "legacy"
    record = choose("conventions", CONVENTIONS, conventions)
    fields = _checked(name, fields)
    if levels is not None and (isinstance(levels, str) or not isinstance(levels, Sequence)):
        raise UserError(f"levels must be names of stages, got {levels!r}")
    check_whole_number("frozen", frozen, 0)
    made = make_backbone(
        backbone,
        endpoints=levels,
        frozen=frozen,
        trains_statistics=trains_statistics,
        dtype=dtype,
        **(backbone_args or {}),
    )
    return Detector(made, num_classes, record, masks=KINDS[kind], dtype=dtype, **fields)


def _checked(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of `Detector` with named tuples in the place of dictionaries."""
    fields = dict(fields)
    own = {*Detector.__dataclass_fields__} - {"parent", "name", "backbone", "masks"}
    for field in fields:
        if field not in own:
            others = ("backbone_args", "frozen", "levels", "trains_statistics")
            raise UserError(no_argument(f"detector {name!r}", field, sorted({*own, *others})))
    if "sizes" in fields:
        sizes = fields["sizes"] = _named("size of a detector", Sizes, fields["sizes"])
        for part in ("pyramid", "hidden", "mask", "mask_depth"):
            check_whole_number(f"sizes: {part}", getattr(sizes, part), 1)
        for part in ("anchor_scale", "finest"):
            if (size := getattr(sizes, part)) is not None:
                check_number(f"sizes: {part}", size, 1)
    if "samples" in fields:
        samples = fields["samples"] = _named("number of samples", SampleSizes, fields["samples"])
        for part, number in samples._asdict().items():
            check_whole_number(f"samples: {part}", number, 1)
    if (limits := fields.get("limits")) is not None:
        if not isinstance(limits, Sequence) or len(limits) != 2:
            raise UserError(f"limits are (training, evaluation), got {limits!r}")
        fields["limits"] = tuple(_named("limit of proposals", Limits, each) for each in limits)
        for limit in fields["limits"]:
            check_number("limits: threshold", limit.threshold, 0, 1)
            for part in ("pre_nms", "post_nms", "proposals"):
                if (number := getattr(limit, part)) is not None or part != "post_nms":
                    check_whole_number(f"limits: {part}", number, 1)
    for field in ("most", "candidates", "loss_group"):
        if field in fields and (field, fields[field]) != ("loss_group", None):
            check_whole_number(field, fields[field], 1)
    for field in {"least_score", "nms_threshold"} & fields.keys():
        check_number(field, fields[field], 0, 1)
    if not isinstance(cropped := fields.get("cropped_masks", False), bool):
        raise UserError(f"cropped_masks must be True or False, got {cropped!r}")
    if fields.get("roi_method", METHODS[0]) not in METHODS:
        raise unknown("method of RoIAlign", str(fields["roi_method"]), METHODS)
    return fields


def _named(what: str, kind: type[Any], given: Any) -> Any:
    """Return a named tuple from fields by name."""
    if isinstance(given, kind):
        return given
    if not isinstance(given, Mapping):
        raise UserError(f"each {what} needs its name, such as {kind._fields[0]}, got {given!r}")
    for name in given:
        if name not in kind._fields:
            raise unknown(what, str(name), kind._fields)
    if missing := set(kind._fields) - set(kind._field_defaults) - set(given):
        raise UserError(f"a {what} is missing: {', '.join(sorted(missing))}")
    return kind(**given)


class DetectorInfo(NamedTuple):
    """Facts about a detector that are known without running it.

    Attributes:
      name: its name.
      params: scalars of all parameters.
      trainable: scalars of the parameters that are not frozen; the number that papers print.
      operations: operations for one image in mmdetection's convention, see `operations`.
      parts: parameters and multiply-adds of each part.
      paper: paper and table that have its row, or None.
    """

    name: str
    params: int
    trainable: int
    operations: dict[str, int]
    parts: dict[str, Count]
    paper: str | None


def detector_info(
    name: str, /, *arguments: Any, image_size: tuple[int, int] = (1280, 800), **overrides: Any
) -> DetectorInfo:
    """Return facts about a detector without running it.

    Args:
      name: as for `create_detector`.
      *arguments: as for `create_detector`.
      image_size: (height, width) of the image that the operations are for.
      **overrides: as for `create_detector`.

    Raises:
      UserError: as `create_detector`.
    """
    detector = create_detector(name, *arguments, **overrides)
    params, trainable, operations, parts = count_detector(detector, image_size)
    paper = NAMED[name].paper if name in NAMED else None
    return DetectorInfo(name, params, trainable, operations, parts, paper)
