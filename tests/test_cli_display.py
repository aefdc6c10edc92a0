"""Progress bars."""

import io
import re

from rich.console import Console

from tvmquant.cli import display


def test_a_stage_of_one_step_is_over_when_the_next_begins(monkeypatch):
    drawn = io.StringIO()
    monkeypatch.setattr(
        display, "Console", lambda **_: Console(file=drawn, force_terminal=True, width=80)
    )
    with display.progress_bars() as progress:
        progress("import", 0, 1)
        progress("calibrate", 3, 8)
        progress("build", 0, 1)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.getvalue())
    last = dict(re.findall(r"(\w+) +\S+ (\d+/\d+)", text))
    assert last == {"import": "1/1", "calibrate": "3/8", "build": "0/1"}
