"""Workers and the fork server: stopped, babbling, edited under; each costs its own case and gives its true reason."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT, environment
from test_faults_process import PLAIN, fork_server_of, statuses, sweep

THEIRS = """
import os
import signal
import time
from pathlib import Path

from attn_lab.backends.naive import Naive


class Waits(Naive):
    def prepare(self, request, machine):
        Path("waits").touch()
        time.sleep(3)
        return super().prepare(request, machine)


class Killed(Naive):
    def prepare(self, request, machine):
        os.kill(os.getpid(), signal.SIGKILL)


class Babbles(Naive):
    def prepare(self, request, machine):
        for descriptor in range(3, 64):
            try:
                os.set_blocking(descriptor, False)
                os.write(descriptor, b"Traceback (most recent call last)")
            except OSError:
                continue
        time.sleep(60)


class Closes(Naive):
    def prepare(self, request, machine):
        os.closerange(3, 256)
        time.sleep(60)


class Thieves(Naive):
    def prepare(self, request, machine):
        from attn_lab.run.local import worker_main
        from attn_lab.run.local.messages import Answer

        worker_main.Answer.of = lambda record: Answer("ok", [], {}, {}, [("trace", os.path.abspath("thesis.tex"))])
        return super().prepare(request, machine)


class Edits(Naive):
    def prepare(self, request, machine):
        with open(__file__, "a") as file:
            file.write("# edited")
        return super().prepare(request, machine)


class Edited(Naive):
    pass
"""


@pytest.fixture
def theirs(tmp_path: Path) -> dict[str, str]:
    """Backends of another's; returns the environment in which another process finds them."""
    (tmp_path / "theirs.py").write_text(THEIRS)
    (tmp_path / "conf/backend").mkdir(parents=True)
    for name in ("waits", "killed", "babbles", "closes", "thieves", "edits", "edited"):
        (tmp_path / f"conf/backend/{name}.yaml").write_text(f"_target_: theirs.{name.capitalize()}\n")
    return {"PYTHONPATH": f"{ROOT}:{tmp_path}"}


def test_a_fork_server_that_is_stopped_costs_nothing(tmp_path: Path, theirs):
    process = sweep(tmp_path, *PLAIN, "--config-dir", "conf", "backend=waits,killed,naive,sdpa_math", env=theirs,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "waits").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(fork_server_of(process.pid), signal.SIGSTOP)
    out, _ = process.communicate(timeout=100)
    assert statuses(tmp_path) == ["ok", "crashed", "ok", "ok"], out
    assert "its process was ended by signal 9 (SIGKILL) in prepare" in out and "Traceback" not in out


def test_a_worker_that_babbles_closes_steals_or_is_edited_under_costs_its_case_and_says_so(tmp_path: Path, theirs):
    (tmp_path / "thesis.tex").write_text("years of work")
    process = sweep(tmp_path, *PLAIN, "--config-dir", "conf", "backend=babbles,closes,thieves,edits,edited,naive",
                    env=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    out, _ = process.communicate(timeout=100)
    assert statuses(tmp_path) == ["crashed", "crashed", "crashed", "ok", "error", "ok"], out
    assert "attn_lab/run/" not in out  # of the command's files; the fork server's own end may be traced
    for said in ("sent no message in prepare: a message of", "closed its pipe in prepare", "expected files in ",
                 "expected the source that was planned with"):  # fmt: skip
        assert said in out, out
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_sizes_that_cannot_be_end_with_the_timeout_on_several_workers_too(crew):
    told = crew(
        *PLAIN, "shape.seq_len=1099511627776,16,32,1099511627775", "hydra.launcher.count=2", "measure.timeout=5"
    )
    assert Counter(told.statuses) == {"timeout": 2, "ok": 2}, told.out + told.err


def test_the_source_of_a_case_is_that_of_all_files_that_measure():
    from attn_lab.config.basis import MEASURES, PACKAGE

    files = {pattern: [str(file.relative_to(PACKAGE)) for file in PACKAGE.glob(pattern)] for pattern in MEASURES}
    assert all(files.values()), files
    counted = {file for each in files.values() for file in each}
    assert {"measure/run_case.py", "measure/probes/timing.py", "measure/subjects/kernel.py", "nn/attention.py",
            "core/mask.py", "profiling/recorder.py", "backends/_one_sdpa.py"} <= counted  # fmt: skip


FIRST = """
import sys
from attn_lab.core.machine import detect
from attn_lab.measure.prepared_case import PreparedCase
from attn_lab.selfcheck.harness import Harness

answer = PreparedCase.answer

def watched(self):
    before = set(sys.modules)
    answered = answer(self)
    print(len({each for each in set(sys.modules) - before if each.startswith(("torch", "sympy", "mpmath"))}))
    return answered

PreparedCase.answer = watched
harness = Harness(detect("cpu"))
for name in sys.argv[1:]:
    target = f"attn_lab.backends.{name.lower()}.{name}"
    case = harness.case(name.lower(), target, "probe=[cold_start]", "passes=[forward,backward]", "shape.seq_len=16")
    assert harness.record(case).status == "ok"
"""


def test_the_first_case_of_a_process_meets_torch_as_the_others_do(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", FIRST, "Naive", "Naive"], cwd=tmp_path, capture_output=True,
                          env=environment(tmp_path, {}), text=True, timeout=100)  # fmt: skip
    assert done.stdout.split() == ["0", "0"], done.stdout + done.stderr
