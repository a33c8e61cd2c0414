"""The report of a run: a table, and pictures of its connection pattern and training curves."""

from collections.abc import Mapping
from typing import Any

from aggnets_jax.connectivity.drawing import save_topologies
from aggnets_jax.errors import UserError
from aggnets_jax.files import PathLike, any_path, check_fields, read_json
from aggnets_jax.models import create_configured_model
from aggnets_jax.reports.curves import save_curves
from aggnets_jax.reports.metrics import curves_of, metrics_in
from aggnets_jax.tables import print_table
from aggnets_jax.workdir.folder import EVALUATION, metrics_of, read_config, read_summary
from aggnets_jax.workdir.metric_log import read_json_lines


def report(workdir: PathLike, *, html: bool = False, data_dir: str | None = None) -> None:
    """Print a table of a finished run, and draw `topology.png` and `curves.png`.

    If the run was evaluated from its last checkpoint (`aggnets eval`), the report says whether the
    accuracy, or the average precision of a detector, is the same.

    Args:
      workdir: of the run.
      html: whether to write `report.html`, too, computing missing parts of it.
      data_dir: of the data set, for the page; `None` means as in the run.

    Raises:
      UserError: if the workdir holds no finished run, or the evaluations differ.
    """
    workdir = any_path(workdir)
    summary = read_summary(workdir)
    config = read_config(workdir)
    topologies = create_configured_model(config, num_classes=1).topologies
    curves = read_json_lines(workdir / "metrics.jsonl")
    for number, line in enumerate(curves, start=1):
        fields = [line.get("step"), *line.values()]
        check_fields(workdir / "metrics.jsonl", fields, [float], f"line {number}")
    _print_summary(f"{workdir}: {config.data.name}", summary)

    distinct = tuple(dict.fromkeys(topologies))  # stages are often equal
    save_topologies(distinct, workdir / "topology.png")
    save_curves(curves, workdir / "curves.png", curves_of(summary["final"]))
    print(f"connection pattern: {workdir / 'topology.png'}")
    print(f"training curves: {workdir / 'curves.png'}")

    evaluation, file = None, workdir / EVALUATION
    if file.exists():
        evaluation, final = read_json(file), summary["final"]
        check_fields(file, evaluation, {"step": int, **metrics_of(final)})
        if evaluation["step"] == final["step"]:
            name, title, _ = metrics_in(final)[0]
            if evaluation[name] != final[name]:
                raise UserError(
                    f"the restored checkpoint has the {title} {evaluation[name]}, and in training"
                    f" it was {final[name]}"
                )
            print(f"the restored checkpoint has the same {title}: {evaluation[name]:.4f}")
    if html:
        from aggnets_jax.reports.page import write_page

        file = write_page(workdir, summary, config, topologies, curves, evaluation, data_dir)
        print(f"page: {file}")


def _print_summary(run: str, summary: Mapping[str, Any]) -> None:
    network, final = summary["network"], summary["final"]
    shown = [each[:2] for each in metrics_in(final) if each.caption and each.name != "loss"]
    record = {
        "network": network["name"],
        "links": f"{network['links']:,}",
        "parameters": f"{network['params']:,}",
        "MACs": f"{network['macs']:,}",
        **{title: f"{final[name]:.2%}" for name, title in shown},
        "images/s": f"{summary['images_per_second']:,.0f}",
    }
    print_table([record], f"{run}, {summary['steps']} steps")
