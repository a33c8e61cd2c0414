"""Subcommands that compare runs, describe and measure networks, and prepare data."""

import argparse
import shlex
import sys
from pathlib import Path

from aggnets_jax.arguments import check_whole_number
from aggnets_jax.benchmark import MODES
from aggnets_jax.cli import Parser
from aggnets_jax.commands.command import (
    COMMANDS,
    add_config,
    command,
    flag,
    help_text,
    load_config,
    switch,
)
from aggnets_jax.errors import UserError
from aggnets_jax.files import local_path, make_folder

_RUNS = flag("workdirs", "directory of a finished run", nargs="+", metavar="WORKDIR")


@command(
    "compare",
    _RUNS,
    flag(
        "--against",
        "directories of the runs of the reference; default the network of the first run",
        nargs="+",
        metavar="WORKDIR",
    ),
    flag(
        "--may_differ",
        "field of the config that may differ, besides those of the network; may be repeated",
        action="append",
        default=[],
        metavar="FIELD",
    ),
    switch("--transfer", "compare the results of aggnets analyse transfer"),
    flag("--output", "write a table and a page: results/NAME, without a suffix"),
)
def compare(flags: argparse.Namespace) -> None:
    """Compare two runs side by side, or networks over seeds with confidence intervals.

    Examples:
        aggnets compare runs/sparse runs/dense
        aggnets compare runs/sparse-0 runs/sparse-1 --against runs/dense-0 runs/dense-1
        aggnets compare runs/sparse-? --against runs/dense-? --transfer

    Runs that differ only in the seed are one network. The runs after --against are the reference,
    and each other network is compared with it. A seed fixes the order and the augmentation of the
    data. Runs with the same seed are therefore a pair, and the table is about the differences of
    pairs. Without --against, if each network has one run, the runs are shown side by side.
    """
    from aggnets_jax.reports import compare, results, side_by_side, transfer
    from aggnets_jax.tables import write_csv

    output = flags.output and results.output_path(flags.output)
    networks = compare.networks(flags.workdirs, flags.against)
    single = all(len(runs) == 1 for runs in networks)
    if flags.against is None and single and len(networks) > 1:
        if flags.may_differ:
            raise UserError("--may_differ is for several seeds of each network, or with --against")
        if flags.transfer:
            records = transfer.show(networks)
            if output:
                make_folder(output.parent)
                write_csv(output.with_name(f"{output.name}.csv"), records)
                print(f"{output}.csv")
            return
        side_by_side.show(networks)
        if output:
            page = side_by_side.page(networks, output)
            results.write_tables(output, side_by_side.rows(networks), page)
            side_by_side.draw(networks, output.with_name(f"{output.name}.png"))
            print(f"{output}.csv, {output}.md, {output}.png")
        return
    comparison = compare.compare(
        flags.workdirs, flags.against, flags.may_differ, transfer=flags.transfer
    )
    compare.show(comparison)
    if output:
        results.write_tables(output, compare.records(comparison), compare.page(comparison, output))
        print(f"{output}.csv, {output}.md")


@command(
    "results",
    _RUNS,
    flag("--output", "files to write: results/NAME, without a suffix", required=True),
)
def results(flags: argparse.Namespace) -> None:
    """Make tables of finished runs: a row per run (NAME.csv), a row per config (NAME.md).

    Example:
        aggnets results runs/sparse-0 runs/sparse-1 --output=results/sparse
    """
    from aggnets_jax.reports import results

    output = results.output_path(flags.output)
    rows = [result for workdir in flags.workdirs for result in results.read_run(workdir)]
    grouped = results.groups(rows)
    results.write_tables(output, [row.record for row in rows], results.page(grouped, output))
    print(f"{output}.csv, {output}.md: {len(rows)} results of {len(grouped)} configs")


@command(
    "experiments",
    flag("--results", "folder with tables of runs (CSV files); default results"),
    flag("--family", "folder of configs/ to list; default all"),
    flag(
        "--format",
        "default table; sizes: count the sizes of the networks again",
        choices=("table", "csv", "markdown", "sizes"),
        default="table",
    ),
)
def experiments(flags: argparse.Namespace) -> None:
    """List the papers' experiments with the printed errors, our errors, and their cost.

    Example:
        aggnets experiments --family=sparsenet --format=markdown
    """
    if flags.results is not None and not Path(flags.results).is_dir():
        raise UserError(f"results {flags.results} is no folder")
    from aggnets_jax.reports import experiments

    experiments.show(flags.family, Path(flags.results or "results"), flags.format)


@command(
    "models",
    flag("names", "name of a network, or shell patterns", nargs="*", default=["*"], metavar="GLOB"),
    switch("--page", "print docs/models.md, the page of all networks; takes minutes"),
)
def models(flags: argparse.Namespace) -> None:
    """List networks with their sizes, or describe one with its arguments.

    Examples:
        aggnets models 'sparsenet_bc*' 'densenet_bc*'
        aggnets models sparsenet_bc100_k24
        aggnets models --page

    Patterns list networks, a name describes one.
    """
    from aggnets_jax.models import page
    from aggnets_jax.models.registry import find_family, list_models, model_info

    if flags.page:
        if flags.names != ["*"]:
            raise UserError(f"--page has all networks; leave {flags.names[0]!r} out")
        sys.stdout.write(page.page({name: page.row(name) for name in list_models()}))
    elif len(flags.names) == 1 and not set(flags.names[0]) & set("*?["):
        page.show(flags.names[0])
    elif not (names := list_models(*flags.names)):
        given = ", ".join(map(repr, flags.names))
        raise UserError(f"no network is named like {given}; aggnets models lists all")
    else:
        print(f"{'network':<34}{'parameters':>14}{'multiply-adds':>18}")
        kept = page.rows()
        for name in names:  # each is printed as soon as it is counted
            if name in kept:
                classes = find_family(name).num_classes
                params, macs = kept[name].params[classes], kept[name].macs_with(classes)
            else:
                info = model_info(name)
                params, macs = info.params, info.macs
            print(f"{name:<34}{params:>14,}{macs:>18,}", flush=True)


@command(
    "dry-run",
    add_config,
    flag("--processes", "number of simulated processes; default 1", type=int),
    flag("--devices", "simulated devices of each process; default 8", type=int),
    flag("--target", "chips to compile for: v5e:4x4, v5p:2x2x2, v6e:8x8, h100:8"),
    switch("--fit", "if the target has too little memory, try changes of the config"),
    flag("--json", "file to write the numbers to"),
)
def dry_run(flags: argparse.Namespace) -> None:
    """Compile a config's steps for devices that you don't have, and report their cost.

    Examples:
        aggnets dry-run --config=configs/hcgnet/table3.py:hcgnet_b --target=v5e:4x4 --fit
        aggnets dry-run --config=configs/hcgnet/table3.py:hcgnet_b --processes=4 --devices=8

    With --target, the compiler of the TPU or GPU compiles the steps of training and evaluation, on
    any Linux machine (pip install -e '.[tpu]' or '.[cuda13]'). This takes minutes. config.slices is
    the number of such slices, or nodes.

    Without --target, XLA compiles the training step for devices that the CPU simulates, with the
    convolutions of accelerators. Collectives and FLOPs are as on a pod. Memory differs somewhat,
    because the CPU's compiler fuses and lays out arrays in another way.
    """
    if flags.target and (flags.processes, flags.devices) != (None, None):
        raise UserError("--target names the devices; leave --processes and --devices out")
    if flags.fit and not flags.target:
        raise UserError("--fit needs the memory of a --target, such as v5e:4x4")
    processes = 1 if flags.processes is None else flags.processes
    devices = 8 if flags.devices is None else flags.devices
    check_whole_number("processes", processes, 1)
    check_whole_number("devices", devices, 1)
    file = flags.json and local_path(flags.json)
    if file and (file.is_dir() or not file.parent.is_dir()):
        raise UserError(f"{flags.json} can't be written: it is a folder, or its folder is missing")
    from aggnets_jax.benchmark.dry_run import report

    report(load_config(flags, {}), processes, devices, file, flags.target, flags.fit)


@command(
    "benchmark",
    flag("--models", "names of networks, separated by commas", required=True),
    flag("--modes", f"{', '.join(MODES)}; default train", default="train"),
    flag(
        "--forms",
        "ways to compute the networks, in turn: default, plain, native, scan, remat=layer,"
        " remat=norm, any argument, or several joined by +; ratios are to the first",
        default="default",
    ),
    flag("--model_args", "arguments of all forms: NAME=VALUE,...", action="append", default=[]),
    flag("--num_classes", "number of classes; default as in the family's paper", type=int),
    flag("--batch_size", "images of a step over all devices; default 64", type=int, default=64),
    flag("--image_size", "side of the images; default as in the family's paper", type=int),
    flag("--dtype", "float32 (default) or bfloat16", default="float32"),
    flag("--repeats", "number of turns of each form; default 7", type=int, default=7),
    flag("--seconds", "time for all turns of a form; default 10", type=float, default=10),
    flag("--steps_per_dispatch", "steps in one program; default as in training", type=int),
    flag(
        "--against",
        "compare with torch (the same networks in PyTorch), tf.data (other input pipelines), or"
        " another network",
    ),
    flag("--against_forms", "forms of torch: eager, compile, channels_last, or joined by +"),
    flag("--json", "file to write all columns to"),
    flag("--csv", "file to write all columns to"),
    flag("--profile", "folder to write profiler traces of a few steps to"),
)
def benchmark(flags: argparse.Namespace) -> None:
    """Measure speed, memory and compilation of networks, also beside PyTorch.

    Example:
        aggnets benchmark --models=densenet_bc100_k12 --modes=train --forms=plain,default
    """
    from aggnets_jax.benchmark.run import run

    run(flags)


@command(
    "prepare-data",
    flag(
        "--name",
        "name of a TFDS data set: cifar10, imagenet2012, ...; or aggnets_digit_scenes",
        required=True,
    ),
    flag("--data_dir", "folder for the prepared data; default TFDS_DATA_DIR, or TFDS's own"),
    flag("--manual_dir", "folder with the original files, if TFDS can't download them"),
    flag(
        "--file_format",
        "tfrecord, the default, or array_record, which can be read in any order",
        choices=("tfrecord", "array_record"),
    ),
)
def prepare_data(flags: argparse.Namespace) -> None:
    """Prepare a TFDS data set for training: download it, or take its files from a folder.

    Data sets for detection are written in COCO's format: voc/2007, voc/2012, and
    aggnets_digit_scenes, scenes composed of handwritten digits.

    Examples:
        aggnets prepare-data --name=cifar10
        aggnets prepare-data --name=imagenet2012 --data_dir=DIR --manual_dir=DIR
    """
    from aggnets_jax.data.catalog import SCENES
    from aggnets_jax.data.objects.scenes import prepare_scenes
    from aggnets_jax.data.prepare import prepare, report

    if flags.name == SCENES:
        for name in ("manual_dir", "file_format"):
            if getattr(flags, name) is not None:
                raise UserError(f"--{name} is for TFDS's data sets, not for {SCENES}")
        print(f"{SCENES} is prepared in {prepare_scenes(flags.data_dir)}")
        where = f" --data_dir={shlex.quote(flags.data_dir)}" if flags.data_dir else ""
        print(f"use it with --config.task=detection --config.data.name={SCENES}{where}")
        return
    builder = prepare(flags.name, flags.data_dir, flags.manual_dir, flags.file_format)
    report(builder, flags.name, flags.data_dir)


def _add_shell(parser: Parser) -> None:
    import shtab

    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)


@command("completion", _add_shell)
def completion(flags: argparse.Namespace) -> None:
    """Print a script that completes `aggnets` in a shell.

    Example:
        eval "$(aggnets completion bash)"
    """
    import shtab

    whole = Parser(prog="aggnets")
    subcommands = whole.add_subparsers()
    for name in COMMANDS:
        parser = subcommands.add_parser(name, help=help_text(name).partition("\n")[0])
        for add in COMMANDS[name].flags:
            add(parser)
    print(shtab.complete(whole, flags.shell))
