"""The tidy table: one line for each metric of each case, with all that identifies the case, as CSV and Parquet."""

from pathlib import Path
from typing import Any

from attn_lab.report.data import ReportData

PARTS = ("value", "low", "high", "samples", "unit", "note")
MACHINE = ("device", "name", "driver")


def write(data: ReportData, folder: Path) -> None:
    """table.csv and table.parquet.  A case without a metric has one line, for its status and reasons."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    cases: list[dict[str, Any]] = []
    metrics: dict[str, list[Any]] = {name: [] for name in ("case", "metric", *PARTS)}
    for experiment in data.experiments:
        for row in experiment.rows:
            about = row.provenance
            shape = {name: value for name, value in row.shape.items() if name != "dtype"}
            cases.append({
                "experiment": experiment.name, "id": row.id, "backend": row.name, "is_aa_repeat": row.is_aa_repeat,
                "round": row.round, "mask": row.mask, "subject": row.subject, "dtype": str(row.shape.get("dtype", "")),
                **shape, "status": row.status, "reasons": "; ".join(row.reasons),
                **{f"machine_{name}": str(about["machine"].get(name) or "") for name in MACHINE},
                "torch": str(about["versions"].get("torch", "")), "commit": str(about.get("commit", "")),
                "dirty": bool(about.get("dirty")), "sweep": str(about.get("sweep", "")),
                "started": str(about.get("started", "")),
            })  # fmt: skip
            names = list(row.metrics) or [""]
            metrics["case"] += [len(cases) - 1] * len(names)
            metrics["metric"] += names
            for part in PARTS[:4]:
                metrics[part] += [row.number(name, part) for name in names]
            for part in PARTS[4:]:
                metrics[part] += [str(row.metrics.get(name, {}).get(part) or "") for name in names]
    fields = dict.fromkeys(name for case in cases for name in case)
    whole = pa.table({name: pa.array([case.get(name) for case in cases]) for name in fields})
    tidy = whole.take(pa.array(metrics.pop("case")))
    for name, values in metrics.items():
        tidy = tidy.append_column(name, pa.array(values, pa.float64() if name in PARTS[:4] else pa.string()))
    with (folder / "table.parquet").open("wb") as file:  # pyarrow takes no path that is not UTF-8
        pyarrow.parquet.write_table(tidy, file, compression="zstd")
    with (folder / "table.csv").open("wb") as file:
        pyarrow.csv.write_csv(_without_formulas(tidy), file)


def _without_formulas(table: Any) -> Any:
    """Texts that a spreadsheet would take for a formula get an apostrophe before them, as it asks for."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            plain = pc.replace_substring_regex(table.column(place), pattern=r"^([=+@-])", replacement=r"'\1")
            table = table.set_column(place, field.name, plain)
    return table
