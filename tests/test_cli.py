"""The front door: bad words end in one clear line before anything is written; good ones say where things are."""

import json
import os
import pty
import random
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Told, environment, words_with_defaults

from attn_lab import __version__
from attn_lab.cli.help import EXAMPLES
from attn_lab.cli.parser import COMMANDS
from attn_lab.config.compose import compose
from attn_lab.config.resolvers import register_resolvers
from attn_lab.config.schema import Measure
from attn_lab.core.machine import Machine
from attn_lab.run.plan import make_sweep

BACKENDS = sorted(file.stem for file in (ROOT / "conf/backend").glob("*.yaml"))
OPTIONS = {
    group: sorted(str(file.relative_to(ROOT / "conf" / group).with_suffix("")) for file in files)
    for group in ("backend", "shape", "mask", "subject", "measure", "probe", "logger", "experiment")
    if (files := list((ROOT / "conf" / group).glob("**/*.yaml")))
}
ESCAPE = "\x1b"


def assert_one_clear_line(told: Told, *says: str) -> None:
    assert told.code == 2, told
    assert told.err.startswith("attn-lab: ") and told.err.count("\n") == 1 and told.err.endswith("\n"), told.err
    missing = [word for word in says if word not in told.err]
    assert not missing, f"{missing} not said by {told.err!r}"


def assert_nothing_written(told: Told) -> None:
    assert [path.name for path in told.folder.iterdir()] == []


@pytest.mark.timeout(25)
@pytest.mark.parametrize("group", OPTIONS)
def test_an_unknown_option_is_told_the_valid_ones(group, door):
    told = door(f"{group}=nonsense")
    assert_one_clear_line(told, group, "nonsense", *OPTIONS[group])
    assert_nothing_written(told)


@pytest.mark.timeout(25)
@pytest.mark.parametrize(
    ("word", "group"),
    [("experiment=seed/nonsense", "experiment"), ("probe=[nonsense]", "probe"),
     ("probe=[cold_start,accuracy,nonsense]", "probe"), ("logger=[nonsense]", "logger")],
)  # fmt: skip
def test_an_unknown_option_within_a_folder_or_list_too(word, group, door):
    told = door(word)
    assert_one_clear_line(told, group, "nonsense", *OPTIONS[group])
    assert_nothing_written(told)


BAD = {  # override(s) → what the one line must say: the key, and what came or what would do
    "shape.seq_lenn=64": ["seq_lenn", "seq_len,"],
    "round=0,1 shape.seq_lenn=64": ["seq_lenn", "seq_len,"],
    "foo=1": ["foo", "shape", "backend"],
    "backend.foo=1": ["backend.foo"],
    "mask.foo=1": ["mask.foo"],
    "subject.foo=1": ["subject.foo"],
    "measure.foo=1": ["measure.foo", "samples"],
    "probe.timing.foo=1": ["probe.timing.foo", "warmup"],
    "logger.jsonl.foo=1": ["logger.jsonl.foo"],
    "+extra=1": ["extra"],
    "+shape.extra=1": ["extra"],
    "+measure.extra=1": ["extra"],
    "+backend.extra=1": ["extra"],
    "+mask.extra=1": ["extra"],
    "+subject.extra=1": ["extra"],
    "+probe.timing.extra=1": ["extra"],
    "+probe.extra=1": ["extra"],
    "+logger.extra=1": ["extra"],
    "+logger.jsonl.extra=1": ["extra"],
    "shape.seq_len=abc": ["shape.seq_len", "abc"],
    "shape.seq_len=0": ["shape.seq_len", "at least 1", "got 0"],
    "shape.seq_len=-5": ["shape.seq_len", "at least 1", "got -5"],
    "shape.seq_len=true": ["shape.seq_len", "True"],
    "shape.seq_len=1.5": ["shape.seq_len", "1.5"],
    "shape.seq_len=null": ["shape.seq_len"],
    "shape.seq_len=[1,2]": ["shape.seq_len"],
    "shape.seq_len=": ["shape.seq_len"],
    "shape.seq_len=99999999999999999999999": ["shape.seq_len", "99999999999999999999999"],
    "shape.batch_size=0": ["shape.batch_size", "got 0"],
    "shape.num_heads=0": ["shape.num_heads", "got 0"],
    "shape.emb_dim=0": ["shape.emb_dim", "got 0"],
    "shape.head_dim=0": ["shape.head_dim", "got 0"],
    "shape.seq_len_kv=-1": ["shape.seq_len_kv", "got -1"],
    "shape.num_kv_heads=0": ["shape.num_kv_heads", "got 0"],
    "shape.emb_dim=130": ["shape.emb_dim", "num_heads=4", "got 130"],
    "shape.num_kv_heads=3": ["shape.num_kv_heads", "num_heads=4", "got 3"],
    "shape.dtype=float8": ["shape.dtype", "float16", "bfloat16", "float32", "float8"],
    "device=tpu": ["device", "auto", "cuda", "cpu", "tpu"],
    "measure.warmup=-1": ["measure.warmup", "-1"],
    "measure.settle_seconds=-1": ["measure.settle_seconds", "got -1"],
    "measure.settle_seconds=inf": ["measure.settle_seconds", "got inf"],
    "measure.rest_ratio=-1": ["measure.rest_ratio", "got -1"],
    "measure.rest_ratio=nan": ["measure.rest_ratio", "got nan"],
    "measure.max_samples=0": ["measure.max_samples", "got 0"],
    "measure.max_samples=-1": ["measure.max_samples", "got -1"],
    "measure.min_samples=0": ["measure.min_samples", "got 0"],
    "measure.min_samples=1000": ["measure.min_samples", "samples", "1000"],
    "measure.max_seconds=0": ["measure.max_seconds", "got 0"],
    "measure.max_seconds=-1": ["measure.max_seconds", "got -1"],
    "measure.max_seconds=nan": ["measure.max_seconds", "nan"],
    "measure.checked_slices=0": ["measure.checked_slices", "got 0"],
    "measure.checked_slices=-2": ["measure.checked_slices", "got -2"],
    "passes=[nonsense]": ["passes", "forward_backward", "nonsense"],
    "passes=[]": ["passes", "forward_backward", "[]"],
    "passes=[forward,forward]": ["passes", "once"],
    "passes=forward": ["passes"],
    "probe=[timing]": ["probe", "accuracy before timing"],
    "probe=[timing,accuracy]": ["probe", "accuracy before timing"],
    "logger=[]": ["logger"],
    "mask.window=5": ["mask.window"],
    "mask=sliding_window mask.window=0": ["mask.window", "got 0"],
    "mask=sliding_window mask.window=abc": ["mask.window", "abc"],
    "mask=prefix_lm mask.prefix=0": ["mask.prefix", "got 0"],
    "mask=document mask.lengths=[]": ["mask.lengths", "got []"],
    "mask=document mask.lengths=[0,1]": ["mask.lengths", "[0, 1]"],
    "mask=document mask.lengths=3": ["mask.lengths", "3"],
    "subject=layer subject.bias=abc": ["subject.bias", "abc"],
    "subject=layer shape.seq_len_kv=128": ["seq_len_kv", "128"],
    "backend=null": ["backend"],
    "shape=null": ["shape"],
    "mask=null": ["mask"],
    "~backend": ["backend"],
    "~shape": ["shape"],
    "backend._target_=nope.Nope": ["nope.Nope"],
    "backend._target_=os.getcwd": ["backend", "os.getcwd"],
    "mask._target_=os.getcwd": ["mask", "os.getcwd"],
    "subject._target_=os.getcwd": ["subject", "getcwd"],
    "seed=abc": ["seed", "abc"],
    "round=abc": ["round", "abc"],
    "name=": ["name"],
    "name=../elsewhere": ["name"],
    "shape.seq_len=[1": ["shape.seq_len=[1"],
    "shape.seq_len=64,": ["shape.seq_len=64,"],
    "backend=naive nonsense": ["nonsense"],
    "backend=naive --nonsense": ["--nonsense"],
}


@pytest.mark.timeout(25)
@pytest.mark.parametrize("words", BAD)
def test_bad_words_end_in_one_line_and_nothing_is_written(words, door):
    told = door(*words.split())
    assert_one_clear_line(told, *BAD[words])
    assert_nothing_written(told)
    assert told.out == ""


@pytest.mark.timeout(25)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_where_there_is_none_says_so(door):
    told = door("device=cuda")
    assert_one_clear_line(told, "device=cuda", "expected a CUDA GPU", "device=cpu")
    assert_nothing_written(told)


@pytest.mark.timeout(25)
@pytest.mark.parametrize(
    ("words", "case"),
    [(["backend=naive,nonsense"], "backend=nonsense"), (["shape.seq_len=64,abc"], "shape.seq_len=abc"),
     (["shape.seq_len=64,0"], "shape.seq_len=0"), (["mask=full,nonsense", "backend=naive"], "mask=nonsense"),
     (["mask=sliding_window", "mask.window=8,0"], "mask.window=0"),
     (["measure.max_samples=5,0"], "measure.max_samples=0")],
)  # fmt: skip
def test_one_bad_case_stops_a_sweep_before_its_first_and_is_named(words, case, door):
    told = door(*words)
    assert_one_clear_line(told, "case 2 of 2", case)
    assert_nothing_written(told)


@pytest.mark.parametrize(
    ("words", "told"),
    [(["name=a,b"], ["name: expected one for the whole sweep; got 'a' and 'b'", "case 2 of 2"]),
     (["resume=auto,never"], ["resume: expected one for the whole sweep"]),
     (["report.language=en,zh-Hant"], ["report.language: expected one for the whole sweep"]),
     ([f"name={'long' * 64}"], ["name: expected a folder name", "of at most 255 bytes each"]),
     (["name='a\nb'"], ["name: expected a folder name", "a\\nb"]),
     (["round=-1"], ["round: expected at least 0; got -1"]),
     ([f"seed={10**20}"], ["seed: expected", f"got {10**20}"])],
)  # fmt: skip
def test_what_a_sweep_can_have_but_one_of_or_nothing_could_be_made_of_is_refused(words, told, door):
    refused = door(*words)
    assert_one_clear_line(refused, *told)
    assert_nothing_written(refused)


def test_a_folder_that_cannot_even_be_looked_for_is_named(door, tmp_path):
    assert_one_clear_line(door(f"hydra.sweep.dir={tmp_path}/{'long' * 64}"), "longlong", "File name too long")


def test_a_case_that_is_said_twice_is_run_once(door):
    told = door("seed=1,1,2", "probe=[accuracy]")
    assert told.code == 0 and told.statuses == ["ok", "ok"], told.err
    assert "2 of 2 cases" in told.out and "left" not in told.out


@pytest.mark.parametrize("word", ["nonsense", "run", "--nonsense", ""])
def test_an_unknown_command_or_flag_is_told_what_there_is(word, door):
    told = door(word)
    assert_one_clear_line(told, word)
    assert_nothing_written(told)


@pytest.mark.timeout(25)
def test_flags_may_stand_anywhere_among_the_words(door, tmp_path):
    (tmp_path / "mine/backend").mkdir(parents=True)
    (tmp_path / "mine/backend/mine.yaml").write_text("_target_: attn_lab.backends.naive.Naive\n")
    told = door("backend=mine", "--config-dir", "mine", "shape.seq_len=16", "-m", "probe=[accuracy]")
    assert told.code == 0 and told.statuses == ["ok"], told.err


def test_bad_words_to_a_real_process_are_one_line_too(lab):
    told = lab("probe=[timing]")
    assert_one_clear_line(told, "accuracy before timing")
    assert not (told.folder / "runs").exists()


def test_a_file_in_the_way_of_the_run_folder_is_named(door, tmp_path):
    (tmp_path / "runs").write_text("mine")
    assert_one_clear_line(door("name=x"), "runs/x")
    assert (tmp_path / "runs").read_text() == "mine"


@contextmanager
def tmpfs(folder: Path, options: str):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_folder_is_named(door, tmp_path):
    with tmpfs(tmp_path / "runs", "ro"):
        assert_one_clear_line(door("name=x"), "runs/x")


def test_records_that_are_no_ordinary_file_are_one_clear_line(door, tmp_path):
    (tmp_path / "runs/x").mkdir(parents=True)
    (tmp_path / "runs/x/records.jsonl").symlink_to("/dev/full")
    told = door("name=x", "seed=0,1,2", "probe=[accuracy]")
    assert_one_clear_line(told, "runs/x", "not a regular file")


def test_a_disk_that_fills_up_keeps_what_is_done_whole(door, tmp_path):
    with tmpfs(tmp_path / "runs", "size=20k"):  # pages of 4 kB, records of about two
        told = door("name=x", "seed=range(20)", "probe=[accuracy]", "passes=[forward]")
        assert told.code == 2
        assert told.err.count("\n") == 1 and "No space left" in told.err
        lines = told.lines
        assert 1 <= len(lines) < 20
        assert lines[-1].endswith(b"\n")
        assert [record["provenance"]["config"]["seed"] for record in told.records] == list(range(len(lines)))
        assert f"{len(lines)} of 20" in told.err


def start(folder: Path, *words: str, **streams) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "attn_lab", *words_with_defaults(words)],
        cwd=folder,
        env=environment(folder, {}),
        **streams,
    )  # fmt: skip


def interrupted(folder: Path, *, times: int) -> Told:
    """A sweep of 30 cases that meets Ctrl-C `times` times, from its third case on."""
    process = start(
        folder, "name=x", "seed=range(30)", "probe=[accuracy]",
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        file, deadline = folder / "runs/x/records.jsonl", time.monotonic() + 90
        while not file.exists() or file.read_bytes().count(b"\n") < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return Told(process.returncode, out, err, folder)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_keeps_finished_cases_whole_and_sums_them_up(tmp_path, times):
    told = interrupted(tmp_path, times=times)
    assert told.code == 130
    assert 2 <= len(told.records) < 30 and told.lines[-1].endswith(b"\n")
    assert f"{len(told.records)} of 30 cases" in told.out
    first, last = told.err.splitlines()
    assert "finishing the case at hand" in first
    assert f"interrupted; {len(told.records)} of 30 cases are kept" in last


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_at_any_moment_is_told_as_what_it_is(door, times):
    """omegaconf, interrupted while it composes, raises errors of its own; none may reach the person."""
    moment = random.Random(times)

    def interrupt(*_):
        if times == 2:
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    door("passes=[forward]", "probe=[accuracy]")  # imports are not what is interrupted here
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for prepared in range(8):
            signal.setitimer(signal.ITIMER_REAL, moment.uniform(0.1, 1.6))
            told = door(f"name=x{prepared}", "seed=range(60)", "probe=[accuracy]", "passes=[forward]")
            (*_, last) = told.err.splitlines() or [""]
            assert told.code == 130 and last.startswith("attn-lab: interrupted"), told.err
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_help_shows_every_group_and_option_and_examples(door):
    told = door("--help")
    assert told.code == 0 and told.err == ""
    for group, options in OPTIONS.items():
        assert group in told.out
        assert all(option.split("/")[-1] in told.out for option in options)
    assert "attn-lab -m experiment=demo" in told.out and "attn-lab doctor" in told.out


GPUS = [("NVIDIA H100 80GB HBM3", (9, 0)), ("NVIDIA A100-SXM4-80GB", (8, 0))]
PACKAGES = {"flash-attn": "2.8.3", "flash-attn-4": "4.0.0", "tokenspeed-fa3": "1.0"}
HOPPER_ONLY = ("flash3",)  # an A100 cannot run these commands, whatever the shape


def example_commands() -> list[list[str]]:
    """The sweeps of README and --help."""
    lines = [line.partition("  #")[0].strip() for line in (ROOT / "README.md").read_text().splitlines()]
    lines += list(EXAMPLES)
    sweeps = dict.fromkeys(line for line in lines if re.match(r"attn-lab (status )?(-m )?[a-z]+=", line))
    return [[word for word in shlex.split(line)[1:] if word != "status"] for line in sweeps
            if "hydra/launcher" not in line]  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "capability"), GPUS)
def test_every_sweep_of_readme_and_help_runs_on_the_gpus_it_is_for(name, capability, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gpu = Machine(device="cuda", name=name, memory=80 * 2**30, capability=capability, cudnn="91900", packages=PACKAGES)
    commands = example_commands()
    assert len(commands) > 8
    whole = []
    for words in commands:
        if capability < (9, 0) and any(only in word for only in HOPPER_ONLY for word in words):
            continue
        register_resolvers(lambda: "cuda")
        composition = compose(words)
        assert composition is not None
        cases = make_sweep(composition, lambda device: (gpu,), "attn-lab", lambda: None).cases
        reasons = [case.backend.unsupported_reasons(case.request, gpu) for case in cases]
        if not any(not each for each in reasons):
            whole.append((words, reasons[0]))
    assert not whole


def test_help_lists_the_keys_of_the_schema_and_no_other(door):
    said = door("--help").out
    measure = re.search(r"measure\.\{(.*?)\}", said).group(1).split(",")
    assert measure == list(Measure.__dataclass_fields__)
    assert door().out == said  # attn-lab alone


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, door):
    told = door(command, "--help")
    assert told.code == 0 and told.err == "" and f"attn-lab {command}" in told.out
    assert_nothing_written(told)


@pytest.mark.parametrize(("old", "new"), [("plan", "status"), ("plan-backends", "tune"), ("why", "explain")])
def test_an_old_command_names_the_new_one(old, new, door):
    assert_one_clear_line(door(old), old, new)


@pytest.mark.parametrize(
    ("words", "near"),
    [("docter", "doctor"), ("backend=naiv", "naive"), ("shape.seq_lenn=64", "seq_len"),
     ("+measure.sample=1", "samples"),
     ("ls --jsn", "--json"), ("doctor devic=cpu", "device"), ("backend=naive --config-dirr=x", "--config-dir"),
     ("diff a b --fail-on slowr", "slower")],
)  # fmt: skip
def test_a_mistyped_word_is_told_the_nearest(words, near, door):
    assert_one_clear_line(door(*words.split()), "did you mean", near)


def test_a_foreign_error_is_told_whole(door):
    assert_one_clear_line(door("backend=naive", "profile=all"), "+profile=all")
    told = door("backend._target_=your_package.YourBackend")
    assert_one_clear_line(told, "your_package.YourBackend", "No module named 'your_package'")


def test_runs_and_cases_are_listed_with_their_ids_and_shown_by_a_prefix(door):
    assert door("show").code == 0
    (record,) = door("probe=[accuracy]", "name=mine").records
    case_id = record["case"]["id"]
    assert json.loads(door("ls", "--json").out)[0]["run"] == "runs/mine"
    for words in (["show"], ["ls", "mine"], ["status", "probe=[accuracy]", "name=mine"]):
        assert case_id in door(*words).out
    assert json.loads(door("show", case_id[:5], "--json").out)["record"]["case"]["id"] == case_id
    assert_one_clear_line(door("ls", "mien"), "did you mean 'mine'")
    (case,) = json.loads(door("status", "probe=[accuracy]", "name=mine", "--json").out)["cases"]
    assert (case["id"], case["state"]) == (case_id, "done")


def test_explain_answers_for_a_gpu_that_is_not_here(door):
    answer = json.loads(door("explain", "shape=llama3_8b", "on=h100", "--json").out)
    assert answer["machine"] == "NVIDIA H100 80GB HBM3" and answer["training"]["backend"] == "flash4"
    assert_one_clear_line(door("explain", "on=h10"), "h100", "did you mean")


def test_an_error_after_planning_is_a_crash_not_a_bad_request(crew, monkeypatch):
    def broken(*given):
        raise ValueError("zip() argument 2 is shorter than argument 1")

    monkeypatch.setattr("attn_lab.run.sweep.execute", broken)
    with pytest.raises(ValueError, match="zip"):
        crew("probe=[accuracy]")


def test_version(door):
    told = door("--version")
    assert (told.code, told.out, told.err) == (0, f"attn-lab {__version__}\n", "")


def doctor_rows(out: str) -> dict[str, str]:
    """The table's rows by backend, wrapped lines joined."""
    rows: dict[str, str] = {}
    for line in out.splitlines()[2:]:
        name = line.split(" ", 1)[0]
        if name in BACKENDS:
            rows[name] = line
        elif rows and line.startswith(" "):
            rows[list(rows)[-1]] += " " + line.strip()
    return rows


def test_doctor_lists_every_backend(door):
    told = door("doctor", "device=cpu")
    assert told.code == 0 and told.err == ""
    assert list(doctor_rows(told.out)) == BACKENDS


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_doctor_calls_ready_runs_and_the_rest_is_refused(backend, door):
    row = doctor_rows(door("doctor", "device=cpu").out)[backend]
    told = door(f"backend={backend}", "passes=[forward]", "shape.seq_len=16", "probe=[accuracy,kernel_check]")
    assert told.code == (0 if " ready " in row else 1)
    (record,) = told.records
    if " ready " in row:
        assert record["status"] == "ok", record["reasons"]
    else:
        assert "nothing could run: 1 × " in told.out
        assert " not here " in row
        assert record["status"] == "unsupported" and record["reasons"]
        reason = record["reasons"][0].split(";")[0]
        assert reason in row, f"{reason!r} is not told by {row!r}"


@pytest.mark.parametrize("word", ["nonsense", "device=tpu", "device=", "backend=naive"])
def test_doctor_takes_a_device_and_nothing_else(word, door):
    assert_one_clear_line(door("doctor", word), "device", word.split("=")[-1])


def test_plain_output_has_no_escape_codes(lab):
    told = lab("backend=naive,sdpa_flash", "shape.seq_len=16", "probe=[accuracy]", TERM="xterm-256color")
    assert told.code == 0
    assert ESCAPE not in told.out + told.err and "\r" not in told.out
    assert told.err == ""
    assert "1/2" in told.out and "2/2" in told.out
    assert "runs/adhoc/records.jsonl" in told.out


def test_a_pipe_that_knows_only_ascii_gets_its_records_and_summary(lab):
    told = lab("backend=naive", "shape.seq_len=16", "probe=[accuracy,timing,memory]", PYTHONIOENCODING="ascii")
    assert told.code == 0, told.err
    assert told.statuses == ["ok"]


def test_a_reader_that_leaves_early_meets_no_traceback(tmp_path):
    """attn-lab … | head -1"""
    process = start(
        tmp_path, "seed=0,1,2", "shape.seq_len=16", "probe=[accuracy]", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait(timeout=60) == 0 and len((tmp_path / "runs/adhoc/records.jsonl").read_text().splitlines()) == 3
    assert "Traceback" not in err and "Exception" not in err, err


def test_a_terminal_sees_live_progress(tmp_path):
    ours, theirs = pty.openpty()
    words = ("seed=0,1", "shape.seq_len=16", "probe=[cold_start,accuracy,timing]")
    process = start(tmp_path, *words, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 1)[0]:
                continue
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux: the other end was closed
                break
            if not chunk:
                break
            seen += chunk
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        os.close(ours)
    text = seen.decode()
    assert ESCAPE in text
    assert "0/2" in text and "1/2" in text
    assert re.search("prepare|cold_start|accuracy|timing", text)
