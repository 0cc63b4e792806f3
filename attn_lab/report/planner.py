"""attn-lab plan-backends: verified records → the plan that backend=auto follows, the fastest by bucket and pass."""

import argparse
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from attn_lab.core.errors import BadRequest
from attn_lab.layer.plan import Bucket, Entry, Plan, Ranking, mask_words
from attn_lab.report import compare
from attn_lab.report.compare import WORDS
from attn_lab.report.read import Row, records
from attn_lab.report.verdict import LEAST, Floor, Verdict, floor_of, judge

PLANNED = ("forward", "backward", "forward_backward")
Rounds = Mapping[str, list[Row]]  # by backend, all that were run of it at one setting


def plan_backends(words: Sequence[str]) -> int:
    """The command.  Raises BadRequest for runs that cannot be read, or that make no plan."""
    given = _parser().parse_args(list(words))
    try:
        found = records(given.runs)
    except OSError as error:
        raise BadRequest(f"plan-backends: expected run folders, each with a records.jsonl; got {error}") from None
    plan, left_out = plan_of(found.rows)
    try:
        plan.write(given.out)
    except OSError as error:
        raise BadRequest(f"plan-backends: expected a file to write to; got {error.strerror}: {given.out}") from None
    print(f"{given.out}: {len(plan.entries)} buckets for {plan.gpu}, from {plan.made['records']} records")
    for one in PLANNED:
        taken = Counter(entry.passes[one].first for entry in plan.entries.values() if one in entry.passes)
        if taken:
            told = ", ".join(f"{name} in {count}" for name, count in taken.most_common())
            print(f"  {WORDS.get(one, one)}: {told}; {Floor(**plan.made['floors'][one])}")
    for why, count in left_out.most_common():
        print(f"  left out: {count} × {why}")
    for line in found.broken:
        print(f"  not read: {line}")
    return 0


def plan_of(rows: Sequence[Row]) -> tuple[Plan, Counter[str]]:
    """The plan these rows make; and of those that add nothing to it, how many for which reason.

    Raises BadRequest unless they are of one GPU.
    """
    left_out = Counter[str]()
    usable = []
    for row in rows:
        if why := _useless(row):
            left_out[why] += 1
        else:
            usable.append(row)
    single = [row for row in usable if not row.twin]
    machines = sorted({row.machine for row in single})
    if len(machines) != 1:
        got = (
            ", ".join(machines) or f"none ({', '.join(f'{n} × {why}' for why, n in left_out.items()) or 'no records'})"
        )
        raise BadRequest(f"plan-backends: expected verified records of one GPU, whose plan this is; got {got}")
    floors = {one: floor_of(usable, f"{one}/time") for one in PLANNED}
    buckets: dict[Bucket, dict[Any, dict[str, list[Row]]]] = {}
    for row in single:
        buckets.setdefault(_bucket(row), {}).setdefault(row.setting, {}).setdefault(row.name, []).append(row)
    found = {bucket: _entry(list(settings.values()), floors) for bucket, settings in buckets.items()}
    entries = {bucket: entry for bucket, entry in found.items() if entry}
    return Plan(gpu=machines[0], entries=entries, made=_made(single, floors)), left_out


def _useless(row: Row) -> str:
    if row.subject != "kernel":
        return f"of subject={row.subject}, which is more than attention"
    if row.asked.get("subject.inputs", "randn") != "randn":
        return "of inputs other than randn"
    target = (row.provenance["config"].get("backend") or {}).get("_target_", "")
    if row.name == "auto" or not str(target).startswith("attn_lab."):
        return f"of {row.name}, which is none of attn_lab's own kernels"
    return ""


def _bucket(row: Row) -> Bucket:
    return Bucket.of(mask_words(row.mask, row.provenance["config"].get("mask") or {}), row.shape)


def _entry(settings: Sequence[Rounds], floors: Mapping[str, Floor]) -> Entry | None:
    """What these settings, all of one bucket, say: those of them that most rivals met at.

    Who failed at any of them is not ranked.
    """
    most = max(map(len, settings))
    settings = [rounds for rounds in settings if len(rounds) == most]
    could_not: dict[str, str] = {}
    for rounds in settings:
        for name, rows in rounds.items():
            failed = next((row for row in rows if row.status != "ok"), None)
            if failed:
                could_not.setdefault(name, f"{failed.status}: {'; '.join(failed.reasons)}")
    everywhere = [name for name in settings[0] if name not in could_not and all(name in rounds for rounds in settings)]
    passes = {one: ranking for one in PLANNED if (ranking := _ranking(one, everywhere, settings, floors[one]))}
    shapes = tuple(next(iter(rounds.values()))[0].shape_text for rounds in settings)
    return Entry(passes, shapes, could_not) if passes else None


def _ranking(one: str, names: Sequence[str], settings: Sequence[Rounds], floor: Floor) -> Ranking | None:
    """The fastest first, by the geometric mean over the settings; of those level with it the simplest."""
    metric = f"{one}/time"
    times: dict[str, float] = {}
    for name in names:
        each = [compare.pooled(rounds[name])[0].number(metric) for rounds in settings]
        if all(each) and (one == "forward_backward" or "+" not in name):  # a pair's passes are those of others
            times[name] = math.exp(sum(math.log(time or 1) for time in each) / len(each))
    if not times:
        return None
    ordered = sorted(times, key=lambda name: (times[name], name))
    fastest, *others = ordered
    noise = max(floor.share if floor.measured else 0.0, LEAST)

    def verdict(first: str, other: str) -> Verdict | None:
        """At the setting where it leads least."""
        verdicts = [judge(rounds[first], rounds[other], metric, floor) for rounds in settings]
        return min((each for each in verdicts if each), key=lambda each: each.ratio, default=None)

    level = [name for name in others if times[name] <= times[fastest] * (1 + noise)]
    level = [name for name in level if (told := verdict(fastest, name)) is None or told.word != "faster"]
    peaks = {name: max(compare.pooled(rounds[name])[0].number("memory/peak") or 0.0 for rounds in settings)
             for name in (fastest, *level)}  # fmt: skip
    least = min(peaks.values())

    def plain(name: str) -> tuple[bool, bool, float]:
        return "+" in name, peaks[name] > 1.05 * least, times[name]

    first = min((fastest, *level), key=plain)
    order = [first, *(name for name in ordered if name != first)]
    return Ranking({name: float(f"{times[name]:.5g}") for name in order}, _why(first, fastest, order, times, verdict))


def _why(first: str, fastest: str, order: Sequence[str], times: Mapping[str, float], verdict: Any) -> str:
    """`0.856 ms, 1.07× (1.06–1.08) faster than flash4`; of one that is not the fastest, by which rule it is taken."""
    told = f"{compare.digits(times[first])} ms"
    if first != fastest:
        rule = "one library instead of two" if "+" in fastest and "+" not in first else "what takes the least memory"
        return f"{told}, level with {fastest} ({compare.digits(times[fastest])} ms, within noise) and taken as {rule}"
    if not order[1:]:
        return f"{told}, alone"
    than = verdict(first, order[1])
    if than is None:
        return told
    words = {"faster": "faster than {}", "same": "the same as {}"}.get(than.word, "against {}, unclear")
    return f"{told}, {than} {words.format(order[1])}"


def _made(rows: Iterable[Row], floors: Mapping[str, Floor]) -> dict[str, Any]:
    """Provenance: what an answer of this plan stands on."""
    rows = list(rows)
    versions: dict[str, set[str]] = {}
    for row in rows:
        for name, version in row.packages.items():
            versions.setdefault(name, set()).add(str(version))
    machine = rows[0].provenance["machine"]
    return {
        "by": "attn-lab plan-backends",
        "machine": {name: machine.get(name) for name in ("device", "name", "capability", "driver")},
        "versions": {name: " | ".join(sorted(each)) for name, each in sorted(versions.items())},
        "commit": sorted({f"{row.provenance['commit']}{'-dirty' * bool(row.provenance['dirty'])}" for row in rows}),
        "sweeps": sorted({str(row.provenance["sweep"]) for row in rows}),
        "records": len(rows),
        "last": max(str(row.provenance["started"]) for row in rows),
        "floors": {one: {"share": round(floor.share, 5), "measured": floor.measured} for one, floor in floors.items()},
    }


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadRequest(f"plan-backends: expected RUNS… [-o plan.json]; got {message}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="attn-lab plan-backends", description="What backend=auto follows, made from verified records."
    )
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="run folders (or records.jsonl files) of one GPU")
    parser.add_argument("-o", "--out", type=Path, default=Path("plan.json"), metavar="FILE", help="where to; plan.json")
    return parser
