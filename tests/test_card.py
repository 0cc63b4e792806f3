"""How the card was while a clock ran: what is dropped, counted, marked and said of recorded readings and real ones."""

import os
import sys
from dataclasses import replace
from itertools import cycle, islice
from types import SimpleNamespace

import pytest
from written import line, rows

from attn_lab.core.machine import detect
from attn_lab.measure import gpu_monitor as cards
from attn_lab.measure.gpu_monitor import REASONS, THROTTLED, MonitorUnavailable, Nvml, State
from attn_lab.measure.probes._watched import Watched
from attn_lab.records.flags import noise
from attn_lab.report.compare import pooled
from attn_lab.selfcheck.fake_gpu import SOUND, Recording

RECORDED = "probe.timing.gpu_monitor._target_=attn_lab.selfcheck.fake_gpu.Recorded"
QUICK = ("probe=[accuracy,timing]", "passes=[forward]", "shape.seq_len=16")


def watched(*states: State, batches: int = 20) -> Watched:
    """Batches of ten calls: 1 ms each under a sound state, 2 ms under another."""
    calls = Watched(Recording(states), 0.9)
    for state in islice(cycle(states), batches):
        calls.look()
        calls.add([1.0 if state == SOUND else 2.0] * 10)
    return calls


def seen(calls: Watched) -> dict[str, tuple[float, str]]:
    return {metric.name: (metric.value, metric.note) for metric in calls.measurements("forward")}


@pytest.mark.parametrize("reason", sorted(THROTTLED))
def test_calls_under_heat_or_a_power_brake_are_dropped_and_counted(reason):
    calls = watched(*[SOUND] * 19, SOUND._replace(reasons=frozenset([reason])))
    assert calls.sound == [1.0] * 190 and calls.dropped == [2.0] * 10 and calls.mark == ""
    count, note = seen(calls)["forward/dropped"]
    assert count == 10 and note == f"10 of 200 calls (10 {reason})"


def test_too_many_of_them_are_a_mark_and_where_none_is_sound_none_is_dropped_silently():
    slowed = SOUND._replace(reasons=frozenset(["power brake"]))
    calls = watched(SOUND, slowed)
    assert calls.sound == [1.0] * 100 and calls.mark.startswith("100 of 200 calls (100 power brake)")
    calls = watched(slowed)
    assert calls.sound == [2.0] * 200 and calls.mark.startswith("200 of 200 calls")


@pytest.mark.parametrize(("clock", "kept"), [(1979.0, 200), (1785.0, 200), (1780.0, 190), (300.0, 190)])
def test_a_clock_below_a_share_of_the_run_s_own_median_does_not_count(clock, kept):
    assert len(watched(*[SOUND] * 19, SOUND._replace(sm_clock=clock)).sound) == kept


def test_a_card_at_its_power_cap_is_what_one_has_bought():
    calls = watched(SOUND._replace(reasons=frozenset(["power cap"])))
    assert calls.dropped == [] and calls.mark == ""
    assert seen(calls)["forward/power"] == (400.0, "at its power cap in 20 of 20 readings")


def test_what_the_driver_does_not_tell_is_absent():
    assert set(seen(watched(State()))) == {"forward/dropped"}
    assert seen(Watched(None, 0.9)) == {}
    assert set(seen(watched(SOUND))) == {
        f"forward/{name}" for name in ("dropped", "sm_clock", "memory_clock", "power", "temperature")
    }


def test_somebody_else_on_the_gpu_is_marked_on_the_number_and_told_at_the_end(door):
    told = door(*QUICK, "backend=naive,sdpa_math", RECORDED, "+probe.timing.gpu_monitor.shared=true")
    for record in told.records:
        assert record["metrics"]["forward/time"]["note"] == "noisy: process 4711 on this GPU as well"
        assert record["metrics"]["forward/sm_clock"]["value"] == 1980
    assert told.code == 0 and "≈ Noisy" in told.out and told.out.count("process 4711 on this GPU") == 2
    assert "≈" in next(line for line in told.out.splitlines() if line.startswith("naive "))


def test_a_throttled_card_s_dropped_samples_are_kept_apart(door):
    told = door(*QUICK, RECORDED, "+probe.timing.gpu_monitor.reasons=[power brake]", "measure.precision=1e-9")
    (metrics,) = (record["metrics"] for record in told.records)
    assert metrics["forward/dropped"]["value"] == 5 and metrics["forward/time"]["samples"] == 5
    assert "5 of 10 calls (5 power brake) ran under a throttled clock" in metrics["forward/time"]["note"]


BLIND = '''
"""A GPU, as far as NVML is asked."""

from dataclasses import replace

from attn_lab.measure.gpu_monitor import Nvml


class Blind(Nvml):
    def card(self, machine):
        return super().card(replace(machine, device="cuda", uuid="no-such-card"))
'''


def test_where_nvml_refuses_one_line_says_so_and_the_fields_are_absent(door, tmp_path, monkeypatch):
    """The driver's library itself refuses: there is none here, or no such card."""
    (tmp_path / "their_watch.py").write_text(BLIND)
    monkeypatch.syspath_prepend(tmp_path)
    told = door(*QUICK, "backend=naive,sdpa_math", "probe.timing.gpu_monitor._target_=their_watch.Blind")
    assert told.code == 0 and told.statuses == ["ok", "ok"]
    assert told.out.count("were not monitored: NVML refuses: ") == 1
    for record in told.records:
        assert record["metrics"]["monitor/unavailable"]["note"].startswith("NVML refuses: ")
        assert not {"forward/sm_clock", "forward/dropped", "forward/power"} & set(record["metrics"])


def test_without_pynvml_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    cards._opened.cache_clear()
    with pytest.raises(MonitorUnavailable, match="pip install nvidia-ml-py"):
        Nvml().card(replace(detect("cpu"), device="cuda", uuid="any"))
    assert Nvml().card(detect("cpu")) is None


class Refusal(Exception):
    pass


def driver(**answers) -> cards._Driver:
    """NVML as a library that answers as told, and refuses all else."""

    def refuse(*_):
        raise Refusal

    names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetClockInfo",
             "nvmlDeviceGetTemperature", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetComputeRunningProcesses",
             "nvmlDeviceGetGraphicsRunningProcesses")  # fmt: skip
    told = {name: (lambda *_, value=answers[name]: value) if name in answers else refuse for name in names}
    constants = {"NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2, "NVML_TEMPERATURE_GPU": 0}
    return cards._Driver(SimpleNamespace(NVMLError=Refusal, **told, **constants), None)


@pytest.mark.parametrize(("listed", "others"), [
    ([os.getpid()], []), ([os.getpid(), 7], ["process 7"]), ([], []), ([3], []),
    ([3, 4], ["a process beyond this container"]),
])  # fmt: skip
def test_whose_processes_are_on_the_card_as_far_as_can_be_known(listed, others):
    processes = [SimpleNamespace(pid=pid) for pid in listed]
    assert list(driver(nvmlDeviceGetComputeRunningProcesses=processes).others()) == others


def test_readings_are_in_the_units_they_say_and_what_is_refused_is_none():
    told = driver(nvmlDeviceGetPowerUsage=350_500, nvmlDeviceGetTotalEnergyConsumption=7_000,
                  nvmlDeviceGetCurrentClocksEventReasons=0x80 | 0x1 | 0x4)  # fmt: skip
    assert told.state() == State(power=350.5, reasons=frozenset(["power brake", "power cap"]))
    assert told.joules() == 7.0 and driver().joules() is None and driver().others() == []
    assert driver().state() == State()


def test_the_bits_are_nvml_s_own():
    import pynvml

    named = {
        "power cap": "SwPowerCap", "hardware slowdown": "HwSlowdown", "power brake": "HwPowerBrakeSlowdown",
        "software thermal slowdown": "SwThermalSlowdown", "hardware thermal slowdown": "HwThermalSlowdown",
    }  # fmt: skip
    assert {getattr(pynvml, f"nvmlClocksEventReason{named[words]}"): words for words in REASONS.values()} == REASONS


def test_a_step_s_joules_are_power_times_its_time(door):
    recorded = "probe.energy.gpu_monitor._target_=attn_lab.selfcheck.fake_gpu.Recorded"
    told = door("probe=[accuracy,energy]", "shape.seq_len=64", recorded, "+probe.energy.gpu_monitor.watts=100",
                "passes=[forward]")  # fmt: skip
    (metrics,) = (record["metrics"] for record in told.records)
    energy = metrics["forward/energy"]
    assert (
        energy["unit"] == "J"
        and float(energy["note"].removesuffix(" W on average")) == pytest.approx(100, rel=0.05)
        and energy["samples"] > 10
    )
    least = 100 * 2.0 / energy["samples"]  # the loop took 2 s at least, and no more than a tick or a batch over it
    assert least <= energy["value"] <= 1.5 * least
    pairs = 64 * 65 / 2
    assert metrics["forward/tflop_per_joule"]["value"] * energy["value"] == pytest.approx(4 * 128 * pairs / 1e12)
    assert metrics["energy/idle"]["value"] == pytest.approx(100, rel=0.05)
    sustained = metrics["forward/time_sustained"]
    assert sustained["unit"] == "ms" and sustained["value"] / 1e3 * 100 == pytest.approx(energy["value"], rel=0.05)


@pytest.mark.parametrize(("word", "says"), [
    ("probe.energy.seconds=1", "expected at least 2"), ("probe.energy.seconds=-1", "expected at least 2"),
    ("probe.timing.clock_share=2", "expected 0 to 1"), ("probe.time_variants.calls=0", "expected at least 1"),
    ("probe.time_variants.seconds=0", "expected more than 0"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(word, says, door):
    told = door("probe=[accuracy,timing,time_variants,energy]", word)
    assert told.code == 2 and told.err.count("\n") == 1 and says in told.err and word.split("=")[0] in told.err


def test_on_a_cpu_there_is_one_kind_of_time_and_nothing_to_watch(door):
    (record,) = door("probe=[accuracy,timing,time_variants,energy]", "shape.seq_len=16", "passes=[forward]").records
    told = {name for name in record["metrics"] if name.startswith("forward/")}
    assert told == {f"forward/{each}" for each in ("time", "precision", "tflops", "seconds")}
    assert not [name for name in record["metrics"] if name.startswith(("time_variants", "energy", "card"))]


def test_a_mark_of_any_round_and_of_the_kernels_stands_beside_the_pooled_number(tmp_path):
    first, second = (line("naive", round=number) for number in (0, 1))
    second["metrics"]["forward/time"]["note"] = "noisy: process 7 on this GPU as well"
    kernels = {"value": 0.5, "unit": "ms", "low": None, "high": None, "samples": 9, "note": "noisy: some was not seen"}
    second["metrics"]["backward/time_kernels"] = kernels
    (row,) = pooled(rows(tmp_path, first, second))
    assert noise(row, "forward/time") == noise(row, "forward/tflops") == "noisy: process 7 on this GPU as well"
    assert noise(row, "backward/time") == "noisy: some was not seen" and noise(row, "forward_backward/time") == ""


@pytest.mark.gpu
def test_a_real_card_tells_its_state_or_why_not():
    try:
        card = Nvml().card(detect("cuda"))
    except MonitorUnavailable as why:
        pytest.skip(f"not watched here: {why}")
    state = card.state()
    assert 100 < state.sm_clock < 4000 and 0 <= state.temperature < 120
    assert card.joules() is None or card.joules() > 0


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["naive", "sdpa_flash"])
def test_on_a_gpu_all_kinds_of_time_are_told(backend, door):
    (record,) = door(f"backend={backend}", "device=cuda", "shape=seed", "shape.batch_size=4", "measure=default").records
    assert record["status"] == "ok", record["reasons"]
    metrics = {name: metric["value"] for name, metric in record["metrics"].items()}
    for one in ("forward", "backward", "forward_backward"):
        assert all(metrics[f"{one}/time_{kind}"] > 0 for kind in ("hot", "host", "graph", "kernels"))
        assert metrics[f"{one}/kernels_gap"] > -100
