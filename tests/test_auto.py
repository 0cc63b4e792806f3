"""backend="auto": it follows a table, or measures once; says what it selected and why; is one rival in a sweep."""

import copy
import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import asdict, replace

import pytest
import torch
from conftest import environment
from torch.utils.checkpoint import checkpoint
from written import line, run

from attn_lab import Attention, convert
from attn_lab.backends.naive import Naive
from attn_lab.backends.sdpa_flash import SdpaFlash
from attn_lab.core.errors import BadRequest, Unsupported
from attn_lab.core.machine import detect
from attn_lab.core.request import PASSES, Request
from attn_lab.core.shape import Shape
from attn_lab.masks.causal import Causal
from attn_lab.masks.sliding_window import SlidingWindow
from attn_lab.nn.auto import autotune as spot
from attn_lab.nn.auto import cache as kept
from attn_lab.nn.auto.auto import Auto, bucket_of
from attn_lab.nn.auto.bucket import Bucket
from attn_lab.nn.auto.table import DispatchTable, Entry, Ranking
from attn_lab.selfcheck.faults import FaultyBackend, NanAtTheEnd, WrongHeads

HERE = detect("cpu").name
SIZES = Shape(batch_size=2, seq_len=64, num_heads=4, emb_dim=32, dtype="float32")
POINT = Bucket.of("causal", asdict(SIZES))


def table(step=("naive",), forward=("sdpa_flash",), gpu=HERE, bucket=POINT) -> DispatchTable:
    passes = {name: Ranking({who: 1.0 + place for place, who in enumerate(order)}, f"1 ms, ahead in {name}")
              for name, order in (("forward_backward", step), ("forward", forward))}  # fmt: skip
    return DispatchTable(gpu=gpu, entries={bucket: Entry(passes, ("2×64",))}, made={"last": "2026"})


def x(seq_len: int = 64, **options) -> torch.Tensor:
    return torch.randn(2, seq_len, 32, **options)


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A cache with nothing in it; the folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/attn_lab"


def test_a_plan_is_followed_training_by_its_step_and_inference_by_its_forward():
    layer = Attention(32, 4, table=table())
    assert layer.backend is None
    out = layer(x(requires_grad=True))
    assert layer.backend == Naive()
    out.sum().backward()
    with torch.no_grad():
        layer(x())
    assert layer.backend == SdpaFlash()
    training, inference = map(str, layer.choices)
    assert "Naive (naive, by a table: causal float32, head_dim 8, kv_ratio 1" in training
    assert "1 ms, ahead in forward_backward" in training and "1 ms, ahead in forward)" in inference


def test_whom_the_plan_prefers_and_is_not_here_is_passed_over_with_the_reasons(tmp_path):
    table(step=("flash4", "of_a_later_version", "naive")).write(tmp_path / "table.json")
    layer = Attention(32, 4, table=str(tmp_path / "table.json"))
    layer(x())
    (choice,) = layer.choices
    assert choice.backend == Naive()
    assert list(choice.passed_over) == ["flash4", "of_a_later_version"]
    assert any("needs package flash-attn-4" in why for why in choice.passed_over["flash4"])
    assert "flash4, which cannot here, was faster" in str(choice) and "no such backend in this version" in str(choice)


def test_outside_every_bucket_the_nearest_is_followed_and_said_once():
    layer = Attention(32, 4, table=table())
    with pytest.warns(
        UserWarning, match=r"auto takes naive.*seq_len 64; nearest to causal.*seq_len 256, which is in no"
    ):
        layer(x(256))
    assert "nearest to causal float32" in str(layer.choices[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x(256))
        layer(x(64))
        layer(x(60))  # in the bucket
    assert "nearest" not in str(layer.choices[-1])


def test_a_plan_of_another_gpu_is_refused_unless_asked_for(tmp_path):
    other = table(gpu="NVIDIA H100 80GB HBM3")
    with pytest.raises(Unsupported, match=r"Auto refuses: table a table: made on NVIDIA H100.*; this is .*any_gpu"):
        Attention(32, 4, table=other)(x())
    for asked in (other.on_any_gpu(), replace(other, any_gpu=True)):
        layer = Attention(32, 4, table=asked)
        layer(x())
        assert layer.backend == Naive()
    other.write(tmp_path / "table.json")
    assert Auto(tmp_path / "table.json", any_gpu=True).unsupported_reasons(request(), detect("cpu")) == []
    with pytest.raises(BadRequest, match="any_gpu: expected a table with it"):
        Auto(any_gpu=True)
    with pytest.raises(BadRequest, match="table: expected a DispatchTable, or the file of one; got 3"):
        Attention(32, 4, table=3)


def request(mask=None, passes=PASSES, **shape) -> Request:
    return Request(shape=replace(SIZES, **shape), mask=mask or Causal(), passes=passes)


def test_a_mask_or_dtype_the_plan_does_not_know_is_measured_on_the_spot(fresh):
    layer = Attention(32, 4, table=table(), mask=SlidingWindow(window=9))
    layer(x())
    (file,) = fresh.glob("measured-*.json")
    assert "measured here" in str(layer.choices[-1]) and "sliding_window window=9" in file.read_text()
    decoding = Attention(32, 4, table=table())
    with torch.no_grad():
        cache = decoding.new_cache(2, 70)
        decoding(x(64), cache=cache)
        decoding(x(1), cache=cache)
    assert "measured here" in str(decoding.choices[-1])


def test_documents_and_windows_of_another_length_are_measured_once_a_bucket(fresh):
    layer = Attention(32, 4, backend="auto", mask="causal")
    packed = torch.randn(1, 64, 32)
    whole = layer(packed, cu_seqlens=[0, 30, 64])
    torch.testing.assert_close(whole[:, :30], layer(packed[:, :30]), atol=1e-5, rtol=1e-4)
    before = next(fresh.glob("measured-*.json")).read_text()
    layer(packed, cu_seqlens=[0, 10, 64])
    assert (
        next(fresh.glob("measured-*.json")).read_text() == before and '"mask": "Documents inside=(None, 0)"' in before
    )


def test_without_a_plan_it_is_measured_once_and_kept_for_the_next_process(fresh):
    script = """
import sys, torch
from attn_lab import Attention
from attn_lab.nn.auto import cache as kept
if sys.argv[1] == "second":
    kept.race = None  # whoever measured again would fail
layer = Attention(32, 4)
layer(torch.randn(2, 64, 32))
print(layer.choices[-1].why)
"""
    told = [
        subprocess.run([sys.executable, "-c", script, turn], env=environment(fresh.parent, {}), text=True, check=True,
                       capture_output=True).stdout for turn in ("first", "second")
    ]  # fmt: skip
    (file,) = fresh.glob("measured-*.json")
    assert told[0] == told[1] and "ms, " in told[0] and file.name in told[0]
    (file,) = fresh.glob("measured-*.json")
    ((bucket, entry),) = DispatchTable.read(file).entries.items()
    assert bucket == POINT and entry.passes["forward_backward"].first in told[0]
    assert set(entry.passes["forward_backward"].ms) == {"sdpa_flash", "sdpa_math", "naive_fp32"}


def test_a_cache_that_cannot_be_read_or_written_is_said_and_the_answer_is_the_same(fresh):
    fresh.mkdir(parents=True)
    layer = Attention(32, 4)
    layer(x())
    (file,) = fresh.glob("measured-*.json")
    for broken in (b"{", b"\xff\xfe"):
        file.write_bytes(broken)
        kept._READ.clear()
        told = "what is measured on the spot is not kept: table .*expected a table.*remove it, and it is made anew"
        with pytest.warns(UserWarning, match=told):
            Attention(32, 4)(x())
    kept._READ.clear()
    file.unlink()
    shutil.rmtree(fresh)
    fresh.write_text("a file where the folder should be")
    layer = Attention(32, 4)
    with pytest.warns(UserWarning, match="what is measured on the spot is not kept"):
        layer(x())
    assert "measured here" in str(layer.choices[-1])


class Hungry(FaultyBackend):
    def answer(self, attend, q, k, v):
        raise torch.OutOfMemoryError("as CUDA's allocator says it")


def test_a_kernel_that_is_wrong_or_has_no_memory_is_not_measured():
    able = {"naive": Naive(), "heads": WrongHeads(), "nan": NanAtTheEnd(), "memory": Hungry()}
    times, fallen = spot.race(able, request(num_kv_heads=2), detect("cpu"))
    assert list(times) == ["naive"] and times["naive"] > 0
    assert set(fallen) == {"heads", "nan", "memory"} and "its answer is off by" in fallen["heads"][0]


def test_the_fastest_is_taken_and_of_two_that_are_level_the_preferred():
    ranked = kept.ranked({"slow": 2.0, "preferred": 1.01, "level": 1.0})
    assert list(ranked.ms) == ["preferred", "level", "slow"] and "level with level" in ranked.why
    assert kept.ranked({"slow": 2.0, "fast": 1.0}).why == "1 ms, 2.00× ahead of slow"


def test_measuring_leaves_no_trace_in_randomness_gradients_or_what_watches(fresh):
    layer = Attention(32, 4)
    given = x(requires_grad=True)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    layer(given)
    assert torch.equal(torch.rand(3), expected)
    again = Attention(32, 4)
    again.load_state_dict(layer.state_dict())
    kept._READ.clear()
    next(fresh.glob("measured-*.json")).unlink()
    parameters = [given, *again.parameters()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        recomputed = checkpoint(again, given, use_reentrant=False)
    half = torch.autograd.grad(recomputed.float().sum(), parameters)
    whole = torch.autograd.grad(layer(given).sum(), [given, *layer.parameters()])
    for one, other in zip(half, whole, strict=True):
        torch.testing.assert_close(one, other, atol=0.3, rtol=0.1)
    assert "bfloat16" in str(again.choices[-1]) and "measured here" in str(again.choices[-1])


FAR = replace(POINT, seq_len=4096, seq_len_kv=4096)


@pytest.mark.filterwarnings("ignore:attn_lab. auto takes")
@pytest.mark.parametrize("given", [None, table(), table(bucket=FAR)], ids=["measured", "planned", "nearest"])
def test_it_compiles_in_one_piece_is_exported_copied_and_swapped(given, fresh):
    layer = Attention(32, 4, table=given)
    inputs = x()
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend="eager")(inputs)
        again = copy.deepcopy(layer)
        torch.testing.assert_close(again(inputs), compiled)
        exported = torch.export.export(Attention(32, 4, table=given).eval(), (inputs,)).module()
        assert exported(inputs).shape == compiled.shape
    layer.backend = "sdpa_flash"
    assert layer.backend == SdpaFlash()
    layer.backend = "auto"
    torch.testing.assert_close(layer(inputs), compiled)
    assert ("by a table" in layer.choices[-1].why) == (given is not None)


def test_it_goes_into_other_peoples_models(fresh):
    model = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
    inputs = x()
    expected = model(inputs)
    torch.testing.assert_close(convert(copy.deepcopy(model), backend="auto")(inputs), expected)
    padding = torch.zeros(2, 64, dtype=torch.bool)
    padding[1, 50:] = True
    expected = model(inputs, src_key_padding_mask=padding)
    actual = convert(copy.deepcopy(model), backend=Auto(table()))(inputs, src_key_padding_mask=padding)
    torch.testing.assert_close(actual[~padding], expected[~padding])


def test_transformers_has_it_by_name(fresh):
    transformers = pytest.importorskip("transformers")
    from attn_lab.integrations.transformers import register

    assert register()["auto"] == "lab_auto"
    config = transformers.LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
                                      vocab_size=50)  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    tokens = torch.arange(12)[None]
    expected = model(tokens).logits
    model.set_attn_implementation("lab_auto")
    torch.testing.assert_close(model(tokens).logits, expected)


def test_it_is_a_rival_in_a_sweep_whose_record_says_whom_it_took(door, tmp_path, monkeypatch):
    table(step=("flash4", "sdpa_math", "naive")).write(tmp_path / "table.json")
    words = ("-m", "backend=sdpa_flash,auto", "table=table.json", "shape.seq_len=64", "shape.batch_size=2",
             "shape.emb_dim=32", "name=rivals")  # fmt: skip
    told = door(*words)
    assert told.statuses == ["ok", "ok"], told.records
    single, auto = told.records
    assert (auto["case"]["backend"], single["case"]["backend"]) == ("auto", "sdpa_flash")
    choice = auto["metrics"]["selection/rank"]
    assert choice["value"] == 2 and choice["note"].startswith("sdpa_math, by table.json: causal float32, head_dim 8")
    assert "softmax" in auto["metrics"]["kernel_check/kernels"]["note"]  # the kernels of whom it took
    assert auto["provenance"]["versions"]["table"] == DispatchTable.read(tmp_path / "table.json").digest
    assert "selection/rank" not in single["metrics"] and "table" not in single["provenance"]["versions"]
    assert "2 done before" in door(*words).out
    table(step=("naive",)).write(tmp_path / "table.json")  # another table in the same file is another answer
    again = door(*words)
    assert "1 done before" in again.out
    assert again.records[-1]["metrics"]["selection/rank"]["note"].startswith("naive, by table.json")


def test_in_a_sweep_a_plan_of_another_gpu_is_refused_and_a_bad_one_ends_it_before_the_first_case(door, tmp_path):
    table(gpu="NVIDIA H100 80GB HBM3").write(tmp_path / "table.json")
    told = door("backend=auto", "table=table.json", "probe=[accuracy]")
    assert told.statuses == ["unsupported"] and "made on NVIDIA H100" in told.records[0]["reasons"][0]
    told = door("backend=auto", "table=nowhere.json")
    assert told.code == 2 and "table nowhere.json: expected a file of attn-lab tune" in told.err


def test_why_tells_whom_it_takes_by_which_figures_and_who_could_not(door, tmp_path):
    table(step=("flash4", "naive")).write(tmp_path / "table.json")
    words = ("shape.batch_size=2", "shape.seq_len=60", "shape.emb_dim=32", "device=cpu")
    told = door("explain", "table=table.json", *words)
    assert told.code == 0, told.err
    training, inference = told.out.split("inference:")
    assert "training: naive, by table.json" in training and "inference: sdpa_flash" in "inference:" + inference
    assert "bucket: causal float32, head_dim 8, kv_ratio 1, batch×heads 8, seq_len 64; exactly this shape's" in training
    assert "passed over: flash4: devices: cuda; asked cpu; needs package flash-attn-4" in training
    assert "flash4         1 ms   1.00×" in training and "naive          2 ms   2.00×" in training
    assert "kernels match: forward (?i)softmax · backward (?i)softmax" in training and "backward" not in inference
    assert "inference" not in door("explain", "table=table.json", "passes=[forward_backward]", *words).out
    table(gpu="NVIDIA H100 80GB HBM3").write(tmp_path / "table.json")
    told = door("explain", "table=table.json", *words)
    assert told.code == 1 and "training: no backend" in told.out
    assert "unsupported: table table.json: made on NVIDIA" in told.out
    assert "naive" in told.out  # what the table says is told all the same
    for word in ("shape", "-m", "backend=naive", "shap=3"):
        told = door("explain", word)
        assert told.code == 2 and told.err.count("\n") == 1


def test_doctor_says_what_it_would_do(door):
    assert "no table for this machine: measures on the spot, once" in door("doctor", "device=cpu").out


def test_records_to_plan_to_layer(tmp_path):
    """The whole way: the lab's records of this machine, the table they make, the layer that follows it."""
    machine = {"device": "cpu", "name": HERE}
    sizes = asdict(SIZES)
    run(
        tmp_path / "runs",
        line("naive", 1.0, machine=machine, **sizes),
        line("sdpa_math", 2.0, machine=machine, **sizes),
    )
    from attn_lab.cli.main import execute

    execute(["tune", str(tmp_path / "runs"), "-o", str(tmp_path / "table.json")])
    layer = Attention(32, 4, table=tmp_path / "table.json")
    layer(x())
    assert layer.backend == Naive() and "faster than sdpa_math" in str(layer.choices[-1])
    assert json.loads((tmp_path / "table.json").read_text())["made"]["records"] == 2
    assert bucket_of(request()) == POINT
