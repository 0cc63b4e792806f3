"""attn-lab wandb: W&B's runs made from records.jsonl, those that a folder lacks, and sent where there is a server."""

import json
import os
import shlex
import shutil
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from attn_lab.core.errors import BadRequest
from attn_lab.loggers.wandb import names
from attn_lab.loggers.wandb.environment import as_meant
from attn_lab.loggers.wandb.log_file import entries
from attn_lab.loggers.wandb.logger import Wandb
from attn_lab.loggers.wandb.sweeps import sweeps
from attn_lab.loggers.wandb.sync import sync
from attn_lab.records.lock import FolderLock
from attn_lab.records.printable import printable


def rebuild(
    runs: Sequence[str], *, offline: bool = False, entity: str | None = None, project: str | None = None
) -> int:
    """Returns 0 if all runs are written, and sent where a server can be used; 1 if some are not.

    Raises BadRequest for folders without records or in use, and where W&B is not to be used.
    """
    own = os.environ.get("WANDB_MODE")
    if own == "disabled":
        raise BadRequest("wandb: expected W&B to be in use; got WANDB_MODE=disabled")
    if find_spec("wandb") is None:
        raise BadRequest("wandb: expected W&B; got no module wandb: pip install 'attn-lab[wandb]'")
    failed = sum(_write(run, entity, project) for run in dict.fromkeys(runs))
    later = f"send the runs by: attn-lab wandb-sync {shlex.join(runs)}"
    if offline or own in ("offline", "dryrun"):
        print(f"W&B: offline; {later}")
        return int(failed > 0)
    try:
        return int(sync(runs, entity=entity, project=project) > 0 or failed > 0)
    except BadRequest as error:
        why = str(error).removeprefix("wandb-sync: expected a key and a server; got ")
        print(f"W&B: offline ({why}); {later}")
        return int(failed > 0)


def _write(run: str, entity: str | None, project: str | None) -> int:
    """How many runs of this folder W&B failed at."""
    folder = Path(run)
    found, broken = sweeps("wandb", [folder])
    written = there = skipped = 0
    with FolderLock(folder):
        for sweep, of_sweep in found.items():
            logger = Wandb(folder=folder, sweep=sweep, mode="offline", project=project, entity=entity)
            logger.since = 0 if sweep == [*found][-1] else float("inf")  # a folder's report is of its last sweep
            with as_meant(WANDB_SILENT="true"):
                logger.chosen = _kept(folder, sweep)
            for record in of_sweep:
                logger.write(record)
            logger.close()
            written, there, skipped = written + logger.written, there + logger.there, skipped + logger.skipped
            if logger.lost:
                print(f"{printable(run)}: {logger.lost}")
    unread = f", {broken} broken line{'s' * (broken > 1)} not read" if broken else ""
    print(f"{printable(run)}: {written} runs written, {there} there before{unread}")
    return skipped


def _kept(folder: Path, sweep: str) -> dict[tuple[str, str], str]:
    """The ids of a sweep's whole runs that the folder has, by kind and what they are of; one cut short is removed."""
    chosen = {}
    for place in sorted(folder.glob("wandb/offline-run-*")):
        with suppress(OSError, ValueError):  # what is no log of W&B's is none of ours
            (log,) = place.glob("*.wandb")
            found = list(entries(log))
            head = next((entry.run for entry in found if entry.HasField("run")), None)
            if head is None or head.run_group != sweep:
                continue
            if not any(entry.HasField("exit") for entry in found):
                shutil.rmtree(place)
                continue
            config = {item.key: item.value_json for item in head.config.update}
            what = head.display_name
            if head.job_type in ("case", "aa_repeat"):
                what = names.what_case(json.loads(config["case"])["id"], json.loads(config["started"]))
            chosen[head.job_type, what] = head.run_id
    return chosen
