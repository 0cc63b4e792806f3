"""What a user gets: from a wheel, from an editable install and from the bare tree, the same lab in any directory."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import attn_lab
from attn_lab.records.source import source

ROOT = Path(__file__).parents[1]
SHIPPED = ("attn_lab", "conf", "hydra_plugins", "pyproject.toml", "README.md", "LICENSE")
CONF = sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "conf").rglob("*.yaml"))
WHO_AM_I = """
import json, attn_lab.conf
from hydra.core.plugins import Plugins
from hydra.plugins.plugin import Plugin
plugins = [found.__name__ for found in Plugins.instance().discover(Plugin)]
print(json.dumps([attn_lab.__file__, list(attn_lab.conf.__path__), plugins]))
"""


@dataclass(frozen=True)
class Installed:
    """One way of having attn_lab: the commands to run it by, and the folder its source must come from."""

    python: Path
    attn_lab: Sequence[str | Path]
    source: Path
    environment: dict[str, str]

    def run(self, *command: str | Path, cwd: Path) -> str:
        done = subprocess.run(
            command, cwd=cwd, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is shipped, to build in, so that the working tree stays as it is."""
    copy = tmp_path_factory.mktemp("tree")
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, copy)
    return copy


@pytest.fixture(scope="session")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as a release is: the source archive from the tree, the wheel from the archive."""
    dist = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, tree], check=True, capture_output=True
    )
    (built,) = dist.glob("*.whl")
    return built


@pytest.fixture(scope="session", params=["wheel", "editable", "tree"])
def installed(request: pytest.FixtureRequest, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    here = tmp_path_factory.mktemp(request.param)
    if request.param == "tree":
        python = Path(sys.executable)
        return Installed(python, [python, "-m", "attn_lab"], tree, environment | {"PYTHONPATH": str(tree)})

    # A venv of its own that borrows this one's packages by path: what lies there as .pth files (an editable attn_lab
    # among them) is not followed, and the venv's own folder comes first.
    venv.create(here, symlinks=True, with_pip=False)
    (packages,) = here.glob("lib/python*/site-packages")
    own = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "borrowed.pth").write_text("".join(f"{path}\n" for path in sorted(own)))
    python = here / "bin" / "python"
    what = ["--editable", tree] if request.param == "editable" else [request.getfixturevalue("wheel")]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps",
         "--no-build-isolation", "--ignore-installed", *what],
        check=True, capture_output=True, env=environment,
    )  # fmt: skip
    source = tree if request.param == "editable" else packages
    return Installed(python, [here / "bin" / "attn-lab"], source, environment)


def test_the_wheel_holds_the_package_the_plugin_and_the_whole_of_conf(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for file in CONF:
            assert archive.read(f"attn_lab/{file}") == (ROOT / file).read_bytes(), file
    package = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "attn_lab").rglob("*.py")
        if not file.is_relative_to(ROOT / "attn_lab" / "conf")
    }
    metadata = {name for name in names if name.startswith(f"attn_lab-{attn_lab.__version__}.dist-info/")}
    words = {file.relative_to(ROOT).as_posix() for file in (ROOT / "attn_lab" / "report").rglob("*.yaml")}
    template = {file.relative_to(ROOT).as_posix() for file in (ROOT / "attn_lab/report/render/template").iterdir()}
    tables = {file.relative_to(ROOT).as_posix() for file in (ROOT / "attn_lab" / "nn" / "auto" / "tables").glob("*")}
    certificates = {file.relative_to(ROOT).as_posix() for file in (ROOT / "attn_lab" / "certified").glob("*.json")}
    assert len(template) == 4 and words and tables and certificates
    assert names - metadata == {
        *package,
        *words,
        *template,
        *tables,
        *certificates,
        "attn_lab/conf/__init__.py",
        *(f"attn_lab/{file}" for file in CONF),
        "hydra_plugins/attn_lab_launcher.py",
        "hydra_plugins/attn_lab_sweeper.py",
    }


def test_it_is_itself_and_hydra_finds_its_plugins(installed: Installed, tmp_path: Path) -> None:
    module, conf, plugins = json.loads(installed.run(installed.python, "-c", WHO_AM_I, cwd=tmp_path))
    assert Path(module) == installed.source / "attn_lab" / "__init__.py"
    assert [Path(path) for path in conf] == [installed.source / "attn_lab" / "conf"]
    assert plugins.count("CaseSweeper") == plugins.count("WorkersLauncher") == 1


def test_it_helps(installed: Installed, tmp_path: Path) -> None:
    said = installed.run(*installed.attn_lab, "--help", cwd=tmp_path)
    assert "attn-lab" in said
    for backend in (ROOT / "conf" / "backend").glob("*.yaml"):
        assert backend.stem in said


def test_it_measures_a_case_in_an_empty_directory(installed: Installed, tmp_path: Path) -> None:
    """And from a wheel, which might lack its words and templates, tells of it."""
    report = f"report.enabled={str(installed.source.name == 'site-packages').lower()}"
    words = ("logger=[jsonl]", "backend=sdpa_flash", "measure=quick", report)
    installed.run(*installed.attn_lab, *words, cwd=tmp_path)
    (line,) = (tmp_path / "runs" / "adhoc" / "records.jsonl").read_text("utf-8").splitlines()
    record = json.loads(line)
    assert record["status"] == "ok"
    assert record["case"]["backend"] == "sdpa_flash"
    assert (tmp_path / "runs/adhoc/report/report.html").is_file() is (installed.source.name == "site-packages")


def test_a_copy_says_of_which_commit_it_is_whatever_history_lies_around_it(monkeypatch):
    look = source.__wrapped__
    monkeypatch.setenv("ATTN_LAB_COMMIT", "0123abc-dirty")
    assert look() == ("0123abc", True)
    monkeypatch.setenv("ATTN_LAB_COMMIT", "0123abc")
    assert look() == ("0123abc", False)
