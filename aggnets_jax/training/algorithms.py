"""Optimisers by name, from optax, as parts of a chain that follow the clipping of the gradient.

Each function of `OPTIMIZERS` gets the `Common` parts, which the config's own fields describe, and
arguments of its own. Parameters of layers in a loop are one array (`scan_variables`); an optimiser
that scales whole arrays treats each layer in it by itself. The functions raise `UserError` for an
argument that is out of range.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from aggnets_jax.arguments import check_number, check_whole_number
from aggnets_jax.connectivity.scan_variables import layers_of_run
from aggnets_jax.errors import UserError
from aggnets_jax.files import explained

Transforms = Sequence[optax.GradientTransformation]


class Common(NamedTuple):
    """The parts that optimisers have in common.

    Attributes:
      schedule: learning rate by step.
      decay: adds the weight decay, parameters times `config.weight_decay`, to the updates.
      decayed: function from the parameters to a tree of bools: whether a parameter decays.
      momentum: `config.momentum`, for optimisers that use it.
      nesterov: `config.nesterov`, for the same optimisers.
      scale_layers: multiplies updates by the factors of their layers, for optimisers that keep
        other parameters than the trained ones; it is the identity if all factors are 1.
    """

    schedule: optax.Schedule
    decay: optax.GradientTransformation
    decayed: Callable[[Any], Any]
    momentum: float
    nesterov: bool
    scale_layers: optax.GradientTransformation

    @property
    def rate(self) -> optax.GradientTransformation:
        """The product with minus the learning rate."""
        return optax.scale_by_learning_rate(self.schedule)


def sgd(common: Common) -> Transforms:
    """Stochastic gradient descent, as in PyTorch: the weight decay is added before momentum."""
    momentum = common.momentum or None
    return [common.decay, optax.sgd(common.schedule, momentum=momentum, nesterov=common.nesterov)]


def adamw(
    common: Common,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    nesterov: bool = False,
) -> Transforms:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101, Algorithm 2); with `nesterov`, NAdamW."""
    _check_rates(b1=b1, b2=b2, eps=eps)
    return [optax.scale_by_adam(b1, b2, eps, nesterov=nesterov), common.decay, common.rate]


def lamb(
    common: Common,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    always_adapt: bool = True,
) -> Transforms:
    """LAMB (You et al., arXiv 1904.00962, Algorithm 2).

    Without `always_adapt`, updates of parameters that do not decay are not scaled by norms, as in
    timm.
    """
    _check_rates(b1=b1, b2=b2, eps=eps)
    trust = _trust_ratio(1.0, None if always_adapt else common.decayed)
    return [optax.scale_by_adam(b1, b2, eps), common.decay, trust, common.rate]


def lars(
    common: Common, *, trust_coefficient: float = 0.001, always_adapt: bool = True
) -> Transforms:
    """LARS (You et al., arXiv 1708.03888), with the config's momentum.

    As in Optax, the trust ratio is of the norm of the gradient with the weight decay; the paper's
    Algorithm 1 has the sum of both norms.
    `always_adapt` is as for `lamb`.
    """
    check_number("trust_coefficient", trust_coefficient, 0)
    trust = _trust_ratio(trust_coefficient, None if always_adapt else common.decayed)
    momentum = optax.trace(common.momentum, common.nesterov)
    return [common.decay, trust, common.rate, momentum]


def lion(common: Common, *, b1: float = 0.9, b2: float = 0.99) -> Transforms:
    """Lion (Chen et al., arXiv 2302.06675, Algorithm 2)."""
    _check_rates(b1=b1, b2=b2)
    return [optax.scale_by_lion(b1, b2), common.decay, common.rate]


def rmsprop(
    common: Common,
    *,
    decay: float = 0.9,
    eps: float = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = True,
) -> Transforms:
    """RMSProp with the config's momentum, after the learning rate, as in TensorFlow.

    TensorFlow's squared gradients begin with `initial_scale=1`; PyTorch adds `eps` to the root, and
    multiplies by the learning rate after momentum. Neither has Nesterov's momentum.
    """
    _check_rates(decay=decay, eps=eps)
    scale = optax.scale_by_rms(decay, eps, initial_scale, eps_in_sqrt=eps_in_sqrt)
    momentum = optax.trace(common.momentum, common.nesterov)
    return [common.decay, scale, common.rate, momentum]


def adafactor(
    common: Common,
    *,
    decay_rate: float = 0.8,
    clipping_threshold: float = 1.0,
    multiply_by_parameter_scale: bool = True,
    min_dim_size_to_factor: int = 128,
) -> Transforms:
    """Adafactor (Shazeer and Stern, arXiv 1804.04235).

    With `multiply_by_parameter_scale`, the learning rate is relative to a parameter's root mean
    square. An array's second moments are factored if its two largest axes have at least
    `min_dim_size_to_factor` entries.
    """
    check_number("decay_rate", decay_rate, 0, 1)
    check_number("clipping_threshold", clipping_threshold, 1e-6)
    check_whole_number("min_dim_size_to_factor", min_dim_size_to_factor, 1)
    inner = optax.adafactor(
        min_dim_size_to_factor=min_dim_size_to_factor,
        decay_rate=decay_rate,
        clipping_threshold=clipping_threshold,
        multiply_by_parameter_scale=multiply_by_parameter_scale,
    )

    def init(params: Any) -> Any:
        # Padding would change the mean squares of layers in one array.
        jax.tree_util.tree_map_with_path(lambda path, _: _check_no_loop(path), params)
        return inner.init(params)

    ascent = optax.scale(-1.0)
    scale = optax.GradientTransformation(init, inner.update)
    return [scale, ascent, common.decay, common.rate]


def muon(
    common: Common,
    *,
    beta: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    consistent_rms: float | None = None,
    adam_on: str = "(.*/)?classifier.*",
    adam_lr_factor: float = 1.0,
    adam_b1: float = 0.9,
    adam_b2: float = 0.999,
) -> Transforms:
    """Muon (https://github.com/KellerJordan/Muon) for kernels, AdamW for other parameters.

    Both have Nesterov's momentum, or neither. The kernel of a convolution is the matrix [height x
    width x inputs, outputs]. Its orthogonal update is multiplied by sqrt(max(1, outputs / rows));
    or, with `consistent_rms`, by this number times sqrt(max(rows, outputs)). AdamW also updates the
    kernels whose path matches the regular expression `adam_on`. Its learning rate, also of the
    weight decay, is the run's times `adam_lr_factor`.
    """
    _check_rates(beta=beta, adam_b1=adam_b1, adam_b2=adam_b2)
    check_whole_number("ns_steps", ns_steps, 1, 100)
    check_number("adam_lr_factor", adam_lr_factor, 0)
    with explained(f"adam_on {adam_on!r} is no regular expression", re.error, RecursionError):
        elsewhere = re.compile(adam_on)

    def matrix(path: Any, value: jax.Array) -> Any:
        axes = range(_has_layers(path), value.ndim)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if len(axes) < 2 or elsewhere.fullmatch(name):
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(axes[:-1]), axes[-1])

    direction = optax.contrib.muon(
        1.0,
        ns_steps=ns_steps,
        beta=beta,
        nesterov=nesterov,
        consistent_rms=consistent_rms,
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        adam_learning_rate=1.0,
        muon_weight_dimension_numbers=lambda params: jax.tree_util.tree_map_with_path(
            matrix, params
        ),
    )

    def of_real_size(path: Any, update: jax.Array, param: jax.Array) -> jax.Array:
        """Scale updates of layers in a loop for the rows and outputs that each layer has."""
        if not _has_layers(path) or matrix(path, param) is None:
            return update
        used = (param != 0).reshape(len(param), -1, param.shape[-1])  # padding is zero
        rows, outputs = used.any(2).sum(1), used.any(1).sum(1)
        # A kernel that starts at 0 shows no padding.
        rows = jnp.where(rows > 0, rows, used.shape[1])
        outputs = jnp.where(outputs > 0, outputs, used.shape[2])
        scale = _muon_scale(rows, outputs, consistent_rms)
        scale /= _muon_scale(used.shape[1], used.shape[2], consistent_rms)
        return update * scale.astype(update.dtype).reshape(-1, *(1,) * (param.ndim - 1))

    def of_adam(path: Any, update: jax.Array, param: jax.Array) -> jax.Array:
        return adam_lr_factor * update if matrix(path, param) is None else update

    size, factor = (
        optax.stateless(partial(jax.tree_util.tree_map_with_path, function))
        for function in (of_real_size, of_adam)
    )
    return [direction, size, optax.scale(-1.0), common.decay, factor, common.rate]


def _muon_scale(rows: Any, outputs: Any, consistent_rms: float | None) -> jax.Array:
    """Return the factor of Muon's orthogonal updates of matrices [rows, outputs]."""
    if consistent_rms is not None:
        return consistent_rms * jnp.sqrt(jnp.maximum(rows, outputs))
    return jnp.sqrt(jnp.maximum(1, outputs / jnp.maximum(rows, 1)))


def schedule_free_sgd(
    common: Common, *, b1: float = 0.9, weight_lr_power: float = 2.0
) -> Transforms:
    """Schedule-free SGD (arXiv 2405.15682), for a schedule that does not fall."""
    return _schedule_free(common, [common.decay], b1, weight_lr_power)


def schedule_free_adamw(
    common: Common,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_lr_power: float = 2.0,
) -> Transforms:
    """Schedule-free AdamW (arXiv 2405.15682), for a schedule that does not fall."""
    _check_rates(b2=b2, eps=eps)
    direction = [optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True), common.decay]
    return _schedule_free(common, direction, b1, weight_lr_power)


OPTIMIZERS: dict[str, Callable[..., Transforms]] = {
    f.__name__: f
    for f in (
        *(sgd, adamw, lamb, lars, lion, rmsprop, adafactor, muon),
        *(schedule_free_sgd, schedule_free_adamw),
    )
}


def is_schedule_free(name: str) -> bool:
    """Return whether an optimiser evaluates averages of the parameters, which it keeps itself."""
    return name.startswith("schedule_free")


def averaged(opt_state: Any, params: Any) -> Any:
    """Return the parameters to evaluate, from the state of a schedule-free optimiser.

    They are x = (y - (1 - b1) z) / b1 for trained parameters y (arXiv 2405.15682); frozen
    parameters are returned unchanged.
    """
    b1, z = (optax.tree_utils.tree_get(opt_state, name) for name in ("b1", "z"))

    def average(y: jax.Array, z: Any) -> jax.Array:
        return y if isinstance(z, optax.MaskedNode) else (y - (1 - b1) * z) / b1

    return jax.tree.map(average, params, z)


def _schedule_free(
    common: Common, direction: Transforms, b1: float, weight_lr_power: float
) -> Transforms:
    _check_rates(b1=b1)
    if not b1:
        raise UserError("b1 of a schedule-free optimiser must be above 0")
    check_number("weight_lr_power", weight_lr_power, 0)
    base = optax.chain(*direction, common.rate, common.scale_layers)
    return [optax.contrib.schedule_free(base, common.schedule, b1, weight_lr_power)]


def _trust_ratio(
    coefficient: float, adapted: Callable[[Any], Any] | None
) -> optax.GradientTransformation:
    """Return the transform that multiplies each layer's update by its trust ratio.

    The ratio is the coefficient times |parameters| / |update|. `adapted` returns the parameters
    whose updates are multiplied, as a tree of bools; None: all.
    """
    scale = optax.scale_by_trust_ratio(trust_coefficient=coefficient)

    def of_one(update: jax.Array, param: jax.Array) -> jax.Array:
        return scale.update(update, optax.EmptyState(), param)[0]

    def of_array(path: Any, update: jax.Array, param: jax.Array) -> jax.Array:
        return (jax.vmap(of_one) if _has_layers(path) else of_one)(update, param)

    transform = optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(of_array, updates, params)
    )
    return transform if adapted is None else optax.masked(transform, adapted)


def _has_layers(path: Any) -> bool:
    """Return whether the array at a path has an axis of layers in front."""
    return any(layers_of_run(key.key) for key in path)


def is_kernel(params: Any) -> Any:
    """Return a tree of bools: whether a parameter is a kernel, with two axes or more in a layer."""
    return jax.tree_util.tree_map_with_path(
        lambda path, value: value.ndim - _has_layers(path) > 1, params
    )


def _check_no_loop(path: Any) -> None:
    if _has_layers(path):
        raise UserError(
            "config.optimizer 'adafactor' needs the arrays of single layers; set"
            " config.model.scan=False"
        )


def _check_rates(*, eps: float = 1e-8, **rates: float) -> None:
    check_number("eps", eps, 0)
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise UserError(f"{name} of the optimiser must be in [0, 1), got {rate}")
