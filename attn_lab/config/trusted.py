"""Which `_target_`s of a record may be built: parts of attn_lab that the configuration itself names, and no other."""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from attn_lab.core.errors import BadRequest

NOT_OF_A_CASE = ("logger", "hydra")  # folders of conf/ whose parts write files, or run sweeps


def check_targets(config: Any) -> None:
    """Raises BadRequest for a configuration that names a callable which conf/ does not, or interpolates a value.

    A record is data from anywhere, and what is built from it runs here.
    """
    for key, value in _items(config):
        text = f"the record has {key}={str(value)[:80]}"
        if key == "_target_" and (not isinstance(value, str) or value not in targets()):
            raise BadRequest(f"expected parts that this version's configuration names; {text}")
        if key.startswith("_") and key != "_target_":
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
