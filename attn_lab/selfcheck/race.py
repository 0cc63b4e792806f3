"""Two kernels slower by known shares against their sound self, round after round, and the verdicts on them."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from attn_lab.core.errors import Incorrect
from attn_lab.loggers.jsonl import Jsonl
from attn_lab.measure.case import Case
from attn_lab.records.reading import records
from attn_lab.records.record import Record
from attn_lab.records.stats.noise_floor import Floor, noise_floor
from attn_lab.records.stats.verdict import Verdict, compare_times
from attn_lab.selfcheck.harness import Harness

METRIC = "forward/time"
LEAST_ROUNDS, LOOK = 8, 4
RESOLVED = 0.007  # noise under which 5 % can be told to ± 1 with something to spare
SOUND, FIVE, TENTH = "sound", "slower by 5 %", "slower by 0.1 %"
# Short, on the CPU for most calls to come between two interruptions, on a GPU because calls of milliseconds, one after
# another, keep the card at its power cap, where its clock wanders (calls of 7 ms on an H100: by 2 %).
TRACK = {
    "cpu": (
        "shape.batch_size=1",
        "shape.seq_len=128",
        "shape.num_heads=8",
        "shape.emb_dim=512",
        "measure.max_samples=40",
    ),
    "cuda": (
        "shape.batch_size=16",
        "shape.seq_len=1024",
        "shape.num_heads=32",
        "shape.emb_dim=2048",
        "measure.max_samples=100",
    ),
}


class Race(NamedTuple):
    """What came of it: the A/A floor, and the verdict on each of the slower."""

    rounds: int
    floor: Floor
    five: Verdict
    tenth: Verdict

    @property
    def noise(self) -> float:
        """The floor, or half an interval where that is more."""
        return max(self.floor.share, *((each.high - each.low) / 2 for each in (self.five, self.tenth)))


def race(path: Harness, seconds: float) -> Race:
    """The sound one, the slower and the sound one once more by turns, each round begun by another.

    Ends once the noise is below RESOLVED, or when `seconds` are over.  On a CPU all run on one thread: two, on cores
    that others use as well, wait for each other, and that is all one sees.  Raises Incorrect if one does not come out
    ok.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _run(path, _contenders(path), Path(folder), time.perf_counter() + seconds)
    finally:
        torch.set_num_threads(threads)


def verdicts(rows: Sequence[Record], rounds: int) -> Race:
    """The verdicts that the records of so many rounds give."""
    floor = noise_floor(rows, METRIC)
    mine = {name: [row for row in rows if row.backend == name] for name in (SOUND, FIVE, TENTH)}
    five, tenth = (compare_times(mine[name], mine[SOUND], METRIC, floor) for name in (FIVE, TENTH))
    assert five and tenth  # each has a time, or there would be no row
    return Race(rounds, floor, five, tenth)


def _contenders(path: Harness) -> list[Case]:
    words = (*TRACK[path.machine.device], "probe=[accuracy,timing]", "passes=[forward]", "measure.precision=0.1")
    sound, *slower = [path.case(name, "attn_lab.selfcheck.slower.Slower", f"+backend.share={share}", *words)
                      for name, share in ((SOUND, 0), (FIVE, 0.05), (TENTH, 0.001))]  # fmt: skip
    return [sound, *slower, replace(sound, is_aa_repeat=True, config={**sound.config, "is_aa_repeat": True})]


def _run(path: Harness, cases: list[Case], folder: Path, end: float) -> Race:
    logger, rounds = Jsonl(folder=folder, sweep=""), 0
    try:
        while True:
            start = rounds % len(cases)
            for case in cases[start:] + cases[:start]:
                record = path.record(replace(case, round=rounds, config={**case.config, "round": rounds}))
                if record.status != "ok":
                    raise Incorrect(f"{case.label}: {record.status}", *record.reasons)
                logger.write(record)
            rounds += 1
            over = time.perf_counter() > end
            if rounds >= LEAST_ROUNDS and (over or rounds % LOOK == 0):
                found = verdicts(records(folder).records, rounds)
                if over or found.noise < RESOLVED:
                    return found
    finally:
        logger.close()
