"""What scripts/evidence/inside found, as Markdown, made anew from its records and the files beside them.

    python scripts/inside_tables.py RUNS > README.md

RUNS holds point, layer, model, off1, on1, off2, on2; what of them is missing is said, and left out.  The figures
to report go to RUNS/README.md.said as well, a line each.  Of parts named behind RUNS, only those are made:

    python scripts/inside_tables.py RUNS counters > README.md
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attn_lab.core.kernel_name import short_name
from attn_lab.records.reading import records
from attn_lab.records.record import PASSES, Record
from attn_lab.records.stats.noise_floor import noise_floor
from attn_lab.records.stats.verdict import compare_times
from attn_lab.report.compare import digits

LIMITS = {"trace": 3.0, "snapshot": 5.0}  # seconds a case that a probe may add
KERNELS = 5  # rows of each pass


def main(folder: Path, *asked: str) -> None:
    said: list[str] = []
    print("# Inside the cases\n")
    for part in (cost, unmoved, memory, phases, counters, kernels):
        if asked and part.__name__ not in asked:
            continue
        try:
            print("\n".join(part(folder, said)) + "\n")
        except FileNotFoundError as missing:
            print(f"Not made: {missing}\n")
            said.append(f"! {part.__name__}: not made, {missing}")
    (folder / "README.md.said").write_text("\n".join(said) + "\n", encoding="utf-8")


def cost(folder: Path, said: list[str]) -> Iterator[str]:
    yield "## What looking takes, in seconds a case\n"
    rows = [row for name in ("point", "on1", "on2") for row in records(folder / name).records if row.status == "ok"]
    names = ("trace", "phases", "snapshot", "nvtx")
    yield from table(
        ["run", "backend", *names],
        [
            [row.folder.name, row.backend, *(digits(row.number(f"case/{name}_seconds")) for name in names)]
            for row in rows
        ],
    )
    for name in names:
        taken = sorted(number for row in rows if (number := row.number(f"case/{name}_seconds")) is not None)
        if taken:
            limit = f", of {LIMITS[name]:g} allowed" if name in LIMITS else ""
            said.append(f"! {name}: {taken[len(taken) // 2]:.2f} s a case (median), at most {taken[-1]:.2f} s{limit}")


def unmoved(folder: Path, said: list[str]) -> Iterator[str]:
    """The same sweep with and without hooks, in turns."""
    yield "## Hooks off and on, the same sweep in turns\n"
    off, on = ([row for turn in "12" for row in records(folder / f"{which}{turn}").records] for which in ("off", "on"))
    lines, words = [], []
    for name in dict.fromkeys(row.backend for row in off):
        mine, other = ([row for row in rows if row.backend == name] for rows in (on, off))
        for one in PASSES:
            floor = noise_floor([*off, *on], f"{one}/time")
            verdict = compare_times(mine, other, f"{one}/time", floor)
            if verdict is None:
                continue
            times = [[row.number(f"{one}/time") for row in rows] for rows in (other, mine)]
            lines.append([name, one, *(" ".join(map(digits, each)) for each in times), str(verdict), verdict.word,
                          floor.percent])  # fmt: skip
            words.append(verdict.word)
    yield from table(["backend", "pass", "off, ms", "on, ms", "speed, on against off", "", "A/A floor"], lines)
    couples = [
        (mine, other) for mine in on for other in off if (mine.backend, mine.round) == (other.backend, other.round)
    ]
    pairs = [(mine, other, metric) for mine, other in couples for metric in compared(mine, other)]
    apart = [each for each in pairs if each[0].metrics[each[2]]["value"] != each[1].metrics[each[2]]["value"]]
    yield f"\nMemory and accuracy: {len(pairs) - len(apart)} of {len(pairs)} values are the same, bit for bit."
    differing = [
        differs(name, metric, off, on) for name, metric in dict.fromkeys((each[0].backend, each[2]) for each in apart)
    ]
    yield from (f"\n{told}." for told in differing)
    claims = sum(word in ("faster", "slower") for word in words)
    said.append(f"! hooks on against off: {claims} of {len(words)} times differ by more than the A/A floor; "
                f"{len(pairs) - len(apart)} of {len(pairs)} memory and accuracy values the same")  # fmt: skip
    said += [f"!   {told}" for told in differing] + [f"!   {' | '.join(line)}" for line in lines]


def differs(name: str, metric: str, off: Sequence[Record], on: Sequence[Record]) -> str:
    """A value that is not the same in all runs, and whether those without hooks differ in it among themselves."""
    texts, alone = [], False
    for word, rows in (("off", off), ("on", on)):
        seen = [row.metrics[metric] for row in rows if row.backend == name and metric in row.metrics]
        texts.append(f"{word} {' '.join(digits(each['value']) for each in seen)} {seen[0]['unit']}")
        alone |= word == "off" and len({each["value"] for each in seen}) > 1
    why = "it differs between the runs without hooks as well" if alone else "without hooks it is always the same"
    if metric == "accuracy/repeat":
        why += "; it is how far two answers of one run lie apart, chance where a kernel adds atomically"
    return f"{name}, {metric}: {', '.join(texts)}; {why}"


def compared(mine: Record, other: Record) -> list[str]:
    return [name for name in mine.metrics if name.startswith(("memory/", "accuracy/")) and name in other.metrics]


def memory(folder: Path, said: list[str]) -> Iterator[str]:
    yield "## The peak of memory, and how much of it is explained\n"
    rows = [row for name in ("point", "layer", "model") if (folder / name).exists()
            for row in records(folder / name).records if row.number("snapshot/explained") is not None]  # fmt: skip
    lines = []
    for row in rows:
        found = content(row, "live.json")
        largest = "; ".join(f"{each['bytes'] / 2**20:.4g} MB {each['operator'] or 'given'} {brief(each['line'])}"
                            for each in found["largest"][:3])  # fmt: skip
        peaks = [digits(row.number(metric), 4) for metric in ("memory/peak", "snapshot/peak")]
        lines.append([row.subject, row.backend, *peaks, f"{row.number('snapshot/explained'):.1f} %", largest])
    yield from table(["subject", "backend", "memory/peak MB", "seen MB", "explained", "largest three"], lines)
    shares = [row.number("snapshot/explained") or 0 for row in rows]
    if shares:
        said.append(f"! memory/peak explained: {min(shares):.1f} to {max(shares):.1f} % in {len(shares)} cases")


def phases(folder: Path, said: list[str]) -> Iterator[str]:
    yield "## Phases\n"
    for name in ("layer", "model"):
        for row in records(folder / name).records if (folder / name / "records.jsonl").exists() else []:
            if row.number("phases/step") is None:
                said.append(f"! phases of {name} {row.backend}: {row.status} {'; '.join(row.reasons)[:120]}")
                continue
            parts = {key.removeprefix("phases/"): row.number(key) or 0 for key in row.metrics
                     if key.startswith("phases/") and key not in ("phases/step", "phases/of_timed")}  # fmt: skip
            step = row.number("phases/step") or 1
            yield f"### {name}, {row.backend}, {row.shape_text}\n"
            ordered = sorted(parts.items(), key=lambda one: -one[1])
            shares = [[key, digits(ms), f"{100 * ms / step:.1f} %"] for key, ms in ordered]
            yield from table(["phase", "ms", "share"], shares)
            of_timed = row.number("phases/of_timed")
            timed = "" if of_timed is None else f"; without idle {of_timed:.1f} % of the time measured with hooks off"
            yield f"\nTogether {100 * sum(parts.values()) / step:.2f} % of the step of {digits(step)} ms{timed}.\n"
            largest = ", ".join(f"{key} {100 * ms / step:.0f} %" for key, ms in ordered[:5])
            said.append(f"! phases of {name} {row.backend}: {100 * sum(parts.values()) / step:.2f} % of "
                        f"{digits(step)} ms{timed}: {largest}")  # fmt: skip


def counters(folder: Path, said: list[str]) -> Iterator[str]:
    yield "## Nsight Compute\n"
    rows = records(folder / "point").records
    columns = [(row, each) for row in rows for each in content(row, "counters.json") or []]
    names = list(dict.fromkeys(name for _, each in columns for name in each["counters"]))
    heads = [
        "counter",
        *(f"{row.backend} {each['pass']} `{short_name(each['name'])}`" for row, each in columns),
    ]
    lines = [[name, *(digits(each["counters"].get(name)) for _, each in columns)] for name in names]
    yield from table(heads, lines) if columns else ["No counters were taken."]
    said += [f"! ncu: {head}" for head in heads[1:]] + [f"! ncu: {' | '.join(line)}" for line in lines]
    for one in ("forward", "backward"):  # rivals side by side
        for row in rows:
            if of_pass := [each for each in content(row, "counters.json") or [] if each["pass"] == one]:
                told = f"{one}, {row.backend}: {in_words(of_pass)}"
                if metric := row.metrics.get(f"nsight/{one}/dram_over_min"):
                    told += f"; DRAM {metric['value']:.2f}× of what must move ({metric['note']})"
                yield f"\n{told}."
                said.append(f"! ncu: {told}")


def in_words(seen: Sequence[dict[str, Any]]) -> str:
    """What a pass's kernels took together, and what kept the longest of them."""
    longest = max((each["counters"] for each in seen), key=lambda each: each.get("time us", 0.0))
    names = ("time us", "tensor cores %", "DRAM busy %", "occupancy achieved %", "registers", "issued per cycle")
    words = [f"{name} {digits(longest.get(name))}" for name in names]
    stalls = [
        f"{name.removeprefix('stalled, ')} {digits(value)}" for name, value in longest.items() if "stalled" in name
    ]
    together = sum(each["counters"].get("time us", 0.0) for each in seen)
    return f"{digits(together)} us in {len(seen)} kernels; the longest: {', '.join(words)}, stalled {', '.join(stalls)}"


def kernels(folder: Path, said: list[str]) -> Iterator[str]:
    yield "## Kernels at the point, the attention's own marked ●\n"
    for row in sorted(records(folder / "point").records, key=lambda row: row.backend):
        found = content(row, "kernels.json")
        if not found:
            yield f"### {row.backend}: {row.status}\n\n{'; '.join(row.reasons)}\n"
            continue
        for name, one in found.items():
            yield f"### {row.backend}, {name}: {digits(one['ms'])} ms\n"
            heads = ["", "kernel", "ms", "share", "count", "grid", "block", "registers", "shared KB", "occupancy"]
            yield from table(heads, [
                ["●" if each["attention"] else "", f"`{each['name'][:100].replace('|', '¦')}`", digits(each["ms"]),
                 f"{each['share']:.1f} %", f"{each['count']:g}", by(each["grid"]), by(each["block"]),
                 dash(each["registers"]), dash(each["shared_memory"] and each["shared_memory"] / 1024),
                 dash(each["occupancy"])]
                for each in one["kernels"][:KERNELS]
            ])  # fmt: skip
            yield ""
        step = found.get("forward_backward")
        if step:
            own = sum(each["share"] for each in step["kernels"] if each["attention"])
            count = sum(each["count"] for each in step["kernels"])
            said.append(f"! kernels of a step, {row.backend}: {count:g} launches, {digits(step['ms'])} ms, "
                        f"{own:.0f} % in the kernel check's")  # fmt: skip


def content(row: Record, name: str) -> Any:
    for each in row.artifacts:
        path = row.folder / str(each.get("path"))
        if path.name == name and path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    return None


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(heads), ["---"] * len(heads), *map(list, rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def brief(line: str) -> str:
    """`…/file.py:12 name` without the folders that only this machine has."""
    return " ".join(word.rpartition("/")[2] for word in line.split())


def by(sizes: Sequence[int] | None) -> str:
    return "–" if sizes is None else "×".join(map(str, sizes))


def dash(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
