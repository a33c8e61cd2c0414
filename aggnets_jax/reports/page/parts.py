"""The parts of the page that need the trained network, or what analyses have left in its workdir.

What is missing is computed; what can't be is a part that says why.
"""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aggnets_jax.ablation.ablate import Options, ablate
from aggnets_jax.ablation.sweep_tables import FILES, RECORD
from aggnets_jax.analysis import ANALYSES, first_line, grad_cam, weights
from aggnets_jax.analysis.plots import draw_heat_maps
from aggnets_jax.connectivity.links import find_links
from aggnets_jax.data import EvalBatches
from aggnets_jax.errors import Diverged, UserError
from aggnets_jax.evaluate import evaluation_batches
from aggnets_jax.reports.page.ablation_map import AblationMap, LinkNames, read_cuts
from aggnets_jax.reports.page.pictures import Picture, embedded, embedded_png
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.training.state import seeds
from aggnets_jax.workdir.restore import Restored, restore_network

_IMAGES = 6  # of the Grad-CAM grid

# What the pictures of sweeps show; those of analyses show what the analysis says of itself.
_SWEEPS = {
    "distances": "Change of the accuracy when all links of a distance are cut together, with 95 %"
    " intervals.",
    "random": "Accuracy by the number of links that are cut at random.",
}
_DRAWN_HERE = ("grad_cam", "weights")


class Part(NamedTuple):
    """A section of the page.

    Attributes:
      id: of the section.
      title: of the section.
      text: paragraphs.
      pictures: below them.
      ablation: below these.
      missing: why there is nothing else, if so.
      paired: whether pictures stand side by side where there is room.
    """

    id: str
    title: str
    text: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    ablation: AblationMap | None = None
    missing: str | None = None
    paired: bool = False


class _Network:
    """The network of a run and its data, both read when they are asked for.

    Where a run has several networks it is the first of them.

    Attributes:
      workdir: of the run.
      data_dir: of the data set; default that of the run.
    """

    def __init__(self, workdir: Path, data_dir: str | None) -> None:
        self.workdir = workdir
        self.data_dir = data_dir
        self._mesh = mesh_lib.make_mesh()

    @cached_property
    def restored(self) -> Restored:
        """The network of the latest checkpoint; raises `UserError` if there is none."""
        devices = mesh_lib.replicated(self._mesh)
        restored = restore_network(self.workdir, "latest", devices)
        return restored._replace(variables=restored.variables_at(self._first(restored)))

    @cached_property
    def batches(self) -> EvalBatches:
        """The evaluation split; raises `UserError` if the data set is missing or another."""
        return evaluation_batches(self.restored, self._mesh, self.data_dir)

    @property
    def seed(self) -> int:
        """Which network it is."""
        return self._first(self.restored)

    @property
    def told(self) -> str:
        """Of which network a part is."""
        several = np.size(seeds(self.restored.config)) > 1
        seed = f", of seed {self.seed}, the first of the run's seeds" if several else ""
        return f"This is the network after step {self.restored.step}{seed}."

    @staticmethod
    def _first(restored: Restored) -> int:
        return int(np.ravel(seeds(restored.config))[0])


def make_parts(workdir: Path, data_dir: str | None) -> list[Part]:
    """Makes all parts, in their order on the page.

    Args:
      workdir: of a finished run.
      data_dir: of the data set; default that of the run.

    Raises:
      UserError: if a file of the workdir is damaged.
    """
    network = _Network(workdir, data_dir)
    made = [
        _or_why(network, part, make)
        for part, make in [
            (Part("weights", "Weights of the links"), _weights),
            (Part("ablation", "Ablation of single links"), _ablation),
            (Part("grad_cam", "Grad-CAM"), _grad_cam),
            (Part("analyses", "Further analyses"), _further),
        ]
    ]
    return [part for part in made if part.pictures or part.ablation or part.missing]


def _or_why(network: _Network, part: Part, make: Callable[[_Network, Part], Part]) -> Part:
    """A part, or the picture that an analysis has left of it, or else why there is none."""
    try:
        return make(network, part)
    except (UserError, Diverged) as error:
        file = network.workdir / "analysis" / f"{part.id}.png"
        if not file.exists():
            return part._replace(missing=f"Not shown: {error}.")
        caption = f"As an earlier `aggnets analyse {part.id}` drew it."
        return part._replace(pictures=[Picture(embedded_png(file), part.title, caption)])


def _weights(network: _Network, part: Part) -> Part:
    restored = network.restored
    found = weights.link_weights(restored)
    if not found:
        why = "its layers add what they read, or read one output each"
        raise UserError(f"the links of {restored.config.model.name} have no weights: {why}")
    pictures = []
    for name, stage in found.items():
        figure = draw_heat_maps(
            {name: weights.normalised(stage.means)},
            {name: stage.links},
            limits=(0, 1),
            label=weights.LABEL,
        )
        caption = _weakest(name, stage)
        alt = f"Heat map of the weights of the links in {name}."
        pictures.append(Picture(embedded(figure), alt, caption))
    text = (
        "How heavily each layer uses each output that it reads: the mean absolute weight of the"
        " part of its first convolution that convolves it, divided by the largest of the layer."
        " A column is a layer, a row what it reads; white squares are no links."
    )
    return part._replace(text=[f"{text} {network.told}"], pictures=pictures, paired=True)


def _weakest(name: str, stage: weights.StageWeights) -> str:
    shares = weights.normalised(stage.means)
    layer, source = link = min(stage.readers, key=lambda link: shares[link])
    names = LinkNames({name: stage.links})
    return (
        f"{name}, {stage.links.topology.name}, {len(stage.readers)} links. The weakest is that of"
        f" {names.told_source(name, source)} for {names.told_layer(name, layer)}, with"
        f" {shares[link]:.2f} of the largest of its layer."
    )


def _ablation(network: _Network, part: Part) -> Part:
    folder = network.workdir / "ablation"
    files = (folder / RECORD, folder / FILES["links"])
    if not all(file.exists() for file in files) or not read_cuts(files[0])[1]:
        options = Options(sweep="links")
        ablate(network.workdir, options, seed=network.seed, data_dir=network.data_dir)
    told, cuts = read_cuts(files[0])
    try:
        stages = find_links(network.restored.model, network.restored.info.image_shape)
    except UserError:  # only their names depend on it
        stages = {}
    text = (
        "What the network loses without each of its links: nothing travels on it, and all else"
        " stays as it was trained. Columns are layers, rows what they read. Point at a link, tap"
        " it, or go to it by Tab and the arrow keys, and its numbers are shown at the bottom of"
        " the window."
    )
    return part._replace(text=[text, told], ablation=AblationMap(cuts, LinkNames(stages)))


def _grad_cam(network: _Network, part: Part) -> Part:
    sizes = grad_cam.feature_maps(network.restored)
    stages = sorted((name for name in sizes if re.fullmatch(r"stage\d+", name)), key=_number)
    # The last map of each size.
    endpoints = {sizes[name]: name for name in (*stages, grad_cam.LAST_MAP)}
    figure = grad_cam.grad_cam_grid(
        network.restored, network.batches, _IMAGES, tuple(endpoints.values())
    )
    text = (
        "Where in an image the network finds what speaks for the class that it predicts"
        " (Selvaraju et al., 2017), in the last feature maps of each size."
    )
    caption = (
        f"The first {_IMAGES} images of the evaluation, and over each what speaks for the predicted"
        " class: the brighter, the more, up to the largest value of the map."
    )
    alt = "Grid of images and of maps laid over them, a row for each image."
    picture = Picture(embedded(figure), alt, caption, wide=True)
    return part._replace(text=[f"{text} {network.told}"], pictures=[picture])


def _number(stage: str) -> int:
    return int(stage.removeprefix("stage"))


def _further(network: _Network, part: Part) -> Part:
    """The pictures of other analyses and sweeps that lie in the workdir."""
    told = {
        f"analysis/{name}.png": first_line(module)
        for name, module in ANALYSES.items()
        if name not in _DRAWN_HERE
    }
    told |= {f"ablation/{name}.png": text for name, text in _SWEEPS.items()}
    files = {network.workdir / name: text for name, text in told.items()}
    pictures = [
        Picture(embedded_png(file), text, text, wide=True)
        for file, text in files.items()
        if file.exists()
    ]
    text = "What other analyses and sweeps have left in the workdir."
    return part._replace(text=[text], pictures=pictures)
