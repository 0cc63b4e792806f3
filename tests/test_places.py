"""Tensors moved to another place in memory: nobody who uses them can tell, but by the clock."""

from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_lab.bench.inputs import draw
from attn_lab.bench.places import CHUNK, Places
from attn_lab.core.machine import detect
from attn_lab.probes._watched import Watched
from attn_lab.probes.timing import Timing
from attn_lab.sweep.ordinary import Ordinary

SHAPES = st.tuples(*(st.integers(1, 5) for _ in range(4)))


@given(SHAPES, st.sampled_from([torch.float32, torch.bfloat16, torch.float64]), st.permutations(range(4)))
def test_values_strides_and_surroundings_go_with_it_and_its_users_see_it(shape, dtype, order):
    tensor = draw("randn", shape, torch.Generator().manual_seed(0), dtype).permute(order).detach().requires_grad_()
    half = tensor.detach()[:1]  # in the same storage
    alone = torch.ones(3, 0)
    before, place = tensor.detach().clone(), tensor.data_ptr()
    margin, strides, whole = tensor.storage_offset(), tensor.stride(), tensor.untyped_storage().nbytes()
    seen = lambda: tensor * 2  # noqa: E731  as a subject's forward refers to its leaves
    Places().move([tensor, half, alone])
    assert tensor.data_ptr() != place and torch.equal(tensor, before) and torch.equal(seen(), before * 2)
    assert (tensor.storage_offset(), tensor.stride()) == (margin, strides) and alone.shape == (3, 0)
    assert half.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
    around = torch.empty(0, dtype=dtype).set_(tensor.untyped_storage())
    assert around.untyped_storage().nbytes() == whole and around[:margin].isnan().all()
    (gradient,) = torch.autograd.grad(seen().sum(), tensor)
    assert torch.equal(gradient, torch.full_like(before, 2))


@pytest.mark.parametrize(
    ("device", "backend", "target", "words"),
    [
        ("cpu", "sdpa_flash", "sdpa_flash.SdpaFlash", ()),
        ("cpu", "sdpa_flash", "sdpa_flash.SdpaFlash", ("subject=layer",)),
        ("cpu", "flex", "flex.Flex", ("passes=[forward]",)),
        pytest.param("cuda", "sdpa_cudnn", "sdpa_cudnn.SdpaCudnn", (), marks=pytest.mark.gpu),
        pytest.param("cuda", "flex", "flex.Flex", ("subject=layer",), marks=pytest.mark.gpu),
    ],
)
def test_a_moved_trial_answers_as_before_without_compiling_anew(device, backend, target, words):
    path = Ordinary(detect(device))
    case = path.case(backend, f"attn_lab.backends.{target}", "shape=tiny", *words)
    attend = case.who.prepare(case.request, path.machine)
    trial = case.what.stage(case.request, case.who, attend, path.machine, seed=0, slices=1)
    before = trial.answer()
    trial.synchronize()
    held = torch.cuda.memory_allocated() if device == "cuda" else 0
    with torch.compiler.set_stance("fail_on_recompile"):
        for _ in range(3):
            places = {name: tensor.data_ptr() for name, tensor in trial.given.items()}
            trial.move()
            assert all(tensor.data_ptr() != places[name] for name, tensor in trial.given.items())
            after = trial.answer()
    assert after.keys() == before.keys() and not trial.overwritten
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-2, atol=1e-2)
    del after
    if device == "cuda":
        assert abs(torch.cuda.memory_allocated() - held) < CHUNK, "a move leaves nothing behind"


class Placed:
    """A clock that stands for a kernel: places differ by 1 %, the calls in one by 0.01 %."""

    calls_at_once = 10

    def __init__(self, seed: int) -> None:
        self.random, self.warmed = np.random.default_rng(seed), count()
        self.move()

    def move(self) -> None:
        self.place = np.exp(self.random.normal(0, 0.01))

    def warm(self, before, timed, calls, seconds):
        next(self.warmed)
        return 0.0

    def time(self, before, timed, calls, meanwhile):
        meanwhile()
        return list(self.place * np.exp(self.random.normal(0, 0.0001, calls)))


def test_what_is_said_of_a_kernel_that_likes_some_places_is_true_of_any():
    timing = Timing(warmup=0, settle=0.0, samples=4000, least=30, seconds=60.0, precision=0.5, move=True)
    apart: dict[bool, list[float]] = {False: [], True: []}
    for moves, errors in apart.items():
        for seed in range(20):
            clock = Placed(seed)
            calls = timing._sample(
                clock, Watched(None, 0.9), lambda: None, lambda _: None, clock.move if moves else None
            )
            assert calls.precision <= 0.5
            errors.append(abs(np.median(calls.kept) - 1))
            assert next(clock.warmed) == (calls.taken / 10 if moves else 1), "the first call in a new place allocates"
    assert np.quantile(apart[False], 0.9) > 0.01, "in one place it is sure of itself, and wrong"
    assert np.quantile(apart[True], 0.9) < 0.005


def test_who_takes_longer_for_ten_calls_than_a_measure_has_is_not_moved():
    class Slow(Placed):
        def warm(self, before, timed, calls, seconds):
            return 0.2

    clock = Slow(0)
    timing = Timing(warmup=0, settle=0.0, samples=40, least=30, seconds=1.0, precision=0.5, move=True)
    timing._sample(clock, Watched(None, 0.9), lambda: None, lambda _: None, lambda: pytest.fail("moved"))
