"""attn-lab tune: verified records → the table that backend=auto follows, the fastest by bucket and pass."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attn_lab.core.errors import BadRequest
from attn_lab.nn.auto.bucket import Bucket, mask_words
from attn_lab.nn.auto.table import DispatchTable
from attn_lab.records.reading import records
from attn_lab.records.record import Record
from attn_lab.records.stats.noise_floor import Floor, noise_floor
from attn_lab.report.compare import WORDS
from attn_lab.report.ranking import PLANNED, entry_of


def tune(runs: Sequence[str], out: Path) -> int:
    """Write the table to `out` and print what it holds.  Raises BadRequest for runs that make no table."""
    try:
        found = records(runs)
    except OSError as error:
        raise BadRequest(f"tune: expected run folders, each with a records.jsonl; got {error}") from None
    table, left_out = plan_of(found.records)
    try:
        table.write(out)
    except OSError as error:
        raise BadRequest(f"tune: expected a file to write to; got {error.strerror}: {out}") from None
    print(f"{out}: {len(table.entries)} buckets for {table.gpu}, from {table.made['records']} records")
    for one in PLANNED:
        taken = Counter(entry.passes[one].first for entry in table.entries.values() if one in entry.passes)
        if taken:
            text = ", ".join(f"{name} in {count}" for name, count in taken.most_common())
            print(f"  {WORDS.get(one, one)}: {text}; {Floor(**table.made['floors'][one])}")
    for why, count in left_out.most_common():
        print(f"  left out: {count} × {why}")
    for line in found.broken:
        print(f"  not read: {line}")
    return 0


def plan_of(rows: Sequence[Record]) -> tuple[DispatchTable, Counter[str]]:
    """The table these rows make; and of those that add nothing to it, how many for which reason.

    Raises BadRequest unless they are of one GPU, and some of them timed.
    """
    left_out = Counter[str]()
    usable = []
    for row in rows:
        if why := _useless(row):
            left_out[why] += 1
        else:
            usable.append(row)
    single = [row for row in usable if not row.is_aa_repeat]
    machines = sorted({row.machine for row in single})
    if len(machines) != 1:
        got = (
            ", ".join(machines) or f"none ({', '.join(f'{n} × {why}' for why, n in left_out.items()) or 'no records'})"
        )
        raise BadRequest(f"tune: expected verified records of one GPU, whose table this is; got {got}")
    floors = {one: noise_floor(usable, f"{one}/time") for one in PLANNED}
    buckets: dict[Bucket, dict[Any, dict[str, list[Record]]]] = {}
    for row in single:
        buckets.setdefault(_bucket(row), {}).setdefault(row.setting, {}).setdefault(row.name, []).append(row)
    found = {bucket: entry_of(list(settings.values()), floors) for bucket, settings in buckets.items()}
    entries = {bucket: entry for bucket, entry in found.items() if entry}
    if not entries:
        raise BadRequest(f"tune: expected records that came out ok and were timed; got none of {len(single)}")
    return DispatchTable(gpu=machines[0], entries=entries, made=_made(single, floors)), left_out


def _useless(row: Record) -> str:
    if row.subject != "kernel":
        return f"of subject={row.subject}, which is more than attention"
    if row.fields.get("subject.inputs", "randn") != "randn":
        return "of inputs other than randn"
    target = (row.provenance["config"].get("backend") or {}).get("_target_", "")
    if row.name == "auto" or not str(target).startswith("attn_lab."):
        return f"of {row.name}, which is none of attn_lab's own kernels"
    return ""


def _bucket(row: Record) -> Bucket:
    return Bucket.of(mask_words(row.mask, row.provenance["config"].get("mask") or {}), row.shape)


def _made(rows: Iterable[Record], floors: Mapping[str, Floor]) -> dict[str, Any]:
    """Provenance: what an answer of this table stands on."""
    rows = list(rows)
    versions: dict[str, set[str]] = {}
    for row in rows:
        for name, version in row.packages.items():
            versions.setdefault(name, set()).add(str(version))
    machine = rows[0].provenance["machine"]
    return {
        "by": "attn-lab tune",
        "machine": {name: machine.get(name) for name in ("device", "name", "capability", "driver")},
        "versions": {name: " | ".join(sorted(each)) for name, each in sorted(versions.items())},
        "commit": sorted({f"{row.provenance['commit']}{'-dirty' * bool(row.provenance['dirty'])}" for row in rows}),
        "sweeps": sorted({str(row.provenance["sweep"]) for row in rows}),
        "records": len(rows),
        "last": max(str(row.provenance["started"]) for row in rows),
        "floors": {one: {"share": round(floor.share, 5), "measured": floor.measured} for one, floor in floors.items()},
    }
