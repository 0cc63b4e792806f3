"""What must be said beside a number or a comparison: that it is noisy, that its two sides were not made alike."""

from collections.abc import Sequence

from attn_lab.report.read import Row

NOISY = "noisy:"


def noise(row: Row, metric: str) -> str:
    """Why a number must not be trusted as it stands; nothing where it may."""
    note = str(row.metrics.get(metric, {}).get("note") or "")
    if note.startswith(NOISY):
        return note
    one, _, what = metric.partition("/")
    if what not in ("time", "tflops"):
        return ""
    notes = [str(row.metrics.get(f"{one}/{each}", {}).get("note") or "") for each in ("time", "time_kernels")]
    marks = [each for each in notes if each.startswith(NOISY)]
    return "; ".join(marks) or str(row.metrics.get(f"{one}/precision", {}).get("note") or "")


def chosen(row: Row) -> str:
    """Whom a backend that chooses among others took, and why; nothing of one that answers by itself."""
    return str(row.metrics.get("choice/rank", {}).get("note") or "")


def mixtures(rows: Sequence[Row]) -> list[str]:
    """What differs between rows that a fair comparison holds fixed, each as `torch: 2.11.0, 2.12.0`.

    A record names the packages its own backend uses: two rows differ only where one package has two versions.
    """
    seen: dict[str, set[str]] = {}
    for row in rows:
        machine = {f"machine.{name}": row.provenance["machine"].get(name) for name in ("name", "driver", "memory")}
        about = {**machine, **row.packages, "attn_lab (commit)": row.provenance.get("commit")}
        for name, value in about.items():
            if value is not None:
                seen.setdefault(name, set()).add(str(value)[:40])
    return [f"{name}: {', '.join(sorted(values))}" for name, values in seen.items() if len(values) > 1]
