"""How a W&B server answers: asked one harmless question, within bounds that W&B's own library does not have."""

import http.client
import json
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

LONGEST = 2**20  # bytes of an answer
QUESTION = json.dumps({"query": "query Viewer { viewer { id } }", "variables": {}}).encode()


def not_an_address(url: str) -> str:
    """What is wrong with a server's address as written, W&B's own rules included; empty where nothing is."""
    import wandb

    try:
        fields = urlsplit(url)
        sound = fields.scheme in ("http", "https") and fields.hostname and fields.port != 0
        sound = sound and url.isprintable() and not any(sign.isspace() or sign in '<>"\\' for sign in url)
        if sound:
            wandb.Settings(base_url=url)
    except ValueError:
        sound = False
    return "" if sound else f"WANDB_BASE_URL={url[:100]!r}, which is no address such as https://api.wandb.ai"


def misbehaviour(url: str, seconds: float) -> str:
    """Why W&B's library might never come to an end with this server; empty if it answers in full within `seconds`.

    An error is an answer, and so is a certificate that only W&B's settings accept: W&B's library says what is wrong.
    """
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(_asked(url, time.monotonic() + seconds)), daemon=True)
    asking.start()
    asking.join(seconds + 1)
    return found[0] if found else f"no whole answer from {url} within {seconds:.0f} s"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _asked(url: str, deadline: float) -> str:
    headers = {"Content-Type": "application/json", "User-Agent": "attn_lab"}
    try:
        headers |= {str(name): str(value) for name, value in _extra_headers().items()}
        request = urllib.request.Request(f"{url.rstrip('/')}/graphql", QUESTION, headers)
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if own := os.environ.get(f"WANDB_{request.type.upper()}_PROXY"):
            handlers.append(urllib.request.ProxyHandler({request.type: own}))
        opened = urllib.request.build_opener(*handlers)
        with opened.open(request, timeout=max(0.1, deadline - time.monotonic())) as answer:
            return _read(url, answer, deadline)
    except urllib.error.HTTPError as error:
        if 300 <= error.code < 400:
            return f"{url} redirects to {str(error.headers.get('Location'))[:100]!r}: WANDB_BASE_URL is to name that"
        return ""
    except TimeoutError:
        return f"no whole answer from {url} in time"
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return ""
        return f"no answer from {url} ({getattr(reason, 'strerror', None) or reason})"
    except (http.client.HTTPException, ValueError) as error:
        return f"no answer of HTTP from {url} ({type(error).__name__})"


def _read(url: str, answer: http.client.HTTPResponse, deadline: float) -> str:
    whole = b""
    while part := answer.read1(65536):
        whole += part
        if len(whole) > LONGEST:
            return f"an answer without end from {url}"
        if time.monotonic() > deadline:
            return f"no whole answer from {url} in time"
    try:
        notes = json.loads(whole)
    except (ValueError, RecursionError):
        notes = None
    return "" if isinstance(notes, dict) else f"an answer from {url} that is not W&B's"


def _extra_headers() -> dict[str, Any]:
    notes = json.loads(os.environ.get("WANDB__EXTRA_HTTP_HEADERS") or "{}")
    return notes if isinstance(notes, dict) else {}
