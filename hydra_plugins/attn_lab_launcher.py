"""Hydra's launchers of attn_lab: each holds the settings of one way to run a sweep; attn_lab.run runs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class WorkersConf:
    _target_: str = "hydra_plugins.attn_lab_launcher.WorkersLauncher"
    count: int | None = None  # worker processes; null: one for each visible GPU, one on the CPU


ConfigStore.instance().store(group="hydra/launcher", name="workers", node=WorkersConf, provider="attn_lab")


class _Settings(Launcher):
    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        pass

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        raise NotImplementedError("expected hydra/sweeper=cases, which hands a sweep over whole")


class WorkersLauncher(_Settings):
    """Worker processes on this host."""

    def __init__(self, count: int | None = None):
        self.count = count


class ClusterLauncher(_Settings):
    """Remote workers on a cluster: `backend` is ray or slurm, and the settings are its own (conf/hydra/launcher)."""

    def __init__(self, backend: str, **settings: Any):
        self.backend = backend
        self.settings = {name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
                         for name, value in settings.items()}  # fmt: skip
