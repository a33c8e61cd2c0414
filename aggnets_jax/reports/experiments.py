"""The experiments of the papers: printed numbers, cost, and our results."""

import csv
import functools
import importlib.resources
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from aggnets_jax import config as config_lib
from aggnets_jax.config_fields.known_data import known_data, num_train
from aggnets_jax.errors import UserError, one_line, unknown
from aggnets_jax.tables import csv_text, markdown, print_table

NOT_RUN = "not run"
SIZES = "sizes.csv"  # made by aggnets experiments --format=sizes

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


class Network(NamedTuple):
    """A network by name and arguments (JSON), with its classes and the shape of its images."""

    network: str
    arguments: str
    num_classes: int
    image_shape: tuple[int, int, int]


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
    """Return parameters and multiply-adds of a config's network.

    They are in a table, or counted once in a process.

    Raises:
      UserError: for an unknown network or data set.
    """
    network = network_of(config)
    return kept_sizes().get(network) or counted(network)


def network_of(config: ml_collections.ConfigDict) -> Network:
    """Return the network of a config."""
    data = known_data(config)
    if config.task == "detection":
        given = config_lib.to_json(config)
        model = {k: v for k, v in given["model"].items() if k not in (*_NO_SIZE, "patterns")}
        arguments = {"task": given["task"], "task_args": given["task_args"], "model": model}
    else:
        arguments = config_lib.model_arguments(config)
        arguments = {k: v for k, v in arguments.items() if k not in _NO_SIZE}
    text = json.dumps(arguments, sort_keys=True)
    return Network(config.model.name, text, data.num_classes, data.image_shape)


@functools.cache
def kept_sizes() -> dict[Network, Size]:
    """Return the sizes of `sizes.csv`, by network."""
    lines = importlib.resources.files(__package__).joinpath(SIZES).read_text().splitlines()
    table = {}
    for row in csv.DictReader(lines):
        shape = tuple(map(int, row["image_shape"].split("x")))
        network = Network(row["network"], row["arguments"], int(row["num_classes"]), shape)
        table[network] = Size(int(row["params"]), int(row["macs"]))
    return table


def sizes_text() -> str:
    """Count the networks of all experiments, and return the sizes as the text of `sizes.csv`."""
    networks = sorted({network_of(experiment.config) for experiment in list_experiments()})
    return csv_text(
        [
            {
                **network._asdict(),
                "image_shape": "x".join(map(str, network.image_shape)),
                **counted(network)._asdict(),
            }
            for network in networks
        ]
    )


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
            with file.open(newline="", encoding="utf-8-sig") as lines:
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
def counted(network: Network) -> Size:
    """Count a network's parameters and multiply-adds; raise `UserError` for an unknown one."""
    from aggnets_jax.models import count, create_model

    arguments = json.loads(network.arguments)
    if arguments.get("task") == "detection":
        return _counted_detector(arguments, network)
    model = create_model(network.network, network.num_classes, **arguments)
    parts = count(model, network.image_shape).values()
    return Size(sum(part.params for part in parts), sum(part.macs for part in parts))


def _counted_detector(given: dict[str, Any], network: Network) -> Size:
    """Count a detector without its frozen parameters, as papers do."""
    from aggnets_jax.detection.operations import count_detector
    from aggnets_jax.tasks import get_task

    config = config_lib.resolve(given)
    detector = get_task(config).make_network(config, network.num_classes)
    _, trainable, _, parts = count_detector(detector, network.image_shape[:2])
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

    "sizes" counts the networks again, for the table of sizes that comes with the package.

    Raises:
      UserError: as `list_experiments` and `measured_errors`.
    """
    if form == "sizes":
        if family is not None:
            raise UserError("--family is not for --format=sizes, which has the networks of all")
        print(sizes_text(), end="")
        return
    errors = measured_errors(results)
    records = [_record(each, errors) for each in list_experiments(family)]
    if not records:
        raise UserError(f"configs/{family} has no experiments of a paper")
    if form == "csv":
        print(csv_text(records), end="")
        return
    rows = [_cells(record) for record in records]
    if form == "markdown":
        print(markdown(rows))
    else:
        print_table(rows, left=tuple(rows[0]))
