"""The loggers of a sweep, opened from the configuration and written to together."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from attn_lab.core.errors import BadRequest
from attn_lab.records.lock import unusable
from attn_lab.records.record import Logger


def open_loggers(settings: DictConfig, folder: Path, sweep: str) -> Iterable[Logger]:
    """Every logger but jsonl, which is the run's store.  Raises BadRequest for one that cannot be opened."""
    for name in settings:
        if name != "jsonl":
            yield _opened(settings[name], folder, sweep)


def _opened(settings: Any, folder: Path, sweep: str) -> Logger:
    try:
        return instantiate(settings, folder=folder, sweep=sweep)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, BadRequest):
            raise cause from None
        if isinstance(cause, OSError):
            raise unusable(folder, cause) from None
        raise
