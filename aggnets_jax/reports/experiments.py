"""All experiments that have configs: what they reproduce, what they cost, and our results."""

import csv
import functools
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from aggnets_jax import config as config_lib
from aggnets_jax.data.known import known_data, num_train
from aggnets_jax.detection.operations import count_detector
from aggnets_jax.errors import UserError, one_line, unknown
from aggnets_jax.models import count, create_model, page
from aggnets_jax.models.registry import find_family
from aggnets_jax.tables import csv_text, markdown, print_table
from aggnets_jax.tasks import get_task

NOT_RUN = "not run"

# Arguments of networks that change neither parameters nor multiply-adds.
_NO_SIZE = (
    *("remat", "scan", "shared_statistics"),
    *("dropout", "map_dropout", "dropblock", "drop_connect", "drop_path", "stochastic_depth"),
    "dynamic_regularisation",
)


class Size(NamedTuple):
    """Trainable scalars of a network, and its multiply-adds for one image of its data set."""

    params: int
    macs: int


class Experiment(NamedTuple):
    """A resolved config that reproduces what a paper prints or draws; its name for --config."""

    name: str
    config: ml_collections.ConfigDict


def list_experiments(family: str | None = None) -> Iterator[Experiment]:
    """Yield each config with a source in `configs/FAMILY/*.py`, by default of all families.

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
    """Return parameters and multiply-adds of a config's network, counted once in a process.

    Raises:
      UserError: for an unknown network or data set.
    """
    data = known_data(config)
    if config.task == "detection":
        parts = ("task_args", "model", "dtype", "task")
        text = json.dumps({k: config_lib.to_json(config)[k] for k in parts}, sort_keys=True)
        return _detector_size(text, data.num_classes, data.image_shape)
    arguments = {k: v for k, v in config_lib.model_arguments(config).items() if k not in _NO_SIZE}
    text = json.dumps(arguments, sort_keys=True)
    return _size(config.model.name, text, data.num_classes, data.image_shape)


def training_cost(config: ml_collections.ConfigDict) -> int:
    """Return the multiply-adds of a training: three forward passes for each training image.

    The backward pass costs two of them: the gradients of activations and of weights.

    Raises:
      UserError: as `size` and `num_train`.
    """
    images = config_lib.total_steps(config, num_train(config)) * config.batch_size
    return 3 * size(config).macs * images * config.num_seeds


def read_results(results: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the rows of all tables of runs in `results/*.csv`, each with its file.

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
    """Return top-1 errors in % from `results/*.csv` by config, one for each seed.

    Runs with overrides of the config are ignored.

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
    """Format multiply-adds with two digits, "420 petaMACs"."""
    macs = float(f"{macs:.1e}")
    for power, unit in ((18, "exa"), (15, "peta"), (12, "tera"), (9, "giga")):
        if macs >= 10**power:
            return f"{macs / 10**power:g} {unit}MACs"
    return f"{macs:g} MACs"


@functools.cache
def _size(name: str, arguments: str, classes: int, shape: tuple[int, int, int]) -> Size:
    listed, overrides = page.rows().get(name), json.loads(arguments)
    as_listed = listed and classes in listed.params and shape == find_family(name).input_shape
    if as_listed and not overrides:
        return Size(listed.params[classes], listed.macs_with(classes))
    parts = count(create_model(name, classes, **overrides), shape).values()
    return Size(*(sum(numbers) for numbers in zip(*parts, strict=True)))


@functools.cache
def _detector_size(given: str, classes: int, shape: tuple[int, int, int]) -> Size:
    config = config_lib.resolve(json.loads(given))
    detector = get_task(config).make_network(config, classes)
    _, trainable, _, parts = count_detector(detector, shape[:2])
    return Size(trainable, sum(part.macs for part in parts.values()))


def _record(experiment: Experiment, errors: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return an experiment's line as plain numbers; errors are in %."""
    name, config = experiment
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
        "params": size(config).params,
        "training_macs": training_cost(config),
        "remark": config.paper.remark,
    }


def _cells(record: Mapping[str, Any]) -> dict[str, str]:
    """Format a record for people."""
    printed = [record["printed_error"], record["printed_error_top5"]]
    ours = record["our_error"]
    if ours != NOT_RUN:
        ours = f"{ours:.2f} ({record['seeds']} seed{'s' * (record['seeds'] > 1)})"
    return {
        **{name: record[name] for name in ("experiment", "source", "network", "data")},
        "epochs": f"{record['epochs']:.0f}",
        "printed error, %": " / ".join(f"{error:g}" for error in printed if error is not None),
        "ours, %": ours,
        "parameters": f"{record['params'] / 1e6:.2f}M",
        "cost of training": in_units(record["training_macs"]),
        "remark": record["remark"],
    }


def show(family: str | None, results: Path, form: str) -> None:
    """Print the experiments of a family, or of all, as "table", "csv" or "markdown".

    Raises:
      UserError: as `list_experiments` and `measured_errors`.
    """
    errors = measured_errors(results)
    records = [_record(each, errors) for each in list_experiments(family)]
    if form == "csv":
        print(csv_text(records), end="")
        return
    rows = [_cells(record) for record in records]
    if form == "markdown":
        print(markdown(rows))
    else:
        print_table(rows, left=tuple(rows[0]))
