"""A pass as a CUDA graph."""

import torch

from attn_lab.measure.prepared_case import PreparedCase
from attn_lab.measure.probes._clock import Before, Timed


class Uncapturable(Exception):
    """What torch or a library said, in one line: each forbids a capture with an error of its own."""


def captured(prepared: PreparedCase, name: str) -> tuple[Before, Timed]:
    """On a stream of its own, after calls on it: what is allocated or tuned once must not be captured."""
    try:
        return _captured(prepared, name)
    except Exception as error:
        raise Uncapturable(" ".join(str(error).split())[:200] or type(error).__name__) from error


def _captured(prepared: PreparedCase, name: str) -> tuple[Before, Timed]:
    before, timed = prepared.stages(name)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            timed(before())
    torch.cuda.synchronize()
    first, second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(first, stream=stream):
        result = before() if name == "backward" else timed(before())
    if name != "backward":
        del result
        return lambda: None, lambda _: first.replay()
    # A backward frees what its forward kept, so each replay needs another forward, which the clock does not see.
    with torch.cuda.graph(second, stream=stream, pool=first.pool()):
        result = timed(result)
    del result
    return first.replay, lambda _: second.replay()
