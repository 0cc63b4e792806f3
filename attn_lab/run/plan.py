"""From Hydra's configuration to cases, every one of them checked before the first runs."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attn_lab.bench.case import Case
from attn_lab.config.build import build
from attn_lab.config.errors import explained
from attn_lab.core.errors import BadRequest
from attn_lab.core.flops import attention_flops
from attn_lab.run.gpu_lock import here

GIVEN = ("folder", "sweep")  # what every logger is given by the run
ONE = ("name", "resume", "again", "baseline", "report", "logger")  # of the sweep, not of its cases
LONGEST = 255  # bytes of a file's name on Linux and macOS


def register_resolvers() -> None:
    """`${by_device:${device},{cpu: …, cuda: …}}`: a value for the device at hand.

    `${by:${shape.head_dim},{64: 16, 128: 8},4}`: one for another value, and for all that are not named.
    """
    OmegaConf.register_new_resolver(
        "by", lambda value, values, otherwise: values.get(value, otherwise), replace=True, use_cache=False
    )
    OmegaConf.register_new_resolver(
        "by_device", lambda device, values: values[here(device)[0].device], replace=True, use_cache=False
    )


def plan(jobs: Sequence[Sequence[str]], compose: Callable[[Sequence[str]], DictConfig]) -> list[Case]:
    """Every case of a sweep, built before the first runs.  Raises BadRequest, one line, naming the case at fault."""
    cases, made, first = [], dict[str, Any](), dict[str, str]()
    for number, job in enumerate(jobs, 1):
        try:
            config = compose(job)
            _check_keeping(config)
            _check_one(job, config, first)
            cases.append(build(config, config.hydra.runtime.choices, made))
        except (BadRequest, HydraException, OmegaConfBaseException, ValueError) as error:
            where = f" [case {number} of {len(jobs)}: {' '.join(job)}]" if len(jobs) > 1 else ""
            raise BadRequest(f"{explained(error)}{where}") from None
    return cases


def arranged(
    jobs: Sequence[Sequence[str]], cases: Sequence[Case], *, baseline: str, again: bool
) -> tuple[list[Sequence[str]], list[Case]]:
    """The order in which they are run, each once.  Where rivals meet at one shape, each round starts with another.

    With `again`, such rivals are joined by a twin of the baseline (of their first, where that is not among them).
    """
    ordered: list[tuple[Sequence[str], Case]] = []
    once: dict[str, tuple[Sequence[str], Case]] = {}
    for job, case in zip(jobs, cases, strict=True):
        once.setdefault(case.id, (job, case))
    for _, group in groupby(once.values(), key=lambda pair: _but_for_backend(pair[1])):
        rivals = list(group)
        names = [case.backend for _, case in rivals]
        if (
            again
            and len(set(names)) > 1
            and not rivals[0][1].twin
            and any(p.clocks for p in rivals[0][1].probes.values())
        ):
            job, case = rivals[names.index(baseline) if baseline in names else 0]
            rivals.append(([*job, "twin=true"], replace(case, twin=True, config={**case.config, "twin": True})))
        start = rivals[0][1].round % len(rivals)
        ordered += rivals[start:] + rivals[:start]
    return [job for job, _ in ordered], [case for _, case in ordered]


def batches(cases: Sequence[Case]) -> list[list[Case]]:
    """Cases that are held against each other, rivals and twins of one round: they belong on one and the same device."""
    apart = {"backend", "twin"}
    key = lambda case: {name: value for name, value in case.config.items() if name not in apart}  # noqa: E731
    return [list(batch) for _, batch in groupby(cases, key=key)]


def longest_first(batches: Sequence[Sequence[Case]]) -> list[Sequence[Case]]:
    """The order in which several workers are dealt them: of each round the largest first, none left for last."""

    def place(batch: Sequence[Case]) -> tuple[int, int]:
        flops = attention_flops(batch[0].request.shape, batch[0].request.mask)
        return batch[0].round, -len(batch) * flops["forward_backward"]

    return sorted(batches, key=place)


def _but_for_backend(case: Case) -> dict[str, Any]:
    return {key: value for key, value in case.config.items() if key != "backend"}


def _check_one(job: Sequence[str], config: DictConfig, first: dict[str, str]) -> None:
    """What belongs to the sweep is the same in every case: only that of the `first`, kept there, would count."""
    words = dict(word.split("=", 1) for word in job if word.split("=")[0].partition(".")[0] in ONE)
    for key, value in {**words, "name": config.name}.items():
        if first.setdefault(key, value) != value:
            raise BadRequest(f"{key}: expected one for the whole sweep; got {first[key]!r} and {value!r}")


def _check_keeping(config: DictConfig) -> None:
    """The run's name and loggers, as far as can be told without opening them."""
    parts = PurePosixPath(config.name).parts
    if not parts or parts[0] == "/" or ".." in parts or not config.name.isprintable():
        raise BadRequest(f"name: expected a folder name, to lie in runs/; got {config.name!r}")
    if any(len(part.encode()) > LONGEST for part in parts):
        raise BadRequest(f"name: expected a folder name, parts of at most {LONGEST} bytes each; got {config.name!r}")
    if "jsonl" not in config.logger:
        raise BadRequest(f"logger: expected jsonl, where records are kept, among them; got {list(config.logger)}")
    for name, settings in config.logger.items():
        if not isinstance(settings, DictConfig):
            raise BadRequest(f"logger.{name}: expected a mapping with _target_; got {settings!r}")
        taken = [key for key in inspect.signature(get_object(settings._target_)).parameters if key not in GIVEN]
        if strange := [str(key) for key in settings if key not in (*taken, "_target_")]:
            raise BadRequest(f"logger.{name}.{strange[0]}: no such key; expected {', '.join(taken) or 'nothing'}")
