"""What was measured on the spot, kept in the user's cache for the next process."""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from attn_lab.core.backend import Backend
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine, software
from attn_lab.core.request import Request
from attn_lab.layer.bucket import Bucket
from attn_lab.layer.plan import Entry, Plan, Ranking
from attn_lab.layer.spot import outside, race

LEVEL = 1.02  # closer than this, so few calls cannot tell: the order of the candidates decides


class Kept:
    """What was measured on this machine with these versions: a plan, in a file of the user's cache."""

    def __init__(self, path: Path, machine: Machine) -> None:
        self.path = path
        self.shown = f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)
        made = {"by": "measurement on the spot", "versions": software(machine)}
        self.plan = Plan(gpu=machine.name, entries={}, made=made, source=self.shown)
        self._join()

    @classmethod
    def of(cls, machine: Machine) -> "Kept":
        """This machine's, read once by each process."""
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        if (machine.name, home) not in _READ:
            own = (machine.name, machine.driver, machine.threads, software(machine), dict(machine.packages))
            digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:12]
            _READ[machine.name, home] = cls(Path(home, "attn_lab", f"measured-{digest}.json"), machine)
        return _READ[machine.name, home]

    def known(self, asked: Bucket, one: str) -> Ranking | None:
        entry = self.plan.entries.get(asked)
        return entry.passes.get(one) if entry else None

    def measure(
        self, asked: Bucket, one: str, able: Mapping[str, Backend], request: Request, machine: Machine,
        passed_over: dict[str, Sequence[str]],
    ) -> Ranking:  # fmt: skip
        """Those able, by this pass's time, measured now and kept; who fell out is passed over too."""
        times, fallen = outside(lambda: race(able, request, machine), machine)
        passed_over |= fallen
        ranking = ranked(times)
        if times:
            entry = self.plan.entries.get(asked, Entry({}))
            could_not = {**entry.could_not, **{name: "; ".join(why) for name, why in passed_over.items()}}
            measured = tuple(dict.fromkeys([*entry.measured, str(request.shape)]))
            self._join({asked: Entry({**entry.passes, one: ranking}, measured, could_not)})
        return ranking

    def _join(self, fresh: Mapping[Bucket, Entry] = {}) -> None:
        """Take in what other processes left there, and leave what is fresh.  Where nothing can be kept it says so."""
        try:
            others = Plan.read(self.path).entries if self.path.is_file() else {}
            self.plan = replace(self.plan, entries={**self.plan.entries, **others, **fresh})
            if fresh:
                self.plan.write(self.path)
        except (BadRequest, OSError) as error:
            cure = " (remove it, and it is made anew)" if isinstance(error, BadRequest) else ""
            warnings.warn(f"attn_lab: what is measured on the spot is not kept: {error}{cure}", stacklevel=2)
            self.plan = replace(self.plan, entries={**self.plan.entries, **fresh})


_READ: dict[tuple[str, str], Kept] = {}


def ranked(times: Mapping[str, float]) -> Ranking:
    """The fastest first; of those that are level with it, who is preferred."""
    if not times:
        return Ranking({}, "nobody")
    best = min(times.values())
    first = next(name for name, each in times.items() if each <= best * LEVEL)
    order = [first, *sorted((name for name in times if name != first), key=lambda name: times[name])]
    if not order[1:]:
        return Ranking(dict(times), f"{times[first]:.3g} ms, alone")
    ratio = times[order[1]] / times[first]
    ahead = f"level with {order[1]}" if ratio <= LEVEL else f"{ratio:.2f}× ahead of {order[1]}"
    return Ranking({name: times[name] for name in order}, f"{times[first]:.3g} ms, {ahead}")
