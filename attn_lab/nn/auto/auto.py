"""`auto`: the backend measured as fastest, by a dispatch table or by a measurement at first use."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from os import PathLike

from attn_lab.core.backend import AttentionFn, Backend, Selection, backend_name, select
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.errors import BadRequest, Unsupported
from attn_lab.core.machine import Machine
from attn_lab.core.mask import Mask
from attn_lab.core.request import Request
from attn_lab.core.shape import Shape
from attn_lab.nn.auto import ranks
from attn_lab.nn.auto.bucket import Bucket, mask_words
from attn_lab.nn.auto.cache import AutotuneCache
from attn_lab.nn.auto.candidates import KNOWN, named, supported_backends, unsupported_reasons
from attn_lab.nn.auto.table import DispatchTable, Ranking, shipped
from attn_lab.nn.verification import verified_reasons

SIZES = tuple(each.name for each in fields(Shape))
ANYTHING = Capabilities(masks=("full", "causal", "band", "documents", "predicate"), empty_rows=True, dropout=True)


@dataclass(frozen=True)
class Auto(Backend):
    """table     a DispatchTable or the file of one; None: the one shipped for this GPU, or else measurement
    any_gpu  follow a table that was made on another GPU
    verify   verify the first request of each kind (`nn/verification.py`)

    A question in no bucket of the table is answered as the nearest, with a warning.  Where a table knows nothing that
    is comparable (another mask or dtype, decoding), where it names none that is supported, or without a table, those
    supported are measured against each other once (`autotune.py`); where torch.distributed runs with several ranks,
    which must take the same, the first of a fixed order is taken instead (`candidates.py`).  `choices` has the
    preferred backends, and why they are unsupported.
    """

    table: DispatchTable | str | PathLike[str] | None = None
    any_gpu: bool = False
    verify: bool = True

    capabilities = {"cuda": ANYTHING, "cpu": ANYTHING}
    kernels = {}  # those of the backend selected

    def __post_init__(self) -> None:
        if self.table is None or isinstance(self.table, DispatchTable):
            table = self.table
        elif isinstance(self.table, str | PathLike):
            table = DispatchTable.read(self.table)
        else:
            raise BadRequest(f"table: expected a DispatchTable, or the file of one; got {self.table!r}")
        if self.any_gpu and table is None:
            raise BadRequest("any_gpu: expected a table with it, which it lets be followed on another GPU; got none")
        object.__setattr__(self, "table", table.on_any_gpu() if table and self.any_gpu else table)

    def followed(self, machine: Machine) -> DispatchTable | None:
        """The table for this machine: the one given, or the one shipped."""
        assert self.table is None or isinstance(self.table, DispatchTable)
        return self.table or shipped(machine.name)

    @property
    def parts(self) -> tuple[Backend, ...]:  # type: ignore[override]
        """All it may choose, on whatever machine."""
        return tuple(backend for name in KNOWN if (backend := named(name)))

    def description(self, machine: Machine) -> str:
        """What it does on this machine, in a line."""
        table = self.followed(machine)
        return f"follows the table {table.source}" if table else "no table for this machine: measures on the spot, once"

    def table_digest(self, machine: Machine) -> str:
        table = self.followed(machine)
        return table.digest if table else "measured on the spot"

    def unsupported_reasons(self, request: Request, machine: Machine) -> list[str]:
        table = self.followed(machine)
        if table and (reasons := table.unsupported_reasons(machine.name)):
            return reasons
        found = table and table.find(bucket_of(request), pass_of(request))
        refused = {}
        for name in dict.fromkeys([*(found.entry.passes[pass_of(request)].ms if found else ()), *KNOWN]):
            refused[name] = unsupported_reasons(name, request, machine)
            if not refused[name]:
                return []
        return _lines(refused)

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        return self.select(request, machine).attend

    def select(self, request: Request, machine: Machine) -> Selection:
        """Raises Unsupported, with the reasons of all, where none is supported."""
        passed_over: dict[str, Sequence[str]] = {}
        table, one, requested = self.followed(machine), pass_of(request), bucket_of(request)
        found = table and table.find(requested, one)
        if table and found:
            nearest = "" if found.exact else f"; nearest to {requested}, which is in no bucket"
            where = f"by {table.source}: {found.bucket}{nearest}"
            if taken := self._first(found.entry.passes[one], where, request, machine, passed_over):
                if nearest:
                    warnings.warn(f"attn_lab: auto takes {taken.why}", stacklevel=2)  # Python shows the same text once
                return taken
        return self._measured(request, machine, requested, one, passed_over)

    def _measured(
        self, request: Request, machine: Machine, requested: Bucket, one: str, passed_over: dict[str, Sequence[str]]
    ) -> Selection:
        """By what is kept of an earlier measurement, or by one made now; among several ranks by neither."""
        if ranks.several():
            return self._first_able(request, machine, passed_over)
        autotuned = AutotuneCache.of(machine)
        where = f"measured here (kept in {autotuned.shown})"
        known = autotuned.known(requested, one)
        if known and (taken := self._first(known, where, request, machine, passed_over)):
            return taken
        able = {name: backend for name, backend in supported_backends(request, machine, passed_over).items()
                if not self._incorrect(name, backend, request, machine, passed_over)}  # fmt: skip
        if not able:
            raise Unsupported("auto", _lines(passed_over))
        if len(able) == 1:
            where, ranking = "not measured", Ranking(dict.fromkeys(able, math.nan), "the only one that can")
        else:
            ranking = autotuned.measure(requested, one, able, request, machine, passed_over)
        taken = self._first(ranking, where, request, machine, passed_over)
        if taken is None:
            raise Unsupported("auto", _lines(passed_over))
        return taken

    def _first_able(self, request: Request, machine: Machine, passed_over: dict[str, Sequence[str]]) -> Selection:
        """The first of a fixed order, that of `candidates`: the same on each rank, whatever was measured there."""
        able = supported_backends(request, machine, passed_over)
        ranking = Ranking(dict.fromkeys(able, math.nan), "the first of a fixed order, the same on each rank")
        taken = self._first(ranking, "not measured", request, machine, passed_over)
        if taken is None:
            raise Unsupported("auto", _lines(passed_over))
        ranks.tell_first_taken(backend_name(taken.by))
        return taken

    def _first(
        self, ranking: Ranking, where: str, request: Request, machine: Machine, passed_over: dict[str, Sequence[str]]
    ) -> Selection | None:
        """The question in the hands of the first of them that can."""
        for name in ranking.ms:
            if taken := self._taken(name, request, machine, passed_over):
                return replace(taken, why=f"{name}, {where}{_ahead(name, ranking)}")
        return None

    def _taken(
        self, name: str, request: Request, machine: Machine, passed_over: dict[str, Sequence[str]]
    ) -> Selection | None:
        """The question in this one's hands, or its reasons among those passed over."""
        if name in passed_over:
            return None
        reasons: Sequence[str] = unsupported_reasons(name, request, machine)
        if not reasons:
            try:
                backend = named(name)
                assert backend is not None
                taken = select(backend, request, machine)
                if self._incorrect(name, backend, request, machine, passed_over):
                    return None
                return replace(taken, passed_over=passed_over)
            except Unsupported as late:
                reasons = late.reasons
        passed_over[name] = reasons
        return None

    def _incorrect(
        self, name: str, backend: Backend, request: Request, machine: Machine, passed_over: dict[str, Sequence[str]]
    ) -> bool:
        """Whether its kind of request is answered wrongly here; the reasons are then among those passed over."""
        reasons = verified_reasons(backend, request, machine) if self.verify else []
        if reasons:
            passed_over[name] = reasons
        return bool(reasons)


def pass_of(request: Request) -> str:
    """What must be fast: a whole step where there are gradients, else the forward pass."""
    return "forward_backward" if request.needs_backward else "forward"


def bucket_of(request: Request) -> Bucket:
    shape = {name: getattr(request.shape, name) for name in SIZES}  # asdict takes ten times as long
    return Bucket.of(_mask_words(request.mask), shape)


def _mask_words(mask: Mask) -> str:
    kind = type(mask)
    own = kind.__module__.startswith("attn_lab.masks.")
    settings: dict[str, object] = {}
    if is_dataclass(mask):
        settings = {each.name: getattr(mask, each.name) for each in fields(mask)}
    if mask.ragged or mask.ends is not None:
        settings = {"inside": str(mask.inside)}
    return mask_words(kind.__module__.rpartition(".")[2] if own else kind.__name__, settings)


def _ahead(name: str, ranking: Ranking) -> str:
    return f"; {ranking.why}" if name == ranking.first else f"; {ranking.first}, which cannot here, was faster"


def _lines(refused: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{name}: {'; '.join(why)}" for name, why in refused.items()]
