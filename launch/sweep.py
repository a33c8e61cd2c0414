"""Trains the rows of a config's `sweep()`, each in a workdir that is named like the row.

    python launch/sweep.py --config=configs/digits_50k.py --workdir=runs/50k -- --config.num_seeds=5

trains FILE:ROW in DIR/ROW, one row after another, or `--at_once=N` of them at a time. `--slurm`
submits an array of jobs instead, with options of sbatch in `--slurm="--time=8:00:00 --nodes=2"`;
`--print` prints the commands, for another scheduler. What stands behind `--` is given to each run.

Runs that are finished are left out, so that the same command goes on with a sweep. When a run
fails the others are trained nevertheless; a line at the end says which failed, and the exit code is
that of the first. SIGTERM and SIGINT stop all, with exit code 75.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aggnets_jax import config as config_lib
from aggnets_jax import flags as flags_lib
from aggnets_jax.cli import Parser, exit_code
from aggnets_jax.errors import Stopped, UserError, one_line
from aggnets_jax.files import local_path, read_json
from aggnets_jax.runtime.processes import Child, Children, common_exit_code, describe_exit
from aggnets_jax.workdir.folder import CONFIG, SUMMARY, config_change_error

SCRIPT = Path(__file__).with_name("slurm.sbatch")


class Run(NamedTuple):
    """A row of the sweep.

    Attributes:
      row: its name.
      flags: of aggnets_jax.main.
      finished: whether it has been trained to the end.
    """

    row: str
    flags: list[str]
    finished: bool

    def told(self, python: str) -> str:
        """The command as one would type it."""
        return shlex.join([python, "-m", "aggnets_jax.main", *self.flags])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line.

    Raises:
      UserError: for flags that contradict each other.
    """
    parser = Parser(
        prog="python launch/sweep.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="file with a sweep()")
    parser.add_argument("--workdir", required=True, help="folder of the runs' workdirs")
    parser.add_argument(
        "--at_once", type=int, help="how many runs at a time; with --slurm, at most"
    )
    parser.add_argument(
        "--slurm",
        nargs="?",
        const="",
        metavar="OPTIONS",
        help="submit an array, with these options",
    )
    parser.add_argument("--print", action="store_true", help="print commands, and start nothing")
    parser.add_argument("--dry_run", action="store_true", help="only say what would be done")
    parser.add_argument("more", nargs="*", help="flags of aggnets_jax.main, behind --")
    given = parser.parse_args(arguments)
    for flag in ("config", "workdir"):
        if not getattr(given, flag):
            raise UserError(f"--{flag} is empty")
    if given.at_once is not None and given.at_once < 1:
        raise UserError(f"--at_once must be at least 1, got {given.at_once}")
    try:
        given.slurm = given.slurm if given.slurm is None else shlex.split(given.slurm)
    except ValueError as error:
        raise UserError(f"--slurm={given.slurm}: {one_line(error)}") from error
    for flag in ("at_once", "slurm", "dry_run"):
        if given.print and getattr(given, flag) not in (None, False):
            raise UserError(f"--print starts nothing: leave --{flag} out")
    return given


def runs(given: argparse.Namespace) -> list[Run]:
    """The rows of a sweep, checked as if each had been started.

    Raises:
      UserError: for what a run would refuse, and rows that can't be folders.
    """
    rows = list(config_lib.rows(given.config))
    if not rows:
        raise UserError(f"{given.config} has no sweep(); python -m aggnets_jax.main trains it")
    for row in rows:
        if row in ("", ".", "..") or "/" in row or not config_lib.is_line(row):
            raise UserError(f"{given.config}: row {row!r} can't be the name of a folder")
    return [_run(given, row) for row in rows]


def _run(given: argparse.Namespace, row: str) -> Run:
    workdir = Path(given.workdir, row)
    words = [f"--config={given.config}:{row}", f"--workdir={workdir}", *given.more]
    flags, overrides = flags_lib.parse(words, __doc__)
    if flags.mode != "train" or flags.workdir != str(workdir):
        raise UserError("a sweep trains, below its --workdir; leave --mode and a second one out")
    config = config_lib.to_json(config_lib.load(flags.config, overrides))
    finished = _is_finished(local_path(workdir), config, bool(flags.allow_config_change))
    return Run(row, words, finished)


def _is_finished(workdir: Path, config: dict[str, Any], allow_config_change: bool) -> bool:
    if not (workdir / CONFIG).exists():
        return False
    if changes := config_lib.differences(read_json(workdir / CONFIG), config):
        if not allow_config_change:
            raise config_change_error(workdir, changes)
        return False
    return (workdir / SUMMARY).exists()


def train(waiting: Sequence[Run], at_once: int) -> int:
    """Trains runs on this machine.

    Returns:
      The exit code for all of them.
    """
    left, codes, failed = deque(waiting), [], []
    with Children() as children:
        while children.running or (left and not children.asked):
            while left and len(children.running) < at_once and not children.asked:
                run = left.popleft()
                print(f"{run.row}: {run.told('python')}", flush=True)
                command = [sys.executable, "-m", "aggnets_jax.main", *run.flags]
                children.start(Child(run.row, command, {}, run.row if at_once > 1 else ""))
            if (end := children.wait_for_end()) is None:
                continue
            child, code = end
            codes.append(code)
            if code not in (0, Stopped.exit_code):
                failed.append(f"{child.name} {describe_exit(code)}")
    if failed:
        print(
            f"error: {len(failed)} of {len(waiting)} runs failed: {', '.join(failed)}",
            file=sys.stderr,
        )
    if children.asked:
        unfinished = len(waiting) - codes.count(0)
        print(
            f"{children.asked[0].name}: {unfinished} of {len(waiting)} runs are not finished;"
            " the same command goes on with them",
            file=sys.stderr,
        )
        codes.append(Stopped.exit_code)
    return common_exit_code(codes)


def submission(given: argparse.Namespace, waiting: Sequence[Run]) -> list[str]:
    """The command that submits runs as an array to SLURM."""
    at_once = "" if given.at_once is None else f"%{given.at_once}"
    return [
        "sbatch",
        *given.slurm,
        f"--array=0-{len(waiting) - 1}{at_once}",
        os.path.relpath(SCRIPT),
        f"--config={given.config}",
        f"--workdir={given.workdir}",
        *given.more,
        "--rows",
        *(run.row for run in waiting),
    ]


def submit(command: Sequence[str]) -> None:
    """Submits an array; its tasks have this interpreter.

    Raises:
      UserError: if SLURM is not here, or does not take it.
    """
    if shutil.which("sbatch") is None:
        raise UserError("there is no SLURM here: no sbatch; --dry_run prints the command")
    done = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable})
    if done.returncode:
        raise UserError(f"sbatch has refused it, with exit code {done.returncode}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says, and exits."""
    given = parse(arguments)
    everything = runs(given)
    waiting = [run for run in everything if not run.finished]
    if not given.print:
        for run in everything:
            if run.finished:
                print(f"{run.row}: finished, left out")
    if not waiting:
        return
    if given.slurm is not None:
        command = submission(given, waiting)
        if given.dry_run:
            print(f"PYTHON={shlex.quote(sys.executable)} {shlex.join(command)}")
        else:
            submit(command)
    elif given.print or given.dry_run:
        for run in waiting:
            print(run.told("python"))
    else:
        sys.exit(train(waiting, given.at_once or 1))


if __name__ == "__main__":
    sys.exit(exit_code(main))
