"""Plans: each question has one bucket or one nearest, and of verified records only the fastest is planned."""

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment
from hypothesis import given
from hypothesis import strategies as st
from written import A100, line, rows, run

from attn_lab.cli.main import execute
from attn_lab.core.errors import BadRequest
from attn_lab.nn.auto.bucket import Bucket
from attn_lab.nn.auto.table import SHIPPED, DispatchTable, Entry, Ranking, shipped
from attn_lab.report.dispatch_table import plan_of

PUBLISHED = ROOT / "results/h100-2026-11-22-seed"
STEP = "forward_backward"
sizes = st.integers(1, 2**20)
powers = st.sampled_from([1 << power for power in range(18)])
buckets = st.builds(
    Bucket, mask=st.sampled_from(["causal", "full", "sliding_window window=256"]),
    dtype=st.sampled_from(["float16", "bfloat16"]), head_dim=st.sampled_from([64, 80, 128]),
    kv_ratio=st.sampled_from([1, 3, 8]), batch_heads=powers, seq_len=powers, seq_len_kv=powers,
)  # fmt: skip


def shape(**fields):
    made = {"batch_size": 2, "seq_len": 1000, "num_heads": 8, "head_dim": 64, "dtype": "float16"} | fields
    return {"num_kv_heads": made["num_heads"], "seq_len_kv": made["seq_len"]} | made


def table(*known: Bucket, **ms: float) -> DispatchTable:
    return DispatchTable(gpu="H100", entries={each: Entry({STEP: Ranking(ms or {"flash2": 1.0})}) for each in known})


@given(sizes, sizes, sizes)
def test_sizes_fall_into_the_bucket_of_the_power_of_two_they_are_nearest_to(batch, queries, keys):
    bucket = Bucket.of("full", shape(batch_size=batch, seq_len=queries, seq_len_kv=keys))
    for size, rounded in ((batch * 8, bucket.batch_heads), (queries, bucket.seq_len), (keys, bucket.seq_len_kv)):
        assert rounded & (rounded - 1) == 0
        assert all(abs(math.log(size / rounded)) <= abs(math.log(size / other)) + 1e-9
                   for other in (2 * rounded, rounded / 2))  # fmt: skip


@given(st.lists(buckets, min_size=1, max_size=8, unique=True), buckets)
def test_a_question_is_answered_by_its_own_bucket_or_the_nearest_or_none(known, asked):
    found = table(*known).find(asked, STEP)
    comparable = [
        each for each in known if (each.mask, each.dtype, each.square) == (asked.mask, asked.dtype, asked.square)
    ]
    if found is None:
        assert not comparable
        return
    assert found.exact == (asked in known) == (found.bucket == asked)
    assert found.bucket.far(asked) == min(each.far(asked) for each in comparable)
    assert table(*reversed(known)).find(asked, STEP) == found  # whatever the order in the file


def test_nearer_in_length_is_nearer_and_a_lone_query_is_no_training():
    short, long = (Bucket.of("causal", shape(seq_len=length)) for length in (512, 16384))
    known = table(short, long)
    assert known.find(Bucket.of("causal", shape(seq_len=1100)), STEP).bucket == short
    assert known.find(Bucket.of("causal", shape(seq_len=9000, batch_size=4)), STEP).bucket == long
    assert known.find(Bucket.of("causal", shape(seq_len=1, seq_len_kv=512)), STEP) is None
    assert known.find(short, "forward") is None  # of which it has no times
    assert Bucket.of("causal", shape(seq_len=1)) == Bucket.of("full", shape(seq_len=1))


def test_a_plan_is_what_was_written(tmp_path):
    known = Bucket.of("causal", shape())
    ranking = Ranking({"sdpa_cudnn+flash4": 0.8, "flash4": 0.9}, "0.8 ms, 1.12× faster than flash4")
    made = DispatchTable(
        "H100", {known: Entry({STEP: ranking}, ("16×1024",), {"naive": "oom: no"})}, {"commit": ["abc"]}
    )
    made.write(tmp_path / "deep/table.json")
    again = DispatchTable.read(tmp_path / "deep/table.json")
    assert (again.entries, again.gpu, again.made, again.digest) == (made.entries, made.gpu, made.made, made.digest)
    assert list(again.entries[known].passes[STEP].ms) == ["sdpa_cudnn+flash4", "flash4"]
    assert table(known, flash2=1.0).digest != table(known, flash2=1.1).digest != table(known, flash3=1.1).digest
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["table.json"]


GOOD = {
    "schema": 1, "gpu": "x", "made": {"by": "attn-lab tune"},
    "buckets": [{
        "mask": "full", "dtype": "float16", "head_dim": 64, "kv_ratio": 1, "batch_heads": 1, "seq_len": 1,
        "seq_len_kv": 1, "passes": {"forward": {"take": "naive", "why": "alone", "ms": {"naive": 1.5}}},
        "measured": ["1×1"], "could_not": {"flash2": "no"},
    }],
}  # fmt: skip
ESC = "\x1b]0;owned\x07"


def spoilt(path: str, value: object) -> str:
    """The good table with one field replaced; None removes it."""
    plain = copy.deepcopy(GOOD)
    *folders, last = ["buckets", 0, *path[1:].split(".")] if path.startswith(".") else path.split(".")
    place = plain
    for each in folders:
        place = place[each]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return json.dumps(plain)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "Expecting property name"),
        ("[]", "the whole \\[\\], which is no mapping"),
        ("[" * 100_000, "recursion"),
        ('{"schema": 7}', "schema 7; this version reads 1"),
        ('{"schema": "1"}', "schema '1'; this version reads 1"),
        *[(spoilt(key, None), "") for key in ("schema", "gpu", "made", "buckets", ".mask", ".dtype", ".head_dim",
                                              ".passes", ".measured", ".could_not", ".passes.forward.ms",
                                              ".passes.forward.why")],
        *[(spoilt(f".{size}", value), f"{size} .*no whole number above zero")
          for size in ("head_dim", "seq_len") for value in (0, -1, 1.5, True, "64", 10**400, [1])],
        *[(spoilt(".passes.forward.ms.naive", value), "which is no time")
          for value in ("1", [], {}, 0, -1, True, 10**400, float("nan"), float("inf"))],
        *[(spoilt(".passes.forward.ms", value), "") for value in ({}, [], {"auto": 1.0}, {"os.system": 1.0})],
        *[(spoilt(key, ESC), "no line of text|a pass|no list|no mapping") for key in (
            "gpu", "made.by", ".mask", ".dtype", ".passes.forward.why", ".measured", ".could_not",
            ".could_not.flash2")],
        (spoilt(".measured", [1]), "measured 1, which is no line of text"),
        (spoilt(".measured", [ESC]), "no line of text"),
        (spoilt("made.by", {"deep": [{"er": ESC}]}), "no line of text"),
        (spoilt(".could_not", {ESC: "no"}), "no line of text"),
        (spoilt(".passes", {"sideways": {"why": "", "ms": {"naive": 1.0}}}), "a pass 'sideways'"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_table_is_refused_in_a_line(text, told, tmp_path):
    assert DispatchTable.parsed(json.dumps(GOOD), source="here").gpu == "x"
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(
        BadRequest, match=rf"table .*table.json: expected a table of attn-lab tune; got .*({told})"
    ) as no:
        DispatchTable.read(tmp_path / "table.json")
    assert str(no.value).isprintable() and len(str(no.value)) < 600


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "absent", "binary", "large"])
def test_a_table_that_is_no_file_of_text_is_refused_and_never_waited_for(kind, tmp_path):
    path = tmp_path / "table.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe")
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(2**40)
    with pytest.raises(BadRequest, match=r"expected a (file|table) of attn-lab tune; got \S+"):
        DispatchTable.read(path)


def planned(tmp_path, *lines, left_out=None) -> dict:
    """The one bucket these records make, as its file has it."""
    made, found = plan_of(rows(tmp_path, *lines))
    assert left_out is None or dict(found) == left_out
    (bucket,) = json.loads(made.text)["buckets"]
    return bucket


def times(forward, backward, step=None):
    return {"forward": forward, "backward": backward, STEP: step or forward + backward}


def test_each_pass_has_its_own_fastest_pairs_included(tmp_path):
    bucket = planned(
        tmp_path, line("flash4", times(0.27, 0.59)), line("sdpa_cudnn", times(0.21, 0.74)),
        line("sdpa_cudnn+flash4", times(0.211, 0.60)), line("naive", times(4, 6)),
    )  # fmt: skip
    taken = {name: one["take"] for name, one in bucket["passes"].items()}
    assert taken == {"forward": "sdpa_cudnn", "backward": "flash4", STEP: "sdpa_cudnn+flash4"}
    assert list(bucket["passes"][STEP]["ms"]) == ["sdpa_cudnn+flash4", "flash4", "sdpa_cudnn", "naive"]
    assert (
        "0.811 ms, 1.06" in bucket["passes"][STEP]["why"] and "against flash4, unclear" in bucket["passes"][STEP]["why"]
    )
    assert not any("+" in name for one in ("forward", "backward") for name in bucket["passes"][one]["ms"])
    assert bucket["measured"] == ["16×1024×32×2048 float16"]


def test_who_was_not_verified_is_not_planned_however_fast(tmp_path):
    bucket = planned(
        tmp_path, line("flash2", 1.0), line("flash4", 0.1, status="incorrect", reasons=("dq: max error 3",)),
        line("flex", 0.2, round=0), line("flex", 0.2, round=1, status="error", reasons=("boom",)),
        line("naive", {}, status="oom", reasons=("no memory",)),
    )  # fmt: skip
    assert list(bucket["passes"][STEP]["ms"]) == ["flash2"]
    assert bucket["could_not"] == {
        "flash4": "incorrect: dq: max error 3", "flex": "error: boom", "naive": "oom: no memory"
    }  # fmt: skip


def noise(*ratios):
    """A baseline and its twin in as many rounds, that far apart."""
    for number, ratio in enumerate(ratios):
        for is_aa_repeat in (False, True):
            yield line(
                "naive",
                10.0 * (ratio if is_aa_repeat else 1),
                is_aa_repeat=is_aa_repeat,
                round=number,
                samples=2000,
                spread=0.001,
            )


def test_within_the_noise_one_library_is_taken_before_two_and_less_memory_before_more(tmp_path):
    quiet = list(noise(*[1.01] * 20))  # a floor of about 1 %
    few = {"spread": 0.001, "samples": 2000}
    level = planned(tmp_path / "a", *quiet, line("sdpa_cudnn+flash4", 1.0, **few), line("flash4", 1.005, **few))
    assert level["passes"][STEP]["take"] == "flash4"
    assert (
        "level with sdpa_cudnn+flash4 (1.00 ms, within noise) and taken as one library" in level["passes"][STEP]["why"]
    )
    apart = planned(tmp_path / "b", *quiet, line("sdpa_cudnn+flash4", 1.0, **few), line("flash4", 1.05, **few))
    assert apart["passes"][STEP]["take"] == "sdpa_cudnn+flash4"
    assert "faster than flash4" in apart["passes"][STEP]["why"]
    lean = planned(tmp_path / "c", *quiet, line("flash4", 1.0, peak=900, **few), line("flex", 1.005, peak=500, **few))
    assert lean["passes"][STEP]["take"] == "flex" and "takes the least memory" in lean["passes"][STEP]["why"]
    unmeasured = planned(tmp_path / "d", line("sdpa_cudnn+flash4", 1.0, **few), line("flash4", 1.05, **few))
    assert unmeasured["passes"][STEP]["take"] == "sdpa_cudnn+flash4"  # no A/A: 10 % is no licence to take the slower


def test_shapes_of_one_bucket_are_one_question(tmp_path):
    bucket = planned(
        tmp_path, line("flash2", 1.0, seq_len=1024), line("flash4", 1.2, seq_len=1024),
        line("flash2", 2.0, seq_len=1200), line("flash4", 1.0, seq_len=1200),
        line("naive", 0.1, seq_len=900),  # where it had no rivals it cannot win
    )  # fmt: skip
    assert list(bucket["passes"][STEP]["ms"]) == ["flash4", "flash2"]
    assert bucket["passes"][STEP]["ms"]["flash4"] == pytest.approx(1.2**0.5, rel=1e-3)
    assert len(bucket["measured"]) == 2


def test_windows_are_questions_of_their_own(tmp_path):
    def windowed(width, backend):
        record = line(backend, 1.0, mask="sliding_window")
        record["provenance"]["config"]["mask"] = {"_target_": "x", "window": width}
        return record

    made, _ = plan_of(rows(tmp_path, windowed(256, "flash2"), windowed(512, "flash4")))
    assert {each.mask for each in made.entries} == {"sliding_window window=256", "sliding_window window=512"}


def test_what_makes_no_plan_is_left_out_and_counted(tmp_path):
    planned(
        tmp_path, line("flash2", 1.0), line("flash2", 1.0, subject="layer"), line("auto", 0.5),
        left_out={"of subject=layer, which is more than attention": 1,
                  "of auto, which is none of attn_lab's own kernels": 1},
    )  # fmt: skip


def test_two_gpus_make_no_plan_and_neither_do_no_records(tmp_path):
    both = rows(tmp_path / "a", line("flash2", 1.0), line("flash2", 1.0, seq_len=64, machine=A100))
    with pytest.raises(BadRequest, match=r"of one GPU.*got NVIDIA A100-SXM4-80GB, NVIDIA H100"):
        plan_of(both)
    with pytest.raises(BadRequest, match=r"got none .no records"):
        plan_of([])
    with pytest.raises(BadRequest, match=r"expected run folders.*nowhere"):
        execute(["tune", str(tmp_path / "nowhere")])


def test_records_without_a_time_make_no_plan_and_leave_the_one_there_is(tmp_path):
    run(tmp_path / "runs", line("flash2", {}), line("flash4", 1.0, status="error"))
    (tmp_path / "table.json").write_text("of yesterday")
    with pytest.raises(BadRequest, match="came out ok and were timed; got none of 2"):
        execute(["tune", str(tmp_path / "runs"), "-o", str(tmp_path / "table.json")])
    assert (tmp_path / "table.json").read_text() == "of yesterday"


def test_the_published_study_makes_a_plan(tmp_path, capsys):
    assert execute(["tune", str(PUBLISHED), "-o", str(tmp_path / "table.json")]) == 0
    told = capsys.readouterr().out
    assert "buckets for NVIDIA H100 80GB HBM3, from 120 records" in told and "step: flash4 in" in told
    made = DispatchTable.read(tmp_path / "table.json")
    point = Bucket.of("causal", shape(batch_size=16, seq_len=1024, num_heads=32))
    assert {name: one.first for name, one in made.entries[point].passes.items()} == {
        "forward": "sdpa_cudnn", "backward": "flash4", STEP: "flash4"}  # fmt: skip
    assert "unsupported: passes" in made.entries[point].could_not["flash3"]
    run(tmp_path, line("flash2", 1.0))
    before = (tmp_path / "table.json").read_bytes()
    execute(["tune", str(PUBLISHED), "-o", str(tmp_path / "table.json")])
    assert (tmp_path / "table.json").read_bytes() == before  # of the same records the same table


def test_a_plan_that_is_shipped_is_for_its_own_gpu_and_what_its_published_records_give(tmp_path, monkeypatch):
    (file,) = SHIPPED.glob("*.json")
    measured = [str(PUBLISHED.parent / "h100-2026-11-26-layer" / name) for name in ("auto-measure", "pairs")]
    execute(["tune", *measured, "-o", str(tmp_path / "made.json")])
    assert (tmp_path / "made.json").read_bytes() == file.read_bytes()
    assert shipped("NVIDIA H100 80GB HBM3").digest == DispatchTable.read(file).digest
    monkeypatch.setattr("attn_lab.nn.auto.table.SHIPPED", tmp_path)
    shipped.cache_clear()
    table(Bucket.of("causal", shape())).write(tmp_path / "h100.json")
    assert shipped("H100").source == "shipped for H100" and shipped("H100").entries
    assert shipped("A100") is None
    shipped.cache_clear()


def test_the_table_tells_where_auto_is_slower_than_the_best_single(tmp_path):
    def rivals(seq_len, auto):
        note = {"selection/rank": {"value": 1, "unit": "", "note": "sdpa_cudnn+flash4, by table.json: …"}}
        yield line("auto", auto, seq_len=seq_len, metrics=note)
        for name, time in (("flash2", 2.0), ("flash4", 1.0), ("sdpa_cudnn+flash4", 0.8)):
            yield line(name, time, seq_len=seq_len)

    run(tmp_path, *rivals(512, 0.8), *rivals(1024, 1.0), *rivals(2048, 1.25))
    told = subprocess.run([sys.executable, ROOT / "scripts/auto_table.py", tmp_path], env=environment(tmp_path, {}),
                          text=True, capture_output=True, check=True).stdout  # fmt: skip
    assert "| 16×512×32×2048 float16 | causal | 2.00 | 1.00 | **0.800** | 0.800 | sdpa_cudnn+flash4 | 1.2" in told
    assert "on 3 shapes" in told and "slower than the best single at 1, faster at 1" in told
    assert "auto at 2.00× the speed of flash2, the geometric mean over 3 of them" in told
    assert "! 0.800× the best single at 16×2048×32×2048 float16 causal: slower" in told
