"""The GPUs of this host that a sweep may use, found without a CUDA context in this process."""

import os
from functools import cache

import torch

from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine, cards, detect
from attn_lab.run.local.fork_server import run_in_child


@cache
def local_machines(device: str) -> tuple[Machine, ...]:
    """Every GPU this process may see, or the CPU.  `device` is auto, cuda or cpu.

    Raises BadRequest for another word, for cuda where there is none, and for GPUs of several kinds.
    """
    # A CUDA context here would take memory on the first GPU, and nothing could be forked any more: a child looks.
    found = run_in_child(cards) if device in ("auto", "cuda") and torch.version.cuda is not None else []
    if not found:
        return (detect("cpu" if device == "auto" else device),)
    if len(kinds := dict.fromkeys(machine.name for machine in found)) > 1:
        raise BadRequest(
            f"GPUs: expected one kind in a sweep; got {', '.join(kinds)} (CUDA_VISIBLE_DEVICES=… chooses among them)"
        )
    return tuple(found)


def visible(index: int) -> str:
    """What CUDA_VISIBLE_DEVICES must say for the GPU of this index to be the only one."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[index].strip() if given else str(index)
