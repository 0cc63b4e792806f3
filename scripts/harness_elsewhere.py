"""The cases of harness_cost.py in a plain Hydra application: Hydra's own sweeper, any launcher, job by job."""

import os
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from attn_lab.config.build import build
from attn_lab.config.resolvers import register_resolvers
from attn_lab.config.schema import register
from attn_lab.loggers.jsonl import Jsonl
from attn_lab.measure.run_case import run_case
from attn_lab.run.local.machines import local_machines
from attn_lab.run.provenance import provenance_of

CWD = Path(os.environ.setdefault("HARNESS_ELSEWHERE", os.getcwd()))  # a launcher may run jobs in another folder


def task(config: DictConfig) -> None:
    register_resolvers()
    machine = local_machines(config.device)[0]
    case = build(config, machine, choices=HydraConfig.get().runtime.choices)
    record = run_case(case, machine, provenance_of(case, machine, "elsewhere", ""))
    folder = CWD / "runs/adhoc"
    folder.mkdir(parents=True, exist_ok=True)
    logger = Jsonl(folder=folder, sweep="")
    logger.write(record)
    logger.close()


if __name__ == "__main__":
    register()
    register_resolvers()
    hydra.main(version_base="1.3", config_path="pkg://attn_lab.conf", config_name="config")(task)()
