"""Measure speed, memory and compilation: python results/speed.py --tables=cpu_families,memory.

A table is a list of commands `aggnets benchmark ...`, which run one after another, each in a
process of its own. Their rows go to results/speed.csv and replace earlier rows of the same command
and table; docs/benchmark.md explains the columns. Arguments after `--` are added to all commands,
such as `-- --seconds=1`.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from aggnets_jax.benchmark.rows import ORIGIN, Row, read_records, record, replace_records
from aggnets_jax.cli import Parser, exit_code
from aggnets_jax.errors import UserError, unknown

Command = list[str]
"""Flags of the benchmark; the first says which models."""

# A network of each family that its paper prints and that takes seconds per step on a CPU.
CIFAR = (
    "densenet40_k12",
    "densenet_bc100_k12",
    "sparsenet40_k12",
    "sparsenet_bc100_k12",
    "sparsenet_sum110",
    "preact_resnet110",
    "resnet110_cifar",
    "resnet50_cifar_w25",
    "resnet50_dense_cifar_w25",
    "dsnet50_cifar_w25",
    "ds2net50_cifar_w25",
    "dsnext50_cifar_w25",
    "resnext50_cifar_w25",
    "res2next164_4x8d_4s_w25",
    "hcgnet_a1",
    "highway19",
    "fractalnet20_w16",
    "mdnet30_a64",
    "mixnet100_k12_12",
    "pyramidnet110_a48",
    "seqresnet_k8_r4_n1",
    "seqresnet_b_k16_r7_n1",
    "wrn16_8",
)
IMAGENET = (
    "resnet50",
    "densenet121",
    "sparsenet121_k32",
    "hcgnet_b",
    "dsnet50",
    "ds2net50",
    "resnext50_32x4d",
    "res2net50_26w_4s",
    "seresnet50",
    "cbam_resnet50",
    "wide_resnet50_2",
    "hardnet68",
    "dpn68",
    "mixnet105",
    "seqresnet_b22",
    "seqresnext24",
    "efficientnet_b0",
    "micro_dense_efficientnet_b0",
)
FORMS = "--forms=plain,default,remat=norm,remat=layer"


# A network of each family whose plain form also takes seconds per step.
ON_CPU = (
    "densenet40_k12",
    "sparsenet40_k12",
    "sparsenet_sum110",
    "resnet50_cifar_w25",
    "dsnet50_cifar_w25",
    "resnext50_cifar_w25",
    "hcgnet_a1",
    "mdnet30_a64",
    "seqresnet_k8_r4_n1",
    "efficientnet_b0 --image_size=64",
)
BESIDE_TORCH = (
    "densenet40_k12",
    "sparsenet40_k12",
    "sparsenet_bc100_k12",
    "resnet110_cifar",
    "dsnet50_cifar_w25",
)
OTHERS_BESIDE_TORCH = (
    "preact_resnet110",
    "resnext50_cifar_w25",
    "res2next164_4x8d_4s_w25",
    "hcgnet_a1",
    "highway19",
    "fractalnet20_w16",
    "mdnet30_a64",
    "mixnet100_k12_12",
    "pyramidnet110_a48",
    "seqresnet_k8_r4_n1",
    "wrn16_8",
    "dpn68 --image_size=64",
    "hardnet68 --image_size=64",
    "efficientnet_b0 --image_size=64",
)


def cpu_families() -> Iterator[Command]:
    """Return the commands for all families on a CPU, against their plain form.

    They time single steps, because loops slow the plain form down.
    """
    short = ["--batch_size=16", "--steps_per_dispatch=1", "--repeats=3", "--seconds=1"]
    for model in ON_CPU:
        yield [*f"--models={model}".split(), "--forms=plain,default", *short]


def cpu_torch() -> Iterator[Command]:
    """Return the commands for five networks, and one of each other family, beside PyTorch."""
    rival = ["--against=torch", "--against_forms=eager+channels_last"]
    for model in BESIDE_TORCH:
        yield [f"--models={model}", "--forms=default,remat=none", *rival]
    for model in OTHERS_BESIDE_TORCH:
        short = ["--batch_size=16", "--repeats=3", "--seconds=2"]
        yield [*f"--models={model}".split(), "--forms=default", *short, *rival]


def memory() -> Iterator[Command]:
    """Return the commands for what forms save and cost."""
    forms = "--forms=remat=none,remat=norm,remat=layer,scan"
    yield ["--models=densenet_bc100_k12", forms, "--repeats=3", "--seconds=1"]
    forms = "--forms=remat=none,remat=layer,scan"
    # Written out, these take minutes to compile.
    yield ["--models=sparsenet_bc400_k12", "--modes=compile", forms, "--repeats=1"]
    yield ["--models=densenet_bc190_k40", "--modes=compile", forms]


def depth() -> Iterator[Command]:
    """Return the commands for compile time and memory by depth, and steps at depths 100 and 110."""
    for family, depths in (
        ("sparsenet_sum{}", (56, 110, 200, 1001, 2000)),
        ("preact_resnet{}", (56, 110, 200, 1001)),
        ("sparsenet_bc{}_k12", (52, 100, 202, 1001)),
        ("densenet_bc{}_k4", (52, 100, 202, 1001)),
    ):
        for layers in depths:
            forms = "--forms=remat=layer,scan" if layers <= 202 else "--forms=scan"
            mode = [] if layers in (100, 110) else ["--modes=compile"]
            model = f"--models={family.format(layers)}"
            yield [model, *mode, forms, "--repeats=2", "--seconds=1"]


def dsnet() -> Iterator[Command]:
    """Return the commands for the cost of a DSNet's shortcuts."""
    for dsnet in ("dsnet50_cifar_w25", "ds2net50_cifar_w25"):
        yield ["--models=resnet50_cifar_w25", f"--against={dsnet}", "--forms=default"]
    for dsnet in ("dsnet50", "ds2net50"):
        yield ["--models=resnet50", f"--against={dsnet}", "--forms=default", "--batch_size=8"]


def sweeps() -> Iterator[Command]:
    """Return the commands for networks without some links, in one program."""
    for model in ("densenet40_k12", "sparsenet_bc100_k12", "dsnet50_cifar_w25"):
        yield [f"--models={model}", "--modes=ablation"]


def inputs() -> Iterator[Command]:
    """Return the commands for input pipelines without a network; models set the size of images."""
    yield ["--models=densenet40_k12", "--modes=input,input_streamed", "--batch_size=256"]
    yield ["--models=resnet50", "--modes=input", "--batch_size=64"]


def beside_tf_data() -> Iterator[Command]:
    """Return the command for the streamed input beside tf.data; `taskset -c 0` gives one core."""
    long = ["--repeats=5", "--seconds=40"]  # the first batches of a pipeline take longer
    yield ["--models=resnet50", "--modes=input", "--against=tf.data", *long]


def gpu_families() -> Iterator[Command]:
    """Return the commands for all families on a GPU, beside PyTorch.

    `-- --profile=runs/profile` adds traces.
    """
    common = [
        "--modes=train,eval",
        "--forms=default,remat=norm",
        "--dtype=bfloat16",
        "--against=torch",
        "--against_forms=eager+channels_last,compile+channels_last",
    ]
    for model in CIFAR:
        yield [f"--models={model}", "--batch_size=256", *common]
    for model in IMAGENET:
        yield [f"--models={model}", "--batch_size=128", *common]


TABLES: dict[str, Callable[[], Iterator[Command]]] = {
    function.__name__: function
    for function in (
        cpu_families,
        cpu_torch,
        memory,
        depth,
        dsnet,
        sweeps,
        inputs,
        beside_tf_data,
        gpu_families,
    )
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(prog="python results/speed.py")
    parser.add_argument(
        "--tables", required=True, help=f"tables, separated by commas: {', '.join(TABLES)}"
    )
    parser.add_argument("--models", help="measure only these networks, separated by commas")
    parser.add_argument("--missing", action="store_true", help="run only commands without rows")
    parser.add_argument("--output", default=str(Path(__file__).with_suffix(".csv")))
    parser.add_argument("more", nargs="*", help="flags for all commands, after --")
    given = parser.parse_args(arguments)
    given.tables = given.tables.split(",")
    for table in given.tables:
        if table not in TABLES:
            raise unknown("table", table, TABLES)
    return given


def command_line(command: Command) -> str:
    """Return a command as one would type it."""
    return shlex.join(["aggnets", "benchmark", *command])


def measure(command: Command, table: str) -> list[dict[str, str]] | None:
    """Return the lines that a command makes; None if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        program = [sys.executable, "-m", "aggnets_jax", "benchmark", *command, f"--json={file}"]
        if subprocess.run(program).returncode:
            return None
        made = json.loads(file.read_text())
    origin = {name: made[name] for name in ORIGIN} | {"command": command_line(command)}
    return [record(Row(**row), origin, table) for row in made["rows"]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure tables, and write each row as soon as it is measured."""
    given = parse(arguments)
    models = given.models and [f"--models={model}" for model in given.models.split(",")]
    there = {command[0] for table in given.tables for command in TABLES[table]()}
    for model in models or ():
        if model not in there:
            raise unknown("--models in these tables", model, there)
    failed = 0
    for table in given.tables:
        for command in TABLES[table]():
            command = [*command, *given.more]
            made = {(line["table"], line["command"]) for line in read_records(given.output)}
            if given.missing and (table, command_line(command)) in made:
                continue
            if models and command[0] not in models:
                continue
            print(f"{table}: {command_line(command)}", flush=True)
            lines = measure(command, table)
            failed += lines is None
            if lines:
                replace_records(given.output, lines)
    if failed:
        raise UserError(f"commands that failed: {failed}; the others' rows are in {given.output}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
