"""Distillation: a student learns the outputs of a teacher beside the labels.

Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531. With logits s of
the student and t of the teacher, the temperature T and the weight w of the soft targets, the loss
of an image is

    (1 - w) CE(label, softmax(s)) + w T^2 KL(softmax(t / T) || softmax(s / T)) + v sum of hints

T^2 keeps the size of the gradients (their Section 2). A hint (Romero et al., FitNets, arXiv
1412.6550) compares an endpoint of the student with one of the teacher:

    "features"   mean squared difference (their eq. 3, without a regressor), for equal shapes
    "attention"  squared distance of the maps q / ||q||, where q is at each position the sum of the
                 squared channels (Zagoruyko and Komodakis, arXiv 1612.03928, eq. 2), for maps of
                 equal height and width

The teacher gets the same images as the student, augmented and mixed.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import struct
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike

from aggnets_jax.arguments import check_arguments, check_number, choose
from aggnets_jax.data import Batch, ResidentData, StreamedData
from aggnets_jax.errors import UserError

Outputs = dict[str, jax.Array]
"""Outputs of a network by name: "logits" and endpoints."""


def _squared(student: jax.Array, teacher: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(student - teacher), axis=tuple(range(1, student.ndim)))


def _between_attention(student: jax.Array, teacher: jax.Array) -> jax.Array:
    def attention(x: jax.Array) -> jax.Array:
        q = jnp.sum(jnp.square(x), axis=-1).reshape(x.shape[0], -1)
        return q * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(q), -1, keepdims=True), 1e-12))

    return jnp.sum(jnp.square(attention(student) - attention(teacher)), axis=-1)


HINTS: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "features": _squared,
    "attention": _between_attention,
}
"""Losses [batch] of hints, for endpoints [batch, ..., channels] of student and teacher."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation:
    """Loss of a student by the outputs of its teacher: `config.teacher_args`.

    Attributes:
      weight: weight w of the soft targets in the loss, in 0..1; the labels have the rest.
      temperature: temperature T, at least 0.001.
      hints: pairs (endpoint of the student, endpoint of the teacher).
      hint: the loss of a hint, a key of `HINTS`.
      hint_weight: factor v of the hints.
      dtype: dtype of the teacher's computation, "bfloat16" or "float32".
      cached: whether the teacher computes the logits of each training image once, before the first
        step and without augmentation, for sets that live on the devices.
      seed: the seed of a teacher whose run trained several.
    """

    weight: float = 0.9
    temperature: float = 4.0
    hints: Sequence[tuple[str, str]] = ()
    hint: str = "features"
    hint_weight: float = 1.0
    dtype: str = "bfloat16"
    cached: bool = False
    seed: int | None = None

    def losses(
        self, losses: jax.Array, outputs: Outputs, taught: Outputs, counted: jax.Array
    ) -> jax.Array:
        """Return the loss of each image, float [batch].

        Args:
          losses: losses by the labels, float [batch].
          outputs: the student's logits [batch, classes] as "logits", and its endpoints.
          taught: the teacher's logits and endpoints, likewise.
          counted: whether an image counts, bool [batch]; damaged images don't.
        """
        student, teacher = outputs["logits"], taught["logits"].astype(outputs["logits"].dtype)
        soft = soft_target_losses(student, teacher, self.temperature)
        total = (1 - self.weight) * losses + self.weight * jnp.where(counted, soft, 0)
        for own, others in self.hints:
            dtype = total.dtype
            hint = HINTS[self.hint](outputs[own].astype(dtype), taught[others].astype(dtype))
            total += self.hint_weight * jnp.where(counted, hint, 0)
        return total


def soft_target_losses(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) of logits [batch, classes]."""
    teacher, student = (jax.nn.log_softmax(x / temperature) for x in (teacher, student))
    return temperature**2 * jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)


def make_distillation(config: ml_collections.ConfigDict) -> Distillation | None:
    """Return the loss by `config.teacher_args`, or None without `config.teacher`.

    Raises:
      UserError: for an unknown argument, a wrong value, or other fields of the config that exclude
        a teacher.
    """
    arguments = config.teacher_args.to_dict()
    if config.teacher is None:
        if arguments or config.teacher_checkpoint != "latest":
            field = "teacher_args" if arguments else "teacher_checkpoint"
            raise UserError(f"config.{field} is for a teacher: set config.teacher")
        return None
    if config.task != "classification":
        raise UserError(f"config.teacher is for classification, not for {config.task}")
    check_arguments("teacher", Distillation, arguments)
    found = Distillation(**arguments)
    check_number("teacher_args.weight", found.weight, 0, 1)
    check_number("teacher_args.temperature", found.temperature, 1e-3)
    check_number("teacher_args.hint_weight", found.hint_weight, 0)
    choose("teacher_args.hint", HINTS, found.hint)
    choose("teacher_args.dtype", dict.fromkeys(("bfloat16", "float32")), found.dtype)
    pairs = all(
        isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(n, str) for n in pair)
        for pair in found.hints
    )
    if not pairs:
        raise UserError(
            "config.teacher_args.hints must be pairs of endpoints, the student's and the teacher's,"
            f" such as (('stage2', 'stage2'),), got {found.hints!r}"
        )
    if found.hints and config.progressive:
        raise UserError("config.progressive scales the student's images alone: it allows no hints")
    if found.cached and (found.hints or config.data.mixup or config.data.cutmix):
        raise UserError(
            "config.teacher_args.cached has logits of images as they are: it allows neither hints"
            " nor data.mixup and data.cutmix"
        )
    return dataclasses.replace(found, hints=tuple(map(tuple, found.hints)))


class Teacher(struct.PyTreeNode):
    """A frozen network; its variables are arguments of the compiled step.

    Attributes:
      variables: "params" and "batch_stats", each on every device or divided over them.
      apply: `apply(variables, images) -> (logits, endpoints)`.
      names: names of the endpoints that hints need.
      factor: factor of each channel of the student's images.
      shift: summand of each channel: images * factor + shift are normalised as for the teacher.
      mesh: devices of the variables.
    """

    variables: Any
    apply: Callable[..., Any] = struct.field(pytree_node=False)
    names: tuple[str, ...] = struct.field(pytree_node=False)
    factor: tuple[float, ...] = struct.field(pytree_node=False)
    shift: tuple[float, ...] = struct.field(pytree_node=False)
    mesh: Mesh = struct.field(pytree_node=False)

    def outputs(self, images: jax.Array, index: ArrayLike | None = None) -> Outputs:
        """Compute logits and endpoints of normalised images [batch, height, width, channels]."""
        del index
        everywhere = jax.sharding.NamedSharding(self.mesh, PartitionSpec())
        variables = jax.lax.with_sharding_constraint(self.variables, everywhere)
        if set(self.factor) != {1.0} or set(self.shift) != {0.0}:
            images = images * jnp.array(self.factor) + jnp.array(self.shift)
        logits, endpoints = self.apply(variables, images)
        found = {"logits": logits, **{name: endpoints[name] for name in self.names}}
        return jax.lax.stop_gradient(found)


class CachedTeacher(struct.PyTreeNode):
    """A teacher's logits of all images of a training split, float32 [N, classes]."""

    logits: jax.Array

    def outputs(self, images: jax.Array, index: jax.Array) -> Outputs:
        """Return the logits of the images with these numbers, int32 [batch]."""
        del images
        return {"logits": self.logits[index]}


class TaughtData:
    """Training data whose batches have the teacher, as "teacher"; see `data.train_data`."""

    def __init__(
        self, training: ResidentData | StreamedData, teacher: Teacher | CachedTeacher
    ) -> None:
        self.most_steps = training.most_steps
        self.seed_axes = (getattr(training, "seed_axes", None), None)
        self._training, self._teacher = training, teacher

    def feed(self, step: int) -> tuple[Any, Teacher | CachedTeacher]:
        """Return the arrays for the batches of a step and the following."""
        return self._training.feed(step), self._teacher

    def batch(self, feed: tuple[Any, Teacher | CachedTeacher], step: int | jax.Array) -> Batch:
        """Return the batch of a step, counted from the feed's first, with the teacher."""
        images, teacher = feed
        return {**self._training.batch(images, step), "teacher": teacher}
