"""attn-lab nsight CASE…: a case under Nsight Compute or Systems; its report is kept, counters go into its record."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.text import Text

from attn_lab.config.build import packed, unpacked
from attn_lab.config.errors import explained
from attn_lab.config.trusted import check_targets
from attn_lab.core.backend import Backend
from attn_lab.core.errors import BadRequest
from attn_lab.measure.case import Case
from attn_lab.profiling.counters import ALSO, SECTIONS, counted, metrics, passes_of, patterns_of
from attn_lab.records.artifacts import File, artifact_path
from attn_lab.records.printable import printable
from attn_lab.records.record import Record
from attn_lab.records.store import RunStore, find_case
from attn_lab.report.file_tables import counters_table
from attn_lab.report.terminal import Terminal
from attn_lab.run.repro_command import composed

TOOLS = {"ncu": ("Nsight Compute", "/opt/nvidia/nsight-compute/*/ncu"),
         "nsys": ("Nsight Systems", "/opt/nvidia/nsight-systems/*/bin/nsys")}  # fmt: skip
PROBE = {"nvtx": {"_target_": "attn_lab.measure.probes.nvtx.Nvtx"}}
PASSES = ("forward", "backward")  # a step has the same kernels once more
MB = 2**20


def nsight(cases: Sequence[str], runs: Sequence[Path], name: str, keep_mb: float) -> int:
    """Looks at one case after the other.  Returns 0; raises BadRequest for what cannot be looked at, or with."""
    overrides = [word for word in cases if "=" in word]
    tool = _tool(name)
    chosen = [find_case(word, runs) for word in cases if word not in overrides]
    chosen += [_run_first(overrides)] if overrides else []
    for each in chosen:  # all of them, before the first is looked at
        _check(each)
    for each in chosen:
        _look(each, name, tool, keep_mb)
    return 0


def _run_first(overrides: list[str]) -> Record:
    """The record of the case these words ask for, from a sweep of its own: verified, and timed alone."""
    try:
        case, folder = composed(overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explained(error) from None
    subprocess.run([sys.executable, "-m", "attn_lab", *overrides, "aa_repeat=false", "report.enabled=false"],
                   env=os.environ | {"PYTHONPATH": _path()})  # fmt: skip
    return find_case(case.id, [folder])


def _check(record: Record) -> None:
    if record.status != "ok":
        raise BadRequest(f"nsight: expected a case that came out ok; got {record.id}, which is {record.status}")
    if record.provenance["machine"].get("device") != "cuda":
        raise BadRequest(f"nsight: expected a case that ran on a CUDA GPU; got {record.id}, on {record.machine}")


def _tool(name: str) -> str:
    title, usual = TOOLS[name]
    here = shutil.which(name) or next(map(str, sorted(Path("/").glob(usual[1:]), reverse=True)), None)
    if here is None:
        raise BadRequest(f"nsight: expected {title} ({name} on PATH, or {usual}); it is not installed here")
    return here


def _look(record: Record, name: str, tool: str, keep_mb: float) -> None:
    console = Terminal()
    case = case_under_nsight(record)
    with tempfile.TemporaryDirectory(prefix="attn-lab-nsight-") as work:
        folder = Path(work)
        with console.status(f"{case.label} under {name}"):
            report = _ran(case, name, tool, folder)
        files = [File("nsight", report)]
        seen: list[dict[str, Any]] = []
        if name == "ncu":
            seen = _counters(case, tool, report)
            (folder / "counters.json").write_text(json.dumps(seen, indent=1), encoding="utf-8")
            files.append(File("counters", folder / "counters.json"))
        least = json.loads((folder / "record.jsonl").read_text(encoding="utf-8"))["metrics"]
        notes = keep(record, files, dict(metrics(seen, least)), keep_mb)
    console.print(Text(f"{case.label}: {record.folder}/{artifact_path(record.id, report.name)}"), soft_wrap=True)
    for line in notes:
        console.print(Text(line), soft_wrap=True)
    if seen:
        console.print(counters_table(seen))


def case_under_nsight(record: Record) -> Case:
    """The case as it was asked, seen by the one probe that marks its passes.

    Raises BadRequest for a record whose configuration names anything but parts of attn_lab.
    """
    config = record.provenance["config"]
    passes = PASSES[:1] if list(config.get("passes") or ()) == ["forward"] else PASSES
    names = {each: record.case[each] for each in ("backend", "mask", "subject")}
    question = {"is_aa_repeat": False, **config, "probe": PROBE, "passes": passes}
    check_targets(question)
    try:
        return unpacked({"question": question, "names": names, "basis": {}, "timeout": 600.0})
    except Exception as error:  # noqa: BLE001  whatever a part of ours says to settings that are not its own
        why = printable(" ".join(str(error).split())[:300])
        raise BadRequest(f"nsight: expected a case that this version can build; {record.id}: {why}") from None


def _ran(case: Case, name: str, tool: str, folder: Path) -> Path:
    """The report.  Raises BadRequest if the tool made none, with what it said."""
    (folder / "case.json").write_text(json.dumps(packed(case)), encoding="utf-8")
    files = [str(folder / name) for name in ("case.json", "record.jsonl")]
    child = [sys.executable, "-m", "attn_lab.run.local.single_case", *files]
    report = folder / {"ncu": "nsight.ncu-rep", "nsys": "nsight.nsys-rep"}[name]
    if name == "ncu":
        sections = [word for each in SECTIONS for word in ("--section", each)]
        words = [tool, "--profile-from-start", "off", "--target-processes", "all", "--clock-control", "none",
                 "--kernel-name-base", "demangled", "--kernel-name", f"regex:{filter_of(case.backend)}", *sections,
                 "--metrics", ",".join(ALSO), "--force-overwrite", "--export", str(report), *child]  # fmt: skip
    else:
        words = [tool, "profile", "--capture-range=cudaProfilerApi", "--capture-range-end=stop", "--trace=cuda,nvtx",
                 "--force-overwrite=true", f"--output={report}", *child]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": _path()})
    record = folder / "record.jsonl"
    outcome = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {"status": "no record"}
    if outcome["status"] != "ok" or not report.is_file():
        raise BadRequest(f"nsight: {name} made no report of {case.label}: {_why(done, outcome)}")
    return report


def _path() -> str:
    """The child is to import what we have imported, wherever that lies."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


def _why(done: "subprocess.CompletedProcess[str]", outcome: Mapping[str, Any]) -> str:
    notes = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if any("ERR_NVGPUCTRPERM" in line for line in notes):
        return ("this user may not read the GPU's counters (ERR_NVGPUCTRPERM); run as root, or load the driver with "
                "NVreg_RestrictProfilingToAdminUsers=0")  # fmt: skip
    if reasons := outcome.get("reasons"):
        return f"{outcome['status']}: {'; '.join(reasons)}"
    texts = [line for line in notes if line.startswith("==ERROR==")] or notes[-1:]
    return texts[0].removeprefix("==ERROR== ").strip() if texts else f"it ended with exit code {done.returncode}"


def filter_of(backend: Backend) -> str:
    """One pattern for all kernels a backend declares, in the dialect of C++ that Nsight takes.

    Never narrower than they are: it has neither look-behind nor flags.
    """
    plain = []
    for pattern in dict.fromkeys(backend.kernels.values()):
        wide = re.sub(r"\(\?<[=!][^)]*\)", "", pattern)
        if wide.startswith("(?i)"):
            wide = re.sub(r"(?<!\\)[A-Za-z]", lambda one: f"[{one[0].lower()}{one[0].upper()}]", wide[4:])
        plain.append(f"({wide})")
    return "|".join(plain)


def _counters(case: Case, tool: str, report: Path) -> list[dict[str, Any]]:
    """Of each declared kernel that was looked at, with the pass it belongs to."""
    done = subprocess.run([tool, "--import", str(report), "--page", "raw", "--csv", "--print-units", "base",
                           "--print-kernel-base", "mangled"], capture_output=True, text=True)  # fmt: skip
    try:
        rows = counted(done.stdout)
    except ValueError as error:
        raise BadRequest(f"nsight: expected Nsight Compute's table of raw counters; {error}") from None
    passes = list(passes_of(case.backend, rows))
    if not passes:
        names = ", ".join(dict.fromkeys(row.name[:60] for row in rows)) or "none"
        raise BadRequest(f"nsight: expected kernels matching {filter_of(case.backend)!r}; looked at {names}")
    _, note = patterns_of(case.backend, rows)
    return [{"pass": name, "note": note, **asdict(row)} for name, row in passes]


def keep(record: Record, files: Sequence[File], counted_now: Mapping[str, Any], keep_mb: float) -> list[str]:
    """The record once more, with what was counted: a later line of the same case is the newer.

    Returns lines on what did not fit.  No other case's files are removed.
    """
    assert record.folder is not None
    with RunStore(record.folder, file_mb=keep_mb, prune=False) as store, store.lock():
        store.repair()
        names = {artifact_path(record.id, file.path.name) for file in files}
        before = [each for each in record.artifacts if each["path"] not in names]
        metrics = {**record.metrics, **counted_now}
        store.append(replace(record, metrics=metrics, artifacts=before, files=files))
        return store.notices
