"""The summary of a sweep in the terminal: one line per case, then each backend against the baseline."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

from attn_lab.records.flags import NOISY, noise
from attn_lab.records.record import PASSES, STATUS_COLOURS, Record
from attn_lab.records.stats.noise_floor import MIN_EFFECT, Floor, noise_floor
from attn_lab.records.stats.verdict import compare_times
from attn_lab.report import compare
from attn_lab.report.compare import WORDS

Group = tuple[str, list[tuple[str, str]]]  # a heading over columns, each a metric and its unit
ASCII = str.maketrans("×·–…≈", "x,-~~")
STATUS = len("unsupported")


def summary(
    rows: Sequence[Record], console: Console, *, baseline: str = compare.BASELINE, broken: Sequence[str] = ()
) -> None:
    """Prints a sweep's rows, numbers only where the status is ok; `broken` names the lines that could not be read."""
    counts = Counter(row.status for row in rows)
    texts = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    _say(console, f"{len(rows)} case{'s' * (len(rows) != 1)}{': ' * bool(texts)}{texts}", "bold")
    if rows:
        (rows,) = compare.disambiguate(rows, ids=True)
        varying = compare.vary(rows)
        _say(console, compare.text(rows[0], [name for name in rows[0].fields if name not in varying]), "dim")
        _cases(sorted(rows, key=compare.order), varying, console)
        _reasons(rows, console)
        _marks(rows, console)
        _against(sorted(rows, key=compare.order), varying, baseline, console)
    for line in broken:
        _say(console, f"not read: {line}", "red")


def _cases(rows: Sequence[Record], varying: Sequence[str], console: Console) -> None:
    rounds = len({row.round for row in rows}) > 1
    names = {id(row): row.backend + f" #{row.round}" * rounds for row in rows}
    longest = min(max(len("backend"), *(Text(name).cell_len for name in names.values())), 32)
    full = _groups(rows)
    times = [(heading, columns[:1]) for heading, columns in full]
    # The varying fields go before each case if the screen is wide enough, else on a line above their cases.
    for fields, groups in ((varying, full), ([], full), ([], times)):
        before = {name: max(len(name), *(len(str(row.fields.get(name, ""))) for row in rows)) for name in fields}
        widths = {metric: max(len(unit), *(len(_figure(row, metric)) for row in rows))
                  for _, columns in groups for metric, unit in columns}  # fmt: skip
        above = bool(varying) and not fields
        left = 2 * above + sum(width + 2 for width in before.values())
        room = console.width - left - STATUS - 2 - sum(len(cell) + 2 for cell in _cells(groups, widths))
        if room >= (longest if fields else min(longest, 12)):
            break
    backend = min(longest, max(room, 12))
    margin = "  " * above
    units, starts = _cells(groups, widths), [name.rjust(width) for name, width in before.items()]
    heads = [heading.rjust(len(unit)) for (heading, _), unit in zip(groups, units, strict=True)]
    _say(console, "  ".join([" " * (left + backend + 2 + STATUS), *heads]), "bold")
    _say(console, margin + "  ".join([*starts, "backend".ljust(backend), "status".ljust(STATUS), *units]), "bold")
    for _, cases in groupby(rows, key=lambda row: row.setting):
        for count, row in enumerate(sorted(cases, key=compare.speed)):
            if above and count == 0:
                _say(console, compare.text(row, varying), "cyan")
            line = Text(margin)
            for name, width in before.items():
                line.append(str(row.fields.get(name, "")).rjust(width) + "  ", "cyan")
            line.append_text(_cell(names[id(row)], backend)).append("  ")
            line.append(row.status.ljust(STATUS) + "  ", STATUS_COLOURS[row.status])
            if row.status == "ok":
                line.append("  ".join(_cells(groups, widths, row)))
            else:
                reason = row.reasons[0] if row.reasons else "no reason was recorded"
                line.append_text(_cell(reason, max(console.width - line.cell_len, 20)))
            _say(console, line)
    if groups is not full and times != full:
        _say(console, "TFLOP/s are left out: they need a wider terminal", "dim")


def _reasons(rows: Sequence[Record], console: Console) -> None:
    reasons: dict[str, dict[str, None]] = {}
    for row in rows:
        reasons.setdefault(row.backend, {}).update(dict.fromkeys(f"{row.status}: {why}" for why in row.reasons))
    texts = {backend: found for backend, found in sorted(reasons.items()) if found}
    if texts:
        _say(console, "\nReasons", "bold")
    for backend, found in texts.items():
        for count, reason in enumerate(found):
            _hang(console, "" if count else backend, max(map(len, texts)), reason)


def _marks(rows: Sequence[Record], console: Console) -> None:
    """Why numbers are flagged as noisy; and, once, why the GPU was not monitored."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        texts: dict[str, list[str]] = {}
        for one in PASSES:
            if why := noise(row, f"{one}/time"):
                texts.setdefault(why.removeprefix(NOISY).strip(), []).append(WORDS.get(one, one))
        marks = dict.fromkeys(f"{', '.join(passes)}: {why}" for why, passes in texts.items())
        found.setdefault(row.backend, {}).update(marks)
    marked = {backend: marks for backend, marks in sorted(found.items()) if marks}
    if marked:
        _say(console, "\n≈ Noisy", "bold")
    for backend, marks in marked.items():
        for count, mark in enumerate(marks):
            _hang(console, "" if count else backend, max(map(len, marked)), mark)
    unmonitored = {
        str(row.metrics["monitor/unavailable"].get("note")) for row in rows if "monitor/unavailable" in row.metrics
    }
    if unmonitored:
        _say(
            console, f"Clocks, power and other processes were not monitored: {'; '.join(sorted(unmonitored))}", "yellow"
        )


def _figure(row: Record, metric: str) -> str:
    return compare.digits(row.number(metric)) + "≈" * bool(noise(row, metric))


def _against(rows: Sequence[Record], varying: Sequence[str], baseline: str, console: Console) -> None:
    """Every backend's verdicts against the baseline, and the noise they were held against."""
    if not any(row.status == "ok" for row in rows):
        _say(console, "\nNo case came out ok: there is nothing to compare.", "bold")
        return
    floors = {one: noise_floor(rows, f"{one}/time") for one in PASSES}
    single = [row for row in rows if not row.is_aa_repeat]
    names = [row.backend for row in single if row.status == "ok"]
    if any(name != baseline for name in names):
        _say(console, f"\nAgainst {baseline}", "bold")
    for _, cases in groupby(single, key=lambda row: row.setting):
        rounds: dict[str, list[Record]] = {}
        for row in cases:
            rounds.setdefault(row.backend, []).append(row)
        pools = {name: compare.pooled(several)[0] for name, several in rounds.items()}
        others = [row for row in pools.values() if row.status == "ok" and row.backend != baseline]
        for row in sorted(others, key=compare.speed):
            where = compare.text(row, [name for name in varying if name not in row.shape])
            label = row.shape_text + f" {where}" * bool(where)
            why = compare.missing(pools.get(baseline), baseline)
            if why:
                _hang(console, baseline, max(map(len, names)), f"{label}: nothing is compared, {why}")
                break
            notes = _comparisons(rounds[row.backend], rounds[baseline], floors)
            share = compare.memory_share(row, pools[baseline])
            if share is not None:
                notes.append(f"peak memory {compare.digits(100 * share, 2)} % of {baseline}'s")
            texts = "; ".join(notes) or f"nothing was measured of both it and {baseline}"
            _hang(console, row.backend, max(map(len, names)), f"{label}: {texts}")
    if any(name != baseline for name in names):
        measured = [f"{WORDS.get(one, one)} {floor.percent}" for one, floor in floors.items() if floor.measured]
        quiet = f"; nor under {100 * MIN_EFFECT:g} %" * any(floor.share < MIN_EFFECT for floor in floors.values())
        _say(
            console,
            f"A/A floor, under which nothing is claimed: {', '.join(measured)}{quiet}" if measured else f"{Floor()}",
            "dim",
        )


def _comparisons(rounds: Sequence[Record], baseline: Sequence[Record], floors: Mapping[str, Floor]) -> list[str]:
    """`forward 9.1× (9.0–9.2), step 5.2× (5.1–5.3) faster`, `backward 0.99× (0.97–1.02) unclear`."""
    words: dict[str, list[str]] = {"faster": [], "same": [], "unclear": [], "slower": []}
    for one in PASSES:
        if verdict := compare_times(rounds, baseline, f"{one}/time", floors[one]):
            words[verdict.word].append(f"{WORDS.get(one, one)} {verdict}")
    return [f"{', '.join(passes)} {word}" for word, passes in words.items() if passes]


def _groups(rows: Sequence[Record]) -> list[Group]:
    """The columns that some row has a number for."""
    wanted = [(WORDS.get(one, one), [(f"{one}/time", "ms"), (f"{one}/tflops", "TFLOP/s")]) for one in PASSES]
    wanted[-1][1].append(("train_step/tokens_per_second", "tok/s"))
    wanted.append(("peak", [("memory/peak", "MB")]))
    found = [(heading, [column for column in columns if any(row.number(column[0]) is not None for row in rows)])
             for heading, columns in wanted]  # fmt: skip
    return [(heading, columns) for heading, columns in found if columns]


def _cells(groups: Sequence[Group], widths: Mapping[str, int], row: Record | None = None) -> list[str]:
    """A row's cells, one a group, each as wide as its heading; the units, where no row is given."""
    cells = [[(_figure(row, metric) if row else unit).rjust(widths[metric]) for metric, unit in columns]
             for _, columns in groups]  # fmt: skip
    return [" ".join(cell).rjust(len(heading)) for cell, (heading, _) in zip(cells, groups, strict=True)]


def _cell(words: str, width: int) -> Text:
    cell = Text(words)
    cell.truncate(width, overflow="ellipsis", pad=True)
    return cell


def _hang(console: Console, name: str, width: int, words: str) -> None:
    """A name, and beside it words that wrap within their own column."""
    width = min(width, 32)
    for count, line in enumerate(Text(words).wrap(console, max(console.width - width - 2, 30))):
        _say(console, _cell("" if count else name, width).append("  ").append_text(line))


def _say(console: Console, words: str | Text, style: str = "") -> None:
    """One line, literally.  A pipe that knows only ASCII must not end a sweep in an exception."""
    line = Text(words, style=style) if isinstance(words, str) else words
    try:
        line.plain.encode(console.encoding)
    except UnicodeEncodeError:
        line.plain = line.plain.translate(ASCII).encode(console.encoding, "backslashreplace").decode(console.encoding)
    line.rstrip()
    console.print(line)
