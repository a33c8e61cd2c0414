"""The levels of any network of the registry: its features at several strides, without a classifier.

A level is an endpoint. Preactivated networks (DenseNet, SparseNet, HCGNet) normalise and activate
an endpoint before anything else reads it. Their level is ReLU(BN(endpoint)), with the network's own
normalisation. Parts on which no level depends, such as the classifier, have no parameters.
"""

import contextlib
import dataclasses
import fnmatch
import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jax.extend import core

from aggnets_jax.connectivity.execution import without_loops
from aggnets_jax.connectivity.features import Masked, without_statistics
from aggnets_jax.errors import UserError
from aggnets_jax.layers import dilation
from aggnets_jax.layers.batch_norm import BatchNorm

Path = tuple[str, ...]


class FeatureInfo(NamedTuple):
    """Endpoint, channels and stride of a level.

    Attributes:
      endpoint: name of the endpoint.
      channels: number of channels.
      stride: stride in pixels.
    """

    endpoint: str
    channels: int
    stride: int


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network, the endpoints that are its levels, and its frozen parts.

    Attributes:
      network: network of the registry.
      endpoints: names of the levels' endpoints, such as "stage1".
      strides: their strides in pixels.
      image_shape: (height, width, channels) of images that the network takes.
      frozen: endpoints that depend on no trainable parameter; normalisations before them are as in
        evaluation.
      trains_statistics: whether training normalises by the batch and updates the running averages,
        for networks without trained weights; else batch normalisation is as in evaluation.
      evaluated_norms: shell patterns of the paths of normalisations that are always as in
        evaluation.
      output_stride: largest stride of a map, which dilation keeps; 0: the network's own.
    """

    network: nn.Module
    endpoints: tuple[str, ...]
    strides: tuple[int, ...]
    image_shape: tuple[int, int, int]
    frozen: tuple[str, ...] = ()
    trains_statistics: bool = False
    evaluated_norms: tuple[str, ...] = ()
    output_stride: int = 0

    def init(self, key: jax.Array, images: jax.Array) -> dict[str, Any]:
        """Return new "params" and "batch_stats", without those on which no level depends."""
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
        return _levels(self, self._whole(variables), images)[0]

    def train(
        self, variables: Mapping[str, Any], images: jax.Array, rngs: Mapping[str, jax.Array]
    ) -> tuple[tuple[jax.Array, ...], dict[str, Any]]:
        """Compute the levels as `apply`, normalised by the batch; return updated running averages.

        `rngs` has the key "dropout" if the network drops anything.
        """
        levels, updated = _levels(self, self._whole(variables), images, train=True, rngs=rngs)
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
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Endpoint, channels and stride of each level."""
        return tuple(map(FeatureInfo, self.endpoints, _facts(self).channels, self.strides))

    @property
    def readers(self) -> dict[str, Path]:
        """The paths of the normalisations that read a level's endpoint, by endpoint."""
        return {name: reader.path for name, reader in _facts(self).readers.items()}

    @property
    def frozen_paths(self) -> frozenset[Path]:
        """The paths of the frozen parameters, within the backbone."""
        return _facts(self).frozen_params

    @property
    def unused(self) -> dict[Path, jax.ShapeDtypeStruct]:
        """The variables on which no level depends, by path."""
        return _facts(self).unused

    def normalises_as_in_evaluation(self, path: Path) -> bool:
        """Return whether the normalisation at a path is as in evaluation also in training."""
        name = "/".join(path)
        listed = any(fnmatch.fnmatchcase(name, pattern) for pattern in self.evaluated_norms)
        return listed or path in _facts(self).frozen_norms


class _Reader(NamedTuple):
    """A normalisation: the module, and its path in the network."""

    module: BatchNorm
    path: Path


class _Endpoints:
    """The endpoints of a network as it is traced, and the modules that normalise them."""

    def __init__(self, network: nn.Module, evaluates: Any = lambda path: False) -> None:
        self._network, self._evaluates = network, evaluates
        self._normalised: list[tuple[Any, jax.Array, _Reader]] = []
        self._masked: list[tuple[Any, jax.Array]] = []
        self._found: dict[str, jax.Array] = {}

    def apply(self, variables: Mapping[str, Any], images: jax.Array, **arguments: Any) -> Any:
        """Apply the network; return the updated collections."""
        with nn.intercept_methods(self._record):
            (_, self._found), updated = self._network.apply(variables, images, **arguments)
        return updated

    def _record(
        self, call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        normalises = context.method_name == "__call__" and isinstance(module, BatchNorm)
        if normalises and not module.use_running_average and self._evaluates(module.path):
            return module.clone(parent=module.scope, use_running_average=True)(*args, **kwargs)
        output = call(*args, **kwargs)
        if normalises:
            reader = _Reader(module, module.path)
            self._normalised.append((without_statistics(args[0]), output, reader))
        elif isinstance(output, Masked):
            self._masked.append((output.features, output.mask))
        return output

    def __getitem__(self, name: str) -> jax.Array:
        return self._found[name]

    def readers(self, name: str) -> list[tuple[jax.Array, _Reader]]:
        """Return the outputs of the normalisations that read an endpoint, with the modules."""
        # The same array, not an equal one: the normalisation reads this endpoint.
        same = self._found[name]
        return [(output, reader) for read, output, reader in self._normalised if read is same]

    def masks(self, name: str) -> list[jax.Array]:
        """Return the masks of an endpoint."""
        return [mask for features, mask in self._masked if features is self._found[name]]


def _levels(
    backbone: Backbone,
    variables: Mapping[str, Any],
    images: jax.Array,
    *,
    train: bool = False,
    rngs: Mapping[str, jax.Array] | None = None,
) -> tuple[tuple[jax.Array, ...], dict[str, Any]]:
    """Return the levels of a backbone, and in training the updated averages."""
    network = backbone.network
    endpoints = _Endpoints(network, backbone.normalises_as_in_evaluation)
    with _dilated(network, backbone.image_shape, backbone.output_stride, train):
        updated = endpoints.apply(
            variables, images, train=train, rngs=rngs, mutable=["batch_stats"] if train else []
        )
    levels = []
    for name in backbone.endpoints:
        level, readers = endpoints[name], endpoints.readers(name)
        if readers:
            level = nn.relu(readers[0][0])
        elif reader := _facts(backbone).readers.get(name):
            # In a layer that is recomputed for the gradient, the reader reads another tracer.
            level = nn.relu(_normalised(reader, backbone, variables, level, train))
        # Masks act after the normalisation, as for every other reader.
        for mask in endpoints.masks(name):
            level = level * mask
        levels.append(level)
    return tuple(levels), updated.get("batch_stats", {})


def _normalised(
    reader: _Reader, backbone: Backbone, variables: Mapping[str, Any], x: jax.Array, train: bool
) -> jax.Array:
    """Normalise an endpoint by the module that reads it."""
    evaluates = not train or backbone.normalises_as_in_evaluation(reader.path)
    module = reader.module.clone(parent=None, use_running_average=evaluates)
    own = {
        collection: functools.reduce(operator.getitem, reader.path, variables[collection])
        for collection in ("params", "batch_stats")
    }
    return module.apply(own, x, mutable=["batch_stats"])[0]


def _dilated(
    network: nn.Module, image_shape: Sequence[int], output_stride: int, train: bool
) -> contextlib.AbstractContextManager[None]:
    """Return the context in which a network has an output stride; 0: its own."""
    if not output_stride:
        return contextlib.nullcontext()
    return dilation.dilated(_input_strides(network, tuple(image_shape), train), output_stride)


@functools.lru_cache(maxsize=16)
def _input_strides(
    network: nn.Module, image_shape: tuple[int, int, int], train: bool
) -> tuple[float, ...]:
    """Return the stride of the input of each operation that slides a window, in their order."""
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)

    def run(variables: Any, images: jax.Array) -> Any:
        keys = {"dropout": jax.random.key(0)}
        return network.apply(variables, images, train=train, rngs=keys, mutable=["batch_stats"])

    with dilation.recording(image_shape[0]) as strides:
        jax.eval_shape(run, variables, images)
    return tuple(strides)


class _Facts(NamedTuple):
    """Facts about a backbone that its properties return; readers are normalisations by endpoint."""

    channels: tuple[int, ...]
    unused: dict[Path, jax.ShapeDtypeStruct]
    frozen_params: frozenset[Path]
    frozen_norms: frozenset[Path]
    readers: dict[str, _Reader]


@functools.lru_cache(maxsize=16)
def _facts(backbone: Backbone) -> _Facts:
    network = without_loops(backbone.network)
    if hasattr(network, "execution"):
        network = network.clone(execution=dataclasses.replace(network.execution, remat="none"))
    images = jax.ShapeDtypeStruct((1, *backbone.image_shape), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    endpoints = _Endpoints(network)
    readers = {}

    def run(variables: Any, images: jax.Array) -> Any:
        endpoints.apply(variables, images, train=False, mutable=[])
        found = {name: endpoints.readers(name) for name in backbone.endpoints}
        readers.update({name: each[0][1] for name, each in found.items() if each})
        levels = [each[0][0] if each else endpoints[name] for name, each in found.items()]
        return levels, [endpoints[name] for name in backbone.frozen]

    program, (levels, _) = jax.make_jaxpr(run, return_shape=True)(variables, images)
    program, number = program.jaxpr, len(backbone.endpoints)
    used = read_by(program, program.outvars[:number])
    upstream = read_by(program, program.outvars[number:])
    unused, params, norms = {}, [], []
    leaves = jax.tree.leaves_with_path(variables)
    for (keys, shape), inputs in zip(leaves, program.invars[:-1], strict=True):
        path = tuple(key.key for key in keys)
        if inputs not in used:
            unused[path] = shape
        elif inputs in upstream and path[0] == "params":
            params.append(path[1:])
        elif inputs in upstream and path[0] == "batch_stats":
            norms.append(path[1:-1])
    channels = tuple(level.shape[-1] for level in levels)
    return _Facts(channels, unused, frozenset(params), frozenset(norms), readers)


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

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Endpoint, channels and stride of each level."""
        return self.backbone.feature_info

    def pretrained(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return the variables of the levels from a trained classifier's; see `Backbone`."""
        return self.backbone.pretrained(variables)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """Compute the levels of images by `Backbone.apply`, or in training by `Backbone.train`."""
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
