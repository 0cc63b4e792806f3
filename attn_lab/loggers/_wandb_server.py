"""Whether a W&B server can be used from here, and the child process that sends runs to it."""

import os
import re
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

EVERY = 10.0  # seconds between two sendings
PATIENCE = 30.0  # seconds that close() waits for the last


def obstacle(url: str, seconds: float) -> str:
    """What keeps us from sending to this server, within `seconds`; empty if nothing does.  Never prompts."""
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib import wbauth  # W&B alone knows all the places a key may lie

    try:
        found = wbauth.authenticate_session(host=url, source="attn_lab", prompt=False, update_session=False)
    except AuthenticationError as error:
        return str(error)
    return _unreachable(url, seconds) if found else f"no API key for {url}"


def _unreachable(url: str, seconds: float) -> str:
    """Why neither the server nor the proxy before it takes a connection; empty if it does."""
    asked = urlsplit(url)
    proxy = None if proxy_bypass(asked.netloc) else getproxies().get(asked.scheme)
    gate = urlsplit(proxy) if proxy else asked
    place = (gate.hostname or "", gate.port or {"https": 443}.get(gate.scheme, 80))
    answers: list[str] = []

    def knock() -> None:
        try:
            socket.create_connection(place, timeout=seconds).close()
            answers.append("")
        except OSError as error:
            answers.append(f"no connection to {place[0]}:{place[1]} ({error.strerror or error})")

    knocking = threading.Thread(target=knock, daemon=True)  # a name server may take longer than any timeout
    knocking.start()
    knocking.join(seconds)
    return answers[0] if answers else f"no answer from {place[0]}:{place[1]} within {seconds:.1f} s"


class Sender:
    """Sends finished runs by `wandb sync` in a child process: a server that hangs or dies can hurt only that."""

    def __init__(self, url: str, folder: Path, cache: str):
        self.runs: list[Path] = []
        self.trouble = ""
        self._url, self._folder, self._cache = url, folder, cache
        self._said = ""
        self._child: subprocess.Popen[str] | None = None
        self._closing, self._given_up = threading.Event(), False
        self._thread = threading.Thread(target=self._work, daemon=True)  # must not hold up the interpreter's exit
        self._thread.start()

    def unsent(self) -> list[Path]:
        return [run for run in self.runs if not any(run.glob("*.wandb.synced"))]

    def close(self) -> str:
        """Sends what is left, within PATIENCE; returns the address of the last run, else of the server."""
        self._closing.set()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._given_up = True
            if self._child:
                self._child.kill()  # W&B's service sees that and ends by itself, a second after
            self._thread.join(2)
            self.trouble = f"{self._url} did not take them within {PATIENCE:.0f} s"
        found = re.findall(r" at (https?://\S+)", self._said)
        return next((address for address in found if address.endswith(_id(self.runs[-1]))), self._url)

    def _work(self) -> None:
        pause, closing = EVERY, False
        while not closing and not self._given_up:
            closing = self._closing.wait(pause)
            if runs := self.unsent():
                try:
                    self.trouble = _unreachable(self._url, 5) or self._send(runs)
                except (OSError, ValueError) as error:
                    self.trouble = str(error)
                pause = min(2 * pause, 600) if self.trouble else EVERY

    def _send(self, runs: list[Path]) -> str:
        """Why some of these runs were not sent; empty if all were."""
        tries = {f"WANDB__{what}_RETRY_MAX": "3" for what in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")}
        ours = {"WANDB_BASE_URL": self._url, "WANDB_DIR": str(self._folder), "WANDB_CACHE_DIR": self._cache}
        logs = set(self._folder.glob("wandb/logs/debug-sync*"))
        self._child = subprocess.Popen(
            [sys.executable, "-m", "wandb", "sync", *map(str, runs)], start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env={**tries, **os.environ, **ours, "WANDB_MODE": "online", "WANDB_SILENT": "false", "PYTHONSAFEPATH": "1"},
        )  # fmt: skip
        with suppress(AttributeError, OSError):  # the case being timed goes first
            os.setpriority(os.PRIO_PROCESS, self._child.pid, 19)
        said, _ = self._child.communicate()
        self._said += said
        # `wandb sync` marks a run as synced even if uploads failed; its log knows better.
        said += "".join(log.read_text() for log in {*self._folder.glob("wandb/logs/debug-sync*")} - logs)
        for run in runs:
            if re.search(f"ERROR.*{_id(run)}", said):
                for mark in run.glob("*.wandb.synced"):
                    mark.unlink()
        troubles = re.findall(r'(?:ERROR","msg":"|ERROR |Error: )(?:\[\S+\] )?([^"\n\\]+)', said)
        return troubles[0] if troubles else ""


def _id(run: Path) -> str:
    return run.name.rpartition("-")[2]
