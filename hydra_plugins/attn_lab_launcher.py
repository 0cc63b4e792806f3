"""Hydra's doors to attn_lab's workers, here and on clusters: launchers that hand a sweep over whole, to be spread."""

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


class WorkersLauncher(Launcher):
    """Calls the task function's `spread`, which knows the cases from when they were planned: none is composed again."""

    def __init__(self, count: int | None = None):
        self.count = count

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.task_function = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        self.task_function.spread(self.count)  # type: ignore[attr-defined]
        return []


class AfarLauncher(Launcher):
    """The same on a cluster: `engine` is ray or slurm, and the settings are its own (conf/hydra/launcher)."""

    def __init__(self, engine: str, **settings: Any):
        self.engine = engine
        self.settings = {name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
                         for name, value in settings.items()}  # fmt: skip

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.task_function = task_function
        task_function.engage(self.engine, self.settings)  # type: ignore[attr-defined]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        self.task_function.spread_afar()  # type: ignore[attr-defined]
        return []
