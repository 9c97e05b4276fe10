"""Bars on terminals of all widths."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

import pytest

from jobs.progress import bar


def drawn(monkeypatch: pytest.MonkeyPatch, num_columns: int) -> str:
    """What a bar at its half writes to a terminal so many columns wide."""
    terminal, end = os.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, num_columns, 0, 0))
    with os.fdopen(end, "w") as stream, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", stream)
        with bar("mails", unit="mail", total=4) as shown:
            shown.update(2)
            shown.refresh()
            told = ""
            while not ("50%" in told and told.endswith("]")):
                told += os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    return told.rpartition("\r")[2]


@pytest.mark.parametrize(("said", "drawn_in"), [(0, 80), (3, 80), (60, 60), (120, 120)])
def test_a_bar_is_drawn_where_a_terminal_does_not_say_its_width(
    monkeypatch: pytest.MonkeyPatch, said: int, drawn_in: int
) -> None:
    line = drawn(monkeypatch, said)
    assert line.startswith("mails:  50%|")
    assert "2/4" in line
    assert drawn_in - 2 <= len(line) <= drawn_in
