"""Records spoilt in one place, seeded: fields, lines, samples, files that a stranger or a power cut has made."""

import io
import json
import random
import shutil
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attn_lab.records.schema import record_of

RESULTS = Path(__file__).parents[1] / "results"
BASES = ("h100-2026-11-26-inside/point", "h100-2026-11-26-inside/model", "h100-2026-11-27-rigour/point-a",
         "h100-2026-11-22-seed", "h100-2026-11-26-layer/models")  # fmt: skip
MARK = "EXECUTED"  # the file that a hostile record would make, in the working directory
HOSTILE = [
    {"_target_": "distutils.spawn.spawn", "cmd": ["touch", MARK]},
    {"_target_": "builtins.open", "file": MARK, "mode": "w"},
    {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": [MARK]}]},
    {"_target_": "shutil.copyfile", "src": "/etc/hostname", "dst": MARK},
    {"_target_": "attn_lab.run.nsight.subprocess.run", "args": ["touch", MARK]},
    {"_target_": "attn_lab.loggers.jsonl.Jsonl", "folder": ".", "sweep": MARK},
]
VALUES: list[Any] = [
    None, True, 0, -1, 1.5, -2.5, 5e-324, 1.7e308, 10**400, 2**63, "", "text", "[bold]", "\x1b]0;owned\x07", "\u2028",
    "x" * 5000, [], [1], [[]], {}, {"a": 1}, {"": {"": ""}}, "../../../etc/passwd", "/etc/passwd", "${oc.env:HOME}",
    "${hydra:runtime.cwd}", "=HYPERLINK(1)", "nan", "null", "a=b", "a,b", "'", '"', "\\", "backend/../naive", *HOSTILE,
    *(f"{{_target_: {each['_target_']}, cmd: [touch, {MARK}]}}" for each in HOSTILE[:3]),
]  # fmt: skip
RAW = [
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    '"\\ud800"',
    "[" * 900 + "]" * 900,
    "1" * 5000,
    "[" * 100_000,
    '{"a":' * 2000,
]
PLACE = "\x00here\x00"


class Spoilt(NamedTuple):
    """What was done, and the run folder with it; `id` is the spoilt record's where it still has one."""

    what: str
    folder: Path
    id: str


def spoilt(folder: Path, numbers: range, seed: int = 0) -> Iterator[Spoilt]:
    """Run folders, one after another at the same place, each with one thing spoilt among healthy records."""
    bases = {name: (RESULTS / name / "records.jsonl").read_text().splitlines()[:4] for name in BASES}
    for number in numbers:
        dice = random.Random(f"{seed} {number}")  # one of them can be made again alone
        name = dice.choice(BASES)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        lines = [json.loads(line) for line in bases[name]]
        if dice.random() < 0.5:  # as this version writes it
            lines = [record_of(line).as_json() for line in lines]
        victim = dice.choice(lines)
        for each in lines:
            for artifact in each.get("artifacts", []):
                _copy(RESULTS / name, folder, artifact["path"])
        texts = [json.dumps(each).encode() for each in lines]
        place = lines.index(victim)
        how = dice.choices((_field, _line, _samples, _file), (80, 6, 8, 6))[0]
        what, texts[place] = how(dice, victim, folder)
        (folder / "records.jsonl").write_bytes(b"\n".join(texts) + b"\n")
        case = victim.get("case")
        identity = case.get("id") if isinstance(case, dict) else ""
        yield Spoilt(f"{number}: {name}: {what}", folder, identity if isinstance(identity, str) else "")


def _field(dice: random.Random, record: dict[str, Any], folder: Path) -> tuple[str, bytes]:
    """A key that is missing, another's, or of another value."""
    ways = list(_ways(record))
    way = dice.choice(ways)
    inner: Any = record
    for key in way[:-1]:
        inner = inner[key]
    told = ".".join(map(str, way))
    action = dice.random()
    if action < 0.15:
        del inner[way[-1]]
        return f"{told} missing", json.dumps(record).encode()
    if action < 0.3:
        raw = dice.choice(RAW)
        inner[way[-1]] = PLACE
        return f"{told} = {raw[:20]}", json.dumps(record).replace(json.dumps(PLACE), raw).encode()
    if action < 0.35 and isinstance(inner, dict):
        extra = dice.choice(["_target_", "", "x\x1b[31m", "value", "a" * 3000])
        inner[extra] = dice.choice(VALUES)
        return f"{told} beside {extra[:20]!r}", json.dumps(record).encode()
    inner[way[-1]] = value = dice.choice(VALUES)
    return f"{told} = {str(value)[:60]!r}", json.dumps(record).encode()


def _line(dice: random.Random, record: dict[str, Any], folder: Path) -> tuple[str, bytes]:
    whole = json.dumps(record).encode()
    cut = dice.randrange(1, len(whole))
    name, line = dice.choice([
        ("cut", whole[:cut]), ("doubled", whole + whole), ("brackets", b"[" * 100_000),
        ("NUL", whole[:cut] + b"\0" * 99),
        ("latin-1", whole.replace(b'"ok"', b'"\xe9"')), ("BOM", b"\xef\xbb\xbf" + whole),
        ("UTF-16", whole.decode().encode("utf-16")),
        ("array", b"[" + whole + b"]"), ("schema", whole.replace(b'"schema": ', b'"schema": 7')),
        ("binary", dice.randbytes(500)),
        ("flipped", whole[:cut] + bytes([whole[cut] ^ 1 << dice.randrange(8)]) + whole[cut + 1 :]),
    ])  # fmt: skip
    return f"line {name}", line


def _samples(dice: random.Random, record: dict[str, Any], folder: Path) -> tuple[str, bytes]:
    path = folder / "samples" / f"{record['case']['id']}.npz"
    path.parent.mkdir(exist_ok=True)
    names = [name for name in record["metrics"] if name.endswith("/time")] or ["forward/time"]
    whole = _npz(**{name: np.ones(30, np.float32) for name in names})
    times: Any = dice.choice([
        np.ones((5, 5)), np.zeros(9), np.full(9, np.nan), np.array(["a"]), np.array([{}], object), np.array(1.0),
        np.array([1j]), np.full(9, -1.0), np.zeros(0), np.array([True]), np.full(3, 1e300),
    ])  # fmt: skip
    name, content = dice.choice([
        ("empty", b""), ("cut", whole[: dice.randrange(1, len(whole))]), ("zeros", bytes(len(whole))),
        ("binary", dice.randbytes(300)), ("shape", _npz(**dict.fromkeys(names, times))), ("bomb", _bomb(names[0])),
        ("flipped", whole[:60] + bytes([whole[60] ^ 255]) + whole[61:]), ("folder", None),
    ])  # fmt: skip
    if path.exists():
        path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    record["artifacts"] = [{"kind": "samples", "path": f"samples/{path.name}", "size": len(content or b"")}]
    return f"samples {name}", json.dumps(record).encode()


def _file(dice: random.Random, record: dict[str, Any], folder: Path) -> tuple[str, bytes]:
    kind, name = dice.choice([("kernels", "kernels.json"), ("phases", "phases.json"), ("live", "live.json"),
                              ("counters", "counters.json")])  # fmt: skip
    path = folder / "profile" / str(record["case"]["id"]) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    text = dice.choice(["", "{", "[]", "{}", "null", "[" * 100_000, '{"forward": {}}',
                        '{"peak": 0, "largest": []}', '[{"pass": 1}]',
                        '{"forward": {"ms": 1e999, "kernels": []}}',
                        '{"forward": {"ms": "x", "kernels": [{}]}}', None])  # fmt: skip
    if text is None:
        (folder.parent / "secret").write_text("{}")
        path.symlink_to(folder.parent / "secret")
    else:
        path.write_text(text)
    record["artifacts"] = [{"kind": kind, "path": str(path.relative_to(folder)), "size": 9}]
    return f"{name} {str(text)[:30]}", json.dumps(record).encode()


def _ways(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every key, those near the top as often as those of a long list of metrics together."""
    if isinstance(value, dict):
        items = list(value.items())
        if way == ("metrics",):
            items = items[:3] + [(name, each) for name, each in items if name.endswith("/time")][:2]
        for key, each in items:
            yield (*way, key)
            yield from _ways(each, (*way, key))
    elif isinstance(value, list):
        for number, each in enumerate(value[:2]):
            yield (*way, number)
            yield from _ways(each, (*way, number))


def _copy(source: Path, folder: Path, path: str | None) -> None:
    if path and (source / path).is_file() and (source / path).stat().st_size < 2**20:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, folder / path)


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@cache
def _bomb(name: str) -> bytes:
    """A hundred kilobytes that unfold to a hundred megabytes."""
    file, header = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (26_000_000,)})
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", header.getvalue() + bytes(104_000_000))
    return file.getvalue()
