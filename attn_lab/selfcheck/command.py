"""attn-lab selfcheck: would the lab notice?  Faults planted on the ordinary path, and which of them it caught."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from textwrap import shorten
from typing import Literal, NamedTuple

from rich.table import Table
from rich.text import Text

from attn_lab.core.errors import Incorrect
from attn_lab.core.machine import detect, software
from attn_lab.measure.case import Case
from attn_lab.records.record import Record, Status
from attn_lab.records.stats.verdict import Verdict
from attn_lab.report.terminal import Terminal
from attn_lab.selfcheck.harness import Harness
from attn_lab.selfcheck.race import FIVE, METRIC, RESOLVED, TENTH, Race, race

Fate = Literal["caught", "undecided", "missed", "passed", "blamed"]  # the latter two for what is sound


class Finding(NamedTuple):
    """One line of the table."""

    name: str
    expected: str
    seen: str
    fate: Fate


class Fault(NamedTuple):
    """What is planted where, by overrides; the status it must get, and a pattern that one of the reasons must match.

    `marks` is a pattern for the note of one of the numbers: what is measured all the same, and must be marked.
    """

    name: str
    target: str
    status: Status
    says: str = ""
    words: tuple[str, ...] = ()
    marks: str = ""
    devices: tuple[str, ...] = ("cpu", "cuda")

    @property
    def sound(self) -> bool:
        return self.status == "ok" and not self.marks

    def case(self, path: Harness, without: Collection[str] = ()) -> Case:
        return path.case(self.name, self.target, *self.words, without=without)

    def found(self, record: Record) -> Finding:
        reasons = [reason for reason in record.reasons if re.search(self.says, reason)]
        notes = [note for metric in record.metrics.values() if (note := str(metric["note"])).startswith("noisy:")]
        marks = [note for note in notes if re.search(self.marks, note)]
        right = record.status == self.status and (bool(reasons) or not self.says) and (bool(marks) or not self.marks)
        fates: tuple[Fate, Fate] = ("blamed", "passed") if self.sound else ("missed", "caught")
        seen = ": ".join([record.status, *(reasons or record.reasons or marks * bool(self.marks))[:1]])
        expected = self.status if not self.marks else "marked as noisy"
        return Finding(self.name, expected, shorten(seen, 90, placeholder=" …"), fates[right])


WINDOW = ("mask=sliding_window", "mask.window=16")
GROUPS = ("shape.num_kv_heads=2",)
HERE, HIDDEN = "attn_lab.selfcheck.faults.", "attn_lab.selfcheck.hidden_faults."
SOUND = "attn_lab.backends.sdpa_flash.SdpaFlash"
CARD = "probe.timing.gpu_monitor._target_=attn_lab.selfcheck.fake_gpu.Recorded"
FAULTS = (
    Fault("nothing", SOUND, "ok", words=GROUPS),
    Fault("nothing, in naive", "attn_lab.backends.naive.Naive", "ok", words=WINDOW),
    Fault("inverted mask", HERE + "InvertedMask", "incorrect", "out: max error"),
    Fault("off-by-one window", HERE + "WiderWindow", "incorrect", "out: max error", WINDOW),
    Fault("wrong scale", HERE + "WrongScale", "incorrect", "out: max error"),
    Fault("wrong GQA head map", HERE + "WrongHeads", "incorrect", "out: max error", GROUPS),
    Fault("one dropped gradient", HERE + "DroppedGradient", "incorrect", "^dk: max error"),
    Fault(
        "one head size's gradient", HERE + "WrongAtOneHeadSize", "incorrect", "^dq: max error", ("shape.head_dim=40",)
    ),
    Fault("last row NaN", HERE + "NanAtTheEnd", "incorrect", "out: .* not finite"),
    Fault("out-of-bounds read", HERE + "ReadsBeyond", "incorrect", "out: .* not finite"),
    Fault("mutates its inputs", HERE + "Overwrites", "incorrect", "^q: .* wrote to it"),
    Fault("nondeterminism", HERE + "Wavers", "incorrect", "out: asked twice, answers differ"),
    Fault("secretly calls another", HERE + "Impostor", "incorrect", "launched another's kernels"),
    Fault("recompiles every call", HERE + "Recompiles", "error", "(?i)recompil"),
    Fault("out of memory", HERE + "OutOfMemory", "oom", "(?i)memory"),
    Fault("an exception", HERE + "Raises", "error", "ValueError: no such kernel"),
    Fault(
        "a throttled clock",
        SOUND,
        "ok",
        words=(CARD, "+probe.timing.gpu_monitor.reasons=[hardware thermal slowdown]"),
        marks="thermal",
    ),
    Fault(
        "a clock that droops",
        SOUND,
        "ok",
        words=(
            CARD,
            "+probe.timing.gpu_monitor.clock=1200",
            "measure.max_samples=40",
            "measure.min_samples=40",
        ),  # four readings a pass
        marks="SM clock under 90 %",
    ),
    Fault(
        "another process on the GPU",
        SOUND,
        "ok",
        words=(CARD, "+probe.timing.gpu_monitor.shared=true"),
        marks="process 4711",
    ),
    Fault(
        "work hidden after the clock",
        HIDDEN + "CostlyToFree",
        "ok",
        words=("measure.min_samples=6", "measure.max_samples=6", "measure.warmup=0", "measure.max_seconds=2"),
        marks="alone add up to",
    ),
    Fault(
        "work hidden beside the clock", HIDDEN + "BesideItself", "ok", marks="the clock did not see", devices=("cuda",)
    ),
)
RACED = {FIVE: "slower, 5 % ± 1", TENTH: "not claimed"}
COLOURS = {"caught": "green", "passed": "green", "undecided": "yellow", "missed": "bold red", "blamed": "bold red"}


def selfcheck(device: str = "auto", seconds: float = 25, without: Collection[str] = ()) -> int:
    """Print the table; returns 1 if anything was missed.  `seconds` are for the timing.

    `without` names probes to leave out: what is missed then is what they are there for.
    """
    console, path = Terminal(), Harness(detect(device))
    versions = " · ".join(f"{name} {version}" for name, version in software(path.machine).items())
    console.print(Text(f"{path.machine.name} ({path.machine.device}) · {versions}"), soft_wrap=True)
    with console.status("planting faults"):
        findings = [plant.found(path.record(plant.case(path, without))) for plant in FAULTS
                    if path.machine.device in plant.devices]  # fmt: skip
    with console.status("racing a kernel against slower ones"):
        raced, noise = _raced(path, seconds)
    findings += raced
    table = Table("planted", "must be", "was", "", box=None, pad_edge=False)
    for name, expected, seen, fate in findings:
        table.add_row(name, expected, Text(seen), Text(fate, COLOURS[fate]))
    console.print(table)
    console.print(Text(f"{noise}\n{_sum(findings)}"), soft_wrap=True)
    return int(any(finding.fate in ("missed", "blamed") for finding in findings))


def _raced(path: Harness, seconds: float) -> tuple[list[Finding], str]:
    try:
        raced = race(path, seconds)
    except Incorrect as fault:
        seen = shorten(str(fault), 90, placeholder=" …")
        return [Finding(name, expected, seen, "missed") for name, expected in RACED.items()], "no A/A could be run"
    line = f"{raced.floor} ({METRIC}, {raced.rounds} rounds)"
    if raced.noise >= RESOLVED:
        line += (
            f": to tell 5 % to ± 1 cannot be decided on this machine now; noise of {100 * raced.noise:.1f} % would "
            f"have to be below {100 * RESOLVED:.1f} % (a quieter machine, or more seconds=N)"
        )
    return judged(raced), line


def judged(raced: Race) -> list[Finding]:
    """Was the slower called slower, by what it is; and was nothing claimed where there is next to nothing?"""
    right = raced.five.word == "slower" and abs(1 / raced.five.ratio - 1.05) <= 0.01
    five: Fate = ("caught" if right else "missed") if raced.noise < RESOLVED else "undecided"
    tenth: Fate = "missed" if raced.tenth.word in ("slower", "faster") else "caught"
    return [Finding(FIVE, RACED[FIVE], _longer(raced.five), five),
            Finding(TENTH, RACED[TENTH], _longer(raced.tenth), tenth)]  # fmt: skip


def _longer(verdict: Verdict) -> str:
    """`slower: takes 5.1 % longer (4.8 to 5.3)`."""
    middle, low, high = (100 / ratio - 100 for ratio in (verdict.ratio, verdict.high, verdict.low))
    return f"{verdict.word}: takes {middle:.1f} % longer ({low:.1f} to {high:.1f})"


def _sum(findings: Sequence[Finding]) -> str:
    """`15 planted: 14 caught, 1 undecided, 0 missed; 2 sound: 2 passed, 0 blamed`."""
    counts = Counter(finding.fate for finding in findings)
    sound = counts["passed"] + counts["blamed"]
    return (
        f"{len(findings) - sound} planted: {counts['caught']} caught, {counts['undecided']} undecided, "
        f"{counts['missed']} missed; {sound} sound: {counts['passed']} passed, {counts['blamed']} blamed"
    )
