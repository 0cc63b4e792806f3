"""The history of CUDA's allocator while something runs, with the line of each allocation; nothing on a CPU."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

MOST = 200_000  # allocations and frees remembered
NOT_OURS = ("/torch/", "/contextlib.py", "/functools.py", "/threading.py")


@contextmanager
def history(device: str) -> Iterator[dict[str, Any]]:
    """What it yields holds, once left, torch's snapshot of the allocator; on a CPU it stays empty."""
    seen: dict[str, Any] = {}
    if device != "cuda":
        yield seen
        return
    torch.cuda.memory._record_memory_history(max_entries=MOST, stacks="python")
    try:
        yield seen
        torch.cuda.synchronize()
        seen.update(torch.cuda.memory._snapshot())
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)


def lines_of(snapshot: Mapping[str, Any]) -> list[str]:
    """Of each allocation, in their order: `FILE:LINE function` of the innermost caller that is not torch's, or ""."""
    entries: Sequence[Mapping[str, Any]] = snapshot["device_traces"][torch.cuda.current_device()]
    return [_ours(entry.get("frames", [])) for entry in entries if entry["action"] == "alloc"]


def _ours(frames: Sequence[Mapping[str, Any]]) -> str:
    for frame in frames:
        if str(frame["filename"]).endswith(".py") and not any(each in frame["filename"] for each in NOT_OURS):
            return f"{frame['filename']}:{frame['line']} {frame['name']}"
    return ""
