"""The differences of two runs as Markdown for a pull request: regressions first, what did not change folded away."""

import statistics
from collections import Counter
from collections.abc import Sequence

from attn_lab.records.record import Record
from attn_lab.records.stats.noise_floor import Floor
from attn_lab.report import compare
from attn_lab.report.compare import WORDS, digits
from attn_lab.report.diff.differences import Difference, fields
from attn_lab.report.render.markdown import code, escape, table

ROOM = 14_000  # characters of a table, of which there are four at most: a comment on GitHub takes 65,536
MANY = 6  # times, of which the middle tells of the machine rather than of one of them
WORSE: tuple[str, ...] = ("broken", "slower", "more memory", "unsupported")
BETTER: tuple[str, ...] = ("fixed", "faster", "less memory")
OTHER: tuple[str, ...] = ("gone", "new", "failing")
SAME: tuple[str, ...] = ("unclear", "same")


def markdown(found: Sequence[Difference], runs: Sequence[tuple[str, Sequence[Record]]], floors: dict[str, Floor],
             broken: Sequence[str] = ()) -> str:  # fmt: skip
    """`runs`: A's and B's name and rows; `floors` by metric; `broken`: the lines that could not be read."""
    (first, a_rows), (second, b_rows) = runs
    parts = [f"### {headline(found, a_rows, b_rows)}", f"A is {code(first)}, B is {code(second)}."]
    parts += _apart(a_rows, b_rows)
    if broken:
        parts.append(f"**Not read: {len(broken)} broken line(s):** {'; '.join(map(escape, broken[:5]))}.")
    rows = [each.row for each in found]
    names = [name for name in compare.several(rows) if name != "machine"]
    varying = compare.vary(rows)
    fixed = compare.text(rows[0], [name for name in fields(rows[0]) if name not in varying])
    parts.append(f"All cases: {escape(fixed)}.")
    parts += _doubts(found, a_rows, b_rows)
    for title, kinds in (("Worse", WORSE), ("Better", BETTER)):
        if some := [each for each in found if each.kind in kinds]:
            parts += [f"#### {title}", _table(some, names)]
    for kinds in (OTHER, SAME):
        if some := [each for each in found if each.kind in kinds]:
            counts = Counter(each.kind for each in some)
            texts = ", ".join(f"{count} {kind}" for kind, count in counts.items())
            parts.append(f"<details><summary>{texts}</summary>\n\n{_table(some, names)}\n\n</details>")
    return "\n\n".join([*parts, _legend(floors)]) + "\n"


def headline(found: Sequence[Difference], a_rows: Sequence[Record], b_rows: Sequence[Record]) -> str:
    """`attn-lab diff: 1 broken, 2 slower; 3 faster; 40 same, 2 unclear (another machine: A100, then H100)`."""
    counts = Counter(each.kind for each in found)
    texts = []
    for kinds in (WORSE, BETTER, OTHER, SAME):
        some = ", ".join(f"{counts[kind]} {kind}" for kind in kinds if counts[kind])
        texts += [some] if some else []
    if not any(counts[kind] for kind in WORSE):
        texts.insert(0, "nothing is worse")
    machines = [a_rows[0].machine, b_rows[0].machine]
    other = f" (another machine: {machines[0]}, then {machines[1]})" if machines[0] != machines[1] else ""
    return escape(f"attn-lab diff: {'; '.join(texts)}{other}")


def _doubts(found: Sequence[Difference], a_rows: Sequence[Record], b_rows: Sequence[Record]) -> list[str]:
    """That all moved together, or that nothing was repeated: what makes a verdict less than it seems."""
    notes = []
    judged = [each.verdict for each in found if each.verdict]
    middle = statistics.median(verdict.ratio for verdict in judged) if judged else 1.0
    edge = 1 + judged[0].floor.claims if judged else 1.0
    if len(judged) >= MANY and not 1 / edge <= middle <= edge:
        notes.append(f"**The middle of all {len(judged)} times has {digits(middle, 2)}× the speed: "
                    "what moved them all, the machine or its load, may be all there is.**")  # fmt: skip
    once = [name for name, rows in (("A", a_rows), ("B", b_rows)) if len({row.round for row in rows}) == 1]
    if judged and once:
        notes.append(f"{' and '.join(once)} ran each case once: what moves from run to run is not in the intervals.")
    return notes


def _apart(a_rows: Sequence[Record], b_rows: Sequence[Record]) -> list[str]:
    """What the runs differ in besides their numbers, and what one of them mixes."""
    a, b = _facts(a_rows), _facts(b_rows)
    # A package that only one run names belongs to a backend that the other did not run.
    apart = [name for name in a if name in b and a[name] != b[name]]
    mixed = [name for name in (*a, *b) if any(len(facts.get(name, ())) > 1 for facts in (a, b))]
    lines = [[escape(name), *(escape(" and ".join(sorted(facts[name]))) for facts in (a, b))] for name in apart]
    parts = [table(["", "A", "B"], lines)] if lines else ["Machine, versions and commit are the same in both."]
    texts = [name for name in dict.fromkeys(mixed) if name not in ("started", "sweep")]
    if texts:
        parts.append(f"**Mixed within one run: {escape(', '.join(texts))}.**")
    return parts


def _facts(rows: Sequence[Record]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        machine = {"machine" if name == "name" else f"machine {name}": value
                   for name, value in row.provenance["machine"].items() if value is not None}  # fmt: skip
        source = {"commit": f"{str(row.provenance.get('commit'))[:12]}{' (dirty)' * bool(row.provenance.get('dirty'))}"}
        for name, value in {**machine, **row.packages, **source}.items():
            found.setdefault(name, set()).add(str(value))
    return found


def _table(found: Sequence[Difference], names: Sequence[str]) -> str:
    heads = [*names, "backend", "what", "A", "B", "B's speed, or change", ""]
    lines, room = [], ROOM
    for each in found:
        line = [*(escape(str(each.row.fields.get(name, ""))) for name in names), *_cells(each)]
        room -= sum(len(cell) + 3 for cell in line)
        if room < 0:
            break
        lines.append(line)
    left = f"\n\nand {len(found) - len(lines)} more." if len(found) > len(lines) else ""
    numbers = range(len(names) + 2, len(names) + 4)
    return table([escape(head) for head in heads], lines, right=numbers) + left


def _cells(each: Difference) -> list[str]:
    start = [escape(each.row.backend)]
    if not each.metric:
        before, after = (status if status in ("ok", "–") else f"**{status}**" for status in each.statuses)
        return [*start, "status", before, after, escape(_short(each.reason)), each.kind]
    one, _, what = each.metric.partition("/")
    name = f"{WORDS.get(one, one)} {what}" if one != "memory" else f"{what} memory"
    unit = str(each.row.metrics[each.metric].get("unit") or "")
    numbers = [f"{digits(number)} {unit}".strip() for number in (each.before, each.after)]
    change = str(each.verdict) if each.verdict else f"{100 * ((each.after or 0) / (each.before or 1) - 1):+.1f} %"
    return [*start, escape(name), *map(escape, numbers), escape(change), each.kind + " **(noisy)**" * each.noisy]


def _short(reason: str) -> str:
    return reason if len(reason) <= 160 else reason[:159] + "…"


def _legend(floors: dict[str, Floor]) -> str:
    texts = {metric: str(floor) for metric, floor in floors.items()}
    same = set(texts.values())
    notes = "; ".join(
        [same.pop()] if len(same) == 1 else [f"{escape(metric)}: {floor}" for metric, floor in texts.items()]
    )
    return (
        "Speed is A's time over B's, with its 95 % interval: above 1, B is faster. "
        + (f"Noise floor, the larger of both runs: {notes}. " if notes else "")
        + "A/A is measured within a run; what moves between two processes comes on top. "
        "Memory is counted, not sampled: changes over 1 % are listed."
    )
