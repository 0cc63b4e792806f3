"""The cases of harness_cost.py in a plain Hydra application: Hydra's own sweeper, any launcher, job by job."""

import os
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from attn_lab.bench.examine import examine
from attn_lab.config.build import build
from attn_lab.config.schema import register
from attn_lab.loggers.jsonl import Jsonl
from attn_lab.run.gpu_lock import here
from attn_lab.run.plan import register_resolvers
from attn_lab.run.provenance import provenance_of

CWD = Path(os.environ.setdefault("HARNESS_ELSEWHERE", os.getcwd()))  # a launcher may run jobs in another folder


def task(config: DictConfig) -> None:
    register_resolvers()
    machine = here(config.device)[0]
    case = build(config, HydraConfig.get().runtime.choices)
    record = examine(case, machine, provenance_of(case, machine, "elsewhere", ""), lambda _: None)
    folder = CWD / "runs/adhoc"
    folder.mkdir(parents=True, exist_ok=True)
    logger = Jsonl(folder=folder, sweep="")
    logger.write(record)
    logger.close()


if __name__ == "__main__":
    register()
    register_resolvers()
    hydra.main(version_base="1.3", config_path="pkg://attn_lab.conf", config_name="config")(task)()
