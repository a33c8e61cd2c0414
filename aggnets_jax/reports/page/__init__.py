"""The page of a run: one HTML file with all its results, readable offline.

Its content security policy forbids loading anything and running other scripts than its own.
All text from a workdir is escaped.
"""

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import ml_collections
from markupsafe import Markup

import aggnets_jax
from aggnets_jax import config as config_lib
from aggnets_jax.connectivity.topology import Topology
from aggnets_jax.files import AnyPath, write_text
from aggnets_jax.reports.metrics import curves_of, metrics_in
from aggnets_jax.reports.page import detection, parts, pictures
from aggnets_jax.reports.page.formats import loss_text, metric_text, percent, points
from aggnets_jax.reports.results import read_run

PAGE = "report.html"

# Ids and titles of the sections on every page, before and after the sections of the network.
_FIRST = (
    ("results", "Results"),
    ("config", "Configuration"),
    ("training", "Training"),
    ("connections", "Connections"),
)
_LAST = ("environment", "Environment")

_HERE = Path(__file__).parent


def write_page(
    workdir: AnyPath,
    summary: Mapping[str, Any],
    config: ml_collections.ConfigDict,
    topologies: Sequence[Topology],
    curves: Sequence[Mapping[str, Any]],
    restored: Mapping[str, Any] | None,
    data_dir: str | None = None,
) -> Path:
    """Write `report.html` after computing the missing files of the workdir, and return its path.

    A part that does not apply to the network, or can't be computed, says so.

    Args:
      workdir: of a finished run.
      summary: of the run.
      config: of the run, resolved.
      topologies: of the network's stages.
      curves: lines of `metrics.jsonl`.
      restored: result of `aggnets eval`, or None.
      data_dir: of the data set; `None` means as in the run.

    Raises:
      UserError: if a file of the workdir is damaged.
      OSError: if the page can't be written.
    """
    of_task = detection if config.task == "detection" else parts
    network_parts = of_task.make_parts(workdir, data_dir)
    metrics = metrics_in(summary["final"])
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    text = _template().render(
        title=f"{summary['network']['name']} on {config.data.name}",
        workdir=str(workdir),
        summary=summary,
        config=config,
        numbers=_numbers(summary),
        metrics=metrics,
        results=_results(summary, restored),
        differences=_differences(config),
        full_config=json.dumps(config_lib.to_json(config), indent=2, ensure_ascii=False),
        curves=pictures.curve_pictures(curves, curves_of(summary["final"])),
        topologies=pictures.topology_pictures(topologies),
        parts=network_parts,
        environment=_environment(summary),
        commands=_commands(workdir),
        version=aggnets_jax.__version__,
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        sections=[*_FIRST, *((part.id, part.title) for part in network_parts), _LAST],
    )
    # ASCII, because names may have any letters and readers may assume any encoding.
    write_text(workdir / PAGE, text.encode("ascii", "xmlcharrefreplace").decode())
    return workdir / PAGE


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    formats = (percent, points, loss_text, metric_text)
    environment.globals |= {each.__name__: each for each in formats}
    return environment.get_template("page.html")


def _numbers(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    network, final = summary["network"], summary["final"]
    several = len(summary["seeds"])
    mean = f", mean of {several} seeds" if several > 1 else ""
    first = [metric for metric in metrics_in(final) if metric.caption]
    return [
        (f"{first[0].title} after the last step{mean}", metric_text(first[0].name, final)),
        *((title, metric_text(name, final)) for name, title, _ in first[1:]),
        ("trainable parameters", f"{network['params']:,}"),
        ("multiply-adds for one image", f"{network['macs']:,}"),
        ("links between layers", f"{network['links']:,}"),
    ]


def _results(
    summary: Mapping[str, Any], restored: Mapping[str, Any] | None
) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the rows of the table: name and metrics of each evaluation."""
    seeds = summary["seeds"]
    if len(seeds) == 1:
        step = summary["final"]["step"]
        last = {"step": step, **seeds[0]["final"]}
        rows = [("after the last step", last), ("best evaluation", seeds[0]["best"])]
    else:
        rows = [(f"after the last step, mean of {len(seeds)} seeds", summary["final"])]
        for each in seeds:
            rows += [(f"after the last step, seed {each['seed']}", each["final"])]
            rows += [(f"best evaluation, seed {each['seed']}", each["best"])]
    return rows if restored is None else [*rows, ("by aggnets eval, in a new process", restored)]


def _differences(config: ml_collections.ConfigDict) -> list[tuple[str, str, str]]:
    """Return the fields that differ from their defaults, with default and value."""
    both = map(config_lib.to_json, (config_lib.default_config(), config))
    return [
        (name, *(json.dumps(value, ensure_ascii=False) for value in values))
        for name, values in config_lib.changes(*both).items()
        if name != "model.patterns"  # thousands of numbers; the section on connections draws them
    ]


def _environment(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Hardware", summary["hardware"]),
        ("Speed", f"{summary['images_per_second']:,.0f} images/s in training"),
        ("Commit", summary["commit"] or "unknown"),
        ("Versions", ", ".join(f"{name} {v}" for name, v in summary["versions"].items())),
        *((f"Fingerprint, seed {each['seed']}", each["fingerprint"]) for each in summary["seeds"]),
    ]


def _commands(workdir: AnyPath) -> tuple[str, str]:
    """Return the commands that reproduce the run and the page."""
    page = shlex.join(["aggnets", "report", f"--workdir={workdir}", "--html"])
    return read_run(workdir)[0].command, page
