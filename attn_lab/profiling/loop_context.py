"""What a loop is about, for its record: the model, its attention and sizes, the machine; as far as can be seen."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attn_lab.core.machine import detect, software
from attn_lab.nn.attention import Attention
from attn_lab.records.record import Provenance, digest
from attn_lab.records.source import now, source

UNKNOWN = "unknown"


class LoopContext:
    """Sizes are those of the first call's first tensor; of heads, those of the first attention that tells them."""

    def __init__(self, model: nn.Module, subject: str, settings: Mapping[str, Any]):
        self._model, self._subject, self._settings = model, subject, dict(settings)
        self._layers = [each for each in model.modules() if isinstance(each, Attention)]
        self._config = getattr(model, "config", None)
        first = next(model.parameters(), None)
        self.device = "cpu" if first is None else first.device.type
        self._dtype = "float32" if first is None else str(first.dtype).removeprefix("torch.")
        self._sizes: tuple[int, ...] = ()
        self._started = now()

    def listen(self) -> None:
        def hear(_: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            tensor = next((each for each in (*given, *named.values()) if isinstance(each, Tensor)), None)
            self._sizes = self._sizes or tuple(tensor.shape if tensor is not None else ())

        self._hook = self._model.register_forward_pre_hook(hear, with_kwargs=True)

    def close(self) -> None:
        self._hook.remove()

    @property
    def kernels(self) -> list[str]:
        """Patterns of those that the layers' backends declare."""
        backends = {layer.backend for layer in self._layers} - {None}
        return [pattern for each in backends if each for pattern in each.kernels.values()]

    @property
    def case(self) -> dict[str, Any]:
        question = {"config": self._question, "shape": self._shape}
        return {
            "id": digest({**question, "started": self._started}), "question": digest(question),
            "backend": self._backend,
            "mask": self._mask, "subject": self._subject, "round": 0, "is_aa_repeat": False, "shape": self._shape,
        }  # fmt: skip

    def provenance(self, sweep: str) -> Provenance:
        from attn_lab import __version__

        machine = detect(self.device)
        commit, dirty = source()
        return Provenance(
            machine=machine.as_json(), versions={"attn_lab": __version__, **software(machine)}, commit=commit,
            dirty=dirty, config=self._question, started=self._started, sweep=sweep, command="attn_lab.profile",
        )  # fmt: skip

    def held(self) -> dict[str, int]:
        """Bytes that are there before a step, by what they are; "" for what is unknown."""
        sizes = {
            "parameters": sum(map(_size, self._model.parameters())),
            "buffers": sum(map(_size, self._model.buffers())),
            "gradients": sum(_size(each.grad) for each in self._model.parameters() if each.grad is not None),
        }
        if self.device == "cuda":
            sizes[""] = max(torch.cuda.memory_allocated() - sum(sizes.values()), 0)
        return {what: size for what, size in sizes.items() if size}

    @property
    def _question(self) -> dict[str, Any]:
        kind = type(self._model)
        return {"subject": {"model": f"{kind.__module__}.{kind.__qualname__}"}, "passes": ["train_step"],
                "probe": self._settings}  # fmt: skip

    @property
    def _backend(self) -> str:
        names = {_file(type(layer.backend)) for layer in self._layers if layer.backend}
        return "+".join(sorted(names)) or str(getattr(self._config, "_attn_implementation", UNKNOWN))

    @property
    def _mask(self) -> str:
        return "+".join(sorted({_file(type(layer.mask)) for layer in self._layers})) or UNKNOWN

    @property
    def _shape(self) -> dict[str, Any]:
        batch, seq, *rest = (*self._sizes, 1, 1)[: max(len(self._sizes), 2)]
        heads, width = 1, rest[-1] if rest else 1
        if self._layers:
            heads, width = self._layers[0].num_heads, self._layers[0].emb_dim
        elif self._config is not None:
            heads = getattr(self._config, "num_attention_heads", heads)
            width = getattr(self._config, "hidden_size", width)
        return {"batch_size": batch, "seq_len": seq, "num_heads": heads, "emb_dim": width, "dtype": self._dtype}


def _file(kind: type) -> str:
    """Backends and masks are called by their file."""
    return kind.__module__.rpartition(".")[2]


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
