"""The types of the configuration: a wrong key or type fails while Hydra composes, before any case runs."""

from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import MISSING, DictConfig

from attn_lab.core.request import PASSES
from attn_lab.core.shape import Shape


def _thawed(value: type) -> type:
    """A mutable twin of a frozen dataclass, for OmegaConf, which makes configs of frozen ones read-only."""
    hints = get_type_hints(value)
    is_aa_repeat = []
    for each in fields(value):
        default = MISSING if each.default is NO_DEFAULT else each.default
        hint = hints[each.name] | None if default is None else hints[each.name]
        is_aa_repeat.append((each.name, hint, field(default=default)))
    return make_dataclass(value.__name__, is_aa_repeat)


ShapeConfig = _thawed(Shape)


@dataclass
class Measure:
    """How hard to look.  Probes take what they need of it by interpolation."""

    warmup: int = MISSING  # untimed calls before the clock
    settle_seconds: float = MISSING  # seconds that they go on for at least: until the card is in the state it will keep
    max_samples: int = MISSING  # timed calls of each pass, at most
    min_samples: int = MISSING  # … of which so many even when sure enough, or out of time (not past twice of it)
    max_seconds: float = MISSING  # clock time for each pass
    precision: float = MISSING  # % of the median that its 95 % interval may reach to either side
    rest_ratio: float = 3.0  # times as long as a burst took a card at its power cap then rests; 0 is call after call
    checked_slices: int = MISSING  # (batch, kv head) pairs checked against the oracle
    timeout: float = MISSING  # seconds after which a worker process, and with it the case, is ended


@dataclass
class Report:
    """The report of a sweep that is over."""

    enabled: bool = True  # whether the report of its folder is made, into FOLDER/report
    language: str = "en"  # zh-Hant


@dataclass
class Config:
    """All there is to configure.  Groups that other packages may add to (backend, mask, …) are checked when built."""

    name: str = MISSING  # the run folder: runs/NAME
    device: str = "auto"
    seed: int = 0
    round: int = 0  # 0,1,2: everything that often; what rounds disagree by, no single one can tell
    is_aa_repeat: bool = False  # set by the sweep: this case is the baseline once more
    aa_repeat: bool = True  # whether a sweep over backends times its baseline twice, and so its own noise
    baseline: str = "naive"  # that others are compared with; a sweep without it takes its first backend
    table: str | None = None  # what backend=auto follows; of the question only through its settings
    resume: str = "auto"  # which cases of this run folder are not run again: RESUME of run/resume.py
    passes: list[str] = field(default_factory=lambda: list(PASSES))
    shape: ShapeConfig = field(default_factory=ShapeConfig)  # type: ignore[valid-type]
    measure: Measure = field(default_factory=Measure)
    report: Report = field(default_factory=Report)
    backend: Any = None
    mask: Any = None
    subject: Any = None
    probe: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)


def unknown_keys(config: DictConfig) -> list[str]:
    """[the first key that has no place here, the keys that have], or []: `+key=value` slips past Hydra's own check."""
    for prefix, node, known in (
        ("", config, [*Config.__dataclass_fields__, "hydra"]),
        ("shape.", config.shape, [each.name for each in fields(Shape)]),
        ("measure.", config.measure, list(Measure.__dataclass_fields__)),
        ("report.", config.report, list(Report.__dataclass_fields__)),
    ):
        if strange := [f"{prefix}{key!s}" for key in node if key not in known]:
            return [strange[0], *(name for name in known if name != "hydra")]
    return []


def register() -> None:
    """Make `schema` known to Hydra, for conf/config.yaml to start from."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    Plugins.instance()  # finds all there are, which then have stored what they store
    # That of hydra-ray-launcher, where it is installed, Hydra would take for the schema of our hydra/launcher/ray.yaml.
    store.repo.get("hydra", {}).get("launcher", {}).pop("ray.yaml", None)
