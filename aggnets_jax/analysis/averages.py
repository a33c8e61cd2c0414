"""Averages of weights: one network from several checkpoints, with new batch statistics.

    uniform   the mean of the weights of all checkpoints: SWA (Izmailov et al., "Averaging Weights
              Leads to Wider Optima and Better Generalization", UAI 2018, arXiv 1803.05407)
    greedy    the greedy soup (Wortsman et al., "Model soups", ICML 2022, arXiv 2203.05482, Recipe
              1): checkpoints by falling accuracy, each kept if the mean with it is no worse

Averaged weights need batch statistics of their own, which are means over batches of training
images. The greedy soup is chosen by the evaluation images with even numbers; all accuracies are of
the images with odd numbers.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from aggnets_jax import data
from aggnets_jax.ablation.batch_statistics import make_estimate
from aggnets_jax.ablation.export import check_new_folder
from aggnets_jax.analysis import command, members
from aggnets_jax.analysis.members import Member
from aggnets_jax.analysis.outputs import Outputs, split_logits
from aggnets_jax.convert.runs import write_new_run
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluation_batches
from aggnets_jax.files import AnyPath
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.training.state import Variables, leaves_by_path
from aggnets_jax.workdir.restore import Restored

UNIFORM, GREEDY = "mean of all", "greedy soup"


def mean_of(trees: Sequence[Any]) -> Any:
    """Return the mean of trees of equal shapes; it is computed in float64, and keeps the dtypes."""

    def mean(*leaves: np.ndarray) -> np.ndarray:
        return np.mean(np.asarray(leaves, np.float64), axis=0).astype(leaves[0].dtype)

    return jax.tree.map(mean, *trees)


def greedy_soup(accuracies: Sequence[float], judge: Callable[[list[int]], float]) -> list[int]:
    """Choose the members of a greedy soup (Wortsman et al., Recipe 1).

    Args:
      accuracies: accuracy of each member alone.
      judge: returns the accuracy of the mean of some members, given by their numbers.

    Returns:
      The numbers of the members, the best alone first.
    """
    order = sorted(range(len(accuracies)), key=lambda i: -accuracies[i])
    chosen, best = order[:1], accuracies[order[0]]
    for number in order[1:]:
        if (accuracy := judge([*chosen, number])) >= best:
            chosen, best = [*chosen, number], accuracy
    return chosen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this analysis."""
    members.add_arguments(parser, members.ALL)
    command.add_data_dir(parser)
    add = parser.add_argument
    text = "training batches for the batch statistics; default 50"
    add("--batches", type=int, default=50, help=text)
    add("--save", metavar="WORKDIR", help="new workdir for the averaged network, at step 0")
    text = "which average to save: 'uniform' or 'greedy'; default 'uniform'"
    add("--soup", choices=("uniform", "greedy"), default="uniform", help=text)


def run(restored: Restored, given: argparse.Namespace, output: AnyPath) -> None:
    """Print, write and draw the accuracies of checkpoints and averages; save one if asked for."""
    if given.save:
        check_new_folder(given.save)
    mesh = mesh_lib.make_mesh()
    batches = evaluation_batches(restored, mesh, given.data_dir)
    averaged = Averages(list(members.find_members(given)), batches, given.batches)
    soup = averaged.greedy()
    records = [
        *(
            members.figures(member.name, odd(averaged.outputs([number])))
            for number, member in enumerate(averaged.members)
        ),
        members.figures(UNIFORM, odd(averaged.outputs(averaged.all))),
        members.figures(f"{GREEDY} of {len(soup)}", odd(averaged.outputs(soup))),
    ]
    half = len(odd(averaged.outputs(soup)).labels)
    title = f"averages of {len(averaged.members)} checkpoints on {half:,} images"
    for number, record in enumerate(records[:-2]):
        record["in_soup"] = number in soup
    shown = list(map(members.cells, records))
    command.publish(output, title, shown, {"averages": records}, draw(records))
    if given.save:
        chosen = averaged.all if given.soup == "uniform" else soup
        write_new_run(averaged.config, restored.info, averaged.variables(chosen), given.save)
        print(f"{given.save} has the {given.soup} average of {len(chosen)} checkpoints")


def odd(outputs: Outputs) -> Outputs:
    """Return the outputs of the images with odd numbers, by which nothing is chosen.

    Raises:
      UserError: if there is only one image.
    """
    if len(outputs.labels) < 2:
        raise UserError("averages need two images or more for their evaluation")
    return Outputs(outputs.values[1::2], outputs.labels[1::2])


class Averages:
    """Means of the weights of networks, with their outputs for a split.

    Attributes:
      members: the networks; their weights are on the host.
      all: their numbers.
      config: config of the first, with one seed.

    Raises:
      UserError: for a single network, or networks of several kinds.
    """

    def __init__(
        self, found: Sequence[Member], batches: data.EvalBatches, num_batches: int
    ) -> None:
        if len(found) < 2:
            raise UserError(
                f"an average needs two checkpoints or more, and there is {found[0].name}: a run"
                " keeps config.keep_checkpoints of them; name other runs by --with"
            )
        _check_same_network(found)
        self.members = [
            Member(name, each._replace(variables=jax.device_get(each.variables)))
            for name, each in found
        ]
        self.all = list(range(len(found)))
        self._batches, self._outputs = batches, {}
        first = found[0].restored
        self.config = first.config.copy_and_resolve_references()
        self.config.num_seeds = 1
        self._estimate = None
        if jax.tree.leaves(first.variables.get("batch_stats", {})):
            one = first._replace(config=self.config)
            preprocess = data.make_preprocess(self.config.data, first.info)
            self._estimate = make_estimate(one, preprocess, mesh_lib.make_mesh(), num_batches)

    def variables(self, numbers: Sequence[int]) -> Variables:
        """Return the mean of some members, with its own batch statistics; one stays as it is."""
        chosen = [self.members[number].restored.variables for number in numbers]
        if len(chosen) == 1:
            return chosen[0]
        params = mean_of([variables["params"] for variables in chosen])
        if self._estimate is None:
            return {"params": params}
        changed = {"params": jax.tree.map(lambda x: x[None], params)}
        statistics = jax.tree.map(lambda x: x[0], self._estimate(changed))
        return {"params": params, "batch_stats": statistics}

    def outputs(self, numbers: Sequence[int]) -> Outputs:
        """Return the logits of the mean of some members for all images."""
        key = frozenset(numbers)
        if key not in self._outputs:
            restored = self.members[0].restored._replace(variables=self.variables(numbers))
            self._outputs[key] = split_logits(restored, self._batches)
        return self._outputs[key]

    def greedy(self) -> list[int]:
        """Choose a greedy soup by the images with even numbers."""

        def judge(numbers: list[int]) -> float:
            values, labels = self.outputs(numbers)
            return float((values[::2].argmax(axis=-1) == labels[::2]).mean())

        return greedy_soup([judge([number]) for number in self.all], judge)


def _check_same_network(found: Sequence[Member]) -> None:
    first = found[0]
    for member in found:
        if _network(member) != _network(first):
            raise UserError(
                f"weights of different networks have no mean: {member.name} is not the network of"
                f" {first.name}"
            )
        info, own = member.restored.info, first.restored.info
        if (info.mean, info.std) != (own.mean, own.std):
            raise UserError(
                f"{member.name} normalises images by another mean and std than {first.name}"
            )


def _network(member: Member) -> Any:
    """Return a network's shapes and links; networks with summed links can have equal shapes."""
    model, variables = member.restored.model, member.restored.variables
    shapes = {path: x.shape for path, x in leaves_by_path(variables).items()}
    links = [topology.sources for topology in model.topologies]
    return type(model), getattr(model, "aggregation", None), links, shapes


def draw(records: Sequence[dict[str, Any]]) -> Figure:
    """Draw the accuracy of each checkpoint and average, with its interval."""
    figure = Figure(figsize=(5, 0.9 + 0.3 * len(records)), dpi=120, layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(records))[::-1]
    middles = np.array([100 * record["accuracy"] for record in records])
    ends = 100 * np.array([(record["low"], record["high"]) for record in records])
    colors = ["0.6"] * (len(records) - 2) + ["C0", "C1"]
    for place, middle, (low, high), color in zip(places, middles, ends, colors, strict=True):
        axes.plot([low, high], [place, place], color=color)
        axes.plot(middle, place, "o", color=color)
    axes.set_yticks(places, [record["network"] for record in records], fontsize=8)
    axes.set(xlabel="accuracy, %, 95 % interval")
    return figure
