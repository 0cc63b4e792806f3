"""What a report of thousands of records costs: seconds by stage, of its own process and of those that draw beside it.

python scripts/report_cost.py [--records 3000] [--grid] [--runs FOLDER]

Without a folder it tells of `tests/many.py`'s records: the published ones again in other dtypes, masks and rounds, or
a grid of one backend.  A shared machine's clock says little: compare seconds of CPU, and look at the load beside them.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice, product
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=3000)
    parser.add_argument("--grid", action="store_true", help="a grid of batch, length and heads instead")
    parser.add_argument("--runs", type=Path, help="a run folder to tell of instead")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = asked.runs or _written(Path(folder), asked.records, asked.grid)
        _measure(runs, Path(folder, "out"))


def _written(folder: Path, count: int, grid: bool) -> Path:
    sys.path.insert(0, str(TESTS))
    import many

    with (folder / "records.jsonl").open("w", encoding="utf-8") as file:
        sizes = product((1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20), range(128, 128 * 25, 128), range(1, 13))
        file.writelines(many.grid(islice(sizes, count)) if grid else many.lines(count))
    return folder


def _measure(runs: Path, out: Path) -> None:
    begun = time.perf_counter(), time.process_time()
    from attn_lab.report import command, data, table_export
    from attn_lab.report.pages import PAGES
    from attn_lab.report.render import html, markdown

    print(f"{'stage':22}  wall s   CPU s      load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    print(f"{'imports':22}  {time.perf_counter() - begun[0]:6.2f}  {time.process_time() - begun[1]:6.2f}")
    for owner, name in ((data, "read"), (html, "page"), (markdown, "page"), (table_export, "write")):
        setattr(owner, name, _told(f"{owner.__name__.rpartition('.')[2]}.{name}", getattr(owner, name)))
    for name, page in PAGES.items():
        render = page.render
        page.render = _told(f"page {name}", lambda study, render=render: list(render(study)))  # type: ignore[attr-defined]
    command.make([runs], out)
    ended = os.times()
    wall, own = time.perf_counter() - begun[0], time.process_time() - begun[1]
    beside = ended.children_user + ended.children_system
    print(f"{'all':22}  {wall:6.2f}  {own:6.2f} and {beside:.2f} beside it; load {os.getloadavg()[0]:.1f}")
    sizes = [(path.name, path.stat().st_size / 1e6) for path in sorted(out.iterdir()) if path.is_file()]
    print(", ".join(f"{name} {size:.1f} MB" for name, size in sizes))


def _told(name: str, does: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*given: Any, **named: Any) -> Any:
        wall, own = time.perf_counter(), time.process_time()
        try:
            return does(*given, **named)
        finally:
            print(f"{name:22}  {time.perf_counter() - wall:6.2f}  {time.process_time() - own:6.2f}")

    return timed


if __name__ == "__main__":
    main()
