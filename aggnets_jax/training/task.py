"""The interface of a task: data, loss and metrics for the training loop."""

import abc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from aggnets_jax import data
from aggnets_jax.errors import UserError
from aggnets_jax.models import Count, count, create_configured_model
from aggnets_jax.training.algorithms import is_schedule_free
from aggnets_jax.training.layer_decay import layers_in_order
from aggnets_jax.training.optimizer import make_optimizer, trained
from aggnets_jax.training.state import Variables

Config: TypeAlias = ml_collections.ConfigDict


class Evaluation(NamedTuple):
    """The result of an evaluation.

    Attributes:
      metrics: arrays [], or with several seeds [seeds].
      examples: number of examples.
      skipped: number of damaged ones, which don't count.
      results: outputs for each example, JSON data that `aggnets eval` writes; None: nothing.
    """

    metrics: dict[str, np.ndarray]
    examples: int
    skipped: int
    results: list[Any] | None = None


class Task(abc.ABC):
    """The base class of tasks; its attributes do not change. `docs/tasks.md` says how to add one.

    Attributes:
      sums: names and dtypes of the sums that the loss function returns.
      logged: names of the metrics of an evaluation that are logged, as "eval/NAME"; if one is not
        finite, the run has diverged.
      shown: formats of the printed metrics, by name; a line leaves out metrics that it lacks.
      best: the metric by which evaluations are compared; a larger value is better.
    """

    sums: ClassVar[Mapping[str, DTypeLike]]
    logged: ClassVar[tuple[str, ...]]
    shown: ClassVar[Mapping[str, str]]
    best: ClassVar[str]

    def describe(self, config: Config) -> data.DatasetInfo:
        """Describe the data set of a config."""
        return data.describe(config.data)

    def describe_known(self, config: Config) -> data.DatasetInfo:
        """Describe a data set without opening it; raise `UserError` if its sizes are not known."""
        return data.describe_known(config)

    def batch_shapes(
        self, image_shape: tuple[int, int, int], *, train: bool
    ) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        """Return shape and dtype of an example's arrays in a batch, by name."""
        numbers = dict.fromkeys(("label", *["epoch", "index"] * train), ((), jnp.int32))
        mask = {} if train else {"mask": ((), jnp.bool_)}
        return {"image": (image_shape, jnp.uint8), **numbers, **mask}

    @abc.abstractmethod
    def train_data(self, config: Config, **arguments: Any) -> data.ResidentData | data.StreamedData:
        """Open the training split; arguments and errors are as in `data.train_data`.

        Its batches have "epoch" and "index", int32 [batch], to be named when a run diverges.
        """

    @abc.abstractmethod
    def eval_data(self, config: Config, sharding: NamedSharding) -> data.EvalBatches:
        """Open the evaluation split, with the interface of `data.EvalBatches`."""

    def make_preprocess(self, config: Config, info: data.DatasetInfo) -> data.Preprocess:
        """Make the function from stored images to the network's input."""
        return data.make_preprocess(config.data, info)

    def make_network(self, config: Config, num_classes: int) -> nn.Module:
        """Make the network of a config."""
        return create_configured_model(config, num_classes)

    def count(self, network: nn.Module, image_shape: Sequence[int]) -> dict[str, Count]:
        """Count the costs of each part of a network for one image."""
        return count(network, image_shape)

    def trained_model(self, network: nn.Module) -> Any:
        """Return the trained model: the network, or something around it with `init` and `apply`."""
        return network

    def lr_factors(self, model: Any, config: Config) -> Sequence[Any]:
        """Return the factors of the learning rate, as in `config.lr_factors`."""
        return config.lr_factors

    def make_optimizer(
        self,
        model: Any,
        config: Config,
        total_steps: int,
        steps_per_epoch: float,
        image_shape: Sequence[int],
    ) -> tuple[optax.GradientTransformation, optax.Schedule]:
        """Make the optimiser of a trained model, and its learning rate by step.

        A network with a method `constrain(total_steps)` keeps its parameters within a set: what the
        method returns is the last part of the optimiser (CondenseNet).
        """
        config = Config(config)
        config.lr_factors = self.lr_factors(model, config)
        layers = partial(layers_in_order, model, image_shape)
        optimizer, schedule = make_optimizer(config, total_steps, steps_per_epoch, layers)
        if constrain := getattr(model, "constrain", None):
            if is_schedule_free(config.optimizer) or config.ema_decay or config.sam_radius:
                raise UserError(
                    f"network {config.model.name} keeps its parameters within a set, which averages"
                    " and SAM leave: it needs config.ema_decay=0, config.sam_radius=0, and an"
                    " optimiser that does not average"
                )
            within = optax.masked(constrain(total_steps), trained(config.lr_factors))
            optimizer = optax.chain(optimizer, within)
        return optimizer, schedule

    def replace_network(
        self, variables: Variables, replace: Callable[[Variables], Variables]
    ) -> Variables:
        """Replace the network's variables within the trained model's."""
        return replace(variables)

    @abc.abstractmethod
    def make_prepare(
        self, model: Any, preprocess: data.Preprocess, config: Config
    ) -> Callable[[data.Batch, jax.Array], Any]:
        """Make the pure function from a batch and the seed to the examples of a training step.

        They are a named tuple of arrays whose first axis is the batch. Its field `images` is the
        input of the network.
        """

    @abc.abstractmethod
    def make_loss(self, model: Any, config: Config) -> Callable[..., Any]:
        """Make the loss function, whose gradient is taken for its first argument.

        It takes parameters, batch statistics, examples, further variables of the network, and a
        key. It returns (loss, (updated batch statistics, sums)). The loss is a mean over the
        examples, which may be a part of a batch; the sums are arrays [] by name.
        """

    @abc.abstractmethod
    def train_metrics(
        self, totals: Mapping[str, np.ndarray], finite_steps: np.ndarray, batch_size: int
    ) -> dict[str, np.ndarray]:
        """Return metrics of training besides the loss, from totals of `sums` over finite steps.

        Arrays are [], or [seeds] with several seeds.
        """

    def observe(self, params: Any) -> dict[str, jax.Array]:
        """Return further scalars of the parameters, for each line of the log."""
        return {}

    @abc.abstractmethod
    def make_eval_step(
        self, model: Any, preprocess: data.Preprocess
    ) -> Callable[[Variables, data.Batch], Any]:
        """Make the pure function from the variables of a seed and a batch to arrays."""

    def start_gathering(self, batches: data.EvalBatches) -> Any:
        """Return the initial value for `gather` over an evaluation of these batches."""
        return None

    @abc.abstractmethod
    def gather(self, gathered: Any, outputs: Any) -> Any:
        """Add the outputs of an evaluation step to `gathered`, on the host.

        With several seeds, these are the first axis of each output.
        """

    @abc.abstractmethod
    def finish(self, gathered: Any) -> Evaluation:
        """Compute the metrics from the gathered outputs of all steps."""
