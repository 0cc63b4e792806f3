"""attn-lab wandb-sync: sends the W&B runs of a sweep that was logged offline; rerun to send what failed."""

import argparse

from attn_lab.loggers.wandb.sync import sync


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, with W&B's offline runs in RUN/wandb")
    parser.add_argument("--entity", help="a user or team; else as the sweep was logged")
    parser.add_argument("--project", help="else as the sweep was logged")


def run(given: argparse.Namespace) -> int:
    return sync(given.runs, entity=given.entity, project=given.project)
