"""Where tokens stand: the rotary angles of a layer's positions, from a table that grows."""

from typing import Any

import torch
from torch import Tensor

from attn_lab.nn.documents import Documents
from attn_lab.nn.rope import CosSin, Rope
from attn_lab.nn.tracing import is_fake


class Positions:
    """cos and sin of positions, by device, from tables that are neither copied nor pickled."""

    def __init__(self, rope: Rope, head_dim: int) -> None:
        self.rope, self.head_dim = rope, head_dim
        self._tables: dict[torch.device, CosSin] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_tables": {}}

    def turn(
        self, q: Tensor, start: int, documents: Documents | None = None, starts: Tensor | None = None,
        longest: int | None = None,
    ) -> CosSin:  # fmt: skip
        """For q (batch, seq, heads, head_dim), whose first query stands at `start`: (seq, 1, dims / 2) each.

        documents  positions begin again in each
        starts     (batch,) where each batch element's first query stands instead, at most at `longest`
        """
        wide = torch.promote_types(q.dtype, torch.float32)
        seq = q.shape[1]
        where: Any = slice(start, start + seq)
        if documents is not None:
            where = documents.positions(q.device)
        elif starts is not None:
            where = starts[:, None] + torch.arange(seq, device=q.device)
        if torch.compiler.is_compiling() or is_fake(q):  # a table would be a side effect
            if isinstance(where, slice):
                where = torch.arange(start, start + seq, device=q.device)
            return self.rope.turn(where, self.head_dim, wide)
        end = (start if longest is None else longest) + seq
        table = self._tables.get(q.device)
        if table is None or len(table[0]) < end or table[0].dtype != wide:
            with torch.inference_mode(False):  # else a later backward could not keep it
                positions = torch.arange(1 << (end - 1).bit_length(), device=q.device)
                table = self._tables[q.device] = self.rope.turn(positions, self.head_dim, wide)
        return table[0][where], table[1][where]
