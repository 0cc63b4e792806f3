"""Runs as the lab leaves them on a disk, for tests that alter the data: records.jsonl, and samples/ beside it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attn_lab.records.reading import records
from attn_lab.records.record import Provenance, Record

H100 = {
    "device": "cuda",
    "name": "NVIDIA H100 80GB HBM3",
    "capability": [9, 0],
    "memory": 85 * 10**9,
    "driver": "580.9",
}
A100 = {**H100, "name": "NVIDIA A100-SXM4-80GB", "capability": [8, 0]}
Times = Mapping[str, float | Sequence[float]]  # of a pass: its median (p05 and p95 2 % off), or its samples


def line(
    backend: str, times: Times | float = 1.0, *, peak: float | None = None, status: str = "ok",
    reasons: tuple[str, ...] = (), round: int = 0, is_aa_repeat: bool = False, mask: str = "causal",
    subject: str = "kernel", metrics: Mapping[str, Any] = {}, spread: float = 0.02, samples: int = 100,
    options: Mapping[str, Any] = {},
    **fields: Any,
) -> dict[str, Any]:  # fmt: skip
    """One case's record as JSON; `fields` are of the shape or of the provenance, `options` of the backend."""
    given = {name: fields.pop(name) for name in list(fields) if name in Provenance.__annotations__}
    shape = {"batch_size": 16, "seq_len": 1024, "num_heads": 32, "emb_dim": 2048, "dtype": "float16", **fields}
    shape = {"num_kv_heads": shape["num_heads"], "seq_len_kv": shape["seq_len"],
             "head_dim": shape["emb_dim"] // shape["num_heads"], **shape}  # fmt: skip
    times = (
        {"forward": times, "backward": times, "forward_backward": times} if isinstance(times, int | float) else times
    )
    flops = 1e-9 * 2 * shape["batch_size"] * shape["seq_len"] ** 2 * shape["emb_dim"]
    seen: dict[str, Any] = {}
    kept: dict[str, list[float]] = {}
    for one, time in times.items():
        middle = float(np.median(time))
        low, high = (middle * (1 - spread), middle * (1 + spread))
        if not isinstance(time, int | float):
            kept[f"{one}/time"] = list(time)
            low, high = (float(each) for each in np.quantile(time, (0.05, 0.95)))
        count = samples if isinstance(time, int | float) else len(time)
        seen[f"{one}/time"] = {"value": middle, "unit": "ms", "low": low, "high": high, "samples": count, "note": ""}
        seen[f"{one}/tflops"] = {
            "value": flops / middle,
            "unit": "TFLOP/s",
            "low": None,
            "high": None,
            "samples": count,
        }
    if peak is not None:
        seen["memory/peak"] = {"value": peak, "unit": "MB", "low": None, "high": None, "samples": 1, "note": ""}
    config = {"backend": {"_target_": f"attn_lab.backends.{backend}", **options}, "passes": list(times)}
    provenance = {"machine": H100, "versions": {"torch": "2.11.0"}, "commit": "1a47a66d0c11", "dirty": False,
                  "config": config, "started": "2026-11-22T10:00:00+00:00", "sweep": "first",
                  "command": "", **given}  # fmt: skip
    case = {"backend": backend, "mask": mask, "subject": subject, "round": round, "shape": shape}
    if is_aa_repeat:
        case["is_aa_repeat"] = True
    case["id"] = hashlib.sha256(json.dumps([case, provenance["config"]], sort_keys=True).encode()).hexdigest()[:8]
    record = Record(case=case, status=status, reasons=list(reasons), metrics={**seen, **metrics},
                    provenance=Provenance(**provenance))  # type: ignore[arg-type]  # fmt: skip
    return {**json.loads(record.line()), "kept": kept}


def run(folder: Path, *lines: dict[str, Any] | str) -> Path:
    """The folder, with these lines as its records and the samples of those that have any."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    text = ""
    for each in lines:
        if isinstance(each, str):
            text += each
            continue
        record = {**each}
        if kept := record.pop("kept"):
            path = f"samples/{record['case']['id']}.npz"
            np.savez(folder / path, **{name: np.asarray(values) for name, values in kept.items()})
            size = (folder / path).stat().st_size
            record["artifacts"] = [{"kind": "samples", "path": path, "size": size}]
        text += json.dumps(record) + "\n"
    (folder / "records.jsonl").write_text(text, encoding="utf-8")
    return folder


def rows(folder: Path, *lines: dict[str, Any] | str) -> list[Record]:
    found = records(run(folder, *lines))
    assert not found.broken
    return found.records
