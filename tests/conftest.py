"""Two ways to use attn-lab as a person would: `lab`, a process of its own, and `door`, its front door in this one."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: cores are shared, and tiny cases gain nothing from two

import pytest
import torch
from hypothesis import settings

from attn_lab.cli import COMMANDS

ROOT = Path(__file__).parents[1]
DEFAULTS = {
    "logger": "logger=[jsonl]",
    "measure": "measure=quick",
    "device": "device=cpu",
    "aa_repeat": "aa_repeat=false",
    "report.enabled": "report.enabled=false",
}
settings.register_profile("attn_lab", deadline=None, max_examples=50, database=None, derandomize=True)
settings.load_profile("attn_lab")


@dataclass(frozen=True)
class Told:
    """What one invocation said and left behind."""

    code: int
    out: str
    err: str
    folder: Path  # it was run in

    @property
    def lines(self) -> list[bytes]:
        """Of every records.jsonl under runs/, in order."""
        files = sorted(self.folder.glob("runs/**/records.jsonl"))
        return [line for file in files for line in file.read_bytes().splitlines(keepends=True)]

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def artifacts(self, kind: str, record: int = 0) -> list[Path]:
        """The files of that kind that a record lists, each as large as it says."""
        line = self.records[record]
        entries = [each for each in line["artifacts"] if each["kind"] == kind]
        (home,) = {file.parent for file in self.folder.glob("runs/**/records.jsonl")
                   if line["case"]["id"] in file.read_text()}  # fmt: skip
        paths = [home / each["path"] for each in entries]
        assert [path.stat().st_size for path in paths] == [each["size"] for each in entries]
        return paths

    @property
    def statuses(self) -> list[str]:
        return [record["status"] for record in self.records]


IN_PROCESS = {"hydra/launcher": "hydra/launcher=basic"}  # spares a worker; what workers do, tests of `lab` see


def words_with_defaults(words: tuple[str, ...], defaults: Mapping[str, str] = DEFAULTS) -> list[str]:
    """`words`, and quick CPU cases without W&B unless they say otherwise.  Commands and flags alone stay alone."""
    if not any("=" in word for word in words) or words[0] in COMMANDS.keys() - {"status"}:
        return list(words)
    given = {word.split("=")[0].lstrip("+~") for word in words}
    return [*words, *(word for key, word in defaults.items() if key not in given)]


def environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    """A clean one: this checkout on the path, its own HOME, and nothing of W&B's, Hydra's or the lab's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "HYDRA", "ATTN_LAB"))}
    return {**kept, "PYTHONPATH": str(ROOT), "HOME": str(folder), "COLUMNS": "200", **more}


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is measured on the spot is kept for these tests alone, in this process and those it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def sdpa_flags() -> dict[str, bool]:
    """Which implementations torch's scaled_dot_product_attention may take in this process."""
    return {
        name: getattr(torch.backends.cuda, f"{name}_sdp_enabled")()
        for name in ("math", "flash", "mem_efficient", "cudnn")
    }


@pytest.fixture(autouse=True)
def the_process_as_it_was() -> Iterator[None]:
    """A backend that leaves a flag of the process set breaks other attention of that process, not its own test."""
    before = sdpa_flags()
    yield
    after = sdpa_flags()
    for name, value in before.items():  # else each test after it would fail as well
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(value)
    assert after == before


Lab = Callable[..., Told]


@pytest.fixture(scope="session")
def lab_in() -> Lab:
    """lab_in(folder, *words, **environment): `python -m attn_lab words` in `folder`, as a process."""

    def run(folder: Path, *words: str, **more: str) -> Told:
        done = subprocess.run(
            [sys.executable, "-m", "attn_lab", *words_with_defaults(words)],
            cwd=folder, env=environment(folder, more), capture_output=True, text=True, timeout=110,
        )  # fmt: skip
        return Told(done.returncode, done.stdout, done.stderr, folder)

    return run


@pytest.fixture
def lab(lab_in: Lab, tmp_path: Path) -> Lab:
    """lab(*words, **environment): `python -m attn_lab words` in tmp_path, as a process."""
    return lambda *words, **more: lab_in(tmp_path, *words, **more)


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Lab]:
    """door(*words): the same in this process, which spares the seconds that importing torch and hydra takes."""
    from attn_lab.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["attn-lab"])
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # main sets it; this puts it back

    before = signal.getsignal(signal.SIGINT)

    def run(*words: str) -> Told:
        capfd.readouterr()
        signal.signal(signal.SIGINT, before)
        with pytest.raises(SystemExit) as stop:
            main(words_with_defaults(words, {**DEFAULTS, **IN_PROCESS}))
        code = stop.value.code
        assert isinstance(code, int), f"exit code {code!r}"
        return Told(code, *capfd.readouterr(), tmp_path)

    yield run
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def crew(door: Lab) -> Lab:
    """crew(*words): the front door in this process, its cases in workers."""
    return lambda *words: door(*words, "hydra/launcher=workers")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many architectures of transformers are equal, refused and silently different, with those not judged."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    verdicts = [value for report in reports for name, value in getattr(report, "user_properties", [])
                if name == "architecture"]  # fmt: skip
    if not verdicts:
        return
    kinds = {kind: [verdict for verdict in verdicts if verdict[1] == kind]
             for kind in ("equal", "unsupported", "different", "failed", "not built")}  # fmt: skip
    generated = sum("generation" in why for _, _, why in kinds["equal"])
    terminalreporter.write_line(
        f"transformers: {len(kinds['equal'])} equal ({generated} also in cached generation), "
        f"{len(kinds['unsupported'])} refused, "
        f"{len(kinds['different'])} silently different, {len(kinds['failed'])} failed; "
        f"not built, and pinned: {len(kinds['not built'])}"
    )
    for unit, kind, why in kinds["not built"] + kinds["different"] + kinds["failed"]:
        terminalreporter.write_line(f"  {kind}: {unit}: {why}")
