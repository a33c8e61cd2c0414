"""Flags that several subcommands have."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from aggnets_jax.cli import Parser
from aggnets_jax.errors import UserError

if TYPE_CHECKING:
    import ml_collections


def add_config(parser: Parser, required: bool = True) -> None:
    """Add --config and the overrides of its fields; `load_config` reads them."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        action="append",
        required=required,
        help="config file; --config.FIELD=VALUE sets one of its fields",
    )
    parser.set_defaults(overrides=[])


def load_config(
    flags: argparse.Namespace, fields: Mapping[str, str | None] | None = None
) -> ml_collections.ConfigDict:
    """Return the config of the flags.

    Args:
      flags: with those of `add_config`.
      fields: fields that other flags set; None leaves what the config says.
    """
    from aggnets_jax import config as config_lib

    if len(flags.config) > 1:
        raise UserError(f"--config is given {len(flags.config)} times; a run has one")
    given = [f"{name}={value}" for name, value in (fields or {}).items() if value is not None]
    return config_lib.load(flags.config[0], [*flags.overrides, *given])


def add_checkpoint(parser: Parser) -> None:
    """Add --workdir of a run and --checkpoint."""
    parser.add_argument("--workdir", metavar="DIR", required=True, help="directory of the run")
    parser.add_argument(
        "--checkpoint", default="latest", help="latest, best or a step; default latest"
    )


def add_seed(parser: Parser) -> None:
    """Add --seed, of a run with several."""
    parser.add_argument("--seed", type=int, help="network to read, of a run with several seeds")


def add_data_dir(parser: Parser) -> None:
    """Add --data_dir."""
    parser.add_argument(
        "--data_dir", metavar="DIR", help="folder of the data set; default config.data.data_dir"
    )


def add_processes(parser: Parser) -> None:
    """Add the flags of several processes, which `together` reads."""
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--coordinator_address", metavar="HOST:PORT", help="of the first; default the cluster's"
    )
    group.add_argument("--num_processes", type=int, help="default as many as the cluster started")
    group.add_argument("--process_id", type=int, help="from 0; default the cluster's number")
    group.add_argument("--expected_processes", type=int, help="refuse another number of processes")
    group.add_argument("--join_timeout", type=int, help="seconds to wait for others; default 300")


@contextlib.contextmanager
def together(flags: argparse.Namespace) -> Iterator[None]:
    """Join the other processes of a run, and notice inside the context when one is lost."""
    from aggnets_jax.runtime.distributed import join, report_lost_processes

    join(
        flags.coordinator_address,
        flags.num_processes,
        flags.process_id,
        expected_processes=flags.expected_processes,
        timeout=flags.join_timeout,
    )
    with report_lost_processes():
        yield
