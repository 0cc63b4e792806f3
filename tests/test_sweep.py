"""A sweep end to end: what a record holds, what failures become, and how nobody's wrong answer meets a clock."""

import json
import math
import os
import re
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, Told

from attn_lab.measure.inputs import draw
from attn_lab.selfcheck import faults

PASSES = ("forward", "backward", "forward_backward")
UNITS = {
    **{f"{name}/time": "ms" for name in PASSES},
    **{f"{name}/tflops": "TFLOP/s" for name in PASSES},
    **{f"{name}/precision": "%" for name in PASSES},
    **{f"{name}/seconds": "s" for name in PASSES},
    **{f"{name}/intensity": "FLOP/B" for name in PASSES},
    **{f"{name}/gemm_fraction": "of peak_rates/gemm" for name in PASSES},
    "forward_backward/sum_gap": "%",
    "peak_rates/gemm": "TFLOP/s",
    "peak_rates/copy": "GB/s",
    **{f"memory/{name}": "MB" for name in ("peak", "step", "inputs", "saved", "forward")},
    **{f"accuracy/{name}": "of allowed" for name in ("out", "dq", "dk", "dv", "repeat")},
    "kernel_check/kernels": "launches",
    "prepare/time": "s", "first_call/time": "s", "case/probe_seconds": "s", "case/seconds": "s",
}  # fmt: skip
WORDS = ("backend=naive,sdpa_flash", "shape.seq_len=32,64", "name=kept")


@pytest.fixture(scope="module")
def swept(lab_in, tmp_path_factory) -> Told:
    return lab_in(tmp_path_factory.mktemp("swept"), *WORDS)


def test_a_fine_sweep_exits_0_and_says_where_its_records_are(swept):
    assert swept.code == 0 and swept.err == ""
    assert swept.statuses == ["ok"] * 4
    assert "4 of 4 cases" in swept.out and "runs/kept/records.jsonl" in swept.out


def test_a_record_has_the_keys_of_the_design_and_no_others(swept):
    for record in swept.records:
        assert list(record) == ["schema", "case", "status", "reasons", "metrics", "provenance", "artifacts"]
        assert record["schema"] == 2 and record["reasons"] == []
        case = record["case"]
        assert list(case) == ["id", "question", "backend", "mask", "subject", "round", "is_aa_repeat", "shape"]
        assert re.fullmatch("[0-9a-f]{12}", case["id"]) and re.fullmatch("[0-9a-f]{12}", case["question"])
        assert (case["mask"], case["subject"], case["round"], case["is_aa_repeat"]) == ("causal", "kernel", 0, False)
        assert case["shape"] == {
            "batch_size": 1, "seq_len": case["shape"]["seq_len"], "num_heads": 4, "emb_dim": 128, "num_kv_heads": 4,
            "seq_len_kv": case["shape"]["seq_len"], "head_dim": 32, "dtype": "float32",
        }  # fmt: skip
    assert len({record["case"]["id"] for record in swept.records}) == 4


def test_metrics_have_their_names_units_and_finite_values(swept):
    for record in swept.records:
        assert {name: metric["unit"] for name, metric in record["metrics"].items()} == UNITS
        for name, metric in record["metrics"].items():
            assert list(metric) == ["value", "unit", "low", "high", "samples", "note"]
            assert math.isfinite(metric["value"]) and (metric["value"] >= 0 or name.endswith("/sum_gap")), name
            assert isinstance(metric["samples"], int) and metric["samples"] >= 1
            if metric["low"] is not None:
                assert metric["low"] <= metric["value"] <= metric["high"], name
        for name in PASSES:
            for what in ("time", "tflops"):
                metric = record["metrics"][f"{name}/{what}"]
                assert metric["low"] is not None and 3 <= metric["samples"] <= 10


def test_tflops_are_the_causal_pairs_over_the_time(swept):
    for record in swept.records:
        seq_len, metrics = record["case"]["shape"]["seq_len"], record["metrics"]
        forward = 4 * 1 * 4 * 32 * (seq_len * (seq_len + 1) // 2)
        for name, share in (("forward", 1), ("backward", 2.5), ("forward_backward", 3.5)):
            time, rate = metrics[f"{name}/time"], metrics[f"{name}/tflops"]
            assert rate["value"] == pytest.approx(share * forward / (time["value"] * 1e-3) / 1e12)
            assert rate["low"] == pytest.approx(share * forward / (time["high"] * 1e-3) / 1e12)


def test_memory_is_seen_on_the_cpu_and_adds_up(swept):
    saved = {}
    for record in swept.records:
        metrics = {name: metric["value"] for name, metric in record["metrics"].items()}
        seq_len = record["case"]["shape"]["seq_len"]
        assert metrics["memory/inputs"] == pytest.approx(4 * seq_len * 128 * 4 / 2**20)  # q, k, v and the cotangent
        assert metrics["memory/peak"] > metrics["memory/inputs"]
        assert metrics["memory/peak"] >= metrics["memory/forward"] > 0
        assert metrics["memory/step"] == pytest.approx(metrics["memory/peak"] - metrics["memory/inputs"])
        saved[record["case"]["backend"], seq_len] = metrics["memory/saved"]
    scores = 4 * 64 * 64 * 4 / 2**20
    assert saved["naive", 64] >= scores > saved["sdpa_flash", 64] > 0  # only naive keeps its weights


def test_an_answer_is_within_what_is_allowed_and_its_kernels_are_named(swept):
    for record in swept.records:
        metrics = record["metrics"]
        assert all(metrics[f"accuracy/{name}"]["value"] <= 1 for name in ("out", "dq", "dk", "dv"))
        expected = {"naive": "softmax", "sdpa_flash": "_flash_attention_for_cpu"}[record["case"]["backend"]]
        assert metrics["kernel_check/kernels"]["value"] >= 2
        for note, name in zip(
            metrics["kernel_check/kernels"]["note"].split("; "), ("forward", "backward"), strict=True
        ):
            assert note.startswith(f"{name}: ") and expected in note


def test_no_number_comes_without_its_provenance(swept):
    for record in swept.records:
        kept = record["provenance"]
        assert list(kept) == ["machine", "versions", "commit", "dirty", "config", "started", "sweep", "command"]
        assert kept["machine"]["device"] == "cpu" and kept["machine"]["name"]
        assert {"memory", "cores", "threads"} <= set(kept["machine"])
        assert {"python", "torch", "attn_lab", "hydra-core", "omegaconf"} <= set(kept["versions"])
        assert isinstance(kept["dirty"], bool) and "backend=naive,sdpa_flash" in kept["command"]
        started = datetime.fromisoformat(kept["started"])
        assert started.utcoffset() == timedelta(0)
        config = kept["config"]
        assert config["backend"]["_target_"].startswith("attn_lab.backends.")
        assert config["shape"]["seq_len"] == record["case"]["shape"]["seq_len"]
        assert config["device"] == "cpu" and config["seed"] == 0 and config["passes"] == list(PASSES)
        assert config["probe"]["timing"]["max_samples"] == config["measure"]["max_samples"] == 10
        assert "${" not in json.dumps(config)
    assert len({record["provenance"]["sweep"] for record in swept.records}) == 1
    assert [record["provenance"]["started"] for record in swept.records] == sorted(
        record["provenance"]["started"] for record in swept.records
    )


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_the_commit_is_the_checkout_s(swept):
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    commits = {record["provenance"]["commit"] for record in swept.records}
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in commits)
    if commits != {head.strip()}:
        pytest.skip("somebody committed meanwhile")


def test_every_line_is_one_strict_json_object(swept):
    def no_constant(word):
        raise AssertionError(f"{word} is not JSON")

    for line in swept.lines:
        assert line.endswith(b"\n")
        json.loads(line, parse_constant=no_constant)


def test_the_name_moves_the_folder_but_is_no_part_of_the_question(swept, door):
    told = door(
        *WORDS[:2],
        "name=deep/er",
        "probe=[cold_start,accuracy,kernel_check,timing,memory,peak_rates,training,time_variants]",
    )
    assert (told.folder / "runs/deep/er/records.jsonl").exists()
    assert [record["case"]["id"] for record in told.records] == [record["case"]["id"] for record in swept.records]


@pytest.mark.parametrize(
    "word", ["seed=1", "round=1", "mask=full", "subject=layer", "passes=[forward]", "measure.max_samples=4"]
)
def test_another_question_has_another_id(word, door):
    door("probe=[accuracy]", "shape.seq_len=16")
    told = door("probe=[accuracy]", "shape.seq_len=16", word)
    first, second = told.records
    assert first["case"]["id"] != second["case"]["id"]


def test_forward_alone_measures_no_gradient(door):
    (record,) = door("passes=[forward]", "shape.seq_len=16").records
    metrics = record["metrics"]
    assert record["status"] == "ok"
    assert {"forward/time", "accuracy/out", "memory/peak"} <= set(metrics)
    assert not [name for name in metrics if "backward" in name or name in ("memory/saved", "accuracy/dq")]
    assert metrics["memory/inputs"]["value"] == pytest.approx(3 * 16 * 128 * 4 / 2**20)


def test_a_layer_counts_its_projections(door):
    (record,) = door("subject=layer", "shape.seq_len=16").records
    assert record["status"] == "ok", record["reasons"]
    attention, projections = 4 * 4 * 32 * (16 * 17 // 2), 2 * 16 * 128 * (4 * 128)
    time, rate = record["metrics"]["forward/time"], record["metrics"]["forward/tflops"]
    assert rate["value"] == pytest.approx((attention + projections) / (time["value"] * 1e-3) / 1e12)


@pytest.mark.parametrize(
    ("words", "reasons"),
    [(["backend=sdpa_cudnn", "shape.head_dim=260"], ["asked cpu", "asked float32", "asked 260", "multiples of 8"]),
     (["backend=sdpa_efficient", "shape.num_kv_heads=2"], ["asked cpu", "num_kv_heads"]),
     (["backend=flash2"], ["asked cpu", "asked float32", "flash-attn"]),
     (["backend=flash2", "mask=document"], ["asked cpu", "mask kinds"]),
     (["backend=flex"], ["passes"]),
     (["backend=naive", "shape.seq_len_kv=32"], ["may attend to no key"])],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_with_every_reason(words, reasons, door):
    told = door(*words)
    assert told.code == 1  # nothing could run
    (record,) = told.records
    assert record["status"] == "unsupported"
    assert not [name for name in record["metrics"] if not name.startswith("case/")]
    said = " | ".join(record["reasons"])
    assert [reason for reason in reasons if reason not in said] == [], said
    assert "unsupported" in told.out and record["reasons"][0].split(";")[0] in told.out


def available_bytes() -> int:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux only")
@pytest.mark.parametrize("size", ["absurd", "a bit more than there is"])
def test_too_big_is_a_record_and_the_sweep_goes_on(size, lab):
    if size == "absurd":
        words = ["shape.seq_len=100000000,16"]
    else:  # the scores alone: 4 bytes, 64 heads of one channel
        seq_len = math.isqrt(int(1.2 * available_bytes() / (4 * 64)))
        words = [f"shape.seq_len={seq_len},16", "shape.num_heads=64", "shape.emb_dim=64"]
    told = lab("backend=naive", "probe=[accuracy]", *words)
    assert told.code == 0, told
    assert told.statuses == ["oom", "ok"], [record["reasons"] for record in told.records]
    assert told.records[0]["reasons"]


STRANGERS = '''
"""Backends of somebody who has never seen attn_lab's source."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from attn_lab.core.backend import Backend
from attn_lab.core.capabilities import Capabilities
from attn_lab.core.mask import Mask, dense


def plain(q, k, v, allowed, scale):
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    scores = (q @ k.transpose(-2, -1) * scale).masked_fill(~allowed, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2)


@dataclass(frozen=True)
class Right(Backend):
    capabilities = {"cpu": Capabilities(grouped_heads=False)}
    kernels = {"forward": "softmax", "backward": "softmax"}

    def prepare(self, request, machine):
        allowed = dense(request.mask, request.shape, machine.device)
        return lambda q, k, v: self.answer(q, k, v, allowed, request.shape.scale)

    def answer(self, q, k, v, allowed, scale):
        return plain(q, k, v, allowed, scale)


class CannotPrepare(Right):
    def prepare(self, request, machine):
        raise ImportError("libtheirs.so: cannot open shared object file")


class ForwardImpostor(Right):
    """Its own kernels too, so that its own pattern matches."""

    def answer(self, q, k, v, allowed, scale):
        mine = plain(q, k, v, allowed, scale)
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2) + 0 * mine


class NoGradient(Right):
    def answer(self, q, k, v, allowed, scale):
        return plain(q, k.detach(), v, allowed, scale)


class NoGraph(Right):
    def answer(self, q, k, v, allowed, scale):
        return plain(q, k, v, allowed, scale).detach()


class WrongShape(Right):
    def answer(self, q, k, v, allowed, scale):
        return plain(q, k, v, allowed, scale).transpose(1, 2)


class OtherDtype(Right):
    def answer(self, q, k, v, allowed, scale):
        return plain(q, k, v, allowed, scale).double()


class Exits(Right):
    def answer(self, q, k, v, allowed, scale):
        raise SystemExit("their library gave up")


@dataclass(frozen=True)
class Ragged(Mask):
    """Each batch element and head looks further ahead: not uniform."""

    uniform = False

    def __call__(self, batch, head, query, key):
        return (key <= query + batch + head) | (key == 0)
'''
FATES = {
    "right": ["ok"],
    "wrong_scale": ["incorrect"],
    "raises": ["error"],
    "cannot_prepare": ["error"],
    "nan_at_the_end": ["incorrect"],
    "impostor": ["incorrect"],
    "forward_impostor": ["incorrect"],
    "dropped_gradient": ["incorrect"],
    "no_gradient": ["incorrect", "error"],
    "no_graph": ["incorrect", "error"],
    "wrong_shape": ["incorrect", "error"],
    "other_dtype": ["incorrect", "error"],  # float64 where float32 was asked is another question
    "exits": ["error"],
    "naive": ["ok"],
}


def write_strangers(folder: Path) -> None:
    (folder / "their_kernels.py").write_text(STRANGERS)
    (folder / "conf/backend").mkdir(parents=True)
    (folder / "conf/mask").mkdir()
    for name in FATES:
        if name != "naive":
            target = "".join(word.capitalize() for word in name.split("_"))
            module = "attn_lab.selfcheck.faults" if hasattr(faults, target) else "their_kernels"
            (folder / f"conf/backend/{name}.yaml").write_text(f"_target_: {module}.{target}\n")
    (folder / "conf/mask/ragged.yaml").write_text("_target_: their_kernels.Ragged\n")


@pytest.fixture(scope="module")
def strangers(lab_in, tmp_path_factory) -> Told:
    folder = tmp_path_factory.mktemp("strangers")
    write_strangers(folder)
    return lab_in(
        folder, "--config-dir", "conf", f"backend={','.join(FATES)}", "shape.batch_size=2", "shape.seq_len=32",
        PYTHONPATH=f"{ROOT}:{folder}",
    )  # fmt: skip


def test_the_sweep_goes_on_past_every_failure_and_exits_1(strangers):
    assert [record["case"]["backend"] for record in strangers.records] == list(FATES), strangers.err
    assert strangers.code == 1
    assert "Traceback" not in strangers.out + strangers.err
    assert f"{len(FATES)} of {len(FATES)} cases" in strangers.out


@pytest.mark.parametrize("backend", FATES)
def test_each_stranger_meets_its_fate_and_only_the_right_meet_a_clock(backend, strangers):
    (record,) = (record for record in strangers.records if record["case"]["backend"] == backend)
    assert record["status"] in FATES[backend], record["reasons"]
    clocked = [name for name in record["metrics"] if re.match("forward|backward|memory", name)]
    assert bool(clocked) == (record["status"] == "ok")
    assert bool(record["reasons"]) == (record["status"] != "ok")
    assert all("\n" not in reason for reason in record["reasons"])


@pytest.mark.parametrize(
    ("backend", "says"),
    [("wrong_scale", "out: max error"), ("raises", "ValueError: no such kernel"), ("cannot_prepare", "libtheirs.so"),
     ("nan_at_the_end", "not finite"), ("impostor", "_flash_attention_for_cpu"),
     ("dropped_gradient", "dk: max error")],
)  # fmt: skip
def test_a_stranger_is_told_what_is_wrong(backend, says, strangers):
    (record,) = (record for record in strangers.records if record["case"]["backend"] == backend)
    assert any(says in reason for reason in record["reasons"]), record["reasons"]


def test_an_impostor_that_runs_its_own_kernels_as_well_is_caught_by_another_s(strangers):
    (record,) = (record for record in strangers.records if record["case"]["backend"] == "forward_impostor")
    assert any("another's kernels" in reason for reason in record["reasons"]), record["reasons"]


def test_a_stranger_s_mask_that_differs_by_batch_and_head_is_served_and_checked(door, tmp_path, monkeypatch):
    write_strangers(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    told = door("--config-dir", "conf", "backend=right,naive,sdpa_flash,wrong_scale", "mask=ragged",
                "shape.batch_size=3", "shape.seq_len=8", "measure.checked_slices=12")  # fmt: skip
    assert told.statuses == ["ok", "ok", "ok", "incorrect"], [record["reasons"] for record in told.records]
    pairs = sum(min(8, query + batch + head + 1) for batch in range(3) for head in range(4) for query in range(8))
    metrics = told.records[0]["metrics"]
    flops = metrics["forward/tflops"]["value"] * metrics["forward/time"]["value"] * 1e9
    assert flops == pytest.approx(4 * 32 * pairs)


@pytest.mark.parametrize("name", ["adhoc", "deep/er"])
def test_a_logger_that_cannot_be_opened_leaves_nothing_behind(name, door, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # without anybody's key
    for key in [key for key in os.environ if key.startswith(("WANDB", "NETRC"))]:
        monkeypatch.delenv(key)
    told = door("logger=[jsonl,wandb]", "logger.wandb.mode=online", f"name={name}")
    assert told.code == 2 and told.err.startswith("attn-lab: ") and told.err.count("\n") == 1, told.err
    assert "logger.wandb.mode=online" in told.err and told.out == ""
    assert not (told.folder / "runs").exists()


def order(told: Told) -> list[tuple[int, int, str]]:
    """Of each record in turn: round, seq_len and label."""
    cases = [record["case"] for record in told.records]
    return [(case["round"], case["shape"]["seq_len"], case["backend"] + "'" * case["is_aa_repeat"]) for case in cases]


def test_each_round_starts_with_another_and_the_baseline_runs_twice(door):
    told = door("backend=naive,sdpa_flash,sdpa_math", "shape.seq_len=16,32", "round=0,1", "aa_repeat=true",
                "baseline=sdpa_flash", "probe=[accuracy,timing]", "passes=[forward]")  # fmt: skip
    assert told.code == 0, told.err
    first = ["naive", "sdpa_flash", "sdpa_math", "sdpa_flash'"]
    second = [*first[1:], first[0]]
    wanted = [(0, length, name) for length in (16, 32) for name in first]
    assert order(told) == wanted + [(1, length, name) for length in (16, 32) for name in second]
    assert "A/A floor, under which nothing is claimed: forward " in told.out
    assert "16 of 16 cases" in told.out and "Against sdpa_flash" in told.out


@pytest.mark.parametrize(
    ("words", "twins"),
    [(["backend=sdpa_flash,sdpa_math"], ["sdpa_flash'"]),  # no naive here: the first stands in
     (["backend=naive"], []), (["backend=naive,sdpa_math", "aa_repeat=false"], []),
     (["backend=naive,sdpa_math", "probe=[accuracy]"], []), (["backend=naive,sdpa_math", "is_aa_repeat=true"], [])],
)  # fmt: skip
def test_who_has_a_twin(words, twins, door):
    told = door("passes=[forward]", "probe=[accuracy,timing]", "aa_repeat=true", "shape.seq_len=16", *words)
    made = [name for _, _, name in order(told) if name.endswith("'")]
    assert made == twins if "is_aa_repeat=true" not in words else len(made) == 2


def test_the_samples_behind_a_figure_are_kept_beside_it(swept):
    for record in swept.records:
        (artifact,) = record["artifacts"]
        path = swept.folder / "runs/kept" / artifact["path"]
        assert artifact["kind"] == "samples" and path.name == f"{record['case']['id']}.npz"
        assert path.stat().st_size == artifact["size"]
        with np.load(path) as kept:
            assert set(kept.files) == {f"{name}/time" for name in PASSES}
            for name, samples in kept.items():
                metric = record["metrics"][name]
                assert len(samples) == metric["samples"]
                assert np.median(samples) == pytest.approx(metric["value"], rel=1e-6)


def test_the_gap_of_a_record_is_that_of_its_times(swept):
    for record in swept.records:
        times = {name: record["metrics"][f"{name}/time"]["value"] for name in PASSES}
        share = times["forward_backward"] / (times["forward"] + times["backward"])
        assert record["metrics"]["forward_backward/sum_gap"]["value"] == pytest.approx(100 * (share - 1))


@pytest.mark.parametrize("subject", ["kernel", "layer"])
@pytest.mark.parametrize("inputs", ["uniform", "zeros", "heavy_tailed"])
def test_inputs_of_every_distribution_are_verified_and_timed(inputs, subject, door):
    told = door(f"subject={subject}", f"subject.inputs={inputs}", "shape.seq_len=32", "backend=sdpa_flash,naive")
    assert told.statuses == ["ok", "ok"], [record["reasons"] for record in told.records]


def test_unknown_inputs_are_refused(door):
    told = door("subject.inputs=ones")
    assert told.code == 2 and "randn, uniform, zeros, heavy_tailed; got 'ones'" in told.err


@pytest.mark.parametrize(("name", "deviation"), [("randn", 1), ("uniform", 1), ("heavy_tailed", 1), ("zeros", 0)])
def test_inputs_are_what_their_names_say(name, deviation):
    numbers = draw(name, (400_000,), torch.Generator().manual_seed(0), torch.float32)
    assert numbers.std().item() == pytest.approx(deviation, abs=0.15)
    assert abs(numbers.mean().item()) < 0.02
    farthest = numbers.abs().max().item()
    low, high = {"randn": (4, 7), "uniform": (1.7, 1.74), "heavy_tailed": (15, 2000), "zeros": (0, 0)}[name]
    assert low <= farthest <= high


def test_a_row_s_share_of_the_ceiling_is_its_rate_over_the_measured_one(swept):
    for record in swept.records:
        metrics = {name: metric["value"] for name, metric in record["metrics"].items()}
        for name in PASSES:
            assert metrics[f"{name}/gemm_fraction"] == pytest.approx(
                metrics[f"{name}/tflops"] / metrics["peak_rates/gemm"]
            )
        pairs, leaf = record["case"]["shape"]["seq_len"], record["case"]["shape"]["seq_len"] * 128 * 4
        assert metrics["forward/intensity"] == pytest.approx(4 * 128 * pairs * (pairs + 1) / 2 / (4 * leaf))
        assert metrics["backward/intensity"] == pytest.approx(10 * 128 * pairs * (pairs + 1) / 2 / (8 * leaf))
    assert len({record["metrics"]["peak_rates/gemm"]["value"] for record in swept.records}) == 1
