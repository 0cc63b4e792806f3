"""What a pull request is told of two runs: regressions first, none missed, none made of noise, no mixture unsaid."""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written import A100, line, rows, run

from attn_lab.cli.main import execute
from attn_lab.core.errors import BadRequest
from attn_lab.records.record import STATUSES
from attn_lab.report.diff.differences import BROKEN, KINDS, Difference, differences

PUBLISHED = Path(__file__).parents[1] / "results/h100-2026-11-22-seed"
NASTY = "<script>alert(1)</script> | `a` *b* [x](u)"


def diff(words):
    return execute(["diff", *words])


def told(found: list[Difference]) -> dict[tuple[str, str], str]:
    """Kind by backend and metric (or "status")."""
    return {(each.row.backend, each.metric or "status"): each.kind for each in found}


def of(folder: Path, a: list[Any], b: list[Any], **options: Any) -> list[Difference]:
    return differences(rows(folder / "a", *a), rows(folder / "b", *b), **options)


@pytest.fixture
def pull(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """pull(a lines, b lines, *flags) -> exit code, Markdown, stderr."""

    def made(a: list[Any], b: list[Any], *flags: str) -> tuple[int, str, str]:
        code = diff([str(run(tmp_path / "a", *a)), str(run(tmp_path / "b", *b)), *flags])
        return code, *capsys.readouterr()

    return made


@pytest.mark.parametrize(("times", "kind"), [(1.5, "slower"), (1 / 1.5, "faster"), (1.02, "same")])
def test_a_changed_time_is_told_with_its_verdict(tmp_path: Path, times: float, kind: str) -> None:
    found = of(tmp_path, [line("flash2", 2.0), line("naive", 9.0)], [line("flash2", 2.0 * times), line("naive", 9.0)])
    assert {told(found)["flash2", f"{one}/time"] for one in ("forward", "backward", "forward_backward")} == {kind}
    assert {kind for (name, _), kind in told(found).items() if name == "naive"} == {"same"}
    (each,) = (one for one in found if one.row.backend == "flash2" and one.metric == "forward/time")
    assert each.verdict is not None and each.verdict.ratio == pytest.approx(1 / times)
    assert (each.before, each.after) == pytest.approx((2.0, 2.0 * times))


def test_what_only_some_cases_have_is_not_said_of_all(pull: Any) -> None:
    model = {"subject": {"_target_": "x", "layers": 16}}
    lines = [line("naive", 2.0, subject="model", config=model), line("naive", 2.0)]
    _, text, _ = pull(lines, lines)
    (said,) = (each for each in text.splitlines() if each.startswith("All cases"))
    assert "causal" in said and "layers" not in said
    _, text, _ = pull(lines[:1], lines[:1])
    assert "subject.layers 16" in text


@pytest.mark.parametrize(("peak", "kind"), [(1009.0, "same"), (1011.0, "more memory"), (989.0, "less memory")])
def test_memory_is_exact_and_a_percent_counts(tmp_path: Path, peak: float, kind: str) -> None:
    found = of(tmp_path, [line("flash2", peak=1000.0)], [line("flash2", peak=peak)])
    assert told(found)["flash2", "memory/peak"] == kind


def test_memory_of_other_passes_is_not_compared(tmp_path: Path) -> None:
    found = of(
        tmp_path, [line("f", {"forward": 1.0}, peak=9.0)], [line("f", {"forward": 1.0, "backward": 1.0}, peak=20.0)]
    )
    assert told(found) == {("f", "forward/time"): "same"}


@pytest.mark.parametrize("after", STATUSES)
@pytest.mark.parametrize("before", ["ok", "unsupported", "incorrect"])
def test_every_change_of_status_is_told(tmp_path: Path, before: str, after: str) -> None:
    found = of(tmp_path, [line("f", status=before, reasons=("was",))], [line("f", status=after, reasons=("is",))])
    kinds = {each.kind for each in found}
    if before == after:
        assert kinds == {"same"}
    elif before == "ok":
        assert kinds == {"broken" if after in BROKEN else "unsupported"} and found[0].reason == "is"
    else:
        assert kinds == {"fixed" if after == "ok" else "failing"}


def test_a_round_that_failed_fails_its_case(tmp_path: Path) -> None:
    good = [line("f", round=round) for round in range(3)]
    found = of(tmp_path, good, [*good[:2], line("f", round=2, status="incorrect", reasons=("dq",))])
    assert [each.kind for each in found] == ["broken"] and found[0].statuses == ("ok", "incorrect")


def test_new_and_gone_cases_are_told(tmp_path: Path) -> None:
    found = of(tmp_path, [line("a"), line("old")], [line("a"), line("young", status="incorrect")])
    assert told(found)["old", "status"] == "gone" and told(found)["young", "status"] == "new"


def test_cases_are_matched_by_what_was_asked(tmp_path: Path) -> None:
    """Another measure, machine, commit and id: the same question.  Another window or dtype: not the same."""
    a = line("f", 1.0, config={"measure": {"samples": 10}}, commit="a")
    b = line("f", 2.0, config={"measure": {"samples": 500}}, commit="b", machine=A100)
    assert a["case"]["id"] != b["case"]["id"]
    assert told(of(tmp_path, [a], [b]))["f", "forward/time"] == "slower"
    windows = [line("f", mask="sliding_window", config={"mask": {"window": window}}) for window in (8, 64)]
    assert sorted(each.kind for each in of(tmp_path, windows[:1], windows[1:])) == ["gone", "new"]
    assert sorted(each.kind for each in of(tmp_path, [a], [line("f", dtype="bfloat16")])) == ["gone", "new"]


def test_two_builds_of_one_backend_are_held_against_themselves(tmp_path: Path) -> None:
    def builds(times: float) -> list[Any]:
        return [line("f", 1.0 * times, options={"splits": 1}), line("f", 3.0, options={"splits": 2})]

    found = told(of(tmp_path, builds(1.0), builds(2.0)))
    assert found["f splits=1", "forward/time"] == "slower" and found["f splits=2", "forward/time"] == "same"


def test_the_larger_floor_holds_and_twins_are_no_cases(tmp_path: Path) -> None:
    def measured(times: float, apart: float) -> list[Any]:
        return [line("naive", 9.0, spread=1e-3), line("naive", 9.0 * apart, is_aa_repeat=True, spread=1e-3),
                line("f", times, spread=1e-3)]  # fmt: skip

    quiet = of(tmp_path / "quiet", measured(1.0, 1.0005), measured(1.03, 1.0005))
    assert told(quiet)["f", "forward/time"] == "slower" and {each.row.backend for each in quiet} == {"naive", "f"}
    loud = of(tmp_path / "loud", measured(1.0, 1.0005), measured(1.03, 1.01))
    assert told(loud)["f", "forward/time"] == "same"
    half = of(tmp_path / "half", measured(1.0, 1.0005), [line("naive", 9.0), line("f", 1.03)])
    floor = next(each.verdict.floor for each in half if each.verdict)
    assert not floor.measured and floor.share == 0.10


def test_raw_samples_of_rounds_decide(tmp_path: Path) -> None:
    """Two runs whose rounds wander by 30 % each: a difference of 20 % between them is nobody's fault."""

    def wandering(times: float, sweep: str) -> list[Any]:
        generator = np.random.default_rng(5)
        clocks = (0.8, 1.0, 1.3)
        return [line("f", {"forward": list(times * clock * np.exp(0.01 * generator.standard_normal(50)))}, round=round,
                     sweep=sweep) for round, clock in enumerate(clocks)]  # fmt: skip

    assert told(of(tmp_path, wandering(1.0, "one"), wandering(1.2, "two")))["f", "forward/time"] == "unclear"


def test_the_worst_come_first(tmp_path: Path) -> None:
    a = [line("one", 1.0), line("two", 1.0), line("three", 1.0), line("four"), line("fat", peak=100.0), line("gone")]
    b = [line("one", 1.5), line("two", 4.0), line("three", 0.5), line("four", status="oom", reasons=("big",)),
         line("fat", peak=200.0), line("new")]  # fmt: skip
    kinds = [each.kind for each in of(tmp_path, a, b)]
    assert kinds == sorted(kinds, key=KINDS.index) and kinds[0] == "broken"
    slower = [each.row.backend for each in of(tmp_path, a, b) if each.kind == "slower"]
    assert slower == ["two"] * 3 + ["one"] * 3


TIMES = st.floats(0.01, 100.0)
CASES = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from([128, 256]), st.sampled_from(["ok", "ok", "ok", "oom"]),
              TIMES, st.floats(1.0, 1e4), st.floats(1e-4, 0.3), st.integers(1, 200)),
    unique_by=lambda case: case[:2], min_size=1, max_size=4,
)  # fmt: skip


def lines_of(cases: list[Any]) -> list[Mapping[str, Any]]:
    return [line(name, {"forward": time}, seq_len=seq_len, status=status, peak=peak, spread=spread, samples=samples)
            for name, seq_len, status, time, peak, spread, samples in cases]  # fmt: skip


@settings(max_examples=40)
@given(CASES)
def test_a_run_is_the_same_as_itself(cases: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = of(Path(folder), lines_of(cases), lines_of(cases))
    assert len(found) >= len(cases) and {each.kind for each in found} <= {"same", "unclear"}


MIRROR = {"slower": "faster", "more memory": "less memory", "gone": "new", "broken": "fixed"}
MIRROR |= {after: before for before, after in MIRROR.items()}


@settings(max_examples=40)
@given(CASES, CASES)
def test_the_other_way_round_is_the_mirror(a: list[Any], b: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        there, back = (of(Path(folder), lines_of(x), lines_of(y)) for x, y in ((a, b), (b, a)))
    key = lambda each: (each.row.backend, each.row.shape["seq_len"], each.metric)  # noqa: E731
    here = {key(each): each for each in there}
    mirrored = {key(each): each for each in back}
    assert here.keys() == mirrored.keys()
    for name, each in here.items():
        other = mirrored[name]
        if each.metric == "memory/peak" and abs(abs((each.after or 1) / (each.before or 1) - 1) - 0.01) < 2e-4:
            continue  # 1 % more is not quite 1 % less
        assert MIRROR.get(each.kind, each.kind) == other.kind
        if each.verdict and other.verdict:
            assert each.verdict.ratio == pytest.approx(1 / other.verdict.ratio)


def test_markdown_puts_regressions_first_and_folds_the_rest(pull: Any) -> None:
    a = [line("flash2", 1.0, peak=100.0), line("flex", 2.0), line("quick", 3.0), line("still", 4.0), line("lost")]
    b = [line("flash2", 1.3, peak=150.0), line("flex", status="incorrect", reasons=("dq: max error 3",)),
         line("quick", 2.0), line("still", 4.0)]  # fmt: skip
    code, text, _ = pull(a, b)
    assert code == 0
    head, worse, better, folded = (
        text.index(words) for words in ("### attn-lab diff", "#### Worse", "#### Better", "<details>")
    )
    assert head < worse < better < folded
    assert text.splitlines()[0] == "### attn-lab diff: 1 broken, 3 slower, 1 more memory; 3 faster; 1 gone; 3 same"
    lines = [
        [cell.strip() for cell in row.split("|")[1:-1]] for row in text[worse:better].splitlines() if row[:1] == "|"
    ]
    assert lines[2] == ["flex", "status", "ok", "**incorrect**", "dq: max error 3", "broken"]
    assert lines[3] == ["flash2", "backward time", "1.00 ms", "1.30 ms", "0.769× (0.766–0.773)", "slower"]
    assert lines[6] == ["flash2", "peak memory", "100 MB", "150 MB", "+50.0 %", "more memory"]
    assert "still" not in text[:folded] and "still" in text[folded:]
    assert "no A/A was run: under 10 % nothing is claimed" in text


def test_what_the_runs_differ_in_stands_on_top(pull: Any) -> None:
    a = [line("f", commit="a" * 40, versions={"torch": "2.11.0", "triton": "3.6"})]
    b = [line("f", commit="b" * 40, versions={"torch": "2.12.0"}, machine=A100, dirty=True)]
    _, text, _ = pull(a, b)
    top = text.split("<details>")[0]
    assert "another machine: NVIDIA H100 80GB HBM3, then NVIDIA A100-SXM4-80GB" in top.splitlines()[0]
    for said in ("| torch | 2.11.0 | 2.12.0 |", "| machine | NVIDIA H100 80GB HBM3 | NVIDIA A100-SXM4-80GB |",
                 "| commit | aaaaaaaaaaaa | bbbbbbbbbbbb (dirty) |"):  # fmt: skip
        assert said in top
    assert "triton" not in top  # only A's backend uses it
    _, text, _ = pull(a, a)
    assert "Machine, versions and commit are the same in both." in text and "another machine" not in text


def test_a_machine_that_was_slower_all_over_is_suspected(pull: Any) -> None:
    names = [f"backend{count}" for count in range(4)]
    _, text, _ = pull([line(name, 1.0) for name in names], [line(name, 1.5) for name in names])
    assert "**The middle of all 12 times has 0.67× the speed" in text
    _, text, _ = pull(
        [line(name, 1.0) for name in names], [line(names[0], 1.5), *(line(name, 1.0) for name in names[1:])]
    )
    assert "The middle of all" not in text and "3 slower" in text


def test_runs_of_one_round_are_said_to_be_so(pull: Any) -> None:
    once, thrice = [line("f")], [line("f", round=round) for round in range(3)]
    for a, b, said in ((once, once, "A and B ran"), (thrice, once, "B ran"), (thrice, thrice, None)):
        _, text, _ = pull(a, b)
        assert (f"\n{said} each case once" in text) if said else "each case once" not in text


def test_mixtures_within_a_run_are_said(pull: Any) -> None:
    mixed = [line("f", round=0), line("f", round=1, versions={"torch": "2.12.0"}, sweep="later")]
    _, text, _ = pull(mixed, [line("f")])
    assert "Mixed within one run: torch" in text


def test_marks_and_broken_lines_are_shown(pull: Any) -> None:
    noisy = line("f", 1.0, metrics={"forward/time": {"value": 2.0, "unit": "ms", "low": 1.9, "high": 2.1, "samples": 99,
                                                      "note": "noisy: ±9 %"}})  # fmt: skip
    _, text, _ = pull([line("f", 1.0)], [noisy, "{torn\n"])
    assert (
        "slower **(noisy)**" in text
        and "1 broken line(s)" in text
        and "records.jsonl&#58;2: not a whole record" in text
    )


def test_nobodys_markup_is_obeyed(pull: Any) -> None:
    from markdown_it import MarkdownIt

    a = [line(NASTY), line("x")]
    b = [line(NASTY, 5.0), line("x", status="error", reasons=(NASTY,))]
    _, text, _ = pull(a, b)
    html = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(text)
    assert not re.search(r"<(script|em|a )", html) and html.count("&lt;script&gt;") >= 2
    assert {row.count("<td") for row in html.split("<tr>")[1:] if "slower" in row} == {6}


def test_a_comment_has_room_for_it(pull: Any) -> None:
    many = [line(f"backend{count}", 1.0, seq_len=128 * (1 + count)) for count in range(400)]
    _, text, _ = pull(many, [{**each} for each in many])
    assert len(text) < 65_536 and re.search(r"and \d+ more\.", text)


@pytest.mark.parametrize(
    ("flags", "change", "code"),
    [([], {"times": 3.0}, 0), (["slower"], {"times": 3.0}, 1), (["slower"], {"times": 0.3}, 0), (["slower"], {}, 0),
     (["slower"], {"status": "crashed"}, 1), (["slower"], {"status": "unsupported"}, 0),
     (["unsupported"], {"status": "unsupported"}, 1), (["incorrect"], {"status": "incorrect"}, 1),
     (["incorrect"], {"status": "oom"}, 0), (["incorrect,oom"], {"status": "oom"}, 1), (["memory"], {"peak": 200.0}, 1),
     (["slower"], {"peak": 200.0}, 0),
     (["incorrect", "slower"], {"times": 3.0}, 1), (["broken"], {"status": "timeout"}, 1),
     (["broken"], {"times": 3.0}, 0)],
)  # fmt: skip
def test_fail_on(pull: Any, flags: list[str], change: dict[str, Any], code: int) -> None:
    words = [word for flag in flags for word in ("--fail-on", flag)]
    given, _, err = pull(
        [line("f", peak=100.0), line("g")], [line("f", **{"peak": 100.0, **change}), line("g")], *words
    )
    assert given == code and bool(err) == bool(code)


def test_a_failed_gate_says_what_failed(pull: Any) -> None:
    _, _, err = pull([line("f"), line("g")], [line("f", 3.0), line("g", status="oom")], "--fail-on", "slower")
    assert err == "attn-lab: diff: 3 slower, 1 broken\n"


def test_markdown_goes_to_a_file(pull: Any, tmp_path: Path) -> None:
    _, out, _ = pull([line("f")], [line("f")], "--markdown", str(tmp_path / "comment.md"))
    assert out == f"{tmp_path / 'comment.md'}\n"
    assert (tmp_path / "comment.md").read_text().startswith("### attn-lab diff: nothing is worse; 3 same\n")


def test_only_the_metrics_asked_for(pull: Any) -> None:
    _, text, _ = pull([line("f", 1.0)], [line("f", 2.0)], "--metric", "forward/time")
    assert text.startswith("### attn-lab diff: 1 slower\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "RUN"), (["a"], "RUN"), (["a", "b", "c"], "unrecognized 'c'"), (["a", "b", "--nonsense"], "--nonsense"),
     (["a", "b", "--fail-on", "odd"], "--fail-on: expected"), (["a", "nowhere"], "nowhere"),
     (["a", "empty"], "expected records in"), (["a", "torn"], "1 broken line"), (["a", "two"], "one machine"),
     (["a", "other"], "dtype: A has float16, B bfloat16"), (["a", "b", "--markdown", "no/where.md"], "--markdown"),
     (["a", "b", "--metric", "forward/tflops"], "--metric: expected any of")],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_2(door: Any, words: list[str], said: str) -> None:
    for name in "ab":
        run(Path(name), line("f"))
    run(Path("empty"))
    run(Path("torn"), "{\n")
    run(Path("other"), line("f", dtype="bfloat16"))
    run(Path("two"), line("f"), line("f", machine=A100, seq_len=64))
    done = door("diff", *words)
    assert done.code == 2 and done.err.count("\n") == 1 and done.err.startswith("attn-lab: ") and said in done.err
    assert not done.out


def test_the_published_run_is_the_same_as_itself_and_slower_if_it_is(tmp_path: Path, capsys: Any) -> None:
    """144 records of an H100: none differs from itself; flash4's forward, made a third slower, does, alone."""
    assert diff([str(PUBLISHED), str(PUBLISHED), "--fail-on", "slower"]) == 0
    capsys.readouterr()
    altered = []
    for record in map(json.loads, (PUBLISHED / "records.jsonl").read_text().splitlines()):
        if record["case"]["backend"] == "flash4" and record["status"] == "ok":
            time = record["metrics"]["forward/time"]
            time |= {part: 1.3 * time[part] for part in ("value", "low", "high")}
        altered.append(json.dumps(record) + "\n")
    folder = run(tmp_path / "b", *altered)
    assert diff([str(PUBLISHED), str(folder), "--fail-on", "slower"]) == 1
    out, err = capsys.readouterr()
    worse = out.split("#### Worse")[1].split("<details>")[0]
    assert err == "attn-lab: diff: 16 slower\n" and worse.count("| flash4 | forward time |") == 16
    with pytest.raises(BadRequest):
        diff([str(PUBLISHED), str(tmp_path)])
