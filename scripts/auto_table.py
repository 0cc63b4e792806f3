"""python scripts/auto_table.py RUN…: auto beside every rival, shape by shape, as Markdown; and what it comes to."""

import math
import sys
from itertools import groupby

from attn_lab.records.reading import records
from attn_lab.records.record import Record
from attn_lab.records.stats.noise_floor import noise_floor
from attn_lab.records.stats.verdict import compare_times
from attn_lab.report import compare

STEP = "forward_backward/time"
OVER = "flash2"  # the geometric mean is over this one


def main(runs: list[str]) -> None:
    rows = [row for row in records(runs).records if row.subject == "kernel"]
    floor = noise_floor(rows, STEP)
    single = sorted((row for row in rows if not row.is_aa_repeat), key=compare.order)
    names = sorted({row.name for row in single} - {"auto"}, key=lambda name: ("+" in name, name))
    print(f"| shape | mask | {' | '.join(names)} | auto | took | auto against the best single |")
    print(f"| --- | --- |{' ---: |' * (len(names) + 1)} --- | --- |")
    words: list[tuple[float, str, str]] = []
    over: list[float] = []
    for _, group in groupby(single, key=lambda row: row.setting):
        rounds: dict[str, list[Record]] = {}
        for row in group:
            rounds.setdefault(row.name, []).append(row)
        times = {name: time for name, several in rounds.items() if (time := compare.pooled(several)[0].number(STEP))}
        auto = rounds.get("auto", [])
        alone = [name for name in times if "+" not in name and name != "auto"]
        if "auto" not in times or not alone:
            where = next(iter(rounds.values()))[0]
            print(f"! {where.shape_text} {where.mask}: nothing to compare; auto {[row.status for row in auto]}")
            continue
        best = min(alone, key=lambda name: times[name])
        verdict = compare_times(auto, rounds[best], STEP, floor)
        assert verdict is not None
        took = str(auto[0].metrics["selection/rank"]["note"]).split(",")[0]
        least = min(times[name] for name in names if name in times)
        cells = [f"**{compare.digits(times[name])}**" if times.get(name) == least else compare.digits(times.get(name))
                 for name in names]  # fmt: skip
        told = f"{verdict.word} {'than' if verdict.word in ('faster', 'slower') else 'against'} {best}"
        where = f"{auto[0].shape_text} | {auto[0].mask}"
        print(f"| {where} | {' | '.join(cells)} | {compare.digits(times['auto'])} | {took} | {verdict} {told} |")
        words.append((verdict.ratio, verdict.word, where.replace(" | ", " ")))
        if OVER in times:
            over.append(times[OVER] / times["auto"])
    if not words:
        print("! nothing to compare")
        return
    slower, faster = ([each for each in words if each[1] == word] for word in ("slower", "faster"))
    print(f"\n! auto on {len(words)} shapes, steps, {floor}: slower than the best single at {len(slower)}, faster at "
          f"{len(faster)}")  # fmt: skip
    if over:
        mean = math.exp(sum(map(math.log, over)) / len(over))
        print(f"! auto at {mean:.2f}× the speed of {OVER}, the geometric mean over {len(over)} of them")
    for ratio, word, where in (min(words), max(words)):
        print(f"! {ratio:.3f}× the best single at {where}: {word}")


if __name__ == "__main__":
    main(sys.argv[1:])
