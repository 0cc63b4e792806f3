"""attn-lab wandb-sync: sends the W&B runs of a sweep that was logged offline, and says of each whether it went."""

import os
from collections.abc import Sequence
from pathlib import Path

from attn_lab.core.errors import BadRequest
from attn_lab.loggers.wandb.connection import reach
from attn_lab.loggers.wandb.server import Sync, empty, sent

FIRST = 5  # as many as `wandb sync` sends at a time; if none of them went, the rest is not tried
BATCH = 50  # runs a child process: it takes a second to start


def sync(runs: Sequence[str], *, entity: str | None = None, project: str | None = None) -> int:
    """Returns 0 if all are sent, 1 if some are not.  Raises BadRequest for runs, a key or a server that will not do."""
    options = [f"--{name}={value}" for name, value in (("entity", entity), ("project", project)) if value]
    found = {folder: _offline_runs(folder) for folder in map(Path, runs)}
    waiting = {folder: [run for run in runs if not sent(run)] for folder, runs in found.items()}
    if before := sum(map(len, found.values())) - sum(map(len, waiting.values())):
        print(f"{before} runs were sent before")
    failed = 0
    if any(waiting.values()):
        url, _ = reach("wandb-sync")
        for folder, unsent in waiting.items():
            failed += _send(folder, unsent, url, options)
    left = f"{failed} not sent; the same command tries them again" if failed else "none left to send"
    print(f"{sum(map(len, waiting.values())) - failed} runs sent, {left}")
    return int(failed > 0)


def _offline_runs(folder: Path) -> list[Path]:
    runs = sorted(run for run in folder.resolve().glob("wandb/offline-run-*") if not empty(run))
    if not runs:
        raise BadRequest(f"wandb-sync: expected a run folder with W&B's offline runs; got none in {folder}/wandb")
    return runs


def _send(folder: Path, runs: list[Path], url: str, options: Sequence[str]) -> int:
    """How many were not sent."""
    cache = os.environ.get("WANDB_CACHE_DIR", str(folder.resolve() / "wandb" / "cache"))
    child = Sync(url, folder.resolve(), cache, options)
    failed, size = 0, FIRST
    try:
        while runs:
            batch, runs = runs[:size], runs[size:]
            troubles = child.send(batch)
            for run in batch:
                how = f"failed  {troubles[run]}" if run in troubles else "sent"
                print(f"{folder / 'wandb' / run.name}  {how}", flush=True)
            failed, size = failed + len(troubles), BATCH
            if len(troubles) == len(batch) and runs:
                print(f"{folder}/wandb: {len(runs)} more not tried, as none of the last {len(batch)} went")
                return failed + len(runs)
    finally:
        child.kill()  # what Ctrl-C leaves behind; one that has ended feels nothing
    return failed
