"""The metrics of a run: no line is lost or doubled, whatever the disk does."""

import errno
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.errors import UserError
from aggnets_jax.workdir.metric_log import JsonLines, MetricLog


def events(workdir):
    """All points that TensorBoard shows, as (tag, step)."""
    tf = import_tensorflow()
    return sorted(
        (value.tag, event.step)
        for file in (workdir / "tensorboard").iterdir()
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
        for event in [tf.compat.v1.Event.FromString(record)]
        for value in event.summary.value
    )


def steps(workdir, name="metrics"):
    lines = (workdir / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_a_resumed_log_has_each_step_once_in_every_file(tmp_path):
    with MetricLog(tmp_path, {}) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": step / 2})
            log.write(step, {"speed": 10.0}, "timing")
            if step == 2:
                assert log.flush() is None
                lines = log.lines
    assert steps(tmp_path) == [1, 2, 3]
    with MetricLog(tmp_path, lines) as log:
        for step in (3, 4):
            log.write(step, {"loss": step / 2})
            log.write(step, {"speed": 10.0}, "timing")
    assert steps(tmp_path) == steps(tmp_path, "timing") == [1, 2, 3, 4]
    assert events(tmp_path) == [(tag, n) for tag in ("loss", "speed") for n in (1, 2, 3, 4)]


def test_lines_can_be_read_as_soon_as_they_are_logged(tmp_path):
    with MetricLog(tmp_path, {}) as log:
        log.write(5, {"loss": 1.0})
        assert steps(tmp_path) == [5]


def test_another_process_than_the_first_writes_nothing(tmp_path):
    with MetricLog(tmp_path, {}, writes=False) as log:
        log.write(1, {"loss": 1.0})
        assert log.flush() is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_lacks_lines_is_damaged(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(UserError, match="it has 1 lines, and had 2 when the checkpoint was saved"):
        MetricLog(tmp_path, {"metrics": 2, "timing": 0})


@given(st.lists(st.sampled_from([0, 1, 7, None]), max_size=12))
@settings(deadline=None, max_examples=60)
def test_no_line_is_lost_or_doubled_while_the_disk_is_full(tmp_path_factory, room):
    """Each write gets as much room as drawn, in bytes; None: enough."""
    file = tmp_path_factory.mktemp("lines") / "metrics.jsonl"
    pwrite, remaining = os.pwrite, iter(room)

    def full(descriptor, content, place):
        free = next(remaining, None)
        if free == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, content[:free], place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        lines = JsonLines(file, [])
        for step in range(5):
            lines.append({"step": step})
        for _ in range(len(room) + 1):
            try:
                lines.flush()
                break
            except OSError:
                pass
        lines.close()
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == list(range(5))


def test_lines_that_the_system_has_dropped_are_written_again(tmp_path, monkeypatch):
    """A network file system may find out at `fsync` that there is no room, and tells it once."""
    with MetricLog(tmp_path, {}) as log:
        log.write(1, {"loss": 1.0})
        assert log.flush() is None
        file = tmp_path / "metrics.jsonl"
        there = file.stat().st_size

        def drop(descriptor):
            monkeypatch.undo()
            os.truncate(file, there)
            raise OSError(errno.ENOSPC, "No space left on device")

        log.write(2, {"loss": 2.0})
        monkeypatch.setattr(os, "fsync", drop)
        assert log.flush().errno == errno.ENOSPC
        log.write(3, {"loss": 3.0})
        assert log.flush() is None
    assert steps(tmp_path) == [1, 2, 3]


def test_without_tensorboard_the_run_goes_on(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("not a folder")
    with MetricLog(tmp_path, {}) as log:
        for step in (1, 2):
            log.write(step, {"loss": 1.0})
            log.flush()
    assert steps(tmp_path) == [1, 2]
    assert capsys.readouterr().err.count("warning: nothing more goes to TensorBoard: ") == 1
