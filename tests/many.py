"""Thousands of records for a report to be made of: the published ones again, in other dtypes, masks and rounds."""

import json
import random
from collections.abc import Iterable, Iterator
from itertools import islice, product
from pathlib import Path

PUBLISHED = Path(__file__).parents[1] / "results/h100-2026-11-22-seed"


def lines(count: int) -> Iterator[str]:
    """`count` lines of JSON, every one a case of its own, times and rates off by a few percent."""
    chance = random.Random(0)
    published = [json.loads(line) for line in (PUBLISHED / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    ways = product(("float16", "bfloat16", "float32"), ("causal", "full", "prefix_lm"), range(3), published)
    for number, (dtype, mask, round, record) in enumerate(islice(ways, count)):
        case = {**record["case"], "id": f"{number:08x}", "mask": mask, "round": round}
        case["shape"] = {**case["shape"], "dtype": dtype}
        off = chance.uniform(0.97, 1.03)
        metrics = {name: {part: value * off if part in ("value", "low", "high") and value else value
                          for part, value in metric.items()} for name, metric in record["metrics"].items()}  # fmt: skip
        yield json.dumps({**record, "case": case, "metrics": metrics}) + "\n"


def grid(sizes: Iterable[tuple[int, int, int]]) -> Iterator[str]:
    """A record of flash2 at each (batch_size, seq_len, num_heads)."""
    published = [json.loads(line) for line in (PUBLISHED / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    alike = next(each for each in published if each["case"]["backend"] == "flash2" and each["status"] == "ok")
    for number, (batch, length, heads) in enumerate(sizes):
        shape = {**alike["case"]["shape"], "batch_size": batch, "seq_len": length, "seq_len_kv": length,
                 "num_heads": heads, "num_kv_heads": heads, "head_dim": 64, "emb_dim": 64 * heads}  # fmt: skip
        yield json.dumps({**alike, "case": {**alike["case"], "id": f"{number:08x}", "shape": shape}}) + "\n"
