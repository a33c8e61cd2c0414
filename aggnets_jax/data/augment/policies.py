"""AutoAugment and RandAugment: random operations, one after the other."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax.arguments import check_arguments, check_number, check_whole_number, choose
from aggnets_jax.data.augment.operations import OPERATIONS, Operation, both_directions, stack

Augment = Callable[[jax.Array, jax.Array], jax.Array]

# AutoAugment's pairs of operations for CIFAR-10 (Cubuk et al., arXiv 1805.09501, table 7): name,
# probability and, if the operation has one, magnitude from 0 to 9.
CIFAR = (
    (("invert", 0.1), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5), ("equalize", 0.9)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6), ("equalize", 0.5)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3), ("autocontrast", 0.4)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0)),
    (("equalize", 0.2), ("autocontrast", 0.6)),
    (("equalize", 0.2), ("equalize", 0.6)),
    (("color", 0.9, 9), ("equalize", 0.6)),
    (("autocontrast", 0.8), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9), ("solarize", 0.8, 3)),
    (("equalize", 0.8), ("invert", 0.1)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9)),
)

# AutoAugment's pairs for ImageNet (table 9).
IMAGENET = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6)),
    (("equalize", 0.8), ("equalize", 0.6)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4), ("solarize", 0.2, 4)),
    (("equalize", 0.4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6)),
    (("posterize", 0.8, 5), ("equalize", 1.0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6)),
    (("equalize", 0.0), ("equalize", 0.8)),
    (("invert", 0.6), ("equalize", 1.0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6)),
    (("shear_x", 0.6, 5), ("equalize", 1.0)),
    (("color", 0.4, 0), ("equalize", 0.6)),
    (("equalize", 0.4), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6)),
    (("invert", 0.6), ("equalize", 1.0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8), ("equalize", 0.6)),
)

# RandAugment's operations (Cubuk et al., arXiv 1909.13719, section 3).
RANDOM = tuple(name for name in OPERATIONS if name != "invert")


def make_policy(name: str, arguments: Mapping[str, Any], size: tuple[int, int]) -> Augment | None:
    """Return a policy, `(key, image) -> image`, for uint8 images [H, W, C], C 1 or 3; or None.

    The operations are PIL's. Shears, translations and rotations uncover black pixels; their
    directions are random.

    Args:
      name: one of POLICIES; "none" returns None.
      arguments: for "randaugment": `num_ops`, operations per image, and their `magnitude`, 0 to 10.
      size: height and width of the images.

    Raises:
      UserError: a name or argument is unknown, or a value not allowed.
    """
    function = choose("policy", POLICIES, name)
    check_arguments(f"policy {name!r}", function, arguments)
    return function(size, **arguments)


def autoaugment(sub_policies: tuple, size: tuple[int, int]) -> Augment:
    """Return a policy that applies each operation of a random sub-policy with its probability."""
    identity = OPERATIONS["identity"](0, size)
    # The last axis holds both directions of an operation, and no operation.
    table = stack(
        [
            [[*both_directions(name, sum(m) / 9, size), identity] for name, _, *m in pair]
            for pair in sub_policies
        ]
    )
    probabilities = np.array([[p for _, p, *_ in pair] for pair in sub_policies], np.float32)

    def augment(key: jax.Array, image: jax.Array) -> jax.Array:
        pair_key, use_key, direction_key = jax.random.split(key, 3)
        pair = jax.random.randint(pair_key, (), 0, len(sub_policies))
        used = jax.random.bernoulli(use_key, jnp.asarray(probabilities)[pair])
        direction = jax.random.randint(direction_key, used.shape, 0, 2)
        return _apply(table, (pair, np.arange(2), jnp.where(used, direction, 2)), image)

    return augment


def randaugment(size: tuple[int, int], *, num_ops: int = 2, magnitude: float = 9) -> Augment:
    """Return a policy of `num_ops` random operations, at `magnitude` tenths of full strength."""
    check_whole_number("num_ops of policy 'randaugment'", num_ops, 1, 100)
    check_number("magnitude of policy 'randaugment'", magnitude, 0, 10)
    table = stack([both_directions(name, magnitude / 10, size) for name in RANDOM])

    def augment(key: jax.Array, image: jax.Array) -> jax.Array:
        operation_key, direction_key = jax.random.split(key)
        operation = jax.random.randint(operation_key, (num_ops,), 0, len(RANDOM))
        direction = jax.random.randint(direction_key, (num_ops,), 0, 2)
        return _apply(table, (operation, direction), image)

    return augment


def _apply(table: Operation, chosen: tuple, image: jax.Array) -> jax.Array:
    """Apply operations of a table, at indices [count], one after the other."""
    operations = jax.tree.map(lambda array: jnp.asarray(array)[chosen], table)
    return jax.lax.scan(lambda image, operation: (operation(image), None), image, operations)[0]


POLICIES: dict[str, Callable[..., Augment | None]] = {
    "none": lambda size: None,
    "autoaugment_cifar": functools.partial(autoaugment, CIFAR),
    "autoaugment_imagenet": functools.partial(autoaugment, IMAGENET),
    "randaugment": randaugment,
}
