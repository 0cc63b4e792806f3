"""Hydra's door to attn_lab's planning: a sweeper that orders and checks every case before the first runs."""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class CaseSweeper(BasicSweeper):
    """The basic sweeper's product of choices, backends varying fastest, handed to the task's `plan` before launch.

    hydra-core 1.3 admits plugins only from this namespace, and passes the task function to `setup` alone.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.task_function = task_function

    def sweep(self, arguments: list[str]) -> Any:
        assert self.hydra_context is not None and self.config is not None and self.launcher is not None
        loader = self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides([*self._parse_config(), *arguments])
        # Stable: rivals meet the same clock, and again in the next round.
        overrides.sort(key=lambda override: {"round": 0, "backend": 2}.get(override.key_or_group, 1))
        (jobs,) = self.split_arguments(overrides, max_batch_size=None)
        config = self.config
        compose = lambda job: loader.load_sweep_config(config, list(job))  # noqa: E731
        jobs = self.task_function.plan(jobs, compose)  # type: ignore[attr-defined]
        return [self.launcher.launch(jobs, initial_job_idx=0)]
