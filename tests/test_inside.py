"""Looking inside a case: what the files that probes leave really hold, and that a sweep keeps no more than it may."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab, Told

from attn_lab.bench.files import File, Shelf

SMALL = ("shape.seq_len=64", "shape.batch_size=2")


def artifact(told: Told, kind: str, record: int = 0) -> list[Path]:
    entries = [each for each in told.records[record]["artifacts"] if each["kind"] == kind]
    paths = [told.folder / "runs/adhoc" / each["path"] for each in entries]
    assert [path.stat().st_size for path in paths] == [each["size"] for each in entries]
    return paths


def test_a_trace_holds_each_pass_and_its_table_the_attention_operator(lab: Lab, tmp_path: Path) -> None:
    """By worker processes: what is large goes by its path."""
    told = lab("backend=sdpa_flash", "+profile=trace", "subject=layer", *SMALL, TMPDIR=str(tmp_path))
    assert told.statuses == ["ok"], told.err
    (trace,) = artifact(told, "trace")
    with gzip.open(trace, "rt") as file:
        events = json.load(file)["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert [name for name in names if name.startswith("pass: ")] == 2 * [
        "pass: forward", "pass: backward", "pass: forward_backward"
    ]  # fmt: skip
    table, markdown = artifact(told, "kernels")
    passes = json.loads(table.read_text())
    flash = {"forward": "aten::_scaled_dot_product_flash_attention_for_cpu",
             "backward": "aten::_scaled_dot_product_flash_attention_for_cpu_backward"}  # fmt: skip
    for name, operator in flash.items():
        rows = passes[name]["kernels"]
        assert [(row["name"], row["count"]) for row in rows if row["attention"]] == [(operator, 1)]
        assert sum(row["share"] for row in rows) == pytest.approx(100)
        assert re.search(rf"### {name}: .*\n(.*\n)*\| ● \| `{operator}` \|", markdown.read_text())
    assert {row["name"] for row in passes["forward_backward"]["kernels"] if row["attention"]} == set(flash.values())
    # What ran in a pass must not be more than the pass took, nor so little that half of it was missed.
    metrics = told.records[0]["metrics"]
    for name in passes:
        assert passes[name]["ms"] == metrics[f"{name}/kernel_time"]["value"] <= passes[name]["span_ms"]
        assert 0 < metrics[f"{name}/attention_share"]["value"] < 100
        assert 20 < metrics[f"{name}/busy"]["value"] <= 100
    assert not list(tmp_path.glob("attn-lab-scratch-*")), "scratch files are left behind"


def test_who_looks_inside_does_so_after_every_clock(door: Lab) -> None:
    told = door("probe=[accuracy,trace,timing]")
    assert told.code == 2
    assert "probe: expected trace after timing (what is looked into is not timed)" in told.err
    told = door("probe=[trace]")
    assert "probe: expected accuracy before trace" in told.err


def test_a_sweep_keeps_the_newest_profiles_and_says_what_it_removed(door: Lab) -> None:
    told = door(
        "+profile=trace", "round=0,1,2,3", "logger.jsonl.total_mb=0.05", "measure.samples=3", "measure.least=1",
        "shape.seq_len=8",
    )  # fmt: skip
    assert told.code == 0
    kept = [path for path in (told.folder / "runs/adhoc/profile").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in kept) <= 0.05 * 2**20
    indexed = [{each["path"] for each in record["artifacts"] if each["kind"] == "trace"} for record in told.records]
    there = {str(path.relative_to(told.folder / "runs/adhoc")) for path in kept}
    assert indexed[-1] <= there and not indexed[0] <= there
    written = sum(each["kind"] in ("trace", "kernels") for record in told.records for each in record["artifacts"])
    assert f"{written - len(kept)} of the oldest profile files removed (logger.jsonl.total_mb=0.05)" in told.out


def test_a_file_past_its_limit_is_left_out_and_the_record_says_why(door: Lab) -> None:
    told = door("+profile=trace", "logger.jsonl.file_mb=0.004", "measure.samples=3", "measure.least=1")
    (entry,) = [each for each in told.records[0]["artifacts"] if each["kind"] == "trace"]
    assert entry["path"] is None and entry["size"] > 0.004 * 2**20
    assert re.fullmatch(r"trace.json.gz left out: \d\.\d MB, more than logger.jsonl.file_mb=0.004", entry["note"])
    assert "profile files left out (logger.jsonl.file_mb=0.004)" in told.out
    assert artifact(told, "samples")


@pytest.mark.parametrize("value", ["0", "-1", "x", "null", "true"])
def test_a_limit_that_is_none_is_refused_before_any_case_runs(door: Lab, value: str) -> None:
    told = door(f"logger.jsonl.total_mb={value}")
    assert told.code == 2
    assert "logger.jsonl.total_mb: expected more than 0 (MB); got" in told.err
    assert not told.lines


def test_a_file_goes_into_the_folder_whole_or_not_at_all(tmp_path: Path) -> None:
    def left(name: str, content: bytes) -> File:
        path = tmp_path / "scratch" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return File("trace", path)

    run = tmp_path / "run"
    shelf = Shelf(run, 1, 2)
    entries: list[Any] = shelf.take("one", [left("a", b"first")])
    shelf.take("one", [left("a", b"second")])  # the same case, run again
    assert (run / entries[0]["path"]).read_bytes() == b"second"
    (run / "profile/two/b").mkdir(parents=True)  # where it is to go, nothing can be put
    with pytest.raises(OSError, match="profile/two/b"):
        shelf.take("two", [left("b", b"third")])
    assert [path.name for path in (run / "profile/two").iterdir()] == ["b"]
