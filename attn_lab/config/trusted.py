"""Which `_target_`s of a record may be built: parts of attn_lab that the configuration itself names, and no other."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from attn_lab.core.errors import BadRequest

NOT_OF_A_CASE = ("logger", "hydra")  # folders of conf/ whose parts write files, or run sweeps
OF_HYDRA = ("_args_", "_convert_", "_partial_", "_recursive_")


def check_targets(config: Any, *, own: Collection[str] | None = None, source: str = "the record") -> None:
    """Raises BadRequest for a configuration that names a callable which conf/ does not, or interpolates a value.

    A record is data from anywhere, and what is built from it runs here.

    Args:
        own: callables of the user's own, which the command line named; beside them Hydra's other keys may stand.
        source: where the configuration was read.
    """
    for key, value in _items(config):
        text = f"{source} has {key}={str(value)[:80]}"
        if key == "_target_" and (not isinstance(value, str) or value not in targets() | {*(own or ())}):
            raise BadRequest(f"expected parts that this version's configuration names; {text}")
        if key.startswith("_") and key not in ("_target_", *(OF_HYDRA if own else ())):
            raise BadRequest(f"expected plain settings; {text}")
        if isinstance(value, str) and "${" in value:
            raise BadRequest(f"expected plain settings; {text}")


@cache
def targets() -> frozenset[str]:
    """Every `_target_` of a part of a case in the files of conf/."""
    conf = Path(str(resources.files("attn_lab.conf")))
    paths = [path for path in conf.rglob("*.yaml") if path.relative_to(conf).parts[0] not in NOT_OF_A_CASE]
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths]
    return frozenset(str(value) for each in files for key, value in _items(each) if key == "_target_")


def own_targets(configs: Iterable[Any]) -> list[str]:
    """Every `_target_` of these configurations that conf/ does not name: parts of the user's own."""
    every = {str(value) for each in configs for key, value in _items(each) if key == "_target_"}
    return sorted(every - targets())


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and its value, at any depth; of a list's items the key is empty."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield str(key), each
            yield from _items(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield "", each
            yield from _items(each)
