"""CondenseNet: a DenseNet that learns which of its inputs each group of outputs needs.

Paper: Huang et al., "CondenseNet: An Efficient DenseNet using Learned Group Convolutions", CVPR
2018, arXiv 1711.09224.

    y_l = conv3x3(BN-ReLU(L(BN-ReLU(concat(y_0, ..., y_{l-1})))))

    in training   L is a 1x1 convolution; its groups of outputs lose inputs, C - 1 times in//C each
    condensed     L selects the in//C inputs of each group, normalises them, and convolves in groups

There are three stages of n layers, depth 6n + 2, with growth rates that double, and average pooling
between them. The 3x3 convolutions have groups. Output o of L belongs to group o mod C. A condensing
step removes from each group the in//C inputs with the smallest sums of absolute weights.

A removed weight is exactly 0, and `LearnedGroupConv` gives it no gradient. `condense` removes
weights; `constrain` does so during training, at 1/6, 1/3 and 1/2 of it, and keeps them at 0.
`export` returns the condensed form, whose index layers are the collection "selection". Both forms
compute the same function. The group lasso of the paper (1e-5 on ImageNet, 0 on CIFAR) is left out,
and so is the network for ImageNet, which links all layers.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import traverse_util
from jax.typing import DTypeLike

from aggnets_jax.arguments import check_whole_number
from aggnets_jax.connectivity.aggregation import Masked, check_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import (
    Topology,
    TopologyArgs,
    TopologyLike,
    per_stage,
    stage_topologies,
)
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common
from aggnets_jax.layers.convolution import convolve
from aggnets_jax.layers.learned_groups import (
    GROUPS,
    LEARNED,
    CondensedConv,
    LearnedGroupConv,
    grouped_kernel,
    kept_inputs,
    lost,
)
from aggnets_jax.layers.pooling import avg_pool
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import register_family

CONDENSED_AT = (1 / 6, 1 / 3, 1 / 2)
"""Shares of the training after which groups lose inputs."""


class CondenseLayer(nn.Module):
    """The unit: BN-ReLU-L(4k)-BN-ReLU-conv3x3(k) in groups.

    Attributes:
      growth_rate: k, the channels of the output.
      condensed: whether L is the condensed form.
      norm: makes batch normalisations.
      conv: makes convolutions.
      dtype: dtype of the computation.
    """

    growth_rate: int
    condensed: bool
    norm: common.Norm
    conv: common.Conv
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array | Masked) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height, width, growth_rate]."""
        if self.condensed:
            x = common.masked(x)
            x = CondensedConv(4 * self.growth_rate, self.norm, self.conv, name="condensed")(x)
        else:
            x = common.activate(self.norm(name="norm1"), x)
            x = LearnedGroupConv(
                4 * self.growth_rate,
                (1, 1),
                padding=0,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=common.he_fan_out,
                conv_general_dilated=convolve,
                name=LEARNED,
            )(x)
        x = nn.relu(self.norm(name="norm2")(x))
        return self.conv(self.growth_rate, 3, groups=GROUPS, name="conv2")(x)


class CondenseNet(Network):
    """Stem conv3x3, stages of `CondenseLayer` with average pooling between them, BN-ReLU, head.

    Attributes:
      topologies: topology of each stage.
      growth_rates: k of each stage.
      aggregation: "concat".
      condensed: whether layers have the condensed form, for inference, see docs/networks.md.
    """

    topologies: tuple[Topology, ...]
    growth_rates: tuple[int, ...]
    aggregation: str = "concat"
    condensed: bool = False

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        x = conv(2 * self.growth_rates[0], 3, name="stem_conv")(x)
        endpoints["stem"] = x
        for i, (topology, k) in enumerate(zip(self.topologies, self.growth_rates, strict=True), 1):
            if i > 1:
                x = avg_pool(common.masked(x), (2, 2), strides=(2, 2))
            x = Stage(
                topology,
                unit=partial(CondenseLayer, k, self.condensed, norm, conv, self.dtype),
                aggregation=self.aggregation,
                preactivated=True,
                train=train,
                execution=self.execution,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = common.features_of(x)

        return common.activate(norm(name="head_norm"), x)

    def constrain(self, total_steps: int) -> optax.GradientTransformation:
        """Return the last part of an optimiser: it condenses during a training of so many steps."""

        def update(updates: Any, count: jax.Array, params: Any = None) -> tuple[Any, jax.Array]:
            count += 1
            steps = sum((count >= share * total_steps).astype(jnp.int32) for share in CONDENSED_AT)

            def keep(path: tuple[str, ...], step: jax.Array) -> jax.Array:
                if LEARNED not in path or isinstance(step, optax.MaskedNode):  # frozen
                    return step
                weights = weights_by_path[path]
                return jnp.where(lost(weights, steps), -weights, step)

            weights_by_path = traverse_util.flatten_dict(params)
            flat = traverse_util.flatten_dict(updates)
            kept = {path: keep(path, step) for path, step in flat.items()}
            return traverse_util.unflatten_dict(kept), count

        return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


def condense(params: Any, steps: int = GROUPS - 1) -> Any:
    """Return the parameters of a `CondenseNet` after condensing steps, one after another."""
    flat = dict(traverse_util.flatten_dict(params))
    for path, kernel in flat.items():
        if LEARNED in path:
            for step in range(1, steps + 1):
                kernel = jnp.where(lost(kernel, step), 0, kernel)
            flat[path] = kernel
    return traverse_util.unflatten_dict(flat)


def export(model: CondenseNet, variables: Any) -> tuple[CondenseNet, dict[str, Any]]:
    """Return the condensed form of a condensed network and its variables: the same function.

    The variables are "params", "batch_stats" and "selection", the inputs of each group.

    Raises:
      UserError: if a group has lost too few inputs.
    """
    flat = traverse_util.flatten_dict(dict(variables))
    kernels = {path[1:-2]: kernel for path, kernel in flat.items() if LEARNED in path}
    selected = {layer: kept_inputs(kernel) for layer, kernel in kernels.items()}
    new: dict[tuple[str, ...], jax.Array] = {}
    for path, value in flat.items():
        collection, *layer, module, leaf = path
        layer = tuple(layer)
        if module == LEARNED:
            new["selection", *layer, "condensed", "index"] = selected[layer].reshape(-1)
            kernel = grouped_kernel(value, selected[layer])
            new["params", *layer, "condensed", "conv", "kernel"] = kernel
        elif module == "norm1":
            new[collection, *layer, "condensed", "norm", leaf] = value[selected[layer].reshape(-1)]
        else:
            new[path] = value
    return model.clone(condensed=True), traverse_util.unflatten_dict(new)


def condensenet(
    *,
    depth: int | None = None,
    growth_rate: int | Sequence[int],
    stage_depths: Sequence[int] | None = None,
    topology: TopologyLike = "dense",
    topology_args: TopologyArgs = None,
    **fields: Any,
) -> CondenseNet:
    """Build a `CondenseNet`.

    Args:
      depth: 6n + 2: three stages of n layers; needed without `stage_depths`.
      growth_rate: k of each stage, a multiple of 4.
      stage_depths: layers of each stage; default from `depth`.
      topology: name of a pattern, or one for each stage.
      topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `CondenseNet`.

    Raises:
      UserError: for numbers that fit no network.
    """
    if stage_depths is None:
        if depth is None:
            raise UserError("a network needs the argument 'depth', or 'stage_depths'")
        check_whole_number("depth", depth, 8)
        if (depth - 2) % 6:
            nearest = 6 * round((depth - 2) / 6) + 2
            raise UserError(f"depth {depth} fits no network; allowed: 6n + 2, nearest {nearest}")
        stage_depths = ((depth - 2) // 6,) * 3
    growth_rates = per_stage("growth_rate", growth_rate, len(stage_depths))
    for k in growth_rates:
        check_whole_number("growth_rate", k, GROUPS)
        if k % GROUPS:
            raise UserError(f"growth_rate {k} is not divisible by the {GROUPS} groups")
    network = CondenseNet(
        topologies=stage_topologies(topology, topology_args, stage_depths),
        growth_rates=growth_rates,
        **fields,
    )
    check_aggregation(network.aggregation, ("concat",), "groups choose among concatenated outputs")
    return network


register_family(
    "condensenet",
    condensenet,
    pattern=r"condensenet(?P<depth>\d+)_k(?P<growth_rate>\d+(?:_\d+)*)",
    paper="CondenseNet: An Efficient DenseNet using Learned Group Convolutions, CVPR 2018,"
    " arXiv 1711.09224",
)
