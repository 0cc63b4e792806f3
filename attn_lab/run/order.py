"""The order in which cases run: rivals side by side, each round begun by another, large batches first."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from attn_lab.measure.case import Case


def arranged(cases: Sequence[Case], *, baseline: str, aa_repeat: bool) -> list[Case]:
    """The order in which they are run, each once.  Where rivals meet at one shape, each round starts with another.

    With `aa_repeat`, such rivals are joined by an A/A repeat of the baseline (of their first, where that is not among
    them).
    """
    ordered: list[Case] = []
    once = {case.id: case for case in reversed(cases)}
    for _, group in groupby([once.pop(case.id) for case in cases if case.id in once], key=_but_for_backend):
        rivals = list(group)
        names = [case.backend_name for case in rivals]
        timed = any(probe.clocks for probe in rivals[0].probes.values())
        if aa_repeat and len(set(names)) > 1 and not rivals[0].is_aa_repeat and timed:
            case = rivals[names.index(baseline) if baseline in names else 0]
            rivals.append(replace(case, is_aa_repeat=True, config={**case.config, "is_aa_repeat": True}))
        start = rivals[0].round % len(rivals)
        ordered += rivals[start:] + rivals[:start]
    return ordered


def batches(cases: Sequence[Case]) -> list[list[Case]]:
    """Cases that are compared with each other, rivals and A/A repeats of one round: they belong on one device."""
    apart = {"backend", "is_aa_repeat"}
    key = lambda case: {name: value for name, value in case.config.items() if name not in apart}  # noqa: E731
    return [list(batch) for _, batch in groupby(cases, key=key)]


def longest_first(batches: Sequence[Sequence[Case]]) -> list[Sequence[Case]]:
    """The order for several workers: of each round the largest first, none left for last."""

    def place(batch: Sequence[Case]) -> tuple[int, int]:
        shape = batch[0].request.shape  # pairs allowed by a mask are counted one by one: too slow for a huge shape
        pairs = shape.batch_size * shape.num_heads * shape.seq_len * shape.seq_len_kv
        return batch[0].round, -len(batch) * pairs * shape.head_dim

    return sorted(batches, key=place)


def _but_for_backend(case: Case) -> dict[str, Any]:
    return {key: value for key, value in case.config.items() if key != "backend"}
