"""Several processes on one machine that train one network together, like the processes of a pod.

    python launch/local.py --processes=2 --devices=2 -- train --config=FILE --workdir=DIR

Each process runs `aggnets` with the words after `--`, the address of the first process, the number
of processes and its own number; flags without a subcommand train. `--devices` simulates devices on
the CPU; without it each process takes the devices that it finds. Lines of all processes except the
first begin with "process N: ".

SIGTERM and SIGINT go to all processes. If one fails, a line says which and how, and the others are
ended if they don't end by themselves. The exit code is the one of the first that failed, or 75 if
all were stopped with 75.
"""

import argparse
import signal
import socket
import sys
import time
from collections.abc import Sequence

from aggnets_jax.cli import Parser, exit_code
from aggnets_jax.errors import Stopped, UserError
from aggnets_jax.runtime.processes import Child, Children, common_exit_code, describe_exit

ENDING = ((5.0, signal.SIGTERM), (20.0, signal.SIGKILL))
"""Seconds after a failure or a stop, and the signal that the other processes then get.

At first they may report the cause themselves: most mistakes and failures are noticed by all.
"""

_OURS = ("--coordinator_address", "--num_processes", "--process_id")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
      UserError: for what can't be started.
    """
    parser = Parser(prog="python launch/local.py", description=__doc__)
    parser.add_argument("--processes", type=int, required=True, help="number of processes")
    parser.add_argument("--devices", type=int, help="simulated CPU devices of each process")
    parser.add_argument("--dry_run", action="store_true", help="only print the commands")
    parser.add_argument(
        "more", nargs="*", metavar="WORD", help="command and flags of aggnets, after --"
    )
    given = parser.parse(arguments)
    for flag in ("processes", "devices"):
        if (value := getattr(given, flag)) is not None and value < 1:
            raise UserError(f"--{flag} must be at least 1, got {value}")
    if not given.more:
        raise UserError("nothing to run: give flags of aggnets train after --")
    for argument in given.more:
        if (flag := argument.partition("=")[0]) in _OURS:
            raise UserError(f"{flag} is given to each process here; leave it out")
    return given


def processes(given: argparse.Namespace) -> list[Child]:
    """Return the processes of a command line."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    devices = {}
    if given.devices is not None:
        devices = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(given.devices)}
    common = [f"--coordinator_address=localhost:{port}", f"--num_processes={given.processes}"]
    return [
        Child(
            name=f"process {number}",
            command=[
                *(sys.executable, "-m", "aggnets_jax"),
                *(["train"] if given.more[0].startswith("-") else []),
                *given.more,
                *common,
                f"--process_id={number}",
            ],
            variables=devices,
            prefix=f"process {number}" if number else "",
        )
        for number in range(given.processes)
    ]


def run(children: Sequence[Child], ending: Sequence[tuple[float, signal.Signals]] = ENDING) -> int:
    """Run processes that belong together until all have ended.

    Args:
      children: to start.
      ending: as `ENDING`.

    Returns:
      The exit code for all of them.
    """
    codes: list[int] = []
    due: list[tuple[float, signal.Signals]] = []
    with Children() as started:
        for child in children:
            started.start(child)
        while started.running:
            end = started.wait_for_end(max(0.0, due[0][0] - time.monotonic()) if due else None)
            if due and time.monotonic() >= due[0][0]:
                number = due.pop(0)[1]
                # A second SIGTERM would end a process that is still saving.
                if number != signal.SIGTERM or not started.asked:
                    started.send(number)
            if end is None:
                continue
            child, code = end
            if code and not any(codes):
                due = [(time.monotonic() + seconds, number) for seconds, number in ending]
            if _failed(code) and not any(map(_failed, codes)):
                others = f"; the others have {ending[-1][0]:g} s to end" if started.running else ""
                print(f"error: {child.name} {describe_exit(code)}{others}", file=sys.stderr)
            codes.append(code)
    return common_exit_code(codes)


def _failed(code: int) -> bool:
    return code not in (0, Stopped.exit_code)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and exit."""
    given = parse(arguments)
    children = processes(given)
    if given.dry_run:
        for child in children:
            print(child.command_line())
        return
    sys.exit(run(children))


if __name__ == "__main__":
    sys.exit(exit_code(main))
