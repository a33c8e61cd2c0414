"""Train a network and the weights of its links together, and cut the weakest links."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import linen as nn

from aggnets_jax import config as config_lib
from aggnets_jax.ablation.export import config_text, cut_table
from aggnets_jax.ablation.pruning import (
    LINKS,
    NETWORK,
    Penalty,
    WeighedLinks,
    WeighedNetwork,
    with_links,
)
from aggnets_jax.ablation.removal import Smaller, smaller_network
from aggnets_jax.ablation.sets import StageLink, to_text
from aggnets_jax.ablation.sweep import linked_stages
from aggnets_jax.connectivity.drawing import save_topologies
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluate, make_eval_step
from aggnets_jax.files import AnyPath, PathLike, write_json, write_text
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tasks import get_task
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.training.algorithms import is_schedule_free
from aggnets_jax.training.state import Variables, has_averages
from aggnets_jax.training.task import Config, Task
from aggnets_jax.workdir.checkpoints import Checkpoints
from aggnets_jax.workdir.divergence import check_evaluation
from aggnets_jax.workdir.folder import open_workdir
from aggnets_jax.workdir.progress import print_evaluation
from aggnets_jax.workdir.provenance import commit, hardware, versions
from aggnets_jax.workdir.restore import Restored


class LinkWeights:
    """A task that trains a network together with the weights of its links, under a penalty.

    Data, loss and metrics are the network's own task's.
    """

    def __init__(self, task: Task, links: WeighedLinks, penalty: Penalty) -> None:
        self._task, self._links, self._penalty = task, links, penalty
        self.shown = {**task.shown, "links": ".0f", "link_weight": ".2f"}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def trained_model(self, network: nn.Module) -> WeighedNetwork:
        """Return the network with weights of its links."""
        return WeighedNetwork(network, self._links)

    def make_optimizer(
        self, model: WeighedNetwork, config: Config, total_steps: int, *sizes: Any
    ) -> tuple[optax.GradientTransformation, optax.Schedule]:
        """Make the network's optimiser, and beside it the proximal step of the weights."""
        given = config, total_steps, *sizes
        optimizer, schedule = self._task.make_optimizer(model.model, *given)
        return with_links(optimizer, self._links, self._penalty, total_steps), schedule

    def replace_network(
        self, variables: Variables, replace: Callable[[Variables], Variables]
    ) -> Variables:
        """Replace the network's variables; the weights of the links stay."""
        params = variables["params"]
        network = replace({**variables, "params": params[NETWORK]})
        return {**network, "params": {NETWORK: network["params"], LINKS: params[LINKS]}}

    def observe(self, params: Any) -> dict[str, jax.Array]:
        """Return the number of links with a weight, and the sum of all weights."""
        weights = params[LINKS]
        return {"links": jnp.count_nonzero(weights), "link_weight": weights.sum()}


def learn(config: ml_collections.ConfigDict, workdir: PathLike, penalty: Penalty) -> dict[str, Any]:
    """Train a network and the weights of its links together, and cut the weakest links.

    The result depends on the config, the penalty and the devices. The same call resumes a run that
    was stopped.

    Args:
      config: of the network, its data and its training; whole. With `init_from` the network's
        parameters start from there.
      workdir: as for `train_and_evaluate`; new, or of a run of the same config and penalty.
      penalty: on the weights.

    Returns:
      The content of `workdir/pattern.json`: the arguments; `links`, the number of links, and
      `kept`, the number that is left; `needed`, links that stay although stronger ones are cut,
      because nothing else is read by their layer or reads their source; `evaluation` of the network
      with the weights that were learnt (`weighed`), and with 0 for the links that are cut
      (`pruned`); and by stage the `depth`, the `edges` that are left, [layer, source], and the
      `weights`, [layer, source, weight].

    Raises:
      UserError: for a config or a penalty that fits no network or not this one, and the workdir is
        then left as it was; for data that can't be read.
      Diverged: when the loss or a gradient is not finite.
      Stopped: after SIGTERM or SIGINT, when the state is saved.
      OSError: if the workdir can't be written.
    """
    config = config_lib.resolve(config)
    if is_schedule_free(config.optimizer) or config.sam_radius:
        raise UserError(
            "patterns are learnt without schedule-free optimisers and without SAM: set"
            " config.optimizer and config.sam_radius=0"
        )
    if config.num_seeds > 1:
        raise UserError("a pattern is learnt with one network: set config.num_seeds=1")
    task = get_task(config)
    info = task.describe(config)
    model = task.make_network(config, info.num_classes)
    given = Restored(0, config, info, model, {})
    links = WeighedLinks.of(linked_stages(given))
    penalty.check(links)
    smaller_network(given, links.stages, [])  # refuses networks whose patterns can't be set

    # The task says what the checkpoints hold, so that no other program takes them for a network's.
    config_json = {**config_lib.to_json(config), "task": "link_weights"}
    config_json["task_args"] = {**penalty._asdict(), "keep": penalty.keep and list(penalty.keep)}
    train_and_evaluate(config_json, workdir, task=LinkWeights(task, links, penalty))

    with open_workdir(workdir, config_json) as path:
        weights, trained = _restore(path, given._replace(model=WeighedNetwork(model, links)))
        cut, needed = links.cut(weights, penalty.keep)
        is_left = np.array([link not in cut for link in links.links])
        evaluations = _evaluate(task, trained, [weights, weights * is_left])
        smaller = smaller_network(given, links.stages, cut)
        learnt = {
            "network": config.model.name,
            "penalty": penalty.name,
            "strength": penalty.strength,
            "keep": penalty.keep and list(penalty.keep),
            "init_from": config.init_from,
            "seed": config.seed,
            "steps": trained.step,
            "links": len(links.links),
            "kept": int(is_left.sum()),
            "needed": [[name, *link] for name, link in needed],
            "evaluation": dict(zip(("weighed", "pruned"), evaluations, strict=True)),
            "stages": _stages(links, weights, smaller),
            "commit": commit(),
            "hardware": hardware(),
            "versions": versions(),
        }
        write_text(path / "config.py", config_text(smaller.config))
        write_text(path / "cut.csv", cut_table(cut))
        save_topologies(smaller.model.topologies, path / "pattern.png")
        write_json(path / "pattern.json", learnt)
    _print_result(path, learnt, needed)
    return learnt


def _restore(workdir: AnyPath, network: Restored) -> tuple[np.ndarray, Restored]:
    """Restore the weights of a finished run, and the network with its variables and step."""
    images = jnp.zeros((1, *network.info.image_shape))
    shapes = jax.eval_shape(lambda: network.model.init(jax.random.key(0), images))
    everywhere = mesh_lib.replicated(mesh_lib.make_mesh())
    averaged = has_averages(network.config)
    with Checkpoints(workdir) as checkpoints:
        folder, step = checkpoints.find("latest")
        saved = checkpoints.restore_model(folder, step, shapes, everywhere, averaged=averaged)
    weights = np.clip(np.asarray(saved["params"][LINKS]), 0, 1)
    return weights, network._replace(step=step, variables=saved.pop("ema") or saved)


def _evaluate(task: Task, trained: Restored, weights: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Evaluate the network with several weights of its links."""
    config, info, variables = trained.config, trained.info, trained.variables
    batches = task.eval_data(config, mesh_lib.batch_sharding(mesh_lib.make_mesh()))
    eval_step = make_eval_step(task, trained.model, task.make_preprocess(config, info))
    found = []
    for each in weights:
        params = {**variables["params"], LINKS: jnp.asarray(each)}
        metrics = evaluate(task, eval_step, {**variables, "params": params}, batches)
        found.append({"step": trained.step, **metrics})
        print_evaluation(task, found[-1])
        check_evaluation(task, found[-1])
    return found


def _stages(links: WeighedLinks, weights: np.ndarray, smaller: Smaller) -> dict[str, Any]:
    """Return the part of `pattern.json` that is by stage."""
    stages = {}
    for (name, stage), topology in zip(links.stages.items(), smaller.model.topologies, strict=True):
        mine = zip(links.links, weights.tolist(), strict=True)
        stages[name] = {
            "depth": stage.topology.depth,
            "edges": [list(link) for link in topology.links],
            "weights": [[*link, weight] for (where, link), weight in mine if where == name],
        }
    return stages


def _print_result(workdir: AnyPath, learnt: dict[str, Any], needed: Sequence[StageLink]) -> None:
    asked = sum(learnt["keep"] or [learnt["kept"]])
    more = f"; {asked} of them, as was asked for, make no network" if asked < learnt["kept"] else ""
    print(f"kept {learnt['kept']} of {learnt['links']} links{more}")
    if needed:
        print(f"kept because nothing else is read or reads there: {to_text(needed)}")
    stages = learnt["stages"].values()
    heavy = sum(weight > 0 for stage in stages for _, _, weight in stage["weights"])
    if heavy > learnt["kept"]:
        more = "the cut takes some of it, less with a larger --strength"
        print(f"{heavy} links have a weight: {more}")
    train = f"aggnets train --config={workdir / 'config.py'} --workdir=NEW"
    print(f"the pattern: {workdir / 'pattern.json'}; to train it: {train}")
