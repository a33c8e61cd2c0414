"""The subcommand `sweep`."""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from aggnets_jax.commands.command import command, flag, load_config, make_parser, switch
from aggnets_jax.errors import Stopped, UserError
from aggnets_jax.files import any_path

SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sbatch"


class Run(NamedTuple):
    """A row of the sweep: its name, its flags of `aggnets train`, and whether it is finished."""

    row: str
    flags: list[str]
    finished: bool

    def command(self, *program: str) -> list[str]:
        """Return the words of the command that trains it."""
        return [*program, "train", *self.flags]


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error


@command(
    "sweep",
    flag("--config", "config file with a sweep()", metavar="FILE", required=True),
    flag("--workdir", "folder for the workdirs of the runs", metavar="DIR", required=True),
    flag("--at_once", "number of runs at a time (with --slurm at most); default 1", type=int),
    flag(
        "--slurm",
        "submit an array of jobs to SLURM, with these options of sbatch",
        nargs="?",
        const=[],
        type=_words,
        metavar="OPTIONS",
    ),
    switch("--print", "print the commands, and start nothing"),
    switch("--dry_run", "print what would be started, and start nothing"),
    flag("more", "flags of aggnets train, after --", nargs="*", metavar="FLAG"),
    check=lambda flags: None,  # its rows' workdirs are checked one by one
)
def sweep(flags: argparse.Namespace) -> int | None:
    """Train the rows of a config's `sweep()`, each in a workdir with the row's name.

    Example:
        aggnets sweep --config=configs/digits_50k.py --workdir=runs/50k -- --config.num_seeds=5

    The command trains FILE:ROW in DIR/ROW, one row after another, or `--at_once=N` at a time.
    `--slurm="--time=8:00:00 --nodes=2"` submits an array of jobs to SLURM instead, with these
    options of sbatch. `--print` prints the commands, for another scheduler. Flags after `--` go to
    each run.

    Finished runs are left out, so the same command resumes a sweep that was stopped. If a run
    fails, the others are trained nevertheless. The last line then lists the failed runs, and the
    exit code is the one of the first of them. SIGTERM and SIGINT stop all runs, with exit code 75.
    """
    if flags.at_once is not None and flags.at_once < 1:
        raise UserError(f"--at_once must be at least 1, got {flags.at_once}")
    for other in ("at_once", "slurm", "dry_run"):
        if flags.print and getattr(flags, other) not in (None, False):
            raise UserError(f"--print starts nothing: leave --{other} out")
    everything = runs(flags)
    waiting = [run for run in everything if not run.finished]
    for run in everything:
        if run.finished and not flags.print:
            print(f"{run.row}: finished, left out")
    if not waiting:
        return None
    if flags.slurm is not None:
        command = submission(flags, waiting)
        if not flags.dry_run:
            submit(command)
        else:
            print(f"PYTHON={shlex.quote(sys.executable)} {shlex.join(command)}")
    elif flags.print or flags.dry_run:
        for run in waiting:
            print(shlex.join(run.command("aggnets")))
    else:
        return train(waiting, flags.at_once or 1)
    return None


def runs(given: argparse.Namespace) -> list[Run]:
    """Return the rows of a sweep, checked as if each had been started.

    Raises:
      UserError: for flags that a run would refuse, and rows that can't be folders.
    """
    from aggnets_jax import config as config_lib
    from aggnets_jax.files import is_line, read_json
    from aggnets_jax.workdir.folder import CONFIG, SUMMARY, config_change_error

    if ".py:" in given.config:
        raise UserError(f"a sweep trains all rows: give --config={given.config.partition(':')[0]}")
    rows = list(config_lib.rows(given.config))
    if not rows:
        raise UserError(f"{given.config} has no sweep(); train it with aggnets train")
    for row in rows:
        if row in ("", ".", "..") or "/" in row or not is_line(row):
            raise UserError(f"{given.config}: row {row!r} can't be the name of a folder")
    found = []
    for row in rows:
        workdir = any_path(given.workdir) / row
        words = [f"--config={given.config}:{row}", f"--workdir={workdir}", *given.more]
        flags = make_parser("train").parse(words)
        if flags.workdir != str(workdir):
            raise UserError("a sweep trains below its own --workdir; leave the one after -- out")
        config = config_lib.to_json(load_config(flags))
        path, changes = workdir, []
        if (path / CONFIG).exists():
            changes = config_lib.differences(read_json(path / CONFIG), config)
        if changes and not flags.allow_config_change:
            raise config_change_error(path, changes)
        finished = not changes and (path / CONFIG).exists() and (path / SUMMARY).exists()
        found.append(Run(row, words, finished))
    return found


def train(waiting: Sequence[Run], at_once: int) -> int:
    """Train runs on this machine, and return the exit code for all of them."""
    from aggnets_jax.runtime.processes import Child, Children, common_exit_code, describe_exit

    left, codes, failed = deque(waiting), [], []
    with Children() as children:
        while children.running or (left and not children.asked):
            while left and len(children.running) < at_once and not children.asked:
                run = left.popleft()
                print(f"{run.row}: {shlex.join(run.command('aggnets'))}", flush=True)
                command = run.command(sys.executable, "-m", "aggnets_jax")
                children.start(Child(run.row, command, {}, run.row if at_once > 1 else ""))
            if (end := children.wait_for_end()) is None:
                continue
            child, code = end
            codes.append(code)
            if code not in (0, Stopped.exit_code):
                failed.append(f"{child.name} {describe_exit(code)}")
    if failed:
        text = f"error: {len(failed)} of {len(waiting)} runs failed: {', '.join(failed)}"
        print(text, file=sys.stderr)
    if children.asked:
        unfinished = f"{len(waiting) - codes.count(0)} of {len(waiting)} runs are not finished"
        text = f"{children.asked[0].name}: {unfinished}; the same command goes on with them"
        print(text, file=sys.stderr)
        codes.append(Stopped.exit_code)
    return common_exit_code(codes)


def submission(given: argparse.Namespace, waiting: Sequence[Run]) -> list[str]:
    """Return the command that submits runs as an array to SLURM."""
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
    """Submit an array with this interpreter; raise `UserError` if SLURM is missing or refuses."""
    if not SCRIPT.is_file():
        raise UserError("--slurm needs launch/slurm.sbatch, which only a checkout has")
    if shutil.which("sbatch") is None:
        raise UserError("there is no SLURM here (no sbatch); --dry_run prints the command")
    done = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable})
    if done.returncode:
        raise UserError(f"sbatch has refused the jobs, with exit code {done.returncode}")
