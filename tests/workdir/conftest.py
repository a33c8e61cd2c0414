"""Workdirs with checkpoints."""

import shutil

import pytest

from tests.workdir.states import save


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A workdir with checkpoints of steps 1 and 2."""
    workdir = tmp_path_factory.mktemp("two")
    save(workdir, 1, 2)
    return workdir


@pytest.fixture
def copy(two, tmp_path):
    return shutil.copytree(two, tmp_path / "copy")
