"""Subcommands that train networks, and subcommands that read their checkpoints."""

import argparse
import functools
import operator

from aggnets_jax.ablation import PENALTIES
from aggnets_jax.commands.command import (
    CHECKPOINT,
    DATA_DIR,
    SEED,
    WORKDIR,
    add_config,
    add_processes,
    check_reads_workdir,
    command,
    flag,
    load_config,
    switch,
    together,
)
from aggnets_jax.errors import UserError
from aggnets_jax.files import any_path
from aggnets_jax.runtime.streams import losing_output


def _check_trains(flags: argparse.Namespace) -> None:
    from aggnets_jax.config import to_json
    from aggnets_jax.workdir.folder import check_new_or_same

    changes = flags.allow_config_change
    check_new_or_same(flags.workdir, to_json(load_config(flags)), allow_config_change=changes)


def _check_learns(flags: argparse.Namespace) -> None:
    from aggnets_jax.workdir.folder import check_new_or_same

    check_new_or_same(flags.workdir)


def _check_evaluates(flags: argparse.Namespace) -> None:
    from aggnets_jax.config import default_config, override_evaluation

    override_evaluation(default_config(), flags.overrides)
    if not flags.watch:  # the run may have yet to begin
        check_reads_workdir(flags)


@command(
    "train",
    *(add_config, WORKDIR),
    switch("--allow_config_change", "resume a run although the config has changed"),
    *(DATA_DIR, add_processes),
    compiles=True,
    check=_check_trains,
)
def train(flags: argparse.Namespace) -> None:
    """Train a network, evaluate it on the way, and save checkpoints.

    Examples:
        aggnets train --config=configs/digits.py --workdir=runs/digits
        aggnets train --config=configs/digits.py --workdir=runs/high_lr --config.lr=0.2

    To resume a run that was stopped, give the same command again.
    """
    from aggnets_jax.train import train_and_evaluate

    config = load_config(flags)
    with together(flags), losing_output():
        train_and_evaluate(config, flags.workdir, allow_config_change=flags.allow_config_change)


@command(
    "eval",
    *(WORKDIR, CHECKPOINT),
    switch("--watch", "evaluate the newest checkpoint and each later one, until the run ends"),
    flag("--data", "another data set, with all or some of the classes", metavar="NAME"),
    flag("--split", "split of --data; default test, validation or val"),
    operator.methodcaller("set_defaults", overrides=[]),
    *(DATA_DIR, add_processes),
    compiles=True,
    check=_check_evaluates,
)
def evaluate(flags: argparse.Namespace) -> None:
    """Evaluate a checkpoint on the whole evaluation split.

    Examples:
        aggnets eval --workdir=runs/digits --checkpoint=best
        aggnets eval --workdir=runs/digits --config.eval_batch_size=64
        aggnets eval --workdir=runs/imagenet --data=imagenet_a --data_dir=DIR

    The config of the run is used. Three of its fields may be set, because they change no result:
    data.data_dir, data.resident and eval_batch_size.
    """
    if flags.watch and flags.checkpoint != "latest":
        raise UserError("--watch evaluates the newest checkpoints; leave --checkpoint out")
    if flags.watch and flags.data is not None:
        raise UserError("--watch evaluates on the data set of the run; leave --data out")
    if flags.split is not None and flags.data is None:
        raise UserError("--split is for --data; config.data.eval_split is the run's own")
    from aggnets_jax.evaluate import evaluate_checkpoint, watch

    with together(flags):
        if flags.watch:
            watch(flags.workdir, flags.data_dir, overrides=flags.overrides)
        else:
            where = {"data_dir": flags.data_dir, "data_name": flags.data, "split": flags.split}
            evaluate_checkpoint(flags.workdir, flags.checkpoint, **where, overrides=flags.overrides)


@command(
    "predict",
    *(WORKDIR, CHECKPOINT, SEED),
    flag("--images", "image file or folder; may be repeated", action="append", required=True),
    flag("--top", "number of classes for each image; default 5", type=int),
    flag("--score", "lowest score of the detected objects to report; default 0.3", type=float),
    flag("--draw", "folder for pictures of the detected objects"),
    flag("--format", "table, csv or json; default table", default="table"),
    flag("--output", "file to write instead of printing"),
    add_processes,
    compiles=True,
)
def predict(flags: argparse.Namespace) -> None:
    """Classify image files, or detect objects in them.

    Examples:
        aggnets predict --workdir=runs/digits --images=photos --images=six.png --format=csv
        aggnets predict --workdir=runs/digit_scenes --images=photos --draw=drawn --score=0.5
    """
    from aggnets_jax.predict import check_report, draw_objects, predict, report_predictions
    from aggnets_jax.runtime.distributed import on_first_process

    with together(flags):
        check_report(flags.format, flags.output)
        predictions = predict(
            flags.workdir,
            flags.images,
            which=flags.checkpoint,
            seed=flags.seed,
            top=flags.top,
            least_score=flags.score,
        )
        if flags.draw is not None:
            on_first_process(lambda: draw_objects(predictions, flags.draw))
        on_first_process(lambda: report_predictions(predictions, flags.format, flags.output))


@command(
    "report",
    flag("workdirs", "directories of runs; several are drawn into one figure", nargs="*"),
    flag("--workdir", "directory of the run", metavar="DIR"),
    switch("--html", "also make WORKDIR/report.html"),
    DATA_DIR,
    flag("--output", "picture of several runs; default curves.png", metavar="FILE"),
    compiles=True,
)
def report(flags: argparse.Namespace) -> None:
    """Report runs: a table and curves; for one run also its connection pattern and a page.

    Examples:
        aggnets report --workdir=runs/digits --html
        aggnets report runs/sparse-0 runs/sparse-1 runs/dense-0 runs/dense-1 --output=curves.svg

    Runs that differ only in the seed are drawn as one line, with a band over the seeds.
    """
    workdirs = [*([] if flags.workdir is None else [flags.workdir]), *flags.workdirs]
    if not workdirs:
        raise UserError("aggnets report needs the directory of a run, --workdir=DIR, or of several")
    if flags.data_dir is not None and not flags.html:
        raise UserError("--data_dir is for --html")
    if len(workdirs) == 1:
        if flags.output is not None:
            raise UserError("--output is for several runs; one is reported in its own directory")
        from aggnets_jax.reports.run import report

        report(workdirs[0], html=flags.html, data_dir=flags.data_dir)
        return
    if flags.html:
        raise UserError(f"--html is for one run, not for {len(workdirs)}")
    from aggnets_jax.reports import compare, side_by_side

    side_by_side.report(compare.networks(workdirs), any_path(flags.output or "curves.png"))


@command(
    "ablate",
    *(WORKDIR, CHECKPOINT, SEED, DATA_DIR),
    flag("--sweep", "links,sources,layers,distance,random or some of them; default all"),
    flag(
        "--cut",
        "links to cut together: STAGE:LAYER-SOURCE,... or a .csv file; may be repeated",
        action="append",
        default=[],
    ),
    flag("--draws", "number of random orders of the links; default 10", type=int, default=10),
    flag("--draw_seed", "seed of the random orders; default 0", type=int, default=0),
    flag("--at_once", "sets of links that are evaluated at once; default by memory", type=int),
    flag(
        "--reestimate_batch_statistics",
        "estimate batch statistics after each cut, from N training batches; default 0: keep them",
        type=int,
        default=0,
    ),
    flag("--output", "folder of the tables; default WORKDIR/ablation", metavar="FOLDER"),
    flag("--export", "new folder for config and weights without the links", metavar="FOLDER"),
    flag("--export_least", "export without the N links whose cut costs least", type=int),
    compiles=True,
)
def ablate(flags: argparse.Namespace) -> None:
    """Measure how much a trained network loses without links; export it without some.

    Examples:
        aggnets ablate --workdir=runs/digits --sweep=links,layers
        aggnets ablate --workdir=runs/digits --cut=stage1:3-0,stage1:4-1 --export=runs/pruned
    """
    from aggnets_jax.ablation.ablate import Options, ablate

    options = Options(**{name: getattr(flags, name) for name in Options._fields})
    workdir, which, seed = flags.workdir, flags.checkpoint, flags.seed
    ablate(workdir, options, which=which, seed=seed, data_dir=flags.data_dir)


@command(
    "learn",
    add_config,
    flag("--workdir", "directory of the run, new or to resume", metavar="DIR", required=True),
    flag(
        "--from",
        "workdir of a run whose weights to start from; sets config.init_from",
        metavar="DIR",
        dest="init_from",
    ),
    flag("--penalty", f"on link weights: {' or '.join(PENALTIES)}", required=True),
    flag("--strength", "strength of the penalty: loss per weight", required=True, type=float),
    flag("--keep", "links to keep, in all or per stage: 17,17,17; default with l1: weight > 0"),
    compiles=True,
    check=_check_learns,
)
def learn(flags: argparse.Namespace) -> None:
    """Learn which links to keep: train a weight for each link, and cut the weakest links.

    Examples:
        aggnets learn --config=CONFIG --workdir=NEW --penalty=topk --strength=0.02 --keep=51
        aggnets learn --config=CONFIG --workdir=NEW --penalty=l1 --strength=0.1 --from=RUN

    The features of each link are multiplied by its weight in [0, 1]. The penalty reduces the
    weights of all links (l1), or of all but the K strongest (topk). NEW is the workdir of the
    training; after a stop, the same command resumes it. At the end NEW/pattern.json has the
    weights, NEW/config.py trains the remaining pattern from scratch, NEW/cut.csv lists the removed
    links, and NEW/pattern.png draws the remaining ones.

    The proximal step on factors of parts of a network is from Huang and Wang, "Data-Driven Sparse
    Structure Selection for Deep Neural Networks", ECCV 2018, arXiv 1707.01213. The choice of links
    by gradients is from Ahmed and Torresani, "MaskConnect: Connectivity Learning by Gradient
    Descent", ECCV 2018, arXiv 1807.11473.
    """
    from aggnets_jax.ablation.pattern import learn
    from aggnets_jax.ablation.pruning import Penalty

    config, keep = load_config(flags, {"init_from": flags.init_from}), None
    if flags.keep is not None:
        try:
            keep = tuple(int(number) for number in flags.keep.split(","))
        except ValueError as error:
            raise UserError(
                f"--keep={flags.keep} must be a number, or one for each stage: 17,17"
            ) from error
    with losing_output():
        learn(config, flags.workdir, Penalty(flags.penalty, flags.strength, keep))


def _check_converts(flags: argparse.Namespace) -> None:
    from aggnets_jax.workdir.folder import check_new_or_same

    if (flags.from_torch is None) == (flags.to_torch is None):
        raise UserError("aggnets convert needs one of --from_torch=FILE and --to_torch=FILE")
    refused = dict.fromkeys(("data_dir", "entry", "class_names"), "from_torch")
    if flags.from_torch:
        refused = dict.fromkeys(("checkpoint", "seed", "dialect"), "to_torch")
    for name, direction in refused.items():
        if getattr(flags, name) not in (None, "latest"):
            raise UserError(f"--{name} is for --{direction}")
    if flags.from_torch and not flags.config:
        if not any(text.startswith("model.name=") for text in flags.overrides):
            raise UserError(
                "--config is missing: a config file such as configs/digits.py, or"
                " --config.model.name=NETWORK"
            )
        from aggnets_jax.config import configs_folder

        flags.config = [str(configs_folder() / "default.py")]
    if flags.to_torch and (flags.config or flags.overrides):
        raise UserError("--to_torch takes the config of the workdir, not --config")
    if flags.from_torch:
        check_new_or_same(flags.workdir)
    else:
        check_reads_workdir(flags)


@command(
    "convert",
    *(WORKDIR, CHECKPOINT, SEED),
    flag("--to_torch", "write the weights of the workdir to this file", metavar="FILE"),
    flag("--dialect", "names that --to_torch writes, such as torchvision or timm"),
    flag("--from_torch", "make the workdir from FILE, or hf-hub:USER/NAME", metavar="FILE"),
    flag("--entry", "entry of FILE with the weights, or a prefix of names: state_dict_ema"),
    flag("--class_names", "file with a class in each line, or JSON; default from FILE or ImageNet"),
    flag("--epsilon", "epsilon of batch normalisation in FILE; tf_ networks: 1e-3", type=float),
    *(functools.partial(add_config, required=False), DATA_DIR),
    compiles=True,
    check=_check_converts,
)
def convert(flags: argparse.Namespace) -> None:
    """Move weights from PyTorch into a new workdir, or from a workdir to PyTorch.

    Examples:
        aggnets convert --workdir=runs/digits --to_torch=digits.safetensors
        aggnets convert --config=CONFIG --workdir=NEW --from_torch=FILE
        aggnets convert --workdir=NEW --config.model.name=resnet50 --from_torch=resnet50.pth

    No data set is needed: the file has the number of classes, and may have their names.
    """
    from aggnets_jax.convert.runs import export_weights, import_weights

    if flags.from_torch:
        options = {name: getattr(flags, name) for name in ("entry", "class_names", "epsilon")}
        import_weights(load_config(flags), flags.workdir, flags.from_torch, **options)
    else:
        options = {name: getattr(flags, name) for name in ("seed", "dialect", "epsilon")}
        export_weights(flags.workdir, flags.to_torch, which=flags.checkpoint, **options)
