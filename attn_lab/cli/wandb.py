"""attn-lab wandb: W&B's runs made from a sweep's records, and sent where a server can be used."""

import argparse

from attn_lab.loggers.wandb.rebuild import rebuild


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder; what W&B has of it already stays")
    parser.add_argument("--offline", action="store_true", help="write W&B's files and send nothing")
    parser.add_argument("--entity", help="a user or team; else WANDB_ENTITY, else the key's own")
    parser.add_argument("--project", help="else WANDB_PROJECT, else attn_lab")


def run(given: argparse.Namespace) -> int:
    return rebuild(given.runs, offline=given.offline, entity=given.entity, project=given.project)
