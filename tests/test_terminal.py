"""Whatever a text comes from, a terminal obeys none of it."""

import io
import re
import sys
from pathlib import Path

import pytest
from rich.markup import escape
from test_faults_process import PLAIN
from written import line, run

from attn_lab.records.printable import harmless, harmless_streams
from attn_lab.report.terminal import Terminal

EVIL = "\x1b]0;owned\x07\x1b[31mred\x1b[2J\x9b5n\r\x08\u202e"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")
OWN = re.compile(r"\x1b\[[0-9;]*m")  # colours, of the console itself
HOSTILE = """
from attn_lab.backends.naive import Naive


class Hostile(Naive):
    def prepare(self, request, machine):
        raise ValueError({evil!r})
"""


def test_what_a_terminal_obeys_becomes_its_json_escape():
    assert harmless("a\tb\n") == "a\tb\n" and harmless("×…≈ 中文 é") == "×…≈ 中文 é"
    assert harmless("\x1b[31m\x9b\u202e") == "\\u001b[31m\\u009b\\u202e"
    assert not OBEYED.search(harmless(EVIL))


def test_a_console_has_its_own_colours_and_no_other(monkeypatch):
    file = io.StringIO()
    console = Terminal(file=file, force_terminal=True, color_system="standard", width=200)
    console.print(f"[red]{escape(EVIL)}[/red]", style="bold")
    assert OWN.search(file.getvalue()) and not OBEYED.search(OWN.sub("", file.getvalue()))
    monkeypatch.setattr(sys, "stdout", file := io.StringIO())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with harmless_streams():
        print(EVIL)
        Terminal(force_terminal=True, color_system="standard").print("fine", style="red")
    text = file.getvalue()
    assert "\x1b[31mfine" in text and not OBEYED.search(OWN.sub("", text.replace("\x1b[31mfine", "fine")))


@pytest.mark.parametrize("command", ["diff", "ls", "show", "status", "explain", "error"])
def test_no_command_passes_on_what_a_folder_a_file_or_a_word_says(command, door, tmp_path: Path):
    evil = EVIL.replace("\r", "")
    folder = run(tmp_path / "runs" / evil, line("naive", 1.0, reasons=[EVIL]), line("flash2", 0.5))
    (folder / "table.json").write_text(f'{{"schema": 1, "gpu": "{EVIL}"}}')
    words = {"diff": ["diff", str(folder), str(folder)], "ls": ["ls", str(folder)],
             "show": ["show", evil, str(folder)], "status": ["status", *PLAIN, f"hydra.sweep.dir='runs/{evil}'"],
             "explain": ["explain", "device=cpu", f"table={folder}/table.json"], "error": [evil]}[command]  # fmt: skip
    told = door(*words)
    assert not OBEYED.search(told.out + told.err), told.out + told.err


def test_an_exception_of_a_backend_is_shown_and_not_obeyed(door, tmp_path: Path, monkeypatch):
    (tmp_path / "conf/backend").mkdir(parents=True)
    (tmp_path / "hostile.py").write_text(HOSTILE.format(evil=EVIL))
    (tmp_path / "conf/backend/hostile.yaml").write_text("_target_: hostile.Hostile\n")
    monkeypatch.syspath_prepend(tmp_path)
    told = door(*PLAIN, "--config-dir", "conf", "backend=hostile")
    assert told.statuses == ["error"] and "owned" in told.out and not OBEYED.search(told.out + told.err), told.out
