"""The W&B server that this user's settings name, found to answer before anything is asked of it."""

import os
from typing import TYPE_CHECKING

from attn_lab.core.errors import BadRequest
from attn_lab.loggers.wandb.server import obstacle

if TYPE_CHECKING:
    import wandb


def reach(command: str) -> "tuple[str, wandb.Api]":
    """Its address and API.  Raises BadRequest, within seconds, without a key or an answer: W&B alone waits 100 s."""
    import wandb

    hurried = wandb.Settings(
        silent=True, x_graphql_retry_max=2, x_graphql_retry_wait_max_seconds=1, x_graphql_timeout_seconds=10
    )
    settings = wandb.setup(hurried).settings
    url = os.environ.get("WANDB_BASE_URL") or settings.base_url
    why = obstacle(url, 5)
    if not why:
        try:
            return url, wandb.Api(timeout=10)
        except wandb.Error as error:
            why = one_line(error)
    raise BadRequest(f"{command}: expected a key and a server; got {why} (`wandb login`, WANDB_BASE_URL)")


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
