"""A sweep's W&B: settled once between online and offline, then opening runs, all of which are written offline."""

import logging
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from attn_lab.core.errors import BadRequest
from attn_lab.loggers.wandb.answer import not_an_address
from attn_lab.loggers.wandb.environment import agent, as_meant, silent
from attn_lab.loggers.wandb.log_file import ended
from attn_lab.loggers.wandb.server import Sender, obstacle

MODES = ("auto", "online", "offline", "disabled")
NO_SERVER = "https://api.wandb.ai"  # of a session that only writes
LIGHT = {"mode": "offline", "silent": True, "console": "off", "symlink": False, "disable_git": True,
         "disable_code": True, "x_disable_stats": True, "x_disable_meta": True, "x_disable_machine_info": True,
         "x_save_requirements": False}  # fmt: skip
PROJECT = "attn_lab"  # where neither the configuration nor W&B's own settings name one
KNOCK = 1.6  # seconds, W&B's import included, after which a silent server is taken for none
STEP = 15.0  # seconds for one run or the end, which take 20 ms; a service that needs more is ended


class Session:
    """`where` is a line for the end of the sweep; `sender` sends its runs on, if there is a server.

    Raises BadRequest for an `online` that cannot be, and whatever W&B raises where it is not installed or not working.
    `disabled` by W&B's own mode, and not by ours, it opens no runs.
    """

    def __init__(self, *, folder: Path, group: str, mode: str, project: str | None, entity: str | None):
        self.where, self.disabled = "", False
        self.sender: Sender | None = None
        self.agent = agent()
        self._folder, self._group = folder, group
        deadline = time.monotonic() + KNOCK
        self._folder.mkdir(parents=True, exist_ok=True)
        cache = os.environ.get("WANDB_CACHE_DIR", str(self._folder / "wandb" / "cache"))
        self._around = {"WANDB_SILENT": "true", "WANDB_CACHE_DIR": cache}  # else it prints each settings file it reads
        self._service: Any = None
        with self._step():
            import wandb

            self.library = wandb
            given = os.environ.get("WANDB_BASE_URL")
            if why := not_an_address(given) if given else "":
                self._around["WANDB_BASE_URL"] = os.environ["WANDB_BASE_URL"] = NO_SERVER  # runs are written even so
            settings = self._start()
        self._target: dict[str, Any] = {
            "project": project or os.environ.get("WANDB_PROJECT") or settings.project or PROJECT,
            "entity": entity or os.environ.get("WANDB_ENTITY") or None,
        }
        own = os.environ.get("WANDB_MODE") or settings.mode
        url = os.environ.get("WANDB_BASE_URL") or settings.base_url
        if (mode, own) == ("auto", "disabled"):
            self.disabled = True
            return
        if mode == "offline":
            why = ""
        elif mode == "auto" and own in ("offline", "dryrun"):
            why = f"W&B's own mode is {own}"
        else:
            why = why or obstacle(url, max(0.4, deadline - time.monotonic()))
        if why and mode == "online":
            self.end_service()
            hint = "`wandb login`, or logger.wandb.mode=offline"
            raise BadRequest(f"logger.wandb.mode=online: expected a key and a server; got {why} ({hint})")
        if why and not silent():
            say(f"W&B offline: {why}; {self.later}")
        if why or mode == "offline":
            self.where = f"W&B: offline; {self.later}"
        else:
            self.where = f"W&B: {url}"
            self.sender = Sender(url, self._folder, cache)

    @contextmanager
    def run(self, run_id: str, name: str, kind: str, config: dict[str, Any]) -> Iterator[Any]:
        """A run that is whole on the disk afterwards, in place of one with its id; or else nothing is left of it.

        Raises whatever W&B raises, and OSError where its log did not reach the disk.
        """
        settings: dict[str, Any] = dict(LIGHT)
        if kind == "summary" and self.agent:  # the one run that the agent knows of
            run_id = self.agent.run_id
            settings |= {"sweep_id": self.agent.sweep_id}
        self._remove(run_id)
        with ExitStack() as unless_whole:
            unless_whole.callback(self._remove, run_id)
            with self._step() as late:
                init = partial(
                    self.library.init, dir=str(self._folder), id=run_id, name=name, group=self._group, job_type=kind,
                    config=config, reinit="create_new", settings=self.library.Settings(**settings), **self._target,
                )  # fmt: skip
                run = self._opened(init, late)
                with ExitStack() as unless_filled:
                    unless_filled.callback(_fail, run)
                    yield run
                    unless_filled.pop_all()
                run.finish()
                place, since = Path(run.dir).parent, time.monotonic()
                while not ended(place):  # its log reaches the disk a little after
                    free = shutil.disk_usage(self._folder).free
                    if time.monotonic() - since > (5 if free else 0.5):
                        raise OSError(f"a run's log is not whole on the disk, {free / 2**20:.1f} MB of which are free")
                    time.sleep(0.002)
            unless_whole.pop_all()
        if self.sender:
            self.sender.runs.append(place)

    def _opened(self, init: Callable[[], Any], late: threading.Event) -> Any:
        """A run of the service, of another one where it has ended; it may do so while it opens the run."""
        if self._service.poll() is None:
            try:
                return init()
            except (Exception, SystemExit):
                if late.is_set() or not self._ended():
                    raise
        self._restart()
        return init()

    def parameters(self) -> dict[str, Any]:
        """What `wandb agent` has chosen for this command; empty without one."""
        file = self.agent.parameters if self.agent else ""
        if not file:
            return {}
        from wandb.sdk.lib.config_util import dict_from_config_file

        return dict_from_config_file(file) or {}

    @property
    def later(self) -> str:
        return f"send the runs by: attn-lab wandb-sync {self.shown}"

    @property
    def shown(self) -> str:
        """The folder as one would type it."""
        return shlex.quote(os.path.relpath(self._folder))

    def close(self) -> None:
        """Has what is left sent on."""
        sender, self.sender = self.sender, None
        if sender and sender.runs:
            self.where = f"W&B: {sender.close()}"
            if unsent := len(sender.unsent()):
                self.where = f"W&B: {unsent} of {len(sender.runs)} runs not sent ({sender.trouble}); {self.later}"
        self.end_service()

    def end_service(self) -> None:
        """Ends W&B's service; whatever is wrong with it by now, the runs are on the disk."""
        if self.library.run is None:  # else this process has runs of its own
            with suppress(Exception), self._step():
                self.library.teardown()

    def _start(self) -> Any:
        session = self.library.setup(self.library.Settings(silent=True))
        self._service = session.ensure_service()._proc._process  # type: ignore[union-attr]  # whatever W&B's mode is
        return session.settings

    def _restart(self) -> None:
        with suppress(Exception, SystemExit):  # it says how its service ended
            self.library.teardown()
        self._start()

    def _remove(self, run_id: str) -> None:
        for place in list(self._folder.glob(f"wandb/offline-run-*-{run_id}")):
            shutil.rmtree(place, ignore_errors=True)

    @contextmanager
    def _step(self) -> Iterator[threading.Event]:
        """W&B at work: its environment as it is meant, its logging never on our terminal, its service within STEP.

        Yields an event that is set once the service took longer, and was ended.  Raises what W&B raises, and OSError
        where the service was ended, whatever W&B makes of that.
        """
        late = threading.Event()

        def end() -> None:
            late.set()
            if self._service:
                self._service.kill()

        timer = threading.Timer(STEP, end)
        timer.daemon = True
        before, logging.raiseExceptions = logging.raiseExceptions, False  # a full disk fills the terminal otherwise
        timer.start()
        try:
            with as_meant(**self._around):
                yield late
        except (Exception, SystemExit) as error:
            if late.is_set():
                raise OSError(f"W&B's service did not answer within {STEP:.0f} s") from None
            if code := self._ended():
                raise OSError(f"W&B's service ended with {code}") from None
            if isinstance(error, SystemExit):
                raise OSError(f"W&B's service ended with exit code {error.code}") from None
            raise
        finally:
            timer.cancel()
            logging.raiseExceptions = before

    def _ended(self) -> str:
        """How the service has ended, empty while it runs."""
        with suppress(Exception):
            self._service.wait(0.2)  # a connection that broke may be told a little before
        code = self._service.poll() if self._service else None
        if code is None:
            return ""
        return f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"


def _fail(run: Any) -> None:
    """End a run that an error has interrupted, whatever W&B makes of that."""
    with suppress(Exception, SystemExit):
        run.finish(exit_code=1)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
