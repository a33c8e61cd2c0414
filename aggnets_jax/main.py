"""The command line: train a network, evaluate, predict, report, cut its links, move weights.

    python -m aggnets_jax.main --config=configs/digits.py --workdir=runs/digits
    python -m aggnets_jax.main --mode=eval --workdir=runs/digits [--watch]
    python -m aggnets_jax.main --mode=predict --workdir=runs/digits --images=FILE_OR_FOLDER
    python -m aggnets_jax.main --mode=report --workdir=runs/digits [--html]
    python -m aggnets_jax.main --mode=ablate --workdir=runs/digits
    python -m aggnets_jax.main --mode=convert --workdir=runs/digits --to_torch=digits.safetensors
    python -m aggnets_jax.main --mode=convert --config=CONFIG --workdir=NEW --from_torch=FILE

Exit codes: 0 done; 2 something in the input is wrong; 3 the run diverged; 74 something could not be
written; 75 it was stopped by a signal, saved its state, and goes on with the same command; 76
another of several processes was lost.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence

import ml_collections

from aggnets_jax import config as config_lib
from aggnets_jax import flags as flags_lib
from aggnets_jax.cli import exit_code


def run(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    flags, overrides = flags_lib.parse(arguments, __doc__)
    # From here on JAX is imported, and by each mode what it needs; --help ends before.
    from aggnets_jax.runtime.compilation import enable_program_cache

    enable_program_cache()
    config = None
    if flags.config is not None:
        if flags.data_dir is not None:
            overrides.append(f"data.data_dir={flags.data_dir}")
        config = config_lib.load(flags.config, overrides)
    if flags.mode not in flags_lib.DISTRIBUTED:
        do(flags, config)
    else:
        from aggnets_jax.runtime.distributed import join, report_lost_processes

        join(
            flags.coordinator_address,
            flags.num_processes,
            flags.process_id,
            expected_processes=flags.expected_processes,
            timeout=flags.join_timeout,
        )
        with report_lost_processes():
            do(flags, config)


def do(flags: argparse.Namespace, config: ml_collections.ConfigDict | None) -> None:
    """Does what the flags say, with the config that they name."""
    which = "latest" if flags.checkpoint is None else flags.checkpoint
    if flags.mode == "train":
        from aggnets_jax.train import train_and_evaluate

        train_and_evaluate(
            config, flags.workdir, allow_config_change=bool(flags.allow_config_change)
        )
    elif flags.watch:
        from aggnets_jax.evaluate import watch

        watch(flags.workdir, flags.data_dir)
    elif flags.mode == "eval":
        from aggnets_jax.evaluate import evaluate_checkpoint

        evaluate_checkpoint(flags.workdir, which, flags.data_dir)
    elif flags.mode == "predict":
        from aggnets_jax.predict import check_report, predict, report_predictions
        from aggnets_jax.runtime.distributed import on_first_process

        form = "table" if flags.format is None else flags.format
        top = 5 if flags.top is None else flags.top
        check_report(form, flags.output)
        predictions = predict(flags.workdir, flags.images, which=which, seed=flags.seed, top=top)
        on_first_process(lambda: report_predictions(predictions, form, flags.output))
    elif flags.mode == "report":
        from aggnets_jax.reports.run import report

        report(flags.workdir, html=bool(flags.html), data_dir=flags.data_dir)
    elif flags.mode == "ablate":
        from aggnets_jax.ablation.ablate import Options, ablate

        options = Options(**flags_lib.given(flags, Options._fields))
        ablate(flags.workdir, options, which=which, seed=flags.seed, data_dir=flags.data_dir)
    elif flags.from_torch is not None:
        from aggnets_jax.convert.runs import import_weights

        import_weights(config, flags.workdir, flags.from_torch)
    else:
        from aggnets_jax.convert.runs import export_weights

        export_weights(
            flags.workdir,
            flags.to_torch,
            which=which,
            seed=flags.seed,
            dialect=flags.dialect,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    try:
        code = exit_code(lambda: run(arguments))
    except Exception:  # a defect; but one of several processes must not wait for the others
        traceback.print_exc()
        code = 1
    if code:
        from aggnets_jax.runtime.distributed import leave

        leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
