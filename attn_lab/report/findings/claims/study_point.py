"""The study's two rivals around its fixed point: speed-ups, growth along an axis, memory; or why there is no figure."""

from collections.abc import Mapping
from typing import Any

from attn_lab.records.record import AXES, PASSES, Record
from attn_lab.report import compare
from attn_lab.report.findings.finding import Span
from attn_lab.report.findings.measurements import Measured, Setting

FLASH = "flash2"
POINT: Mapping[str, Any] = {
    "batch_size": 16, "seq_len": 1024, "num_heads": 32, "emb_dim": 2048,
    "dtype": "float16", "mask": "causal", "subject": "kernel",
}  # fmt: skip


class NotTested(Exception):
    """What a claim rests on was not measured: `why` is a key of the catalogue, `values` are what fills its words."""

    def __init__(self, why: str, **values: object):
        super().__init__(why)
        self.why, self.values = why, values


class Rivals:
    """FlashAttention v2 and what stands for PyTorch, `naive` unless told otherwise.  All that asks raises NotTested."""

    def __init__(self, measured: Measured):
        self.measured, self.torch = measured, measured.baseline
        self._places: dict[tuple[tuple[str, Any], ...], Setting] = {}
        for row in measured.rows:
            fields = {name: value for name, value in row.fields.items() if name != "machine"}
            self._places[tuple(sorted(fields.items()))] = row.setting

    def setting(self, **other: Any) -> Setting | None:
        """The study's point, but for the fields in `other`."""
        return self._places.get(tuple(sorted({**POINT, **other}.items())))

    def check(self) -> None:
        """Both were run at all.  Another fused backend is no FlashAttention v2, and the claims are about that one."""
        names = {row.backend for row in self.measured.rows}
        if FLASH not in names:
            ran = {name for cases in self.measured.cases.values() for name in cases}
            raise NotTested("flash", ran=sorted(ran - {self.torch}))
        if self.torch not in names:
            raise NotTested("baseline")

    def rows(self, **other: Any) -> tuple[Record, Record]:
        """FlashAttention's and PyTorch's case at the point, but for the fields in `other`."""
        flash, torch = (self.measured.at(self.setting(**other), name) for name in (FLASH, self.torch))
        if not flash or not torch:
            raise NotTested("mask" if "mask" in other else "point")
        return flash, torch

    def both_at(self, axis: str) -> list[int]:
        """The values of an axis at which both came out ok, everything else as at the point."""
        values = sorted({row.shape[axis] for row in self.measured.rows})
        settings = {value: self.setting(**{axis: value}) for value in values}
        return [
            value
            for value, setting in settings.items()
            if {FLASH, self.torch} <= {*self.measured.cases.get(setting, ())}
        ]

    def along(self, axis: str) -> list[int]:
        values = self.both_at(axis)
        if len(values) < 2:
            raise NotTested("axis", axis=axis)
        return values

    def whole(self, axis: str | None = None) -> str:
        """The longest pass that both have timed at the point, or all along an axis: the whole step, if that was run."""
        pairs = [self.rows(**{axis: value}) for value in self.along(axis)] if axis else [self.rows()]
        timed = [one for one in PASSES[:3] if all(row.number(f"{one}/time") for pair in pairs for row in pair)]
        if not timed:
            raise NotTested("pass", one="forward_backward")
        return timed[-1]

    def edge(self, one: str) -> float:
        """What a growth must exceed to be one: the noise floor."""
        return 1 + self.measured.floor(one).claims

    def speedup(self, one: str, **other: Any) -> Span:
        if any(not row.number(f"{one}/time") for row in self.rows(**other)):
            raise NotTested("pass", one=one)
        return self.measured.span(self.setting(**other), FLASH, self.torch, one)

    def growth(self, name: str, axis: str, first: int, last: int, one: str, metric: str = "time") -> Span:
        """How many times its time (or TFLOP/s) at the first value of the axis a backend has at the last."""
        settings = (self.setting(**{axis: first}), self.setting(**{axis: last}))
        span = self.change(name, settings[0], settings[1], one)
        if metric == "time":
            return span
        rows = [row for setting in settings if (row := self.measured.at(setting, name))]
        before, after = ((row.number(f"{one}/tflops") or 0) * (row.number(f"{one}/time") or 0) for row in rows)
        if not before or not after:
            raise NotTested("pass", one=one)
        return span.inverse().times(after / before)  # the work, which is exact, over the time

    def change(self, name: str, first: Setting | None, last: Setting | None, one: str) -> Span:
        span = self.measured.change(name, first, last, one)
        if span is None:
            raise NotTested("pass", one=one)
        return span

    def peaks(self, axis: str) -> dict[int, tuple[float, float]]:
        """FlashAttention's and PyTorch's peak memory at each value of an axis, in MB."""
        pairs = {value: [row.number("memory/peak") for row in self.rows(**{axis: value})] for value in self.along(axis)}
        found = {value: (flash, torch) for value, (flash, torch) in pairs.items() if flash and torch}
        if len(found) < 2:
            raise NotTested("memory")
        return found

    def shares(self) -> dict[Setting, float]:
        """At every setting of any sweep where both came out ok: FlashAttention's peak memory over PyTorch's."""
        pairs = {setting: (rows.get(FLASH), rows.get(self.torch)) for setting, rows in self.measured.cases.items()}
        found = {setting: compare.memory_share(flash, torch) for setting, (flash, torch) in pairs.items() if flash}
        known = {setting: share for setting, share in found.items() if share is not None}
        if not known:
            raise NotTested("memory")
        return known

    def figure(self, what: str, axis: str = "") -> str:
        """The point is drawn on an axis that was swept through it, and by itself if there is none."""
        swept = axis or next((each for each in AXES if len(self.both_at(each)) > 1), "")
        return f"figures-{swept}-{what}" if swept else "figures-point"
