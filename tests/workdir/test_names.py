"""Odd names of workdirs: checkpoints are found again, or the name is refused before a run."""

import shutil
from pathlib import Path

import pytest

from aggnets_jax.errors import Unsaved, UserError
from aggnets_jax.files import write_json
from aggnets_jax.workdir.folder import open_workdir
from aggnets_jax.workdir.names import check_name
from tests.workdir.test_checkpoints import CONFIG, assert_is, restore, save

GOOD = [
    *("a b", " a ", "a.b", "..a", "...", ".a", "-a", "--config=a", "~", "~a", "$HOME", "%20", "%s"),
    *("a'b", 'a"b', "`a`", "a;b", "a&b", "a|b", "a,b", "a=b", "a#b", "a@b", "a!b", "a^b", "(a)"),
    *(
        "{a}",
        "<a>",
        "a]b",
        "a:b",
        "file:",
        "gs",
        "3.orbax-checkpoint-tmp",
        "a.tmp",
        "con",
        "x" * 200,
    ),
    *("ünïcødé", "e\u0301", "日本語", "\U0001f600", "lr0.1, 50% #1 {a}"),
]
# Not written; those of the second line are not read either.
BAD = [
    *("run[1]", "[lab]/run", "a*", "a?", "["),
    *("a\\b", "a**b", "gs:", "s3:/run", "a.__lock", "a\udcffb"),
]


@pytest.mark.parametrize("name", GOOD)
def test_checkpoints_are_found_again(name, tmp_path):
    with open_workdir(tmp_path / name, CONFIG) as workdir:
        save(workdir, 2)
    assert_is(restore(tmp_path / name), 2)


@pytest.mark.parametrize("name", BAD)
def test_names_are_refused_before_anything_is_written(name, tmp_path):
    with (
        pytest.raises(UserError, match=r"can't be used: checkpoints can't be kept in a path with"),
        open_workdir(tmp_path / name, CONFIG),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["run[1]", "a*", "a?", "["])
def test_a_run_that_was_moved_to_such_a_name_is_read(name, tmp_path):
    save(tmp_path / "before", 2)
    shutil.move(tmp_path / "before", tmp_path / name)
    assert_is(restore(tmp_path / name), 2)


@pytest.mark.parametrize("name", BAD[5:])
def test_names_that_cannot_be_read_are_no_damage(name, tmp_path):
    with pytest.raises(UserError, match="can't be kept in a path with"):
        restore(tmp_path / name)
    with pytest.raises(UserError, match="/gs at the root"):
        check_name(Path("/gs/run"), writes=False)


def test_links_and_forms_of_a_path(tmp_path):
    (tmp_path / "[lab]").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "[lab]")
    for path in ("link", "link/", "link/../link", "./link//", "new/../new"):
        (tmp_path / "new").mkdir(exist_ok=True)
        with open_workdir(f"{tmp_path}/{path}", CONFIG) as workdir:
            save(workdir, 2)
            write_json(workdir / "config.json", CONFIG)
        assert_is(restore(f"{tmp_path}/{path}"), 2)
    assert (tmp_path / "[lab]" / "checkpoints" / "2").is_dir()


def test_a_state_that_cannot_be_read_back_is_not_saved(tmp_path, capsys):
    """Orbax writes into such a folder without complaint, and leaves a checkpoint without arrays."""
    workdir = tmp_path / "run[1]"
    with pytest.raises(Unsaved, match=r"the state after step 2 could not be saved: .* is damaged"):
        save(workdir, 2)
    assert "warning: the state after step 2" in capsys.readouterr().err
