"""attn-lab report RUNS… [-o DIR]: one HTML file, Markdown, figures and a tidy table of runs."""

import argparse
import webbrowser
from pathlib import Path

from attn_lab.report.command import make
from attn_lab.report.compare import BASELINE
from attn_lab.report.locales.i18n import LANGUAGES


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="run folders (or records.jsonl files)")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="where to; RUN/report if there is one run")
    parser.add_argument("--open", action="store_true", help="show it in a browser")
    parser.add_argument("--language", default="en", help=f"{' or '.join(LANGUAGES)}; also report.language=…")
    parser.add_argument("--baseline", default=BASELINE, help="the backend that others are compared with")


def run(given: argparse.Namespace) -> int:
    settings = [word for word in given.runs if word.startswith("report.language=")]
    runs = [word for word in given.runs if word not in settings]
    language = settings[-1].partition("=")[2] if settings else given.language
    alone = Path(runs[0]) if len(runs) == 1 else None
    out = given.out or (alone / "report" if alone and alone.is_dir() else Path("report"))
    made = make(runs, out, language=language, baseline=given.baseline)
    print(made[0])
    print("beside it:", ", ".join(dict.fromkeys(file.relative_to(out).parts[0] for file in made[1:])))
    if given.open:
        webbrowser.open(made[0].resolve().as_uri())
    return 0
