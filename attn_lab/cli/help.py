"""The text of attn-lab --help: commands, examples, groups and keys, the latter two read from conf/ and the schema."""

import textwrap
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

from attn_lab import conf
from attn_lab.cli.parser import COMMANDS

EXAMPLES = (
    "attn-lab -m experiment=demo",
    "attn-lab backend=sdpa_flash shape=gpt2_small",
    "attn-lab -m backend=naive,flash2 shape.seq_len=512,1024,2048 name=mine",
    "attn-lab -m experiment=seed/seq_len",
    "attn-lab -m backend='glob(*)' mask=sliding_window mask.window=256 subject=layer",
    "attn-lab backend=flash2 subject=layer +profile=all",
    "attn-lab backend=flash3 passes=[forward] measure=publish device=cuda",
)
GROUPS = (
    "backend",
    "shape",
    "mask",
    "subject",
    "measure",
    "probe",
    "logger",
    "experiment",
    "profile",
    "hydra/launcher",
)
APPENDED = {"profile": "+profile"}  # of groups without a default, Hydra wants a +


def text() -> str:
    lines = [
        "attn-lab: which attention on this GPU for these shapes, what does it cost, and is it right?", "",
        "attn-lab [GROUP=OPTION ...] [KEY=VALUE ...]   runs a sweep; commas make it: backend=naive,flash2",
        *(f"attn-lab {name:<12} {line}" for name, line in COMMANDS.items()),
        "attn-lab COMMAND --help   its arguments", "",
        "Examples", *(f"  {each}" for each in EXAMPLES), "",
        "Groups", *(line for group in GROUPS for line in _group(group)), "",
        "Keys", *_keys(), "",
        "attn-lab --cfg job shows the whole configuration; --config-dir DIR adds your own (its package on PYTHONPATH).",
        "attn-lab --version; attn-lab --hydra-help lists Hydra's own flags, among them shell completion.", "",
        "Cases are verified before they are timed; records go to runs/NAME/records.jsonl.",
        "Exit code: 0 fine · 1 some case was wrong or failed, or none could run · 2 bad request · 130 interrupted.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def options(group: str) -> list[str]:
    """The options of a group of conf/, those in folders too."""
    folder = Path(conf.__path__[0], group)
    own = {str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml")}
    return sorted(own | ({"workers", "basic"} if group == "hydra/launcher" else set()))


def _group(group: str) -> list[str]:
    head = f"  {APPENDED.get(group, group)}: "
    return textwrap.wrap(head + ", ".join(options(group)), 110, subsequent_indent="      ", break_on_hyphens=False)


def _keys() -> list[str]:
    from attn_lab.config.schema import Config

    plain, nested = [], []
    for each in fields(Config):
        hint = get_type_hints(Config)[each.name]
        if is_dataclass(hint):
            nested.append(f"{each.name}.{{{','.join(one.name for one in fields(hint))}}}")
        elif each.name not in GROUPS:
            plain.append(each.name)
    nested += [f"logger.{file.stem}.{{{','.join(_settings(file))}}}" for file in _files("logger")]
    lines = textwrap.wrap(" ".join(plain), 110, initial_indent="  ", subsequent_indent="  ")
    return lines + [f"  {line}" for line in nested]


def _files(group: str) -> list[Path]:
    return sorted(Path(conf.__path__[0], group).glob("*.yaml"))


def _settings(file: Path) -> list[str]:
    """The keys of an option's file, which are its settings."""
    import yaml

    return [key for key in yaml.safe_load(file.read_text(encoding="utf-8")) if not key.startswith("_")]
