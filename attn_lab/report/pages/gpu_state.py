"""How the card was while it was measured: clocks, power, heat; calls dropped for it; other processes on it."""

from collections.abc import Iterator, Sequence
from statistics import median

from attn_lab.records.record import PASSES, Record
from attn_lab.report.compare import digits
from attn_lab.report.data import ReportData
from attn_lab.report.render.blocks import Block, Bullets, Cell, Head, Table, Text

STATE = ("sm_clock", "memory_clock", "power", "temperature")
MOST = 12  # lines of dropped calls; the table that can be downloaded has all


def condition(data: ReportData) -> Iterator[Block]:
    lines = [line for what in STATE for line in _ranges(data, what)]
    if lines:
        heads = [Head(data.words["state"]), Head(data.words["pass"])]
        heads += [Head(data.words[name], True) for name in ("least", "median", "most")] + [Head(data.words["unit"])]
        yield Table(data.words["state_caption"], heads, lines, 2)
    else:
        yield Text(data.words["no_state"])
    unmonitored = dict.fromkeys(
        _note(row, "monitor/unavailable") for row in data.rows if "monitor/unavailable" in row.metrics
    )
    if unmonitored:
        yield Text(data.say("unmonitored", why="; ".join(unmonitored)), "warning")
    if (counted := late(data.rows))["late"]:
        yield Text(data.say("late_calls", **counted))
    dropped = [f"{row.backend}, {row.shape_text}, {data.words[one]}: {_note(row, f'{one}/dropped')}"
               for row in data.rows for one in PASSES if row.number(f"{one}/dropped")]  # fmt: skip
    if dropped:
        yield Text(data.say("dropped_calls", count=len(dropped)))
        more = [data.say("more_rows", count=len(dropped) - MOST)] if len(dropped) > MOST else []
        yield Bullets([(line, "") for line in [*dropped[:MOST], *more]])


def late(rows: Sequence[Record]) -> dict[str, int]:
    """How many calls a GPU began before their host had queued them whole (`late`, beside `calls` that count), and in
    how many `passes` of `all`."""
    passes = [(row, one) for row in rows for one in PASSES if f"{one}/time" in row.metrics]
    counts = [int(row.number(f"{one}/host_late") or 0) for row, one in passes]
    calls = sum(int(row.metrics[f"{one}/time"].get("samples") or 0) for row, one in passes)
    return {"late": sum(counts), "calls": calls, "passes": sum(map(bool, counts)), "all": len(passes)}


def _ranges(data: ReportData, what: str) -> Iterator[list[Cell]]:
    """The lowest and the highest reading of all cases, by pass, and the median of their medians."""
    for one in PASSES:
        rows = [row for row in data.cases if row.number(f"{one}/{what}") is not None]
        if rows:
            low, middle, high = (_numbers(rows, f"{one}/{what}", part) for part in ("low", "value", "high"))
            unit = str(rows[0].metrics[f"{one}/{what}"].get("unit", ""))
            ends = (min(low or middle), median(middle), max(high or middle))
            text = [Cell(digits(each), each) for each in ends]
            yield [Cell(data.words[what]), Cell(data.words[one]), *text, Cell(unit)]


def _numbers(rows: Sequence[Record], metric: str, part: str) -> list[float]:
    return [value for row in rows if (value := row.number(metric, part)) is not None]


def _note(row: Record, metric: str) -> str:
    return str(row.metrics[metric].get("note") or "")
