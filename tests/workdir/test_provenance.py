"""The provenance in the summary of a run."""

import re
import subprocess

import jax
import pytest

from aggnets_jax.workdir import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout of a package of one file, in which the module that asks lies."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))

    def git(*arguments):
        who = ["-c", "user.name=me", "-c", "user.email=me@here"]
        run = subprocess.run(
            ["git", "-C", tmp_path, *who, *arguments], capture_output=True, text=True, check=True
        )
        return run.stdout.strip()

    git("init", "--quiet")
    (tmp_path / "README").write_text("a project\n")
    git("add", "README")
    git("commit", "--quiet", "--message=without the package")
    return package, git


def test_commit_is_the_revision_of_the_checkout(checkout):
    package, git = checkout
    git("add", "package")
    git("commit", "--quiet", "--message=with the package")
    git("tag", "v1")
    revision = git("rev-parse", "HEAD")
    assert provenance.commit() == revision
    (package / "new.py").write_text("")
    assert provenance.commit() == revision
    (package / "__init__.py").write_text("changed = True\n")
    assert provenance.commit() == f"{revision}+"


def test_no_commit_of_a_checkout_that_the_package_is_no_part_of(checkout):
    assert provenance.commit() is None


def test_no_commit_without_git(checkout, monkeypatch):
    _, git = checkout
    git("add", "package")
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() is None


def test_hardware_counts_devices_and_cores():
    devices, host = provenance.hardware().split("; ")
    assert devices == f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    assert re.fullmatch(r"\S.*, [1-9]\d* cores", host)
