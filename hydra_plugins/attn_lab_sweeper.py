"""Hydra's sweeper of attn_lab: it orders the cases of a command line and hands them over whole."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

MOST = 64  # composed configurations that are remembered, each of about a megabyte


class CaseSweeper(BasicSweeper):
    """The basic sweeper's product of choices, backends varying fastest.

    The task function is called once, with the overrides of all cases, what composes them, and the launcher; it runs
    nothing.  hydra-core 1.3 admits plugins only from this namespace, and passes the task function to `setup` alone.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.task_function = task_function

    def sweep(self, arguments: list[str]) -> Any:
        assert self.hydra_context is not None and self.config is not None and self.launcher is not None
        loader = self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides([*self._parse_config(), *arguments])
        # Stable: rivals meet the same clock, and again in the next round.
        overrides.sort(key=lambda each: {"round": 0, "backend": 2}.get(each.key_or_group.partition(".")[0], 1))
        (jobs,) = self.split_arguments(overrides, max_batch_size=None)
        jobs = [[each for word in job for each in unpaired(word)] for job in jobs]
        self.task_function(jobs, Composer(loader, self.config), self.launcher)  # type: ignore[call-arg]
        return []


def unpaired(word: str) -> list[str]:
    """`backend=FORWARD+BACKWARD`, which no file is named, in the words of the option `paired`."""
    forward, plus, backward = word.removeprefix("backend=").partition("+")
    if not plus or not word.startswith("backend="):
        return [word]
    return ["backend=paired", f"backend.forward={forward}", f"backend.backward={backward}"]


class Composer:
    """Composes jobs one after another; what it returns is good until it is called again.

    Hydra takes 0.1 s to compose, most of it to gather files.  Which files, only choices of options can tell: jobs that
    make the same choices share one configuration, and their plain values are written into it anew each time.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig):
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create(config_loader=loader)
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._groups: dict[str, bool] = {}
        self._parsed: dict[str, Override] = {}

    def __call__(self, job: Sequence[str]) -> DictConfig:
        values = [each for each in map(self._parse, job) if self._is_plain(each)]
        words = {each.input_line for each in values}
        rest = tuple(word for word in job if word not in words)
        # The keys too: what one job has written must be overwritten by the next.
        key = (*rest, *(each.key_or_group for each in values))
        if key not in self._composed:
            if len(self._composed) >= MOST:
                self._composed.clear()
            self._composed[key] = self._loader.load_sweep_config(self._master, list(rest))
            self._check_sweep_wide(self._composed[key])
        config = self._composed[key]
        ConfigLoaderImpl._apply_overrides_to_config(values, config)  # as Hydra itself does when it has composed
        return config

    def _check_sweep_wide(self, config: DictConfig) -> None:
        """Ranges and the launcher are read once: those of an option that is swept over would have no effect."""
        for key in ("sweeper.params", "launcher"):
            here, whole = (OmegaConf.to_container(OmegaConf.create({"at": OmegaConf.select(each, f"hydra.{key}")}))
                           for each in (config, self._master))  # fmt: skip
            if here != whole:
                raise HydraException(
                    f"hydra.{key}: expected one for the whole sweep; got an option swept over (such as one of several "
                    "experiments) that sets its own: a sweep each"
                )

    def _parse(self, word: str) -> Override:
        if word not in self._parsed:  # 4 ms, and a sweep of thousands of cases says the same few words
            (self._parsed[word],) = self._parser.parse_overrides([word])
        return self._parsed[word]

    def _is_plain(self, override: Override) -> bool:
        """KEY=VALUE that replaces what was there, whole."""
        key = override.key_or_group
        return (
            override.type is OverrideType.CHANGE
            and override.package is None
            and not key.startswith("hydra")
            and not isinstance(override.value(), dict)
            and not self._is_group(key)
        )

    def _is_group(self, key: str) -> bool:
        if key not in self._groups:
            self._groups[key] = bool(self._loader.get_group_options(key, results_filter=None))
        return self._groups[key]
