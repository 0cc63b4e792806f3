"""Who is told "faster" is faster: intervals cover the truth, noise is not called a difference, both ways agree."""

import math
from pathlib import Path

import numpy as np
import pytest
from written import line, rows

from attn_lab.records.record import Record
from attn_lab.records.stats.noise_floor import UNMEASURED, Floor, noise_floor
from attn_lab.records.stats.verdict import Verdict, compare_times

FORWARD = "forward/time"
TIGHT = Floor(0.01, True)


def samples(generator: np.random.Generator, middle: float, spread: float = 0.02, count: int = 60) -> list[float]:
    return list(middle * np.exp(spread * generator.standard_normal(count)))


def experiments(
    folder: Path, count: int, rounds: int, shared: float, own: float, paired: bool, taken: int, kept: bool
) -> list[tuple[list[Record], list[Record]]]:
    """`count` times, the rounds of two backends of which the first is 1.3 times as fast as the second.

    Each round's clock is off by `shared` for both, and by `own` for each by itself.
    """
    generator = np.random.default_rng(7)
    lines = []
    for prepared in range(count):
        for round in range(rounds):
            drift = [math.exp(shared * generator.standard_normal()) for _ in "ab"]
            for place, (name, true) in enumerate((("a", 1.0), ("b", 1.3))):
                middle = true * drift[0 if paired else place] * math.exp(own * generator.standard_normal())
                sweep = f"{prepared}" if paired else f"{prepared}{name}"
                times = {"forward": samples(generator, middle, count=taken)}
                made = line(name, times, round=round, sweep=sweep, emb_dim=32 * (prepared + 1))
                lines.append(made if kept else {**made, "kept": {}})
    found: dict[int, dict[str, list[Record]]] = {}
    for row in rows(folder, *lines):
        found.setdefault(row.shape["emb_dim"], {}).setdefault(row.backend, []).append(row)
    return [(each["a"], each["b"]) for each in found.values()]


@pytest.mark.parametrize(
    ("count", "rounds", "shared", "own", "paired", "taken", "kept"),
    [(150, 1, 0.0, 0.0, True, 60, True), (300, 3, 0.05, 0.0, True, 60, True), (150, 3, 0.05, 0.01, True, 60, True),
     (150, 3, 0.02, 0.0, False, 60, True), (150, 1, 0.0, 0.0, True, 3, True), (150, 1, 0.0, 0.0, True, 5, False)],
)  # fmt: skip
def test_the_interval_covers_the_truth(
    tmp_path: Path, count: int, rounds: int, shared: float, own: float, paired: bool, taken: int, kept: bool
) -> None:
    """Of 150 or 300 intervals called 95 %, 90 to 99.7 % hold the true ratio, whatever wanders from round to round."""
    made = experiments(tmp_path, count, rounds, shared, own, paired, taken, kept)
    found = [compare_times(a, b, FORWARD, TIGHT) for a, b in made]
    covered = np.mean([each is not None and each.low <= 1.3 <= each.high for each in found])
    assert 0.90 <= covered <= 0.997


def test_what_drifts_between_rounds_cancels_only_within_a_sweep(tmp_path: Path) -> None:
    """Rounds at 1×, 2× and 4× the clock: one sweep's pairs agree to a percent; two sweeps can say nothing."""
    widths = {}
    for name, other in (("one", "one"), ("one", "two")):
        generator = np.random.default_rng(1)
        lines = [line(who, {"forward": samples(generator, true * clock)}, round=round, sweep=sweep)
                 for round, clock in enumerate((1.0, 2.0, 4.0))
                 for who, true, sweep in (("a", 1.0, name), ("b", 1.1, other))]  # fmt: skip
        found = rows(tmp_path / other, *lines)
        a, b = ([row for row in found if row.backend == who] for who in "ab")
        verdict = compare_times(a, b, FORWARD, TIGHT)
        assert verdict is not None and verdict.ratio == pytest.approx(1.1, abs=0.02)
        widths[other] = verdict.high - verdict.low, verdict.word
    assert widths["one"][0] < 0.1 and widths["one"][1] == "faster"
    assert widths["two"][0] > 1 and widths["two"][1] == "unclear"


@pytest.mark.parametrize(("rounds", "kept"), [(1, True), (1, False), (3, True)])
def test_swapping_the_two_mirrors_the_verdict(tmp_path: Path, rounds: int, kept: bool) -> None:
    generator = np.random.default_rng(2)
    lines = []
    for round in range(rounds):
        for who, true in (("a", 1.0), ("b", 1.011)):
            taken = samples(generator, true)
            lines.append(line(who, {"forward": taken if kept else float(np.median(taken))}, round=round))
    found = rows(tmp_path, *lines)
    a, b = ([row for row in found if row.backend == who] for who in "ab")
    one, other = compare_times(a, b, FORWARD, TIGHT), compare_times(b, a, FORWARD, TIGHT)
    assert one is not None and other is not None
    assert (one.ratio, one.low, one.high) == pytest.approx((1 / other.ratio, 1 / other.high, 1 / other.low), rel=1e-12)
    assert {one.word, other.word} in ({"faster", "slower"}, {"same"}, {"unclear"})


def test_the_floor_is_what_twins_differ_by(tmp_path: Path) -> None:
    """Twins 3 % apart: a floor near 3 %, and what is 2 % faster than another is no longer called so."""

    def lines(apart: float) -> list[dict[str, object]]:
        pairs = [line("naive", 10.0 * times, spread=0.001, is_aa_repeat=repeat, seq_len=2 ** place)
                 for place in range(5, 25) for repeat, times in ((True, apart), (False, 1.0))]  # fmt: skip
        return [*pairs, line("a", 5.0, spread=0.001), line("b", 5.1, spread=0.001)]

    said = {}
    for apart in (1.03, 1.001):
        found = rows(tmp_path / str(apart), *lines(apart))
        floor = noise_floor(found, FORWARD)
        assert floor.measured and floor.share == pytest.approx(apart - 1, abs=0.002)
        a, b = ([row for row in found if row.backend == who] for who in "ab")
        verdict = compare_times(a, b, FORWARD, floor)
        said[apart] = verdict and verdict.word
    assert said == {1.03: "same", 1.001: "faster"}


def test_a_card_that_rested_is_no_fair_rival_within_a_percent_of_one_that_did_not(tmp_path: Path) -> None:
    rest = {
        "forward/rest_ratio": {
            "value": 3.0,
            "unit": "times a burst",
            "low": None,
            "high": None,
            "samples": 1,
            "note": "",
        }
    }
    words = {}
    for apart in (1.008, 1.02):
        for alike in (True, False):
            lines = [line("a", 5.0, spread=0.001, metrics=rest),
                     line("b", 5.0 * apart, spread=0.001, metrics=rest if alike else {})]  # fmt: skip
            a, b = rows(tmp_path / f"{apart}{alike}", *lines)
            verdict = compare_times([a], [b], FORWARD, Floor(0.001, True))
            words[apart, alike] = verdict and verdict.word
    assert words == {(1.008, True): "faster", (1.008, False): "same", (1.02, True): "faster", (1.02, False): "faster"}


@pytest.mark.parametrize(("settings", "rounds"), [(1, 1), (3, 1), (1, 3), (4, 3)])
def test_the_next_twin_lies_within_the_floor(tmp_path: Path, settings: int, rounds: int) -> None:
    """Clocks that are off by 1 % each time: nine in ten means of as many rounds, at least, lie within the floor."""
    generator = np.random.default_rng(4)
    inside = []
    for prepared in range(160 // (settings * rounds)):
        lines = [
            line("naive", {"forward": samples(generator, math.exp(0.01 * generator.standard_normal()), 0.002, 20)},
                 round=round, is_aa_repeat=is_aa_repeat, seq_len=64 * (1 + place))
            for place in range(settings) for round in range(rounds) for is_aa_repeat in (True, False)
        ]  # fmt: skip
        floor = noise_floor(rows(tmp_path / str(prepared), *lines), FORWARD)
        means = 0.01 * math.sqrt(2 / rounds) * generator.standard_normal(100)
        inside.append(np.mean(np.abs(means) < math.log1p(floor.share)))
    assert np.mean(inside) > 0.9


def test_twins_of_two_sweeps_are_not_each_others(tmp_path: Path) -> None:
    lines = [line("naive", 10.0, sweep="one"), line("naive", 15.0, is_aa_repeat=True, sweep="two")]
    assert noise_floor(rows(tmp_path, *lines), FORWARD) == Floor(UNMEASURED, False)


def test_without_twins_the_floor_says_so(tmp_path: Path) -> None:
    floor = noise_floor(rows(tmp_path, line("naive"), line("naive", round=1)), FORWARD)
    assert floor == Floor(UNMEASURED, False) and "no A/A was run: under 10 %" in str(floor)
    assert str(Floor(0.0123, True)) == "A/A floor 1.2 %"


@pytest.mark.parametrize(
    ("ratio", "spread", "word"),
    [(1.15, 0.001, "faster"), (1.09, 0.001, "unclear"), (0.86, 0.001, "slower"), (0.92, 0.001, "unclear"),
     (1.04, 0.001, "same"), (0.96, 0.001, "same"), (1.11, 0.1, "unclear"), (1.25, 0.9, "unclear"),
     (1.0, 0.001, "same"), (1.15, 0.2, "unclear")],
)  # fmt: skip
def test_words_at_their_boundaries(tmp_path: Path, ratio: float, spread: float, word: str) -> None:
    """With a floor of 10 %: beyond it the whole interval, or no claim; the same, within 5 %."""
    a, b = rows(
        tmp_path, line("a", 10.0, spread=spread, samples=30), line("b", 10.0 * ratio, spread=spread, samples=30)
    )
    verdict = compare_times([a], [b], FORWARD, Floor(0.10, True))
    assert verdict is not None and verdict.low <= verdict.ratio <= verdict.high
    assert verdict.word == word, str(verdict)


@pytest.mark.parametrize(("floor", "word"), [(0.5, "unclear"), (0.05, "faster"), (0.3, "unclear")])
def test_a_loud_machine_makes_nothing_the_same(tmp_path: Path, floor: float, word: str) -> None:
    """1.25 times as fast, where the baseline differs from itself by half: neither faster nor the same."""
    a, b = rows(tmp_path, line("a", 10.0, spread=0.001), line("b", 12.5, spread=0.001))
    verdict = compare_times([a], [b], FORWARD, Floor(floor, True))
    assert verdict is not None and verdict.word == word


@pytest.mark.parametrize(
    ("ratio", "low", "high", "told"),
    [(1.432, 1.412, 1.451, "1.43× (1.41–1.45)"), (15.71, 15.62, 15.84, "15.7× (15.6–15.8)"),
     (9.3, 7.8, 11.2, "9× (8–11)"), (9.3, 1.4, 21.2, "9.3× (1.4–21.2)"), (1.00213, 1.00201, 1.00222,
         "1.0021× (1.0020–1.0022)"),
     (1.5, 1.5, 1.5, "1.500× (1.500–1.500)"), (0.034, 0.01, 0.2, "0.03× (0.01–0.20)"),
     (13.6, 0.00083, 16134.6, "14× (0.00083–16000)"), (0.53, 0.0372, 40.1, "0.53× (0.037–40)"),
     (1.43, 0.0, math.inf, "1.4× (no interval)"), (1234.5, 0.0, math.inf, "1200× (no interval)")],
)  # fmt: skip
def test_digits_follow_the_interval(ratio: float, low: float, high: float, told: str) -> None:
    assert str(Verdict(ratio, low, high, "faster", Floor())) == told


def test_percentiles_stand_in_for_samples_that_were_not_kept(tmp_path: Path) -> None:
    """The same case with and without its samples file: nearly the same interval."""
    generator = np.random.default_rng(3)
    a, b = (samples(generator, middle, 0.05, 200) for middle in (1.0, 1.2))
    widths = []
    for kept in (True, False):
        lines = [line("a", {"forward": a}), line("b", {"forward": b})]
        found = rows(tmp_path / str(kept), *(each if kept else {**each, "kept": {}} for each in lines))
        assert (found[0].samples(FORWARD) is not None) is kept
        verdict = compare_times(found[:1], found[1:], FORWARD, TIGHT)
        assert verdict is not None
        widths.append(verdict.high - verdict.low)
    assert widths[1] == pytest.approx(widths[0], rel=0.25) and widths[0] > 0.01


@pytest.mark.parametrize("count", [1, 2])
def test_a_single_sample_proves_nothing(tmp_path: Path, count: int) -> None:
    a, b = rows(tmp_path, line("a", 1.0, samples=count), line("b", 3.0))
    verdict = compare_times([a], [b], FORWARD, TIGHT)
    assert verdict is not None and verdict.ratio == pytest.approx(3)
    assert verdict.word == ("unclear" if count == 1 else "faster")


def test_single_samples_of_several_rounds_prove_what_the_rounds_do(tmp_path: Path) -> None:
    lines = [line(who, time * drift, samples=1, round=round) for round, drift in enumerate((1.0, 1.01, 0.99, 1.02))
             for who, time in (("a", 1.0 + 0.01 * round), ("b", 2.0))]  # fmt: skip
    found = rows(tmp_path, *lines)
    a, b = ([row for row in found if row.backend == who] for who in "ab")
    verdict = compare_times(a, b, FORWARD, TIGHT)
    assert verdict is not None and verdict.word == "faster" and math.isfinite(verdict.high)


def test_nothing_is_judged_where_one_side_has_no_time(tmp_path: Path) -> None:
    ok, failed, other = rows(tmp_path, line("a"), line("b", status="incorrect"), line("c", {"backward": 1.0}))
    assert compare_times([ok], [failed], FORWARD, TIGHT) is None
    assert compare_times([ok], [other], FORWARD, TIGHT) is None
    assert compare_times([], [ok], FORWARD, TIGHT) is None


@pytest.mark.parametrize("lost", ["low", "high"])
@pytest.mark.parametrize("count", [3, 100])
def test_half_an_interval_is_none(tmp_path: Path, lost: str, count: int) -> None:
    half = line("a", 1.0, samples=count)
    half["metrics"][FORWARD][lost] = None
    found = rows(tmp_path, half, line("b", 3.0))
    verdict = compare_times(found[:1], found[1:], FORWARD, TIGHT)
    assert verdict is not None and verdict.word == "unclear" and "no interval" in str(verdict)
