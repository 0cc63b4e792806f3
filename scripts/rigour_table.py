"""How far the numbers can be trusted, as Markdown, made anew from records.

    python scripts/rigour_table.py RUNS > README.md

RUNS holds what scripts/evidence/rigour leaves: aa-seed, aa-long, point-a, point-b, do_bench.json, selfcheck.txt;
what of them is missing is said, and left out.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from attn_lab.report.compare import digits
from attn_lab.report.read import PASSES, Row, records
from attn_lab.report.verdict import floor_of, judge

STEP = {"forward_backward": "step"}
KINDS = ("time", "time_hot", "time_graph", "time_kernels", "time_host")
COUNTED = ("memory/", "accuracy/", "witness/", "intensity")  # the same each time, or else something is different
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
    for name in ("aa-seed", "aa-long"):
        rows = ok(folder / name)
        yield f"{name}: {about(rows)}, {1 + max(row.round for row in rows)} rounds\n"
        yield from table(["backend", *map(word, PASSES[:3])])
        for backend in [*dict.fromkeys(row.name for row in rows), "all"]:
            mine = [row for row in rows if backend in ("all", row.name)]
            yield line(backend, *(floor_of(mine, f"{one}/time").percent for one in PASSES[:3]))
        yield ""


def repeats(folder: Path) -> Iterator[str]:
    """Two processes, the same command.  Two senses of agreeing, both counted."""
    first, second = ({row.backend: row for row in ok(folder / name) if not row.twin} for name in ("point-a", "point-b"))
    both = [name for name in first if name in second]
    rows = [*ok(folder / "point-a"), *ok(folder / "point-b")]
    floors = {one: floor_of(rows, f"{one}/time") for one in PASSES}
    counts: dict[str, list[bool]] = {}
    apart: list[tuple[float, str]] = []
    for name in both:
        a, b = first[name], second[name]
        for metric in a.metrics:
            x, y = a.number(metric), b.number(metric)
            one, _, what = metric.partition("/")
            if x is None or y is None or not x:
                continue
            if what == "time" and one in PASSES:
                verdict = judge([a], [b], metric, floors[one])
                within = verdict is not None and verdict.word not in ("faster", "slower")
                told = f"times, judged as the reports do (A/A floor of the step {floors['forward_backward'].percent})"
                counts.setdefault(told, []).append(within)
            if any(each in metric for each in COUNTED):
                counts.setdefault("counted (memory, accuracy, kernels): equal to 0.1 %", []).append(
                    abs(y / x - 1) <= ALIKE
                )
            elif (low := a.number(metric, "low")) is not None and one in PASSES:
                high, low2, high2 = a.number(metric, "high"), b.number(metric, "low"), b.number(metric, "high")
                assert high is not None and low2 is not None and high2 is not None
                within = low <= y <= high and low2 <= x <= high2
                counts.setdefault("sampled: each median within the other's p05 to p95", []).append(within)
                if not within:
                    apart.append((100 * (y / x - 1), f"{name} {metric}"))
            elif what == "energy":
                counts.setdefault("energy: within 2 %", []).append(abs(y / x - 1) <= 0.02)
    yield "## Two complete repeats of seed/point\n"
    yield f"{len(both)} backends, two processes one after the other.\n"
    yield from table(["metrics", "agree", "of", "share"])
    for what, each in counts.items():
        yield line(what, sum(each), len(each), f"{100 * sum(each) / len(each):.1f} %")
    every = [one for each in counts.values() for one in each]
    yield line("all", sum(every), len(every), f"{100 * sum(every) / max(len(every), 1):.1f} %")
    if apart:
        yield "\nNot: " + ", ".join(
            f"{name} {percent:+.2f} %" for percent, name in sorted(apart, key=lambda x: -abs(x[0]))
        )


def do_bench(folder: Path) -> Iterator[str]:
    found = json.loads((folder / "do_bench.json").read_text())
    yield "## Against triton.testing.do_bench\n"
    yield f"Medians of {found['rounds']} rounds by turns, ms; the same calls, both over a flushed L2.\n"
    yield from table(["backend", "pass", "ours", "do_bench", "apart", "spread of ours", "spread of do_bench"])
    for name, passes in found["ms"].items():
        for one, seen in passes.items():
            ours, theirs = (statistics.median(seen[who]) for who in ("ours", "do_bench"))
            spreads = [f"{100 * (max(seen[who]) / min(seen[who]) - 1):.2f} %" for who in ("ours", "do_bench")]
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
        fields = ("sm_clock", "memory_clock", "power", "temperature", "throttled")
        yield line(row.backend, *(digits(row.number(f"forward_backward/{each}"), 4) for each in fields), *said)
    told = {
        str(row.metrics["card/unwatched"]["note"])
        for row in single(folder / "point-a")
        if "card/unwatched" in row.metrics
    }
    yield from (f"\n{why}" for why in sorted(told))


def cost(folder: Path) -> Iterator[str]:
    yield "## What `measure=default` takes, s a case and pass\n"
    yield "On the clock, by wall; of the kinds of time a third of what they take for all passes (from seed/point).\n"
    extra = {row.backend: (row.number("kinds/spent") or 0) / 3 for row in single(folder / "point-a")}
    yield from table(["shape", "backend", *map(word, PASSES[:3]), "kinds", "most"])
    for name in ("aa-seed", "aa-long"):
        for backend in dict.fromkeys(row.name for row in ok(folder / name)):
            mine = [row for row in ok(folder / name) if row.name == backend]
            spent = [max(row.number(f"{one}/spent") or 0 for row in mine) for one in PASSES[:3]]
            more = extra.get(backend, 0.0)
            yield line(name, backend, *(f"{each:.2f}" for each in spent), f"{more:.2f}", f"{max(spent) + more:.2f}")


def selfcheck(folder: Path) -> Iterator[str]:
    yield "## attn-lab selfcheck\n"
    yield "```\n" + (folder / "selfcheck.txt").read_text().strip() + "\n```"


def ok(folder: Path) -> list[Row]:
    rows = [row for row in records(folder).rows if row.status == "ok"]
    if not rows:
        raise FileNotFoundError(f"no case in {folder.name} came out ok")
    return rows


def single(folder: Path) -> list[Row]:
    return [row for row in ok(folder) if not row.twin]


def about(rows: Sequence[Row]) -> str:
    return f"{rows[0].machine}, {rows[0].shape_text}"


def word(one: str) -> str:
    return STEP.get(one, one)


def table(heads: Sequence[str]) -> list[str]:
    return [line(*heads), "|" + " --- |" * len(heads)]


def line(*cells: object) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
