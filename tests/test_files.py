"""Files that are whole or absent, whoever else writes them."""

import errno

import pytest

from aggnets_jax.errors import UserError
from aggnets_jax.files import explained, whole_file, write_bytes


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
