"""The same tensors elsewhere in memory, for what is said of a kernel not to hold in one place alone."""

from collections.abc import Iterable, Iterator
from itertools import cycle

import torch
from torch import Tensor

CHUNK = 2 * 2**20  # bytes: what a GPU's driver deals memory in


class Places:
    """Moves tensors, with whatever lies around them in their storage, to addresses they were not at.

    Those of one storage stay in one; they keep values, strides, and who refers to them.  Each time the driver's free
    memory is cut otherwise, for else it deals the same pages in turns.  What a step allocates lies elsewhere after it
    too, as nothing is left in torch's own cache: the next call asks the driver, and is not for a clock.
    """

    def __init__(self) -> None:
        self._shifts: Iterator[int] = cycle(range(1, 32, 5))

    def move(self, tensors: Iterable[Tensor]) -> None:
        """Needs room for a second copy of them; raises torch.OutOfMemoryError where there is none."""
        several = list(tensors)
        on_gpu = several[0].is_cuda
        if on_gpu:
            torch.cuda.empty_cache()
        between = torch.empty(next(self._shifts) * CHUNK if on_gpu else 0, dtype=torch.int8, device=several[0].device)
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in several}
        copies = {address: storage.clone() for address, storage in storages.items()}
        for tensor in several:
            storage = copies[tensor.untyped_storage().data_ptr()]
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
                storage, tensor.storage_offset(), tensor.shape, tensor.stride()
            )
        del between, storages
        if on_gpu:
            torch.cuda.empty_cache()
