"""Looking inside a case: what the files that probes leave really hold, and that a sweep keeps no more than it may."""

import copy
import gc
import gzip
import json
import os
import re
import shlex
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import Lab
from loops import loop, train_rank
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from wandb_loopback import Loopback
from wandb_sweep import HASTY

from attn_lab import Attention, profile
from attn_lab.backends.flash2 import Flash2
from attn_lab.backends.flash4 import Flash4
from attn_lab.backends.naive import Naive
from attn_lab.backends.sdpa_flash import SdpaFlash
from attn_lab.config.build import packed
from attn_lab.core.backend import AttentionFn
from attn_lab.core.errors import BadRequest
from attn_lab.core.kernel_name import short_name
from attn_lab.core.machine import Machine
from attn_lab.core.request import Request
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.nn.registry import backend_names
from attn_lab.profiling.annotate import ranged
from attn_lab.profiling.counters import counted, metrics, passes_of, patterns_of
from attn_lab.profiling.phases import phases_of
from attn_lab.profiling.recorder import Stage, recorded
from attn_lab.profiling.trace import Trace
from attn_lab.profiling.trainer import ProfileCallback
from attn_lab.records.artifacts import ArtifactStore, File
from attn_lab.records.reading import records
from attn_lab.records.store import RunStore, find_case
from attn_lab.run.local.single_case import run_single_case
from attn_lab.run.nsight import PROBE, case_under_nsight, filter_of, keep

SMALL = ("shape.seq_len=64", "shape.batch_size=2", "probe=[accuracy,timing,memory]")


def test_a_trace_holds_each_pass_and_its_table_the_attention_operator(lab: Lab, tmp_path: Path) -> None:
    """By worker processes: what is large goes by its path."""
    told = lab("backend=sdpa_flash", "+profile=trace", "subject=layer", *SMALL, TMPDIR=str(tmp_path))
    assert told.statuses == ["ok"], told.err
    (trace,) = told.artifacts("trace")
    with gzip.open(trace, "rt") as file:
        events = json.load(file)["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert [name for name in names if name.startswith("pass: ")] == 2 * [
        "pass: forward", "pass: backward", "pass: forward_backward"
    ]  # fmt: skip
    (table,) = told.artifacts("kernels")
    passes = json.loads(table.read_text())
    flash = {"forward": "aten::_scaled_dot_product_flash_attention_for_cpu",
             "backward": "aten::_scaled_dot_product_flash_attention_for_cpu_backward"}  # fmt: skip
    for name, operator in flash.items():
        rows = passes[name]["kernels"]
        assert [(row["name"], row["count"]) for row in rows if row["attention"]] == [(operator, 1)]
        assert sum(row["share"] for row in rows) == pytest.approx(100)
    assert {row["name"] for row in passes["forward_backward"]["kernels"] if row["attention"]} == set(flash.values())
    # What ran in a pass must not be more than the pass took, nor so little that half of it was missed.
    metrics = told.records[0]["metrics"]
    for name in passes:
        assert passes[name]["ms"] == metrics[f"{name}/kernel_time"]["value"] <= passes[name]["span_ms"]
        assert 0 < metrics[f"{name}/attention_kernels"]["value"] < 100
        assert 0 < metrics[f"{name}/busy"]["value"] <= 100
    assert not list(tmp_path.glob("attn-lab-scratch-*")), "scratch files are left behind"


def test_who_looks_inside_does_so_after_every_clock(door: Lab) -> None:
    told = door("probe=[accuracy,trace,timing]")
    assert told.code == 2
    assert "probe: expected trace after timing (what is looked into is not timed)" in told.err
    told = door("probe=[trace]")
    assert "probe: expected accuracy before trace" in told.err


def test_a_sweep_keeps_the_newest_profiles_and_says_what_it_removed(door: Lab) -> None:
    told = door(
        "+profile=trace", "probe=[accuracy]", "round=0,1,2,3", "logger.jsonl.total_mb=0.05", "shape.seq_len=8"
    )  # fmt: skip
    assert told.code == 0
    kept = [path for path in (told.folder / "runs/adhoc/profile").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in kept) <= 0.05 * 2**20
    indexed = [{each["path"] for each in record["artifacts"] if each["kind"] == "trace"} for record in told.records]
    there = {str(path.relative_to(told.folder / "runs/adhoc")) for path in kept}
    assert indexed[-1] <= there and not indexed[0] <= there
    written = sum(each["kind"] in ("trace", "kernels") for record in told.records for each in record["artifacts"])
    assert f"{written - len(kept)} of the oldest profile files removed (logger.jsonl.total_mb=0.05)" in told.out


def test_a_file_past_its_limit_is_left_out_and_the_record_says_why(door: Lab) -> None:
    told = door("+profile=trace", "probe=[accuracy,timing]", "logger.jsonl.file_mb=0.004")
    (entry,) = [each for each in told.records[0]["artifacts"] if each["kind"] == "trace"]
    assert entry["path"] is None and entry["size"] > 0.004 * 2**20
    assert re.fullmatch(r"trace.json.gz left out: \d\.\d MB, more than logger.jsonl.file_mb=0.004", entry["note"])
    assert "profile files left out (logger.jsonl.file_mb=0.004)" in told.out
    assert told.artifacts("samples")


@pytest.mark.parametrize("value", ["0", "-1", "x", "null", "true"])
def test_a_limit_that_is_none_is_refused_before_any_case_runs(door: Lab, value: str) -> None:
    told = door(f"logger.jsonl.total_mb={value}")
    assert told.code == 2
    assert "logger.jsonl.total_mb: expected " in told.err
    assert not told.lines


def test_a_file_goes_into_the_folder_whole_or_not_at_all(tmp_path: Path) -> None:
    def left(name: str, content: bytes) -> File:
        path = tmp_path / "scratch" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return File("trace", path)

    run = tmp_path / "run"
    shelf = ArtifactStore(run, 1, 2)
    entries: list[Any] = shelf.add("one", [left("a", b"first")])
    shelf.add("one", [left("a", b"second")])  # the same case, run again
    assert (run / entries[0]["path"]).read_bytes() == b"second"
    (run / "profile/two/b").mkdir(parents=True)  # where it is to go, nothing can be put
    with pytest.raises(OSError, match="profile/two/b"):
        shelf.add("two", [left("b", b"third")])
    assert [path.name for path in (run / "profile/two").iterdir()] == ["b"]


class Slow(torch.autograd.Function):
    """As it is, but it takes 30 ms forward and 60 ms backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        time.sleep(0.03)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        time.sleep(0.06)
        return gradient


class SlowAttention(Naive):
    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        attend = super().prepare(request, machine)
        return lambda q, k, v: Slow.apply(attend(q, k, v))


class SlowLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return Slow.apply(super().forward(x))


def look(module: nn.Module, step: Callable[[], object], folder: Path) -> dict[tuple[str, str], float]:
    """Milliseconds of each part, by (name, direction), of one step."""
    with ranged(module):
        recorded([Stage("step", lambda: None, lambda _: step())], "cpu", folder / "t.json.gz", active=1, quiet=1)
    found = phases_of(Trace(folder / "t.json.gz"), "step", "cpu")
    assert found is not None
    assert found.total == pytest.approx(found.ms, rel=0.001)
    assert sum(each.share for each in found.phases) == pytest.approx(100, rel=0.001)
    return {(each.name, each.direction): each.ms for each in found.phases}


class InOnePiece(Naive):
    """Prefers the projection whole, as pairs on a GPU do, and then goes another way."""

    def prepare(self, request: Request, machine: Machine) -> AttentionFn:
        attend = super().prepare(request, machine)
        by_parts = lambda q, k, v: attend(q, k, v)  # noqa: E731
        by_parts.packed = lambda packed, heads: attend(*packed.neg().neg().split(heads, dim=2)).flatten(2)
        return by_parts


def test_a_layer_is_looked_at_on_the_way_it_takes_unseen(tmp_path: Path) -> None:
    layer = Attention(64, 4, backend=InOnePiece())
    x = torch.randn(2, 16, 64, requires_grad=True)

    def step() -> None:
        torch.autograd.grad(layer(x).sum(), x)

    found = look(layer, step, tmp_path)
    assert found["attention", "forward"] > 0 and found["attention", "backward"] > 0
    operators = [event.name for event in Trace(tmp_path / "t.json.gz").events]
    recorded([Stage("step", lambda: None, lambda _: step())], "cpu", tmp_path / "u.json.gz", active=1, quiet=1)
    unseen = [event.name for event in Trace(tmp_path / "u.json.gz").events]
    assert [name for name in operators if not name.startswith("part: ")] == unseen and "aten::neg" in unseen


@pytest.mark.parametrize("slow", ["attention", "output_projection", "qkv_projection"])
def test_time_is_found_where_it_was_lost_forward_and_backward(slow: str, tmp_path: Path) -> None:
    layer = Attention(64, 4, backend=SlowAttention() if slow == "attention" else "naive", rope=10000.0)
    if slow != "attention":
        name = {"output_projection": "out", "qkv_projection": "qkv"}[slow]
        setattr(layer, name, SlowLinear(64, 64 if name == "out" else 192, bias=False))
    x = torch.randn(2, 16, 64, requires_grad=True)
    found = look(layer, lambda: torch.autograd.grad(layer(x).sum(), (x, *layer.parameters())), tmp_path)
    assert found[slow, "forward"] >= 30 and found[slow, "backward"] >= 60
    others = {key: ms for key, ms in found.items() if key[0] != slow}
    assert {("rope", "forward"), ("rope", "backward")} < set(others)
    assert max(others.values()) < 30


def test_looking_leaves_a_layer_as_it_was() -> None:
    layer = Attention(64, 4, backend="naive")
    x = torch.randn(2, 16, 64)
    before = layer(x)
    serving, known = layer._dispatcher, layer._known
    with ranged(layer):
        assert torch.equal(layer(x), before)
        with pytest.raises(BadRequest):
            layer(x[..., :32])
    assert layer._dispatcher is serving and layer._known is known and len(known) == 1
    assert not any(vars(each)[hooks] for each in layer.modules() for hooks in ("_forward_hooks", "_forward_pre_hooks"))
    assert torch.equal(layer(x), before)


def test_a_training_step_of_a_transformers_model_comes_apart(tmp_path: Path) -> None:
    """Its attention is a function looked up by name, its rotation and its loss are no modules, its optimizer none."""
    config = transformers.LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                                      num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
    transformers.AttentionInterface.register("looked_at", sdpa)
    transformers.AttentionMaskInterface.register("looked_at", transformers.masking_utils.sdpa_mask)
    model.set_attn_implementation("looked_at")
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(64, (2, 16))

    def step() -> None:
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    found = look(model, step, tmp_path)
    assert ALL_ATTENTION_FUNCTIONS["looked_at"] is sdpa
    transformers.AttentionInterface.register("looked_at", abs)
    assert ALL_ATTENTION_FUNCTIONS["looked_at"] is abs, "what was looked at hides what is registered later"
    both = ("qkv_projection", "rope", "attention", "output_projection", "mlp", "norm", "embedding", "head", "loss")
    assert {(part, direction) for part in both for direction in ("forward", "backward")} < set(found)
    assert found["optimizer", ""] > 0
    told = sum(ms for (part, _), ms in found.items() if part not in ("elsewhere", "idle"))
    assert told > sum(ms for (part, _), ms in found.items() if part == "elsewhere")


def test_phases_of_a_case_add_up_and_are_kept_beside_it(door: Lab) -> None:
    told = door(
        "backend=sdpa_flash", "+profile=phases", "probe=[accuracy,timing]", "subject=layer", "shape.seq_len=256"
    )
    metrics = {name: each["value"] for name, each in told.records[0]["metrics"].items() if name.startswith("phases/")}
    step, of_timed = metrics.pop("phases/step"), metrics.pop("phases/of_timed")
    assert sum(metrics.values()) == pytest.approx(step, rel=0.03) and of_timed > 0
    parts = ("qkv_projection", "attention", "output_projection")
    assert {f"phases/{direction}/{part}" for direction in ("forward", "backward") for part in parts} < set(metrics)
    (table,) = told.artifacts("phases")
    rows = json.loads(table.read_text())["forward_backward"]["phases"]
    assert {f"{each['name']} {each['direction']}": each["ms"] for each in rows} == {
        " ".join([*key.split("/")[:0:-1], ""][:2]): ms for key, ms in metrics.items()
    }  # fmt: skip
    told = door("+profile=phases", "probe=[accuracy]", "name=kernel")
    rows = told.records[1]["metrics"]
    alone = {name for name in rows if name.startswith("phases/") and rows[name]["unit"] == "ms"}
    assert {"phases/forward/attention", "phases/backward/attention"} <= alone
    assert not any("projection" in name for name in alone)


def test_memory_is_told_down_to_the_line_that_took_it(door: Lab) -> None:
    told = door(
        "backend=naive", "+profile=memory", "probe=[memory]", "subject=layer", "shape.seq_len=256", "shape.num_heads=8"
    )
    metrics = told.records[0]["metrics"]
    assert metrics["snapshot/peak"]["value"] == pytest.approx(metrics["memory/peak"]["value"], rel=0.001)
    assert 95 <= metrics["snapshot/explained"]["value"] <= 100.1
    (live,) = told.artifacts("live")
    largest = json.loads(live.read_text())["largest"]
    assert len(largest) == 10
    scores = 8 * 256 * 256 * 4  # what naive attention materialises, and nobody else in this step has as much
    assert [each["bytes"] for each in largest[:3]] == [scores] * 3 and largest[3]["bytes"] < scores
    for each in largest[:3]:
        assert re.search(r"attn_lab/backends/_materialised.py:\d+ (attend|under)", each["line"])
        assert each["part"] in ("attention", "attention, backward") and each["operator"].startswith("aten::")
    given = {each["line"]: each["bytes"] for each in largest if each["part"] == "before the step"}
    assert given["x, given"] == 256 * 128 * 4


def test_a_case_is_shown_whole_and_the_command_it_ends_with_asks_it_again(door: Lab) -> None:
    told = door("-m", "backend=naive,sdpa_flash", "subject=layer", "mask=sliding_window", "mask.window=24",
                "+profile=all", "shape.num_kv_heads=2", "seed=3", "aa_repeat=true", *SMALL)  # fmt: skip
    record = told.records[1]
    shown = door("show", record["case"]["id"][:6])
    assert shown.code == 0, shown.err
    assert record["case"]["id"] in shown.out and "sdpa_flash 2×64×4×128" in shown.out
    for title in ("asked", "measured", "against rivals", "kernels, backward", "phases of a forward_backward",
                  "largest at the peak", "files", "the same again"):  # fmt: skip
        assert f"\n{title}" in shown.out
    assert "the speed of naive" in shown.out and "A/A floor" in shown.out
    assert all(name in shown.out for name in record["metrics"])
    assert all(each["path"] in shown.out for each in record["artifacts"])
    again = door(*shlex.split(shown.out.strip().splitlines()[-1])[1:], "name=again")
    (new,) = [each for each in again.records if each["provenance"]["sweep"].startswith("again")]
    assert new["case"]["question"] == record["case"]["question"] and new["status"] == "ok"


def test_show_says_what_it_does_not_find(door: Lab) -> None:
    assert "no cases here" in door("show").out
    door("-m", "seed=0,1", "probe=[cold_start]")
    told = door("show", "nosuch")
    assert told.code == 2 and "got 'nosuch', which no record has in runs/adhoc" in told.err
    assert "or its first 4 characters" in door("show", "a").err


def test_nsight_refuses_what_it_cannot_look_at_or_with(door: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (record,) = door("probe=[cold_start]").records
    monkeypatch.setenv("PATH", "/nowhere")
    for tool, title in (("ncu", "Nsight Compute"), ("nsys", "Nsight Systems")):
        if not any(Path("/opt/nvidia").glob(f"nsight-*/**/{tool}")):
            told = door("nsight", record["case"]["id"], "--tool", tool)
            assert told.code == 2 and f"nsight: expected {title} ({tool} on PATH, or /opt" in told.err


def test_nsight_runs_a_pair_first_and_then_looks_for_its_gpu(
    lab: Lab, door: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as it goes without a GPU: asked by overrides, with a tool that is there but never called."""
    (tmp_path / "ncu").write_text("#!/bin/sh\nexit 7\n")
    (tmp_path / "ncu").chmod(0o755)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    words = ("backend=naive+sdpa_flash", "device=cpu", "logger=[jsonl]", *SMALL[:2], "probe=[accuracy]")
    told = lab("nsight", *words, **path)
    (record,) = told.records
    assert record["case"]["backend"] == "naive+sdpa_flash" and record["status"] == "ok"
    assert told.code == 2 and f"expected a case that ran on a CUDA GPU; got {record['case']['id']}, on " in told.err
    backend = case_under_nsight(find_case(record["case"]["id"], [tmp_path / "runs/adhoc"])).backend
    assert backend.kernels == {"forward": Naive.kernels["forward"], "backward": SdpaFlash.kernels["backward"]}
    kernels = ("cunn_SoftMaxForward", "void pytorch_flash::flash_bwd_dot", "void pytorch_flash::flash_fwd_kernel")
    assert [bool(re.search(filter_of(backend), each)) for each in kernels] == [True, True, False]
    monkeypatch.setenv("PATH", path["PATH"])
    told = door("nsight", "backend=nope")
    assert told.code == 2 and told.err.startswith("attn-lab: backend: expected one of ") and told.err.count("\n") == 1


RAW = """==PROF== Connected to process 41
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC",\
"dram__bytes_read.sum","dram__bytes_write.sum","dram__throughput.avg.pct_of_peak_sustained_elapsed",\
"gpu__time_duration.sum","sm__inst_executed_pipe_tensor_op_hmma.avg.pct_of_peak_sustained_active",\
"sm__throughput.avg.pct_of_peak_sustained_elapsed","sm__warps_active.avg.pct_of_peak_sustained_active",\
"smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio",\
"smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",\
"smsp__average_warps_issue_stalled_math_pipe_throttle_per_issue_active.ratio",\
"smsp__average_warps_issue_stalled_selected_per_issue_active.ratio",\
"smsp__average_warps_issue_stalled_wait_per_issue_active.ratio"
"","","","","","","","","","","","byte","byte","%","ns","%","%","%","","","","",""
"0","41","python3.12","host","void flash::flash_fwd_kernel<Traits<64, 128>>(flash::Flash_fwd_params)",\
"1","7","(128, 1, 1)","(8, 16, 32)","0","9.0","201,326,592","67,108,864","28.5","301,000","41.2","55.1","18.3",\
"0.1","1.9","2.4","1","0.8"
"1","41","python3.12","host","void pytorch_flash::flash_fwd_kernel<int>()","1","7","(128, 1, 1)","(8, 16, 32)","0",\
"9.0","1","1","nan","1","n/a","2","3","0","0","0","1","0"
"""  # as Nsight Compute's guide describes the raw page with --csv


def test_raw_counters_become_the_few_that_tell(tmp_path: Path) -> None:
    own, other = counted(RAW)
    assert own.name.startswith("void flash::flash_fwd_kernel")
    assert own.counters == {
        "time us": 301.0, "SM busy %": 55.1, "tensor cores %": 41.2, "DRAM busy %": 28.5, "occupancy achieved %": 18.3,
        "DRAM MB": 256.0, "stalled, math_pipe_throttle": 2.4, "stalled, long_scoreboard": 1.9, "stalled, wait": 0.8,
    }  # fmt: skip
    assert "DRAM busy %" not in other.counters and "tensor cores %" not in other.counters
    assert [name for name, _ in passes_of(Flash2(), [own, other])] == ["forward"]
    with pytest.raises(ValueError, match="no line of heads"):
        counted("==ERROR== The application returned an error code (1).\n")


def test_kernels_are_told_by_whole_names_or_it_is_noted_that_they_were_not() -> None:
    """Nsight's demangled names are without namespaces, so mangled ones are asked for; this is what each looks like."""
    own, pytorch = "N5flash16flash_fwd_kernelI6TraitsILi64EEEE", "N13pytorch_flash16flash_fwd_kernelI6TraitsILi64EEEE"
    whole = "void flash::flash_fwd_kernel<Traits<64, 128>>(flash::Flash_fwd_params)"
    mangled = counted(
        RAW.replace(whole, f"_Z{own}vi").replace("void pytorch_flash::flash_fwd_kernel<int>()", f"_Z{pytorch}vi")
    )
    assert mangled[0].name == "void flash::flash_fwd_kernel<Traits<64> >(int)"
    for who, index in ((Flash2(), 0), (SdpaFlash(), 1)):
        assert list(passes_of(who, mangled)) == [("forward", mangled[index])]
        assert patterns_of(who, mangled) == (who.kernels, "")
    assert short_name(mangled[0].name) == "flash::flash_fwd_kernel"
    bare = counted(re.sub(r"\w+::", "", RAW))
    assert [row.name[:21] for row in bare] == ["void flash_fwd_kernel"] * 2
    assert [name for name, _ in passes_of(Flash2(), bare)] == ["forward"] * 2
    assert list(passes_of(Flash4(), bare)) == []
    patterns, note = patterns_of(Flash2(), bare)
    assert patterns == {"forward": "flash_fwd", "backward": "flash_bwd"} and "without namespaces" in note
    assert patterns_of(Flash4(), bare) == (Flash4.kernels, "")
    seen = [{"pass": name, "note": note, **asdict(row)} for name, row in passes_of(Flash2(), bare)]
    assert dict(metrics(seen, {}))["nsight/forward/time"]["note"].startswith(f"{note}; void flash_fwd")


@pytest.mark.parametrize("name", backend_names())
def test_a_filter_for_nsight_lets_through_all_that_a_backend_declares(name: str) -> None:
    """It is of a dialect without look-behind and flags, and must not be narrower for it."""
    (who,) = backends_named(name) if name != "paired" else backends_named("sdpa_cudnn+flash4")
    wide = filter_of(who)
    assert not re.search(r"\(\?", wide)
    kernels = ["void flash::flash_fwd_kernel<x>", "void pytorch_flash::flash_bwd_dot", "SoftMaxForward", "softmax_warp",
               "cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "fmha_cutlassB_f16",
               "triton_tem_fused_flex_attention_0", "kernel_cutlass_kernel_flash_attncuteflash_bwd_sm90",
               "flash::enable<flash::FlashAttnFwdSm90<x>>"]  # fmt: skip
    for kernel in kernels:
        if any(re.search(pattern, kernel) for pattern in who.kernels.values()):
            assert re.search(wide, kernel)


def test_a_loop_of_ones_own_is_looked_into_and_kept_as_any_record(tmp_path: Path) -> None:
    model = nn.Sequential(Attention(64, 4, backend="sdpa_flash", rope=10000.0), nn.LayerNorm(64), nn.Linear(64, 64))
    before = copy.deepcopy(vars(model[0]))
    looking = loop(model, 12, tmp_path / "mine", subject="toy")
    (row,) = records(tmp_path / "mine").records
    assert row.status == "ok" and (row.backend, row.mask, row.subject) == ("sdpa_flash", "causal", "toy")
    assert [row.shape[axis] for axis in ("batch_size", "seq_len", "num_heads", "emb_dim")] == [2, 16, 4, 64]
    assert looking.record is not None and row.id == looking.record.case["id"] and looking.steps < 12
    assert {each["kind"] for each in row.artifacts} == {"trace", "kernels", "phases", "live"}
    parts = [f"phases/{direction}/{part}" for direction in ("forward", "backward")
             for part in ("qkv_projection", "rope", "attention", "output_projection", "norm")]  # fmt: skip
    assert {*parts, "phases/optimizer"} < set(row.metrics)
    assert 0 < (row.number("train_step/attention_kernels") or 0) < 100
    assert 95 <= (row.number("snapshot/explained") or 0) <= 100.1
    assert type(model[0]._dispatcher) is type(before["_dispatcher"])
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


def test_a_loop_too_short_is_told_so_in_its_record_and_left_in_peace(tmp_path: Path) -> None:
    model = nn.Sequential(Attention(64, 4, backend="naive"))
    with pytest.warns(UserWarning, match="phases: expected 7 steps; the loop had 5"):
        loop(model, 5, tmp_path, probes=["trace", "phases"])
    (row,) = records(tmp_path).records
    assert row.status == "error" and row.reasons == ["phases: expected 7 steps; the loop had 5"]
    assert "train_step/kernels" in row.metrics
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
    with pytest.raises(ZeroDivisionError), profile(model, folder=tmp_path):
        _ = 1 / 0
    assert records(tmp_path).records[-1].reasons[0] == "ZeroDivisionError: division by zero"
    with pytest.raises(BadRequest, match="expected probes, some of trace, phases, snapshot; got \\['tracer'\\]"):
        profile(model, ["tracer"])


def test_an_error_inside_or_on_entering_leaves_neither_lock_nor_hooks(tmp_path: Path, monkeypatch: Any) -> None:
    model = nn.Sequential(Attention(64, 4, backend="naive"))
    looking = profile(model, folder=tmp_path, wait=0)
    with pytest.raises(ZeroDivisionError), looking:  # in the middle of a probe
        model(1 / 0)
    monkeypatch.setattr(RunStore, "repair", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        profile(model, folder=tmp_path).__enter__()
    monkeypatch.undo()
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
    RunStore(tmp_path).lock().release()


@pytest.mark.timeout(300)
def test_under_ddp_rank_0_records_and_the_other_ranks_train_on(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(train_rank, (str(tmp_path),), nprocs=2)
    (row,) = records(tmp_path / "run").records
    assert row.status == "ok" and row.metrics["train_step/kernels"]


def test_a_training_that_raises_leaves_neither_lock_nor_hooks(tmp_path: Path) -> None:
    model = nn.Sequential(Attention(64, 4, backend="naive"))
    callback = ProfileCallback(probes=["phases"], folder=tmp_path, wait=0)
    callback.on_train_begin(None, None, None, model=model)
    callback.on_step_end(None, None, None)
    assert any(each._forward_pre_hooks for each in model.modules())
    del callback  # as the Trainer does once its own caller lets go of it
    gc.collect()
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
    RunStore(tmp_path).lock().release()


def test_transformers_trainer_takes_it_as_a_callback(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    rows = [{"input_ids": tokens, "labels": tokens} for tokens in torch.randint(64, (16, 16))]
    callback = ProfileCallback(probes=["phases"], folder=tmp_path / "mine", active=1, subject="gpt2")
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[callback]).train()
    (row,) = records(tmp_path / "mine").records
    assert row.status == "ok" and row.backend == "sdpa"
    assert {"phases/forward/attention", "phases/backward/mlp", "phases/backward/loss", "phases/optimizer"} < set(
        row.metrics
    )
    assert callback.record.case["shape"]["num_heads"] == 2


def test_files_reach_a_server_as_artifacts_from_wherever_the_folder_is_by_then(lab: Lab, tmp_path: Path) -> None:
    told = lab("+profile=trace", "probe=[accuracy]", "logger=[wandb,jsonl]", "logger.wandb.mode=offline", *SMALL[:2])
    (record,) = told.records
    kept = {Path(each["path"]).name: (tmp_path / "runs/adhoc" / each["path"]).read_bytes()
            for each in record["artifacts"]}  # fmt: skip
    (tmp_path / "runs/adhoc").rename(tmp_path / "carried")
    with closing(Loopback()) as server:
        sent = lab("wandb-sync", "carried", **server.environment(), **HASTY)
        assert sent.code == 0, sent.out + sent.err
    ((name, artifact),) = server.artifacts.items()
    assert (name, artifact["type"]) == (f"profile-{record['case']['id']}", "profile")
    assert server.runs[artifact["run"]]["job_type"] == "case"
    assert set(kept) == {"trace.json.gz", "kernels.json"}
    assert kept == {file: content for file, content in artifact["files"].items() if file in kept}


def test_what_stands_under_nsight_is_the_case_as_it_was_asked(door: Lab, tmp_path: Path) -> None:
    told = door("backend=sdpa_flash", "mask=sliding_window", "mask.window=24", "probe=[cold_start]", *SMALL[:2])
    kept = find_case(told.records[0]["case"]["id"], [told.folder / "runs/adhoc"])
    (tmp_path / "case.json").write_text(json.dumps(packed(case_under_nsight(kept))))
    run_single_case(tmp_path / "case.json", tmp_path / "record.jsonl")
    record = json.loads((tmp_path / "record.jsonl").read_text())
    config = {**told.records[0]["provenance"]["config"], "probe": PROBE, "passes": ["forward", "backward"]}
    assert record["status"] == "ok", record["reasons"]
    assert record["provenance"]["config"] == config
    assert record["metrics"]["nvtx/passes"]["note"] == "no CUDA here"
    read_and_written = 4 * 2 * 64 * 128 * 4  # q, k, v and out, each (2, 64, 128) of 4 bytes
    assert record["metrics"]["forward/min_bytes"]["value"] * 2**20 == read_and_written
    assert record["metrics"]["backward/min_bytes"]["value"] * 2**20 == 2 * read_and_written


def test_counters_are_a_later_line_of_the_same_case_with_all_it_had(door: Lab, tmp_path: Path) -> None:
    told = door("backend=sdpa_flash", "probe=[accuracy,timing]", *SMALL[:2])
    (before,) = told.records
    seen = [{"pass": name, "note": "", **asdict(row)} for name, row in passes_of(Flash2(), counted(RAW))]
    (tmp_path / "counters.json").write_text(json.dumps(seen))
    least = {"forward/min_bytes": {"value": 128.0}}
    keep(
        find_case(before["case"]["id"], []),
        [File("counters", tmp_path / "counters.json")],
        dict(metrics(seen, least)),
        1,
    )
    first, now = told.records
    assert first == before and {**now["metrics"], **before["metrics"]} == now["metrics"]
    assert now["metrics"]["nsight/forward/tensor_cores"]["value"] == 41.2
    assert now["metrics"]["nsight/forward/stalled_math_pipe_throttle"]["unit"] == "warps"
    assert now["metrics"]["nsight/forward/dram_over_min"]["value"] == 2.0
    assert now["metrics"]["nsight/forward/dram_over_min"]["note"] == "256 MB moved by 1 kernels, 128 MB must be"
    assert [each["kind"] for each in now["artifacts"]] == ["samples", "counters"]
    assert "1 done, 0 stale, 0 todo" in door("status", "backend=sdpa_flash", "probe=[accuracy,timing]", *SMALL[:2]).out
    assert re.search(r"Nsight Compute\n.*\n.*tensor cores % +41\.2", door("show", before["case"]["id"]).out, re.DOTALL)
