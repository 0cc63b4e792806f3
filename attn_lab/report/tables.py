"""The study's Markdown: tables of an axis and of a point, what they were measured on, and texts made harmless."""

import json
import re
from collections.abc import Collection, Iterable, Sequence

from attn_lab.report import compare
from attn_lab.report.compare import BASELINE, digits
from attn_lab.report.read import PASSES, Row

LONGEST = 96  # characters of a list of kernels: what comes after, nobody compares by eye
WORDS = {"forward_backward": "step", "train_step": "train step"}


def escape(words: str) -> str:
    """The words as GitHub's Markdown that shows them, whatever they hold."""
    words = words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    words = re.sub(r":(?=//)|(?<![\d:]):(?=[\w+-]+:)", "&#58;", words)  # neither a link nor an emoji
    words = re.sub(r"(?i)\bwww\.", lambda found: found[0][:3] + "&#46;", words)
    words = re.sub(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", words)
    return re.sub(r"^(\d+(?=[.)](?:\s|$))|(?=[#+=-]+(?:\s|$)))", r"\1\\", words)  # no heading, rule or list


def code(words: str) -> str:
    """The words in a code span, fit for a table."""
    fence = "`" * (1 + max(map(len, re.findall("`+", words)), default=0))
    space = " " * ("`" in words)
    return f"{fence}{space}{words}{space}{fence}".replace("|", "\\|")


def table(heads: Sequence[str], lines: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> str:
    """A table of cells that are escaped already; the columns in `right` are numbers."""
    rule = ["---:" if place in right else "---" for place in range(len(heads))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *lines))


def fixed(rows: Sequence[Row], axis: str) -> str:
    """What a family holds fixed, and what moves with its axis."""
    varying = compare.vary(rows)
    told = compare.text(rows[0], [name for name in rows[0].asked if name not in varying])
    moving = [name for name in varying if name != axis]
    return told + f" ({', '.join(moving)} moving with it)" * bool(moving)


def of_axis(rows: Sequence[Row], axis: str) -> list[str]:
    """A family's table, backend by axis value, and what must be said of it."""
    start = [axis, *(name for name in compare.vary(rows) if name != axis)]
    rows = sorted(rows, key=lambda row: (compare.order(row), row.backend != BASELINE, row.backend))
    return _table(rows, [(name, [escape(str(row.asked.get(name, ""))) for row in rows]) for name in start], [], axis)


def of_point(rows: Sequence[Row]) -> list[str]:
    """The backends at one shape, the fastest step first, with how right they are and the kernels they ran."""
    rows = sorted(rows, key=lambda row: (row.status != "ok", compare.speed(row)))
    columns = [("error / allowed", [_errors(row) for row in rows]), ("kernels", [_kernels(row) for row in rows])]
    return _table(rows, [], [(head, cells) for head, cells in columns if any(cells)], "")


def origin(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Label and value of what the rows were measured on and with: several values where there were several."""
    found: dict[str, dict[str, None]] = {"name": {}, "device": {}, "capability": {}, "memory": {}, "driver": {}}
    for row in rows:
        for name, value in {**row.provenance["machine"], **row.provenance["versions"]}.items():
            told = ".".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
            if name == "memory" and isinstance(value, int):
                told = f"{digits(value / 2**30)} GiB"
            found.setdefault(name, {})[told] = None
        dirty = " (dirty)" if row.provenance.get("dirty") else ""
        found.setdefault("commit of attn_lab", {})[f"{str(row.provenance.get('commit'))[:12]}{dirty}"] = None
    dates = sorted(str(row.provenance.get("started", ""))[:19].replace("T", " ") for row in rows)
    found["date (UTC)"] = {" to ".join(dict.fromkeys((dates[0], dates[-1]))): None}
    labels = {"name": "machine", "capability": "compute capability"}
    told_of = {labels.get(name, name): " and ".join(filter(None, values)) for name, values in found.items()}
    return [(label, told) for label, told in told_of.items() if told]


def warnings(rows: Sequence[Row], broken: Sequence[str]) -> list[str]:
    """What a reader must know before the first number."""
    said = []
    machines = {json.dumps(row.provenance["machine"], sort_keys=True): row.machine for row in rows}
    if len(machines) > 1:
        names = ", ".join(machines.values())
        said.append(f"{len(machines)} different machines are mixed here ({names}): do not compare across them.")
    # A record names the packages its own backend uses: two records differ only where one package has two versions.
    versions: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.provenance["versions"].items():
            versions.setdefault(name, set()).add(str(value))
    said += [f"Versions of {name} are mixed here: {', '.join(sorted(values))}."
             for name, values in versions.items() if len(values) > 1]  # fmt: skip
    if len({row.provenance.get("commit") for row in rows}) > 1:
        said.append("More than one commit of attn_lab made these runs.")
    if any(row.provenance.get("dirty") for row in rows):
        said.append("Some runs were made with uncommitted changes (dirty): their commit does not tell all.")
    if broken:
        said.append(f"Not read, and so not told of, {len(broken)} broken line(s): {'; '.join(broken)}.")
    return ["> [!WARNING]\n" + "\n>\n".join(f"> **{escape(line)}**" for line in said)] if said else []


Columns = Sequence[tuple[str, Sequence[str]]]


def _table(rows: Sequence[Row], before: Columns, after: Columns, axis: str) -> list[str]:
    """The rows' names, statuses if any failed, and numbers, between further columns; then notes."""
    wanted = {f"{one}/{what}": f"{WORDS.get(one, one)} {unit}" for one in PASSES
              for what, unit in (("time", "ms"), ("tflops", "TFLOP/s"))}  # fmt: skip
    wanted["memory/peak"] = "peak MB"
    columns = [*before, ("backend", [escape(row.backend) for row in rows])]
    if any(row.status != "ok" for row in rows):
        columns.append(("status", [row.status if row.status == "ok" else f"**{row.status}**" for row in rows]))
    first = len(columns)
    columns += [(head, [digits(row.number(metric)) for row in rows]) for metric, head in wanted.items()
                if any(row.number(metric) is not None for row in rows)]  # fmt: skip
    beside = compare.baselines(rows)
    if len({row.backend for row in rows}) > 1:
        ratios = [compare.speedups(row, beside.get(row.setting)) for row in rows]
        shares = [compare.memory_share(row, beside.get(row.setting)) for row in rows]
        for one in (one for one in PASSES if any(one in ratio for ratio in ratios)):
            told = [f"{digits(ratio[one])}×" if one in ratio else "–" for ratio in ratios]
            columns.append((f"{WORDS.get(one, one)} speed-up", told))
        if any(shares):
            columns.append(("memory share", ["–" if share is None else f"{digits(100 * share)} %" for share in shares]))
    right = [*range(len(before)), *range(first, len(columns))]
    columns += after
    lines = zip(*(cells for _, cells in columns), strict=True)
    return [table([escape(head) for head, _ in columns], lines, right=right), *_notes(rows, axis, beside)]


def _notes(rows: Sequence[Row], axis: str, beside: dict[object, Row]) -> list[str]:
    """The reasons of all that is not ok, and where there was nothing to compare with."""
    places: dict[str, dict[str, None]] = {}
    for row in rows:
        at = str(row.shape.get(axis, ""))
        reasons = row.reasons or ["no reason was recorded"] * (row.status != "ok")
        for told in [f"{row.backend} {row.status}: {reason}" for reason in reasons]:
            places.setdefault(told, {})[at] = None
        why = compare.missing(beside.get(row.setting)) if row.status == "ok" else None
        if why:
            places.setdefault(f"nothing is compared: {why}", {})[at] = None
    notes = [f"- {f'{axis} ' * bool(axis)}{', '.join(where)}{': ' * bool(axis)}{escape(told)}"
             for told, where in places.items()]  # fmt: skip
    return ["\n".join(notes)] if notes else []


def _errors(row: Row) -> str:
    numbers = {name.split("/")[-1]: row.number(name) for name in row.metrics if name.startswith("accuracy/")}
    return escape(", ".join(f"{name} {digits(value)}" for name, value in numbers.items() if value is not None))


def _kernels(row: Row) -> str:
    if row.status != "ok":
        return ""
    notes = str(row.metrics.get("witness/kernels", {}).get("note") or "").split("; ")  # one a pass
    shown = [note if len(note) <= LONGEST else note[: LONGEST - 1] + "…" for note in notes]
    return "<br>".join(map(escape, shown))
