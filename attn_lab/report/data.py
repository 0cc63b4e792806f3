"""What every page is made from: the rows by experiment and family, what may be said of two, and in which words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from attn_lab.core.errors import BadRequest
from attn_lab.records.axes import Family, families
from attn_lab.records.broken import BrokenLines
from attn_lab.records.printable import printable
from attn_lab.records.reading import records
from attn_lab.records.record import PASSES, Record
from attn_lab.records.stats.comparisons import Comparisons
from attn_lab.records.stats.noise_floor import Floor
from attn_lab.records.stats.verdict import Verdict
from attn_lab.report import compare
from attn_lab.report.experiments import experiment_of
from attn_lab.report.findings import Finding, check_claims, partition, sentences
from attn_lab.report.locales.i18n import catalogue

MOST_FAMILIES = 16  # along one axis of one experiment that get figures: a grid has hundreds, too many to look at


@dataclass
class Experiment:
    """The rows one question was asked with: every round of them, and the rounds pooled."""

    name: str
    baseline: str
    rows: list[Record]  # all rounds, and the A/A repeat
    cases: list[Record]  # pooled, without the A/A repeat
    families: list[Family]  # those that are drawn
    undrawn: Counter[str | None]  # by axis, how many there are beside them
    _rounds: dict[Any, list[Record]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._comparisons = Comparisons(self.rows)
        for row in self.rows:
            self._rounds.setdefault((row.setting, row.backend), []).append(row)

    @cached_property
    def _baselines(self) -> dict[Any, Record]:
        return compare.baselines(self.cases, self.baseline)

    def baseline_of(self, row: Record) -> Record | None:
        """The baseline at the row's setting, whatever became of it."""
        return self._baselines.get(row.setting)

    def floor(self, one: str) -> Floor:
        """The noise of a pass in this experiment."""
        return self._comparisons.floor(one)

    def verdict(self, row: Record, other: Record | None, one: str) -> Verdict | None:
        """May one say that the one is faster than the other?  None where there is nothing to compare."""
        if other is None or row.number(f"{one}/time") is None or other.number(f"{one}/time") is None:
            return None
        mine, others = self._rounds[row.setting, row.backend], self._rounds[other.setting, other.backend]
        return self._comparisons.verdict((row.setting, row.backend, other.backend), mine, others, one)


@dataclass
class ReportData:
    """All that a report tells of."""

    experiments: list[Experiment]
    broken: BrokenLines
    baseline: str
    language: str
    out: Path | None = None  # where the report goes: files are linked from there

    def __post_init__(self) -> None:
        self.words: Mapping[str, str] = catalogue("pages", self.language)

    def say(self, key: str, **values: object) -> str:
        return self.words[key].format(**values)

    def missing(self, experiment: Experiment, row: Record) -> str:
        """Why there is nothing to compare the row with; nothing where there is."""
        other = experiment.baseline_of(row)
        if other is None:
            return self.say("baseline_absent", baseline=self.baseline)
        return (
            ""
            if other.status == "ok"
            else self.say("baseline_lost", baseline=self.baseline, status=self.words[other.status])
        )

    def metric(self, name: str) -> str:
        """`forward/time` in words: a known metric by its words, any other by its name."""
        one, _, what = name.partition("/")
        return f"{self.words[one]} {self.words.get(what, what)}" if one in PASSES else self.words.get(name, name)

    @cached_property
    def _parts(self) -> Any:
        return partition(self.rows, self.baseline)

    @cached_property
    def findings(self) -> list[Finding]:
        return sentences(self._parts, self.language)

    @cached_property
    def claims(self) -> list[Finding]:
        """The nine claims of the seed study; empty unless a seed experiment was run."""
        seed = any(experiment.name.startswith("seed/") for experiment in self.experiments)
        return check_claims(self._parts, self.language) if seed else []

    @cached_property
    def more(self) -> list[str]:
        """What cases differ in beside their shape."""
        return [name for name in compare.several(self.cases) if name not in self.cases[0].shape]

    @cached_property
    def rows(self) -> list[Record]:
        return [row for experiment in self.experiments for row in experiment.rows]

    @cached_property
    def cases(self) -> list[Record]:
        return [row for experiment in self.experiments for row in experiment.cases]

    @cached_property
    def passes(self) -> list[str]:
        """Those that some case has a time for."""
        return [one for one in PASSES if any(row.number(f"{one}/time") is not None for row in self.cases)]

    @cached_property
    def backends(self) -> list[str]:
        """The baseline, then those with most to tell: the first in this list get the colours told apart best."""
        names = Counter({row.backend: 0 for row in self.cases})
        names.update(row.backend for row in self.cases if row.status == "ok")
        return sorted(names, key=lambda name: (name != self.baseline, -names[name], name))


def read(folders: Sequence[str | Path], *, language: str, baseline: str, out: Path | None = None) -> ReportData:
    """Everything to report about these run folders or records files.

    Raises BadRequest for one that cannot be read, and where there is no record at all.
    """
    broken = BrokenLines()
    experiments: list[Experiment] = []
    taken: dict[str | None, int] = {}
    for place, folder in {Path(folder).resolve(): folder for folder in folders}.items():
        try:
            found = records(folder, same=lambda row: (experiment_of(row), row.id), broken=broken)
        except OSError as error:
            raise BadRequest(f"report: expected run folders, each with a records.jsonl; got {error}") from None
        for row in found.records:
            row.samples("")  # read now: what cannot be is among the broken lines before a page tells of them
        own = printable((place if place.is_dir() else place.parent).name) or "run"
        swept: dict[str, list[Record]] = {}
        for row in found.records:
            swept.setdefault(experiment_of(row) or own, []).append(row)
        for name, rows in swept.items():
            again = sum(each.name.partition(" #")[0] == name for each in experiments)
            experiments.append(_experiment(f"{name} #{again + 1}" if again else name, baseline, rows, taken))
    if not experiments:
        text = f"{broken.total} lines, none of them whole" if broken else "no line at all"
        raise BadRequest(f"report: expected records in {', '.join(map(str, folders))}; got {text}")
    return ReportData(experiments, broken, baseline, language, out)


def _experiment(name: str, baseline: str, rows: list[Record], taken: dict[str | None, int]) -> Experiment:
    (rows,) = compare.disambiguate(rows, ids=True)
    cases = compare.pooled(row for row in rows if not row.is_aa_repeat)
    drawn: list[Family] = []
    seen: Counter[str | None] = Counter()
    for family in families(cases, taken):
        seen[family.axis] += 1
        if seen[family.axis] <= MOST_FAMILIES:
            drawn.append(family)
    return Experiment(name, baseline, rows, cases, drawn, seen - Counter(family.axis for family in drawn))
