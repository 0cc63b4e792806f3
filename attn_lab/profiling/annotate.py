"""Named profiler ranges around the parts of a module, added with hooks and removed afterwards."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.profiler import record_function

from attn_lab.nn.attention import Attention

PART = "part: "
QKV = {"qkv", "q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "query", "key", "value", "query_key_value", "Wqkv"}
OUT = {"out", "o_proj", "out_proj", "c_proj", "proj", "dense", "Wo"}
MLP = {"mlp", "feed_forward", "ffn", "ff"}
HEAD = {"lm_head", "head", "embed_out"}


@contextmanager
def ranged(module: nn.Module) -> Iterator[None]:
    """While it lasts, torch's profiler sees a range around each part of `module` that is known by type or by name.

    An attention block is qkv_projection, rope (where it has rotary positions, or norms of heads), attention and
    output_projection; what splits, views and copies between two of them is the second's, without rope the first's.
    Others are mlp, norm, embedding and head.  Code is left as it is: hooks come and go.  Of what torch.compile has
    compiled before, nothing is seen.
    """
    rotary = any("rotary" in type(each).__name__.lower() for each in module.modules())
    with ExitStack() as undo:
        for name, each in module.named_modules():
            if _is_attention(each):
                _Block(each, rotary).install_hooks(undo)
            elif part := _part(name.rpartition(".")[2], each):
                _around(each, part, undo)
        _around_interface(module, undo)
        yield


@contextmanager
def part(name: str) -> Iterator[None]:
    with record_function(PART + name):
        yield


@contextmanager
def parts(steps: Any) -> Iterator[None]:
    """The parts of `steps.module` in ranges; where that is None, `steps.forward` is attention, all of it."""
    if steps.module is not None:
        with ranged(steps.module):
            yield
        return
    forward = steps.forward

    def attention() -> Any:
        with part("attention"):
            return forward()

    steps.forward = attention
    try:
        yield
    finally:
        steps.forward = forward


class _Block:
    """One attention block: its parts, and what lies between them, from the end of one until the next begins."""

    def __init__(self, module: nn.Module, rotary: bool):
        lab = isinstance(module, Attention)
        self._module = module
        turns = (module.rope is not None or module.q_norm is not None) if lab else rotary
        self._before_attention = "rope" if turns else "qkv_projection"
        self._between: record_function | None = None

    def install_hooks(self, undo: ExitStack) -> None:
        for name, child in self._module.named_children():
            if name in QKV:
                _around(child, "qkv_projection", undo, before=self.close,
                        after=lambda: self._open(self._before_attention))  # fmt: skip
            elif name in OUT:
                _around(child, "output_projection", undo, before=self.close)
        undo.callback(self._module.register_forward_hook(lambda *_: self.close(), always_call=True).remove)
        _blocks[self._module] = self
        undo.callback(_blocks.pop, self._module)
        if isinstance(self._module, Attention):
            self._serve(self._module, undo)

    def close(self) -> None:
        if self._between is not None:
            self._between.__exit__(None, None, None)
            self._between = None

    def attended(self, attend: Callable[..., Any], *given: Any, **options: Any) -> Any:
        self.close()
        with part("attention"):
            found = attend(*given, **options)
        self._open("output_projection")
        return found

    def _open(self, name: str) -> None:
        self._between = record_function(PART + name)
        self._between.__enter__()

    def _serve(self, layer: Attention, undo: ExitStack) -> None:
        serving, known = layer._dispatcher, layer._known
        layer._dispatcher, layer._known = _Served(serving, self), {}  # type: ignore[assignment]

        def restore() -> None:
            if isinstance(layer._dispatcher, _Served):  # else another backend was assigned meanwhile
                layer._dispatcher, layer._known = serving, known

        undo.callback(restore)


class _Served:
    """A layer's Dispatcher, each of whose functions runs as the part `attention` of its block."""

    def __init__(self, serving: Any, block: _Block):
        self._dispatcher, self._block = serving, block

    def __call__(self, *arguments: Any) -> Callable[..., Any]:
        attend = self._dispatcher(*arguments)
        ranged = partial(self._block.attended, attend)
        if packed := getattr(attend, "packed", None):  # takes the projection in one piece, and would be taken
            ranged.packed = partial(self._block.attended, packed)  # type: ignore[attr-defined]
        return ranged

    def under(self, *arguments: Any) -> Any:
        return self._block.attended(self._dispatcher.under, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dispatcher, name)


_blocks: dict[nn.Module, _Block] = {}  # of those that are looked at now: transformers calls one function for all


def _around_interface(module: nn.Module, undo: ExitStack) -> None:
    """transformers looks its attention up by name at each call: for now it finds one that says where it begins."""
    name = getattr(getattr(module, "config", None), "_attn_implementation", None)
    if name in (None, "eager"):
        return
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as functions

    attend = functions[name]

    def attended(block: nn.Module, *given: Any, **options: Any) -> Any:
        known = _blocks.get(block)
        return known.attended(attend, block, *given, **options) if known else attend(block, *given, **options)

    def restore() -> None:
        del functions[name]  # ours hides what is registered under this name, now and later
        if functions.get(name) is not attend:  # another hook did so before
            functions[name] = attend

    functions[name] = attended
    undo.callback(restore)


def _around(
    module: nn.Module,
    name: str,
    undo: ExitStack,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> None:
    running: list[record_function] = []

    def enter(*_: Any) -> None:
        before()
        running.append(record_function(PART + name))
        running[-1].__enter__()

    def leave(*_: Any) -> None:
        if running:  # a call that failed before it had begun
            running.pop().__exit__(None, None, None)
            after()

    undo.callback(module.register_forward_pre_hook(enter).remove)
    undo.callback(module.register_forward_hook(leave, always_call=True).remove)


def _is_attention(module: nn.Module) -> bool:
    children = {name for name, _ in module.named_children()}
    kind = type(module).__name__.lower()
    return ("attention" in kind or "attn" in kind) and bool(children & QKV) and bool(children & OUT)


def _part(name: str, module: nn.Module) -> str:
    kind = type(module).__name__.lower()
    if name in MLP or kind.endswith("mlp"):
        return "mlp"
    if "rotary" in kind:
        return "rope"
    if any(module.children()):
        return ""
    if "norm" in kind:
        return "norm"
    if isinstance(module, nn.Embedding):
        return "embedding"
    return "head" if name in HEAD else ""
