"""Parts of the page that need the trained network or the files of earlier analyses.

Missing parts are computed; a part that can't be computed says why.
"""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
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
from aggnets_jax.files import AnyPath
from aggnets_jax.reports.page.ablation_map import AblationMap, LinkNames, read_cuts
from aggnets_jax.reports.page.pictures import Picture, embedded, embedded_png
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.training.state import seeds
from aggnets_jax.workdir.restore import Restored, restore_network

_IMAGES = 6  # of the Grad-CAM grid

# Captions of the sweeps' pictures; an analysis has its own description as caption.
_SWEEPS = {
    "distances": "Change of the accuracy when all links of a distance are cut together, with 95 %"
    " intervals.",
    "random": "Accuracy by the number of links that are cut at random.",
}
_DRAWN_HERE = ("grad_cam", "weights")


class Part(NamedTuple):
    """A section of the page, with its id and title.

    Attributes:
      text: paragraphs.
      pictures: below them.
      ablation: below the pictures.
      missing: reason why the part is empty, or None.
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
    """The first network of a run and its data, both read at first use."""

    def __init__(self, workdir: AnyPath, data_dir: str | None) -> None:
        self.workdir, self.data_dir = workdir, data_dir
        self._mesh = mesh_lib.make_mesh()

    @cached_property
    def restored(self) -> Restored:
        """Restore the latest checkpoint; raise `UserError` if there is none."""
        devices = mesh_lib.replicated(self._mesh)
        restored = restore_network(self.workdir, "latest", devices)
        return restored._replace(variables=restored.variables_at(self._first(restored)))

    @cached_property
    def batches(self) -> EvalBatches:
        """Open the evaluation split; raise `UserError` if the data set is missing or another."""
        if self.restored.config.task == "multilabel":
            raise UserError("it is for one label of each image")
        return evaluation_batches(self.restored, self._mesh, self.data_dir)

    @property
    def seed(self) -> int:
        """Return the seed of the network."""
        return self._first(self.restored)

    @property
    def description(self) -> str:
        """Return a sentence that says which network a part shows."""
        several = np.size(seeds(self.restored.config)) > 1
        seed = f", of seed {self.seed}, the first of the run's seeds" if several else ""
        return f"This is the network after step {self.restored.step}{seed}."

    @staticmethod
    def _first(restored: Restored) -> int:
        return int(np.ravel(seeds(restored.config))[0])


def make_parts(workdir: AnyPath, data_dir: str | None) -> list[Part]:
    """Make all parts, in their order on the page; arguments and errors as for `write_page`."""
    network = _Network(workdir, data_dir)
    made = [
        _or_why(network, Part("weights", "Weights of the links"), _weights),
        _or_why(network, Part("ablation", "Ablation of single links"), _ablation),
        _or_why(network, Part("grad_cam", "Grad-CAM"), _grad_cam),
        _or_why(network, Part("analyses", "Further analyses"), _further),
    ]
    return [part for part in made if part.pictures or part.ablation or part.missing]


def _or_why(network: _Network, part: Part, make: Callable[[_Network, Part], Part]) -> Part:
    """Make a part, or show an earlier analysis' picture instead, or say why there is none."""
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
    maps = {name: weights.normalised(stage.means) for name, stage in found.items()}
    pictures, limits = [], weights.colour_limits(maps.values())
    for name, stage in found.items():
        shares, links = {name: maps[name]}, {name: stage.links}
        figure = draw_heat_maps(shares, links, limits=limits, label=weights.LABEL)
        alt = f"Heat map of the weights of the links in {name}."
        pictures.append(Picture(embedded(figure), alt, _weakest(name, stage)))
    text = (
        "How heavily each layer uses each output that it reads: the mean absolute weight of the"
        " part of its first convolution that reads it, divided by the largest of the layer."
        " Columns are layers, rows are the outputs that they read; white squares are no links."
        f" The colours go from {limits[0]:g} to 1."
    )
    return part._replace(text=[f"{text} {network.description}"], pictures=pictures, paired=True)


def _weakest(name: str, stage: weights.StageWeights) -> str:
    shares = weights.normalised(stage.means)
    layer, source = link = min(stage.readers, key=lambda link: shares[link])
    names = LinkNames({name: stage.links})
    return (
        f"{name}, {stage.links.topology.name}, {len(stage.readers)} links. The weakest is that of"
        f" {names.source_phrase(name, source)} for {names.layer_phrase(name, layer)}, with"
        f" {shares[link]:.2f} of the largest of its layer."
    )


def _ablation(network: _Network, part: Part) -> Part:
    folder = network.workdir / "ablation"
    files = (folder / RECORD, folder / FILES["links"])
    if not all(file.exists() for file in files) or not read_cuts(files[0])[1]:
        options = Options(sweep="links")
        ablate(network.workdir, options, seed=network.seed, data_dir=network.data_dir)
    about, cuts = read_cuts(files[0])
    try:
        stages = find_links(network.restored.model, network.restored.info.image_shape)
    except UserError:  # without stages, links only have numbers
        stages = {}
    text = (
        "Change of the accuracy, in percentage points, after cutting a single link, without"
        " retraining. Columns are layers, rows"
        " are the outputs that they read. Point at a link, tap it, or move to it with Tab and the"
        " arrow keys to see its numbers at the bottom of the window."
    )
    return part._replace(text=[text, about], ablation=AblationMap(cuts, LinkNames(stages)))


def _grad_cam(network: _Network, part: Part) -> Part:
    sizes = grad_cam.feature_maps(network.restored)
    stages = [name for name in sizes if re.fullmatch(r"stage\d+", name)]
    stages.sort(key=lambda name: int(name.removeprefix("stage")))
    # Keep the last map of each size.
    endpoints = {sizes[name]: name for name in (*stages, grad_cam.LAST_MAP)}
    figure = grad_cam.grad_cam_grid(
        network.restored, network.batches, _IMAGES, tuple(endpoints.values())
    )
    text = (
        "Image regions that support the predicted class (Selvaraju et al., 2017), in the last"
        " feature maps of each size."
    )
    caption = (
        f"The first {_IMAGES} images of the evaluation, each overlaid with its evidence for the"
        " predicted class: brighter means more, up to the largest value of the map."
    )
    alt = "Grid of images and of maps laid over them, a row for each image."
    picture = Picture(embedded(figure), alt, caption, wide=True)
    return part._replace(text=[f"{text} {network.description}"], pictures=[picture])


def _further(network: _Network, part: Part) -> Part:
    """Show the pictures of other analyses and sweeps in the workdir."""
    captions = {
        f"analysis/{name}.png": first_line(module)
        for name, module in ANALYSES.items()
        if name not in _DRAWN_HERE
    }
    captions |= {f"ablation/{name}.png": text for name, text in _SWEEPS.items()}
    pictures = [
        Picture(embedded_png(network.workdir / name), text, text, wide=True)
        for name, text in captions.items()
        if (network.workdir / name).exists()
    ]
    text = "Pictures of other analyses and sweeps in the workdir."
    return part._replace(text=[text], pictures=pictures)
