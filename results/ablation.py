"""Time a sweep over all single links against as many evaluations: python results/ablation.py.

Both use one checkpoint, runs/demo (trained by `make demo`) or --workdir. They alternate in one
process, with compiled programs and images in memory. Writes results/ablation.csv: seconds are
medians of the repeats; ratio is the sweep's time divided by the time of as many evaluations as
there are links, the median of the repeats' ratios; spread is the smallest and the largest ratio.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from aggnets_jax import data
from aggnets_jax.ablation import sets, sweep
from aggnets_jax.arguments import check_whole_number
from aggnets_jax.cli import Parser, exit_code
from aggnets_jax.evaluate import evaluate, evaluation_batches, make_eval_step
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tables import write_csv
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.workdir.provenance import commit, hardware, versions
from aggnets_jax.workdir.restore import Restored, restore_network


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(prog="python results/ablation.py")
    parser.add_argument("--workdir", default="runs/demo", help="workdir of a finished run")
    parser.add_argument("--checkpoint", default="best", help="latest, best or a step")
    parser.add_argument("--repeats", type=int, default=7, help="number of sweeps; default 7")
    parser.add_argument("--output", default=str(Path(__file__).with_suffix(".csv")))
    given = parser.parse_args(arguments)
    check_whole_number("--repeats", given.repeats, 1)
    return given


def evaluation(restored: Restored) -> Callable[[], None]:
    """Return a function that evaluates the network once, as `aggnets eval` does."""
    mesh = mesh_lib.make_mesh()
    preprocess = data.make_preprocess(restored.config.data, restored.info)
    step = make_eval_step(Classification(), restored.model, preprocess)
    batches = evaluation_batches(restored, mesh)
    variables = restored.variables_at(None)
    return lambda: evaluate(Classification(), step, variables, batches)


def seconds(run: Callable[[], object], times: int = 1) -> float:
    """Return the seconds of some calls, together."""
    began = time.perf_counter()
    for _ in range(times):
        run()
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the table."""
    given = parse(arguments)
    mesh = mesh_lib.make_mesh()
    restored = restore_network(given.workdir, given.checkpoint, mesh_lib.replicated(mesh))
    ablation = sweep.Ablation(restored, mesh)
    cuts = sets.single_links(ablation.stages)
    evaluate_once = evaluation(restored)
    evaluate_once()  # which compiles it
    ablation.measure(cuts)
    times = np.empty((2, given.repeats))
    for repeat in range(given.repeats):
        times[:, repeat] = (
            seconds(lambda: ablation.measure(cuts)),
            seconds(evaluate_once, len(cuts)),
        )
        print("sweep {:.2f} s, evaluations {:.2f} s".format(*times[:, repeat]), flush=True)
    sweeps, evaluations = times
    ratios = sweeps / evaluations
    row = {
        "network": restored.config.model.name,
        "links": len(cuts),
        "images": restored.info.num_eval,
        "sets_at_once": ablation.at_once,
        "seconds_of_sweep": f"{np.median(sweeps):.2f}",
        "seconds_of_evaluation": f"{np.median(evaluations) / len(cuts):.4f}",
        "ratio": f"{np.median(ratios):.2f}",
        "spread": f"{ratios.min():.2f} to {ratios.max():.2f}",
        "repeats": given.repeats,
        "command": shlex.join(
            ["python", "results/ablation.py"]
            + [f"--{name}={getattr(given, name)}" for name in ("workdir", "checkpoint", "repeats")]
        ),
        "commit": commit(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "hardware": hardware(),
    }
    write_csv(Path(given.output), [row])
    print(f"ratio {row['ratio']} ({row['spread']}): {given.output}", flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(main))
