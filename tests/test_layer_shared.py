"""One layer in several threads, one cache file for several processes, several ranks, several GPUs, no home at all."""

import copy
import json
import pwd
import subprocess
import sys
import threading
import warnings

import pytest
import torch
from conftest import environment, sdpa_flags
from torch.nn.attention import SDPBackend

from attn_lab import Attention
from attn_lab.backends._one_sdpa import by_flags
from attn_lab.backends.naive import Naive
from attn_lab.core import machine as machines
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import Machine, detect
from attn_lab.core.request import Request
from attn_lab.core.shape import Shape
from attn_lab.masks.full import Full
from attn_lab.nn.auto import cache as kept
from attn_lab.nn.auto.auto import Auto
from attn_lab.nn.auto.table import DispatchTable

close = torch.testing.assert_close


def in_threads(number, work):
    """work(i) in each of them, all begun together; what they raised is raised here."""
    barrier, raised = threading.Barrier(number), []

    def run(each):
        barrier.wait()
        try:
            work(each)
        except BaseException as error:  # noqa: BLE001  whatever it is, it belongs to the test
            raised.append(error)

    threads = [threading.Thread(target=run, args=(each,)) for each in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


@pytest.fixture
def eager_switching():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("backend", ["naive", "sdpa_flash", "sdpa_math", ["flash2", "naive"]], ids=str)
@pytest.mark.parametrize("options", [{}, {"rope": 10000.0, "qk_norm": True}], ids=["plain", "rope"])
def test_eight_threads_share_a_layer(backend, options, eager_switching):
    layer = Attention(32, 4, backend=backend, **options)
    exact = copy.deepcopy(layer)
    exact.backend = "naive"
    x = torch.randn(1, 64, 32)
    bounds = [[0, at, 64] for at in range(1, 63)]
    expected = [exact(x, cu_seqlens=each).detach() for each in bounds]
    plain = {length: exact(x[:, :length]).detach() for length in range(1, 40)}

    def serve(thread):
        for call in range(60):
            which = (7 * thread + call) % len(bounds)
            given = bounds[which] if call % 2 else torch.tensor(bounds[which])
            with torch.set_grad_enabled(call % 3 > 0):
                close(layer(x, cu_seqlens=given).detach(), expected[which])
                length = 1 + (5 * thread + call) % 39
                close(layer(x[:, :length]).detach(), plain[length])
            assert layer.choices

    in_threads(8, serve)
    assert len(layer.choices) <= 300


@pytest.mark.parametrize("implementation", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], ids=lambda each: each.name)
def test_threads_that_set_torchs_flags_put_back_what_was(implementation, eager_switching):
    """On a GPU the masked forms of sdpa_flash, sdpa_efficient and sdpa_cudnn set them at each call."""
    request = Request(shape=Shape(batch_size=1, seq_len=8, num_heads=2, emb_dim=16, dtype="float32"), mask=Full())
    masked, q = by_flags(implementation, request), torch.randn(1, 2, 8, 8)
    allowed = torch.ones(8, 8, dtype=torch.bool).tril()
    before = sdpa_flags()
    expected = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)

    def serve(thread):
        for _ in range(200):
            close(masked(q, q, q, allowed, False), expected)

    in_threads(8, serve)
    assert sdpa_flags() == before


def test_more_questions_than_are_remembered_in_several_threads(eager_switching, monkeypatch):
    monkeypatch.setattr("attn_lab.nn.dispatcher.MOST", 8)
    monkeypatch.setattr("attn_lab.nn.attention.MOST", 8)
    layer = Attention(32, 4, backend="naive")
    x = torch.randn(1, 64, 32)

    def serve(thread):
        for call in range(150):
            length = 1 + (11 * thread + call) % 60
            assert layer(x[:, :length]).shape == (1, length, 32)

    in_threads(8, serve)
    assert len(layer.choices) <= 16


def test_threads_that_ask_auto_at_once_measure_once_and_take_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    races, race = [], kept.race
    monkeypatch.setattr(kept, "race", lambda *given: races.append(given) or race(*given))
    layers = [Attention(32, 4) for _ in range(6)]
    in_threads(6, lambda each: layers[each](torch.randn(1, 33, 32)))
    assert len(races) == 1 and len({str(layer.backend) for layer in layers}) == 1


def test_processes_that_measure_at_once_lose_nothing_of_each_others(tmp_path):
    script = """
import sys, torch
from attn_lab import Attention
from attn_lab.nn.auto import autotune as spot
spot.SECONDS = 0.01
for length in map(int, sys.argv[1:]):
    Attention(32, 4)(torch.randn(1, length, 32))
"""
    lengths = [[16, 64, 256], [32, 128, 512], [16, 32, 1024]]
    running = [
        subprocess.Popen([sys.executable, "-W", "error::UserWarning", "-c", script, *map(str, each)],
                         env=environment(tmp_path, {"XDG_CACHE_HOME": str(tmp_path)}), stderr=subprocess.PIPE)
        for each in lengths
    ]  # fmt: skip
    told = [process.communicate(timeout=110)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0] * len(lengths), told
    (file,) = (tmp_path / "attn_lab").glob("measured-*.json")
    assert {bucket.seq_len for bucket in DispatchTable.read(file).entries} == {16, 32, 64, 128, 256, 512, 1024}


# --- no home


def nobody(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")


@pytest.mark.parametrize("cache", [None, "own"])
def test_without_home_and_passwd_the_layer_answers_all_the_same(cache, monkeypatch, tmp_path):
    kept._READ.clear()
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.chdir(tmp_path)
    if cache:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
    else:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        layer = Attention(32, 4)
        assert layer(torch.randn(1, 19, 32)).shape == (1, 19, 32)
    kept._READ.clear()
    told = [str(each.message) for each in told if "not kept" in str(each.message)]
    if cache:
        assert not told and list((tmp_path / cache / "attn_lab").glob("measured-*.json"))
    else:
        assert told and "expected HOME or XDG_CACHE_HOME" in told[0] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["[" * 100_000, "{}", "", '{"schema": 1}'])
def test_a_spoilt_file_is_told_of_and_answers_come_all_the_same(content, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept._READ.clear()
    path = kept.AutotuneCache.of(detect("cpu")).path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    kept._READ.clear()
    with pytest.warns(UserWarning, match="what is measured on the spot is not kept"):
        assert Attention(32, 4)(torch.randn(1, 21, 32)).shape == (1, 21, 32)
    kept._READ.clear()


def test_a_plan_that_names_auto_is_no_endless_question(tmp_path):
    from attn_lab.nn.auto.bucket import Bucket
    from attn_lab.nn.auto.table import Entry, Ranking

    bucket = Bucket("causal", "float32", 8, 1, 8, 64, 64)
    table = DispatchTable(detect("cpu").name, {bucket: Entry({"forward": Ranking({"auto": 1.0, "naive": 2.0})})})
    layer = Attention(32, 4, table=table)
    with torch.no_grad():
        layer(torch.randn(2, 64, 32))
    assert layer.backend == Naive() and "auto refuses" in str(layer.choices[-1])


# --- several ranks


RANK = """
import json, sys, torch, torch.distributed as dist
from attn_lab import Attention
from attn_lab.nn.auto import cache as kept
rank, world, folder, table = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4] or None
def race(*given):
    raise AssertionError("measured")
kept.race = race
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
torch.manual_seed(0)
layer = torch.nn.parallel.DistributedDataParallel(Attention(32, 4, table=table))
torch.manual_seed(rank)
layer(torch.randn(2, 64, 32)).sum().backward()
inner = layer.module
told = [str(inner.choices[-1]), float(inner.qkv.weight.grad.sum())]
found = [None] * world
dist.all_gather_object(found, told)
dist.destroy_process_group()
print(json.dumps(found))
"""


def ranks(folder, table="", world=2):
    """What each rank took, and what it said on the way."""
    running = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(world), str(folder), table],
                         env=environment(folder, {"XDG_CACHE_HOME": str(folder / f"cache-{rank}")}),
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]  # fmt: skip
    done = [process.communicate(timeout=110) for process in running]
    assert [process.returncode for process in running] == [0] * world, done
    return json.loads(done[0][0].splitlines()[-1]), [err for _, err in done]


def leave_kept(folder, first):
    """A measurement of an earlier run of this rank alone."""
    from attn_lab.nn.auto.bucket import Bucket
    from attn_lab.nn.auto.table import Entry, Ranking

    bucket = Bucket("causal", "float32", 8, 1, 8, 64, 64)
    table = DispatchTable(detect("cpu").name, {bucket: Entry({"forward_backward": Ranking({first: 1.0})})})
    name = kept.AutotuneCache.of(detect("cpu")).path.name
    table.write(folder / "attn_lab" / name)
    return table


def test_ranks_take_the_same_backend_whatever_was_measured_where_they_run(tmp_path):
    leave_kept(tmp_path / "cache-0", "naive_fp32")
    leave_kept(tmp_path / "cache-1", "sdpa_math")
    found, said = ranks(tmp_path)
    (first, gradient), (second, same) = found
    assert first == second and gradient == same and "sdpa_flash, not measured; the first of a fixed order" in first
    assert said[0].count("attn_lab: auto takes sdpa_flash, the first of a fixed order that can") == 1
    assert "attn_lab: auto" not in said[1]


def test_ranks_follow_the_plan_they_are_given(tmp_path):
    leave_kept(tmp_path, "sdpa_math")
    (table,) = (tmp_path / "attn_lab").iterdir()
    found, said = ranks(tmp_path, str(table))
    assert [told for told, _ in found] == [found[0][0]] * 2 and "SdpaMath (sdpa_math, by" in found[0][0]
    assert not any("attn_lab: auto takes" in each for each in said)


def test_one_rank_alone_measures_as_without_ranks(tmp_path):
    leave_kept(tmp_path / "cache-0", "naive_fp32")
    found, _ = ranks(tmp_path, world=1)
    assert "NaiveFP32 (naive_fp32, measured here" in found[0][0]


# --- several GPUs


def card(name, capability):
    return Machine(device="cuda", name=name, memory=2**36, capability=capability, packages={"flash-attn-4": "4.0.0"})


@pytest.fixture
def two_cards(monkeypatch):
    """Two GPUs of different kinds, as torch would tell of them."""
    seen = [card("NVIDIA A100-SXM4-80GB", (8, 0)), card("NVIDIA H100 80GB HBM3", (9, 0))]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(machines, "cards", lambda: seen)
    detect.cache_clear()
    yield seen
    detect.cache_clear()


def test_each_gpu_is_a_machine_of_its_own(two_cards):
    assert detect("cuda") == detect("cuda:0") == detect("auto") == two_cards[0] and detect("cuda:1") == two_cards[1]
    for wrong in ("cuda:2", "cuda:-1", "cuda:x", "cpu:0", "auto:1", "cuda:"):
        with pytest.raises(BadRequest, match="device: expected one of"):
            detect(wrong)


def test_a_tensors_own_gpu_decides_what_can_serve_it(two_cards, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda device: warnings.catch_warnings())  # a context that does nothing
    asked = []

    class Seeing(Naive):
        def unsupported_reasons(self, request, machine):
            asked.append(machine)
            return []

    from attn_lab.core.request import Request
    from attn_lab.core.shape import Shape
    from attn_lab.masks.full import Full
    from attn_lab.nn.dispatcher import Dispatcher

    class Preparing(Seeing):
        def prepare(self, request, machine):
            return lambda q, k, v: q

    request = Request(shape=Shape(batch_size=1, seq_len=4, num_heads=4, emb_dim=256), mask=Full())
    for number, expected in enumerate(two_cards):
        Dispatcher((Preparing(),), Full(), verify=False)._choose(request, torch.device("cuda", number))
        assert asked.pop() == expected
    assert Auto().followed(detect("cuda:1")) is not None and Auto().followed(detect("cuda:0")) is None
