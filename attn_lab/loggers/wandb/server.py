"""Whether a W&B server can be used from here, and the child process that sends runs to it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from attn_lab.loggers.wandb.answer import misbehaviour, not_an_address
from attn_lab.loggers.wandb.environment import for_child
from attn_lab.loggers.wandb.log_file import HEADER, foreign
from attn_lab.records.printable import printable

EVERY = 10.0  # seconds between two sendings
PATIENCE = 30.0  # seconds that close() waits for the last
KNOCK_EVERY = 5.0  # seconds between two looks at whether the server we are sending to is still there
ANSWER = 10.0  # seconds in which a server answers a harmless question whole
STALLED = 300.0  # seconds in which neither `wandb sync` nor its log says a word, after which it is ended


def obstacle(url: str, seconds: float) -> str:
    """What keeps us from sending to this server, within `seconds`; empty if nothing does.  Never prompts."""
    if why := not_an_address(url):
        return why
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib import wbauth  # W&B alone knows all the places a key may lie

    try:
        found = wbauth.authenticate_session(host=url, source="attn_lab", prompt=False, update_session=False)
    except AuthenticationError as error:
        return str(error)
    return _unreachable(url, seconds) if found else f"no API key for {url}"


def _unreachable(url: str, seconds: float) -> str:
    """Why neither the server nor the proxy before it takes a connection; empty if it does."""
    target = urlsplit(url)
    proxy = None if proxy_bypass(target.netloc) else getproxies().get(target.scheme)
    proxy = os.environ.get(f"WANDB_{target.scheme.upper()}_PROXY") or proxy
    gate = urlsplit(proxy) if proxy else target
    place = (gate.hostname or "", gate.port or {"https": 443}.get(gate.scheme, 80))
    answers: list[str] = []

    def knock() -> None:
        try:
            socket.create_connection(place, timeout=seconds).close()
            answers.append("")
        except TimeoutError:
            return  # told below, whichever of the two clocks was first
        except OSError as error:
            answers.append(f"no connection to {place[0]}:{place[1]} ({error.strerror or error})")

    knocking = threading.Thread(target=knock, daemon=True)  # a name server may take longer than any timeout
    knocking.start()
    knocking.join(seconds)
    return answers[0] if answers else f"no answer from {place[0]}:{place[1]} within {seconds:.1f} s"


class Sync:
    """Sends runs by `wandb sync` in a child process: a server that hangs or dies can hurt only that.

    `options` are its own: --project, --entity.  `said` is all it has told, `wandb sync`'s logs lie in folder/wandb.
    A run that would send what is not under `folder` is not sent, and so is one that cannot be read.
    """

    def __init__(self, url: str, folder: Path, cache: str, options: Sequence[str] = ()):
        self.output = ""
        self._url, self._folder, self._cache, self._options = url, folder, cache, options
        self._child: subprocess.Popen[str] | None = None
        tries = {f"WANDB__{what}_RETRY_MAX": "3" for what in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")}
        tries |= {"WANDB__GRAPHQL_TIMEOUT_SECONDS": "15"}
        ours = {"WANDB_BASE_URL": url, "WANDB_DIR": str(folder), "WANDB_CACHE_DIR": cache, "WANDB_MODE": "online"}
        self._environment = tries | for_child(**ours, WANDB_SILENT="false", PYTHONSAFEPATH="1")

    def send(self, runs: Sequence[Path]) -> dict[Path, str]:
        """Why not, for each of these runs that was not sent.  Those that failed beside others are tried once more."""
        refused = {run: f"refused: {why}" for run in runs if (why := foreign(run, self._folder))}
        runs = [run for run in runs if run not in refused]
        troubles = self._tried(runs)
        return refused | (self._tried([*troubles]) if 0 < len(troubles) < len(runs) else troubles)

    def _tried(self, runs: Sequence[Path]) -> dict[Path, str]:
        if not runs:
            return {}
        if why := _unreachable(self._url, 5) or misbehaviour(self._url, ANSWER):
            return dict.fromkeys(runs, why)
        logs = set(self._folder.glob("wandb/logs/debug-sync*"))
        self._child = subprocess.Popen(
            [sys.executable, "-m", "wandb", "sync", *self._options, *map(str, runs)], start_new_session=True,
            cwd=self._folder,  # where what runs refer to lies
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=self._environment,
        )  # fmt: skip
        with suppress(AttributeError, OSError):  # the case being timed goes first
            os.setpriority(os.PRIO_PROCESS, self._child.pid, 19)
        output, gone = self._heard_out(self._child)
        self.output += output
        # `wandb sync` marks a run as synced even if uploads failed; its log knows better.
        new = {*self._folder.glob("wandb/logs/debug-sync*")} - logs
        output = "".join(log.read_text(errors="replace") for log in new) + output
        troubles = {}
        for run in runs:
            lines = [line for line in output.splitlines() if _id(run) in line]
            troubles[run] = _trouble(lines) or _cut_short(lines)
        for run in runs:
            if troubles[run]:
                for mark in run.glob("*.wandb.synced"):
                    mark.unlink()
        at_all = gone or _trouble(output.splitlines()) or f"wandb sync ended with {self._child.returncode}"
        return {run: troubles[run] or at_all for run in runs if not sent(run)}

    def kill(self) -> None:
        if self._child and self._child.poll() is None:
            kill_with_children(self._child.pid)

    def _heard_out(self, child: "subprocess.Popen[str]") -> tuple[str, str]:
        """All that the child said; and why it was ended, if the server went away or fell silent: it would try on."""
        missed, seen, since = "", -1, time.monotonic()
        while True:
            try:
                return child.communicate(timeout=KNOCK_EVERY)[0], ""
            except subprocess.TimeoutExpired:
                before, missed = missed, _unreachable(self._url, 5)
                why = missed if before else ""
                if (size := self._log_size()) != seen:
                    seen, since = size, time.monotonic()
                elif time.monotonic() - since > STALLED:
                    why = f"nothing went to {self._url} for {STALLED:.0f} s"
                if why:
                    self.kill()
                    return child.communicate()[0], why

    def _log_size(self) -> int:
        return sum(log.stat().st_size for log in self._folder.glob("wandb/logs/debug-sync*"))


class Sender:
    """Sends finished runs in the background, while others are made."""

    def __init__(self, url: str, folder: Path, cache: str):
        self.runs: list[Path] = []
        self.trouble = ""
        self._url, self._sync = url, Sync(url, folder, cache)
        self._closing, self._given_up = threading.Event(), False
        self._thread = threading.Thread(target=self._work, daemon=True)  # must not hold up the interpreter's exit
        self._thread.start()

    def unsent(self) -> list[Path]:
        return [run for run in self.runs if not sent(run)]

    def close(self) -> str:
        """Sends what is left, within PATIENCE; returns the address of the last run, else of the server."""
        self._closing.set()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._given_up = True
            self._sync.kill()
            self._thread.join(2)
            self.trouble = f"{self._url} did not take them within {PATIENCE:.0f} s"
        found = re.findall(r" at (https?://\S+)", self._sync.output)
        return next((address for address in found if address.endswith(_id(self.runs[-1]))), self._url)

    def _work(self) -> None:
        pause, closing = EVERY, False
        while not closing and not self._given_up:
            closing = self._closing.wait(pause)
            if runs := self.unsent():
                try:
                    self.trouble = next(iter(self._sync.send(runs).values()), "")
                except (OSError, ValueError) as error:
                    self.trouble = str(error)
                pause = min(2 * pause, 600) if self.trouble else EVERY


def kill_with_children(pid: int) -> None:
    """SIGKILL, which a stopped process heeds too: W&B's service ends by itself only if it runs."""
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in map(int, children):
            os.kill(child, signal.SIGKILL)
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def sent(run: Path) -> bool:
    return any(run.glob("*.wandb.synced"))


def empty(run: Path) -> bool:
    """Its log holds a header and no more, yet or for ever: one such keeps `wandb sync` from sending any."""
    try:
        return not any(log.stat().st_size > HEADER for log in run.glob("*.wandb"))
    except OSError:
        return False  # what cannot be read is refused by name


def _trouble(lines: Iterable[str]) -> str:
    """The first error that `wandb sync` tells of: `wandb: ERROR …`, or a line of JSON in its log."""
    for line in lines:
        if '"level":"ERROR' in line and (entry := _entry(line)):
            return str(printable(" ".join(str(entry.get("error") or entry.get("msg")).split())))[:300]
        if found := re.search(r"(?:ERROR |Error: )(?:\[\S+\] )?(.+)", line):
            return str(printable(found[1]))
    return ""


def _cut_short(lines: Iterable[str]) -> str:
    """What is wrong with a run of which `wandb sync`'s log tells requests, but not that its end went with the last."""
    requests = [entry for entry in filter(None, map(_entry, lines)) if str(entry.get("msg")).startswith("filestream: ")]
    ended = any(entry.get("complete") for entry in requests) and requests[-1]["msg"] == "filestream: request sent"
    return "the server was not told that it has ended" if requests and not ended else ""


def _entry(line: str) -> dict[str, Any] | None:
    """A line of `wandb sync`'s log; None for another, and for what a killed child leaves of one."""
    try:
        return dict(json.loads(line)) if line.startswith("{") else None
    except ValueError:
        return None


def _id(run: Path) -> str:
    return run.name.rpartition("-")[2]
