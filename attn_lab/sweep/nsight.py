"""attn-lab nsight CASE…: a case under Nsight Compute or Systems; its report is kept, counters go into its record."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text

from attn_lab.bench.case import Case
from attn_lab.bench.files import File, Shelf, place
from attn_lab.core.backend import Backend
from attn_lab.core.errors import BadRequest
from attn_lab.sweep.again import composed
from attn_lab.sweep.build import packed, unpacked
from attn_lab.sweep.counters import ALSO, SECTIONS, counted, metrics, passes_of, patterns_of
from attn_lab.sweep.counters_table import counters_table
from attn_lab.sweep.explain import explained
from attn_lab.sweep.folder import RunFolder
from attn_lab.sweep.kept import Kept, found

TOOLS = {"ncu": ("Nsight Compute", "/opt/nvidia/nsight-compute/*/ncu"),
         "nsys": ("Nsight Systems", "/opt/nvidia/nsight-systems/*/bin/nsys")}  # fmt: skip
PROBE = {"nvtx": {"_target_": "attn_lab.probes.nvtx.Nvtx"}}
PASSES = ("forward", "backward")  # a step has the same kernels once more
MB = 2**20


def nsight(cases: Sequence[str], runs: Sequence[Path], name: str, keep_mb: float) -> int:
    """Looks at one case after the other.  Returns 0; raises BadRequest for what cannot be looked at, or with."""
    overrides = [word for word in cases if "=" in word]
    tool = _tool(name)
    chosen = [found(word, runs) for word in cases if word not in overrides]
    chosen += [_run_first(overrides)] if overrides else []
    for each in chosen:  # all of them, before the first is looked at
        _check(each)
    for each in chosen:
        _look(each, name, tool, keep_mb)
    return 0


def _run_first(overrides: list[str]) -> Kept:
    """The record of the case these words ask for, from a sweep of its own: verified, and timed without anybody near."""
    try:
        case, folder = composed(overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explained(error) from None
    subprocess.run([sys.executable, "-m", "attn_lab", *overrides, "again=false", "report.at_end=false"],
                   env=os.environ | {"PYTHONPATH": _path()})  # fmt: skip
    return found(case.id, [folder])


def _check(kept: Kept) -> None:
    case, machine = kept.record["case"], kept.record["provenance"]["machine"]
    if kept.record["status"] != "ok":
        raise BadRequest(
            f"nsight: expected a case that came out ok; got {case['id']}, which is {kept.record['status']}"
        )
    if machine.get("device") != "cuda":
        raise BadRequest(f"nsight: expected a case that ran on a CUDA GPU; got {case['id']}, on {machine.get('name')}")


def _tool(name: str) -> str:
    title, usual = TOOLS[name]
    here = shutil.which(name) or next(map(str, sorted(Path("/").glob(usual[1:]), reverse=True)), None)
    if here is None:
        raise BadRequest(f"nsight: expected {title} ({name} on PATH, or {usual}); it is not installed here")
    return here


def _look(kept: Kept, name: str, tool: str, keep_mb: float) -> None:
    console = Console()
    case, case_id = case_under_nsight(kept), kept.record["case"]["id"]
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
        keep(kept, files, dict(metrics(seen, least)), keep_mb)
    console.print(Text(f"{case.label}: {kept.folder / place(case_id, report.name)}"), soft_wrap=True)
    if seen:
        console.print(counters_table(seen))


def case_under_nsight(kept: Kept) -> Case:
    """The case as it was asked, seen by the one probe that marks its passes."""
    record = kept.record
    config = record["provenance"]["config"]
    passes = PASSES[:1] if list(config["passes"]) == ["forward"] else PASSES
    names = {each: record["case"][each] for each in ("backend", "mask", "subject")}
    question = {**config, "probe": PROBE, "passes": passes}
    return unpacked({"question": question, "names": names, "basis": {}, "timeout": 600.0})


def _ran(case: Case, name: str, tool: str, folder: Path) -> Path:
    """The report.  Raises BadRequest if the tool made none, with what it said."""
    (folder / "case.json").write_text(json.dumps(packed(case)), encoding="utf-8")
    child = [sys.executable, "-m", "attn_lab.sweep.alone", str(folder / "case.json"), str(folder / "record.jsonl")]
    report = folder / {"ncu": "nsight.ncu-rep", "nsys": "nsight.nsys-rep"}[name]
    if name == "ncu":
        sections = [word for each in SECTIONS for word in ("--section", each)]
        words = [tool, "--profile-from-start", "off", "--target-processes", "all", "--clock-control", "none",
                 "--kernel-name-base", "demangled", "--kernel-name", f"regex:{filter_of(case.who)}", *sections,
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
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if any("ERR_NVGPUCTRPERM" in line for line in said):
        return ("this user may not read the GPU's counters (ERR_NVGPUCTRPERM); run as root, or load the driver with "
                "NVreg_RestrictProfilingToAdminUsers=0")  # fmt: skip
    if reasons := outcome.get("reasons"):
        return f"{outcome['status']}: {'; '.join(reasons)}"
    told = [line for line in said if line.startswith("==ERROR==")] or said[-1:]
    return told[0].removeprefix("==ERROR== ").strip() if told else f"it ended with exit code {done.returncode}"


def filter_of(who: Backend) -> str:
    """One pattern for all kernels a backend declares, in the dialect of C++ that Nsight takes.

    Never narrower than they are: it has neither look-behind nor flags.
    """
    plain = []
    for pattern in dict.fromkeys(who.kernels.values()):
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
    passes = list(passes_of(case.who, rows))
    if not passes:
        names = ", ".join(dict.fromkeys(row.name[:60] for row in rows)) or "none"
        raise BadRequest(f"nsight: expected kernels matching {filter_of(case.who)!r}; looked at {names}")
    _, note = patterns_of(case.who, rows)
    return [{"pass": name, "note": note, **asdict(row)} for name, row in passes]


def keep(kept: Kept, files: Sequence[File], counted_now: Mapping[str, Any], keep_mb: float) -> None:
    """The record once more, with what was counted: a later line of the same case is the newer."""
    folder = RunFolder(kept.folder)
    try:
        folder.repair()
        case_id = kept.record["case"]["id"]
        entries = Shelf(kept.folder, keep_mb, 64 * keep_mb).take(case_id, files)
        names = {entry["path"] for entry in entries}
        before = [each for each in kept.record["artifacts"] if each["path"] not in names]
        record = {**kept.record, "metrics": {**kept.record["metrics"], **counted_now}, "artifacts": [*before, *entries]}
        with (kept.folder / "records.jsonl").open("ab") as file:
            file.write(json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n")
    finally:
        folder.close()
