"""Every sentence of a report is true of its data: alter the data, and it turns, or is gone."""

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from turns import TURNS, Lines, Said, at, metric, swept
from written import A100, H100, line, rows, run

from attn_lab.core.errors import BadRequest
from attn_lab.records.reading import records
from attn_lab.records.record import Record
from attn_lab.report.console import summary
from attn_lab.report.findings import Finding, claims, findings
from attn_lab.report.findings.finding import Words
from attn_lab.report.findings.trends import exponent
from attn_lab.report.locales.i18n import LANGUAGES, catalogue

PUBLISHED = Path(__file__).parents[1] / "results/h100-2026-11-22-seed"
FRAGMENTS = ("part.", "pass.", "verdict.", "ours.", "why.", "claim.")
PASSES = "forward|backward|forward_backward|train_step"
FIGURE = rf"figures-(batch_size|seq_len|num_heads|emb_dim)-({PASSES}|memory)|figures-point"
ANCHORS = (
    "overview",
    "findings",
    "figures",
    "support",
    "memory",
    "accuracy",
    "roofline",
    "scaling",
    "energy",
    "provenance",
)

EACH = [pytest.param(key, each, id=f"{key}-{count}") for key, several in TURNS for count, each in enumerate(several)]


def everything(found: Sequence[Record], language: str = "en") -> list[Finding]:
    return findings(found, language) + claims(found, language)


@pytest.mark.parametrize(("key", "said"), EACH)
def test_each_sentence_turns_with_the_data(tmp_path: Path, key: str, said: Said) -> None:
    found = rows(tmp_path, *said.lines)
    told = [each for each in everything(found) if each.key == key]
    if said.words is None:
        assert not told, told[0].text
        return
    assert told and any(said.words in each.text for each in told), [each.text for each in told] or key
    if key.startswith("claim."):
        assert {each.verdict for each in told} == {said.verdict}, told[0].text
        assert catalogue("findings", "en")[f"verdict.{said.verdict}"] in told[0].text
    else:
        assert said.verdict is None and {each.verdict for each in told} == {None}
    for each in told:
        assert each.numbers or key == "baseline.absent" or each.verdict == "untested"
        assert each.figure in ANCHORS or re.fullmatch(FIGURE, each.figure)


def test_every_sentence_and_every_claim_is_turned_by_some_data() -> None:
    """One that is said here only one way has no test that turns it."""
    keys = {key for key in catalogue("findings", "en") if not key.startswith(FRAGMENTS)}
    keys |= {key for key in catalogue("findings", "en") if key.startswith("claim.")}
    assert {key for key, _ in TURNS} == keys
    for key, several in TURNS:
        if key.startswith("claim."):
            assert {each.verdict for each in several} == {"holds", "fails", "untested"}, key
        else:
            assert None in {each.words for each in several} and len({each.words for each in several}) > 1, key


def test_every_word_of_the_catalogue_is_said_and_translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All those data in both languages: the same keys, numbers, verdicts and figures; and no word for nothing."""
    used: set[str] = set()
    speak: Callable[..., str] = Words.__call__

    def noting(self: Words, key: str, **values: object) -> str:
        used.add(key)
        return speak(self, key, **values)

    monkeypatch.setattr(Words, "__call__", noting)
    several = [said.lines for _, turns in TURNS for said in turns]
    several += [
        at(naive=9.0, flash2=1.0, other=1.0),
        [*swept("seq_len", (1, 2), a=(1, 2)), *swept("emb_dim", (32, 64), a=(1, 1))],
        [line("a", seq_len=value, mask=mask) for value in (1, 2, 4) for mask in ("full", "causal")],
        [line("a", {"train_step": 1.0}), line("b", {"train_step": 2.0})],
        [line("naive", 3.0, samples=1), line("a", samples=1)],
        with_mark(),
    ]
    for count, lines in enumerate(several):
        found = rows(tmp_path / str(count), *lines)
        for english, chinese in zip(everything(found), everything(found, "zh-Hant"), strict=True):
            assert english._replace(text="") == chinese._replace(text="")
            numbers = [sorted(re.findall(r"\d+(?:\.\d+)?", each.text)) for each in (english, chinese)]
            assert numbers[0] == numbers[1], (english.text, chinese.text)
            assert re.search(r"[一-鿿]", chinese.text) and not re.search(r"[一-鿿]", english.text)
            assert not re.search(r"[一-鿿] ?[,;:!?()]|[,;!?()] ?[一-鿿]", chinese.text), chinese.text
            assert not re.search(r"[{}]|nan|inf|None", english.text + chinese.text.replace("Infinity", ""))
    assert used == set(catalogue("findings", "en"))


def test_the_languages_have_the_same_keys_and_blanks() -> None:
    english, chinese = (catalogue("findings", language) for language in LANGUAGES)
    assert list(english) == list(chinese)
    for key in english:
        assert set(re.findall(r"{\w+}", english[key])) == set(re.findall(r"{\w+}", chinese[key])), key
    with pytest.raises(BadRequest, match="zh-Hant"):
        findings([], "de")


def with_mark() -> Lines:
    noisy = {"forward/time": {**metric(9.0, "ms", "noisy: ±9 %"), "low": 8.9, "high": 9.1}}
    return [line("naive", 9.0, metrics=noisy), line("flash2", 1.0)]


def test_a_number_that_is_marked_noisy_is_told_with_its_mark(tmp_path: Path) -> None:
    told = {each.key: each.text for each in claims(rows(tmp_path, *with_mark()))}
    assert "[noisy]" in told["claim.1.forward"] and "[noisy]" not in told["claim.1.backward"]
    one = next(each.text for each in findings(rows(tmp_path, *with_mark())) if each.key == "gain.point")
    assert "forward" in one and "[noisy]" in one


@pytest.mark.parametrize(
    "other", [{"machine": A100}, {"versions": {"torch": "2.12.0"}}, {"machine": {**H100, "driver": "999"}}]
)
def test_nothing_is_held_against_what_ran_elsewhere(tmp_path: Path, other: Mapping[str, Any]) -> None:
    """flash2 on one side, naive on the other: no sentence has both, and each claim is untested on both sides."""
    found = rows(tmp_path, line("flash2", 1.0), line("naive", 9.0, sweep="second", **other))
    told = findings(found)
    assert told[0].key == "apart" and all(each.text.startswith("[NVIDIA") for each in told[1:])
    assert not {each.key for each in told} & {"gain.point", "fastest.point", "memory"}
    examined = claims(found)
    assert len(examined) == 48 and {each.verdict for each in examined} == {"untested"}


def test_a_place_goes_by_its_name_and_by_what_else_sets_two_of_a_name_apart(tmp_path: Path) -> None:
    """An A100 beside two H100s with two torches: the A100 is told by that alone, the H100s by their torch."""
    alike = {"driver": "580.9", "cores": 16}
    found = rows(
        tmp_path, *(line(name, 1.0, machine={**A100, **alike, "cores": 8}, sweep="a") for name in ("naive", "flash2")),
        *(line(name, 1.0, machine={**H100, **alike}, versions={"torch": torch}, sweep=torch, seq_len=length)
          for torch, length in (("2.11.0", 512), ("2.12.0", 256)) for name in ("naive", "flash2")),
    )  # fmt: skip
    named = {re.match(r"\[(.*?)\]", each.text)[1] for each in findings(found)[1:]}
    assert named == {A100["name"], f"{H100['name']}, torch 2.11.0", f"{H100['name']}, torch 2.12.0"}


def test_the_cards_of_a_sweep_are_one_place_and_those_of_others_are_not(tmp_path: Path) -> None:
    """Shapes and rounds are dealt to whichever card is free; rivals of a round share one."""

    def dealt(sweep: str, *cards: str, mask: str = "causal") -> list[dict[str, Any]]:
        return [line(name, time, machine={**H100, "uuid": card}, sweep=sweep, seq_len=256 * (1 + index), mask=mask)
                for index, card in enumerate(cards) for name, time in (("naive", 4.0), ("flash2", 1.0))]  # fmt: skip

    together = findings(
        rows(tmp_path / "one", *dealt("first", "A", "B", "A"), *dealt("resumed", "C", "B", mask="full"))
    )
    assert "apart" not in {each.key for each in together}
    assert "Fastest forward at 5 settings: flash2" in " ".join(each.text for each in together)
    told = findings(rows(tmp_path / "two", *dealt("first", "A", "B"), *dealt("another", "C", "D", mask="full")))
    assert told[0].key == "apart" and "uuid A, B" in told[0].text and "uuid C, D" in told[0].text


def test_a_package_that_only_one_backend_names_keeps_a_sweep_together(tmp_path: Path) -> None:
    """Two versions of flash-attn in two sweeps: naive, which does not name it, stays with its own sweep."""
    lines = [line(name, time, sweep=sweep, round=round, versions={"torch": "2.11.0",
        **({"flash-attn": version} if name == "flash2" else {})})
             for round, (sweep, version, flash) in enumerate((("one", "2.8", 1.0), ("two", "2.9", 3.0)))
             for name, time in (("flash2", flash), ("naive", 9.0))]  # fmt: skip
    told = [each.text for each in claims(rows(tmp_path, *lines)) if each.key == "claim.1.forward"]
    assert len(told) == 2 and "9.0" in told[0] and "flash-attn 2.8" in told[0]
    assert "3.00×" in told[1] and "flash-attn 2.9" in told[1]


def test_another_baseline_stands_for_pytorch(tmp_path: Path) -> None:
    found = rows(tmp_path, *at(naive=5.0, naive_fp32=9.0, flash2=1.0))
    (told,) = (each for each in claims(found, baseline="naive_fp32") if each.key == "claim.1.forward")
    assert told.verdict == "holds" and "naive_fp32's speed" in told.text
    assert any("Against naive_fp32" in each.text for each in findings(found, baseline="naive_fp32"))


def test_rounds_with_samples_decide_and_a_failed_round_silences(tmp_path: Path) -> None:
    """The same medians: rounds that wander by half of the difference make it unclear, and a wrong one has no speed."""

    def lines(clocks: tuple[float, ...], last: str = "ok") -> Lines:
        made = []
        for round, clock in enumerate(clocks):
            for name, time in (("a", 1.0), ("b", 1.3 * clock)):
                status = last if name == "b" and round == len(clocks) - 1 else "ok"
                samples = [time * (1 + 0.001 * place) for place in range(-20, 21)]
                made.append(line(name, {"forward": samples}, round=round, status=status))
        return made

    steady = {each.key for each in findings(rows(tmp_path / "1", *lines((1.0, 1.0, 1.0))))}
    assert "fastest.point" in steady and "rounds.one" not in steady
    assert "fastest.point.shared" in {each.key for each in findings(rows(tmp_path / "2", *lines((0.8, 1.0, 1.2))))}
    assert not {
        key
        for key in (each.key for each in findings(rows(tmp_path / "3", *lines((1, 1, 1), "incorrect"))))
        if "fastest" in key
    }


def test_nobody_leads_by_less_than_two_processes_differ_however_sure_each_is(tmp_path: Path) -> None:
    """As flash4 and a pair with its backward: 0.4 % apart, a hundred samples each that do not meet, a quiet A/A."""

    def told(apart: float) -> set[str]:
        each = {"a": 1.0, "b": 1.0 + apart, "naive": 9.0}
        samples = {name: [time * (1 + 1e-6 * place) for place in range(100)] for name, time in each.items()}
        lines = [line(name, {"backward": times}) for name, times in samples.items()]
        lines.append(line("naive", {"backward": samples["naive"]}, is_aa_repeat=True))
        return {each.key for each in findings(rows(tmp_path / str(apart), *lines))}

    assert "fastest.point.shared" in told(0.004) and "fastest.point" in told(0.02)


def test_the_floor_is_told_with_what_is_claimed_at_all(tmp_path: Path) -> None:
    lines = [line("naive", 9.0, is_aa_repeat=is_aa_repeat) for is_aa_repeat in (False, True)]
    (told,) = (each for each in findings(rows(tmp_path, *lines)) if each.key == "noise.floor")
    assert "forward 0.44 %" in told.text and told.text.endswith("nor one under 0.50 %.")
    printed = io.StringIO()
    summary(rows(tmp_path / "2", *lines, line("flash2")), Console(file=printed, width=200))
    assert "nothing is claimed: forward 0.44 %, backward 0.44 %, step 0.44 %; nor under 0.5 %" in printed.getvalue()


def test_nobody_leads_by_less_than_a_rest_makes_of_one_alone(tmp_path: Path) -> None:
    rest = {
        "backward/rest_ratio": {
            "value": 3.0,
            "unit": "times a burst",
            "low": None,
            "high": None,
            "samples": 1,
            "note": "",
        }
    }

    def told(**metrics: Mapping[str, Any]) -> set[str]:
        times = {name: [time * (1 + 1e-6 * place) for place in range(100)] for name, time in (("a", 1.0), ("b", 1.008))}
        lines = [line(name, {"backward": times[name]}, metrics=metrics.get(name, {})) for name in times]
        quiet = [line("naive", {"backward": [9.0] * 100}, is_aa_repeat=is_aa_repeat) for is_aa_repeat in (False, True)]
        return {each.key for each in findings(rows(tmp_path / "".join(metrics), *lines, *quiet))}

    assert "fastest.point" in told(a=rest, b=rest) and "fastest.point.shared" in told(a=rest)


def test_forward_alone_is_not_lost_with_a_refused_step(tmp_path: Path) -> None:
    lines = [
        line("flash3", {"forward": 1.0}),
        line("flash3", status="unsupported", reasons=("forward only",)),
        line("naive", 9.0),
    ]
    told = {each.key: each.text for each in findings(rows(tmp_path, *lines)) if "forward" in each.text}
    assert "flash3 is the fastest, with 9.0" in told["gain.point"]
    assert "flash3 1 (forward only)" in told["support.unsupported"]


def test_of_a_grid_the_largest_sweep_is_told_by_what_it_holds_fixed(tmp_path: Path) -> None:
    """Causal and full, a and b: they change places with one mask only, and the sentence says with which."""
    causal = swept("seq_len", (512, 1024, 2048), a=(1, 1, 1), b=(2, 2, 2))
    times = ((512, 1, 2), (1024, 1, 2), (2048, 2, 1), (4096, 2, 1))
    full = [line(name, time, seq_len=value, mask="full") for value, *both in times
            for name, time in zip("ab", both, strict=True)]  # fmt: skip
    told = [each.text for each in findings(rows(tmp_path, *causal, *full)) if each.key == "crossing"]
    assert told[0] == "Along seq_len (full; one of 2 such sweeps), forward: b overtakes a (between 1024 and 2048)."
    assert not [each for each in findings(rows(tmp_path, *causal)) if each.key == "crossing"]


def test_two_axes_that_move_together_are_told_once(tmp_path: Path) -> None:
    """head_dim held fixed, heads as emb_dim allows: one sweep, one sentence, on the axis that has the figure."""
    lines = [line("a", heads, num_heads=heads, emb_dim=64 * heads) for heads in (8, 16, 32)]
    told = [each for each in findings(rows(tmp_path, *lines)) if each.key == "scaling"]
    assert len(told) == 1 and "num_heads" in told[0].text


def test_strange_names_are_text(tmp_path: Path) -> None:
    strange = "{0} {x} <b>%s"
    told = findings(
        rows(tmp_path, line(strange, 1.0), line("naive", 3.0), line("y", status="error", reasons=(strange,)))
    )
    assert sum(strange in each.text for each in told) >= 3  # the page that shows them escapes them


def test_an_exponent_needs_three_points_and_covers_its_curve(tmp_path: Path) -> None:
    made = rows(tmp_path, *swept("seq_len", (256, 512, 1024, 2048, 4096), a=[1.1, 3.8, 17.0, 62.0, 260.0]))
    fitted = exponent(made, "seq_len", "forward/time")
    assert fitted is not None and fitted.low < 2 < fitted.high and fitted.high - fitted.low < 0.3
    assert exponent(made[:2], "seq_len", "forward/time") is None


VERDICTS = {
    "1.forward": "fails", "1.backward": "fails", "2.forward": "fails", "2.backward": "fails", "3.point": "holds",
    "3.everywhere": "holds", "4.slower": "holds", "4.tflops": "holds", "4.more": "holds", "4.time": "holds",
        "4.memory": "holds",
    "4.much": "holds", "5.memory": "holds", "5.time": "holds", "5.tflops": "fails", "6.tflops": "holds",
        "6.drop": "holds",
    "6.full": "fails", "7.tflops": "holds", "7.more": "fails", "8": "untested", "9.tight": "holds",
        "9.batch_size": "holds",
    "9.seq_len": "holds",
}  # fmt: skip


def published(tmp_path: Path, alter: Callable[[dict[str, Any]], None]) -> list[Record]:
    altered = [json.loads(each) for each in (PUBLISHED / "records.jsonl").read_text().splitlines()]
    for record in altered:
        alter(record)
    return records(run(tmp_path, *(json.dumps(record) + "\n" for record in altered)), newest=False).records


def test_the_claims_on_the_published_h100(tmp_path: Path) -> None:
    found = records(PUBLISHED, newest=False).records
    assert {each.key.removeprefix("claim."): each.verdict for each in claims(found)} == VERDICTS
    assert {each.key.removeprefix("claim."): each.verdict for each in claims(records(PUBLISHED).records)} == VERDICTS

    def slowed(record: dict[str, Any]) -> None:
        """flash2 takes 1.7 times its forward time, and three times its memory."""
        if record["case"]["backend"] == "flash2":
            for name, factor in (("forward/time", 1.7), ("memory/peak", 3.0)):
                each = record["metrics"].get(name, {})
                each |= {part: factor * each[part] for part in ("value", "low", "high") if each.get(part)}

    apply_rotary = {each.key.removeprefix("claim."): each.verdict for each in claims(published(tmp_path, slowed))}
    assert {key for key in VERDICTS if apply_rotary[key] != VERDICTS[key]} == {
        "1.forward", "2.forward", "3.point", "3.everywhere", "4.memory", "9.tight",
    }  # fmt: skip
    assert apply_rotary["1.forward"] == apply_rotary["2.forward"] == "holds"


def test_the_findings_on_the_published_h100(tmp_path: Path) -> None:
    told = [each.text for each in findings(records(PUBLISHED, newest=False).records)]
    text = "\n".join(told)
    for said in ("Fastest backward at 19 settings: flash4 13;", "up to 28.2× (28.1–28.2) (sdpa_cudnn, 16×2048×32×2048",
                 "flash2 7.3–41 % (17)", "flash4 overtakes", "5 of 144 cases (3.5 %)",
                     "naive 2 (OutOfMemoryError: CUDA out of memory)",
                 "No A/A was run"):  # fmt: skip
        assert said in text
    assert len(told) < 40 and max(map(len, told)) < 520

    def crippled(record: dict[str, Any]) -> None:
        if record["case"]["backend"] == "flash4":
            record["status"] = "incorrect"

    altered = "\n".join(each.text for each in findings(published(tmp_path, crippled)))
    assert "flash4 13" not in altered and "Incorrect, and so never timed: 17 of 144" not in text
    assert re.search(r"Incorrect, and so never timed: \d+ of 144 cases", altered) and "flash4 overtakes" not in altered
