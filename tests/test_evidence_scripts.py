"""The scripts of a GPU session say nothing that this version would refuse: they run where no test of ours does."""

import re
from pathlib import Path

import pytest

from attn_lab.cli.parser import RENAMED
from attn_lab.records.renamed import KEYS, PROBES

ROOT = Path(__file__).parents[1]
SCRIPTS = [path for path in sorted((ROOT / "scripts").rglob("*")) if path.is_file() and path.suffix in ("", ".py")]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_uses_a_key_probe_command_or_module_of_an_earlier_version(path):
    text = path.read_text("utf-8")
    assert not {key for key in re.findall(r"(?<![\w.])\+?([a-z_]+(?:\.[a-z_]+)+|again|twin)=", text) if key in KEYS}
    lists = " ".join(re.findall(r"probe=\[([^\]]*)\]", text))
    assert not PROBES.keys() & set(re.findall(r"\w+", lists))
    assert not {*re.findall(r"-m attn_lab ([a-z][a-z-]+) ", text)} & RENAMED.keys()
    for module, names in re.findall(r"^\s*from (attn_lab[\w.]*) import ([\w, ]+)", text, flags=re.MULTILINE):
        imported = __import__(module, fromlist=["*"])
        assert not [name for name in names.replace(",", " ").split() if name != "as" and not hasattr(imported, name)
                    and not (ROOT / module.replace(".", "/") / f"{name}.py").is_file()]  # fmt: skip
