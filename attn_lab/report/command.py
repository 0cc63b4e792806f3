"""Records in, a folder with the whole report out."""

import importlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from attn_lab.core.errors import BadRequest
from attn_lab.report.compare import BASELINE
from attn_lab.report.locales.i18n import catalogue

EXTRA = ("altair", "jinja2", "pyarrow", "vl_convert")
MOST_FILES = 24  # figures drawn into files; the page draws all of them, when they are looked at
OURS = ("figures-", "memory-", "accuracy-", "roofline-", "scaling-", "energy-", "models-", "time_variants-", "inside-")


def make(
    folders: Sequence[str | Path], out: str | Path, *, language: str = "en", baseline: str = BASELINE
) -> list[Path]:
    """Writes the report of these run folders into `out`, whole or not at all.  Returns its files, report.html first.

    Raises BadRequest for what cannot be read or written, and where the extra `report` is not installed.
    """
    catalogue("pages", language)  # an unknown language fails before the work
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise BadRequest(f"report: expected a folder to write to; got the file {out}")
    fresh = out.parent / f".{out.name}-{os.getpid()}"
    for name in EXTRA:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            hint = "pip install 'attn-lab[report]'"
            raise BadRequest(f"report: expected {', '.join(EXTRA)}; {name} is not installed here ({hint})") from None
    try:
        (fresh / "figures").mkdir(parents=True)
        _write(folders, fresh, out, language, baseline)
        return _place(fresh, out)
    except OSError as error:
        raise BadRequest(f"report: expected a folder to write to; got {error.strerror}: {error.filename}") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write(folders: Sequence[str | Path], fresh: Path, out: Path, language: str, baseline: str) -> None:
    from attn_lab.report import table_export
    from attn_lab.report.data import read
    from attn_lab.report.pages import PAGES
    from attn_lab.report.render import figure_files, html, markdown

    data = read(folders, language=language, baseline=baseline, out=out)
    with figure_files.draw_pool() as pool:
        library = pool.submit(figure_files.chart_library)
        pages = []
        drawn: dict[str, Future[None]] = {}
        for name, page in PAGES.items():
            if not (blocks := list(page.render(data))):
                continue
            pages.append((name, data.words[page.title], blocks))
            for figure in html.figures(blocks)[: MOST_FILES - len(drawn)]:
                drawn[figure.anchor] = pool.submit(figure_files.draw, figure, fresh / "figures", data.backends)
        title = data.say("report_title", machine=" + ".join(dict.fromkeys(row.machine for row in data.rows)))
        (fresh / "report.md").write_text(markdown.page(data, title, pages, drawn), encoding="utf-8")
        table_export.write(data, fresh)
        script = figure_files.result_of(library)
        (fresh / "report.html").write_text(html.page(data, title, pages, script), encoding="utf-8")
        for each in drawn.values():
            figure_files.result_of(each)


def _place(fresh: Path, out: Path) -> list[Path]:
    """Moves each file to its place, and removes what an earlier report drew there that this one did not."""
    files = sorted(path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file())
    files.sort(key=lambda file: (file.name != "report.html", len(file.parts), file))
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for stale in (out / "figures").iterdir():
        if stale.name.startswith(OURS) and stale.suffix in (".svg", ".png") and stale.relative_to(out) not in files:
            stale.unlink()
    for file in files:
        os.replace(fresh / file, out / file)
    return [out / file for file in files]
