"""The interface of a task: everything that the training loop does not know by itself."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import ml_collections
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from aggnets_jax import data
from aggnets_jax.models import create_configured_model
from aggnets_jax.training.optimizer import make_optimizer
from aggnets_jax.training.state import Variables

Prepare = Callable[[data.Batch, jax.Array], Any]
"""From a batch and the seed to the examples of a training step: a named tuple of arrays whose first
axis is the batch. Its field `images` is the input of the network."""

Sums = dict[str, jax.Array]

LossFn = Callable[
    [Any, Any, Any, dict[str, Any], jax.Array], tuple[jax.Array, tuple[Variables, Sums]]
]
"""From parameters, batch statistics, examples, fixed variables and a key to (loss, (updated batch
statistics, sums over the examples)). The loss is a mean over the examples, which may be a part of a
batch: gradients are averaged over devices and over the parts of an accumulated batch."""


class Evaluation(NamedTuple):
    """Result of an evaluation.

    Attributes:
      metrics: by name; arrays [], or [seeds] with several seeds.
      examples: number of examples that were evaluated.
      skipped: number of damaged examples.
    """

    metrics: dict[str, np.ndarray]
    examples: int
    skipped: int


class Task:
    """The base class of tasks: what is trained, on which data, and how it is judged.

    Its attributes do not change. `docs/tasks.md` says how to add a task.

    Attributes:
      sums: names and dtypes of the sums that the loss function returns. They are added up over
        steps, and `train_metrics` gets the totals.
      logged: names of the metrics of an evaluation that are logged, as "eval/NAME". A run whose
        metric here is not finite has diverged.
      shown: formats of the metrics that are printed, by name; a metric that a line does not have
        is left out.
      best: the metric by which evaluations are compared; a larger value is better.
    """

    sums: ClassVar[Mapping[str, DTypeLike]]
    logged: ClassVar[tuple[str, ...]]
    shown: ClassVar[Mapping[str, str]]
    best: ClassVar[str]

    # ---- Data.

    def describe(self, config: ml_collections.ConfigDict) -> data.DatasetInfo:
        """Describe the data set of a config."""
        return data.describe(config.data)

    def train_data(
        self,
        config: ml_collections.ConfigDict,
        *,
        seeds: int | np.ndarray,
        sharding: NamedSharding,
        start_step: int = 0,
        most_steps: int = 1,
    ) -> data.ResidentData | data.StreamedData:
        """Open the training split; arguments and errors are those of `data.train_data`.

        Its batches have "epoch" and "index", int32 [batch], to be named when a run diverges.
        """
        raise NotImplementedError

    def eval_data(
        self, config: ml_collections.ConfigDict, sharding: NamedSharding
    ) -> data.EvalBatches:
        """Open the evaluation split, an iterable of batches.

        It has the attributes `num_examples` and `skip`, and the method `check`, of
        `data.EvalBatches`.
        """
        raise NotImplementedError

    def make_preprocess(
        self, config: ml_collections.ConfigDict, info: data.DatasetInfo
    ) -> data.Preprocess:
        """Make the function from stored images to the network's input."""
        return data.make_preprocess(config.data, info)

    # ---- Network and optimiser.

    def make_network(self, config: ml_collections.ConfigDict, num_classes: int) -> nn.Module:
        """Make the network of a config."""
        return create_configured_model(config, num_classes)

    def trained_model(self, network: nn.Module, image_shape: tuple[int, int, int]) -> Any:
        """Return what is trained: the network, or something around it with `init` and `apply`."""
        del image_shape
        return network

    def make_optimizer(
        self,
        model: Any,
        config: ml_collections.ConfigDict,
        total_steps: int,
        steps_per_epoch: float,
    ) -> tuple[optax.GradientTransformation, optax.Schedule]:
        """Make the optimiser of a trained model, and its learning rate by step."""
        del model
        return make_optimizer(config, total_steps, steps_per_epoch)

    def replace_network(
        self, variables: Variables, replace: Callable[[Variables], Variables]
    ) -> Variables:
        """Replace the network's variables within those of the trained model."""
        return replace(variables)

    # ---- Training.

    def make_prepare(
        self, model: Any, preprocess: data.Preprocess, config: ml_collections.ConfigDict
    ) -> Prepare:
        """Make the pure function from a batch to the examples of a training step."""
        raise NotImplementedError

    def make_loss(self, model: Any, config: ml_collections.ConfigDict) -> LossFn:
        """Make the loss function; a gradient is taken with respect to its first argument."""
        raise NotImplementedError

    def train_metrics(
        self, totals: Mapping[str, np.ndarray], finite_steps: np.ndarray, batch_size: int
    ) -> dict[str, np.ndarray]:
        """Return metrics of training by name, besides the loss.

        Args:
          totals: of `sums`, over the steps since the last line of the log; [] or [seeds].
          finite_steps: number of these steps, [] or [seeds].
          batch_size: over all devices.
        """
        raise NotImplementedError

    def observe(self, params: Any) -> dict[str, jax.Array]:
        """Return further scalars of the parameters, for each line of the log."""
        del params
        return {}

    # ---- Evaluation.

    def make_eval_step(
        self, model: Any, preprocess: data.Preprocess
    ) -> Callable[[Variables, data.Batch], Any]:
        """Make the pure function from the variables of a seed and a batch to arrays."""
        raise NotImplementedError

    def gather(self, gathered: Any, outputs: Any) -> Any:
        """Add the outputs of one evaluation step to those of the steps before it, on the host.

        Args:
          gathered: result of the last call; None at first.
          outputs: of the evaluation step; with several seeds each array has them as first axis.
        """
        raise NotImplementedError

    def finish(self, gathered: Any) -> Evaluation:
        """Compute the metrics from the gathered outputs of all steps."""
        raise NotImplementedError
