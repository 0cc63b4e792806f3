"""What readers of the reports are told: the records' numbers, the speed of right answers only, nobody's markup."""

import io
import json
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from attn_lab.records.broken import BrokenLines
from attn_lab.records.reading import records
from attn_lab.records.record import STATUSES, Measurement, Provenance, Record
from attn_lab.report import compare
from attn_lab.report.console import summary

H100 = {
    "device": "cuda",
    "name": "NVIDIA H100 80GB HBM3",
    "capability": [9, 0],
    "memory": 85 * 10**9,
    "driver": "580.9",
}
NASTY = "[bold]x[/bold] :smile: \x1b[31m<script>alert(1)</script> | `a` *b* _c_ $d$ ![i](u) https://e.org\nnext"
SHOWN = "[bold]x[/bold] :smile: \\x1b[31m<script>alert(1)</script> | `a` *b* _c_ $d$ ![i](u) https://e.org next"
TIMES = {"naive": (8.0, 12.0, 20.0, 8770.0), "flash2": (0.305, 0.917, 1.21, 677.0), "lazy": (10.0, 12.0, 25.0, 9000.0)}


def record(backend: str = "flash2", status: str = "ok", reasons: tuple[str, ...] = (), *, drop: str = "never",
           times: tuple[float, ...] | None = None, round: int = 0, mask: str = "causal", id: str | None = None,
           **fields: Any) -> Record:  # fmt: skip
    """One case's record; `fields` are of the shape, of the provenance, or `metrics` to put over the usual ones."""
    given = {name: fields.pop(name) for name in list(fields) if name in Provenance.__annotations__}
    extra = fields.pop("metrics", {})
    shape = {"batch_size": 16, "seq_len": 1024, "num_heads": 32, "emb_dim": 2048, "dtype": "float16", **fields}
    shape = {"num_kv_heads": shape["num_heads"], "seq_len_kv": shape["seq_len"],
             "head_dim": shape["emb_dim"] // shape["num_heads"], **shape}  # fmt: skip
    seen = []
    times = times or TIMES.get(backend, (1.0, 2.0, 3.0, 1000.0))
    for one, time in zip(("forward", "backward", "forward_backward"), times, strict=False):
        seen.append(
            Measurement(name=f"{one}/time", value=time, unit="ms", low=time * 0.98, high=time * 1.05, samples=99)
        )
        seen.append(Measurement(name=f"{one}/tflops", value=100 / time, unit="TFLOP/s"))
    seen.append(Measurement(name="memory/peak", value=times[3], unit="MB"))
    seen.append(Measurement(name="accuracy/out", value=0.31, unit="of allowed"))
    seen.append(
        Measurement(name="kernel_check/kernels", value=1, unit="launches", note="forward: flash::flash_fwd<64>")
    )
    case = {"backend": backend, "mask": mask, "subject": "kernel", "round": round, "shape": shape}
    provenance = {"machine": H100, "versions": {"torch": "2.11.0"}, "commit": "1a47a66d0c11", "dirty": False,
                  "config": {}, "started": "2026-11-22T10:00:00+00:00", "sweep": "first",
                  "command": "", **given}  # fmt: skip
    metrics = {one.name: one.as_json() for one in seen if drop not in one.name}
    case["id"] = id or f"{hash(str(case)) & 0xFFFFFFFF:08x}"
    return Record(case=case, status=status, reasons=list(reasons), metrics={**metrics, **extra},
                  provenance=Provenance(**provenance))  # fmt: skip


def write(folder: Path, *lines: Record | str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(line.line() if isinstance(line, Record) else line for line in lines)
    (folder / "records.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Any:
    return lambda *lines: records(write(tmp_path / "run", *lines)).records


def printed(rows: list[Record], width: int = 160, **options: Any) -> str:
    file = io.StringIO()
    summary(rows, Console(file=file, width=width), **options)
    return file.getvalue()


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.split()[:1] == [start])


def test_broken_lines_are_named_and_cost_only_themselves(tmp_path: Path) -> None:
    whole = record().line()
    other = json.loads(whole)
    lines = [whole, "{\n", "\n", whole[:100] + "\n", "[1]\n", "null\n", json.dumps({**other, "schema": 3}) + "\n",
             json.dumps({**other, "status": "fine"}) + "\n", "\\xff\n", record("naive").line().rstrip()]  # fmt: skip
    found = records(write(tmp_path, *lines))
    assert [row.backend for row in found.records] == ["flash2", "naive"]  # the last needs no newline to be whole
    assert [int(line.split(":")[1]) for line in found.broken] == [2, 4, 5, 6, 7, 8, 9]
    assert "schema 3" in found.broken[4] and "'fine'" in found.broken[5]
    assert str(tmp_path / "records.jsonl") in found.broken[0]


@pytest.mark.parametrize(
    "path", ["case.shape", "case.backend", "case.shape.seq_len", "metrics", "provenance.machine", "reasons"]
)
@pytest.mark.parametrize("value", [None, 3.5, "text", [], {"a": 1}])
def test_no_foreign_value_ends_the_reading(tmp_path: Path, path: str, value: Any) -> None:
    altered = json.loads(record().line())
    *way, last = path.split(".")
    inner = altered
    for name in way:
        inner = inner[name]
    inner[last] = value
    found = records(write(tmp_path, json.dumps(altered) + "\n", record("naive")))
    assert found.records[-1].backend == "naive"
    printed(found.records)


def test_of_many_broken_lines_the_first_are_named_and_all_counted(tmp_path: Path) -> None:
    found = records(write(tmp_path, *["{\n"] * 1000, record()))
    assert found.broken.total == 1000 and len(found.records) == 1
    assert len(found.broken) == BrokenLines.MOST_NAMED + 1
    assert found.broken[-1] == f"… and {1000 - BrokenLines.MOST_NAMED} more broken lines"


def test_lines_that_a_later_one_replaces_take_no_memory(tmp_path: Path) -> None:
    """A million lines of a few cases, read again and again, must not fill the memory: here in small."""

    def peak(count: int) -> int:
        lines = [record(id=str(number), times=(number + 1.0, 1, 1, 1)).line() for number in range(4)]
        write(tmp_path / str(count), *lines * count)
        tracemalloc.start()
        found = records(tmp_path / str(count))
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(found.records) == 4
        return highest

    assert peak(500) < 2 * peak(5)


def test_a_rerun_replaces_and_a_sweep_is_selected(tmp_path: Path) -> None:
    old = record(id="same", times=(1.0, 1, 1, 1), sweep="a")
    new = record(
        id="same", times=(2.0, 1, 1, 1), sweep="b", started="2026-11-22T09:59:59+00:00"
    )  # the clock was set back
    write(tmp_path, old, record("naive", sweep="a"), new)
    assert [row.number("forward/time") for row in records(tmp_path).records if row.id == "same"] == [2.0]
    assert [row.number("forward/time") for row in records(tmp_path, sweep="a").records if row.id == "same"] == [1.0]
    assert len(records(tmp_path, newest=False).records) == 3


def test_between_folders_the_later_start_wins(tmp_path: Path) -> None:
    late = write(tmp_path / "late", record(id="same", times=(2.0, 1, 1, 1), started="2026-11-23T00:00:00+00:00"))
    early = write(tmp_path / "early", record(id="same"))
    assert [row.number("forward/time") for row in records([late, early]).records] == [2.0]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        records(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no records\.jsonl"):
        records(tmp_path)


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "ok"])
def test_only_ok_cases_have_numbers(rows: Any, status: str) -> None:
    (row,) = rows(record(status=status, reasons=("why",)))
    assert "forward/time" in row.metrics and row.number("forward/time") is None


def test_numbers_that_are_none(rows: Any) -> None:
    metrics = {
        "forward/time": {"value": float("nan"), "unit": "ms"},
        "backward/time": {"value": None},
        "memory/peak": {},
    }
    (row,) = rows(record(metrics=metrics))
    assert [row.number(name) for name in (*metrics, "absent")] == [None] * 4
    assert not re.search("nan|none|true", printed([row]).split("Against")[0].lower())


def test_reading_loads_nothing_heavy() -> None:
    code = ("import sys, attn_lab.records.store, attn_lab.report.compare, attn_lab.report.command; "
            "heavy = {'torch', 'pandas', 'hydra', 'wandb', 'altair', 'jinja2', 'pyarrow'}; "
            "print(sorted(heavy & set(sys.modules)))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@settings(deadline=None)  # the machine may be busy
@given(st.floats(min_value=1e-6, max_value=1e9))
def test_three_digits_keep_the_value(value: float) -> None:
    shown = compare.digits(value)
    assert float(shown) == pytest.approx(value, rel=0.0051)
    assert len(re.sub(r"e.*|\.", "", shown).lstrip("0")) >= min(3, len(shown))


DIGITS = {9.999: "10.0", 0.0999951: "0.100", 8770.4: "8770", 0: "0", None: "–", 99.96: "100", -2.5: "-2.50"}


@pytest.mark.parametrize(("value", "shown"), DIGITS.items())
def test_digits(value: float | None, shown: str) -> None:
    assert compare.digits(value) == shown


def test_rounds_pool_and_a_failed_round_fails_the_case(rows: Any) -> None:
    several = [record(times=(time, 1, 1, 1), round=round) for round, time in enumerate((1.0, 9.0, 2.0))]
    (row,) = compare.pooled(rows(*several))
    assert (row.number("forward/time"), row.number("forward/time", "low")) == (2.0, 0.98)
    (row,) = compare.pooled(rows(*several, record("flash2", "incorrect", ("dq",), round=3)))
    assert row.status == "incorrect" and row.number("forward/time") is None


def test_two_windows_and_two_builds_are_not_rounds_of_one_case(rows: Any) -> None:
    windows = [record(mask="sliding_window", config={"mask": {"window": window}}, id=str(window)) for window in (8, 64)]
    assert len(compare.pooled(rows(*windows))) == 2
    (builds,) = compare.disambiguate(rows(record(id="aaaa"), record(id="bbbb")), ids=True)
    assert [row.backend for row in compare.pooled(builds)] == ["flash2 aaaa", "flash2 bbbb"]


@pytest.mark.parametrize("width", [80, 160])
def test_the_terminal_shows_the_records_numbers(rows: Any, width: int) -> None:
    text = printed(rows(*(record(backend, seq_len=seq_len) for seq_len in (512, 1024) for backend in TIMES)), width)
    assert max(map(len, text.splitlines())) <= width and "\x1b" not in text
    cases = [line.split() for line in text.split("Against")[0].splitlines() if " ok " in f"{line} "]
    assert len(cases) == 7  # and the count of cases above them
    for cells in cases[1:]:
        forward, backward, step, peak = TIMES[cells[cells.index("ok") - 1]]
        shown = [float(cell) for cell in cells[cells.index("ok") + 1 :]]
        wanted = [forward, 100 / forward, backward, 100 / backward, step, 100 / step, peak]
        assert shown == pytest.approx(wanted, rel=0.006)


def test_speedups_are_said_and_slower_is_called_slower(rows: Any) -> None:
    text = printed(rows(*map(record, TIMES))).split("Against naive")[1]
    assert line_of(text, "flash2").endswith(
        "16×1024×32×2048 float16: forward 26.2× (26.0–26.5), backward 13.1× (13.0–13.2), step 16.5× (16.4–16.7) faster"
        "; peak memory 7.7 % of naive's"
    )
    assert line_of(text, "lazy").endswith(
        "backward 1.00× (0.99–1.01) same; forward 0.800× (0.793–0.807), step 0.800× (0.793–0.807) slower; "
        "peak memory 103 % of naive's"
    )
    assert "no A/A was run: under 10 % nothing is claimed" in text
    faster = printed(rows(record("naive"), record(times=(0.1525, 0.917, 1.21, 677.0))))
    assert "forward 52.5× (52.0–52.9)" in faster


@pytest.mark.parametrize("status", [None, "oom", "unsupported", "incorrect"])
def test_without_its_baseline_nothing_is_divided(rows: Any, status: str | None) -> None:
    told = printed(rows(record(), *[record("naive", status or "ok", ("why not",))] * bool(status)))
    assert "×," not in told and "faster" not in told
    assert ("naive was not run here" if status is None else f"naive is {status} here") in told


def test_a_forward_alone_is_not_compared_with_the_memory_of_a_step(rows: Any) -> None:
    told = printed(rows(record("naive"), record("flash3", drop="backward", times=(0.272, 1, 1, 600.0))))
    assert line_of(told.split("Against")[1], "flash3").endswith("forward 29.4× (29.2–29.7) faster")


def test_failed_cases_show_their_reason_and_no_number(rows: Any) -> None:
    long = "head_dim must be at most 192; got 256, and " + "so on " * 30
    wrong = record("fast", "incorrect", ("dq: max error 3", "second reason"), times=(0.123, 0.456, 0.789, 55.5))
    text = printed(rows(record("naive"), wrong, record("picky", "unsupported", (long,))), 80)
    assert not re.search(r"0\.123|0\.456|0\.789|55\.5|813", text)
    assert line_of(text, "fast") == "fast     incorrect    dq: max error 3"
    assert line_of(text, "picky").endswith("…")
    footer = " ".join(text.split("Reasons")[1].split())
    assert "second reason" in footer and "".join(long.split()) in "".join(footer.split())


def test_nothing_ok_and_nothing_at_all(rows: Any) -> None:
    assert "nothing to compare" in printed(rows(record("naive", "oom", ("too big",))))
    assert printed([]).strip() == "0 cases"
    assert "not read: a:1: torn" in printed([], broken=["a:1: torn"])


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_markup_and_escapes_in_records_are_shown_literally(rows: Any, encoding: str) -> None:
    cases = [record("naive"), record("[red]b\x1b[2J"), record("x", "error", (NASTY,))]
    found = rows(*(replace(one, provenance={**one.provenance, "machine": {"name": "[i]GPU"}}) for one in cases))
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding) as file:
        summary(found, Console(file=file, width=200, force_terminal=False), broken=["[u]f:1"])
        file.flush()
        text = raw.getvalue().decode(encoding)
    assert "\x1b" not in text
    assert all(words in text for words in ("[red]b\\x1b[2J", "[i]GPU", "not read: [u]f:1", SHOWN))


def test_a_narrow_screen_loses_columns_before_lines(rows: Any) -> None:
    text = printed(rows(record("naive"), record(seq_len=512)), 64)
    assert "TFLOP/s are left out" in text and max(map(len, text.splitlines())) <= 64
