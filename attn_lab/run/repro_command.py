"""The command that asks one case's question once more: text made from its record, and checked without building it."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from attn_lab.config.build import build, question_of
from attn_lab.config.command_line import checked
from attn_lab.config.resolvers import register_resolvers
from attn_lab.config.schema import register
from attn_lab.core.errors import BadRequest
from attn_lab.measure.case import Case
from attn_lab.records.record import Record, digest
from attn_lab.run.local.machines import local_machines
from hydra_plugins.attn_lab_sweeper import unpaired

ALWAYS = ("resume=never", "aa_repeat=false")  # the answer is there; and alone it has no A/A repeat
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{,63}")
BACKEND = re.compile(r"[A-Za-z_][A-Za-z0-9_]{,63}(\+[A-Za-z_][A-Za-z0-9_]{,63})?")
LONGEST = 500  # characters of a value
PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]*")  # a text that Hydra takes as it stands


def command(record: Record) -> str:
    """`attn-lab backend=… …`.  Raises BadRequest where none says it: of parts that are yours, or another version's.

    The record is data: its values are quoted, nothing that it names is imported or called.
    """
    words = list(_words(record))
    try:
        question, _ = question_of(configuration(words))
    except (BadRequest, HydraException, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise BadRequest(f"no command of this version asks that: {' '.join(str(error).split())[:200]}") from None
    if digest(question) != record.question:
        recorded = record.provenance["config"]
        differing = [key for key, value in recorded.items() if question.get(key) != value]
        raise BadRequest(
            f"no command of this version asks just that; {', '.join(differing) or 'settings'} would differ"
        )
    return shlex.join(["attn-lab", *words, *ALWAYS])


def composed(words: list[str]) -> tuple[Case, Path]:
    """One case as the command line would have it, and the run folder it would go to."""
    config = configuration(words)
    return build(config, local_machines(config.device)[0]), Path(f"runs/{config.name}")


def configuration(words: Sequence[str]) -> DictConfig:
    """These overrides composed; nothing is instantiated."""
    register()
    register_resolvers()
    with initialize_config_module("attn_lab.conf", version_base="1.3"):
        plain = [each for word in checked(words) for each in unpaired(word)]
        return compose("config", plain, return_hydra_config=True)


def _words(record: Record) -> Iterator[str]:
    config = record.provenance["config"]
    names = {"backend": record.case["backend"], "mask": record.mask, "subject": record.subject}
    for key, name in names.items():
        if not BACKEND.fullmatch(name):
            raise _none(f"{key} is {name[:80]!r}")
    if "+" in names["backend"]:
        names["backend"] = "paired"
    yield from (f"{key}={name}" for key, name in names.items())
    probes, passes, shape, measure = (config.get(key) or {} for key in ("probe", "passes", "shape", "measure"))
    yield f"probe=[{','.join(_name(each) for each in probes)}]"
    yield from (f"shape.{_name(name)}={_text(value)}" for name, value in shape.items())
    yield f"passes=[{','.join(_name(each) for each in passes)}]"
    yield from (f"{key}={_text(config[key])}" for key in ("device", "seed", "round", "is_aa_repeat") if key in config)
    yield from (f"measure.{_name(name)}={_text(value)}" for name, value in measure.items())
    parts = {key: config.get(key) for key in names} | {f"probe.{name}": each for name, each in probes.items()}
    for part, settings in parts.items():
        for name, value in settings.items() if isinstance(settings, Mapping) else ():
            # A mapping is a part of its own: the defaults have it, or the question will be seen to differ.
            if not name.startswith("_") and part != "probe.timing" and not isinstance(value, Mapping):
                yield f"{part}.{_name(name)}={_text(value)}"


def _name(value: Any) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise _none(f"a key is {str(value)[:80]!r}")
    return value


def _text(value: Any) -> str:
    """A scalar or a list of scalars as Hydra's grammar has it; a text that is more than a word is quoted."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if not isinstance(value, str) or "${" in value or len(value) > LONGEST:
        raise _none(f"a value is {str(value)[:80]!r}")
    if PLAIN.fullmatch(value) and value.lower() not in ("null", "true", "false", "nan", "inf"):
        return value
    # Hydra takes a backslash as it stands, but before a quote.
    quoted = re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"'{quoted}'"


def _none(what: str) -> BadRequest:
    return BadRequest(f"no command of this version asks that: {what}")
