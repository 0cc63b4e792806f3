"""The command that asks one case's question once more, made from its record and checked against it."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from attn_lab.bench.case import Case
from attn_lab.core.errors import BadRequest
from attn_lab.sweep.build import build
from attn_lab.sweep.plan import register_resolvers
from attn_lab.sweep.schema import register
from hydra_plugins.attn_lab_sweeper import unpaired

ALWAYS = ("resume=never", "again=false")  # the answer is there; and alone it has no twin


def command(record: Mapping[str, Any]) -> str:
    """`attn-lab backend=… …`.  Raises BadRequest where none says it: of parts that are yours, or another version's."""
    words = list(_words(record))
    try:
        case, _ = composed(words)
    except (BadRequest, HydraException, OmegaConfBaseException, ValueError) as error:
        raise BadRequest(f"no command of this version asks that: {' '.join(str(error).split())[:200]}") from None
    if case.question != record["case"]["question"]:
        differing = [key for key, value in record["provenance"]["config"].items() if case.config.get(key) != value]
        raise BadRequest(
            f"no command of this version asks just that; {', '.join(differing) or 'settings'} would differ"
        )
    return shlex.join(["attn-lab", *words, *ALWAYS])


def composed(words: list[str]) -> tuple[Case, Path]:
    """One case as the command line would have it, and the run folder it would go to."""
    register()
    register_resolvers()
    with initialize_config_module("attn_lab.conf", version_base="1.3"):
        plain = [each for word in words for each in unpaired(word)]
        config = compose("config", plain, return_hydra_config=True)
    return build(config, config.hydra.runtime.choices), Path(f"runs/{config.name}")


def _words(record: Mapping[str, Any]) -> Iterator[str]:
    case, config = record["case"], record["provenance"]["config"]
    names = {name: case[name] for name in ("backend", "mask", "subject")}
    if "+" in case["backend"]:
        names["backend"] = "paired"
    yield from (f"{name}={value}" for name, value in names.items())
    yield f"probe=[{','.join(config['probe'])}]"
    yield from (f"shape.{name}={_text(value)}" for name, value in config["shape"].items())
    yield f"passes=[{','.join(config['passes'])}]"
    yield from (f"{name}={_text(config[name])}" for name in ("device", "seed", "round", "twin"))
    yield from (f"measure.{name}={_text(value)}" for name, value in config["measure"].items())
    parts = {name: config[name] for name in names} | {f"probe.{name}": each for name, each in config["probe"].items()}
    for part, settings in parts.items():
        for name, value in settings.items():
            if not name.startswith("_") and part != "probe.timing":  # whose settings are the measure's
                yield f"{part}.{name}={_text(value)}"


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
