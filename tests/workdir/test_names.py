"""Odd names of workdirs: checkpoints in them are found again."""

import json
import tempfile
from pathlib import Path

import orbax.checkpoint as ocp
import pytest

from aggnets_jax.errors import Unsaved
from aggnets_jax.files import write_json
from aggnets_jax.main import main
from aggnets_jax.workdir.folder import CONFIG as CONFIG_FILE
from aggnets_jax.workdir.folder import open_workdir
from aggnets_jax.workdir.names import is_plain
from tests import runs
from tests.marks import mostly_slow
from tests.workdir.test_checkpoints import CONFIG, assert_is, restore, save

PLAIN = [
    *("a b", " a ", "a.b", "..a", "...", ".a", "-a", "--config=a", "~", "~a", "$HOME", "%20", "%s"),
    *("a'b", 'a"b', "`a`", "a;b", "a&b", "a|b", "a,b", "a=b", "a#b", "a@b", "a!b", "a^b", "(a)"),
    *("{a}", "<a>", "a]b", "a:b", "file:", "gs", "a.tmp", "con", "x" * 200, "ünïcødé", "e\u0301"),
    *("日本語", "\U0001f600", "a\nb", "3.orbax-checkpoint-tmp"),
]
MISREAD = [
    *("run[1]", "[lab]/run", "lr0.1, 50% #1 {a}*", "a?", "[", "a\\b", "a**b", "gs:", "s3:/run"),
    *("a.__lock", "a\udcffb"),
]


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, which is left empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert not list(folder.iterdir())


@mostly_slow("name", MISREAD + PLAIN, quick=range(0, len(MISREAD + PLAIN), 3))
def test_checkpoints_are_found_again(name, tmp_path):
    assert is_plain(tmp_path / name) == (name in PLAIN)
    with open_workdir(tmp_path / name, CONFIG) as workdir:
        save(workdir, 2)
    assert (tmp_path / name / "checkpoints" / "2" / "model").is_dir()
    assert_is(restore(tmp_path / name), 2)


def test_a_folder_at_the_root_that_etils_takes_for_a_bucket():
    assert not is_plain(Path("/gs/run")) and is_plain(Path("/a/gs/run"))


def test_links_and_forms_of_a_path(tmp_path):
    (tmp_path / "[lab]").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "[lab]")
    for path in ("link", "link/", "link/../link", "./link//", "[lab]/"):
        with open_workdir(f"{tmp_path}/{path}", CONFIG) as workdir:
            save(workdir, 2)
            write_json(workdir / CONFIG_FILE, CONFIG)
        assert_is(restore(f"{tmp_path}/{path}"), 2)
    assert (tmp_path / "[lab]" / "checkpoints" / "2").is_dir()


def test_a_state_that_cannot_be_read_back_is_not_saved(tmp_path, capsys, monkeypatch):
    """Orbax says that it has saved, and a file is missing."""
    wait = ocp.CheckpointManager.wait_until_finished

    def lose(manager):
        wait(manager)
        for file in Path(manager.directory).rglob("manifest.ocdbt"):
            file.unlink()

    monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", lose)
    with pytest.raises(Unsaved, match=r"the state after step 2 could not be saved: .* is damaged"):
        save(tmp_path / "run", 2)
    assert "warning: the state after step 2" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lr0.1, 50% #1 {a}*", "run[1]", "[lab]/run", "a\\b"])
def test_a_run_trains_goes_on_and_is_evaluated(name, data_dir, tmp_path):
    """Brackets in a directory's name: tensorflow/tensorflow#34290."""
    config = runs.tiny_config(data_dir, total_steps=2, checkpoint_every_steps=1)
    file = runs.write_config(tmp_path / "c.py", config)
    train = ["train", f"--config={file}", f"--workdir={tmp_path / name}"]
    assert main(train) == 0
    assert main([*train, "--config.total_steps=3", "--allow_config_change"]) == 0
    assert main(["eval", f"--workdir={tmp_path / name}"]) == 0
    evaluation = json.loads((tmp_path / name / "evaluation.json").read_text())
    assert evaluation == runs.summary(tmp_path / name)["final"] and evaluation["step"] == 3
