"""Check that `kill -9` at any moment loses nothing: python results/kills.py --kills=100.

Trains a small network on the digits, once without a kill and then many times with kills: a process
is killed at a random moment, half of them when they next write a checkpoint, and started again with
the same command until the run has finished. Then its files are compared with the files of the run
without kills. Two runs are in progress at a time. Writes results/kills.csv, with a row for each
kill; the exit code is 1 if anything differs.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing import event_accumulator

from aggnets_jax.cli import Parser, exit_code
from aggnets_jax.errors import UserError
from aggnets_jax.tables import write_csv
from aggnets_jax.workdir.metric_log import read_json_lines

ROOT = Path(__file__).parents[1]
LANES = 2
# So many checkpoints that one is being written at nearly all times; and lines of the log that come
# before the checkpoint that has them.
RUN = {
    "model.name": "sparsenet10_k4",
    "model.args": {"dropout": 0.1},
    "total_steps": 60,
    "log_every_steps": 2,
    "eval_every_steps": 5,
    "checkpoint_every_steps": 3,
    "batch_size": 32,
    "ema_decay": 0.9,
}
AFTER_SAVING_BEGAN = 0.05  # seconds, at most
PHASES = ("starting", "training", "saving", "ended")


@dataclasses.dataclass
class Kill:
    """A kill, and what became of it.

    Attributes:
      run: that it broke.
      seconds: after the start of the process.
      phase: "starting" until the first line of the log; "saving" if a checkpoint was unfinished;
        "ended" if the summary was there; else "training".
      newest_checkpoint: the step of the newest whole one, 0 if there was none.
      went_on_from: the step from which the next start went on that got so far.
    """

    run: str
    seconds: float
    phase: str
    newest_checkpoint: int
    went_on_from: int | None = None


@dataclasses.dataclass(frozen=True)
class Program:
    """The package's command line.

    Attributes:
      folder: where the data, compiled programs and workdirs are.
    """

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "data").mkdir()

    def start(self, command: str, workdir: Path, *arguments: str) -> subprocess.Popen:
        """Start a subcommand; its output goes to a file beside the workdir."""
        environment = {
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        with printed_by(workdir).open("w") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "aggnets_jax", command, f"--workdir={workdir}", *arguments],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def train(self, workdir: Path) -> subprocess.Popen:
        """Start or continue a run."""
        fields = (f"--config.{name}={value}" for name, value in RUN.items())
        data_dir = f"--data_dir={self.folder / 'data'}"
        return self.start("train", workdir, "--config=configs/digits.py", data_dir, *fields)

    def train_unbroken(self, workdir: Path) -> float:
        """Do a run from start to end, and return its seconds."""
        began = time.monotonic()
        check(self.train(workdir).wait(), workdir)
        return time.monotonic() - began

    def evaluate(self, workdir: Path, checkpoint: str) -> dict:
        """Evaluate a checkpoint of a run."""
        check(self.start("eval", workdir, f"--checkpoint={checkpoint}").wait(), workdir)
        return json.loads((workdir / "evaluation.json").read_text())


def printed_by(workdir: Path) -> Path:
    """Return the file with the output of a workdir's newest process."""
    return workdir.with_name(f"{workdir.name}.txt")


def check(code: int, workdir: Path) -> None:
    """Raise `RuntimeError` if a process did not end well."""
    if code:
        printed = printed_by(workdir).read_text()
        raise RuntimeError(f"a process of {workdir} ended with exit code {code}: {printed}")


def unfinished(workdir: Path) -> set[Path]:
    """Return checkpoints that are being written, or were when a process was killed."""
    return {
        path
        for series in ("checkpoints", "best")
        for path in workdir.glob(f"{series}/*.orbax-checkpoint-tmp*")
    }


def newest_checkpoint(workdir: Path) -> int:
    """Return the step of the newest whole checkpoint, 0 if there is none."""
    names = [path.name for path in workdir.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def step_gone_on_from(printed: str) -> int | None:
    """Return the step after which a process continued, from its output; None if unknown yet."""
    line = re.search(r"device\(s\)(?:.*; continuing after step (\d+) )?", printed)
    return line and int(line[1] or 0)


def wait_for_moment(
    process: subprocess.Popen, workdir: Path, generator: np.random.Generator, seconds: float
) -> None:
    """Wait until it is time to kill a process, or it has ended.

    Args:
      process: that has just been started.
      workdir: of its run.
      generator: draws the moment.
      seconds: that a process lives which trains without a break.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(generator.uniform(0, seconds))
    if generator.random() < 0.5:
        before = unfinished(workdir)
        while process.poll() is None and unfinished(workdir) <= before:
            time.sleep(0.001)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(generator.uniform(0, AFTER_SAVING_BEGAN))


def phase_of_killed(workdir: Path, printed: str, unfinished_before: set[Path]) -> str:
    """Return the phase in which a process was killed."""
    if (workdir / "summary.json").exists():
        return "ended"
    if unfinished(workdir) - unfinished_before:
        return "saving"
    return "training" if re.search("^step ", printed, re.MULTILINE) else "starting"


def train_with_kills(
    program: Program, workdir: Path, generator: np.random.Generator, seconds: float, most: int
) -> list[Kill]:
    """Do a run that is killed again and again, at most `most` times."""
    kills: list[Kill] = []
    while True:
        unfinished_before = unfinished(workdir)
        process, began = program.train(workdir), time.monotonic()
        if len(kills) < most:
            wait_for_moment(process, workdir, generator, seconds)
            lived = time.monotonic() - began
            process.kill()
        code = process.wait()
        printed = printed_by(workdir).read_text()
        for kill in kills:
            if kill.went_on_from is None:
                kill.went_on_from = step_gone_on_from(printed)
        if code != -signal.SIGKILL:
            check(code, workdir)
            return kills
        phase = phase_of_killed(workdir, printed, unfinished_before)
        kills.append(Kill(workdir.name, lived, phase, newest_checkpoint(workdir)))


def steps_in_tensorboard(workdir: Path) -> dict[str, list[int]]:
    """Return the steps of each tag, in the order in which they were written."""
    events = event_accumulator.EventAccumulator(
        str(workdir / "tensorboard"),
        size_guidance={event_accumulator.TENSORS: 0},  # all
        purge_orphaned_data=False,  # a step that comes twice is to be seen
    )
    events.Reload()
    tags = events.Tags()[event_accumulator.TENSORS]
    return {tag: [event.step for event in events.Tensors(tag)] for tag in tags}


def differences(workdir: Path, unbroken: Path) -> list[str]:
    """Return the differences of a run's files from the files of the unbroken one."""
    summaries = [json.loads((run / "summary.json").read_text()) for run in (workdir, unbroken)]
    seen = [
        (f"{field} of summary.json", *(summary[field] for summary in summaries))
        for field in ("steps", "fingerprint", "final", "best", "seeds")
    ]
    readers = {
        "metrics.jsonl": lambda run: (run / "metrics.jsonl").read_bytes(),
        "steps of timing.jsonl": lambda run: [
            line["step"] for line in read_json_lines(run / "timing.jsonl")
        ],
        "steps in TensorBoard": steps_in_tensorboard,
    }
    seen += [(what, read(workdir), read(unbroken)) for what, read in readers.items()]
    return [
        f"{workdir.name}: {what} differ from the unbroken run's: {ours} instead of {theirs}"
        for what, ours, theirs in seen
        if ours != theirs
    ]


def evaluation_differences(program: Program, workdir: Path) -> list[str]:
    """Return the differences of evaluations of a run's checkpoints from its summary."""
    summary = json.loads((workdir / "summary.json").read_text())
    wrong = []
    for checkpoint, field in (("latest", "final"), ("best", "best")):
        evaluation = program.evaluate(workdir, checkpoint)
        if evaluation != summary[field]:
            wrong.append(
                f"{workdir.name}: the {checkpoint} checkpoint evaluates to {evaluation}"
                f" instead of {summary[field]}"
            )
    return wrong


def steps_lost(kills: Sequence[Kill]) -> list[str]:
    """Return a line for each kill after which a run lost a checkpoint."""
    return [
        f"{kill.run}: went on from step {kill.went_on_from}, not {kill.newest_checkpoint}"
        for kill in kills
        if kill.went_on_from != kill.newest_checkpoint
    ]


def work_in_lane(
    program: Program, unbroken: Path, lane: int, seed: int, number: int
) -> tuple[list[Kill], list[str]]:
    """Break one run after another, `number` times in all; return the kills and what was wrong."""
    generator = np.random.default_rng((seed, lane))
    workdir = program.folder / f"{lane}-unbroken"
    seconds = program.train_unbroken(workdir)
    kills, wrong = [], differences(workdir, unbroken)
    run = 0
    while not wrong and len(kills) < number:
        workdir = program.folder / f"{lane}-{run}"
        run += 1
        of_run = train_with_kills(program, workdir, generator, seconds, number - len(kills))
        kills += of_run
        wrong += steps_lost(of_run)
        wrong += differences(workdir, unbroken)
        wrong += evaluation_differences(program, workdir)
        print(f"run {workdir.name}: {len(of_run)} kills, {len(wrong)} differences", flush=True)
        if not wrong:
            shutil.rmtree(workdir)
    return kills, wrong


def measure(folder: Path, number: int, seed: int) -> tuple[list[Kill], list[str], dict]:
    """Kill so many times; return the kills, the differences, and the unbroken run's summary."""
    program, unbroken = Program(folder), folder / "unbroken"
    program.train_unbroken(unbroken)
    with ThreadPoolExecutor(LANES) as pool:
        lanes = [
            pool.submit(work_in_lane, program, unbroken, lane, seed, (number + lane) // LANES)
            for lane in range(LANES)
        ]
        results = [lane.result() for lane in lanes]
    kills, wrong = (list(itertools.chain(*parts)) for parts in zip(*results, strict=True))
    return kills, wrong, json.loads((unbroken / "summary.json").read_text())


def write(output: Path, kills: Sequence[Kill], summary: dict) -> None:
    """Write the table."""
    versions = {name: summary["versions"][name] for name in ("jax", "orbax-checkpoint")}
    made_with = {**versions, "commit": summary["commit"], "hardware": summary["hardware"]}
    rows = [
        {"kill": number, **dataclasses.asdict(kill), "seconds": f"{kill.seconds:.2f}", **made_with}
        for number, kill in enumerate(kills, start=1)
    ]
    write_csv(output, rows)


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = Parser(
        prog="python results/kills.py",
        description="Shows that kill -9 at any moment loses nothing.",
    )
    parser.add_argument("--kills", type=int, default=100, help="number of kills; default 100")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments; default 0")
    output = Path(__file__).with_suffix(".csv")
    parser.add_argument("--output", type=Path, default=output, help="default results/kills.csv")
    given = parser.parse_args(arguments)
    for flag, least in (("kills", 1), ("seed", 0)):
        if getattr(given, flag) < least:
            raise UserError(f"--{flag} must be at least {least}, got {getattr(given, flag)}")
    if not given.output.parent.is_dir():
        raise UserError(f"--output={given.output}: there is no folder {given.output.parent}")
    folder = Path(tempfile.mkdtemp(prefix="kills_"))
    kills, wrong, summary = measure(folder, given.kills, given.seed)
    if kills:
        write(given.output, kills, summary)
    phases = Counter(kill.phase for kill in kills)
    counts = ", ".join(f"{phases[phase]} {phase}" for phase in PHASES)
    print(f"{len(kills)} kills ({counts}) of {len({kill.run for kill in kills})} runs")
    if wrong:
        sys.exit("\n".join([*wrong, f"the workdirs are in {folder}"]))
    print("nothing was lost: all runs left what the unbroken one left")
    shutil.rmtree(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; exit with 1 if anything differs, return 0, or 2 for bad input."""
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
