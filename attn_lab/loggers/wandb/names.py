"""What runs and keys are called on W&B, so that a name tells what was asked and a dashboard finds what was logged."""

import re
from collections.abc import Mapping
from typing import Any

from attn_lab.records.axes import Series
from attn_lab.records.record import Record, digest

LETTERS = {"batch_size": "b", "seq_len": "s", "num_heads": "h", "emb_dim": "e"}
USUAL = {"dtype": "float16"}
BARS = (*(f"{one}/time" for one in ("forward", "backward", "forward_backward", "train_step")), "memory/peak")


def of_case(record: Record) -> str:
    """`flash2 b16 s1024 h32 e2048 causal kernel`, and whatever else is not as usual."""
    again = ["(again)"] if record.is_aa_repeat else []
    rounds = [f"round={record.round}"] if record.round else []
    return " ".join([record.name, *again, words(record.fields), *rounds])


def run_id(sweep: str, kind: str, what: str) -> str:
    """The same for the same run, so that one rebuilt from its record replaces itself on a server."""
    return digest([sweep, kind, what])


def what_case(case_id: str, started: str) -> str:
    """What tells a case's run from any other of its sweep's."""
    return f"{case_id} {started}"


def of_series(one: Series) -> str:
    """`flash2 over seq_len: b16 h32 e2048 causal kernel`."""
    return f"{one.backend} over {' with '.join([one.axis, *one.moving])}: {words(one.held)}"


def key(name: str) -> str:
    """W&B takes a dot for a path: `mask/window` is a key, `mask.window` is not."""
    return name.replace(".", "/")


def at_point(record: Record) -> dict[str, str]:
    """For each metric that is drawn as bars, the key that holds it for this case's point alone.

    The panels of a W&B workspace share one set of runs: only by a key of its own can a panel show one point.
    """
    point = re.sub(r"[^A-Za-z0-9]+", "_", words(record.fields))
    measured = [name for name in BARS if record.metrics.get(name, {}).get("value") is not None]
    return {name: f"at/{point}/{name}" for name in measured}


def words(text: Mapping[str, Any]) -> str:
    """What was asked: sizes by a letter, then all that is not as usual, mask and subject."""
    sizes = [f"{letter}{text[field]}" for field, letter in LETTERS.items() if field in text]
    more = [
        f"{name}={value}" for name, value in text.items()
        if name not in (*LETTERS, "mask", "subject", "machine") and USUAL.get(name) != value
    ]  # fmt: skip
    return " ".join([*sizes, *more, str(text["mask"]), str(text["subject"])])
