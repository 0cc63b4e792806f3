"""What readers of a report see: the records' numbers and nothing else, honest about noise, mixtures and gaps."""

import json
import re
import string
import sys
import xml.etree.ElementTree as xml
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import altair
import many
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from test_report import H100, NASTY, SHOWN, TIMES, record, write

from attn_lab.core.errors import BadRequest
from attn_lab.records.axes import along
from attn_lab.records.flags import mixtures
from attn_lab.records.record import AXES, Measurement
from attn_lab.records.renamed import metric as renamed
from attn_lab.records.stats.fit import fit_exponent
from attn_lab.report.charts import Figure, key
from attn_lab.report.command import MOST_FILES, make
from attn_lab.report.data import MOST_FAMILIES, ReportData, read
from attn_lab.report.findings import claims, findings
from attn_lab.report.findings.comparability import places
from attn_lab.report.locales.i18n import LANGUAGES, catalogue
from attn_lab.report.pages import PAGES
from attn_lab.report.render import html, markdown
from attn_lab.report.render.blocks import Block, Bullets, Details, Heading, KeyValues, Picture, Table, Text
from attn_lab.report.render.figure_files import sheet

PUBLISHED = Path(__file__).parents[1] / "results/h100-2026-11-22-seed"
Pages = dict[str, list[Block]]
READER = MarkdownIt("gfm-like", {"linkify": False})  # takes longer to make than to use


def told(tmp_path: Path, *lines: Any, language: str = "en", baseline: str = "naive") -> tuple[ReportData, Pages]:
    data = read([write(tmp_path / "run", *lines)], language=language, baseline=baseline)
    return data, {name: list(page.render(data)) for name, page in PAGES.items()}


def flat(blocks: Sequence[Block]) -> list[Block]:
    nested = ([block, *flat(block.blocks)] if isinstance(block, Details) else [block] for block in blocks)
    return [each for blocks in nested for each in blocks]


def tables(blocks: Sequence[Block]) -> list[list[dict[str, str]]]:
    """Every table, a dict of the cells' words for each row."""
    found = [block for block in flat(blocks) if isinstance(block, Table)]
    return [[dict(zip((head.words for head in each.heads), (cell.words for cell in row), strict=True))
             for row in each.rows] for each in found]  # fmt: skip


def drawn(blocks: Sequence[Block]) -> dict[str, Figure]:
    return {block.figure.anchor: block.figure for block in flat(blocks) if isinstance(block, Picture)}


def words(blocks: Sequence[Block]) -> str:
    """All that the blocks say, unescaped."""
    found = []
    for block in flat(blocks):
        match block:
            case Text(said, _) | Heading(said, _, _):
                found.append(said)
            case Bullets(lines):
                found += [f"- {said}" for said, _ in lines]
            case KeyValues(pairs):
                found += [f"{label} {value}" for label, value in pairs]
            case Table(caption, _, rows, _):
                found += [caption, *(cell.words for row in rows for cell in row)]
            case Picture(figure):
                found += [figure.title, figure.alt_text]
            case Details(said, _):
                found.append(said)
    return "\n".join(found) + "\n"


def measured(name: str, value: float, unit: str = "", note: str = "") -> dict[str, Any]:
    return {name: Measurement(name=name, value=value, unit=unit, note=note).as_json()}


def lengths(*backends: str, **more: Any) -> list[Any]:
    return [record(backend, seq_len=length, **more) for length in (512, 1024, 2048) for backend in backends]


# The words


def test_both_languages_have_the_same_words_with_the_same_holes() -> None:
    first, *others = ({key: {name for _, name, *_ in string.Formatter().parse(value) if name}
                       for key, value in catalogue("pages", language).items()} for language in LANGUAGES)  # fmt: skip
    assert all(first == other for other in others)
    assert {page.title for page in PAGES.values()} <= set(first)


def test_no_page_says_what_its_language_lacks(tmp_path: Path) -> None:
    lines = [
        *lengths("naive", "flash2"),
        record("x", "unsupported"),
        record("y", "incorrect", ("dq",)),
        record("z", "oom"),
        "{",
    ]
    _, pages = told(tmp_path, *lines, language="zh-Hant")
    told_all = words([block for blocks in pages.values() for block in blocks])
    assert "注意力" in told_all and "反向傳播" in told_all
    ours = re.sub(r"\b[\w./:-]*\b(naive|flash2?|float16|causal|kernel|seq_len|NVIDIA|records)\b[\w./:-]*", "", told_all)
    assert not re.search(r"\b(the|is|was|fastest|measured|against)\b", ours)


# Numbers


def test_the_table_of_an_axis_holds_the_records_numbers(tmp_path: Path) -> None:
    cases = [*lengths(*TIMES), record("naive", "oom", ("CUDA out of memory",), seq_len=4096), record(seq_len=4096)]
    _, pages = told(tmp_path, *cases)
    (found,) = tables(pages["figures"])
    assert [(line["seq_len"], line["backend"]) for line in found] == [
        (length, backend) for length in ("512", "1024", "2048") for backend in ("naive", "flash2", "lazy")
    ] + [("4096", "naive"), ("4096", "flash2")]
    for line in found[:9]:
        forward, backward, step, peak = TIMES[line["backend"]]
        shown = [float(line[head]) for head in ("forward ms", "backward ms", "step ms", "peak memory MB")]
        assert shown == pytest.approx([forward, backward, step, peak], rel=0.006)
        assert float(line["step TFLOP/s"]) == pytest.approx(100 / step, rel=0.006)
        assert float(re.split("[× ]", line["step ×"])[0]) == pytest.approx(20.0 / step, rel=0.006)
        assert float(line["% of naive's memory"].rstrip(" %")) == pytest.approx(100 * peak / 8770, rel=0.006)
    assert found[9]["status"] == "oom" and found[9]["step ms"] == "–"
    assert found[10]["step ms"] == "1.21" and found[10]["step ×"] == "–"
    notes = words(pages["figures"])
    assert "naive: oom: CUDA out of memory (seq_len 4096)" in notes
    assert "nothing is compared: naive is oom here (seq_len 4096)" in notes


def test_the_figures_of_an_axis_hold_the_records_numbers_and_its_anchors(tmp_path: Path) -> None:
    lost = record("naive", "oom", ("CUDA out of memory",), seq_len=4096, times=(0.1, 0.1, 0.1, 0.1))
    _, pages = told(tmp_path, *lengths(*TIMES), lost)
    figures = drawn(pages["figures"])
    passes = ("forward", "backward", "forward_backward")
    assert list(figures) == [f"figures-seq_len-{what}" for what in (*passes, "memory")]
    for place, one in enumerate(passes):
        for value in figures[f"figures-seq_len-{one}"].values:
            if value.get("status"):
                top = 1.05 * max(times[place] for times in TIMES.values())
                assert value["status"] == "oom" and "time" not in value and value["lost"] > top
                continue
            time = TIMES[value["backend"]][place]
            band = (value["time_low"], value["time"], value["time_high"])
            assert band == pytest.approx((time * 0.98, time, time * 1.05), rel=1e-5)
            assert value["tflops"] == pytest.approx(100 / time, rel=1e-5)
            if value["backend"] != "naive":
                assert value["speedup"] == pytest.approx(TIMES["naive"][place] / time, rel=1e-5)
                assert value["speedup_low"] <= value["speedup"] <= value["speedup_high"]
    shares = {value["backend"]: value.get("share") for value in figures["figures-seq_len-memory"].values}
    assert shares["flash2"] == pytest.approx(100 * 677 / 8770, rel=1e-5) and shares["naive"] is None


def test_a_point_is_sorted_by_step_with_accuracy_and_kernels(tmp_path: Path) -> None:
    bad = record("bad", "incorrect", ("dq: max error 3",), times=(0.0123, 0.0456, 0.0789, 55.5))
    data, pages = told(tmp_path, *map(record, ("lazy", "naive", "flash2")), bad)
    (found,) = tables(pages["figures"])
    assert [line["backend"] for line in found] == ["flash2", "naive", "lazy", "bad"]
    assert found[0]["error / allowed"] == "out 0.310" and found[0]["kernels"] == "forward: flash::flash_fwd<64>"
    figure = drawn(pages["figures"])["figures-point"]
    assert [(value["backend"], value["m0"], value["said0"]) for value in figure.values] == [
        ("flash2", 0.305, "0.305"), ("naive", 8.0, "8.00"), ("lazy", 10.0, "10.0"), ("bad", 0, "incorrect"),
    ]  # fmt: skip
    everything = html.page(data, "t", [(name, name, blocks) for name, blocks in pages.items()], "")
    assert not re.search(r"0\.0123|0\.0456|0\.0789|55\.5|8130", everything)


def test_axes_are_told_apart_and_nothing_is_left_out(tmp_path: Path) -> None:
    cases = [record(batch_size=batch) for batch in (8, 16)] + [record(emb_dim=size) for size in (1024, 4096)]
    cases += [record(mask="full"), record(num_heads=8, emb_dim=512, dtype="float32")]
    data, pages = told(tmp_path, *cases)
    found = {axis: [[row.shape[axis] for row in family] for family in along(data.cases, axis)] for axis in AXES}
    assert found == {"batch_size": [[8, 16]], "seq_len": [], "num_heads": [], "emb_dim": [[1024, 2048, 4096]]}
    assert "· full ·" in words(pages["figures"]) and "· float32 ·" in words(pages["figures"])
    assert list(drawn(pages["figures"]))[-2:] == ["figures-point", "figures-point-2"]


def test_axes_that_move_together_are_one_family(tmp_path: Path) -> None:
    cases = [record(num_heads=heads, emb_dim=128 * heads, head_dim=128) for heads in (8, 16)]
    _, pages = told(tmp_path, *cases)
    assert "(emb_dim moving with it)" in words(pages["figures"])
    assert {name.split("-")[1] for name in drawn(pages["figures"])} == {"num_heads"}
    assert [line["emb_dim"] for line in tables(pages["figures"])[0]] == ["1024", "2048"]


def test_a_second_family_of_an_axis_has_anchors_of_its_own(tmp_path: Path) -> None:
    _, pages = told(tmp_path, *lengths("naive"), *lengths("naive", mask="full"))
    assert {"figures-seq_len-forward", "figures-seq_len-forward-2", "figures-seq_len-memory-2"} <= set(
        drawn(pages["figures"])
    )


def test_the_stack_of_memory_adds_up_to_its_peak(tmp_path: Path) -> None:
    parts = {**measured("memory/inputs", 256.0), **measured("memory/saved", 2.0)}
    _, pages = told(tmp_path, *lengths("naive", "flash2", metrics=parts))
    stacked: dict[Any, float] = {}
    for value in drawn(pages["memory"])["memory-seq_len"].values:
        stacked[value["backend"], value["at"]] = stacked.get((value["backend"], value["at"]), 0) + value["size"]
    assert {key: TIMES[key[0]][3] for key in stacked} == pytest.approx(stacked, rel=1e-5) and len(stacked) == 6
    assert tables(pages["memory"])[0][0]["workspace MB"] == "419"  # 677 less 258


def test_growth_is_fitted_with_its_interval() -> None:
    exact = fit_exponent([512, 1024, 2048, 4096], [3e-6 * size**2 for size in (512, 1024, 2048, 4096)])
    assert exact is not None and str(exact) == "2.00 (2.00–2.00)" and exact.last == pytest.approx(2)
    bent = fit_exponent([512, 1024, 2048, 4096], [1.0, 1.1, 2.0, 8.0])
    assert bent is not None and bent.last == pytest.approx(2) and bent.low < bent.value < 1.5 and bent.high > 1.5
    assert fit_exponent([512, 1024], [1, 2]) is None and fit_exponent([512] * 3, [1, 2, 3]) is None


def test_growth_is_told_in_words_and_not_of_two_places(tmp_path: Path) -> None:
    cases = [record(seq_len=512 * 2**k, times=(4.0**k, 1, 1, 1)) for k in range(4)]
    _, pages = told(tmp_path / "a", *cases)
    assert tables(pages["scaling"])[0][0]["exponent"] == "time ~ seq_len^2.00"
    _, pages = told(tmp_path / "b", *cases[:2])
    assert not pages["scaling"], "a page with nothing to show is left out"


def test_accuracy_tells_the_worst_and_every_wrong_answer(tmp_path: Path) -> None:
    worse = record(seq_len=8192, metrics=measured("accuracy/out", 0.83))
    _, pages = told(tmp_path, record(), worse, record("bad", "incorrect", ("dq: max error 3; allowed 1",)))
    (line,) = tables(pages["accuracy"])[0]
    assert (line["out"], line["cases"], line["worst at"]) == ("0.830", "2", "16×8192×32×2048 float16")
    assert drawn(pages["accuracy"])["accuracy-worst"].values[0]["share"] == 0.83
    assert "bad, 16×1024×32×2048 float16: dq: max error 3; allowed 1" in words(pages["accuracy"])


def test_the_roof_is_what_was_measured_and_absent_where_nothing_was(tmp_path: Path) -> None:
    _, pages = told(tmp_path / "a", record())
    assert not pages["roofline"]
    roof = {**measured("peak_rates/gemm", 700.0), **measured("peak_rates/copy", 3000.0)}
    roof |= {**measured("forward/intensity", 500.0), **measured("forward/gemm_fraction", 0.47)}
    _, pages = told(tmp_path / "b", record(metrics=roof))
    (figure,) = drawn(pages["roofline"]).values()
    lines = {(value["roof"], value["intensity"]): value["tflops"] for value in figure.values if "roof" in value}
    knee = 700e3 / 3000
    assert lines["copy", knee] == lines["gemm", knee] == 700 and max(lines.values()) == 700
    assert lines["copy", min(place for _, place in lines)] == pytest.approx(700 * min(p for _, p in lines) / knee)
    assert tables(pages["roofline"])[0][0]["forward"] == "47.0 %"


def test_energy_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    _, pages = told(tmp_path / "a", record())
    assert not pages["energy"]
    spent = {**measured("forward_backward/energy", 2.5, "J"), **measured("energy/idle", 71.2, "W")}
    _, pages = told(tmp_path / "b", *lengths("naive", metrics=spent))
    assert "at rest: 71.2 W" in words(pages["energy"])
    figure = drawn(pages["energy"])["energy-seq_len-forward_backward"]
    assert [value["energy"] for value in figure.values] == [2.5] * 3
    assert tables(pages["energy"])[0][0]["step J"] == "2.50"


# Who wins, and who must not be told apart


def test_the_fastest_is_said_and_its_lead_taken_away_when_the_times_turn(tmp_path: Path) -> None:
    close, clear = (1.22 * 1.02, 1.22 * 1.5)  # within the 10 % that nobody measured, and beyond
    cases = {"naive": TIMES["naive"], "a": (0.3, 0.9, 1.22, 600.0)}
    for other, first in {close: "a", clear: "a", 1.22 / 1.5: "b"}.items():
        rivals = [record(name, times=times) for name, times in cases.items()]
        _, pages = told(tmp_path / f"{other}", *rivals, record("b", times=(0.3, 0.9, other, 600.0)))
        (line,) = tables(pages["overview"])[0]
        assert line["fastest"] == first and line["speed against naive"].startswith("16" if first == "a" else "24.6×")
        if other == close:
            assert line["not distinguishable from it"].startswith("b (1.02× (")
            assert line["next that is clearly slower"].startswith("naive (16")
        else:
            assert line["not distinguishable from it"] == "–"


def test_findings_and_claims_stand_on_their_page_with_links_to_what_shows_them(tmp_path: Path) -> None:
    data, pages = told(tmp_path, *lengths("naive", "flash2"))
    (bullets,) = (block for block in pages["findings"] if isinstance(block, Bullets))
    assert [line for line, _ in bullets.lines] == [
        each.text for each in findings(data.rows) if not each.key.startswith("fastest")
    ]
    overview = next(block for block in pages["overview"] if isinstance(block, Bullets))
    assert overview.lines and not set(overview.lines) & set(bullets.lines), "no sentence stands twice"
    assert not tables(pages["findings"]), "the study's claims are only in reports of its own experiments"
    _, pages = told(tmp_path / "seed", *lengths("naive", "flash2", sweep="seed-seq_len-20261122-100000-1"))
    (table,) = tables(pages["findings"])
    examined = claims(data.rows)
    assert [line["what the numbers say"] for line in table] == [each.text for each in examined]
    said = {"holds": "holds here", "fails": "does not hold here", "untested": "not tested"}
    assert [line["verdict"] for line in table] == [said[each.verdict or ""] for each in examined]
    there = {*PAGES, *(anchor for blocks in pages.values() for anchor in drawn(blocks)), ""}
    assert {link for _, link in bullets.lines} | {each.figure for each in examined} <= there


def test_a_speedup_that_is_noise_is_called_unclear_or_the_same(tmp_path: Path) -> None:
    near = record("near", times=(8.0 / 1.05, 12.0, 20.0 * 1.3, 8770.0))
    _, pages = told(tmp_path, record("naive"), near)
    line = next(each for each in tables(pages["figures"])[0] if each["backend"] == "near")
    assert re.fullmatch(r"1\.05× (unclear|the same)", line["forward ×"])
    assert line["step ×"] == "0.769× slower"


def test_the_twin_is_the_noise_and_no_rival(tmp_path: Path) -> None:
    again = record("naive", id="again", times=(8.1, 12.1, 20.2, 8770.0))
    again = replace(again, case={**again.case, "is_aa_repeat": True})
    data, pages = told(tmp_path, record("naive"), again, record())
    assert data.backends == ["naive", "flash2"]
    assert "A/A floor" in words(pages["overview"]) and "no A/A was run" not in words(pages["overview"])
    assert "again" not in words(pages["figures"]) + words(pages["support"])


def test_another_baseline_may_be_chosen(tmp_path: Path) -> None:
    _, pages = told(tmp_path, record("naive"), record(), baseline="flash2")
    line = next(each for each in tables(pages["figures"])[0] if each["backend"] == "naive")
    assert line["step ×"] == "0.0605× slower" and line["% of flash2's memory"] == "1295 %"


@pytest.mark.parametrize("note", ["noisy: the clock was throttled", ""])
def test_a_noisy_number_is_marked_wherever_it_stands(tmp_path: Path, note: str) -> None:
    time = {**measured("forward_backward/time", 1.21, "ms", note)}
    cases = [record("naive"), record(metrics=time), record("naive", round=1), record(round=1)]
    _, pages = told(tmp_path / "point", *cases)
    mark = " ≈" * bool(note)
    assert tables(pages["overview"])[0][0]["time (ms)"] == f"1.21{mark}"
    assert next(line["step ms"] for line in tables(pages["figures"])[0] if line["backend"] == "flash2") == f"1.21{mark}"
    assert drawn(pages["figures"])["figures-point"].values[0]["said2"] == f"1.21{mark}"
    assert ("≈ flash2: step ms: noisy: the clock was throttled" in words(pages["figures"])) == bool(note)
    _, pages = told(tmp_path / "axis", *lengths("naive", "flash2", metrics=time))
    notes = {value.get("note") for value in drawn(pages["figures"])["figures-seq_len-forward_backward"].values}
    assert notes == {note or None}


def test_several_cards_of_a_sweep_are_no_mixture(tmp_path: Path) -> None:
    lines = [record(name, machine={**H100, "uuid": card}, seq_len=length) for name in ("naive", "flash2")
             for card, length in (("A", 512), ("B", 1024))]  # fmt: skip
    _, pages = told(tmp_path, *lines)
    assert "different machines" not in words(pages["overview"]) and "A, B" in words(pages["provenance"])


def test_mixtures_are_said_and_machines_never_divided_by_one_another(tmp_path: Path) -> None:
    other = record("naive", machine={**H100, "name": "A100"}, versions={"torch": "2.12.0", "triton": "3"}, commit="f",
                   dirty=True)  # fmt: skip
    _, pages = told(tmp_path, record(), other, "torn\n")
    for page in ("overview", "provenance"):
        said = words(pages[page])
        for what in ("2 different machines", "A100", "torch: 2.11.0, 2.12.0", "commit", "dirty", "1 broken line"):
            assert what in said
        assert "triton:" not in said  # only one record names it
    assert "run/records.jsonl:3" in words(pages["provenance"])
    assert all(line["speed against naive"] in ("–", "is the baseline") for line in tables(pages["overview"])[0])
    assert "×" not in "".join(cell for line in tables(pages["figures"])[0] for cell in line)


def test_a_comparison_across_versions_is_marked(tmp_path: Path) -> None:
    _, pages = told(tmp_path, record("naive"), record(versions={"torch": "2.12.0"}))
    assert tables(pages["overview"])[0][0]["speed against naive"].endswith("‡ torch: 2.11.0, 2.12.0")
    assert "‡ flash2: compared across torch: 2.11.0, 2.12.0" in words(pages["figures"])


def test_support_gives_every_status_and_every_reason_in_text(tmp_path: Path) -> None:
    cases = [record("naive"), record("picky", "unsupported", ("head_dim: 8 to 128; asked 256", "dtype: float16")),
             record("picky", seq_len=512), record("big", "oom", ("too big",))]  # fmt: skip
    _, pages = told(tmp_path, *cases)
    lines = {line["case"]: line for line in tables(pages["support"])[0]}
    assert lines["16×1024×32×2048 float16"]["picky"] == "– unsupported"
    assert lines["16×512×32×2048 float16"]["picky"] == "✓ ok"
    assert lines["16×1024×32×2048 float16"]["big"] == "✕ oom" and lines["16×512×32×2048 float16"]["big"] == ""
    said = words(pages["support"])
    assert "picky: unsupported: head_dim: 8 to 128; asked 256 (shapes: 1: 16×1024×32×2048 float16)" in said
    assert "picky: unsupported: dtype: float16" in said and "big: oom: too big" in said


# Odd input


def test_only_refused_cases_make_a_report_that_says_so(tmp_path: Path) -> None:
    _, pages = told(tmp_path, record("a", "unsupported", ("no GPU",)), record("b", "unsupported", ("no GPU",)))
    assert "nothing was measured" in words(pages["overview"]) and not pages["figures"]
    assert "a: unsupported: no GPU" in words(pages["support"])


def test_one_case_is_told_without_a_comparison(tmp_path: Path) -> None:
    _, pages = told(tmp_path, record())
    (line,) = tables(pages["overview"])[0]
    assert line["fastest"] == "flash2" and line["speed against naive"] == "–"
    assert "nothing is compared: naive was not run here" in words(pages["figures"])


def test_lines_of_another_schema_are_named_and_the_others_told(tmp_path: Path) -> None:
    newer = json.dumps({**json.loads(record("naive").line()), "schema": 7}) + "\n"
    data, pages = told(tmp_path, record(), *[newer] * 30)
    assert data.backends == ["flash2"]
    assert "30 broken line(s)" in words(pages["overview"]) and "schema 7, this reader knows 1" in words(
        pages["overview"]
    )
    assert "… and 10 more broken lines" in words(pages["provenance"])


@pytest.mark.parametrize("fault", ["missing", "no file", "empty", "all broken", "out is a file", "language", "flag"])
def test_bad_input_is_one_line_exit_2_and_nothing_written(door: Any, tmp_path: Path, fault: str) -> None:
    folder, more = tmp_path / "run", []
    if fault == "no file":
        folder.mkdir()
    elif fault != "missing":
        write(folder, *{"empty": [], "all broken": ["{\n"]}.get(fault, [record()]))
    if fault == "out is a file":
        (tmp_path / "out").write_text("")
    if fault in ("language", "flag"):
        more = ["report.language=tlh"] if fault == "language" else ["--nonsense"]
    before = sorted(tmp_path.rglob("*"))
    ended = door("report", str(folder), "-o", "out", *more)
    assert ended.code == 2 and ended.err.startswith("attn-lab: ") and ended.err.count("\n") == 1
    named = {"language": "tlh", "flag": "--nonsense", "out is a file": "out"}.get(fault, str(folder))
    assert named in ended.err and ("expected" in ended.err or fault == "flag")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("package", ["altair", "jinja2", "pyarrow", "vl_convert"])
def test_without_the_extra_one_line_says_what_to_install(
    door: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    ended = door("report", str(write(tmp_path / "run", record(drop="memory"))))
    assert ended.code == 2 and ended.err.count("\n") == 1
    assert package in ended.err and "pip install 'attn-lab[report]'" in ended.err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["records.jsonl"]


# Whole reports


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the published data, made anew."""
    out = tmp_path_factory.mktemp("published") / "report"
    files = make([PUBLISHED], out)
    assert files[0] == out / "report.html" and all(file.is_file() for file in files)
    return out


def test_the_published_report_is_what_its_records_give(published: Path) -> None:
    assert (published / "report.md").read_text("utf-8") == (PUBLISHED / "README.md").read_text("utf-8")
    pictures = set(re.findall(r"\]\((figures/[^)]+\.png)\)", (published / "report.md").read_text("utf-8")))
    assert len(pictures) == MOST_FILES
    for folder in (published, PUBLISHED):
        assert pictures == {f"figures/{file.name}" for file in (folder / "figures").glob("*.png")}


def test_the_page_is_small_and_asks_the_network_for_nothing(published: Path) -> None:
    page = (published / "report.html").read_text("utf-8")
    assert len(page.encode()) < 2 * 2**20
    found = Tags(page)
    assert not [link for link in found.links if not link.startswith("#")]
    assert "default-src 'none'" in page and set(found.names) >= {"section", "nav", "figure", "table", "caption", "main"}


def test_headings_links_and_ids_fit_together(published: Path) -> None:
    found = Tags((published / "report.html").read_text("utf-8"))
    assert len(found.ids) == len(set(found.ids)) and {link[1:] for link in found.links} <= set(found.ids)
    assert {*PAGES} - {*found.ids} == {"time_variants", "models", "inside", "roofline", "energy"}, "not measured there"
    assert {"figures-seq_len-forward_backward", "figures-emb_dim-memory", "figures-point", "figures-point-2"} <= set(
        found.ids
    )


def test_pictures_hold_a_line_and_a_mark_for_every_backend(published: Path) -> None:
    from attn_lab.report.charts.palette import look_of

    for file in (published / "figures").glob("figures-seq_len-forward.svg"):
        text = file.read_text("utf-8")
        xml.fromstring(text)
        for name in ("naive", "sdpa_flash", "flash2", "flash4", "flex", "sdpa_cudnn"):
            colour = look_of(name).light
            assert text.count(f'stroke="{colour}"') >= 3  # a line in each panel
            assert text.count(f'fill="{colour}"') >= 4 * 3  # at least four marks in each
    for file in (published / "figures").glob("*.png"):
        head = file.read_bytes()[:24]
        assert head[1:4] == b"PNG" and 500 < int.from_bytes(head[16:20]) < 2600


def test_the_tidy_table_holds_every_metric_of_every_case(published: Path) -> None:
    lines = pyarrow.parquet.read_table(published / "table.parquet").to_pylist()
    records = [json.loads(line) for line in (PUBLISHED / "records.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == sum(len(each["metrics"]) or 1 for each in records)
    found = {(line["id"], line["sweep"], line["metric"]): line for line in lines}
    for each in records:
        for name, metric in each["metrics"].items():
            line = found[each["case"]["id"], each["provenance"]["sweep"], renamed(name)]
            assert (
                line["value"] == (metric["value"] if each["status"] == "ok" else None)
                and line["unit"] == metric["unit"]
            )
    assert {line["status"] for line in lines} == {"ok", "unsupported", "oom"}
    assert pyarrow.csv.read_csv(published / "table.csv").num_rows == len(lines)


def test_every_kind_of_chart_is_valid(tmp_path: Path) -> None:
    more = {**measured("peak_rates/gemm", 700.0), **measured("peak_rates/copy", 3000.0),
            **measured("forward/intensity", 5.0),
            **measured("forward/energy", 1.0), **measured("memory/inputs", 9.0)}  # fmt: skip
    cases = [
        *lengths("naive", "flash2", metrics=more),
        record("naive", "oom", seq_len=4096),
        record("flash2", mask="full", metrics=more),
    ]
    _, pages = told(tmp_path, *cases)
    figures = drawn([block for blocks in pages.values() for block in blocks]).values()
    kinds = {figure.anchor.split("-")[0] for figure in figures}
    assert kinds == {"figures", "memory", "accuracy", "roofline", "scaling", "energy"}
    for panel in {key(panel.spec): panel for figure in figures for panel in figure.panels}.values():
        altair.LayerChart.from_dict(panel.filled())


def test_thousands_of_records_stay_within_six_megabytes(tmp_path: Path) -> None:
    data, pages = told(tmp_path, *many.lines(3000))
    assert len(data.rows) == 3000
    page = html.page(data, "t", [(name, name, blocks) for name, blocks in pages.items()], "")
    assert len(page.encode()) < 5 * 2**20  # and one for the library that draws it
    assert len(markdown.page(data, "t", [(name, name, blocks) for name, blocks in pages.items()], [])) < 2**19


class Tags(HTMLParser):
    """What is in a page: its tags, ids, links and texts."""

    def __init__(self, page: str):
        super().__init__()
        self.names: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.names.append(tag)
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[name] for name in ("href", "src") if name in given]
        assert not any(name.startswith("on") for name in given), f"{tag} {given}"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_markup_in_records_stays_text_in_every_file(tmp_path: Path) -> None:
    tag = "</script><script>alert(1)</script>"
    nasty = [record(backend, seq_len=length) for length in (512, 1024) for backend in ("naive", NASTY, f"a{tag}\"'$at")]
    nasty += [record("y", "error", (NASTY, tag)), record("# 1. z", sweep=NASTY, machine={"name": tag})]
    data, pages = told(tmp_path, *nasty)
    listed = [(name, name, blocks) for name, blocks in pages.items()]
    plain, found = (html.page(*of, listed, "") for of in ((data, "t"), (data, tag)))
    assert Tags(found).names.count("script") == Tags(plain).names.count("script") == 2
    assert SHOWN in Tags(found).texts and f"a{tag}\"'$at" in Tags(found).texts
    shown = READER.render(markdown.page(data, tag, listed, []))
    assert not re.search(r"<(script|em|i>|b>)|src=.u", shown)
    assert SHOWN.replace("<", "&lt;").replace(">", "&gt;") in shown
    for figure in list(drawn(pages["figures"]).values())[:2]:
        svg = sheet(figure, data.backends)
        told_there = [node.text for node in xml.fromstring(svg).iter() if node.text]
        assert not [node for node in xml.fromstring(svg).iter() if node.tag.endswith("script")]
        assert any(f"a{tag}"[:30] in words for words in told_there)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_survives_markdown(text: str) -> None:
    from attn_lab.records.printable import printable

    text = printable(text).strip()
    shown = READER.render(markdown.table(["a"], [[markdown.escape(text)]]))
    cell = re.search(r"<td>(.*)</td>", shown)
    found = cell[1] if cell else ""
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        found = found.replace(entity, char)
    assert found == text


def test_an_earlier_report_is_replaced_whole_or_not_and_nothing_else_touched(tmp_path: Path) -> None:
    folder, out = write(tmp_path / "run", *lengths("naive")), tmp_path / "out"
    make([folder], out)
    (out / "mine.txt").write_text("kept")
    (out / "figures" / "mine.png").write_text("kept")
    assert (out / "figures" / "figures-seq_len-forward.svg").is_file()
    write(folder, record("naive"))
    make([folder], out)
    assert not (out / "figures" / "figures-seq_len-forward.svg").exists()
    assert (out / "figures" / "figures-point.png").is_file()
    assert (out / "mine.txt").read_text() == (out / "figures" / "mine.png").read_text() == "kept"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    write(folder)
    with pytest.raises(BadRequest, match="no line at all"):
        make([folder], out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out"}


# At the end of a sweep


def test_a_sweep_ends_with_its_report(door: Any, tmp_path: Path) -> None:
    ended = door("backend=naive,sdpa_flash", "name=mine", "report.enabled=true", "report.language=zh-Hant")
    assert ended.code == 0 and "report: runs/mine/report/report.html" in ended.out
    page = (tmp_path / "runs/mine/report/report.html").read_text("utf-8")
    assert 'lang="zh-Hant"' in page and "sdpa_flash" in page and "顯示" in page
    rows = read([tmp_path / "runs/mine"], language="en", baseline="naive").rows
    assert mixtures(rows) == [], "rivals of one sweep were made alike"
    assert len(places(rows)) == 1


def test_a_sweep_without_the_extra_ends_well_and_says_how_to_get_it(
    door: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    ended = door("name=mine", "report.enabled=true")
    assert ended.code == 0 and ended.statuses == ["ok"]
    assert "1 case: 1 ok" in ended.out and "pip install 'attn-lab[report]'" in ended.out
    assert not (tmp_path / "runs/mine/report").exists()


def test_a_language_nobody_tells_is_refused_before_the_first_case(door: Any, tmp_path: Path) -> None:
    ended = door("name=mine", "report.enabled=true", "report.language=tlh")
    assert ended.code == 2 and "en or zh-Hant; got 'tlh'" in ended.err and not (tmp_path / "runs").exists()


def test_asking_for_no_report_makes_none_and_says_how_later(door: Any, tmp_path: Path) -> None:
    ended = door("name=mine")
    assert ended.code == 0 and "attn-lab report runs/mine" in ended.out
    assert not (tmp_path / "runs/mine/report").exists()


def test_of_a_grid_s_families_the_first_are_drawn_and_the_rest_counted(tmp_path: Path) -> None:
    sizes = product((1, 2, 4, 8, 16, 32), (256, 512, 1024), (4, 8, 16, 32))
    data, pages = told(tmp_path, *many.grid(sizes))
    wanted = {"batch_size": 3 * 4, "seq_len": 6 * 4, "num_heads": 6 * 3}
    (experiment,) = data.experiments
    for axis, count in wanted.items():
        assert sum(family.axis == axis for family in experiment.families) == min(count, MOST_FAMILIES)
        said = f"{axis}: {count - MOST_FAMILIES} more groups of cases are not drawn"
        assert (said in words(pages["figures"])) == (count > MOST_FAMILIES)
    assert len(data.rows) == 72
