"""Pages that few runs have: kinds of time, training steps, what lies inside a step, the card, whom `auto` took."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair
import pytest
from test_pages import Tags, drawn, lengths, measured, tables, told, words
from test_report import record, write

from attn_lab.report.charts import key
from attn_lab.report.command import make
from attn_lab.report.console import summary
from attn_lab.report.data import read
from attn_lab.report.profiles import link
from attn_lab.report.render.figure_files import sheet

RARE = ("time_variants", "models", "inside")


def kinds(cold: float, **others: float | None) -> dict[str, Any]:
    """The kinds of a forward; the graph's has no value and a reason unless one is given."""
    found = {**measured("forward/time", cold, "ms")}
    for kind in ("hot", "host", "kernels"):
        found |= measured(f"forward/time_{kind}", others.get(kind, cold), "ms")
    graph = others.get("graph")
    return found | measured("forward/time_graph", graph, "ms", "" if graph else "cannot be captured: a copy")


def training(tokens: float, mfu: float, share: float, step: float) -> dict[str, Any]:
    return {
        **measured("train_step/time", step, "ms"), **measured("train_step/tokens_per_second", tokens, "tokens/s"),
        **measured("train_step/mfu", mfu, "%"), **measured("train_step/attention_share", share, "%"),
    }  # fmt: skip


def phases(attention: float, *, optimizer: float = 1.0) -> dict[str, Any]:
    parts = {"forward/qkv_projection": 1.0, "forward/attention": attention, "backward/attention": 2 * attention,
             "optimizer": optimizer, "idle": 0.5}  # fmt: skip
    found = {name: value for part, ms in parts.items() for name, value in measured(f"phases/{part}", ms, "ms").items()}
    return {**found, **measured("phases/step", sum(parts.values()), "ms", "train_step"),
            **measured("phases/of_timed", 99.0, "%")}  # fmt: skip


def with_files(one: Any, *paths: str | None) -> Any:
    entries = [{"kind": "trace", "path": path, "size": 2**20, **({} if path else {"note": "big.json.gz left out"})}
               for path in paths]  # fmt: skip
    return replace(one, artifacts=[{"kind": "samples", "path": "samples/x.npz", "size": 9}, *entries])


@pytest.mark.parametrize("graph", [0.7, None])
def test_the_kinds_of_a_time_stand_beside_each_other_and_a_missing_one_says_why(
    tmp_path: Path, graph: float | None
) -> None:
    _, pages = told(
        tmp_path,
        record("naive", metrics=kinds(2.0, hot=1.5, host=0.3, kernels=1.9, graph=graph)),
        record("flash2", metrics=kinds(1.0, host=4.0, graph=0.9)),
    )
    line = next(each for each in tables(pages["time_variants"])[0] if each["backend"] == "naive")
    shown = [line[f"{kind} ms"] for kind in ("cold, eager", "hot L2", "CUDA graph", "host", "kernels")]
    assert shown == ["2.00", "1.50", "0.700" if graph else "–", "0.300", "1.90"]
    (figure,) = drawn(pages["time_variants"]).values()
    marks = {(value["backend"], value["kind"]): value["ms"] for value in figure.values}
    assert marks["flash2", "host"] == 4.0 and (("naive", "CUDA graph") in marks) is bool(graph)
    why = "naive: forward, CUDA graph: cannot be captured: a copy"
    assert (why in words(pages["time_variants"])) is (graph is None)


def test_along_an_axis_the_kinds_are_drawn_at_both_ends(tmp_path: Path) -> None:
    _, pages = told(tmp_path, *lengths("naive", metrics=kinds(2.0)))
    (figure,) = drawn(pages["time_variants"]).values()
    assert [panel.title for panel in figure.panels] == ["forward · seq_len 512", "forward · seq_len 2048"]
    assert len(tables(pages["time_variants"])[0]) == 3


def test_a_training_step_is_told_by_tokens_mfu_share_and_memory(tmp_path: Path) -> None:
    config = {
        "subject": {"_target_": "attn_lab.measure.subjects.model.Model", "family": "llama", "layers": 12, "mlp": None}
    }
    rivals = {"naive": training(1000.0, 41.5, 30.0, 400.0), "flash2": training(3000.0, 41.5, 30.0, 130.0)}
    cases = [record(name, metrics=metrics, config=config, seq_len=length)
             for length in (512, 1024, 2048) for name, metrics in rivals.items()]  # fmt: skip
    _, pages = told(tmp_path, *cases, record("naive", "oom", ("CUDA out of memory",), config=config, seq_len=4096))
    found = tables(pages["models"])[0]
    line = found[0]
    assert (line["seq_len"], line["backend"], line["tokens/s"], line["MFU (%)"]) == ("512", "flash2", "3000", "41.5")
    assert line["attention's share (%)"] == "30.0" and line["train step ×"].startswith("3.08×")
    assert (found[-1]["status"], found[-1]["tokens/s"]) == ("oom", "–")
    assert "llama" in words(pages["models"]) and "mlp" not in words(pages["models"])
    figure = drawn(pages["models"])["models-seq_len"]
    assert [panel.title for panel in figure.panels] == ["tokens/s", "MFU (%)", "attention's share (%)"]
    assert {value["tokens"] for value in figure.values if "tokens" in value} == {1000.0, 3000.0}
    assert "figures-seq_len-train_step" in drawn(pages["figures"])
    assert tables(pages["overview"])[0][0]["fastest"] == "flash2"


def test_at_one_point_models_are_bars_and_the_terminal_knows_the_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    cases = [record(name, metrics=training(tokens, 40.0, 30.0, 100.0), drop="ward") for name, tokens in
             (("naive", 1000.0), ("flash2", 3000.0))]  # fmt: skip
    data, pages = told(tmp_path, *cases)
    assert drawn(pages["models"])["models-point"].values[0]["said0"] in ("1000", "3000")
    summary(data.rows, Console(width=160))
    shown = capsys.readouterr().out
    assert "train step" in shown and "tok/s" in shown and "3000" in shown


def parts(lines: Sequence[dict[str, str]], backend: str) -> dict[str, str]:
    return {f"{line['pass']} {line['part']}": line["ms"] for line in lines if line["backend"] == backend}


def test_the_parts_of_a_step_are_stacked_and_add_up_to_it(tmp_path: Path) -> None:
    slow, fast = record("naive", metrics=phases(4.0)), record("flash2", metrics=phases(0.5))
    _, pages = told(tmp_path, slow, fast)
    found = parts(tables(pages["inside"])[0], "naive")
    assert found == {"forward qkv": "1.00", "forward attention": "4.00", "backward attention": "8.00",
                     "– optimizer": "1.00", "– idle": "0.500"}  # fmt: skip
    figure = drawn(pages["inside"])["inside-point"]
    for backend, whole in (("naive", 14.5), ("flash2", 4.0)):
        mine = [value for value in figure.values if value["backend"] == backend]
        assert sum(value["size"] for value in mine) == pytest.approx(whole) == mine[0]["peak"]
        assert [value["pale"] for value in mine] == [0, 0, 1, 0, 0], "the backward's parts stand behind the forward's"


def test_of_many_parts_the_largest_have_a_colour_and_the_rest_share_one(tmp_path: Path) -> None:
    many = {
        name: metric for rank in range(12) for name, metric in measured(f"phases/forward/p{rank}", 1.0 + rank).items()
    }
    _, pages = told(tmp_path, record("naive", metrics=many))
    figure = drawn(pages["inside"])["inside-point"]
    sizes = {value["part"]: value["size"] for value in figure.values}
    assert set(sizes) == {*(f"p{rank}" for rank in range(6, 12)), "other parts"}
    assert sum(sizes.values()) == pytest.approx(78) and len(tables(pages["inside"])[0]) == 12


def test_files_are_linked_only_if_they_lie_in_the_run_and_are_there(tmp_path: Path) -> None:
    paths = ("profile/1/trace (1).json.gz", "profile/1/out", "profile/1/gone", "javascript:alert(1)", None)
    leaving = [with_files(record(name), path) for name, path in (("flex", "../secret"), ("flash2", "/etc/passwd"))]
    run = write(tmp_path / "a run", with_files(record("naive"), *paths), *leaving)
    (run / "profile/1").mkdir(parents=True)
    (run / "profile/1/out").symlink_to(tmp_path / "secret")
    (run / "profile/1/trace (1).json.gz").write_text("{}")
    (tmp_path / "secret").write_text("")
    make([run], run / "report")
    page = (run / "report/report.html").read_text("utf-8")
    links = [link for link in Tags(page).links if not link.startswith("#")]
    assert links == ["../profile/1/trace%20%281%29.json.gz"]
    assert "[trace (1).json.gz](../profile/1/trace%20%281%29.json.gz)" in (run / "report/report.md").read_text("utf-8")
    assert "big.json.gz left out" in page and "x.npz" not in page
    study = read([run], language="en", baseline="naive")
    (row,) = study.rows
    assert [str(each).rpartition(": ")[2] for each in study.broken] == ["expected a path inside the run folder"] * 2
    elsewhere = link(row, "profile/1/trace (1).json.gz", tmp_path / "else/where")
    assert elsewhere == "../../a%20run/profile/1/trace%20%281%29.json.gz"


def test_kernels_and_snapshots_are_told_where_somebody_looked(tmp_path: Path) -> None:
    seen = {**measured("forward/kernels", 3.0), **measured("forward/kernel_time", 0.2, "ms"),
            **measured("forward/attention_kernels", 88.0, "%"), **measured("forward/busy", 97.0, "%"),
            **measured("snapshot/peak", 640.0, "MB"), **measured("snapshot/explained", 98.2, "%")}  # fmt: skip
    _, pages = told(tmp_path, record("naive"), record("flash2", metrics=seen))
    kernels, peaks = tables(pages["inside"])
    assert [(line["backend"], line["launches"], line["busy (%)"]) for line in kernels] == [("flash2", "3.00", "97.0")]
    assert peaks[0]["explained (%)"] == "98.2"


def test_the_card_s_state_is_told_and_what_was_dropped_for_it(tmp_path: Path) -> None:
    def state(clock: float) -> dict[str, Any]:
        clocks = {
            **measured("forward/sm_clock", clock, "MHz")["forward/sm_clock"],
            "low": clock - 100,
            "high": clock + 10,
        }
        dropped = measured("forward/dropped", 20.0, "samples", "dropped: 20 of 200 calls (20 power brake)")
        late = measured("forward/host_late", 3.0, "samples", "the host was late: 3 made again, 0 count all the same")
        return {"forward/sm_clock": clocks, **dropped, **late}

    unwatched = measured("monitor/unavailable", 1.0, "", "pynvml is not installed")
    _, pages = told(tmp_path, record("naive", metrics=state(1900.0)), record("flash2", metrics=state(1700.0)),
                    record("lazy", metrics=unwatched))  # fmt: skip
    (line,) = next(table for table in tables(pages["provenance"]) if "lowest" in table[0])
    assert (line["state"], line["lowest"], line["median"], line["highest"]) == ("SM clock", "1600", "1800", "1910")
    said = words(pages["provenance"])
    assert "pynvml is not installed" in said and said.count("20 of 200 calls (20 power brake)") == 2
    assert "had queued them whole: 6, beside" in said and "in 2 of 9 passes" in said
    _, pages = told(tmp_path / "none", record())
    assert "were not recorded" in words(pages["provenance"])


def test_whom_auto_took_and_why_stands_where_its_numbers_do(tmp_path: Path) -> None:
    choice = measured("selection/rank", 1.0, "of those preferred", "flash4, by plan.json: bucket 1k; 0.856 ms")
    _, pages = told(tmp_path, record("naive"), record("auto", metrics=choice))
    assert "→ auto: flash4, by plan.json: bucket 1k; 0.856 ms" in words(pages["figures"])


@pytest.mark.parametrize("language", ["en", "zh-Hant"])
def test_every_new_chart_is_valid_and_drawn_in_both_languages(tmp_path: Path, language: str) -> None:
    metrics = {**kinds(2.0), **training(1.0, 2.0, 3.0, 4.0), **phases(1.0), **measured("forward/energy", 1.0)}
    cases = [*lengths("naive", "flash2", metrics=metrics), record("naive", mask="full", metrics=metrics)]
    data, pages = told(tmp_path, *cases, language=language)
    figures = [figure for name in RARE for figure in drawn(pages[name]).values()]
    assert {figure.anchor for figure in figures} == {
        f"{name}-{place}" for name in RARE for place in ("seq_len", "point")
    }
    for panel in {key(panel.spec): panel for figure in figures for panel in figure.panels}.values():
        altair.LayerChart.from_dict(panel.filled())
    for figure in figures[::2]:
        assert sheet(figure, data.backends).count("<path") > 4
