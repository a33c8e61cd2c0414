"""What is checked of a config before anything of it is run."""

import ml_collections

from aggnets_jax.arguments import choose
from aggnets_jax.errors import UserError, unknown


def check(config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` for values that fit no run, whatever the data and the devices."""
    # Imports JAX, which those that print their flags or read tables can do without.
    from aggnets_jax.connectivity.execution import REMAT

    for name in (
        "log_every_steps",
        "eval_every_steps",
        "checkpoint_every_steps",
        "keep_checkpoints",
        "num_seeds",
        "batch_size",
        "eval_batch_size",
        "accumulation_steps",
    ):
        if not 1 <= config[name] < 2**31:
            raise UserError(f"config.{name} must be at least 1 and below 2**31, got {config[name]}")
    if config.skip_nonfinite_steps >= config.log_every_steps:
        raise UserError("config.skip_nonfinite_steps must be less than config.log_every_steps")
    _check_length(config)
    for name in ("lr", "weight_decay", "grad_clip_norm", "strength"):
        if not 0 <= config[name] < float("inf"):
            raise UserError(f"config.{name} must be at least 0 and finite, got {config[name]}")
    for name in ("momentum", "label_smoothing", "ema_decay"):
        if not 0 <= config[name] < 1:
            raise UserError(f"config.{name} must be in [0, 1), got {config[name]}")
    for name in ("lr_batch_size", "steps_per_dispatch", "skip_nonfinite_steps"):
        if not 0 <= config[name] < 2**31:
            raise UserError(f"config.{name} must be at least 0 and below 2**31, got {config[name]}")
    if config.num_seeds > 10_000:  # they are listed, in memory and in results
        raise UserError(f"config.num_seeds must be at most 10000, got {config.num_seeds}")
    last = 2**31 - config.num_seeds
    if not 0 <= config.seed <= last:
        raise UserError(f"config.seed must be between 0 and {last}, got {config.seed}")
    if config.batch_size % config.accumulation_steps:
        raise UserError(
            f"config.batch_size {config.batch_size} is not divisible by"
            f" config.accumulation_steps {config.accumulation_steps}"
        )
    for name in ("mean", "std"):
        if not all(type(v) in (int, float) and abs(v) < 2.0**127 for v in config.data[name]):
            raise UserError(f"config.data.{name} must be finite numbers, got {config.data[name]}")
    for name, allowed in (
        ("task", ("classification", "link_weights")),
        ("dtype", ("float32", "bfloat16")),
        ("weight_decay_on", ("all", "kernels")),
        ("batch_norm", ("global", "device")),
        ("sharding", ("replicated", "fsdp")),
        ("label_smoothing_over", ("all", "others")),
    ):
        if config[name] not in allowed:
            raise unknown(f"config.{name}", config[name], allowed)
    if config.data.damaged not in ("stop", "skip"):
        raise unknown("config.data.damaged", config.data.damaged, ("stop", "skip"))
    for name, whose in (("num_classes", "data"), ("input_shape", "data"), ("dtype", "config")):
        if name in config.model.args:
            raise UserError(f"config.model.args.{name} can't be set: it is that of the {whose}")
    choose("config.model.remat", REMAT, config.model.remat)


def _check_length(config: ml_collections.ConfigDict) -> None:
    steps, epochs = config.total_steps, config.total_epochs
    if (steps is None) == (epochs is None):
        raise UserError("set one of config.total_steps and config.total_epochs")
    if steps is not None and not 1 <= steps < 2**31:
        raise UserError(f"config.total_steps must be at least 1 and below 2**31, got {steps}")
    if epochs is not None and not 0 < epochs < 2**31:
        raise UserError(f"config.total_epochs must be above 0 and below 2**31, got {epochs}")
    first_and_last = config.profile_steps
    if first_and_last and not (
        len(first_and_last) == 2
        and all(type(step) is int for step in first_and_last)
        and 0 < first_and_last[0] <= first_and_last[1] <= (steps or 2**31)
    ):
        raise UserError(
            f"config.profile_steps must be (first, last), from step 1 to the last,"
            f" got {first_and_last}"
        )
