"""Any network of the registry as the backbone of a detector: its levels of features.

A level is the endpoint of a stage. Preactivated networks (DenseNet, SparseNet, HCGNet) normalise
and activate this endpoint before anything else reads it. Their level is ReLU(BN(endpoint)), with
the network's own normalisation. Parts after the last level, such as the classifier, have no
parameters in a detector.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jax.extend import core

from aggnets_jax.arguments import check_whole_number
from aggnets_jax.connectivity.execution import without_loops
from aggnets_jax.connectivity.features import Masked, without_statistics
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.layers.batch_norm import BatchNorm
from aggnets_jax.models.registry import create_model, input_shape

PYRAMID = (4, 8, 16, 32)
"""Strides of the levels of networks for large images."""


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network, the endpoints that are its levels, and what of it is frozen.

    Attributes:
      network: network of the registry.
      endpoints: names of the levels' endpoints, such as "stage1".
      strides: their strides in pixels.
      image_shape: (height, width, channels) of images that the network takes.
      frozen: levels whose endpoints depend on no trainable parameter; 1: stem and first stage.
      trains_statistics: whether training normalises by the batch and updates the running averages,
        for networks without trained weights; else batch normalisation is as in evaluation.
    """

    network: nn.Module
    endpoints: tuple[str, ...]
    strides: tuple[int, ...]
    image_shape: tuple[int, int, int]
    frozen: int = 1
    trains_statistics: bool = False

    def init(self, key: jax.Array, images: jax.Array) -> dict[str, Any]:
        """Return new variables: "params" and "batch_stats" that the levels depend on."""
        variables = traverse_util.flatten_dict(self.network.init(key, images, train=False))
        return traverse_util.unflatten_dict(
            {path: value for path, value in variables.items() if path not in self.unused}
        )

    def apply(self, variables: Mapping[str, Any], images: jax.Array) -> tuple[jax.Array, ...]:
        """Compute the levels, with batch normalisation by the running averages.

        Args:
          variables: as `init` returns them; "links" may have the masks of stages.
          images: [batch, height, width, channels], normalised.

        Returns:
          The levels [batch, height / stride, width / stride, features].
        """
        return _levels(self.network, self.endpoints, self._whole(variables), images)[1]

    def train(
        self, variables: Mapping[str, Any], images: jax.Array, rngs: Mapping[str, jax.Array]
    ) -> tuple[tuple[jax.Array, ...], dict[str, Any]]:
        """Compute the levels as `apply`, normalised by the batch; return updated running averages.

        `rngs` has the key "dropout" if the network drops anything.
        """
        _, levels, updated = _levels(
            self.network, self.endpoints, self._whole(variables), images, train=True, rngs=rngs
        )
        flat = traverse_util.flatten_dict(dict(updated))
        kept = {path: x for path, x in flat.items() if ("batch_stats", *path) not in self.unused}
        return levels, traverse_util.unflatten_dict(kept)

    def _whole(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return the variables with those that no level depends on, and frozen ones stopped."""
        flat = traverse_util.flatten_dict(dict(variables))
        frozen = self.frozen_paths
        for path in flat:
            if path[0] == "params" and path[1:] in frozen:
                flat[path] = jax.lax.stop_gradient(flat[path])
        unused = {path: jnp.zeros(x.shape, x.dtype) for path, x in self.unused.items()}
        return traverse_util.unflatten_dict(unused | flat)

    def pretrained(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return the variables that the levels depend on, of the network's trained variables.

        Args:
          variables: "params" and "batch_stats" of the network as a classifier, such as a run's or a
            converted file's, with any number of classes.

        Raises:
          UserError: if one is missing or has another shape.
        """
        images = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        wanted = traverse_util.flatten_dict(jax.eval_shape(self.init, jax.random.key(0), images))
        given = traverse_util.flatten_dict(dict(variables))
        for path, like in wanted.items():
            here = jnp.shape(given[path]) if path in given else "missing"
            if here != like.shape:
                raise UserError(
                    f"the weights don't fit the backbone: {'/'.join(path)!r} must have the shape"
                    f" {like.shape}, it is {here}"
                )
        return traverse_util.unflatten_dict({path: given[path] for path in wanted})

    @property
    def frozen_paths(self) -> frozenset[tuple[str, ...]]:
        """The paths of the frozen parameters, within the backbone."""
        return _facts(self)[1]

    @property
    def unused(self) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
        """The variables behind the last level, by path."""
        return _facts(self)[0]


def _levels(
    network: nn.Module,
    endpoints: Sequence[str],
    variables: Mapping[str, Any],
    images: jax.Array,
    *,
    train: bool = False,
    rngs: Mapping[str, jax.Array] | None = None,
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...], dict[str, Any]]:
    """Return the endpoints of a network, its levels, and in training the updated averages."""
    normalised: list[tuple[Any, jax.Array]] = []
    masked: list[tuple[Any, jax.Array]] = []

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(context.module, BatchNorm):
            normalised.append((without_statistics(args[0]), output))
        elif isinstance(output, Masked):
            masked.append((output.features, output.mask))
        return output

    with nn.intercept_methods(record):
        (_, found), updated = network.apply(
            variables, images, train=train, rngs=rngs, mutable=["batch_stats"] if train else []
        )
    stages = tuple(found[name] for name in endpoints)
    levels = []
    for stage in stages:
        # The same array, not an equal one: the normalisation reads this endpoint.
        readers = [output for read, output in normalised if read is stage]
        level = nn.relu(readers[0]) if readers else stage
        # Masked links act behind the normalisation, as for every other reader.
        for mask in (mask for features, mask in masked if features is stage):
            level = level * mask
        levels.append(level)
    return stages, tuple(levels), updated.get("batch_stats", {})


@lru_cache(maxsize=16)
def _facts(
    backbone: Backbone,
) -> tuple[dict[tuple[str, ...], jax.ShapeDtypeStruct], frozenset[tuple[str, ...]]]:
    """Return the unused variables with their shapes, and the paths of the frozen parameters."""
    network = without_loops(backbone.network)
    images = jax.ShapeDtypeStruct((1, *backbone.image_shape), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    levels = partial(_levels, network, backbone.endpoints)
    program = jax.make_jaxpr(lambda *inputs: levels(*inputs)[:2])(variables, images).jaxpr
    number = len(backbone.endpoints)
    used = read_by(program, program.outvars[number:])
    upstream = read_by(program, program.outvars[: backbone.frozen])
    unused, frozen = {}, []
    leaves = jax.tree.leaves_with_path(variables)
    for (keys, shape), inputs in zip(leaves, program.invars[:-1], strict=True):
        path = tuple(key.key for key in keys)
        if inputs not in used:
            unused[path] = shape
        elif path[0] == "params" and inputs in upstream:
            frozen.append(path[1:])
    return unused, frozenset(frozen)


def read_by(program: core.Jaxpr, outputs: Sequence[Any]) -> set[Any]:
    """Return the variables of a program that some outputs depend on."""
    read = {output for output in outputs if isinstance(output, core.Var)}
    for equation in reversed(program.eqns):
        if not read.isdisjoint(equation.outvars):
            read.update(each for each in equation.invars if isinstance(each, core.Var))
    return read


class Levels(nn.Module):
    """The levels of a backbone; its variables have the paths of the network.

    Attributes:
      backbone: the network and its levels.
    """

    backbone: Backbone

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """Compute the levels of images; see `Backbone.apply`, and in training `Backbone.train`."""
        if self.is_initializing():
            variables = self.backbone.init(self.make_rng("params"), images)
            for collection, tree in variables.items():
                for name, value in tree.items():
                    self.put_variable(collection, name, value)
        if not (train and self.backbone.trains_statistics):
            return self.backbone.apply(self.variables, images)
        rngs = {"dropout": self.make_rng("dropout")} if self.has_rng("dropout") else {}
        levels, averages = self.backbone.train(self.variables, images, rngs)
        for name, value in averages.items():
            self.put_variable("batch_stats", name, value)
        return levels


def make_backbone(
    name: str,
    *,
    endpoints: Sequence[str] | None = None,
    frozen: int = 1,
    trains_statistics: bool = False,
    **overrides: Any,
) -> Backbone:
    """Make a backbone from a network of the registry.

    Args:
      name: name of the network.
      endpoints: names of the stages that are levels, the finest first. Default: the last stage of
        each stride of 4, 8, 16 and 32, or of each stride if the network has not all of these.
      frozen: see `Backbone`.
      trains_statistics: see `Backbone`; then nothing can be frozen.
      **overrides: arguments of the network, as for `create_model`.

    Raises:
      UserError: for an unknown network, argument or endpoint, or levels whose strides don't double.
    """
    network, shape = create_model(name, **overrides), input_shape(name)
    if getattr(network, "pool", None) == "flatten":
        network = network.clone(pool="global")  # its classifier takes images of any size
    side = max(shape[0] // 32 * 32, 32)
    shape = (side, side, shape[2])
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    (_, found), _ = jax.eval_shape(
        without_loops(network).init_with_output, jax.random.key(0), images
    )
    strides = {k: side // v.shape[1] for k, v in found.items() if k.startswith("stage")}
    if endpoints is None:
        last = {stride: k for k, stride in strides.items()}
        chosen = PYRAMID if set(PYRAMID) <= set(last) else sorted(last)
        endpoints = [last[stride] for stride in chosen]
    for endpoint in endpoints:
        if endpoint not in strides:
            raise unknown(f"level of {name!r}", str(endpoint), strides)
    steps = tuple(strides[endpoint] for endpoint in endpoints)
    if not steps or any(2 * a != b for a, b in pairwise(steps)):
        raise UserError(
            f"levels of a pyramid need strides that double, got {steps or 'no levels'};"
            f" strides of {name!r}: {strides}"
        )
    check_whole_number("frozen", frozen, 0, len(steps))
    if trains_statistics and frozen:
        raise UserError(f"with trains_statistics nothing can be frozen: set frozen=0, not {frozen}")
    return Backbone(network, tuple(endpoints), steps, shape, frozen, trains_statistics)
