"""What only a GPU can do to a sweep: errors that stick, kernels that never end, memory; and who has which card."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Lab, environment, words_with_defaults

pytestmark = pytest.mark.gpu
FAULTS = '''
import os
import torch

from pathlib import Path

from attn_lab.backends.naive import Naive


class Sticks(Naive):
    """An index out of bounds: whatever this process asks of CUDA from now on fails."""

    def prepare(self, request, machine):
        torch.zeros(4, device="cuda")[torch.tensor([10**6], device="cuda")]
        return super().prepare(request, machine)


class Spins(Naive):
    """A kernel of hours."""

    def prepare(self, request, machine):
        for _ in range(1000):
            torch.cuda._sleep(10**11)
        Path("spinning").write_text(str(os.getpid()))
        torch.cuda.synchronize()
'''
PLAIN = ("device=cuda", "probe=[accuracy]", "passes=[forward]", "shape.seq_len=64", "shape.dtype=float16", "name=x")


@pytest.fixture
def faults(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "their_faults.py").write_text(FAULTS)
    (tmp_path / "conf/backend").mkdir(parents=True)
    for name in ("sticks", "spins"):
        (tmp_path / f"conf/backend/{name}.yaml").write_text(f"_target_: their_faults.{name.capitalize()}\n")
    return {"PYTHONPATH": f"{ROOT}:{tmp_path}"}


def test_a_cuda_error_that_sticks_costs_its_process_and_its_case_alone(lab: Lab, faults):
    told = lab(*PLAIN, "--config-dir", "conf", "backend=naive,sticks,sdpa_math", **faults)
    assert told.code == 1 and "Traceback" not in told.err
    assert told.statuses == ["ok", "crashed", "ok"], [record["reasons"] for record in told.records]
    assert "CUDA error" in " ".join(told.records[1]["reasons"])
    before = told.lines  # read now: both sweeps write to one file
    again = lab(*PLAIN, "--config-dir", "conf", "backend=naive,sticks,sdpa_math", **faults)
    assert again.lines[:3] == before and again.statuses[3:] == ["crashed"]


def test_a_kernel_that_never_ends_is_ended_and_its_card_is_free_again(lab: Lab, faults):
    told = lab(*PLAIN, "--config-dir", "conf", "backend=spins,naive", "measure.timeout=10", **faults)
    assert told.statuses == ["timeout", "ok"], [record["reasons"] for record in told.records]


def test_what_does_not_fit_a_card_is_a_record_and_the_next_case_has_it_whole(lab: Lab):
    told = lab("device=cuda", "backend=naive", "probe=[accuracy]", "passes=[forward]", "shape.dtype=float16",
               "shape.seq_len=600000,64", "name=x")  # fmt: skip
    assert told.statuses == ["oom", "ok"], [record["reasons"] for record in told.records]
    assert told.code == 0


@pytest.fixture
def spinning(faults, tmp_path: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    """A sweep whose worker is in a kernel that never ends, and that worker's pid."""
    command = subprocess.Popen(
        [sys.executable, "-m", "attn_lab", *words_with_defaults((*PLAIN, "--config-dir", "conf", "backend=spins"))],
        cwd=tmp_path, env=environment(tmp_path, faults), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline, told = time.monotonic() + 60, tmp_path / "spinning"
    while not (told.exists() and told.read_text()):
        assert time.monotonic() < deadline and command.poll() is None
        time.sleep(0.1)
    yield command, int(told.read_text())
    command.kill()
    command.wait()


def test_of_two_sweeps_on_a_card_the_second_waits_for_the_end_of_the_first(spinning, tmp_path: Path):
    first, _ = spinning
    second = subprocess.Popen(
        [sys.executable, "-u", "-m", "attn_lab", *words_with_defaults((*PLAIN, "name=y"))],
        cwd=tmp_path, env=environment(tmp_path, {}), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = ""
    while "waiting for it" not in said:
        line = second.stdout.readline()
        assert line, said
        said += line
    assert f"in use by another sweep, process {first.pid}" in said
    first.kill()
    out, _ = second.communicate(timeout=60)
    assert second.returncode == 0 and "1 of 1 cases" in out


def test_cuda_is_begun_in_the_worker_and_not_in_the_command(spinning):
    def has_cuda(pid: int) -> bool:
        return any(str(link.readlink()) == "/dev/nvidia-uvm" for link in Path(f"/proc/{pid}/fd").iterdir())

    command, worker = spinning
    if not has_cuda(worker):
        pytest.skip("this host does not show which files a process has open")
    assert not has_cuda(command.pid)


WORDS = (*PLAIN, "backend=naive,sdpa_math", "shape.batch_size=1,2,3,4", "round=0,1")
several = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@several
def test_all_cards_are_used_and_rivals_share_one(lab: Lab):
    told = lab(*WORDS)
    assert told.code == 0 and told.statuses == ["ok"] * 16
    cards: dict[tuple[int, int], set[str]] = {}
    for record in told.records:
        batch = record["case"]["round"], record["case"]["shape"]["batch_size"]
        cards.setdefault(batch, set()).add(record["provenance"]["machine"]["uuid"])
    assert all(len(one) == 1 for one in cards.values())
    assert len(set.union(*cards.values())) == min(torch.cuda.device_count(), 8)


@several
@pytest.mark.parametrize(("visible", "words"), [("1", ()), ("1,0", ("hydra.launcher.count=1",))])
def test_the_cards_the_caller_lets_be_seen_are_those_used(visible, words, lab: Lab):
    told = lab(*WORDS, *words, CUDA_VISIBLE_DEVICES=visible)
    assert told.code == 0, told.err
    second = str(torch.cuda.get_device_properties(1).uuid)
    assert {record["provenance"]["machine"]["uuid"] for record in told.records} == {second}
