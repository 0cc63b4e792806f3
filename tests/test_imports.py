"""What an import brings along: nothing heavy until it is used, and into a model nothing but torch."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ATTENTION = {"flash_attn", "flash_attn_interface", "timm", "transformers"}
LAB = {"hydra", "omegaconf", "wandb", "rich", "pandas", "altair", "jinja2", "pyarrow", "vl_convert"}
ROOMS = ("core", "masks", "backends", "layer")  # what goes into a model

Loaded = Callable[..., list[set[str]]]


def modules(*rooms: str) -> list[str]:
    files = [file for room in rooms for file in sorted((ROOT / "attn_lab" / room).glob("*.py"))]
    return [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Runs statements in a fresh interpreter; the top-level modules it had loaded after each, beyond its own."""
    # Empty stand-ins, lest an import under `try` go unseen where the package is missing.
    standins = tmp_path_factory.mktemp("standins")
    for name in ATTENTION | {"pandas"}:
        (standins / f"{name}.py").touch()

    def run(*statements: str) -> list[set[str]]:
        snapshot = "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules} - before)))"
        lines = ["import json, sys", "before = {name.partition('.')[0] for name in sys.modules}"]
        for statement in statements:
            lines += [statement, snapshot]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(standins), str(ROOT)])}
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(lines)], env=environment, cwd=standins, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return [set(json.loads(line)) for line in done.stdout.splitlines()]

    return run


def test_the_package_by_itself_is_light(loaded: Loaded) -> None:
    (after,) = loaded("import attn_lab")
    assert "attn_lab" in after
    assert not after & (LAB | ATTENTION | {"torch", "numpy"})


def test_a_stand_in_that_is_imported_is_seen(loaded: Loaded) -> None:
    (after,) = loaded("import flash_attn, pandas")
    assert after >= {"flash_attn", "pandas"}


def test_the_layer_and_all_it_may_be_given_load_torch_alone(loaded: Loaded) -> None:
    wing = [*modules(*ROOMS), "attn_lab.integrations.multihead"]
    after = loaded("from attn_lab import Attention", *(f"import {module}" for module in wing))
    assert "torch" in after[0]
    for module, seen in zip(["attn_lab.Attention", *wing], after, strict=True):
        assert not seen & (LAB | ATTENTION), module


def test_reading_records_needs_no_torch(loaded: Loaded) -> None:
    (after,) = loaded("import attn_lab.records.store")
    assert not after & (LAB | ATTENTION | {"torch", "numpy"})


def test_what_is_shared_needs_nothing_heavy_until_it_is_used(loaded: Loaded) -> None:
    for seen in loaded("import attn_lab.loggers.wandb.dashboard", "import attn_lab.loggers.wandb.sync"):
        assert not seen & (LAB | ATTENTION | {"torch", "numpy", "wandb_workspaces"})


@pytest.mark.parametrize("module", modules(*ROOMS))
def test_what_goes_into_a_model_is_written_against_torch_alone(module: str) -> None:
    """import-linter forbids what it knows by name; this forbids the rest.  Only a backend may name more, when used."""
    file = ROOT.joinpath(*module.split("."))
    tree = ast.parse((file / "__init__.py" if file.is_dir() else file.with_suffix(".py")).read_text("utf-8"))
    nodes = tree.body if ".backends." in module else ast.walk(tree)
    foreign = set(imported(nodes)) - sys.stdlib_module_names - {"torch", "attn_lab"}
    # Small packages of Python alone, for files in the user's cache.
    small = {"attn_lab.nn.auto.cache": {"filelock"}, "attn_lab.core.user_cache": {"platformdirs"}}
    assert not foreign - small.get(module, set())


def imported(nodes: Iterator[ast.AST] | Sequence[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which way an import goes"
            yield (node.module or "").partition(".")[0]
