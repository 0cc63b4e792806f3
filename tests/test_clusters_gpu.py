"""Hands beyond one machine, on GPUs: each is given one of its own, and what they answered counts for every launcher."""

import pytest
import torch
from conftest import Lab

pytestmark = pytest.mark.gpu
WORDS = ("device=cuda", "backend=naive,sdpa_math", "shape.batch_size=1,2,3,4", "round=0,1", "shape.seq_len=64",
         "shape.dtype=float16", "probe=[accuracy]", "passes=[forward]", "name=x")  # fmt: skip
LOCAL = ("hydra/launcher=slurm", "hydra.launcher.cluster=local")


@pytest.mark.parametrize(
    ("package", "words", "gpus"),
    [("ray", ("hydra/launcher=ray",), torch.cuda.device_count()), ("submitit", LOCAL, 1)],
    ids=["ray", "slurm"],
)
def test_each_hand_has_a_gpu_of_its_own_and_any_launcher_goes_on_from_there(package, words, gpus, lab: Lab):
    pytest.importorskip(package)
    told = lab(*WORDS, *words)
    assert told.code == 0, told.out + told.err
    assert told.statuses == ["ok"] * 16
    cards: dict[tuple[int, int], set[str]] = {}
    for record in told.records:
        batch = record["case"]["round"], record["case"]["shape"]["batch_size"]
        cards.setdefault(batch, set()).add(record["provenance"]["machine"]["uuid"])
    assert all(len(one) == 1 for one in cards.values())  # rivals share one
    assert len(set.union(*cards.values())) == min(gpus, 8)
    before = told.lines  # read now: both sweeps write to one file
    again = lab(*WORDS)
    assert again.code == 0 and again.lines == before and "16 of them before" in again.out, again.out
