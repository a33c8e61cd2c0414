"""Notes on a terminal: what begins, and how much is done; nothing in a file."""

import io
import sys
import time

from aggnets_jax.runtime import notes


class Terminal(io.StringIO):
    def isatty(self):
        return True


def open_terminal(monkeypatch, every):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(notes, "_EVERY", every)
    return sys.stderr


def slow(items):
    for item in items:
        time.sleep(0.02)
        yield item


def test_a_terminal_shows_what_is_done(monkeypatch):
    terminal = open_terminal(monkeypatch, 0.01)
    notes.note("compiling")
    assert list(notes.counted(slow("abc"), 3, "letters")) == ["a", "b", "c"]
    shown = [f"\rletters: {done} of 3" for done in range(3)]
    assert terminal.getvalue() == "compiling ...\n" + "".join(shown) + "\r\033[K"


def test_what_is_fast_shows_no_count(monkeypatch):
    terminal = open_terminal(monkeypatch, 10)
    assert list(notes.counted("abc", 3, "letters")) == ["a", "b", "c"]
    assert terminal.getvalue() == ""


def test_a_file_gets_no_notes(capsys):
    notes.note("compiling")
    assert list(notes.counted(slow("abc"), 3, "letters")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
