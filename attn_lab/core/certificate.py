"""Which kinds of request a backend was verified to answer rightly, on which GPU, with which versions; data only.

A backend's capabilities are what its authors declare.  A certificate is what `attn-lab certify`, or a verification at
first use, found: kinds that are right, and kinds that are declared but answered wrongly, which are then unsupported.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine, software
from attn_lab.core.mask import kind as mask_kind
from attn_lab.core.request import Request

SCHEMA = 1
SHIPPED = Path(__file__).parents[1] / "certified"
LARGEST_FILE = 16 * 2**20  # bytes; a certificate is some hundred kB
COMPARED = ("torch", "cuda", "cudnn", "triton")  # versions that must be equal; a driver's is on record alone


@dataclass(frozen=True, order=True)
class Kind:
    """Requests that run the same kernels: what is right for one of them is right for the others.

    head_dim   of queries, keys and values
    dtype      "float16", "bfloat16", "float32", "float64"
    mask       kind of mask: "full", "causal", "band", "documents", "predicate"
    grouped    several query heads share a key/value head
    square     as many queries as keys
    gradients  the backward pass too
    """

    head_dim: int
    dtype: str
    mask: str
    grouped: bool
    square: bool
    gradients: bool

    @classmethod
    def of(cls, request: Request) -> "Kind":
        shape = request.shape
        return cls(
            shape.head_dim, shape.dtype, mask_kind(request.mask), shape.group_size > 1, shape.offset == 0,
            request.needs_backward,
        )  # fmt: skip

    @property
    def covering(self) -> tuple["Kind", ...]:
        """Kinds whose being right makes this one right: itself, and without gradients the same with them."""
        with_gradients = Kind(**{**asdict(self), "gradients": True})
        return (self,) if self.gradients else (self, with_gradients)

    def __str__(self) -> str:
        grouped = "grouped heads" if self.grouped else "one key/value head a query head"
        lengths = "" if self.square else ", fewer queries than keys"
        passes = "forward and backward" if self.gradients else "forward"
        return f"head_dim {self.head_dim}, {self.dtype}, {self.mask} mask{lengths}, {grouped}, {passes}"


@dataclass(frozen=True)
class Findings:
    """What is known of one backend: verified kinds, and by kind why it is not right.

    `versions` are those of the packages that its kernels come from.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    verified: frozenset[Kind] = frozenset()
    incorrect: Mapping[Kind, str] = field(default_factory=dict)

    def merged(self, other: "Findings") -> "Findings":
        """Both; of a kind in both, what `other` says."""
        verified = (self.verified - other.incorrect.keys()) | other.verified
        incorrect = {k: why for k, why in {**self.incorrect, **other.incorrect}.items() if k not in other.verified}
        return Findings(other.versions or self.versions, verified, incorrect)


@dataclass(frozen=True)
class Certificate:
    """Findings by backend name, on one kind of GPU (or processor) with one set of versions.

    `made` says when, by which commit and command; it is not compared.
    """

    gpu: str
    versions: Mapping[str, str]
    backends: Mapping[str, Findings] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)
    source: str = "certificate"

    def holds_for(self, machine: Machine) -> bool:
        """Whether it was made on such a GPU, with these versions of PyTorch and its libraries."""
        here = software(machine)
        return machine.name == self.gpu and all(self.versions.get(name) == here.get(name) for name in COMPARED)

    def findings(self, backend: str, machine: Machine) -> Findings | None:
        """What it says of a backend whose packages have the same versions here; None if it says nothing."""
        found = self.backends.get(backend)
        if found is None or any(machine.packages.get(name) != version for name, version in found.versions.items()):
            return None
        return found

    def with_findings(self, backend: str, findings: Findings) -> "Certificate":
        before = self.backends.get(backend, Findings())
        merged = before.merged(findings) if before.versions == findings.versions else findings
        return Certificate(self.gpu, self.versions, {**self.backends, backend: merged}, self.made, self.source)

    @classmethod
    def read(cls, path: Path) -> "Certificate":
        """Raises BadRequest for a file that is not there, or is no certificate."""
        try:
            if not path.is_file() or path.stat().st_size > LARGEST_FILE:
                raise BadRequest(f"certificate {path}: expected an ordinary file of at most {LARGEST_FILE} bytes")
            return cls.parsed(path.read_bytes().decode(), source=str(path))
        except OSError as error:
            raise BadRequest(f"certificate {path}: expected a file to read; got {error.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, BadRequest):
                raise
            raise BadRequest(
                f"certificate {path}: expected a file of attn-lab certify; got {type(error).__name__}: {error}"
            ) from None

    @classmethod
    def parsed(cls, text: str, *, source: str) -> "Certificate":
        plain = json.loads(text)
        if plain["schema"] != SCHEMA:
            raise ValueError(f"schema {plain['schema']!r}; this version reads {SCHEMA}")
        backends = {}
        for name, each in plain["backends"].items():
            incorrect = {kind: str(one["reason"]) for one in each["incorrect"] for kind in _kinds([one])}
            backends[str(name)] = Findings(_texts(each["versions"]), frozenset(_kinds(each["verified"])), incorrect)
        return cls(str(plain["gpu"]), _texts(plain["versions"]), backends, dict(plain["made"]), source)

    @property
    def text(self) -> str:
        """JSON, the same for the same findings: kinds that differ in head_dim alone share a line."""
        backends = {
            name: {
                "versions": dict(each.versions),
                "verified": _lines((kind, None) for kind in each.verified),
                "incorrect": _lines(each.incorrect.items()),
            }
            for name, each in sorted(self.backends.items())
        }
        plain = {"schema": SCHEMA, "gpu": self.gpu, "versions": dict(self.versions), "made": dict(self.made)}
        return _compact({**plain, "backends": backends})

    def write(self, path: Path) -> None:
        """Whole or not at all, whatever else writes there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}-{os.getpid()}-{os.urandom(4).hex()}")
        fresh.write_text(self.text, encoding="utf-8")
        os.replace(fresh, path)


@cache
def shipped() -> tuple[Certificate, ...]:
    """The certificates that come with this package."""
    return tuple(Certificate.read(file) for file in sorted(SHIPPED.glob("*.json")))


def certified_reasons(backend: str, request: Request, machine: Machine) -> list[str]:
    """Why the shipped certificate for this machine rules the request out: [] unless its kind was found incorrect."""
    kind = Kind.of(request)
    for certificate in shipped():
        if certificate.gpu == machine.name and certificate.holds_for(machine):
            found = certificate.findings(backend, machine)
            if found and kind in found.incorrect:
                return [f"incorrect on {machine.name} ({certificate.source}): {found.incorrect[kind]}"]
    return []


def _kinds(lines: Iterable[Mapping[str, Any]]) -> Iterator[Kind]:
    for line in lines:
        for head_dim in line["head_dim"]:
            yield Kind(
                int(head_dim), str(line["dtype"]), str(line["mask"]), line["grouped"] is True, line["square"] is True,
                line["gradients"] is True,
            )  # fmt: skip


def _lines(found: Iterable[tuple[Kind, str | None]]) -> list[dict[str, Any]]:
    alike: dict[tuple[Any, ...], list[int]] = {}
    for kind, reason in sorted(found, key=lambda each: (each[0], each[1] or "")):
        rest = (kind.dtype, kind.mask, kind.grouped, kind.square, kind.gradients, reason)
        alike.setdefault(rest, []).append(kind.head_dim)
    names = ("dtype", "mask", "grouped", "square", "gradients", "reason")
    return [
        {key: value for key, value in zip(names, rest, strict=True) if value is not None} | {"head_dim": dims}
        for rest, dims in sorted(alike.items(), key=lambda each: (*each[0][:5], each[0][5] or ""))
    ]


def _texts(plain: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(version) for name, version in plain.items()}


def _compact(plain: Mapping[str, Any]) -> str:
    """JSON with one line a group of kinds, readable and good for diffs."""
    head = {key: value for key, value in plain.items() if key != "backends"}
    parts = [json.dumps(head, indent=1, ensure_ascii=False)[:-2], ',\n "backends": {']
    blocks = []
    for name, each in plain["backends"].items():
        rows = [f'  {json.dumps(name)}: {{"versions": {json.dumps(each["versions"])}']
        for key in ("verified", "incorrect"):
            lines = ",\n".join(f"    {json.dumps(line, ensure_ascii=False)}" for line in each[key])
            rows.append(f'   "{key}": [\n{lines}\n   ]' if lines else f'   "{key}": []')
        blocks.append(",\n".join(rows) + "}")
    return "".join(parts) + "\n" + ",\n".join(blocks) + "\n }\n}\n"
