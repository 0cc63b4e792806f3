"""The sentences of the findings, and for each the data that turn it: other words, another verdict, or nothing said."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from written import A100, line

Lines = list[dict[str, Any]]


def both(flash: Any, torch: Any, peaks: tuple[float, float] | None = None, **fields: Any) -> Lines:
    """FlashAttention v2 and naive at the study's point, but for `fields`."""
    mine, other = peaks or (None, None)
    return [line("flash2", flash, peak=mine, **fields), line("naive", torch, peak=other, **fields)]


def along(axis: str, *points: tuple[int, Any, Any] | tuple[int, Any, Any, tuple[float, float]]) -> Lines:
    return [each for value, *rest in points for each in both(*rest, **{axis: value})]


def at(**times: float) -> Lines:
    """Backends at one point, each with one time for all passes."""
    return [line(name, time) for name, time in times.items()]


def swept(axis: str, values: Sequence[int], **times: Sequence[float]) -> Lines:
    return [
        line(name, time, **{axis: value})
        for name, each in times.items()
        for value, time in zip(values, each, strict=True)
    ]


def twins(apart: float) -> Lines:
    """The baseline at twenty settings, each time with a twin whose times are so much longer."""
    return [
        line("naive", apart if is_aa_repeat else 1.0, is_aa_repeat=is_aa_repeat, spread=1e-3, seq_len=64 * place)
        for place in range(1, 21)
        for is_aa_repeat in (True, False)
    ]


class Said(NamedTuple):
    """What must be said of these lines: the sentence with these words and verdict; words=None: nothing of it."""

    lines: Lines
    words: str | None = ""
    verdict: str | None = None


def metric(value: float, unit: str = "", note: str = "") -> dict[str, Any]:
    return {"value": value, "unit": unit, "low": value, "high": value, "samples": 50, "note": note}


def of(backend: str, name: str, value: float, **more: Any) -> dict[str, Any]:
    return line(backend, metrics={name: metric(value)}, **more)


TURNS: list[tuple[str, list[Said]]] = [
    (
        "fastest.point",
        [
            Said(at(a=1.0, b=2.0), "forward: a, 2.00× (1.99–2.01) the speed of the next, b"),
            Said(at(a=2.0, b=1.0), "forward: b, 2.00× (1.99–2.01) the speed of the next, a"),
            Said(at(a=1.0, b=1.01), None),
            Said(at(a=1.0), None),
        ],
    ),
    (
        "fastest.point.shared",
        [
            Said(at(a=1.0, b=1.01), "no verdict tells a, b apart; a has 1.01×"),
            Said(at(a=1.01, b=1.0), "no verdict tells a, b apart; b has 1.01×"),
            Said(at(a=1.0, b=2.0), None),
        ],
    ),
    (
        "fastest",
        [
            Said(
                swept("seq_len", (512, 1024, 2048), a=(1, 1, 1), b=(2, 2, 1.01)),
                "at 3 settings: a 2; at 1 several share the lead, no verdict tells them apart (a, b).",
            ),
            Said(swept("seq_len", (512, 1024, 2048), a=(1, 5, 1), b=(2, 1, 1.01)), "seq_len 1024"),
            Said(swept("seq_len", (512, 1024), a=(2, 5), b=(1, 1)), "at 2 settings: b 2. The widest lead: b, 5.0"),
            Said(swept("seq_len", (512, 1024), a=(1, 1), b=(1, 1)), None),
        ],
    ),
    (
        "fastest.shared",
        [
            Said(swept("seq_len", (512, 1024), a=(1, 1), b=(1, 1.01)), "at none of 2 settings"),
            Said(swept("seq_len", (512, 1024), a=(1, 1), b=(1, 1.5)), None),
        ],
    ),
    (
        "gain.point",
        [
            Said(at(naive=6.0, a=1.0, b=2.0), "Against naive, forward: a is the fastest, with 6.0"),
            Said(at(naive=6.0, a=2.0, b=1.0), "forward: b is the fastest"),
            Said(at(naive=1.0, a=6.0), None),
        ],
    ),
    (
        "gain",
        [
            Said(
                swept("seq_len", (512, 1024), naive=(4, 9), a=(1, 1)),
                "the fastest of the others is faster, with 4.00× (3.98–4.02) its speed (a, seq_len 512)",
            ),
            Said(swept("seq_len", (512, 1024), naive=(9, 4), a=(1, 1)), "(a, seq_len 1024) up to 9.0"),
            Said(swept("seq_len", (512, 1024), naive=(1, 9), a=(1, 1)), None),
        ],
    ),
    (
        "gain.once",
        [
            Said(
                swept("seq_len", (512, 1024), naive=(1, 9), a=(1, 1)), "at 1 of 2 settings another backend is faster: a"
            ),
            Said(swept("seq_len", (512, 1024), naive=(9, 1), a=(1, 1)), "at seq_len 512"),
            Said(swept("seq_len", (512, 1024), naive=(9, 9), a=(1, 1)), None),
        ],
    ),
    (
        "gain.none",
        [
            Said(at(naive=1.0, a=1.0), "at none of 1 settings"),
            Said(at(naive=1.0, a=3.0), "at none of 1"),
            Said(at(naive=3.0, a=1.0), None),
            Said(at(a=1.0, b=2.0), None),
        ],
    ),
    (
        "slower",
        [
            Said(
                at(naive=1.0, a=3.0),
                "Slower than naive, forward: a takes 3.00× (2.99–3.01) its time at worst (settings: 1)",
            ),
            Said(at(naive=1.0, a=1.05), None),
            Said(at(naive=3.0, a=1.0), None),
        ],
    ),
    (
        "memory",
        [
            Said(both(1.0, 9.0, (14.0, 100.0)), "flash2 14 % (1)"),
            Said(both(1.0, 9.0, (28.0, 100.0)), "flash2 28 % (1)"),
            Said(both(1.0, 9.0, (200.0, 100.0)), None),
            Said(both(1.0, 9.0), None),
        ],
    ),
    (
        "memory.more",
        [
            Said(both(1.0, 9.0, (200.0, 100.0)), "in percent of it (and at how many settings): flash2 200 % (1)"),
            Said(both(1.0, 9.0, (14.0, 100.0)), None),
        ],
    ),
    (
        "energy",
        [
            Said(
                [of("naive", "forward/energy", 2.0), of("a", "forward/energy", 0.5)],
                "naive's (and at how many settings): a 25 %",
            ),
            Said([of("naive", "forward/energy", 0.5), of("a", "forward/energy", 2.0)], None),
            Said(at(naive=1.0, a=1.0), None),
        ],
    ),
    (
        "energy.more",
        [
            Said([of("naive", "forward/energy", 0.5), of("a", "forward/energy", 2.0)], "a 400 %"),
            Said([of("naive", "forward/energy", 2.0), of("a", "forward/energy", 0.5)], None),
        ],
    ),
    (
        "peak_rates",
        [
            Said(
                [of("a", "forward/gemm_fraction", 0.6), of("b", "forward/gemm_fraction", 0.3)],
                "forward: a with 60 % of it",
            ),
            Said(
                [of("a", "forward/gemm_fraction", 0.2), of("b", "forward/gemm_fraction", 0.3)],
                "forward: b with 30 % of it",
            ),
            Said(at(a=1.0), None),
        ],
    ),
    (
        "scaling",
        [
            Said(
                swept("seq_len", (512, 1024, 2048, 4096), a=(1, 4, 16, 64)),
                "fitted from 512 to 4096: a 2.00 (2.00 to 2.00",
            ),
            Said(
                swept("seq_len", (512, 1024, 2048, 4096), a=(1, 2, 4, 8.1)),
                "a 1.01 (0.99 to 1.02; between the last two points 1.0)",
            ),
            Said(swept("seq_len", (512, 1024), a=(1, 4)), None),
            Said(swept("seq_len", (512, 1024, 2048), a=(1, 9, 1)), None),
        ],
    ),
    (
        "scaling.bent",
        [
            Said(swept("seq_len", (512, 1024, 2048), a=(1, 9, 1)), "a follow no power law"),
            Said(swept("seq_len", (512, 1024, 2048), a=(1, 4, 16)), None),
        ],
    ),
    (
        "crossing",
        [
            Said(
                swept("seq_len", (512, 1024, 2048), a=(1, 1, 1), b=(2, 1.01, 0.5)),
                "forward: b overtakes a (between 512 and 2048).",
            ),
            Said(
                swept("seq_len", (512, 1024, 2048), a=(2, 2, 1), b=(1, 1, 2)),
                "forward: a overtakes b (between 1024 and 2048).",
            ),
            Said(swept("seq_len", (512, 1024), a=(1, 1), b=(2, 2)), None),
            Said(swept("seq_len", (512, 1024), a=(1, 1), b=(2, 0.99)), None),
        ],
    ),
    (
        "support.ok",
        [Said(at(a=1.0, b=1.0), "All 2 cases came out ok"), Said([*at(a=1.0), line("b", status="oom")], None)],
    ),
    *(
        (
            f"support.{status}",
            [
                Said(
                    [*at(a=1.0), line("b", status=status, reasons=("dq: 3. See x",))],
                    "1 of 2 cases (50 %). b 1 (dq: 3).",
                ),
                Said([*at(a=1.0), line("b", status=status)], "b 1 (no reason was recorded)."),
                Said(at(a=1.0, b=1.0), None),
            ],
        )
        for status in ("unsupported", "incorrect", "oom", "error", "timeout", "crashed")
    ),
    (
        "noise.floor",
        [
            Said(twins(1.03), "Noise floor, naive against itself: forward 3.0 %"),
            Said(twins(1.06), "Noise floor, naive against itself: forward 6.0 %"),
            Said(at(naive=1.0), None),
        ],
    ),
    (
        "noise.unmeasured",
        [
            Said(at(naive=1.0), "No A/A was run (forward, backward, step): differences under 10 %"),
            Said([line("naive"), line("naive", is_aa_repeat=True)], None),
        ],
    ),
    (
        "noise.marked",
        [
            Said([line("a", metrics={"forward/time": metric(1.0, "ms", "noisy: ±9 %")})], "1 of 3 times (of a 1)"),
            Said(at(a=1.0), None),
        ],
    ),
    (
        "rounds.one",
        [
            Said([*at(a=1.0), line("b"), line("b", round=1)], "1 of 2 cases were run only once"),
            Said([line("b"), line("b", round=1)], None),
        ],
    ),
    ("baseline.absent", [Said(at(a=1.0, b=2.0), "naive was not run"), Said(at(a=1.0, naive=2.0), None)]),
    (
        "apart",
        [
            Said([line("a"), line("a", machine=A100, sweep="s", round=1)], "from 2 places: NVIDIA H100"),
            Said([line("a"), line("a", versions={"torch": "2.12.0"}, sweep="s", round=1)], "torch 2.12.0"),
            Said([line("a"), line("a", sweep="s", round=1)], None),
        ],
    ),
    (
        "claim.1.forward",
        [
            Said(both(1.0, 9.0), "Here flash2 has 9.00× (8.96–9.04) naive's speed; from 7.2 to 11.2×", "holds"),
            Said(both(1.0, 15.7), "15.7×", "fails"),
            Said(both(1.0, 4.0), "4.00×", "fails"),
            Said(both(1.0, 11.2, spread=0.2), "Too near the border", "untested"),
            Said(
                at(naive=9.0, sdpa_flash=1.0),
                "flash2 was not run, and the claim is about it. Run were: sdpa_flash",
                "untested",
            ),
            Said(at(flash2=1.0), "naive was not run", "untested"),
            Said(both(1.0, 9.0, seq_len=512), "did not both come out ok at the study's point", "untested"),
            Said([line("flash2"), line("naive", status="oom")], "did not both", "untested"),
            Said(both({"backward": 1.0}, {"backward": 9.0}), "no time of both flash2 and naive (forward)", "untested"),
        ],
    ),
    (
        "claim.1.backward",
        [Said(both(1.0, 4.5), "4.5", "holds"), Said(both(1.0, 9.0), "", "fails"), Said([], "", "untested")],
    ),
    (
        "claim.2.forward",
        [
            Said(both(1.0, 10.0), "from 8 to 12.5×", "holds"),
            Said(both(1.0, 5.0), "", "fails"),
            Said([], "", "untested"),
        ],
    ),
    (
        "claim.2.backward",
        [Said(both(1.0, 5.0), "", "holds"), Said(both(1.0, 10.0), "", "fails"), Said([], "", "untested")],
    ),
    (
        "claim.3.point",
        [
            Said(both(1.0, 9.0, (14.0, 100.0)), "peaks at 14.0 % of naive's", "holds"),
            Said(both(1.0, 9.0, (30.0, 100.0)), "30.0 %", "fails"),
            Said(both(1.0, 9.0), "Peak memory of both", "untested"),
        ],
    ),
    (
        "claim.3.everywhere",
        [
            Said(
                [*both(1.0, 9.0, (14.0, 100.0)), *both(1.0, 9.0, (45.0, 100.0), seq_len=64)],
                "saves 55.0 to 86.0 %",
                "holds",
            ),
            Said(
                [*both(1.0, 9.0, (14.0, 100.0)), *both(1.0, 9.0, (60.0, 100.0), seq_len=64)], "saves 40.0 to", "fails"
            ),
            Said(both(1.0, 9.0), "", "untested"),
        ],
    ),
    (
        "claim.4.slower",
        [
            Said(along("batch_size", (8, 1, 9), (32, 4, 36)), "flash2 takes 4.00×", "holds"),
            Said(along("batch_size", (8, 1, 9), (32, 1, 36)), "flash2 takes 1.0", "fails"),
            Said(along("batch_size", (8, 1, 9), (32, 4, 8)), "", "fails"),
            Said(both(1.0, 9.0), "batch_size was not swept", "untested"),
        ],
    ),
    (
        "claim.4.tflops",
        [
            Said(along("batch_size", (8, 1, 9), (32, 2, 18)), "flash2 reaches 2.0", "holds"),
            Said(along("batch_size", (8, 1, 9), (32, 4, 18)), "", "fails"),
            Said([], "", "untested"),
        ],
    ),
    (
        "claim.4.more",
        [
            Said(
                along("batch_size", (8, 1, 2), (32, 1, 9)),
                "2.00× (1.99–2.01) naive's speed at batch_size 8 and 9.0",
                "holds",
            ),
            Said(along("batch_size", (8, 1, 9), (32, 1, 2)), "", "fails"),
            Said([], "", "untested"),
        ],
    ),
    (
        "claim.4.time",
        [
            Said(along("batch_size", (8, 1, 10), (32, 4, 40)), "by 3.0 ms, naive by 30.0 ms; that is 10.0 %", "holds"),
            Said(along("batch_size", (8, 1, 10), (32, 21, 40)), "", "fails"),
            Said(along("batch_size", (8, 1, 10), (32, 1, 40)), "one of the two does not grow", "untested"),
        ],
    ),
    (
        "claim.4.memory",
        [
            Said(
                along("batch_size", (8, 1, 9, (10, 100)), (32, 4, 36, (40, 400))),
                "30.0 MB, naive by 300 MB; that is 10.0 % of",
                "holds",
            ),
            Said(along("batch_size", (8, 1, 9, (10, 100)), (32, 4, 36, (310, 400))), "100 %", "fails"),
            Said(along("batch_size", (8, 1, 9), (32, 4, 36)), "Peak memory of both", "untested"),
        ],
    ),
    (
        "claim.4.much",
        [
            Said(
                along("batch_size", (8, 1, 9, (10, 100)), (32, 4, 36, (40, 400))),
                "naive grows 4.0×, the axis 4×",
                "holds",
            ),
            Said(along("batch_size", (8, 1, 9, (10, 100)), (32, 4, 36, (40, 150))), "", "fails"),
            Said([], "", "untested"),
        ],
    ),
    (
        "claim.5.memory",
        [
            Said(
                along("seq_len", (512, 1, 9, (10, 100)), (2048, 4, 36, (40, 1600))),
                "naive grows 16.0×, the axis 4×",
                "holds",
            ),
            Said(along("seq_len", (512, 1, 9, (10, 100)), (2048, 4, 36, (40, 390))), "", "fails"),
            Said([], "", "untested"),
        ],
    ),
    (
        "claim.5.time",
        [
            Said(along("seq_len", (512, 1, 9), (2048, 4, 144)), "naive grows 16.0", "holds"),
            Said(along("seq_len", (512, 1, 9), (2048, 4, 18)), "", "fails"),
            Said([], "", "untested"),
        ],
    ),
    (
        "claim.5.tflops",
        [
            Said(along("seq_len", (512, 1, 9), (2048, 16, 144)), "the highest over the first: flash2 1.0", "holds"),
            Said(along("seq_len", (512, 1, 9), (2048, 8, 144)), "flash2 2.0", "fails"),
            Said(along("seq_len", (512, 1, 9), (2048, 8, 72)), "naive 2.0", "fails"),
            Said([], "", "untested"),
        ],
    ),
    (
        "claim.6.tflops",
        [
            Said(along("num_heads", (8, 1, 9), (32, 1, 18)), "flash2 1.0", "holds"),
            Said(along("num_heads", (8, 1, 9), (32, 0.5, 9)), "flash2 2.0", "fails"),
            Said([], "", "untested"),
        ],
    ),
    (
        "claim.6.drop",
        [
            Said(along("num_heads", (16, 1, 9), (32, 1, 18)), "at 32 heads are 0.50", "holds"),
            Said(along("num_heads", (16, 1, 9), (32, 1, 9)), "", "fails"),
            Said(
                along("num_heads", (8, 1, 9), (16, 1, 9)), "num_heads 32 and fewer were not run with both", "untested"
            ),
        ],
    ),
    (
        "claim.6.full",
        [
            Said(both(1.0, 9.0, (600.0, 72000.0)), "naive peaks at 72000 MB, 88.8 %", "holds"),
            Said(both(1.0, 9.0, (600.0, 4673.0)), "5.8 %", "fails"),
            Said(both(1.0, 9.0), "", "untested"),
        ],
    ),
    (
        "claim.7.tflops",
        [
            Said(along("emb_dim", (1024, 1, 9), (4096, 2, 18)), "flash2 reaches 2.0", "holds"),
            Said(along("emb_dim", (1024, 1, 9), (4096, 2, 36)), "", "fails"),
            Said([], "", "untested"),
        ],
    ),
    (
        "claim.7.more",
        [
            Said(along("emb_dim", (1024, 1, 2), (4096, 1, 9)), "", "holds"),
            Said(along("emb_dim", (1024, 1, 9), (4096, 1, 2)), "", "fails"),
            Said([], "", "untested"),
        ],
    ),
    (
        "claim.8",
        [
            Said(
                [*both(1.0, 9.0), *both(2.0, 9.0, mask="full")],
                "flash2 2.00× (1.99–2.01) as fast as mask full does, naive 1.0",
                "holds",
            ),
            Said([*both(1.0, 9.0), *both(2.0, 18.0, mask="full")], "", "fails"),
            Said(both(1.0, 9.0), "were not run with mask full", "untested"),
        ],
    ),
    (
        "claim.9.tight",
        [
            Said(both(1.0, 9.0, (14.0, 100.0)), "over 1 settings; naive never ran out of memory", "holds"),
            Said(
                [
                    *both(1.0, 9.0, (14.0, 100.0)),
                    line("naive", status="oom", seq_len=4096),
                    line("flash2", seq_len=4096),
                ],
                "where naive ran out of memory (1), flash2 ran at 1",
                "holds",
            ),
            Said(
                [
                    *both(1.0, 9.0, (14.0, 100.0)),
                    line("naive", status="oom", seq_len=4096),
                    line("flash2", status="oom", seq_len=4096),
                ],
                "flash2 ran at 0",
                "fails",
            ),
            Said(both(1.0, 9.0, (100.0, 100.0)), "", "fails"),
            Said(both(1.0, 9.0), "", "untested"),
        ],
    ),
    (
        "claim.9.batch_size",
        [
            Said(
                along("batch_size", (8, 1, 9), (32, 2, 9)),
                "2.00× (1.99–2.01) the TFLOP/s at batch_size 32 that it does at 8",
                "holds",
            ),
            Said(along("batch_size", (8, 1, 9), (32, 4, 9)), "", "fails"),
            Said([], "", "untested"),
        ],
    ),
    (
        "claim.9.seq_len",
        [
            Said(along("seq_len", (512, 1, 9), (2048, 8, 9)), "", "holds"),
            Said(along("seq_len", (512, 1, 9), (2048, 16, 9)), "", "fails"),
            Said([], "", "untested"),
        ],
    ),
]
