"""NASNet, AmoebaNet, PNASNet and ENASNet: stacks of the cells of `nas_cells.py`.

    h_l = sum over links (l, s) of op(h_s),    h0, h1: the outputs of the two cells before

    stem -- N normal -- reduction -- N normal -- reduction -- N normal -- ReLU-mean-linear
             F           2F           2F          4F           4F

h0 is ReLU-1x1(F)-BN of the last cell's output. h1 is the input of the last cell: unchanged if it
has F channels, otherwise after ReLU-1x1(F)-BN, or after ReLU and a factorised reduction if it has
twice the resolution. The first cell's h1 is the stem, conv3x3(3F)-BN, unchanged. On ImageNet the
stem is conv3x3/2(32)-BN without padding and two reduction cells of F/4 and F/2. There is no ReLU
between cells.

Where networks differ from this frame:
* PNASNet's own network for CIFAR has no reduction cells between the normal ones: the first cell of
  a later stage is at stride 2. The larger network (n6_f128), of Luo et al. (NAO, arXiv 1808.07233),
  has them.
* In the authors' ENAS network, the stem is both states of the first cell. Both states are brought
  to F channels, h0 twice. An identity at stride 2 is a factorised reduction, and the classifier has
  no bias. The larger network (n6_f128) of NAO follows the frame above.

The TensorFlow code of the authors was read, but not run; sizes are compared with printed ones. With
the auxiliary head (`auxiliary_weight`, 0.4 in the papers) the sizes are the ones that NAO prints.
NAO has the head after the first normal cell of the last stage; the TensorFlow code has it after the
last cell of the second stage (`auxiliary_stage=2`). Here drop-path does not grow during training.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.arguments import check_number, check_whole_number, choose
from aggnets_jax.connectivity.aggregation import check_aggregation
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, TopologyLike, stage_topologies
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common
from aggnets_jax.layers.auxiliary import AuxiliaryHead
from aggnets_jax.layers.link_operations import OPERATIONS, Cells
from aggnets_jax.models.nas_cells import CELLS, Cell, Wiring, read_cell, uniform_cell
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import IMAGENET, register_family


class NASNet(Network):
    """Stem, stages of `Cell` with reduction cells between them, ReLU, head.

    The endpoint of a stage is the output of its last cell; with an auxiliary head there are its
    logits `auxiliary1`, and `auxiliary_weight`.

    Attributes:
      normal: wiring of the normal cells.
      reduction: wiring of the cells at stride 2.
      num_cells: N, the normal cells of a stage.
      features: F, doubled at each reduction.
      within: whether the first cell of a later stage has stride 2, in the place of a further cell.
      twice: whether the frame is the authors' of ENAS.
      imagenet_stem: whether the network has the stem for ImageNet.
      aggregation: "sum" or "mean" of the operations of a state.
      auxiliary_weight: weight of the loss of the auxiliary head; 0 for none.
      auxiliary_stage: 2 for the head after the second stage, 3 for the head after the next normal
        cell.
      dropout: probability of dropping a feature before the classifier.
      drop_path: probability of dropping an operation of the last cell for an image; less before.
    """

    normal: Wiring
    reduction: Wiring
    num_cells: int
    features: int
    within: bool = False
    twice: bool = False
    imagenet_stem: bool = False
    aggregation: str = "sum"
    auxiliary_weight: float = 0.0
    auxiliary_stage: int = 3
    dropout: float = 0.0
    drop_path: float = 0.0

    @property
    def linear_head(self) -> bool:
        """Whether the classifier has weights and biases, from which page.py computes sizes."""
        return not self.twice

    @property
    def plan(self) -> list[tuple[int, int, bool]]:
        """Stage, width and whether it reduces, for each cell in order; the stem is stage 0."""
        features = self.features
        stem = [(0, features // 4, True), (0, features // 2, True)] if self.imagenet_stem else []
        cells = [*stem, *[(1, features, False)] * self.num_cells]
        for stage in (2, 3):
            features *= 2
            normal = self.num_cells - self.within
            cells += [(stage, features, True), *[(stage, features, False)] * normal]
        return cells

    @property
    def topologies(self) -> tuple[Topology, ...]:
        """The topology of each cell."""
        return tuple(
            (self.reduction if reduces else self.normal).topology for *_, reduces in self.plan
        )

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        if self.imagenet_stem:
            norm = partial(norm, epsilon=1e-3)
            x = conv(32, 3, stride=2, padding=0, name="stem_conv")(x)
        else:
            x = conv(3 * self.features, 3, name="stem_conv")(x)
        x = previous = norm(name="stem_norm")(x)
        endpoints["stem"], plan = x, self.plan
        auxiliary = self._auxiliary_cell(plan)
        for i, (stage, features, reduces) in enumerate(plan):
            rate = self.drop_path * (i + 1) / len(plan)
            cell = Cell(
                self.reduction if reduces else self.normal,
                Cells(features, norm, conv, self.twice),
                reduces,
                i == 0,
                self.twice,
                self.aggregation == "mean",
                self.execution,
                partial(common.branch_dropout, rate, train=train) if rate else None,
                name=f"cell{i}",
            )
            x, previous = cell(x, previous), x
            endpoints[f"stage{stage}" if stage else "stem"] = x
            if i == auxiliary:
                head = AuxiliaryHead(self.num_classes, 768, norm, conv, name="auxiliary1")
                endpoints["auxiliary1"] = head(x)
                endpoints["auxiliary_weight"] = jnp.float32(self.auxiliary_weight)
        return nn.relu(x)

    def _auxiliary_cell(self, plan: Sequence[tuple[int, int, bool]]) -> int | None:
        if not self.auxiliary_weight:
            return None
        last_of_second = max(i for i, (stage, *_) in enumerate(plan) if stage == 2)
        index = last_of_second + (0 if self.auxiliary_stage == 2 else 2)
        if index >= len(plan):
            raise UserError("the auxiliary classifier needs a second cell in the last stage")
        return index

    def _head(self, x: jax.Array, train: bool) -> dict[str, Any]:
        dropout = nn.Dropout(self.dropout, deterministic=not train)
        return {"dropout": dropout, "use_bias": not self.twice}


def nasnet(
    *,
    cell: str,
    num_cells: int,
    features: int,
    topology: TopologyLike | None = None,
    topology_args: TopologyArgs = None,
    operation: str = "sep3",
    **fields: Any,
) -> NASNet:
    """Build a `NASNet`.

    Args:
      cell: "nasnet_a", "amoebanet_a", "amoebanet_b", "pnasnet" or "enasnet".
      num_cells: N, the normal cells of a stage.
      features: F, the width of the first stage.
      topology: pattern of the states, of depth 6, in the place of the cell's; its links carry
        `operation`, and its outputs 0 and 1 are the inputs of the cell.
      topology_args: arguments of the pattern.
      operation: "id", "c1", "c3", "c17", "sep3", "sep5", "sep7", "dil5", "avg3", "max3" or "max2".
      **fields: further fields of `NASNet`.

    Raises:
      UserError: for numbers that fit no network.
    """
    check_whole_number("num_cells", num_cells, 1)
    check_whole_number("features", features, 4)
    choose("operation", OPERATIONS, operation)
    if features % 4:
        nearest = max(4, 4 * round(features / 4))
        raise UserError(f"features must be a multiple of 4, got {features}; nearest {nearest}")
    if topology is None:
        texts = choose("cell", CELLS, cell)
        normal, reduction = (read_cell(cell, text) for text in texts)  # type: ignore[attr-defined]
    else:
        (states,) = stage_topologies(topology, topology_args, [6])
        normal = reduction = uniform_cell(states, operation)
    network = NASNet(
        normal=normal, reduction=reduction, num_cells=num_cells, features=features, **fields
    )
    check_aggregation(network.aggregation, ("sum", "mean"), "a cell adds its operations")
    check_whole_number("auxiliary_stage", network.auxiliary_stage, 2, 3)
    for name in ("dropout", "drop_path"):
        check_number(name, getattr(network, name), 0, 0.99)
    check_number("auxiliary_weight", network.auxiliary_weight, 0)
    return network


_NASNET = "Learning Transferable Architectures for Scalable Image Recognition, CVPR 2018,"
_AMOEBANET = "Regularized Evolution for Image Classifier Architecture Search, AAAI 2019,"
_PNASNET = "Progressive Neural Architecture Search, ECCV 2018, arXiv 1712.00559"
_ENASNET = "Efficient Neural Architecture Search via Parameter Sharing, ICML 2018, arXiv 1802.03268"
_N, _F = r"_n(?P<num_cells>\d+)", r"_f(?P<features>\d+)"

# The authors' networks of PNASNet and ENAS come before those of NAO in the common frame.
for _name, _cell, _pattern, _fields, _registered, _paper in [
    ("nasnet_a_cifar", "nasnet_a", _N + _F, {}, {}, f"{_NASNET} arXiv 1707.07012"),
    (
        "nasnet_a_imagenet",
        "nasnet_a",
        _N + _F,
        {"imagenet_stem": True},
        IMAGENET,
        f"{_NASNET} arXiv 1707.07012",
    ),
    ("amoebanet_a_cifar", "amoebanet_a", _N + _F, {}, {}, f"{_AMOEBANET} arXiv 1802.01548"),
    ("amoebanet_b_cifar", "amoebanet_b", _N + _F, {}, {}, f"{_AMOEBANET} arXiv 1802.01548"),
    ("pnasnet_cifar", "pnasnet", r"_n(?P<num_cells>3)" + _F, {"within": True}, {}, _PNASNET),
    ("pnasnet_cifar_nao", "pnasnet", _N + _F, {}, {}, _PNASNET),
    ("enasnet_cifar", "enasnet", _N + r"_f(?P<features>36)", {"twice": True}, {}, _ENASNET),
    ("enasnet_cifar_nao", "enasnet", _N + _F, {}, {}, _ENASNET),
]:
    register_family(
        _name,
        partial(nasnet, cell=_cell, **_fields),
        pattern=_name.removesuffix("_nao") + _pattern,
        paper=_paper,
        **_registered,
    )
