"""Output that nobody reads, that has no room, or that lacks a letter."""

import io
import os
import subprocess
import sys

import pytest

from aggnets_jax.runtime.streams import losing_output
from tests import runs

HELP = [sys.executable, "-m", "aggnets_jax", "--help"]
HELP_OF_COMMAND = [sys.executable, "-m", "aggnets_jax", "completion", "--help"]


@pytest.mark.parametrize(("words", "code"), [(HELP, 141), (HELP_OF_COMMAND, 0)])
def test_a_pipe_that_nobody_reads_ends_a_command_without_a_line(words, code):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (code, b"")


def test_output_without_room_is_one_line_and_exit_code_74():
    with open("/dev/full", "w") as full:
        done = subprocess.run(HELP, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 74
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


def test_no_file_gets_the_number_of_a_stream_that_was_closed(tmp_path):
    program = (
        "import os; [os.close(n) for n in (0, 1, 2)]; import sys; sys.stdout = sys.stderr = None\n"
        "from aggnets_jax.runtime.streams import open_streams; open_streams()\n"
        f"file = open({str(tmp_path / 'found')!r}, 'w'); print('lost'); os.write(2, b'lost')\n"
        "file.write(str(file.fileno()))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert int((tmp_path / "found").read_text()) > 2


def test_letters_that_the_encoding_lacks_are_escaped():
    program = (
        "from aggnets_jax.runtime.streams import open_streams; open_streams(); print('é \\udce9')"
    )
    words = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "\\xe9 \\udce9\n"


def test_what_cannot_be_printed_is_lost_and_nothing_else(monkeypatch):
    class Full(io.StringIO):
        room = True

        def write(self, text):
            if not self.room:
                raise OSError(28, "No space left on device")
            return super().write(text)

    stream = Full()
    monkeypatch.setattr(sys, "stdout", stream)
    with losing_output():
        print("a", flush=True)
        stream.room = False
        print("b", flush=True)
        stream.room = True
        print("c", flush=True)
    assert stream.getvalue() == "a\nc\n"
    assert sys.stdout is stream


@pytest.mark.slow
def test_a_run_whose_output_has_no_room_trains_to_its_end(data_dir, tmp_path):
    file = runs.write_config(tmp_path / "c.py", runs.tiny_config(data_dir, total_steps=4))
    words = [sys.executable, "-m", "aggnets_jax", "train", f"--config={file}"]
    with open("/dev/full", "w") as full:
        command = [*words, f"--workdir={tmp_path / 'run'}"]
        done = subprocess.run(command, stdout=full, stderr=full, check=False)
    assert done.returncode == 0
    assert (tmp_path / "run" / "summary.json").exists()
