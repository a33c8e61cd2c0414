"""What became of a run: a table, and pictures of its connection pattern and of its training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aggnets_jax import config as config_lib
from aggnets_jax.connectivity.drawing import save_topologies
from aggnets_jax.errors import UserError
from aggnets_jax.files import check_fields, local_path, read_json
from aggnets_jax.models import create_configured_model
from aggnets_jax.reports.curves import save_curves
from aggnets_jax.workdir.folder import CONFIG, METRICS, read_summary
from aggnets_jax.workdir.metric_log import read_json_lines


def report(workdir: str | Path, *, html: bool = False, data_dir: str | None = None) -> None:
    """Prints a table of a finished run, and draws `topology.png` and `curves.png`.

    If the run was evaluated from its last checkpoint (`aggnets eval`), the table says whether that
    gave the same accuracy.

    Args:
      workdir: of the run.
      html: whether to make `report.html`, too, with what has to be computed for it.
      data_dir: of the data set, for that; default that of the run.

    Raises:
      UserError: if the workdir holds no finished run, or the evaluations differ.
    """
    workdir = local_path(workdir)
    summary = read_summary(workdir)
    config = config_lib.resolve(read_json(workdir / CONFIG))
    topologies = create_configured_model(config, num_classes=1).topologies
    curves = _curves(workdir / "metrics.jsonl")
    Console().print(_table(str(workdir), config.data.name, summary))

    pictures = {
        "connection pattern": workdir / "topology.png",
        "training curves": workdir / "curves.png",
    }
    distinct = tuple(dict.fromkeys(topologies))  # stages often are alike
    save_topologies(distinct, pictures["connection pattern"])
    save_curves(curves, pictures["training curves"])
    for what, file in pictures.items():
        print(f"{what}: {file}")

    evaluation = None
    if (workdir / "evaluation.json").exists():
        evaluation, final = read_json(workdir / "evaluation.json"), summary["final"]
        check_fields(workdir / "evaluation.json", evaluation, {"step": int, **METRICS})
        if evaluation["step"] == final["step"]:
            if evaluation["accuracy"] != final["accuracy"]:
                raise UserError(
                    f"the restored checkpoint has accuracy {evaluation['accuracy']},"
                    f" in training it had {final['accuracy']}"
                )
            print(f"restored in a new process: the same accuracy, {evaluation['accuracy']}")
    if html:
        from aggnets_jax.reports.page import write_page

        file = write_page(workdir, summary, config, topologies, curves, evaluation, data_dir)
        print(f"page: {file}")


def _curves(file: Path) -> list[dict[str, float]]:
    lines = read_json_lines(file)
    for number, line in enumerate(lines, start=1):
        check_fields(file, [line.get("step"), *line.values()], [float], f"line {number}")
    return lines


def _table(workdir: str, data_name: str, summary: Mapping[str, Any]) -> Table:
    network, final = summary["network"], summary["final"]
    table = Table(title=escape(f"{workdir}: {data_name}, {summary['steps']} steps"))
    for column in ("network", "links", "parameters", "MACs", "accuracy", "images/s"):
        table.add_column(column, justify="left" if column == "network" else "right")
    table.add_row(
        escape(network["name"]),
        f"{network['links']:,}",
        f"{network['params']:,}",
        f"{network['macs']:,}",
        f"{final['accuracy']:.2%}",
        f"{summary['images_per_second']:,.0f}",
    )
    return table
