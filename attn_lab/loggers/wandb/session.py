"""A sweep's W&B: settled once between online and offline, then opening runs, all of which are written offline."""

import os
import shlex
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attn_lab.core.errors import BadRequest
from attn_lab.loggers.wandb.server import Sender, empty, obstacle

MODES = ("auto", "online", "offline", "disabled")
KNOCK = 1.6  # seconds, W&B's import included, after which a silent server is taken for none


class Session:
    """`where` is what the user is told of it at the end; `sender` sends its runs on, if there is a server.

    Raises BadRequest for an `online` that cannot be, and whatever W&B raises where it is not installed or not working.
    `disabled` by W&B's own mode, and not by ours, it opens no runs.
    """

    def __init__(self, *, folder: Path, group: str, mode: str, project: str | None, entity: str | None):
        self.where, self.disabled = "", False
        self.sender: Sender | None = None
        self._folder, self._group = folder, group
        self._target: dict[str, Any] = {"project": project, "entity": entity}
        deadline = time.monotonic() + KNOCK
        # W&B's telemetry holds up the interpreter's exit for 10 s if its server takes a connection and is silent.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._folder.mkdir(parents=True, exist_ok=True)
        cache = os.environ.get("WANDB_CACHE_DIR", str(self._folder / "wandb" / "cache"))
        # Silent: else each settings file that is read is told.  The service is not for the workers to inherit.
        with _environment(WANDB_SILENT="true", WANDB_CACHE_DIR=cache, WANDB_SERVICE=None):
            import wandb

            session = wandb.setup(wandb.Settings(silent=True))
            session.ensure_service()  # here, in this environment, whatever W&B's own mode is
        self.library = wandb
        self._light = wandb.Settings(
            mode="offline", silent=True, console="off", symlink=False, disable_git=True, disable_code=True,
            x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False,
        )  # fmt: skip
        own = os.environ.get("WANDB_MODE") or session.settings.mode  # W&B keeps the environment that it saw first
        url = os.environ.get("WANDB_BASE_URL") or session.settings.base_url
        if (mode, own) == ("auto", "disabled"):
            self.disabled = True
            return
        if mode == "offline":
            why = ""
        elif mode == "auto" and own in ("offline", "dryrun"):
            why = f"W&B's own mode is {own}"
        else:
            why = obstacle(url, max(0.4, deadline - time.monotonic()))
        if why and mode == "online":
            hint = "`wandb login`, or logger.wandb.mode=offline"
            raise BadRequest(f"logger.wandb.mode=online: expected a key and a server; got {why} ({hint})")
        if why:
            say(f"W&B offline: {why}; {self.later}")
        if why or mode == "offline":
            self.where = f"W&B: offline; {self.later}"
        else:
            self.where = f"W&B: {url}"
            self.sender = Sender(url, self._folder, cache)

    @contextmanager
    def run(self, name: str, kind: str, config: dict[str, Any]) -> Iterator[Any]:
        with self.library.init(
            dir=str(self._folder), id=uuid.uuid4().hex[:8], name=name, group=self._group, job_type=kind, config=config,
            reinit="create_new", settings=self._light, **self._target,
        ) as run:  # fmt: skip
            yield run
        place, until = Path(run.dir).parent, time.monotonic() + 5
        while empty(place) and time.monotonic() < until:  # its log reaches the disk a little after
            time.sleep(0.001)
        if self.sender:
            self.sender.runs.append(place)

    @property
    def later(self) -> str:
        return f"send the runs by: attn-lab wandb-sync {shlex.quote(os.path.relpath(self._folder))}"

    def close(self) -> None:
        """Has what is left sent on."""
        sender, self.sender = self.sender, None
        if sender and sender.runs:
            self.where = f"W&B: {sender.close()}"
            if unsent := len(sender.unsent()):
                self.where = f"W&B: {unsent} of {len(sender.runs)} runs not sent ({sender.trouble}); {self.later}"
                say(self.where)


@contextmanager
def _environment(**wanted: str | None) -> Iterator[None]:
    before = {name: os.environ.pop(name, None) for name in wanted}
    os.environ.update({name: value for name, value in wanted.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
