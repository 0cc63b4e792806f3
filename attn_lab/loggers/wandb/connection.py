"""The W&B server that this user's settings name, found to answer before anything else."""

import os
from typing import TYPE_CHECKING

from attn_lab.core.errors import BadRequest
from attn_lab.loggers.wandb.answer import misbehaviour, not_an_address
from attn_lab.loggers.wandb.environment import as_meant
from attn_lab.loggers.wandb.server import ANSWER, obstacle
from attn_lab.records.printable import printable

if TYPE_CHECKING:
    import wandb


def reach(command: str) -> "tuple[str, wandb.Api]":
    """Its address and API.  Raises BadRequest, within seconds, without a key or an answer: W&B alone waits 100 s."""
    with as_meant():
        import wandb

        hurried = wandb.Settings(
            silent=True, x_graphql_retry_max=2, x_graphql_retry_wait_max_seconds=1, x_graphql_timeout_seconds=10
        )
        why = not_an_address(os.environ["WANDB_BASE_URL"]) if os.environ.get("WANDB_BASE_URL") else ""
        if not why:
            try:
                settings = wandb.setup(hurried).settings
                url = os.environ.get("WANDB_BASE_URL") or settings.base_url
                if not (why := obstacle(url, 5) or misbehaviour(url, ANSWER)):
                    return url, wandb.Api(timeout=10)
            except Exception as error:  # noqa: BLE001  W&B's errors, and those of the libraries that it uses
                why = one_line(error)
    raise BadRequest(f"{command}: expected a key and a server; got {why} (`wandb login`, WANDB_BASE_URL)")


def one_line(error: Exception) -> str:
    """What an error says, fit for the end of a line."""
    notes = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return str(printable(" ".join(notes.split())))[:200] or type(error).__name__
