"""A figure as every page, file and dashboard takes it: panels of Vega-Lite over one list of values."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Values = Sequence[Mapping[str, Any]]
Spec = Mapping[str, Any]
MARK = "\x01"  # in no text of a record, which are all printable


@dataclass(frozen=True)
class Panel:
    """One chart: a specification that many panels share, and what this one puts into its holes."""

    title: str
    spec: Spec
    holes: Mapping[str, Any] = field(default_factory=dict)

    def filled(self) -> dict[str, Any]:
        filled: dict[str, Any] = _fill(self.spec, self.holes)
        return filled


@dataclass(frozen=True)
class Figure:
    """Panels side by side.  `told` says in words what is seen; `backends` are those in a legend, if it needs one."""

    anchor: str
    title: str
    alt_text: str
    panels: Sequence[Panel]
    values: Values
    backends: Sequence[str] = ()


def hole(name: str) -> str:
    """In a specification: what each panel puts there itself."""
    return MARK + name


def rounded(value: float | None) -> float | None:
    """Six digits: enough for any screen, and half the bytes.  None for what no axis has a place for."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _fill(value: Any, holes: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {name: _fill(each, holes) for name, each in value.items()}
    if isinstance(value, list):
        return [_fill(each, holes) for each in value]
    return holes[value[1:]] if isinstance(value, str) and value[:1] == MARK else value


def key(spec: Spec) -> str:
    """The same for equal specifications: a page holds each but once."""
    return json.dumps(spec, sort_keys=True)
