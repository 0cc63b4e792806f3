"""Several processes that train one model together: all of them must take the same backend."""

import logging
from functools import cache

import torch

LOG = logging.getLogger("attn_lab")


def several() -> bool:
    """Whether torch.distributed runs here with more ranks than one."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return there and torch.distributed.get_world_size() > 1


@cache
def tell_first_taken(name: str) -> None:
    """A line of log, once a process, by the first rank alone."""
    if torch.distributed.get_rank() == 0:
        LOG.warning(
            "attn_lab: auto takes %s, the first of a fixed order that can: several ranks must take the same, so none "
            "measures by itself (a table, made by attn-lab tune, is followed)", name
        )  # fmt: skip
