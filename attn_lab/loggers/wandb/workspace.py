"""A W&B workspace for some sweeps: panels of what they measured over what they swept, one colour a backend."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from attn_lab import conf
from attn_lab.loggers.wandb import names
from attn_lab.records.axes import Series, series
from attn_lab.records.flags import noisy
from attn_lab.records.record import AXES, Record

PASSES = {"forward": "forward", "backward": "backward", "forward_backward": "step", "train_step": "train step"}
PER_PASS = {
    "time": "time (ms)", "tflops": "TFLOP/s", "gemm_fraction": "share of the GEMM rate",
    "tokens_per_second": "tokens/s", "mfu": "MFU (%)", "attention_share": "share of attention (%)",
    "energy": "energy (J)", "tflop_per_joule": "TFLOP/J", "time_hot": "time, hot L2 (ms)",
    "time_graph": "time, CUDA graph (ms)", "time_host": "time, host (ms)", "time_kernels": "time, kernels (ms)",
    "time_sustained": "time, sustained (ms)",
}  # fmt: skip
MEMORY = {"memory/peak": "peak memory (MB)"}
ACCURACY = {f"accuracy/{what}": f"error of {what}, allowed is 1" for what in ("out", "dq", "dk", "dv")}
LOGARITHMIC = (*(f"/{what}" for what in PER_PASS if what.startswith("time")), "/peak", "/energy")
CHOOSING = ("auto", "paired")  # backends made of others: outside the palette, or each new one would move the rest
POINTS = 24  # with bars; a workspace with more panels is slow to open
# Okabe and Ito's, as in our figures, then Tol's: told apart by most eyes.  The first is the baseline's.
COLOURS = (
    "#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00",
    "#56b4e9", "#332288", "#882255", "#999933", "#44aa99", "#661100",
)  # fmt: skip


def workspace(
    name: str, sweeps: Mapping[str, Sequence[Record]], figures: Iterable[str], *, entity: str, project: str
) -> tuple[ws.Workspace, list[str]]:
    """The workspace, with ids that follow from its name and project; and the points left without bars.

    `sweeps` are records by their sweep, `figures` the media keys of the pictures that the summary runs hold.
    """
    lines = [line for found in sweeps.values() for line in found]
    drawn = [one for found in sweeps.values() for one in series(found)]
    bars, without = _bars(lines, limit := max(100, min(len(lines) + len(drawn) + len(sweeps), 1000)))
    sections = [_section("Report", [_table(), *_media(figures)], columns=1)]
    sections += [_over(axis, [one for one in drawn if one.axis == axis], limit) for axis in _axes(drawn)]
    sections += [_section("Points: the backends at one shape", bars, is_open=not drawn)] if bars else []
    made = ws.Workspace(
        entity=entity, project=project, name=name, sections=sections, runset_settings=_runs(lines, drawn),
        settings=ws.WorkspaceSettings(
            max_runs=limit, tooltip_number_of_runs="all_runs", point_visualization_method="downsampling"
        ),
    )  # fmt: skip
    made._internal_name = f"nw-{_id(project, name)[:11]}-v"
    made._internal_runset_id = _id(project, name, "runs")
    _filter(made, sweeps, lines, drawn)
    for section in made.sections:
        for panel in section.panels:
            title = str(getattr(panel, "title", ""))
            setattr(panel, "_id", _id(section.name, title, type(panel).__name__))  # noqa: B010  of each panel we make
    return made, without


def _over(axis: str, drawn: Sequence[Series], limit: int) -> ws.Section:
    key = names.key(axis)
    places = [float(point[axis]) for one in drawn for point in one.points]
    # Panels share one set of runs, so all lines over an axis meet in one panel: said, rather than averaged in silence.
    most = max(Counter(one.backend for one in drawn).values())
    several = f" (mean and range of {most} lines a backend: filter by shape or group)" if most > 1 else ""
    panels = [
        wr.LinePlot(
            title=f"{title} over {axis}{several}", x=key, y=[metric], title_x=axis, title_y=title,
            log_x=min(places) > 0 and max(places) >= 4 * min(places), log_y=metric.endswith(LOGARITHMIC),
            smoothing_type="none", max_runs_to_show=limit, point_visualization_method="sampling",
            groupby_aggfunc="mean", groupby_rangefunc="minmax",
        )
        for metric, title in _metrics(name for one in drawn for point in one.points for name in point).items()
    ]  # fmt: skip
    section = _section(f"Over {axis}", panels)
    section.panel_settings = ws.SectionPanelSettings(x_axis=key)
    return section


def _bars(lines: Sequence[Record], limit: int) -> tuple[list[Any], list[str]]:
    points: dict[str, dict[str, str]] = {}
    for line in sorted(lines, key=lambda line: [line.shape[axis] for axis in AXES]):
        if line.status == "ok" and not line.is_aa_repeat:
            points.setdefault(names.words(line.fields), {}).update(names.at_point(line))
    titles = _metrics(names.BARS)
    panels = [
        wr.BarPlot(
            title=f"{point}: {titles[metric]}", metrics=[keys[metric]], title_x=titles[metric],
            groupby_aggfunc="median", groupby_rangefunc="minmax", max_runs_to_show=limit, max_bars_to_show=100,
        )
        for point, keys in list(points.items())[:POINTS] for metric in names.BARS if metric in keys
    ]  # fmt: skip
    return panels, list(points)[POINTS:]


def _runs(lines: Sequence[Record], drawn: Sequence[Series]) -> ws.RunsetSettings:
    machines = sorted({line.machine for line in lines})
    backends = sorted({line.case["backend"] for line in lines} | {one.backend for one in drawn})
    colours = _colours(backends)
    shown = [f"{one}/time" for one in PASSES if any(f"{one}/time" in line.metrics for line in lines)] + list(MEMORY)
    marks = ["noisy"] if any(map(noisy, lines)) else []
    paths = [f"config:{_path(axis)}" for axis in dict.fromkeys([*AXES, *_axes(drawn)])]
    several = len(machines) > 1  # two GPUs are never one line
    places = [ws.GroupPath(machine, name) if several else name for machine in machines for name in backends]
    groups: dict[object, object] = dict(zip(places, [colours[name] for name in backends] * len(machines), strict=True))
    return ws.RunsetSettings(
        groupby=[*([expr.Config("machine.name")] if several else []), expr.Config("case.backend")],
        group_colors=groups,
        # Series first: a panel takes the runs from the top.
        order=[expr.Ordering(expr.Metric("JobType"), ascending=False), expr.Ordering(expr.Metric("Name"))],
        pinned_columns=[
            "run:displayName", "config:case.value.backend", *paths, "run:jobType", "summary:status",
            *(f"summary:{name}" for name in (*marks, *shown)),
        ],
    )  # fmt: skip


def _filter(made: ws.Workspace, sweeps: Iterable[str], lines: Sequence[Record], drawn: Sequence[Series]) -> None:
    """Only these sweeps; and by shape and status filters that are off, each there to be switched on.

    An axis's own series have no one value on it: what asks for one value shows those cases, and no such line.
    """
    on = {("run", "group"): sorted(sweeps), ("run", "jobType"): ["series", "case", "summary"]}
    off: dict[tuple[str, str], list[Any]] = {("summary", "status"): sorted({line.status for line in lines})}
    for axis in dict.fromkeys([*AXES, *_axes(drawn)]):
        there = {line.shape.get(axis, line.fields.get(axis)) for line in lines}
        off["config", _path(axis)] = sorted(there - {None})
    filters: list[dict[str, Any]] = []
    for disabled, wanted in ((False, on), (True, off)):
        for (section, name), values in wanted.items():
            one = {"key": {"section": section, "name": name}, "op": "IN", "value": values, "disabled": disabled}
            filters.append(one | ({"connector": "AND"} if filters else {}))
    # Not by the filters of RunsetSettings: those are a text, which a quote in a sweep's name would break.
    made._stashed_filters_v2 = {"filterFormat": "filterV2", "filters": filters}
    made._stashed_filter_string = str(made.runset_settings.filters)


def _metrics(measured: Iterable[str]) -> dict[str, str]:
    """Those of the measured that are drawn, in the order of the panels, and their titles."""
    titles = {f"{one}/{what}": f"{word} {unit}" for what, unit in PER_PASS.items() for one, word in PASSES.items()}
    seen = set(measured)
    return {metric: title for metric, title in (titles | MEMORY | ACCURACY).items() if metric in seen}


def _axes(drawn: Iterable[Series]) -> list[str]:
    return list(dict.fromkeys(one.axis for one in drawn))


def _path(axis: str) -> str:
    """Where a run's configuration holds it; W&B puts a `value` behind the first name."""
    group, _, option = axis.partition(".")
    return f"{group}.value.{option}" if option else f"case.value.shape.{axis}"


def _colours(backends: Sequence[str]) -> dict[str, str]:
    """A backend of ours has a fixed place in the palette; others take what comes after."""
    ours = sorted(path.stem for path in Path(conf.__path__[0], "backend").glob("*.yaml"))
    ours = [name for name in ours if name not in CHOOSING]
    ours.sort(key=lambda name: name != "naive")
    others = [name for name in backends if name not in ours]
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate([*ours, *others]) if name in backends}


def _table() -> Any:
    return wr.WeavePanelSummaryTable(table_name="cases", layout=wr.Layout(w=24, h=10))


def _media(figures: Iterable[str]) -> list[Any]:
    return [wr.MediaBrowser(title=key, media_keys=[key], num_columns=1) for key in figures]


def _section(name: str, panels: Sequence[Any], *, columns: int = 3, is_open: bool = True) -> ws.Section:
    layout = ws.SectionLayoutSettings(columns=columns, rows=max(1, min(4, -(-len(panels) // columns))))
    return ws.Section(name=name, panels=list(panels), is_open=is_open, layout_settings=layout)


def _id(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
