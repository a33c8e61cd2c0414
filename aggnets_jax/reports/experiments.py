"""All experiments that have configs: what they reproduce, what they cost, and our results."""

import csv
import functools
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aggnets_jax import config as config_lib
from aggnets_jax.data.known import known_data, num_train
from aggnets_jax.errors import UserError, one_line, unknown

NOT_RUN = "not run"


class Size(NamedTuple):
    """Of a network on the images of its data set.

    Attributes:
      params: trainable scalars.
      macs: multiply-adds of convolutions and linear layers for one image.
    """

    params: int
    macs: int


class Experiment(NamedTuple):
    """A config that reproduces what a paper prints or draws.

    Attributes:
      name: what --config takes, "configs/sparsenet/table2.py:densenet40_k12_c10".
      config: resolved.
    """

    name: str
    config: ml_collections.ConfigDict


def list_experiments(family: str | None = None) -> Iterator[Experiment]:
    """Yields each config in `configs/FAMILY/*.py`, or of all families, that says its source.

    Raises:
      UserError: for an unknown family, or a file that is no config.
    """
    configs = config_lib.configs_folder()
    files = sorted(configs.glob("*/*.py"))
    families = {file.parent.name for file in files if file.parent.name != "recipes"}
    if family is not None and family not in families:
        raise unknown("family", family, families)
    for file in files:
        if file.parent.name in ({family} if family else families):
            for row in config_lib.rows(file) or [""]:
                suffix = f":{row}" if row else ""
                config = config_lib.load(f"{file}{suffix}")
                if config.paper.source:
                    yield Experiment(f"configs/{file.relative_to(configs)}{suffix}", config)


def size(config: ml_collections.ConfigDict) -> Size:
    """Parameters and multiply-adds of a config's network, counted once in a process.

    Raises:
      UserError: for a network that there is none of, or a data set that is not known here.
    """
    data = known_data(config)
    arguments = json.dumps(config_lib.model_arguments(config), sort_keys=True)
    return _size(config.model.name, arguments, data.num_classes, data.image_shape)


def training_cost(config: ml_collections.ConfigDict) -> int:
    """Multiply-adds of a training: three for each of the network's and each image it trains on.

    The forward pass takes one, and the backward pass two: the gradients of activations and weights.

    Raises:
      UserError: as `size` and `num_train`.
    """
    images = config_lib.total_steps(config, num_train(config)) * config.batch_size
    return 3 * size(config).macs * images * config.num_seeds


def read_results(results: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yields the rows of all tables of runs in `results/*.csv`, each with its file.

    Raises:
      UserError: for a file that can't be read.
    """
    for file in sorted(results.glob("*.csv")):
        try:
            with file.open(newline="") as lines:
                reader = csv.DictReader(lines)
                if {"config", "overrides", "seed", "error"} <= set(reader.fieldnames or ()):
                    yield from ((file, row) for row in reader)
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{file} can't be read: {one_line(error)}") from error


def measured_errors(results: Path) -> dict[str, list[float]]:
    """Top-1 errors in % that `results/*.csv` have of each config as it is, one for each seed.

    Runs with overrides of the config do not count.

    Raises:
      UserError: for a file that can't be read.
    """
    errors: dict[str, dict[str, float]] = {}
    for file, row in read_results(results):
        if not row["overrides"]:
            try:
                errors.setdefault(row["config"], {})[row["seed"]] = float(row["error"])
            except (TypeError, ValueError) as error:
                raise UserError(f"{file} can't be read: {one_line(error)}") from error
    return {name: list(by_seed.values()) for name, by_seed in errors.items()}


def in_units(macs: int) -> str:
    """Multiply-adds to two digits, "420 petaMACs"."""
    macs = float(f"{macs:.1e}")
    for power, unit in ((18, "exa"), (15, "peta"), (12, "tera"), (9, "giga")):
        if macs >= 10**power:
            return f"{macs / 10**power:g} {unit}MACs"
    return f"{macs:g} MACs"


@functools.cache
def _size(name: str, arguments: str, classes: int, shape: tuple[int, int, int]) -> Size:
    # They import JAX, which --help can do without.
    from aggnets_jax.models import count, create_model, page
    from aggnets_jax.models.registry import find_family

    overrides = json.loads(arguments)
    listed = page.rows().get(name)
    as_listed = listed and classes in listed.params and shape == find_family(name).input_shape
    if as_listed and not overrides:
        return Size(listed.params[classes], listed.macs_with(classes))
    parts = count(create_model(name, classes, **overrides), shape).values()
    return Size(*(sum(numbers) for numbers in zip(*parts, strict=True)))


def _record(experiment: Experiment, errors: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What there is to say of an experiment, as plain numbers; errors in %."""
    name, config = experiment
    params, _ = size(config)
    examples = num_train(config)
    measured = errors.get(name, ())
    return {
        "experiment": name,
        "source": config.paper.source,
        "network": config.model.name,
        "data": config.data.name,
        "epochs": config_lib.total_steps(config, examples) * config.batch_size / examples,
        "printed_error": config.paper.error,
        "printed_error_top5": config.paper.error_top5,
        "our_error": statistics.fmean(measured) if measured else NOT_RUN,
        "seeds": len(measured),
        "params": params,
        "training_macs": training_cost(config),
        "remark": config.paper.remark,
    }


def _cells(record: Mapping[str, Any]) -> dict[str, str]:
    """A record for people to read."""
    printed = [record["printed_error"], record["printed_error_top5"]]
    ours = record["our_error"]
    if ours != NOT_RUN:
        ours = f"{ours:.2f} ({record['seeds']} seed{'s' * (record['seeds'] > 1)})"
    return {
        "experiment": record["experiment"],
        "source": record["source"],
        "network": record["network"],
        "data": record["data"],
        "epochs": f"{record['epochs']:.0f}",
        "printed error, %": " / ".join(f"{error:g}" for error in printed if error is not None),
        "ours, %": ours,
        "parameters": f"{record['params'] / 1e6:.2f}M",
        "cost of training": in_units(record["training_macs"]),
        "remark": record["remark"],
    }


def show(family: str | None, results: Path, form: str) -> None:
    """Print the experiments.

    Args:
      family: folder of configs; None for all.
      results: folder of CSV files of runs.
      form: "table", "csv" or "markdown".

    Raises:
      UserError: as `list_experiments` and `measured_errors`.
    """
    errors = measured_errors(results)
    records = [_record(each, errors) for each in list_experiments(family)]
    if form == "csv":
        writer = csv.DictWriter(sys.stdout, records[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return
    rows = [_cells(record) for record in records]
    if form == "markdown":
        print(f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
        for row in rows:
            cells = (cell.replace("|", "\\|") for cell in row.values())  # a bar ends a cell
            print(f"| {' | '.join(cells)} |")
        return
    text = Table(*rows[0])
    for row in rows:
        text.add_row(*map(escape, row.values()))
    # A file or a pipe has no width to fit into.
    Console(width=None if sys.stdout.isatty() else 1000).print(text)
