"""Which experiment a record's sweep was named for, and what that experiment asks."""

import re
from functools import cache
from importlib import resources
from pathlib import Path

from attn_lab.records.record import Record


def experiment_of(record: Record) -> str | None:
    """The experiment of ours that a record's sweep was named for, if any; a file may hold the sweeps of several."""
    named = re.sub(r"-\d{8}-\d{6}-\d+$", "", record.provenance["sweep"])
    return next((name for name in _questions() if name.replace("/", "-") == named), None)


def question_of(experiment: str) -> str:
    """What an experiment's file says it asks; nothing where it is none of ours."""
    return _questions().get(experiment, "")


@cache
def _questions() -> dict[str, str]:
    conf = Path(str(resources.files("attn_lab.conf") / "experiment"))
    found = {}
    for path in sorted(conf.rglob("*.yaml")):
        header = re.search(r"# Question: (.*?)\n#\s*Command", path.read_text(encoding="utf-8"), re.DOTALL)
        name = str(path.relative_to(conf).with_suffix(""))
        found[name] = re.sub(r"\s*\n#\s*", " ", header[1]).strip() if header else ""
    return found
