"""SLURM, where it is installed."""

import os

import pytest

from tests.launch import slurm as slurm_lib


@pytest.fixture(scope="session")
def slurm():
    if missing := slurm_lib.missing():
        pytest.skip(f"SLURM is not installed: no {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemon starts jobs only as root")
    with slurm_lib.running() as running:
        yield running
