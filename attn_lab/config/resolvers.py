"""Interpolations that the files of conf/ use beside OmegaConf's own."""

from collections.abc import Callable

import torch
from omegaconf import OmegaConf


def _device_of_torch() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def register_resolvers(automatic: Callable[[], str] = _device_of_torch) -> None:
    """`${by_device:${device},{cpu: …, cuda: …}}`: a value for the device; `automatic` says which one `auto` is.

    `${by:${shape.head_dim},{64: 16, 128: 8},4}`: one for another value, and for all that are not named.
    """
    OmegaConf.register_new_resolver(
        "by", lambda value, values, otherwise: values.get(value, otherwise), replace=True, use_cache=False
    )
    OmegaConf.register_new_resolver(
        "by_device", lambda device, values: values[automatic() if device == "auto" else device],
        replace=True, use_cache=False,
    )  # fmt: skip
