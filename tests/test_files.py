"""Files that are whole or absent, whoever else writes them."""

import errno
import os

import pytest

from aggnets_jax.errors import UserError
from aggnets_jax.files import explained, whole_file, write_bytes, write_text


def test_two_writers_of_one_file_keep_apart(tmp_path):
    file = tmp_path / "evaluation.json"
    with whole_file(file) as partial:
        partial.write_bytes(b"one")
        write_bytes(file, b"another")
        assert file.read_bytes() == b"another"
    assert file.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_can_not_be_written_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=f"{tmp_path}/folder"):
        write_bytes(tmp_path / "folder", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(("number", "kind"), [(errno.ESTALE, OSError), (errno.EACCES, UserError)])
def test_a_disk_that_may_be_well_again_is_no_mistake_of_the_user(number, kind):
    """Launchers start again after an `OSError`."""
    with (
        pytest.raises(kind, match="the disk can't be used") as told,
        explained("the disk can't be used"),
    ):
        raise OSError(number, "gone")
    assert type(told.value) is kind


def test_a_link_is_followed_and_a_pipe_is_refused(tmp_path):
    target, link, pipe = (tmp_path / name for name in ("target", "link", "pipe"))
    target.write_text("before")
    link.symlink_to(target)
    write_text(link, "now")
    assert link.is_symlink() and target.read_text() == "now"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=f"{pipe} is a device or a pipe: give a file"):
        write_text(pipe, "now")
    assert pipe.is_fifo() and sorted(tmp_path.iterdir()) == [link, pipe, target]
