"""Homes, folders, locales, terminals and streams as they may be: a sweep runs, or one line says what is expected."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment, words_with_defaults
from test_faults_process import PLAIN, statuses
from written import line, run

NOBODY = """
import pwd

def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = getpwuid
"""
ODD = os.fsdecode(b"caf\xe9")  # Latin-1, as of another machine's archive


def attn_lab(folder: Path, *words: str, without: tuple[str, ...] = (), **more: str) -> subprocess.CompletedProcess:
    env = {name: value for name, value in environment(folder, more).items() if name not in without}
    command = [sys.executable, "-m", "attn_lab", *words_with_defaults(words)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, errors="replace", timeout=100)


def test_without_home_and_passwd_a_sweep_runs(tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text(NOBODY)
    done = attn_lab(tmp_path, *PLAIN, "backend=naive", without=("HOME", "XDG_CACHE_HOME"),
                    PYTHONPATH=f"{ROOT}:{tmp_path}")  # fmt: skip
    assert done.returncode == 0 and statuses(tmp_path) == ["ok"] and done.stderr == "", done.stderr


def test_a_read_only_home_a_dumb_terminal_the_c_locale_and_a_folder_of_another_encoding_cost_nothing(tmp_path: Path):
    folder = tmp_path / ODD
    folder.mkdir()
    done = attn_lab(folder, *PLAIN, "backend=naive,sdpa_math", without=("XDG_CACHE_HOME",), HOME="/proc", TERM="dumb",
                    LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")  # fmt: skip
    assert done.returncode == 0 and statuses(folder) == ["ok", "ok"] and done.stderr == "", done.stderr
    assert "2 cases: 2 ok" in done.stdout and "\x1b" not in done.stdout


@pytest.mark.parametrize("words", [["name=x", "device=cpu"], ["ls"], ["doctor"]])
def test_a_deleted_working_directory_is_one_line(words, tmp_path: Path):
    (tmp_path / "gone").mkdir()
    line = f"cd gone && rmdir ../gone && exec {sys.executable} -m attn_lab {' '.join(words)}"
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=environment(tmp_path, {}), capture_output=True,
                          text=True, timeout=100)  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "attn-lab: working directory: expected one that is there; got one that was deleted\n"


@pytest.mark.parametrize("command", ["ls", "show", "diff", "explain"])
def test_names_that_are_no_utf8_are_shown_and_end_no_command(command, door, tmp_path: Path):
    folder = run(tmp_path / "runs" / ODD, line("naive", 1.0), line("flash2", 0.5))
    out = tmp_path / os.fsdecode(b"\xff.md")
    words = {"ls": ["ls", str(folder)], "report": ["report", str(folder)], "show": ["show", "nothing", str(folder)],
             "diff": ["diff", str(folder), str(folder), "--markdown", str(out)],
             "explain": ["explain", f"table={folder}/records.jsonl", "device=cpu"]}[command]  # fmt: skip
    told = door(*words)
    assert told.code == (2 if command in ("show", "explain") else 0), told.err
    assert told.err.count("\n") == int(told.code == 2)
    assert command != "diff" or out.is_file()
    assert command != "report" or (folder / "report/report.html").is_file()


@pytest.mark.parametrize("name", [ODD, "a\x1b[31mb", "a\u202eb", "a\x00b"])
def test_a_name_that_no_terminal_should_see_is_refused(name, door):
    told = door(*PLAIN[:-1], f"name={name}")
    assert told.code == 2 and told.err.count("\n") == 1 and "name: expected" in told.err
    assert list(told.folder.iterdir()) == []


@pytest.mark.parametrize("words", [["ls"], ["--help"]])
def test_output_that_cannot_be_written_is_one_line(words, tmp_path: Path):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "attn_lab", *words], cwd=tmp_path, env=environment(tmp_path, {}),
                              stdout=full, stderr=subprocess.PIPE, text=True, timeout=100)  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "No space left" in done.stderr, done.stderr


def test_without_any_stream_a_command_still_answers_by_its_exit_code(tmp_path: Path):
    line = f"exec {sys.executable} -m attn_lab show nothing <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", line], cwd=tmp_path, env=environment(tmp_path, {}), timeout=100).returncode == 2


def test_a_run_folder_that_is_deleted_meanwhile_ends_the_sweep_with_one_line(door, monkeypatch, tmp_path: Path):
    from attn_lab.records.store import RunStore

    append = RunStore.append

    def once(self, record):
        written = append(self, record)
        shutil.rmtree(self.folder)
        return written

    monkeypatch.setattr(RunStore, "append", once)
    told = door(*PLAIN, "backend=naive,sdpa_math")
    assert told.code == 2 and told.err.count("\n") == 1 and "deleted or renamed meanwhile" in told.err, told.err
