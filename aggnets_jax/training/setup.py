"""The objects of a run, made from its config before the first step, without writing files."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import ml_collections
import optax
from flax import linen as nn
from jax.sharding import Mesh

from aggnets_jax import config as config_lib
from aggnets_jax.connectivity.execution import with_loops
from aggnets_jax.connectivity.stored_patterns import rows_of
from aggnets_jax.connectivity.topology import recording
from aggnets_jax.data import DatasetInfo, Preprocess
from aggnets_jax.errors import UserError
from aggnets_jax.models import Count
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import fast_compile_options
from aggnets_jax.runtime.memory import check_memory
from aggnets_jax.training.distillation import make_distillation
from aggnets_jax.training.gradients import Phases
from aggnets_jax.training.regularisation_schedules import Strength, make_strength
from aggnets_jax.training.state import (
    TrainState,
    Variables,
    create_state,
    initial_state,
    model_shapes,
    over_seeds,
    seeds,
)
from aggnets_jax.training.step import TrainStep, make_train_step
from aggnets_jax.training.task import Task


class DataSizes(NamedTuple):
    """The part of a `DatasetInfo` that a set-up needs, for data that are not there."""

    num_classes: int
    image_shape: tuple[int, int, int]
    num_train: int


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """A network and how it is trained, as a config says.

    `model` is the trained module: the network, or a wrapper of it by the task. `schedule` is the
    learning rate by step, and `strength` the schedule of a regularisation, or None.
    """

    config: ml_collections.ConfigDict
    task: Task
    info: DatasetInfo | DataSizes
    network: nn.Module
    model: Any
    total_steps: int
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    strength: Strength | None

    @functools.cached_property
    def counts(self) -> dict[str, Count]:
        """Costs of each part of the network for one image."""
        return self.task.count(self.network, self.info.image_shape)

    @property
    def network_summary(self) -> dict[str, Any]:
        """Name of the network, and its numbers of links, parameters and multiply-adds."""
        return {
            "name": self.config.model.name,
            "links": sum(topology.num_links for topology in self.network.topologies),
            "params": sum(part.params for part in self.counts.values()),
            "macs": sum(part.macs for part in self.counts.values()),
        }

    def state_shapes(self, scan: bool | None = None) -> TrainState:
        """Return the shapes of the state, with layers in loops or not; None: as the config says."""
        return jax.eval_shape(lambda: self._new_state(scan))

    def state_sharding(self, mesh: Mesh) -> Any:
        """Return the sharding of each array of the state."""
        kind, leading = self.config.sharding, int(self.config.num_seeds > 1)
        return mesh_lib.state_sharding(mesh, self.state_shapes(), kind, leading)

    def new_state(self, mesh: Mesh) -> TrainState:
        """Initialise the state before the first step, on the devices."""
        placed, options = self.state_sharding(mesh), fast_compile_options()
        new_state = jax.jit(self._new_state, out_shardings=placed, compiler_options=options)
        program = new_state.lower().compile()
        check_memory(program)
        return program()

    def _new_state(self, scan: bool | None = None) -> TrainState:
        model, task, shape = self.model, self.task, self.info.image_shape
        if scan is not None:
            model = task.trained_model(with_loops(self.network, scan))
        return create_state(model, self.optimizer, self.config, shape, task.sums, self.strength)

    def state_from(self, variables: Variables, mesh: Mesh | None = None) -> TrainState:
        """Return the state before the first step that starts from given variables.

        With several seeds these are the first axis of each array. Without a mesh, the state is
        where the variables are.
        """
        start = over_seeds(
            lambda variables, seed: initial_state(
                variables, self.optimizer, self.config, seed, self.task.sums, self.strength
            ),
            self.config.num_seeds,
        )
        if mesh is not None:
            # Compiled, so that no two arrays of the state share a buffer: they are donated.
            start = jax.jit(start, out_shardings=self.state_sharding(mesh))
        return start(variables, seeds(self.config))

    def train_step(self, preprocess: Preprocess, mesh: Mesh) -> TrainStep:
        """Make the function of one update; see `make_train_step`."""
        arguments = (self.task, self.model, self.optimizer, preprocess, self.config)
        return make_train_step(*arguments, strength=self.strength, phases=self.phases, mesh=mesh)

    @functools.cached_property
    def phases(self) -> Phases:
        """Parts of the run with images of another size; `UserError` if the weights depend on it."""
        height, width, channels = self.info.image_shape
        phases = Phases(self.config.progressive, self.total_steps, self.info.image_shape)
        whole = model_shapes(self.model, self.info.image_shape) if phases else None
        for side in phases.sides:
            if model_shapes(self.model, (side, side, channels)) != whole:
                raise UserError(
                    f"config.progressive needs a network of the same weights for images of {side}"
                    f" and of {height}x{width} pixels; {self.config.model.name} has others"
                )
        return phases


def set_up(
    config: ml_collections.ConfigDict,
    task: Task,
    *,
    info: DatasetInfo | DataSizes | None = None,
    mesh: Mesh | None = None,
) -> Setup:
    """Make everything that a resolved config, its task and its data set describe.

    From then on, the config has the links that patterns of users gave (`model.patterns`).

    If `mesh` is given, training batches must be divisible over its devices.

    Raises:
      UserError: if the config is not valid, or the data are missing.
    """
    if mesh is not None:
        parts = config.accumulation_steps
        mesh_lib.check_divisible("config.batch_size", config.batch_size, mesh.size, parts)
    make_distillation(config)  # a wrong one is an error before anything is read
    if config.init_from is None and config.init_checkpoint != "latest":
        raise UserError("config.init_checkpoint is for weights to start from: set config.init_from")
    info = info or task.describe(config)
    with recording() as made:
        network = task.make_network(config, info.num_classes)
    with config.model.ignore_type():
        config.model.patterns = rows_of(made)
    model = task.trained_model(network)
    total_steps = config_lib.total_steps(config, info.num_train)
    config_lib.check_profile_steps(config, total_steps)
    steps_per_epoch = info.num_train / config.batch_size
    optimizer, schedule = task.make_optimizer(
        model, config, total_steps, steps_per_epoch, info.image_shape
    )
    strength = make_strength(config, total_steps, steps_per_epoch)
    setup = Setup(config, task, info, network, model, total_steps, optimizer, schedule, strength)
    _ = setup.phases  # which are checked before anything is written
    return setup
