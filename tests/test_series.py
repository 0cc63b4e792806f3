"""Which cases make a line, and what a line holds: found from records alone, for W&B and whoever else draws."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from wandb_sweep import record, swept

from attn_lab.records.axes import Series, series
from attn_lab.records.record import Measurement, Record


def cases_of(*shapes: dict[str, Any], backends: tuple[str, ...] = ("flash2",), **more: Any) -> list[Record]:
    made = []
    for number, (shape, backend) in enumerate(product(shapes, backends)):
        time = Measurement(name="forward/time", value=1.0 + number, unit="ms")
        made.append(record(number, backend, "ok", [], time, shape=shape, **more))
    return made


def drawn(records: list[Record]) -> list[Series]:
    return series(records)


def test_nothing_that_varies_draws_nothing() -> None:
    assert drawn(cases_of({}, backends=("flash2", "naive"))) == []
    assert drawn(cases_of({"dtype": "float16"}, {"dtype": "bfloat16"})) == []


def test_a_grid_has_a_line_for_each_family() -> None:
    shapes = [{"batch_size": b, "seq_len": s, "seq_len_kv": s} for b in (1, 2) for s in (128, 256, 512)]
    found = drawn(cases_of(*shapes, backends=("flash2", "naive")))
    seen = sorted((one.axis, one.held.get("batch_size"), one.held.get("seq_len"), one.backend) for one in found)
    over_batch = [("batch_size", None, s, name) for s in (128, 256, 512) for name in ("flash2", "naive")]
    over_seq = [("seq_len", b, None, name) for b in (1, 2) for name in ("flash2", "naive")]
    assert sorted(seen, key=str) == sorted(over_batch + over_seq, key=str)
    assert all(len(one.points) == (2 if one.axis == "batch_size" else 3) for one in found)


def test_what_moves_with_an_axis_is_on_the_same_line() -> None:
    heads = [{"num_heads": h, "num_kv_heads": h, "emb_dim": 64 * h, "head_dim": 64} for h in (8, 16)]
    (one,) = drawn(cases_of(*heads))
    assert (one.axis, one.moving) == ("num_heads", ("emb_dim",))
    assert [(point["num_heads"], point["emb_dim"]) for point in one.points] == [(8, 512), (16, 1024)]


def test_any_number_of_a_shape_can_be_an_axis_its_usual_value_included() -> None:
    (one,) = drawn(cases_of(*({"num_kv_heads": count} for count in (32, 8, 1))))
    assert (one.axis, [point["num_kv_heads"] for point in one.points]) == ("num_kv_heads", [1, 8, 32])


def test_points_stand_in_the_order_of_the_axis() -> None:
    (one,) = drawn(cases_of(*({"batch_size": size} for size in (64, 2, 16))))
    assert [(point["batch_size"], point["forward/time"]) for point in one.points] == [(2, 2.0), (16, 3.0), (64, 1.0)]


def test_a_round_that_failed_fails_its_point() -> None:
    good = cases_of({"batch_size": 1}, {"batch_size": 2})
    again = cases_of({"batch_size": 1}, {"batch_size": 2}, round_=1)
    for place, line in enumerate(again):
        line.case["id"] = f"again{place}"
    (one,) = series([*good, *again])
    assert [point["batch_size"] for point in one.points] == [1, 2]
    again[1] = replace(again[1], status="incorrect")
    (one,) = series([*good, *again])
    assert [point["batch_size"] for point in one.points] == [1]


def test_a_case_run_again_counts_once_and_the_newer() -> None:
    first, second = cases_of({"batch_size": 1}, {"batch_size": 2})
    newer = replace(second, metrics={"forward/time": {"value": 9.0}})
    (one,) = series([first, second, newer])
    assert one.points[1]["forward/time"] == 9.0


def test_one_backend_with_two_settings_is_two_lines_with_names_that_tell() -> None:
    cases = cases_of({"batch_size": 1}, {"batch_size": 2}) + cases_of({"batch_size": 1}, {"batch_size": 2})
    for place, line in enumerate(cases):
        line.case["id"] = str(place)
        line.provenance["config"]["backend"] = {"_target_": "x", "block": 64 if place < 2 else 128}
    assert [one.backend for one in series(cases)] == ["flash2 block=64", "flash2 block=128"]


def test_a_masks_window_is_an_axis_and_never_pooled() -> None:
    cases = cases_of({}, {}, {})
    for line, window in zip(cases, (64, 128, 256), strict=True):
        line.provenance["config"]["mask"] = {"_target_": "x", "window": window}
    (one,) = series(cases)
    assert (one.axis, [point["mask.window"] for point in one.points]) == ("mask.window", [64, 128, 256])
    assert one.options["mask"] == {"_target_": "x"}


def test_what_a_line_holds_fixed_is_in_its_configuration() -> None:
    shapes = [{"batch_size": size} for size in (1, 2)] * 2
    cases = cases_of(*shapes)
    for line, window in zip(cases, (64, 64, 128, 128), strict=True):
        line.provenance["config"]["mask"] = {"window": window}
    held = sorted(one.options["mask"]["window"] for one in series(cases) if one.axis == "batch_size")
    assert held == [64, 128]


def test_a_twin_and_a_refusal_have_no_line() -> None:
    found = {one.backend: one.points for one in drawn(swept())}
    assert {name: len(points) for name, points in found.items()} == {"naive": 2, "flash2": 3}
    assert found["naive"][0]["forward/time"] == pytest.approx(25.6005)  # its two rounds, not its twin's


def test_a_noisy_number_is_named_with_its_line() -> None:
    marked = ["forward/time at 512", "forward/tflops at 512"]  # the rate follows from the time
    assert {one.backend: one.noisy for one in drawn(swept())} == {"naive": [], "flash2": marked}
