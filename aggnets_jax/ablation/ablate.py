"""The effect of links on a trained network, in tables and pictures: `aggnets ablate`."""

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from aggnets_jax.ablation import detectors, sweep_tables
from aggnets_jax.ablation import sets as sets_lib
from aggnets_jax.ablation.export import check_new_folder, export, weights_fit
from aggnets_jax.ablation.pictures import save_link_map, save_pictures
from aggnets_jax.ablation.removal import least_harmful, smaller_network
from aggnets_jax.ablation.sets import CutSet, StageLink, Stages
from aggnets_jax.ablation.sweep import Ablation, Measured, linked_stages
from aggnets_jax.ablation.sweep_tables import Row
from aggnets_jax.data.catalog import is_of_folder
from aggnets_jax.errors import UserError, one_line, unknown
from aggnets_jax.files import AnyPath, any_path, make_folder
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.workdir.provenance import fingerprint
from aggnets_jax.workdir.restore import Restored, restore_network

SWEEPS = ("links", "sources", "layers", "distance", "random")


class Options(NamedTuple):
    """The links to cut, and the files to write.

    Attributes:
      sweep: kinds of `SWEEPS`, with commas between them; default all, or none if there is `cut`.
      cut: sets of links of one's own, see `sets.listed_sets`.
      draws: number of random sets of a size, with this `draw_seed`; see `sets.random_sets`.
      at_once: sets that are evaluated at a time, see `Ablation`.
      reestimate_batch_statistics: number of training batches for them, see `Ablation`.
      output: folder of the tables and pictures; default WORKDIR/ablation.
      export: new folder for the network without some links, see `export`.
      export_least: number of the least important links to leave out of the export; by default the
        links of `cut` are left out.
    """

    sweep: str | None = None
    cut: Sequence[str] = ()
    draws: int = 10
    draw_seed: int = 0
    at_once: int | None = None
    reestimate_batch_statistics: int = 0
    output: str | None = None
    export: str | None = None
    export_least: int | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The sweeps in the order of `SWEEPS`; raises `UserError` for an unknown one."""
        if self.sweep is None:
            return () if self.cut else SWEEPS
        asked = self.sweep.split(",")
        for kind in asked:
            if kind not in SWEEPS:
                raise unknown("sweep", kind, SWEEPS)
        return tuple(sorted(set(asked), key=SWEEPS.index))


def ablate(
    workdir: str | Path,
    options: Options,
    *,
    which: str = "latest",
    seed: int | None = None,
    data_dir: str | None = None,
) -> Path:
    """Evaluate a checkpoint without sets of links; print, draw and write the results.

    The checkpoint `which` is as for `restore_network`. Returns the folder of the tables.

    Raises:
      UserError: for an unknown checkpoint, data set, link or option, or a folder that can't be
        written.
      Diverged: if the loss of the network with all links is not finite.
    """
    _check(options)
    mesh = mesh_lib.make_mesh()
    restored = restore_network(workdir, which, mesh_lib.replicated(mesh))
    stages = linked_stages(restored)
    kinds = _sets(stages, options)
    if restored.config.task == "multilabel":
        raise UserError(
            f"{workdir} is a run of several labels for each image; ablate is for classification"
            " and detection"
        )
    if restored.config.task == "detection":
        restored = restored._replace(variables=restored.variables_at(seed))
        network = _network(restored, seed, options, data_dir)
        return _ablate_detector(workdir, restored, stages, kinds, network, mesh, options, data_dir)
    if options.export is not None:
        listed = () if options.export_least else kinds["list"]
        if len(listed) > 1:
            raise UserError(f"one set of links can be exported, and --cut has {len(listed)}")
        # Refuses to cut links that a network needs, before anything is measured.
        smaller_network(restored, stages, listed[0].links if listed else ())
    ablation = Ablation(
        restored,
        mesh,
        seed=seed,
        data_dir=data_dir,
        at_once=options.at_once,
        reestimated=options.reestimate_batch_statistics,
    )
    folder = make_folder(options.output or any_path(workdir) / "ablation")
    network = _network(ablation.restored, seed, options, data_dir)
    earlier = sweep_tables.earlier_sweeps(folder, network, kinds)
    together = list(itertools.chain(*kinds.values()))
    print(f"step {restored.step}: sets of links to cut: {len(together)}", flush=True)
    measured = ablation.measure(together)
    pairs = iter(zip(together, measured.sets, strict=True))
    rows = {kind: [next(pairs) for _ in of_kind] for kind, of_kind in kinds.items()}
    record = {"network": network, **_record(ablation, measured, which, options)}
    try:
        sweep_tables.write(folder, record, rows, earlier)
        chance = 1 / restored.info.num_classes
        pictures = save_pictures(folder, stages, rows, measured.baseline, chance)
    except OSError as error:
        raise UserError(f"{folder} can't be written: {one_line(error)}") from error
    _print(measured, rows, [folder / sweep_tables.RECORD, *pictures])
    if options.export is not None:
        _export(ablation, rows, options, seed)
    return folder


def _ablate_detector(
    workdir: str | Path,
    restored: Restored,
    stages: Stages,
    kinds: dict[str, list[CutSet]],
    network: dict[str, Any],
    mesh: Mesh,
    options: Options,
    data_dir: str | None,
) -> Path:
    """Evaluate a detector without sets of links of its backbone; see `ablate`."""
    for name, value in (("export", options.export), ("at_once", options.at_once)):
        if value is not None:
            raise UserError(f"--{name} is for classification, and {workdir} is a run of detection")
    if options.reestimate_batch_statistics:
        raise UserError("--reestimate_batch_statistics is for classification, not for detection")
    folder = make_folder(options.output or any_path(workdir) / "ablation")
    earlier = sweep_tables.earlier_sweeps(folder, network, kinds)
    together = list(itertools.chain(*kinds.values()))
    print(f"step {restored.step}: sets of links to cut: {len(together)}", flush=True)
    baseline, measured, examples = detectors.measure(restored, mesh, stages, together, data_dir)
    pairs = iter(zip(together, measured, strict=True))
    rows = {kind: [next(pairs) for _ in of_kind] for kind, of_kind in kinds.items()}
    columns = detectors.columns(restored)
    record = {
        "network": network,
        "examples": examples,
        "baseline": {name: getattr(baseline, name) for name in columns},
    }
    files = [folder / sweep_tables.RECORD]
    try:
        sweep_tables.write(folder, record, rows, earlier, columns)
        if "links" in rows:
            label = "change of box AP, percentage points"
            files.append(folder / "links.png")
            save_link_map(stages, rows["links"], files[-1], "delta", label, -1)
    except OSError as error:
        raise UserError(f"{folder} can't be written: {one_line(error)}") from error
    for kind in [kind for kind in ("links", "list") if kind in rows] or [next(iter(rows))]:
        title = f"{kind} whose cut costs most box AP"
        detectors.print_worst(title, rows[kind], masks=restored.model.masks)
    print(f"all links: box AP {100 * baseline.bbox_AP:.2f}, of {examples} images")
    print(*files, sep="\n", flush=True)
    return folder


def _check(options: Options) -> None:
    """Refuse options that are wrong for any network."""
    kinds = options.kinds
    sets_lib.check_draws(options.draws, options.draw_seed)
    if options.reestimate_batch_statistics < 0:
        number = options.reestimate_batch_statistics
        raise UserError(f"--reestimate_batch_statistics must be at least 0 batches, not {number}")
    if options.export_least is not None:
        if options.export is None:
            raise UserError("--export_least needs --export=FOLDER to write to")
        if options.export_least < 1:
            raise UserError(f"--export_least must be at least 1 link, not {options.export_least}")
        if "links" not in kinds:
            raise UserError("--export_least needs the sweep of single links: --sweep=links")
    if options.export is not None:
        if options.export_least is None and not options.cut:
            raise UserError(
                "--export needs the links to cut: --cut=LINKS, or --export_least=NUMBER"
            )
        check_new_folder(options.export)


def _sets(stages: Stages, options: Options) -> dict[str, list[CutSet]]:
    """Return the sets of links to cut, by kind."""
    make = {
        "links": sets_lib.single_links,
        "sources": sets_lib.by_source,
        "layers": sets_lib.by_layer,
        "distance": sets_lib.by_distance,
        "random": partial(sets_lib.random_sets, draws=options.draws, seed=options.draw_seed),
    }
    kinds = {kind: make[kind](stages) for kind in options.kinds}
    if options.cut:
        kinds["list"] = sets_lib.listed_sets(options.cut, stages)
    return kinds


def _network(
    restored: Restored, seed: int | None, options: Options, data_dir: str | None
) -> dict[str, Any]:
    """Return the ablated network, with variables of one seed, and its images as JSON data.

    Sets of links are compared on the same network and images.
    """
    config = restored.config.data
    return {
        "name": restored.config.model.name,
        "fingerprint": fingerprint(restored.variables["params"]),
        "step": restored.step,
        "seed": restored.config.seed if seed is None else seed,
        "data": restored.info.name,
        "data_dir": (data_dir or config.data_dir) if is_of_folder(config.name) else None,
        "split": restored.info.eval_split,
        "reestimate_batch_statistics": options.reestimate_batch_statistics,
    }


def _record(ablation: Ablation, measured: Measured, which: str, options: Options) -> dict[str, Any]:
    """Return the other fields of the record that all sets share."""
    baseline = measured.baseline
    return {
        "checkpoint": which,
        "examples": measured.examples,
        "baseline": {"accuracy": baseline.accuracy, "loss": sweep_tables.finite(baseline.loss)},
        "options": {
            "sweep": list(options.kinds),
            "cut": list(options.cut),
            "draws": options.draws,
            "draw_seed": options.draw_seed,
            "at_once": ablation.at_once,
        },
    }


def _print(measured: Measured, rows: dict[str, list[Row]], files: Sequence[AnyPath]) -> None:
    baseline = measured.baseline
    titles = {"links": "single links that matter most", "list": "listed links"}
    for kind in [kind for kind in titles if kind in rows] or [next(iter(rows))]:
        sweep_tables.print_worst(titles.get(kind, f"{kind} that matter most"), rows[kind])
    print(
        f"all links: accuracy {baseline.accuracy:.2%}, loss {baseline.loss:.4f}, of"
        f" {measured.examples} images; changes of accuracy are in percentage points"
    )
    for file in files:
        print(file, flush=True)


def _export(
    ablation: Ablation, rows: dict[str, list[Row]], options: Options, seed: int | None
) -> None:
    """Export the network without the listed links, or without the least important ones."""
    if options.export_least is None:
        cut = rows["list"][0][0].links
    else:
        cut, kept = _least(ablation, rows["links"], options.export_least)
        if kept:
            print(f"links that matter less, but must stay: {sets_lib.to_text(kept)}")
    restored = ablation.restored._replace(variables=ablation.variables_without(cut))
    batch = next(iter(ablation.batches))
    export(restored, ablation.stages, cut, options.export, batch=batch, seed=seed)


def _least(
    ablation: Ablation, rows: Sequence[Row], number: int
) -> tuple[list[StageLink], list[StageLink]]:
    """Return the least important links that can be cut, and the links that must stay."""
    stages = ablation.stages
    fit: dict[str, bool] = {}

    def fits(link: StageLink) -> bool:
        # A module that reads a stage's output may be as wide as its input; a layer is not.
        name, (layer, _) = link
        if layer <= stages[name].topology.depth:
            return True
        if name not in fit:
            fit[name] = weights_fit(ablation.restored, stages, [link])
        return fit[name]

    ordered = [cut.links[0] for cut, _ in sorted(rows, key=sweep_tables.growth)]
    return least_harmful(stages, ordered, number, fits)
