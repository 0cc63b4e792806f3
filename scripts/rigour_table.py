"""How far the numbers can be trusted, as Markdown, made anew from records.

    python scripts/rigour_table.py RUNS > README.md

RUNS holds what scripts/evidence/rigour leaves: aa-seed, aa-long, aa-long-sustained (and any other aa-…), point-a,
point-b, do_bench.json (and any other do_bench….json), selfcheck.txt.  What of them is missing is said, and left out.
"""

import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attn_lab.records.reading import records
from attn_lab.records.record import PASSES, Record
from attn_lab.records.stats.noise_floor import MIN_EFFECT, Floor, noise_floor
from attn_lab.records.stats.verdict import compare_times
from attn_lab.report.compare import digits
from attn_lab.report.pages.gpu_state import late

STEP = {"forward_backward": "step"}
KINDS = ("time", "time_hot", "time_graph", "time_kernels", "time_host", "time_sustained")
COUNTED = ("memory/", "accuracy/", "kernel_check/", "intensity")  # the same each time, or else something is different
ALIKE = 0.001


def main(folder: Path) -> None:
    print("# How far these numbers can be trusted\n")
    for part in (noise, repeats, do_bench, kinds, energy, state, cost, selfcheck):
        try:
            print("\n".join(part(folder)) + "\n")
        except FileNotFoundError as missing:
            print(f"Not made: {missing}\n")


def noise(folder: Path) -> Iterator[str]:
    yield "## A/A: the same backend twice\n"
    yield "The relative difference that 95 % of the ratios of a backend to itself stay within, by pass.\n"
    for name in sorted(each.name for each in folder.glob("aa-*")) or ["aa-seed"]:
        rows = ok(folder / name)
        measure = rows[0].provenance["config"]["measure"]
        yield f"{name}: {about(rows)}, {1 + max(row.round for row in rows)} rounds, {_told(measure)}\n"
        yield from table(["backend", *map(word, PASSES[:3])])
        for backend in [*dict.fromkeys(row.name for row in rows), "all"]:
            mine = [row for row in rows if backend in ("all", row.name)]
            yield line(backend, *(_floor(mine, f"{one}/time") for one in PASSES[:3]))
        yield ""


def _floor(rows: Sequence[Record], metric: str) -> str:
    floor = noise_floor(rows, metric)
    return floor.percent if floor.measured else "not measured"


def _told(measure: Mapping[str, Any]) -> str:
    names = ("settle_seconds", "max_seconds", "min_samples", "precision", "rest_ratio")
    return "measure: " + ", ".join(f"{name} {measure[name]:g}" for name in names if name in measure)


def repeats(folder: Path) -> Iterator[str]:
    """Two processes, the same command, metric by metric: as the reports would judge them, and by the floor asked for.

    What a record states of a median is how sure one run is of it; of another run the A/A floor speaks.  So a time is
    judged by both.  What has no samples of its own has no interval but the floor.
    """
    first, second = ({row.backend: row for row in single(folder / name)} for name in ("point-a", "point-b"))
    pairs = [(first[name], second[name]) for name in first if name in second]
    rows = [row for name in ("point-a", "point-b") for row in ok(folder / name)]
    own = {one: noise_floor(rows, f"{one}/time") for one in PASSES if any(row.number(f"{one}/time") for row in rows)}
    yield "## Two complete repeats of seed/point\n"
    yield f"{len(pairs)} backends, two processes one after the other. Same: the interval lies within twice the floor;"
    yield "apart: wholly beyond it; unclear: neither can be claimed. What has no samples is same within the floor.\n"
    counts, apart = _agreed(pairs, own)
    room = counts.pop(ROOM, Counter())
    told = ", ".join(f"{word(one)} {floor.percent}" for one, floor in own.items())
    yield f"By the A/A floors of these two runs: {told}; but less than {100 * MIN_EFFECT:g} % is never claimed.\n"
    yield from table(["metrics", "same", "unclear", "apart", "of", "same, share", "not apart, share"])
    for group, each in [*counts.items(), ("all of a backend", sum(counts.values(), Counter()))]:
        total = each.total() or 1
        shares = [f"{100 * count / total:.1f} %" for count in (each["same"], total - each["apart"])]
        yield line(group, each["same"], each["unclear"], each["apart"], each.total(), *shares)
    yield f"\nNo statement about a backend, and not counted: {ROOM}: same {room['same']} of {room.total()}.\n"
    if apart:
        far = sorted(apart, key=lambda each: -abs(each[0]))
        yield "Apart: " + ", ".join(f"{name} {percent:+.2f} %" for percent, name in far) + "\n"


def _agreed(
    pairs: Sequence[tuple[Record, Record]], floors: Mapping[str, Floor]
) -> tuple[dict[str, Counter[str]], list[tuple[float, str]]]:
    """By group how many are same, unclear and apart; and by how much those are that are apart."""
    counts: dict[str, Counter[str]] = {}
    apart: list[tuple[float, str]] = []
    for a, b in pairs:
        for metric in a.metrics:
            x, y, group = a.number(metric), b.number(metric), _group(metric)
            if x is None or y is None or not x or group is None:
                continue
            floor = floors[one].claims if (one := metric.partition("/")[0]) in floors else MIN_EFFECT
            verdict = compare_times([a], [b], metric, Floor(floor, True)) if group == CLOCK else None
            if verdict is None:
                within = abs(y / x - 1) <= {EXACT: ALIKE, ENERGY: 0.02}.get(group, floor)
                found = "same" if within else "apart"
            else:
                found = "apart" if verdict.word in ("faster", "slower") else verdict.word
            counts.setdefault(group, Counter())[found] += 1
            if found == "apart" and group != ROOM:
                apart.append((100 * (y / x - 1), f"{a.backend} {metric}"))
    return counts, apart


EXACT = "memory, accuracy, arithmetic: equal to 0.1 %"
CLOCK = "time: cold, hot, graph, kernels"
RATE = "TFLOP/s, share of the ceiling: within the floor"
ENERGY = "energy, sustained time: within 2 %"  # the counter is the driver's, the clock its regulator's; no samples
ROOM = "host time, power, temperature, clocks within the floor"


def _group(metric: str) -> str | None:
    """Where a metric counts; None for what tells how it was measured: counts, precision, gaps, seconds spent."""
    one, _, what = metric.partition("/")
    if any(each in metric for each in COUNTED):
        return EXACT
    if one in PASSES and what in ("time_host", "power", "temperature", "sm_clock", "memory_clock"):
        return ROOM
    if one in PASSES and what in ("energy", "tflop_per_joule", "time_sustained"):
        return ENERGY
    if one in PASSES and what in KINDS:
        return CLOCK
    if one in PASSES and what in ("tflops", "gemm_fraction"):
        return RATE
    return None


def do_bench(folder: Path) -> Iterator[str]:
    yield "## Against triton.testing.do_bench\n"
    for path in sorted(folder.glob("do_bench*.json")) or [folder / "do_bench.json"]:
        yield from _do_bench(path)
        yield ""


def _do_bench(path: Path) -> Iterator[str]:
    found = json.loads(path.read_text())
    yield f"{path.name}: medians of {found['rounds']} rounds by turns, ms; the same calls, both over a flushed L2."
    yield "In bursts: do_bench too for a few ms at a time, with rests between, as we do it.\n"
    yield from table(["backend", "pass", "ours", "do_bench", "apart", "spread of ours", "spread of do_bench",
                      "SM MHz", "in bursts", "apart", "its spread"])  # fmt: skip
    for name, passes in found["ms"].items():
        for one, seen in passes.items():
            ours, theirs = (statistics.median(seen[who]) for who in ("ours", "do_bench"))
            spreads = [f"{100 * (max(seen[who]) / min(seen[who]) - 1):.2f} %" for who in ("ours", "do_bench")]
            clocks = found.get("sm_clock", {}).get(name, {}).get(one, {})
            spreads.append(" against ".join(f"{statistics.mean(each):.0f}" for each in clocks.values() if each))
            if bursts := seen.get("in bursts"):
                middle = statistics.median(bursts)
                spreads += [f"{middle:.4f}", f"{100 * (ours / middle - 1):+.2f} %",
                            f"{100 * (max(bursts) / min(bursts) - 1):.2f} %"]  # fmt: skip
            yield line(name, word(one), f"{ours:.4f}", f"{theirs:.4f}", f"{100 * (ours / theirs - 1):+.2f} %", *spreads)


def kinds(folder: Path) -> Iterator[str]:
    yield "## Kinds of time at the seed point, ms\n"
    yield from table(["backend", "pass", *KINDS, "marks"])
    for row in single(folder / "point-a"):
        for one in PASSES[:3]:
            notes = [str(row.metrics.get(f"{one}/{kind}", {}).get("note") or "") for kind in KINDS]
            marks = [note for note in notes if note.startswith(("noisy", "cannot"))]
            if row.number(f"{one}/time") is not None:
                yield line(
                    row.backend, word(one), *(digits(row.number(f"{one}/{kind}")) for kind in KINDS), "; ".join(marks)
                )


def energy(folder: Path) -> Iterator[str]:
    yield "## Energy at the seed point, J a call and TFLOP a joule\n"
    rows = single(folder / "point-a")
    idle = {digits(row.number("energy/idle")) for row in rows if row.number("energy/idle")}
    yield f"Of the whole card, its idle power included ({', '.join(sorted(idle)) or 'unknown'} W).\n"
    yield from table(["backend", *(f"{word(one)} {unit}" for one in PASSES[:3] for unit in ("J", "TFLOP/J"))])
    for row in rows:
        cells = [digits(row.number(f"{one}/{what}")) for one in PASSES[:3] for what in ("energy", "tflop_per_joule")]
        yield line(row.backend, *cells)


def state(folder: Path) -> Iterator[str]:
    yield "## The card while a step was timed\n"
    yield from table(["backend", "SM MHz", "memory MHz", "W", "°C", "calls dropped", "notes"])
    for row in single(folder / "point-a"):
        said = [row.metrics[name]["note"] for name in row.metrics if name.startswith("forward_backward/po")]
        fields = ("sm_clock", "memory_clock", "power", "temperature", "dropped")
        yield line(row.backend, *(digits(row.number(f"forward_backward/{each}"), 4) for each in fields), *said)
    told = {
        str(row.metrics["monitor/unavailable"]["note"])
        for row in single(folder / "point-a")
        if "monitor/unavailable" in row.metrics
    }
    yield from (f"\n{why}" for why in sorted(told))
    counted = late([row for name in sorted(folder.glob("*/records.jsonl")) for row in ok(name.parent)])
    if counted["late"]:
        told = "{late} calls were late, beside {calls} that count, in {passes} of {all} passes".format(**counted)
        yield f"\nIn all runs here {told}."


def cost(folder: Path) -> Iterator[str]:
    yield "## What `measure=default` takes, s a case and pass\n"
    yield "On the clock, by wall; of the kinds of time a third of what they take for all passes (from seed/point).\n"
    extra = {row.backend: (row.number("time_variants/seconds") or 0) / 3 for row in single(folder / "point-a")}
    yield from table(["shape", "backend", *map(word, PASSES[:3]), "time_variants", "most"])
    for name in [name for name in ("aa-seed", "aa-long") if (folder / name).exists()]:
        for backend in dict.fromkeys(row.name for row in ok(folder / name)):
            mine = [row for row in ok(folder / name) if row.name == backend]
            spent = [max(row.number(f"{one}/seconds") or 0 for row in mine) for one in PASSES[:3]]
            more = extra.get(backend, 0.0)
            yield line(name, backend, *(f"{each:.2f}" for each in spent), f"{more:.2f}", f"{max(spent) + more:.2f}")


def selfcheck(folder: Path) -> Iterator[str]:
    yield "## attn-lab selfcheck\n"
    yield "```\n" + (folder / "selfcheck.txt").read_text().strip() + "\n```"


def ok(folder: Path) -> list[Record]:
    rows = [row for row in records(folder).records if row.status == "ok"]
    if not rows:
        raise FileNotFoundError(f"no case in {folder.name} came out ok")
    return rows


def single(folder: Path) -> list[Record]:
    return [row for row in ok(folder) if not row.is_aa_repeat]


def about(rows: Sequence[Record]) -> str:
    return f"{rows[0].machine}, {rows[0].shape_text}"


def word(one: str) -> str:
    return STEP.get(one, one)


def table(heads: Sequence[str]) -> list[str]:
    return [line(*heads), "|" + " --- |" * len(heads)]


def line(*cells: object) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
