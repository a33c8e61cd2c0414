"""Names of the networks that the papers compare with theirs, in other implementations.

The rules are as in `names.py`. The other implementations are public ports (kuangliu's, torchvision,
pytorchcv), the authors' code, or PyTorch modules with the names of the authors' TensorFlow code. No
implementation of ALL-CNN and Log-DenseNet V2 in PyTorch was found, so they have no names here.
"""

from typing import Any

from flax import linen as nn

from aggnets_jax.convert.names import _BLOCK, _RESNET, Rule, Rules, _if, _is_resnet, _read_as
from aggnets_jax.layers.residual_blocks import BasicBlock
from aggnets_jax.models import dsn, fpnasnet, nin
from aggnets_jax.models.aognet import AOGNet
from aggnets_jax.models.condensenet import LEARNED, CondenseNet
from aggnets_jax.models.fpnasnet import FPNASNet
from aggnets_jax.models.googlenet import GoogLeNet
from aggnets_jax.models.mobilenet import ROWS, MobileNetV2
from aggnets_jax.models.nas import NASNet
from aggnets_jax.models.nas_cells import CELLS
from aggnets_jax.models.plain_cnn import PlainCNN
from aggnets_jax.models.resnet import ResNet
from aggnets_jax.models.shufflenet import ShuffleNetV2
from aggnets_jax.models.wide_dpn import WideDPN


def _before(number: str, step: int = 1) -> int:
    return int(number) - step


def _plain(network: Any) -> bool:
    return _read_as("plain", network.topologies)


_NIN: tuple[Rule, ...] = (
    (r"stage(\d)_opening", "features.stage{}.unit1.conv"),
    (r"stage(\d)/layer(\d)/conv", lambda s, n: f"features.stage{s}.unit{int(n) + 1}.conv"),
    (r"classifier", "output.final_conv.conv"),
)
_DSN: tuple[Rule, ...] = (
    (r"stage(\d)_opening", "conv{}"),
    (r"stage(\d)/layer(\d)/conv", lambda s, n: f"cccp{2 * int(s) - 2 + int(n)}"),
    (r"class_conv", "cccp6"),
    (r"classifier", "ip1"),
    (r"companion(\d)", "ip_svm{}"),
)


def _plain_cnn(network: PlainCNN) -> tuple[Rule, ...]:
    if not _plain(network):
        return ()
    if network.stages == nin.STAGES and network.final_relu and not network.further_linear:
        return _NIN
    return _DSN if network.stages == dsn.STAGES and network.further_linear else ()


def _inception(stage: str, layer: str, branch: str, kind: str, index: str) -> str:
    module = "abcde"[_before(layer)]
    # A convolution, its norm and its ReLU follow each other; a pooling comes first.
    place = 3 * _before(index) + (kind == "norm") + (branch == "4")
    return f"{module}{int(stage) + 2}.b{branch}.{place}"


_GOOGLENET: tuple[Rule, ...] = (
    (r"stem_conv", "pre_layers.0"),
    (r"stem_norm", "pre_layers.1"),
    (r"stage(\d)/layer(\d)/branch(\d)_(conv|norm)(\d)", _inception),
    (r"classifier", "linear"),
)


def _mobilenet_block(stage: str, layer: str | None, part: str, kind: str) -> str:
    block = 1 + sum(row.blocks for row in ROWS[: _before(stage)]) + int(layer or 0)
    first = 0 if stage == "1" else 1  # stage 1 does not expand
    place = {
        "expand": f"0.{int(kind == 'norm')}",
        "depthwise": f"{first}.{int(kind == 'norm')}",
        "project": str(first + 1 + (kind == "norm")),
    }[part]
    return f"features.{block}.conv.{place}"


_MOBILENET: tuple[Rule, ...] = (
    (r"stem_conv", "features.0.0"),
    (r"stem_norm", "features.0.1"),
    (
        r"stage(\d)(?:_opening|/layer(\d))/(expand|depthwise|project)_(conv|norm)",
        _mobilenet_block,
    ),
    (r"head_conv", "features.18.0"),
    (r"head_norm", "features.18.1"),
    (r"classifier", "classifier.1"),
)

_SHUFFLE_PLACES = {
    ("left", "depthwise"): 0,
    ("left", "project"): 2,
    ("right", "expand"): 0,
    ("right", "depthwise"): 3,
    ("right", "project"): 5,
}


def _shuffle_unit(stage: str, layer: str | None, side: str, part: str, kind: str) -> str:
    place = _SHUFFLE_PLACES[side, part] + (kind == "norm")
    branch = 1 if side == "left" else 2
    return f"stage{int(stage) + 1}.{layer or 0}.branch{branch}.{place}"


_SHUFFLENET: tuple[Rule, ...] = (
    (r"stem_conv", "conv1.0"),
    (r"stem_norm", "conv1.1"),
    (
        r"stage(\d)(?:_opening|/layer(\d))/(left|right)/(expand|depthwise|project)_(conv|norm)",
        _shuffle_unit,
    ),
    (r"head_conv", "conv5.0"),
    (r"head_norm", "conv5.1"),
    (r"classifier", "fc"),
)
# https://github.com/jiequancui/FPNASNet
_FPNASNET_PARTS = {
    "branch/expand_conv": "conv.0",
    "branch/expand_norm": "conv.1",
    "branch/depthwise_conv": "conv.3",
    "branch/depthwise_norm": "conv.4",
    "branch/project_conv": "conv.6",
    "branch/project_norm": "conv.7",
    "left_depthwise_conv": "splitSeq.0",
    "left_depthwise_norm": "splitSeq.1",
    "left_conv": "splitSeq.3",
    "left_norm": "splitSeq.4",
    "projection/conv": "shortcutSeq.0",
    "projection/norm": "shortcutSeq.1",
}


def _fpnasnet_block(stage: str, layer: str | None, part: str) -> str:
    block = 2 + sum(map(len, fpnasnet.STAGES[: _before(stage)])) + int(layer or 0)
    return f"features.{block}.{_FPNASNET_PARTS[part]}"


_FPNASNET: tuple[Rule, ...] = (
    (r"stem_conv1", "features.0.0"),
    (r"stem_norm1", "features.0.1"),
    (r"stem_(conv|norm)2", lambda kind: f"features.1.{int(kind == 'norm')}"),
    (r"stem_(conv|norm)3", lambda kind: f"features.1.{3 + (kind == 'norm')}"),
    (rf"stage(\d+)(?:_opening|/layer(\d+))/({'|'.join(_FPNASNET_PARTS)})", _fpnasnet_block),
    (r"head_conv", "features.18.0"),
    (r"head_norm", "features.18.1"),
    (r"classifier", "classifier.1"),
)
# https://github.com/Queequeg92/DualPathNet
_WIDE_DPN: tuple[Rule, ...] = (
    (r"stem_conv", "conv1"),
    (r"stage(\d)_opening/residual/conv(\d)", "stage{}_0.resnet_block.conv{}"),
    (r"stage(\d)_opening/residual/norm(\d)", "stage{}_0.resnet_block.bn{}"),
    (r"stage(\d)_opening/residual/projection", "stage{}_0.resnet_block.shortcut.0"),
    (r"stage(\d)_opening/dense", "stage{}_0.conv"),
    (r"stage(\d)/layer(\d+)/conv(\d)", "stage{}.{:-1}.conv_block.conv{}"),
    (r"stage(\d)/layer(\d+)/norm(\d)", "stage{}.{:-1}.conv_block.bn{}"),
    (r"head_norm", "bn"),
    (r"classifier", "linear"),
)
# https://github.com/ShichenLiu/CondenseNet
_CONDENSENET: tuple[Rule, ...] = (
    (r"stem_conv", "features.init_conv"),
    (r"stage(\d)/layer(\d+)/norm(\d)", "features.denseblock_{}.denselayer_{}.conv_{}.norm"),
    (rf"stage(\d)/layer(\d+)/{LEARNED}", "features.denseblock_{}.denselayer_{}.conv_1.conv"),
    (r"stage(\d)/layer(\d+)/conv2", "features.denseblock_{}.denselayer_{}.conv_2.conv"),
    (r"head_norm", "features.norm_last"),
    (r"classifier", "classifier"),
)

_STATES = {"state0": "base", "state1": "prev"}
_STATES_OF_ENAS = {"state0_first": "pool_y", "state0": "base", "state1": "pool_x"}
_KINDS = {"conv": "conv", "conv1": "conv1", "conv2": "conv2", "norm": "bn"}
_PLACES = {"conv": "0", "norm": "1", "conv1": "conv1", "conv2": "conv2"}


def _nasnet(network: NASNet) -> tuple[Rule, ...]:
    if network.aggregation != "sum" or network.normal.topology.name not in CELLS:
        return ()
    states = _STATES_OF_ENAS if network.twice else _STATES
    nodes = r"cell(\d+)/nodes/op(\d+)"

    def separable(cell: str, op: str, part: str, index: str) -> str:
        name = "bn" if part == "norm" else part
        return f"cells.{cell}.ops.{op}.layers.{_before(index)}.{name}"

    def within(cell: str, op: str, index: str, kind: str) -> str:
        return f"cells.{cell}.ops.{op}.mid.{_before(index)}.{_KINDS[kind]}"

    ends = {"before": "pre", "behind": "post"}
    return (
        (r"stem_conv", "stem.0"),
        (r"stem_norm", "stem.1"),
        (
            r"cell(\d+)/(state\w+)/(conv[12]?|norm)",
            lambda cell, state, kind: f"cells.{cell}.{states[state]}.{_KINDS[kind]}",
        ),
        (rf"{nodes}/(depthwise|pointwise|norm)(\d)", separable),
        (rf"{nodes}/within(\d)/(conv|norm)", within),
        (
            rf"{nodes}/(before|behind)/(conv|norm)",
            lambda cell, op, end, kind: f"cells.{cell}.ops.{op}.{ends[end]}.{_KINDS[kind]}",
        ),
        (
            rf"{nodes}/(?:convolved/|reduction/)?(conv[12]?|norm)",
            lambda cell, op, kind: f"cells.{cell}.ops.{op}.{_KINDS[kind]}",
        ),
        (
            rf"{nodes}/projection/(conv|norm)",
            lambda cell, op, kind: f"cells.{cell}.ops.{op}.proj.{_PLACES[kind]}",
        ),
        (
            r"cell(\d+)/nodes/fitted(\d)/(conv[12]?|norm)",
            lambda cell, state, kind: f"cells.{cell}.fix.{state}.{_PLACES[kind]}",
        ),
        (r"classifier", "fc"),
    )


# https://github.com/iVMCL/AOGNets
def _aognet(network: AOGNet) -> tuple[Rule, ...]:
    if network.graphs is None or network.aggregation != "sum":
        return ()
    places = {"conv": "0", "norm": "1"}

    def stem(kind: str, index: str) -> str:
        return f"stem.{_before(index)}.conv_norm.conv_norm.{places[kind]}"

    def node(stage: str, block: str, layer: str, part: str) -> str:
        label = network.graphs[_before(stage)].nodes[_before(layer)].label
        block_name = f"stage_{_before(stage)}_block_{_before(block)}"
        kind, index = (part.split("/")[1], None) if "/" in part else (part[:-1], part[-1])
        module = {
            None: "shortcut.conv_norm",
            "1": "conv_norm_ac_1.conv_norm.conv_norm",
            "2": "conv_norm_ac_2.conv_norm.conv_norm",
            "3": "conv_norm_3.conv_norm",
        }[index]
        operation = f"{block_name}.{block_name}_node_{label}_op"
        return f"stage{_before(stage)}.{operation}.{module}.{places[kind]}"

    def norm(stage: str, block: str) -> str:
        return (
            f"stage{_before(stage)}.stage_{_before(stage)}_block_{_before(block)}.extra_norm_ac.0"
        )

    return (
        (r"stem_(conv|norm)(\d)", stem),
        (r"stage(\d)_block(\d)/layer(\d+)/((?:conv|norm)\d|projection/(?:conv|norm))", node),
        (r"stage(\d)_block(\d)_norm", norm),
        (
            r"transition(\d)_(conv|norm)",
            lambda s, kind: (
                f"stage{s}.stage_{s}_block_0_transition.0.conv_norm.conv_norm.{places[kind]}"
            ),
        ),
        (r"classifier", "fc"),
    )


# Squeeze-and-excitation behind the last norm of a block, "bn2" or "bn3", as a sequence of both.
def _se_resnet(network: ResNet) -> tuple[Rule, ...]:
    if network.attention != "se" or not _is_resnet(network):
        return ()
    last = 2 if network.block is BasicBlock else 3
    return (
        (rf"{_BLOCK}/norm{last}", f"layer{{}}.{{:0}}.bn{last}.0"),
        (rf"{_BLOCK}/attention/channels/squeeze", f"layer{{}}.{{:0}}.bn{last}.1.fc1"),
        (rf"{_BLOCK}/attention/channels/excite", f"layer{{}}.{{:0}}.bn{last}.1.fc2"),
        *_RESNET,
    )


# pytorchcv.models.sknet, whose units and branches are counted from 1 and 2.
_SK_PARTS = {
    **{f"conv{n}": f"conv{n}.conv" for n in (1, 3)},
    **{f"norm{n}": f"conv{n}.bn" for n in (1, 3)},
    **{f"conv2/branch{n}_conv": f"conv2.branches.branch{n + 1}.conv" for n in (1, 2)},
    **{f"conv2/branch{n}_norm": f"conv2.branches.branch{n + 1}.bn" for n in (1, 2)},
    "conv2/hidden": "conv2.fc1.conv",
    "conv2/hidden_norm": "conv2.fc1.bn",
    "conv2/scores": "conv2.fc2",
}
_SKNET: tuple[Rule, ...] = (
    (r"stem_conv", "features.init_block.conv.conv"),
    (r"stem_norm", "features.init_block.conv.bn"),
    (
        rf"{_BLOCK}/({'|'.join(_SK_PARTS)})",
        lambda s, n, part: f"features.stage{s}.unit{int(n or 0) + 1}.body.{_SK_PARTS[part]}",
    ),
    (r"stage(\d+)_projection/conv", "features.stage{}.unit1.identity_conv.conv"),
    (r"stage(\d+)_projection/norm", "features.stage{}.unit1.identity_conv.bn"),
    (r"classifier", "output"),
)


COMPARED: dict[type[nn.Module], dict[str, Rules]] = {
    AOGNet: {"reference": _aognet},
    CondenseNet: {
        "reference": _if(
            lambda network: not network.condensed and _read_as("dense", network.topologies),
            _CONDENSENET,
        )
    },
    FPNASNet: {"reference": _if(_plain, _FPNASNET)},
    GoogLeNet: {"reference": _if(lambda net: _plain(net) and not net.auxiliary_weight, _GOOGLENET)},
    MobileNetV2: {"torchvision": _if(_plain, _MOBILENET)},
    NASNet: {"reference": _nasnet},
    PlainCNN: {"reference": _plain_cnn},
    ResNet: {"se": _se_resnet, "pytorchcv": _if(_is_resnet, _SKNET)},
    ShuffleNetV2: {"torchvision": _if(_plain, _SHUFFLENET)},
    WideDPN: {
        "reference": _if(
            lambda network: (
                network.aggregation == "dual_path" and _read_as("dense", network.topologies)
            ),
            _WIDE_DPN,
        )
    },
}

UNUSED: dict[type[nn.Module], str] = {PlainCNN: r"ip_svm\d\.(weight|bias)"}
"""Patterns of the names of auxiliary heads, which are dropped by networks without them."""
