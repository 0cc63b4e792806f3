"""attn-lab dashboard: a W&B workspace for some runs, printed as JSON or saved on the server."""

import argparse

from attn_lab.loggers.wandb.dashboard import PROJECT, dashboard


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dry-run", action="store_true", help="print the workspace as JSON; needs no server")
    what.add_argument("--push", action="store_true", help="save it; a second push replaces the first")
    parser.add_argument("--entity", help="a user or team; else WANDB_ENTITY, else the key's own")
    parser.add_argument("--project", help=f"else WANDB_PROJECT, else {PROJECT}")
    parser.add_argument("--name", help="of the workspace; else those of the run folders")


def run(given: argparse.Namespace) -> int:
    return dashboard(given.runs, dry_run=given.dry_run, entity=given.entity, project=given.project, name=given.name)
