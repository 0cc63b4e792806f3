"""A training loop under attn_lab.profile, alone or as one rank of several; a rank imports nothing else of the tests."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from attn_lab import Attention, profile


def loop(model: nn.Module, steps: int, folder: Path, **settings: Any) -> profile:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with profile(model, folder=folder, **settings) as looking:
        for _ in range(steps):
            model(torch.randn(2, 16, 64)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            looking.step()
    return looking


def train_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(nn.Sequential(Attention(64, 4, backend="naive")))
    looking = loop(model, 8, Path(folder) / "run", probes=["trace", "phases"])
    assert (looking.record is not None) == (rank == 0)
    torch.distributed.destroy_process_group()
