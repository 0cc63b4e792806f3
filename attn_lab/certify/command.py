"""A walk over all that backends declare: its map on the terminal, its findings kept as data."""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from attn_lab.certify.grid import MASKS
from attn_lab.certify.walk import Outcome, walk
from attn_lab.core.backend import Backend, backend_name
from attn_lab.core.certificate import Certificate, Kind
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine, software
from attn_lab.nn.verification import keep_findings


def certify(
    backends: Sequence[Backend],
    machine: Machine,
    *,
    head_dims: Sequence[int],
    workers: int,
    output: Path | None,
    console: Console,
) -> int:
    """Walk, print and keep.

    Args:
        workers: processes that share the device.
        output: a file that the findings are added to; None: the user's cache alone.

    Returns:
        The exit code: 1 if anything declared is incorrect.
    """
    begin = time.perf_counter()
    versions = " · ".join(f"{name} {version}" for name, version in software(machine).items())
    console.print(Text(f"{machine.name} ({machine.device}) · {versions}"), soft_wrap=True)
    certificate = Certificate(machine.name, software(machine))
    if output is not None and output.exists():
        certificate = Certificate.read(output)
        if not certificate.holds_for(machine):
            raise BadRequest(f"{output}: expected a certificate of {machine.name} with these versions; got one of "
                             f"{certificate.gpu} with {dict(certificate.versions)}")  # fmt: skip
    certificate = replace(certificate, made=_made(machine))
    wrong = 0
    with console.status("") as status:

        def progress(name: str, done: int, total: int) -> None:
            status.update(f"{name}: {done} of {total} checks")

        for backend, outcome in walk(backends, machine, head_dims=head_dims, workers=workers, progress=progress):
            _print(console, backend_name(backend), outcome, head_dims, time.perf_counter() - begin)
            wrong += len(outcome.findings.incorrect) + sum(map(is_wrong, outcome.sizes.values()))
            certificate = certificate.with_findings(backend_name(backend), outcome.findings)
            keep_findings(backend, machine, outcome.findings)
            if output is not None:  # after each backend: an interrupted walk keeps what it has
                certificate.write(output)
    verified = sum(len(each.verified) for each in certificate.backends.values())
    console.print(f"{verified} kinds verified, {wrong} declared but incorrect, in {time.perf_counter() - begin:.0f} s")
    if output is not None:
        console.print(f"certificate: {output}", soft_wrap=True)
    return int(wrong > 0)


def is_wrong(verdict: str) -> bool:
    """Whether the outcome of a size is a fault: neither right nor unsupported."""
    return bool(verdict) and not verdict.startswith("unsupported")


def _print(console: Console, name: str, outcome: Outcome, head_dims: Sequence[int], seconds: float) -> None:
    """A map: a row for each mask and dtype, a mark for each head size."""
    found = outcome.findings
    kinds = {*found.verified, *found.incorrect, *outcome.unsupported}
    most = any(kind.gradients for kind in kinds)
    cells: dict[tuple[str, str], dict[int, list[Kind]]] = {}
    for kind in sorted(kinds, key=lambda each: (list(MASKS).index(each.mask), each)):
        if kind.gradients == most or replace(kind, gradients=most) in outcome.unsupported:
            cells.setdefault((kind.mask, kind.dtype), {}).setdefault(kind.head_dim, []).append(kind)
    versions = ", ".join(f"{package} {version}" for package, version in found.versions.items())
    console.print(Text.assemble((f"\n{name}", "bold"), f"  {versions}  ({seconds:.0f} s so far)"))
    header = f"{'head_dim':22}" + "".join(f"{head_dim:<4}" for head_dim in head_dims)
    console.print(Text(header, style="dim"), soft_wrap=True)
    for (mask, dtype), by_head_dim in cells.items():
        line = Text(f"{mask + ' ' + dtype:22}")
        for head_dim in head_dims:
            line.append(*_mark(by_head_dim.get(head_dim, []), outcome))
        console.print(line, soft_wrap=True)
    for size, verdict in outcome.sizes.items():
        console.print(Text(f"{size}: {verdict or 'right'}", style="red" if is_wrong(verdict) else ""), soft_wrap=True)
    for kind, reason in sorted(found.incorrect.items()):
        if kind.gradients == most or replace(kind, gradients=True) not in found.incorrect:
            console.print(Text(f"declared but incorrect: {kind}: {reason}", style="red"), soft_wrap=True)


def _mark(kinds: Sequence[Kind], outcome: Outcome) -> tuple[str, str]:
    """✗: some are incorrect; ✓: verified, or unsupported; f: the forward alone; –: none is supported."""
    if any(kind in outcome.findings.incorrect for kind in kinds):
        return "✗   ", "bold red"
    verified = [kind for kind in kinds if kind in outcome.findings.verified]
    if verified and not any(kind.gradients for kind in verified) and any(kind.gradients for kind in kinds):
        return "f   ", "green"
    if verified:
        return "✓   ", "green"
    return ("–   ", "dim") if kinds else ("    ", "")


def _made(machine: Machine) -> dict[str, str | None]:
    folder = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"at": now, "commit": head.stdout.strip() or None, "driver": machine.driver}
