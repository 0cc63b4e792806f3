"""One question, fully stated: which backend, asked what, stepped how, seen by which probes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from attn_lab.core.backend import Backend
from attn_lab.core.errors import BadRequest
from attn_lab.core.request import Request
from attn_lab.measure.prepared_case import Probe, Subject
from attn_lab.records.record import digest


@dataclass(frozen=True, kw_only=True)
class Case:
    """The parts of one case, built and checked, and the resolved `config` they were built from.

    `basis` is what else can change the answer: machine, driver, versions, a fingerprint of the measuring code.
    `backend_name`, `mask_name` and `subject_name` are the options of the configuration.  `is_aa_repeat`: the baseline
    once more; the ratio of the two is a sweep's noise.  Raises BadRequest if a probe with a clock would run before the
    answer is verified.
    """

    backend_name: str
    mask_name: str
    subject_name: str
    round: int
    is_aa_repeat: bool
    seed: int
    checked_slices: int
    request: Request
    backend: Backend
    subject: Subject
    probes: Mapping[str, Probe]
    config: Mapping[str, Any]
    basis: Mapping[str, str]
    timeout: float  # seconds the whole case may take; a worker process that takes longer is ended

    def __post_init__(self) -> None:
        targets = {role: part.get("_target_") for role, part in self.config.items() if isinstance(part, Mapping)}
        _expect("backend", targets, self.backend, "unsupported_reasons", "prepare", "capabilities", "kernels")
        _expect("mask", targets, self.request.mask, "band", "count")
        _expect("subject", targets, self.subject, "stage", "check")
        for name, probe in self.probes.items():
            _expect(f"probe.{name}", targets, probe, "measure", "clocks")
        if self.checked_slices < 1:
            raise BadRequest(f"measure.checked_slices: expected at least 1; got {self.checked_slices}")
        if self.round < 0:
            raise BadRequest(f"round: expected at least 0; got {self.round}")
        if not -(2**63) <= self.seed < 2**63:
            raise BadRequest(f"seed: expected a whole number of 64 bits; got {self.seed}")
        if not self.timeout > 0:
            raise BadRequest(f"measure.timeout: expected more than 0 (seconds); got {self.timeout}")
        if self.request.shape.dtype == "float64":
            raise BadRequest("shape.dtype: expected one of float16, bfloat16, float32; got 'float64', which is what "
                             "answers are held against")  # fmt: skip
        self.subject.check(self.request)
        names = list(self.probes)
        for index, (name, probe) in enumerate(self.probes.items()):
            if probe.clocks and "accuracy" not in names[:index]:
                raise BadRequest(
                    f"probe: expected accuracy before {name} (a wrong answer never meets a clock); "
                    f"got [{', '.join(names)}]"
                )
            later = [each for each in names[index:] if self.probes[each].clocks and not _hooks(self.probes[each])]
            if _hooks(probe) and later:
                raise BadRequest(
                    f"probe: expected {name} after {later[-1]} (what is looked into is not timed); "
                    f"got [{', '.join(names)}]"
                )

    @cached_property
    def question(self) -> str:
        """12 hex digits of a hash of the resolved configuration, and of nothing else."""
        return digest(self.config)

    @cached_property
    def id(self) -> str:
        """12 hex digits of a hash of all that can change the answer: the question, and the basis."""
        return digest({"config": self.config, "basis": self.basis})

    @property
    def label(self) -> str:
        again = " (again)" if self.is_aa_repeat else ""
        return f"{self.backend_name}{again} {self.setting}"

    @property
    def setting(self) -> str:
        return f"{self.request.shape} {self.mask_name} {self.subject_name}"

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "question": self.question,
            "backend": self.backend_name,
            "mask": self.mask_name,
            "subject": self.subject_name,
            "round": self.round,
            "is_aa_repeat": self.is_aa_repeat,
            "shape": asdict(self.request.shape),
        }


def _hooks(probe: Probe) -> bool:
    return getattr(probe, "hooks", False)  # a probe of another package need not have it


def _expect(role: str, targets: Mapping[str, Any], part: object, *names: str) -> None:
    """A `_target_` may name anything; what it made must be able to play its role."""
    missing = [name for name in names if not hasattr(part, name)]
    if missing:
        made = f"{targets[role]}, which makes {part!r}" if targets.get(role) else repr(part)
        raise BadRequest(f"{role}: expected an object with {', '.join(names)}; got {made}")
