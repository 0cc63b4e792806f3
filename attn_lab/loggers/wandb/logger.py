"""Weights & Biases: every run is written offline; where a server can be used, a child process sends it on."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attn_lab.core.errors import BadRequest
from attn_lab.loggers.wandb import names
from attn_lab.loggers.wandb.connection import one_line
from attn_lab.loggers.wandb.session import MODES, Session, say
from attn_lab.records.artifacts import artifact_path, inside
from attn_lab.records.axes import Series, series
from attn_lab.records.flags import noisy
from attn_lab.records.record import Record

MOST_BYTES = 24 * 2**20  # of the report and its figures together, in the summary run
MOST_FAILED = 3  # runs in a row that W&B may fail at; after that it is not asked again, and each may take seconds


class Wandb:
    """A W&B run for each record (job_type case, or aa_repeat); on close one a line (series), and one for all (summary).

    In a case's summary a metric keeps its name; its other fields stand beside it as NAME/low, NAME/unit, …, and what is
    drawn as bars once more under its point's own key.  A series has the metrics over the axis that was swept; the
    summary a Table of all cases, and the report and figures this sweep has left in its folder.  Files of a case's
    probes are an artifact of its run, of type profile.

    Under `wandb agent` the summary is the agent's run, and has the numbers of a sweep's only case.  A run that W&B
    fails at is skipped and told in `where`.  `kept` are runs that the folder has already, by kind and what they are of,
    with their ids: cases among them are not written again, others in their place.

    Only the constructor raises: BadRequest for an unknown `mode`, or for an `online` that cannot be.
    """

    def __init__(
        self, *, folder: Path, sweep: str, mode: str = "auto", project: str | None = None, entity: str | None = None
    ):
        if mode not in MODES:
            raise BadRequest(f"logger.wandb.mode: expected one of {', '.join(MODES)}; got {mode!r}")
        self._folder, self._sweep = Path(folder).resolve(), sweep
        self.chosen: dict[tuple[str, str], str] = {}
        self.written = self.there = self.skipped = self._failed_in_row = 0
        self._reason = ""
        self._rows: list[dict[str, Any]] = []
        self._lines: list[Record] = []
        self.since = time.time()  # of the report and figures that are this sweep's
        self._origin: dict[str, Any] = {}
        self._config: dict[str, Any] = {}  # of the last case, and its numbers
        self._values: dict[str, Any] = {}
        self._session: Session | None = None
        self._active = mode != "disabled" and (mode, os.environ.get("WANDB_MODE")) != ("auto", "disabled")
        if self._active:
            try:
                self._session = Session(folder=self._folder, group=sweep, mode=mode, project=project, entity=entity)
                self._active = not self._session.disabled
            except BadRequest:
                raise
            except Exception as error:  # noqa: BLE001  not installed, or not working: any error of W&B's
                if mode == "online":
                    why = one_line(error)
                    raise BadRequest(f"logger.wandb.mode=online: expected a working W&B; got {why}") from None
                self._stop(error)

    @property
    def where(self) -> str:
        return "\n".join(filter(None, [self._session.where if self._session else "", self.lost]))

    @property
    def lost(self) -> str:
        """One line about the runs that W&B failed at; empty without any."""
        if not self._session or not self.skipped:
            return ""
        return (f"W&B: {self.skipped} of {self.written + self.skipped} runs not logged ({self._reason}); "
                f"to rebuild them: attn-lab wandb {self._session.shown}")  # fmt: skip

    def write(self, record: Record) -> None:
        if self._active:
            self._attempt(lambda: self._log_case(record))

    def close(self) -> None:
        if self._active and self._rows:
            for one in self._series():
                self._attempt(lambda one=one: self._draw(one))  # type: ignore[misc]
            self._attempt(self._sum_up)
        self._active = False
        if self._session:
            self._session.close()

    def _attempt(self, log: Callable[[], None]) -> None:
        """Log a run; one that W&B fails at is skipped.  A logger never ends a sweep."""
        try:
            if self._failed_in_row < MOST_FAILED:
                log()
                self._failed_in_row = 0
                return
        except Exception as error:  # noqa: BLE001  any error of W&B's
            self._reason = self._reason or one_line(error)
        self.skipped += 1
        self._failed_in_row += 1

    @contextmanager
    def _run(self, kind: str, what: str, name: str, config: Mapping[str, Any]) -> Iterator[Any]:
        """A run to log to; one that is kept already has its id."""
        id_ = self.chosen.get((kind, what)) or names.run_id(self._sweep, kind, what)
        with self._wandb.run(id_, name, kind, dict(config)) as run:
            yield run
        self.written += 1

    def _has(self, kind: str, what: str) -> bool:
        """Whether the folder has this run as it is now: one over all cases is another once a case has come."""
        has = (kind, what) in self.chosen and (kind in ("case", "aa_repeat") or not self.written)
        self.there += has
        return has

    def _log_case(self, record: Record) -> None:
        line = record.as_json()  # what records.jsonl holds, number for number
        case, metrics = line["case"], line["metrics"]
        origin = {name: value for name, value in line["provenance"].items() if name != "config"}
        outcome = {"status": line["status"], "reasons": "; ".join(line["reasons"])}
        outcome |= {"noisy": ", ".join(marks)} if (marks := noisy(record)) else {}
        values = {name: metric["value"] for name, metric in metrics.items() if metric["value"] is not None}
        beside = {
            f"{name}/{field}": each for name, metric in metrics.items() for field, each in metric.items()
            if field != "value" and each not in (None, "")
        }  # fmt: skip
        bars = names.at_point(record) if record.status == "ok" and not record.is_aa_repeat else {}
        beside |= {key: values[name] for name, key in bars.items()}
        fields = {field: value for field, value in case.items() if field != "shape"}
        self._origin = self._origin or origin
        self._rows.append({**fields, **case["shape"], **outcome, **values})
        self._lines.append(record)
        self._config, self._values = {**line["provenance"]["config"], **origin, "case": case}, values
        kind, what = (
            "aa_repeat" if record.is_aa_repeat else "case",
            names.what_case(record.id, record.provenance["started"]),
        )
        if self._has(kind, what):
            return
        with self._run(kind, what, names.of_case(record), self._config) as run:
            if values:
                run.log(values)  # the summary follows; W&B draws panels of what was logged only
            run.summary.update({**outcome, **beside})
            self._attach(run, record)
            run.finish(exit_code=int(record.status not in ("ok", "unsupported")))

    def _attach(self, run: Any, record: Record) -> None:
        """What probes left, as an artifact of type profile, sent from where jsonl, which is written first, has put it.

        By paths within the run's folder, which a later `wandb-sync` is in, wherever the folder is by then.
        """
        paths = [artifact_path(record.id, file.path.name) for file in record.files]
        paths += [str(entry["path"]) for entry in record.artifacts if entry["path"] and entry["kind"] != "samples"]
        chosen = [path for path in dict.fromkeys(paths) if inside(self._folder, path)]
        if not chosen:
            return
        artifact = self._wandb.library.Artifact(f"profile-{record.case['id']}", type="profile")
        for path in chosen:
            whole = str(self._folder / path)
            entry = artifact.add_file(whole, name=Path(path).name, policy="immutable", skip_cache=True)
            entry.local_path = path
        run.log_artifact(artifact)

    def _series(self) -> list[Series]:
        try:
            return series(self._lines)
        except Exception as error:  # noqa: BLE001  a logger never ends a sweep
            self._stop(error)
            return []

    def _draw(self, one: Series) -> None:
        """One backend's metrics over one axis: W&B draws lines over what was logged, never over a config's value."""
        name, axis = names.of_series(one), names.key(one.axis)
        if self._has("series", name):
            return
        metrics = list(dict.fromkeys(name for point in one.points for name in point))
        shape = {name: one.held[name] for name in self._lines[0].shape if name in one.held}
        case = {"backend": one.backend, "mask": one.held["mask"], "subject": one.held["subject"], "shape": shape}
        text = {"axis": axis, "moving": [names.key(name) for name in one.moving], "held": names.words(one.held)}
        config = {**one.options, **self._origin, "case": case, "series": text}
        with self._run("series", name, name, config) as run:
            for each in metrics:
                run.define_metric(names.key(each), step_metric=None if each == one.axis else axis)
            for point in one.points:
                run.log({names.key(each): value for each, value in point.items()})
            if one.noisy:
                run.summary["noisy"] = ", ".join(one.noisy)

    def _sum_up(self) -> None:
        name, alone = f"{self._sweep} summary", bool(self._wandb.agent) and len(self._rows) == 1
        if self._has("summary", name):
            return
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        table = self._wandb.library.Table(columns, [[row.get(name) for name in columns] for row in self._rows])
        config = {**self._wandb.parameters(), **(self._config if alone else self._origin)}
        with self._run("summary", name, name, config) as run:
            # Bound by hand it is a file of its run.  Left to log() it were an artifact, staged under an
            # absolute path, and lost when the folder is moved to a machine that has a network.
            table.bind_to_run(run, "cases", 0)
            pictures, left_out = self._pictures()
            run.log({"cases": table, **pictures, **(self._values if alone else {})})
            if left_out:
                run.summary["report/left_out"] = ", ".join(left_out)

    def _pictures(self) -> tuple[dict[str, Any], list[str]]:
        """The report and figures written since this logger was opened, and the names of what would be too much."""
        place, room = self._folder / "report", MOST_BYTES
        found, left_out = {}, []
        for path in [place / "report.html", *sorted(place.glob("figures/*.png"))]:
            if not path.is_file() or path.stat().st_mtime < self.since - 1:  # a clock may be coarse
                continue
            size = path.stat().st_size
            if size > room:
                left_out.append(f"{path.name} ({MOST_BYTES / 2**20:.0f} MB are full)")
                continue
            room -= size
            if path.suffix == ".html":
                found["report"] = self._wandb.library.Html(path, inject=False)  # without W&B's style sheet
            elif find_spec("PIL") is None:
                left_out.append(f"{path.name} (W&B needs pillow)")
            else:
                found[f"figures/{path.stem}"] = self._wandb.library.Image(str(path))
        return found, left_out

    @property
    def _wandb(self) -> Session:
        assert self._session is not None  # or nothing is active
        return self._session

    def _stop(self, error: Exception) -> None:
        self._active = False
        say(f"W&B stopped: {one_line(error)}; records.jsonl is complete")
