"""Changed names of configuration keys, metrics, statuses and callables, for old records and old commands."""

from collections.abc import Mapping
from typing import Any

MEASURE = {"least": "min_samples", "samples": "max_samples", "seconds": "max_seconds", "settle": "settle_seconds",
           "rest": "rest_ratio", "slices": "checked_slices"}  # fmt: skip
PROBES = {"startup": "cold_start", "witness": "kernel_check", "kinds": "time_variants", "ceiling": "peak_rates"}
STATUSES = {"refused": "unsupported", "wrong": "incorrect"}
KEYS = {
    **{f"measure.{old}": f"measure.{new}" for old, new in MEASURE.items()},
    **{f"probe.{old}": f"probe.{new}" for old, new in PROBES.items()},
    **{f"probe.timing.{old}": f"probe.timing.{new}" for old, new in MEASURE.items()},
    "probe.timing.watch": "probe.timing.gpu_monitor",
    "probe.energy.watch": "probe.energy.gpu_monitor",
    "again": "aa_repeat",
    "twin": "is_aa_repeat",
    "plan": "table",
    "backend.plan": "backend.table",
    "report.at_end": "report.enabled",
}
OF_A_PASS = {"late": "host_late", "gap": "sum_gap", "spent": "seconds", "of_ceiling": "gemm_fraction",
             "throttled": "dropped", "rest": "rest_ratio", "least_bytes": "min_bytes"}  # fmt: skip
METRICS = {"card/unwatched": "monitor/unavailable", "harness/case": "case/seconds",
           "harness/probes": "case/probe_seconds", "choice/rank": "selection/rank",
           "kinds/spent": "time_variants/seconds"}  # fmt: skip
PREFIXES = {"witness/": "kernel_check/", "ceiling/": "peak_rates/"}
TARGETS = {
    "attn_lab.probes.startup.Startup": "attn_lab.measure.probes.cold_start.ColdStart",
    "attn_lab.probes.witness.Witness": "attn_lab.measure.probes.kernel_check.KernelCheck",
    "attn_lab.probes.kinds.Kinds": "attn_lab.measure.probes.time_variants.TimeVariants",
    "attn_lab.probes.ceiling.Ceiling": "attn_lab.measure.probes.peak_rates.PeakRates",
    "attn_lab.bench.card.Nvml": "attn_lab.measure.gpu_monitor.Nvml",
    "attn_lab.layer.auto.Auto": "attn_lab.nn.auto.auto.Auto",
    "attn_lab.layer.names.paired_named": "attn_lab.nn.registry.paired_named",
}
FOLDERS = {"attn_lab.probes.": "attn_lab.measure.probes.", "attn_lab.subjects.": "attn_lab.measure.subjects."}


def metric(name: str) -> str:
    """A metric's name now."""
    head, _, tail = name.partition("/")
    if head in ("forward", "backward", "forward_backward", "train_step") and tail in OF_A_PASS:
        return f"{head}/{OF_A_PASS[tail]}"
    if head == "harness" and name not in METRICS:
        return f"case/{tail}_seconds"
    for old, new in PREFIXES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return METRICS.get(name, name.replace("/dram_over_least", "/dram_over_min"))


def config(value: Any, path: str = "") -> Any:
    """A configuration with its keys and `_target_`s as they are named now; anything else as it is."""
    if isinstance(value, Mapping):
        renamed = {}
        for key, each in value.items():
            where = f"{path}.{key}" if path else str(key)
            renamed[KEYS.get(where, where).rpartition(".")[2] if where in KEYS else key] = config(each, where)
        return renamed
    if isinstance(value, list):
        return [config(each, path) for each in value]
    return target(value) if path.endswith("_target_") and isinstance(value, str) else value


def target(name: str) -> str:
    """The path of a callable now."""
    if name in TARGETS:
        return TARGETS[name]
    for old, new in FOLDERS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
