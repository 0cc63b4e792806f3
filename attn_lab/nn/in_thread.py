"""Measurement and verification in a thread of their own, apart from what the caller traces or autocasts."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeVar

import torch

from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine

Made = TypeVar("Made")
PREFIX = "attn_lab-measures"
_POOLS: dict[int, ThreadPoolExecutor] = {}  # by process: a fork has no threads


def in_thread(measure: Callable[[], Made], machine: Machine) -> Made:
    """What `measure` returns, run where modes of the calling thread do not reach, with the random state put back.

    One thread of the process does it all: libraries keep handles by thread, which take a tenth of a second to make.

    Raises:
        BadRequest: a CUDA graph is being captured, which is no thread's own: nothing may be measured in it.
    """
    cuda = machine.device == "cuda"
    if cuda and torch.cuda.is_current_stream_capturing():
        raise BadRequest("attention: expected a request seen before, in a CUDA graph's capture; got a new one "
                         "(call the layer once before capturing)")  # fmt: skip
    if threading.current_thread().name.startswith(PREFIX):
        return measure()
    gpus = [torch.cuda.current_device()] if cuda else []

    def apart() -> Made:
        with torch.cuda.device(gpus[0]) if gpus else nullcontext(), torch.random.fork_rng(devices=gpus):
            return measure()

    pool = _POOLS.setdefault(os.getpid(), ThreadPoolExecutor(1, PREFIX))
    return pool.submit(apart).result()
