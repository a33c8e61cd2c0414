"""What other implementations call the parts of the networks here, and in which order of letters.

A dialect is a list of rules; a rule is a pattern of our module paths and a function from its groups
to the module's name there. Parameters follow from their modules: a kernel or scale is a `weight`
there, running averages are `running_mean` and `running_var`. To add one, list it in `DIALECTS`
under the class of the network.
"""

import re
from collections.abc import Callable

from flax import linen as nn

from aggnets_jax.errors import UserError
from aggnets_jax.models.sparsenet import SparseNet

Rule = tuple[str, Callable[..., str]]
"""A pattern of module paths here, and a function from its groups to the name there."""

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def torch_name(rules: tuple[Rule, ...], path: str) -> str:
    """The name there of a variable here, such as "params/stage1/layer3/conv1/kernel"."""
    module, _, leaf = path.partition("/")[2].rpartition("/")
    for pattern, name in rules:
        if match := re.fullmatch(pattern, module):
            return f"{name(*match.groups())}.{_LEAVES[leaf]}"
    raise UserError(f"no name is known for the weight {path}")


def _after(prefix: str, number: str) -> str:
    """Numbers start at 1 here and at 0 there."""
    return f"{prefix}{int(number) - 1}"


# https://github.com/Lyken17/SparseNet
_SPARSENET: tuple[Rule, ...] = (
    (r"stem_conv", lambda: "features.conv0"),
    (r"stem_norm", lambda: "features.norm0"),
    (
        r"stage(\d+)/layer(\d+)/norm(\d)",
        lambda s, n, i: f"features.{_after('dense-stage-', s)}.block-{n}.bn{i}",
    ),
    (
        r"stage(\d+)/layer(\d+)/conv(\d)",
        lambda s, n, i: f"features.{_after('dense-stage-', s)}.block-{n}.conv{i}",
    ),
    (r"transition(\d+)/norm", lambda s: f"features.{_after('transition-', s)}.bn1"),
    (r"transition(\d+)/conv", lambda s: f"features.{_after('transition-', s)}.conv1"),
    (r"head_norm", lambda: "features.norm_last"),
    (r"classifier", lambda: "classifier.linear"),
)

DIALECTS: dict[type[nn.Module], dict[str, tuple[Rule, ...]]] = {
    SparseNet: {"reference": _SPARSENET},
}
