"""Looking inside a case on a GPU: kernels with their launches, phases by kernel time, the allocator's own history."""

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Lab, Told

pytestmark = pytest.mark.gpu
SIZES = ("device=cuda", "shape.batch_size=4", "shape.seq_len=1024", "shape.num_heads=16", "shape.emb_dim=1024",
         "shape.dtype=float16")  # fmt: skip
LOOKED = (
    "probe=[accuracy,timing,memory]",
    "+profile=all",
    "subject=layer",
    "passes=[forward,backward,forward_backward]",
)


@pytest.fixture(scope="module")
def looked(lab_in: Lab, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """One layer on naive attention, which has kernels of many kinds, and one on a fused one."""
    told = lab_in(tmp_path_factory.mktemp("looked"), "-m", "backend=naive,sdpa_flash", *SIZES, *LOOKED)
    assert told.statuses == ["ok", "ok"], told.out + told.err
    return told


def value(told: Told, metric: str, record: int = 0) -> float:
    return float(told.records[record]["metrics"][metric]["value"])


def test_kernels_are_told_with_how_they_were_launched(looked: Told) -> None:
    table = json.loads(looked.artifacts("kernels", 1)[0].read_text())
    for name, pattern in (("forward", "flash_fwd"), ("backward", "flash_bwd")):
        own = [each for each in table[name]["kernels"] if each["attention"]]
        assert own and all(pattern in each["name"] for each in own)
        for each in own:
            assert min(each["grid"]) >= 1 and min(each["block"]) >= 1
            assert each["registers"] > 0 and 0 <= each["occupancy"] <= 100
        assert 0 < table[name]["ms"] <= table[name]["span_ms"] * 1.001
    # Projections are most of what is left: the attention's share is neither nothing nor all.
    assert 5 < value(looked, "forward/attention_kernels", 1) < 95


@pytest.mark.parametrize("record", [0, 1])
def test_phases_add_up_to_the_step_and_no_kernel_is_lost(looked: Told, record: int) -> None:
    metrics = looked.records[record]["metrics"]
    parts = {name: each["value"] for name, each in metrics.items()
             if name.startswith("phases/") and name not in ("phases/step", "phases/of_timed")}  # fmt: skip
    assert sum(parts.values()) == pytest.approx(metrics["phases/step"]["value"], rel=0.03)
    elsewhere = sum(ms for name, ms in parts.items() if name.endswith("elsewhere"))
    assert elsewhere < 0.05 * sum(parts.values())
    for direction in ("forward", "backward"):
        for part in ("qkv_projection", "attention", "output_projection"):
            assert parts[f"phases/{direction}/{part}"] > 0
    assert parts["phases/backward/attention"] > parts["phases/forward/attention"]


def test_the_peak_is_explained_to_the_line(looked: Told) -> None:
    for record in (0, 1):
        assert 95 <= value(looked, "snapshot/explained", record) <= 101
        assert value(looked, "snapshot/peak", record) >= 0.99 * value(looked, "memory/peak", record)
    (snapshot,) = looked.artifacts("snapshot")
    with snapshot.open("rb") as file:
        history: dict[str, Any] = pickle.load(file)
    taken = [each for each in history["device_traces"][0] if each["action"] == "alloc"]
    assert len(taken) > 5
    largest = json.loads(looked.artifacts("live")[0].read_text())["largest"]
    scores = 4 * 16 * 1024 * 1024 * 2
    lines = [each["line"] for each in largest if each["bytes"] == scores and "gradient" not in each["line"]]
    found = [re.search(r"_materialised\.py:(\d+) ", line) for line in lines]
    assert any(found)
    source = (ROOT / "attn_lab/backends/_materialised.py").read_text().splitlines()
    assert any(re.search(r"softmax|@|matmul|where|masked", source[int(each[1]) - 1]) for each in found if each)


def test_nsight_counts_what_the_declared_kernels_do(looked: Told, lab_in: Lab) -> None:
    here = shutil.which("ncu") or next(Path("/opt/nvidia/nsight-compute").glob("*/ncu"), None)
    case = looked.records[1]["case"]["id"]
    told = lab_in(looked.folder, "nsight", case)
    if here is None or "ERR_NVGPUCTRPERM" in told.err:
        assert told.code == 2 and "attn-lab: nsight: " in told.err
        pytest.skip("no Nsight Compute that may count here; refused as it should be")
    assert told.code == 0, told.out + told.err
    record = looked.records[-1]
    assert record["case"]["id"] == case and record["status"] == "ok" and "forward/time" in record["metrics"]
    for name in ("forward", "backward"):
        metrics = {key.rpartition("/")[2]: each["value"] for key, each in record["metrics"].items()
                   if key.startswith(f"nsight/{name}/")}  # fmt: skip
        assert metrics["time"] > 0 and 0 < metrics["sm_busy"] <= 100 and 0 < metrics["occupancy_achieved"] <= 100
        assert metrics["tensor_cores"] > 0 and metrics["dram_over_min"] > 0
        assert any(key.startswith("stalled") for key in metrics)
    assert {"nsight", "counters"} < {each["kind"] for each in record["artifacts"]}
