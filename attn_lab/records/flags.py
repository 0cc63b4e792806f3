"""What must be shown beside a number or a comparison: that it is noisy, that its two sides were not made alike."""

from collections.abc import Sequence

from attn_lab.records.record import Record

NOISY = "noisy:"


def noise(record: Record, metric: str) -> str:
    """Why a number must not be trusted as it stands; empty where it may."""
    note = record.note(metric)
    if note.startswith(NOISY):
        return note
    one, _, what = metric.partition("/")
    if what not in ("time", "tflops"):
        return ""
    notes = [record.note(f"{one}/{each}") for each in ("time", "time_kernels")]
    return "; ".join(each for each in notes if each.startswith(NOISY)) or record.note(f"{one}/precision")


def noisy(record: Record) -> list[str]:
    """The metrics that must not be trusted as they stand: wherever such a number is shown, the flag is."""
    return [name for name in record.metrics if noise(record, name)]


def chosen(record: Record) -> str:
    """Which backend one that chooses among others selected, and why; empty for one that answers by itself."""
    return record.note("selection/rank")


def mixtures(records: Sequence[Record]) -> list[str]:
    """What differs between records that a fair comparison holds fixed, each as `torch: 2.11.0, 2.12.0`.

    A record names the packages its own backend uses: two differ only where one package has two versions.
    """
    seen: dict[str, set[str]] = {}
    for record in records:
        machine = record.provenance["machine"]
        about = {f"machine.{name}": machine.get(name) for name in ("name", "driver", "memory")}
        about |= {**record.packages, "attn_lab (commit)": record.provenance["commit"]}
        for name, value in about.items():
            if value is not None:
                seen.setdefault(name, set()).add(str(value)[:40])
    return [f"{name}: {', '.join(sorted(values))}" for name, values in seen.items() if len(values) > 1]
