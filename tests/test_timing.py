"""When a pass has been timed enough, in what state its card is meanwhile, and what is said where it is not certain."""

import math
import time

import numpy as np
import pytest

from attn_lab.measure.gpu_monitor import State
from attn_lab.measure.probes._clock import CudaClock, precision
from attn_lab.measure.probes._watched import Watched
from attn_lab.measure.probes.timing import Gap, Timing
from attn_lab.selfcheck.fake_gpu import SOUND, Recording


def timing(**given) -> Timing:
    return Timing(
        **{
            "warmup": 0,
            "settle_seconds": 0.0,
            "max_samples": 4000,
            "min_samples": 10,
            "max_seconds": 60.0,
            "precision": 2.0,
            **given,
        }
    )


class Drawn:
    """A clock that needs no time: calls last as long as a seeded generator says."""

    calls_at_once = 1

    def __init__(self, spread: float):
        self.normal = np.random.default_rng(1)
        self.spread = spread

    def warm(self, before, timed, count, seconds):
        return 0.0

    def time(self, before, timed, count, meanwhile):
        meanwhile()
        return list(np.exp(self.normal.normal(0, self.spread, count)))


def test_a_noisier_machine_is_asked_more_often_until_it_is_certain():
    counts = {}
    for spread in (0.001, 0.05, 0.2):
        times = timing()._sample(Drawn(spread), Watched(None, 0.9), lambda: None, lambda _: None).sound
        counts[spread] = len(times)
        assert precision(times) <= 2.0
    assert counts[0.001] == 10 < counts[0.05] < counts[0.2] < 4000


class Slow:
    """A clock whose calls take 0.1 s of everybody's time."""

    calls_at_once = 10

    def warm(self, before, timed, count, seconds):
        return 0.1

    def time(self, before, timed, count, meanwhile):
        time.sleep(0.1 * count)
        return [100.0] * count


def test_calls_that_take_long_do_not_take_longer_than_the_measure_twice():
    begun = time.perf_counter()
    calls = timing(max_seconds=0.3)._sample(Slow(), Watched(None, 0.9), lambda: None, lambda _: None)
    assert 3 <= calls.taken <= 7 and time.perf_counter() - begun < 1.5


class Cold(Recording):
    """A card at boost clock for 0.1 s, below what it keeps for 0.1 s, then as it stays; and a clock that stands on it,
    of which each call takes a millisecond of everybody's time."""

    calls_at_once = 10

    def __init__(self) -> None:
        super().__init__([SOUND])
        self.begun = time.perf_counter()

    def warm(self, before, timed, count, seconds):
        return 0.001

    def time(self, before, timed, count, meanwhile):
        time.sleep(0.001 * count)
        meanwhile()
        return [1e3 / self.state().sm_clock] * count

    def state(self) -> State:
        stage = min(int((time.perf_counter() - self.begun) / 0.1), 2)
        return SOUND._replace(sm_clock=[1980.0, 1500.0, 1700.0][stage])


def test_nothing_counts_before_the_card_is_in_the_state_that_it_keeps():
    seen = {}
    for settle in (0.0, 0.3):
        card = Cold()
        probe = timing(min_samples=30, settle_seconds=settle)
        calls = probe._sample(card, Watched(card, 0.8), lambda: None, lambda _: None)
        clocks = next(each for each in calls.measurements("forward") if each.name == "forward/sm_clock")
        seen[settle] = (clocks.low, clocks.high)
    assert seen[0.0][1] == 1980.0  # batches that agree, and yet are not what comes of it
    assert seen[0.3] == (1700.0, 1700.0)


class Capped(CudaClock):
    """A GPU's clock without one, and its card: a call takes a millisecond, and two while it is at its power cap, as it
    is once it has worked for 25 of the last 50 ms; `busy` are those that it worked."""

    def __init__(self) -> None:
        super().__init__(hot=True)
        self.busy: list[tuple[float, float]] = []

    def warm(self, before, timed, count, seconds):
        return super().warm(before, lambda _: time.sleep(0.001), 5, seconds)

    def _queued(self, before, timed, count, meanwhile):
        times = []
        for _ in range(count):
            begun, took = time.perf_counter(), 2.0 if self.capped else 1.0
            time.sleep(took / 1e3)
            self.busy.append((begun, time.perf_counter()))
            times.append((took, False))
        meanwhile()
        return times

    @property
    def capped(self) -> bool:
        now = time.perf_counter()
        return sum(min(end, now) - max(begun, now - 0.05) for begun, end in self.busy if end > now - 0.05) >= 0.025

    def state(self) -> State:
        return SOUND._replace(reasons=frozenset(["power cap"] * self.capped))


@pytest.mark.parametrize("settle", [0.0, 0.1])
def test_a_card_that_its_power_cap_slows_is_timed_as_it_is_without_unless_asked_not_to_rest(settle):
    seen = {}
    for rest in (0.0, 3.0):
        card = Capped()
        calls = timing(min_samples=60, settle_seconds=settle, rest_ratio=rest)._sample(
            card, Watched(card, 0.9), lambda: None, lambda _: None
        )
        seen[rest] = float(np.median(calls.sound))
        assert card.rest == rest and 1 <= card.calls_at_once <= 10 and calls.taken >= 60
    assert seen == {0.0: 2.0, 3.0: 1.0}


def test_what_ran_before_a_pass_does_not_make_it_rest():
    """The oracle's products, say: the card still tells of its cap when the next pass begins to settle."""
    card = Capped()
    before = time.perf_counter()
    idle = Recording([SOUND])
    idle.state = lambda: SOUND._replace(reasons=frozenset(["power cap"] * (time.perf_counter() < before + 0.1)))
    calls = timing(min_samples=10, settle_seconds=0.4)._sample(card, Watched(idle, 0.9), lambda: None, lambda _: None)
    assert card.rest == 0 and calls.taken >= 10


def test_a_card_below_its_cap_is_given_no_rest():
    card = Capped()
    calls = timing(min_samples=10)._sample(card, Watched(Recording([SOUND]), 0.9), lambda: None, lambda _: None)
    assert card.rest == 0 and card.calls_at_once == 10 and calls.taken == 10


def test_calls_are_made_one_by_one_where_one_is_a_burst_and_no_rest_is_longer_than_a_tenth_of_a_second():
    card = Capped()
    card.rest = 100.0
    CudaClock.warm(card, lambda: None, lambda _: time.sleep(0.02), 3, math.inf)
    assert card.calls_at_once == 1
    begun = time.perf_counter()
    assert card.time(lambda: None, lambda _: None, 3, lambda: None) == [1.0] * 3
    assert 0.3 <= time.perf_counter() - begun < 1.0


def test_a_pass_that_met_the_power_cap_says_that_it_rested(door):
    watch = "probe.timing.gpu_monitor._target_=attn_lab.selfcheck.fake_gpu.Recorded"
    words = ("probe=[accuracy,timing]", "passes=[forward]", "measure.max_samples=9", watch)
    for rest, said in ((3, True), (0, False)):
        record = door(*words, "+probe.timing.gpu_monitor.reasons=[power cap]", f"measure.rest_ratio={rest}").records[-1]
        assert ("forward/rest_ratio" in record["metrics"]) == said and record["metrics"]["forward/time"]["samples"] == 9
        assert "at its power cap in" in record["metrics"]["forward/power"]["note"]


class Wanders:
    """A clock whose calls agree within a batch, and whose batches do not."""

    calls_at_once = 10

    def __init__(self) -> None:
        self.normal = np.random.default_rng(3)

    def warm(self, before, timed, count, seconds):
        return 0.0

    def time(self, before, timed, count, meanwhile):
        meanwhile()
        return list(np.exp(self.normal.normal(0, 0.02)) * np.exp(self.normal.normal(0, 0.0001, count)))


def test_batches_that_differ_by_more_than_their_calls_are_asked_for_until_they_are_certain_too():
    calls = timing(min_samples=30, precision=0.5)._sample(Wanders(), Watched(None, 0.9), lambda: None, lambda _: None)
    assert calls.precision <= 0.5 and calls.taken > 300
    assert abs(np.median(calls.sound) - 1) < 0.01


def test_what_never_gets_certain_ends_and_says_so(door):
    (record,) = door(
        "probe=[accuracy,timing]", "passes=[forward]", "measure.precision=1e-9", "measure.max_samples=12"
    ).records
    reached = record["metrics"]["forward/precision"]
    assert reached["samples"] == 12 and reached["value"] > 1e-9 and "not within 1e-09 %" in reached["note"]


def test_the_interval_of_the_median_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(400):
        times = np.exp(generator.normal(0, 0.1, 50))
        held += abs(np.median(times) - 1) <= precision(times) / 100 * np.median(times)
    assert 0.93 <= held / 400 <= 1.0


def test_a_step_that_is_not_the_sum_of_its_passes_is_marked_unless_noise_explains_it():
    generator = np.random.default_rng(4)

    def mark(step: float, spread: float) -> str:
        return Gap(*(median * np.exp(generator.normal(0, spread, 50)) for median in (step, 1.0, 2.0))).mark

    assert mark(3.0, 0.01) == mark(3.09, 0.01) == mark(2.91, 0.01) == ""
    assert "3 ms, +50 %" in mark(4.5, 0.01)
    assert "-33 %" in mark(2.0, 0.01)
    assert mark(4.5, 2.0) == ""


@pytest.mark.parametrize("word", ["measure.precision=0", "measure.precision=-1", "measure.max_seconds=-1"])
def test_a_precision_or_time_that_cannot_be_is_refused(word, door):
    told = door(word)
    assert told.code == 2 and told.err.count("\n") == 1 and "expected more than 0" in told.err


def test_a_backend_that_compiles_while_the_clock_runs_is_an_error(door):
    (record,) = door("backend._target_=attn_lab.selfcheck.faults.Recompiles", "probe=[accuracy,timing]").records
    assert record["status"] == "error" and "recompil" in record["reasons"][0].lower(), record
    assert "forward/time" not in record["metrics"]
