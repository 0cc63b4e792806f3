"""One question, fully stated: which backend, asked what, stepped how, seen by which probes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from attn_lab.bench.trial import Probe, Subject
from attn_lab.core.backend import Backend, Request
from attn_lab.core.errors import BadRequest


@dataclass(frozen=True, kw_only=True)
class Case:
    """The parts of one case, built and checked, and the resolved `config` they were built from.

    `backend`, `mask` and `subject` are the names people chose them by.  A `twin` is the baseline once more: the ratio
    of the two is what a sweep takes for its noise.  Raises BadRequest if a probe with a clock
    would run before the answer was verified.
    """

    backend: str
    mask: str
    subject: str
    round: int
    twin: bool
    seed: int
    slices: int
    request: Request
    who: Backend
    what: Subject
    probes: Mapping[str, Probe]
    config: Mapping[str, Any]

    def __post_init__(self) -> None:
        targets = {role: part.get("_target_") for role, part in self.config.items() if isinstance(part, Mapping)}
        _expect("backend", targets, self.who, "refusals", "prepare", "limits", "kernels")
        _expect("mask", targets, self.request.mask, "band", "count")
        _expect("subject", targets, self.what, "stage", "check")
        for name, probe in self.probes.items():
            _expect(f"probe.{name}", targets, probe, "measure", "clocks")
        if self.slices < 1:
            raise BadRequest(f"measure.slices: expected at least 1; got {self.slices}")
        self.what.check(self.request)
        names = list(self.probes)
        for index, (name, probe) in enumerate(self.probes.items()):
            if probe.clocks and "accuracy" not in names[:index]:
                raise BadRequest(
                    f"probe: expected accuracy before {name} (a wrong answer never meets a clock); "
                    f"got [{', '.join(names)}]"
                )

    @property
    def id(self) -> str:
        """8 hex digits of a hash of the resolved configuration: the same question has the same id."""
        canonical = json.dumps(self.config, sort_keys=True, default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]

    @property
    def label(self) -> str:
        again = " (again)" if self.twin else ""
        return f"{self.backend}{again} {self.request.shape} {self.mask} {self.subject}"

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "backend": self.backend,
            "mask": self.mask,
            "subject": self.subject,
            "round": self.round,
            "twin": self.twin,
            "shape": asdict(self.request.shape),
        }


def _expect(role: str, targets: Mapping[str, Any], part: object, *names: str) -> None:
    """A `_target_` may name anything; what it made must be able to play its role."""
    missing = [name for name in names if not hasattr(part, name)]
    if missing:
        made = f"{targets[role]}, which makes {part!r}" if targets.get(role) else repr(part)
        raise BadRequest(f"{role}: expected an object with {', '.join(names)}; got {made}")
