"""The basis of an answer: another source of what measures makes records stale, and what does not measure does not."""

import shutil
from pathlib import Path

import pytest

import attn_lab
from attn_lab.backends.naive import Naive
from attn_lab.config import basis
from attn_lab.core.machine import detect

MEASURING = ["core/oracle.py", "measure/run_case.py", "measure/probes/timing.py", "measure/subjects/model.py",
             "nn/attention.py", "nn/auto/table.py", "backends/_materialised.py", "masks/__init__.py",
             "integrations/transformers.py"]  # fmt: skip
OTHERS = ["report/compare.py", "cli/show.py", "backends/flash4.py"]


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A copy of the package, from which the source hash is taken."""
    copy = tmp_path / "attn_lab"
    shutil.copytree(Path(attn_lab.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__", "conf"))
    monkeypatch.setattr(basis, "PACKAGE", copy)
    return copy


def source() -> str:
    basis._fingerprint.cache_clear()
    found = basis.basis_of(Naive(), (), detect("cpu"))["source"]
    basis._fingerprint.cache_clear()
    return found


@pytest.mark.parametrize(("files", "changes"), [(MEASURING, True), (OTHERS, False)], ids=["measuring", "others"])
def test_the_source_hash_covers_what_measures_and_nothing_else(package, files, changes):
    before = source()
    for name in files:
        original = (package / name).read_text("utf-8")
        (package / name).write_text(original + "\n# changed\n", "utf-8")
        assert (source() != before) == changes, name
        (package / name).write_text(original, "utf-8")


def test_each_pattern_of_measuring_files_matches_some():
    assert all(list(basis.PACKAGE.glob(pattern)) for pattern in basis.MEASURES)
