"""Networks as a flat list of XLA's own operations, for programs that leave this package.

The traced program of a network is evaluated once more: calls are inlined, names and barriers are
left out, and everything that depends on the weights alone is computed. If asked for, the factors
and shifts that follow a convolution or a linear layer, such as its batch normalisation in
evaluation, become a part of its kernel and one bias (Jacob et al., arXiv 1712.05877, Section 3.2).
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from aggnets_jax.runtime.compilation import compile_for

Function = Callable[[jax.Array], jax.Array]
Operation = Callable[[core.JaxprEqn, Sequence[Any]], list[Any]]
"""Computes an operation of a traced program, from its operands."""

# The parameter with the program that an operation calls, by the name of the operation.
_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
}
_IDENTITIES = ("name", "optimization_barrier", "sharding_constraint")


def plain(
    function: Function, *, fold: bool = False, replaced: Mapping[str, Operation] | None = None
) -> Function:
    """Return the same function of one array, as a flat list of XLA's own operations.

    It can be traced with a symbolic batch. With `fold`, batch normalisations that directly follow a
    convolution or a linear layer are a part of it, so results differ by rounding. Operations whose
    name is in `replaced` are computed by its functions.
    """

    def run(images: jax.Array) -> jax.Array:
        # For CPUs, convolutions would be operations of this package.
        with compile_for("gpu"):
            traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(images.shape, images.dtype))
        (result,) = _evaluate(traced.jaxpr, traced.consts, [images], fold, replaced or {})
        return _emitted(result)

    return run


@dataclasses.dataclass
class _Layer:
    """A convolution or linear layer that is not computed yet: (images * kernel) scale + shift.

    Attributes:
      equation: the operation.
      images: its first operand.
      kernel: its second operand, known.
      axis: axis of the kernel with the features, which are the last axis of the result.
      scale: float64 [features].
      shift: float64 [features], or None as long as nothing has followed.
    """

    equation: core.JaxprEqn
    images: jax.Array
    kernel: np.ndarray
    axis: int
    scale: np.ndarray
    shift: np.ndarray | None = None

    @property
    def dtype(self) -> np.dtype:
        return self.equation.outvars[0].aval.dtype  # type: ignore[attr-defined]

    def followed_by(self, scale: np.ndarray | float, shift: np.ndarray | float) -> "_Layer":
        """Return the layer, then multiplied and shifted."""
        before = 0.0 if self.shift is None else self.shift
        shifted = np.broadcast_to(before * scale + shift, self.scale.shape)
        return dataclasses.replace(self, scale=self.scale * scale, shift=shifted)

    def emit(self) -> jax.Array:
        """Compute the layer."""
        if self.shift is None:
            return _bind(self.equation, [self.images, self.kernel])[0]
        along = [1] * self.kernel.ndim
        along[self.axis] = -1
        kernel = (self.kernel * self.scale.reshape(along)).astype(self.kernel.dtype)
        (result,) = _bind(self.equation, [self.images, kernel])
        return result + jnp.asarray(self.shift, self.dtype)


def sum_by_axis(equation: core.JaxprEqn, given: Sequence[Any]) -> list[Any]:
    """Compute "reduce_sum" along one axis after another: long sums round more than sums of sums."""
    result = _emitted(given[0])
    for axis in sorted(equation.params["axes"], reverse=True):
        result = result.sum(axis)
    return [result]


def pad_by_concatenation(equation: core.JaxprEqn, given: Sequence[Any]) -> list[Any]:
    """Compute "pad" as a concatenation with constants.

    Raises:
      NotImplementedError: if values are cut off, or padded between.
    """
    result, value = map(_emitted, given)
    for axis, (low, high, between) in enumerate(equation.params["padding_config"]):
        if min(low, high) < 0 or between:
            raise NotImplementedError("padding that cuts, or pads between values")
        if low or high:
            shape = result.shape
            ends = [jnp.full((*shape[:axis], n, *shape[axis + 1 :]), value) for n in (low, high)]
            result = jnp.concatenate([ends[0], result, ends[1]], axis)
    return [result]


def pool_planes(equation: core.JaxprEqn, given: Sequence[Any]) -> list[Any]:
    """Compute "reduce_window_max" of maps [batch, height, width, channels] as of planes [n, h, w].

    Raises:
      NotImplementedError: if windows reach over images or channels.
    """
    planes, of = _emitted(given[0]).transpose(0, 3, 1, 2), dict(equation.params)
    if of["window_dimensions"][0] > 1 or of["window_dimensions"][3] > 1:
        raise NotImplementedError("pooling over images or channels")
    for name in of:
        of[name] = of[name][:3]
    pooled = equation.primitive.bind(planes.reshape(-1, *planes.shape[2:]), **of)
    return [pooled.reshape(*planes.shape[:2], *pooled.shape[1:]).transpose(0, 2, 3, 1)]


def _evaluate(
    program: core.Jaxpr,
    consts: Sequence[Any],
    inputs: Sequence[Any],
    fold: bool,
    replaced: Mapping[str, Operation],
) -> list[Any]:
    """Evaluate a program; a result may be a `_Layer` that is not computed yet."""
    values = dict(zip([*program.constvars, *program.invars], [*consts, *inputs], strict=True))
    atoms = [atom for equation in program.eqns for atom in equation.invars]
    uses = collections.Counter(
        atom for atom in [*atoms, *program.outvars] if not isinstance(atom, core.Literal)
    )

    def read(atom: Any) -> Any:
        if isinstance(atom, core.Literal):
            return atom.val
        if uses[atom] > 1:  # computed here, once for all its readers
            values[atom] = _emitted(values[atom])
        return values[atom]

    for equation in program.eqns:
        given = [read(atom) for atom in equation.invars]
        name = equation.primitive.name
        if name in _CALLS:
            called = equation.params[_CALLS[name]]
            closed = isinstance(called, core.ClosedJaxpr)
            inner, known = (called.jaxpr, called.consts) if closed else (called, ())
            results = _evaluate(inner, known, given, fold, replaced)
        elif name in replaced:
            results = replaced[name](equation, given)
        elif name in _IDENTITIES:
            results = given
        elif name == "gather" and _is_index(equation, given):
            results = [_indexed(equation, *given)]
        elif fold and (layer := _folded(equation, given)) is not None:
            results = [layer]
        else:
            results = _bind(equation, list(map(_emitted, given)))
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in program.outvars]


def _is_index(equation: core.JaxprEqn, given: Sequence[Any]) -> bool:
    """Return whether a gather reads one known place, as x[:, 0]."""
    numbers, index = equation.params["dimension_numbers"], given[1]
    rank = len(equation.outvars[0].aval.shape)  # type: ignore[attr-defined]
    return _is_known(index) and np.ndim(index) == 1 and len(numbers.offset_dims) == rank


def _indexed(equation: core.JaxprEqn, value: Any, index: Any) -> jax.Array:
    """Compute a gather of one place as slices, which have a form with a symbolic batch."""
    of = equation.params
    result, numbers = _emitted(value), of["dimension_numbers"]
    for axis, start in zip(numbers.start_index_map, np.asarray(index).tolist(), strict=True):
        result = jax.lax.slice_in_dim(result, start, start + of["slice_sizes"][axis], axis=axis)
    return jax.lax.squeeze(result, numbers.collapsed_slice_dims)


def _emitted(value: Any) -> Any:
    return value.emit() if isinstance(value, _Layer) else value


def _bind(equation: core.JaxprEqn, given: Sequence[Any]) -> list[Any]:
    """Compute an operation: now if all its operands are known, else in the traced program."""

    def compute() -> list[Any]:
        results = equation.primitive.bind(*given, **equation.params)
        return list(results) if equation.primitive.multiple_results else [results]

    sizes = [size for variable in equation.outvars for size in variable.aval.shape]  # type: ignore[attr-defined]
    if all(map(_is_known, given)) and all(isinstance(size, int) for size in sizes):
        with jax.ensure_compile_time_eval():
            return [np.asarray(result) for result in compute()]
    return compute()


def _is_known(value: Any) -> bool:
    return not isinstance(value, jax.core.Tracer | _Layer)


def _folded(equation: core.JaxprEqn, given: Sequence[Any]) -> _Layer | None:
    """Return an operation as a layer into which later ones can be folded, or None."""
    name = equation.primitive.name
    if name in ("conv_general_dilated", "dot_general"):
        return _layer(equation, *given)
    if name not in ("add", "sub", "mul", "div") or not any(map(_is_known, given)):
        return None
    first, second = given
    if isinstance(second, _Layer) and name in ("add", "mul"):
        first, second = second, first
    if not isinstance(first, _Layer):
        return None
    constant = np.asarray(second, np.float64)
    by_feature = constant.size == np.prod(constant.shape[-1:], dtype=int)
    if not by_feature or constant.size not in (1, first.scale.size):
        return None
    constant = constant.ravel()
    if name in ("mul", "div"):
        return first.followed_by(constant if name == "mul" else 1 / constant, 0.0)
    return first.followed_by(1.0, constant if name == "add" else -constant)


def _layer(equation: core.JaxprEqn, images: Any, kernel: Any) -> _Layer | None:
    if not _is_known(kernel) or _is_known(images):
        return None
    parameters, kernel = equation.params, np.asarray(kernel)
    numbers = parameters["dimension_numbers"]
    if equation.primitive.name == "dot_general":
        ((_, contracted), (batch, _)) = numbers
        if batch or kernel.ndim != 2 or len(contracted) != 1:
            return None
        axis = 1 - contracted[0]
    else:
        if numbers.out_spec[1] != kernel.ndim - 1 or parameters["batch_group_count"] != 1:
            return None
        axis = numbers.rhs_spec[0]
    return _Layer(equation, _emitted(images), kernel, axis, np.ones(kernel.shape[axis]))
