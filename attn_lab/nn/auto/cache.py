"""What was measured on the spot, kept in the user's cache for the next process."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

from filelock import FileLock

from attn_lab.core.backend import Backend
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine, software
from attn_lab.core.request import Request
from attn_lab.core.user_cache import cache_folder, shown
from attn_lab.nn.auto.autotune import race
from attn_lab.nn.auto.bucket import Bucket
from attn_lab.nn.auto.table import DispatchTable, Entry, Ranking
from attn_lab.nn.in_thread import in_thread

LEVEL = 1.02  # closer than this, so few calls cannot tell: the order of the candidates decides
PATIENCE = 10  # seconds another process may hold the file


class AutotuneCache:
    """What was measured on this machine with these versions: a table, in a file of the user's cache.

    Threads of one process measure one after another; processes add to the file one after another.
    """

    def __init__(self, path: Path, machine: Machine) -> None:
        self.path = path
        self.shown = shown(path)
        made = {"by": "measurement on the spot", "versions": software(machine)}
        self.table = DispatchTable(gpu=machine.name, entries={}, made=made, source=self.shown)
        self._measuring = Lock()
        self._join()

    @classmethod
    def of(cls, machine: Machine) -> "AutotuneCache":
        """This machine's, read once by each process."""
        folder = cache_folder() or Path("~")  # as it stands: nothing is kept in it
        key = (machine.name, str(folder))
        with _READING:
            if key not in _READ:
                own = (machine.name, machine.driver, machine.threads, software(machine), dict(machine.packages))
                digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:12]
                _READ[key] = cls(folder / f"measured-{digest}.json", machine)
            return _READ[key]

    def known(self, fields: Bucket, one: str) -> Ranking | None:
        entry = self.table.entries.get(fields)
        return entry.passes.get(one) if entry else None

    def measure(
        self, fields: Bucket, one: str, able: Mapping[str, Backend], request: Request, machine: Machine,
        passed_over: dict[str, Sequence[str]],
    ) -> Ranking:  # fmt: skip
        """The supported backends by this pass's time, measured now and cached; those that failed are passed over."""
        with self._measuring:  # beside another measurement neither would be worth much
            if known := self.known(fields, one):
                return known
            times, fallen = in_thread(lambda: race(able, request, machine), machine)
            passed_over |= fallen
            ranking = ranked(times)
            if times:
                entry = self.table.entries.get(fields, Entry({}))
                could_not = {**entry.could_not, **{name: "; ".join(why) for name, why in passed_over.items()}}
                measured = tuple(dict.fromkeys([*entry.measured, str(request.shape)]))
                self._join({fields: Entry({**entry.passes, one: ranking}, measured, could_not)})
            return ranking

    def _join(self, fresh: Mapping[Bucket, Entry] = {}) -> None:
        """Take in what other processes left there, and leave what is fresh.  Where nothing can be kept it says so."""
        ours = {**self.table.entries, **fresh}
        self.table = replace(self.table, entries=ours)
        try:
            if not self.path.is_absolute():  # no home, and nothing in its stead
                raise BadRequest("expected HOME or XDG_CACHE_HOME to be set, or the user in passwd; got none of them")
            if not fresh:
                self.table = replace(self.table, entries={**ours, **self._others()})
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock"), timeout=PATIENCE):
                self.table = replace(self.table, entries=_united(self._others(), ours, fresh))
                self.table.write(self.path)
        except (BadRequest, OSError, NotImplementedError) as error:
            cure = (
                " (remove it, and it is made anew)" if isinstance(error, BadRequest) and self.path.is_absolute() else ""
            )
            warnings.warn(f"attn_lab: what is measured on the spot is not kept: {error}{cure}", stacklevel=2)

    def _others(self) -> Mapping[Bucket, Entry]:
        return DispatchTable.read(self.path).entries if self.path.is_file() else {}


_READ: dict[tuple[str, str], AutotuneCache] = {}
_READING = Lock()


def _united(
    others: Mapping[Bucket, Entry], ours: Mapping[Bucket, Entry], fresh: Mapping[Bucket, Entry]
) -> Mapping[Bucket, Entry]:
    """What is fresh wins, then what others left; of one bucket, each pass by itself."""
    united = {**ours, **others}
    for bucket, entry in fresh.items():
        other = others.get(bucket)
        united[bucket] = replace(entry, passes={**other.passes, **entry.passes}) if other else entry
    return united


def ranked(times: Mapping[str, float]) -> Ranking:
    """The fastest first; of those level with it, the preferred one."""
    if not times:
        return Ranking({}, "none")
    best = min(times.values())
    first = next(name for name, each in times.items() if each <= best * LEVEL)
    order = [first, *sorted((name for name in times if name != first), key=lambda name: times[name])]
    if not order[1:]:
        return Ranking(dict(times), f"{times[first]:.3g} ms, alone")
    ratio = times[order[1]] / times[first]
    ahead = f"level with {order[1]}" if ratio <= LEVEL else f"{ratio:.2f}× ahead of {order[1]}"
    return Ranking({name: times[name] for name in order}, f"{times[first]:.3g} ms, {ahead}")
