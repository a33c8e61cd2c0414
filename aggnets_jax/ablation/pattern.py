"""Trains a network and the weights of its links together, and cuts the weakest links."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from aggnets_jax import config as config_lib
from aggnets_jax import data
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
from aggnets_jax.connectivity.drawing import save_topologies
from aggnets_jax.connectivity.links import find_links
from aggnets_jax.convert.initialize import initial_variables
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluate, make_eval_step, print_evaluation
from aggnets_jax.files import write_json, write_text
from aggnets_jax.models import create_configured_model
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.training.metrics import training_metrics
from aggnets_jax.training.optimizer import make_optimizer
from aggnets_jax.training.regularisation_schedules import make_strength
from aggnets_jax.training.state import TrainState, create_state, initial_state, seeds
from aggnets_jax.training.step import TrainStep, make_train_step, make_train_steps
from aggnets_jax.workdir.divergence import check_evaluation, check_totals
from aggnets_jax.workdir.folder import CONFIG, open_workdir
from aggnets_jax.workdir.provenance import commit, hardware, versions
from aggnets_jax.workdir.restore import Restored


def learn(
    config: ml_collections.ConfigDict, workdir: str | Path, penalty: Penalty
) -> dict[str, Any]:
    """Trains a network and the weights of its links together, and cuts the weakest links.

    The result follows from the config, the penalty and the devices. Nothing is saved on the way.

    Args:
      config: of the network, its data and its training; whole. With `init_from` the network's
        parameters start from there.
      workdir: new or empty.
      penalty: on the weights.

    Returns:
      The content of `workdir/pattern.json`: what was given; `links`, how many there were, and
      `kept`; `needed`, links that stay although stronger ones are cut, because nothing else is read
      by their layer or reads their source; `evaluation` of the network with the weights that were
      learnt (`weighed`), and with 0 for the links that are cut (`pruned`); and by stage the
      `depth`, the `edges` that are left, [layer, source], and the `weights`, [layer, source,
      weight].

    Raises:
      UserError: for a config or a penalty that fits no network or not this one, and the workdir is
        then left as it was; for data that can't be read.
      Diverged: when the loss or a gradient is not finite.
      OSError: if the workdir can't be written.
    """
    config = config_lib.resolve(config)
    if config.num_seeds > 1:
        raise UserError("a pattern is learnt with one network: set config.num_seeds=1")
    info = data.describe(config.data)
    model = create_configured_model(config, info.num_classes)
    links = WeighedLinks.of(find_links(model, info.image_shape))
    penalty.check(links)
    given = Restored(0, config, info, model, {})
    smaller_network(given, links.stages, [])  # refuses networks whose patterns can't be set
    network = WeighedNetwork(model, links)
    with open_workdir(workdir, config_lib.to_json(config)) as path:
        if (path / CONFIG).exists():
            raise UserError(f"workdir {workdir} holds a run already; give a new one")
        state = _train(network, config, info, penalty, path)
        weights = np.clip(np.asarray(state.params[LINKS]), 0, 1)
        cut, needed = links.cut(weights, penalty.keep)
        is_left = np.array([link not in cut for link in links.links])
        evaluation = _evaluate(network, state, config, info, [weights, weights * is_left])
        smaller = smaller_network(given, links.stages, cut)
        learnt = {
            "network": config.model.name,
            "penalty": penalty.name,
            "strength": penalty.strength,
            "keep": penalty.keep and list(penalty.keep),
            "init_from": config.init_from,
            "seed": config.seed,
            "steps": state.updates,
            "links": len(links.links),
            "kept": int(is_left.sum()),
            "needed": [[name, *link] for name, link in needed],
            "evaluation": dict(zip(("weighed", "pruned"), evaluation, strict=True)),
            "stages": _stages(links, weights, smaller),
            "commit": commit(),
            "hardware": hardware(),
            "versions": versions(),
        }
        _write(path, learnt, smaller, cut)
    _print_result(path, learnt, needed)
    return learnt


def _train(
    network: WeighedNetwork,
    config: ml_collections.ConfigDict,
    info: data.DatasetInfo,
    penalty: Penalty,
    workdir: Path,
) -> TrainState:
    """The state after the last step; prints how it goes."""
    total_steps = config_lib.total_steps(config, info.num_train)
    mesh = mesh_lib.make_mesh()
    training = _training_data(config, total_steps, mesh)
    state, train_step = _start(network, config, info, penalty, workdir)
    train_steps = jax.jit(
        make_train_steps(train_step, training, config.num_seeds),
        donate_argnums=0,
        out_shardings=mesh_lib.replicated(mesh),
        compiler_options=compiler_options(),
    )
    zero_totals = jax.tree.map(jnp.copy, state.totals)
    step = 0
    while step < total_steps:
        next_due = min(total_steps, config.log_every_steps * (step // config.log_every_steps + 1))
        count = min(next_due - step, training.most_steps)
        state = train_steps(state, training.feed(step), np.int32(count))
        step += count
        if step == next_due:
            check_totals(state.totals, config, workdir, mesh)
            metrics = training_metrics(state.totals, config)
            weights = np.asarray(state.params[LINKS])
            print(
                f"step {step:>{len(str(total_steps))}}/{total_steps}"
                f"  loss {metrics['train/loss']:.4f}  accuracy {metrics['train/accuracy']:.2%}"
                f"  links {np.count_nonzero(weights)} of weight {weights.sum():.2f}",
                flush=True,
            )
            state = state.replace(totals=jax.tree.map(jnp.copy, zero_totals))
    return state


def _training_data(
    config: ml_collections.ConfigDict, total_steps: int, mesh: Mesh
) -> data.ResidentData | data.StreamedData:
    mesh_lib.check_divisible("batch_size", config.batch_size, mesh.size, config.accumulation_steps)
    mesh_lib.check_divisible("eval_batch_size", config.eval_batch_size, mesh.size)
    return data.train_data(
        config.data,
        batch_size=config.batch_size,
        seeds=seeds(config),
        most_steps=min(config.steps_per_dispatch or 1, total_steps, config.log_every_steps),
        sharding=mesh_lib.batch_sharding(mesh),
    )


def _start(
    network: WeighedNetwork,
    config: ml_collections.ConfigDict,
    info: data.DatasetInfo,
    penalty: Penalty,
    workdir: Path,
) -> tuple[TrainState, TrainStep]:
    """The state before the first step, and the function of a step."""
    mesh = mesh_lib.make_mesh()
    total_steps = config_lib.total_steps(config, info.num_train)
    steps_per_epoch = info.num_train / config.batch_size
    optimizer, _ = make_optimizer(config, total_steps, steps_per_epoch)
    optimizer = with_links(optimizer, network.links, penalty, total_steps)
    strength = make_strength(config, total_steps, steps_per_epoch)
    state = jax.jit(
        lambda: create_state(network, optimizer, config, info.image_shape, strength),
        out_shardings=mesh_lib.replicated(mesh),
    )()
    if config.init_from is not None:
        variables = {"params": state.params[NETWORK], "batch_stats": state.batch_stats}
        variables = initial_variables(config, info, variables, workdir)
        variables = network.join(variables, state.params[LINKS])
        state = jax.jit(
            lambda variables: initial_state(variables, optimizer, config, config.seed, strength),
            out_shardings=mesh_lib.replicated(mesh),
        )(variables)
    preprocess = data.make_preprocess(config.data, info)
    return state, make_train_step(
        network, optimizer, preprocess, config, strength=strength, mesh=mesh
    )


def _evaluate(
    network: WeighedNetwork,
    state: TrainState,
    config: ml_collections.ConfigDict,
    info: data.DatasetInfo,
    weights: Sequence[np.ndarray],
) -> list[dict[str, Any]]:
    """Evaluates the network with several weights of its links."""
    devices = mesh_lib.batch_sharding(mesh_lib.make_mesh())
    batches = data.eval_batches(config.data, batch_size=config.eval_batch_size, sharding=devices)
    eval_step = make_eval_step(network, data.make_preprocess(config.data, info))
    variables, found = state.variables, []
    for each in weights:
        params = {**variables["params"], LINKS: jnp.asarray(each)}
        metrics = evaluate(eval_step, {**variables, "params": params}, batches)
        metrics = {"step": state.updates, **metrics}
        print_evaluation(metrics)
        check_evaluation(metrics)
        found.append(metrics)
    return found


def _stages(links: WeighedLinks, weights: np.ndarray, smaller: Smaller) -> dict[str, Any]:
    """The part of `pattern.json` that is by stage."""
    stages = {}
    for (name, stage), topology in zip(links.stages.items(), smaller.model.topologies, strict=True):
        mine = zip(links.links, weights.tolist(), strict=True)
        stages[name] = {
            "depth": stage.topology.depth,
            "edges": [list(link) for link in topology.links],
            "weights": [[*link, weight] for (where, link), weight in mine if where == name],
        }
    return stages


def _write(
    workdir: Path, learnt: dict[str, Any], smaller: Smaller, cut: Sequence[StageLink]
) -> None:
    write_text(workdir / "config.py", config_text(smaller.config, starts=False))
    write_text(workdir / "cut.csv", cut_table(cut))
    save_topologies(smaller.model.topologies, workdir / "pattern.png")
    write_json(workdir / "pattern.json", learnt)


def _print_result(workdir: Path, learnt: dict[str, Any], needed: Sequence[StageLink]) -> None:
    asked = sum(learnt["keep"] or [learnt["kept"]])
    more = f"; {asked} of them, as was asked for, make no network" if asked < learnt["kept"] else ""
    print(f"kept {learnt['kept']} of {learnt['links']} links{more}")
    if needed:
        print(f"kept because nothing else is read or reads there: {to_text(needed)}")
    stages = learnt["stages"].values()
    heavy = sum(weight > 0 for stage in stages for _, _, weight in stage["weights"])
    if heavy > learnt["kept"]:
        print(
            f"{heavy} links have a weight: the cut takes some of it, less with a larger --strength"
        )
    print(
        f"the pattern: {workdir / 'pattern.json'}; to train it:"
        f" aggnets train --config={workdir / 'config.py'} --workdir=NEW"
    )
