"""attn-lab dashboard: a W&B workspace for some runs, printed as JSON or saved on the server."""

import json
import os
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_lab.core.errors import BadRequest
from attn_lab.loggers.wandb.connection import one_line, reach
from attn_lab.loggers.wandb.session import PROJECT as PROJECT
from attn_lab.loggers.wandb.sweeps import sweeps

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

NOT_IN_NAMES = ("So", "Sk", "Sm", "Sc", "Cs")  # W&B takes emoji, =, + and $ for one thing, and refuses it


def dashboard(
    runs: Sequence[str],
    *,
    dry_run: bool,
    entity: str | None = None,
    project: str | None = None,
    name: str | None = None,
) -> int:  # fmt: skip
    """Print or save the workspace.  Raises BadRequest for runs or a server that will not do."""
    folders = [Path(run) for run in runs]
    (found, _), figures = sweeps("dashboard", folders), _figures(folders)
    try:
        from attn_lab.loggers.wandb.workspace import workspace
    except ModuleNotFoundError as error:
        raise BadRequest(
            f"dashboard: expected wandb-workspaces; got no module {error.name}: pip install 'attn-lab[dashboard]'"
        ) from None
    name = name or f"attn_lab {', '.join(dict.fromkeys(folder.resolve().name for folder in folders))}"
    name = "".join("-" if unicodedata.category(sign) in NOT_IN_NAMES else sign for sign in name)
    entity = entity or os.environ.get("WANDB_ENTITY") or ""
    project = project or os.environ.get("WANDB_PROJECT") or PROJECT
    made, without = workspace(name, found, figures, entity=entity, project=project)
    if without:
        print(f"dashboard: no bars for {len(without)} points, from {without[0]} on", file=sys.stderr)
    if dry_run:
        print(json.dumps(_spec(made), indent=1, ensure_ascii=False))
    else:
        print(_push(made))
    return 0


def _figures(folders: Sequence[Path]) -> list[str]:
    """The media keys under which the logger has put the report and its figures."""
    reports = [folder / "report" for folder in folders]
    found = ["report"] if any((report / "report.html").is_file() for report in reports) else []
    names = {f"figures/{path.stem}" for report in reports for path in report.glob("figures/*.png")}
    return [*found, *sorted(names)]


def _spec(made: "Workspace") -> dict[str, Any]:
    """What a push would send."""
    view = made._to_model()
    spec = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    return {"entity": view.entity, "project": view.project, "name": view.name, "displayName": made.name, "spec": spec}


def _push(made: "Workspace") -> str:
    """Saves the workspace; returns its address.  Raises BadRequest where there is no key, no server or no project."""
    import wandb

    url, api = reach("dashboard")
    try:
        made.entity = made.entity or api.default_entity or ""
        made._internal_id = _saved_before(made)
        made.save()
    except BadRequest:
        raise
    except (wandb.Error, ValueError) as error:  # a ValueError: an answer that is none of W&B's
        raise BadRequest(f"dashboard: expected {url} to save it; got {one_line(error)}") from None
    return str(made.url)


def _saved_before(made: "Workspace") -> str:
    """The server's id for the workspace of that name; empty if there is none yet."""
    from wandb_workspaces.workspaces import internal

    name = internal._internal_name_to_url_query_str(made._internal_name)
    try:
        return str(internal.get_view_dict(made.entity, made.project, name)["id"])
    except ValueError as error:
        if str(error).startswith("Workspace"):
            return ""
        if str(error).startswith("Project"):
            raise BadRequest(
                f"dashboard: expected a project {made.entity}/{made.project} with the runs; the server knows none "
                "(attn-lab wandb-sync RUN sends them)"
            ) from None
        raise
