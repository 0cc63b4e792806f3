"""What is to be verified of a backend: every kind of request that it declares, and a few sizes that break kernels."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from attn_lab.core.backend import Backend
from attn_lab.core.certificate import Kind
from attn_lab.core.machine import Machine
from attn_lab.core.mask import Mask
from attn_lab.core.request import PASSES, Request
from attn_lab.core.shape import Shape
from attn_lab.masks.causal import Causal
from attn_lab.masks.full import Full
from attn_lab.masks.prefix_lm import PrefixLM
from attn_lab.nn.documents import Documents
from attn_lab.nn.small_case import FEWER, SEQ_LEN, NarrowBand

HEAD_DIMS = tuple(range(8, 257, 8))
GROUP = 4  # query heads a key/value head, where heads are grouped
SHORT = 48  # less than any tile
LARGE_BATCH = 65537  # past what one axis of a CUDA grid holds
MASKS: dict[str, Mask] = {
    "full": Full(),
    "causal": Causal(),
    "band": NarrowBand(40, 0),
    "documents": Documents(ends=(30, 31, 130, SEQ_LEN), inside=(None, 0)),
    "predicate": PrefixLM(prefix=40),
}


@dataclass(frozen=True)
class Check:
    """One small request and how its inputs lie in memory.

    kind    the kind that it is an instance of
    packed  q, k and v are views of one tensor, as a projection leaves them
    """

    kind: Kind
    request: Request
    packed: bool = False


def kinds(backend: Backend, machine: Machine, head_dims: tuple[int, ...] = HEAD_DIMS) -> Iterator[Kind]:
    """Every kind with gradients (without, for a backend that has none) that the backend may declare.

    A backend that compiles its kernels at the first call, for seconds, is walked over fewer combinations: in float16
    and with fewer queries than keys for the causal mask alone, and of the rarer masks with grouped heads alone.  One
    that compiles for each length has full and causal masks with grouped heads in one of the two, and no float32.  Kinds
    that are left out are verified at first use.
    """
    capabilities = backend.capabilities[machine.device]
    compiles = any(each.compiles for each in (backend, *backend.parts))
    compiles_each_length = any(each.needs_dynamo for each in (backend, *backend.parts))
    axes = product(head_dims, capabilities.dtypes, MASKS, (False, True), (True, False))
    for head_dim, dtype, mask, grouped, square in axes:
        usual = dtype != "float16" and square
        common = mask in ("full", "causal")
        if compiles and not (usual and (common or grouped)) and not (mask == "causal" and grouped):
            continue
        if compiles_each_length and ((common and grouped == (mask == "causal") and usual) or dtype == "float32"):
            continue
        yield Kind(head_dim, dtype, mask, grouped, square, capabilities.backward)


def checks(kind: Kind) -> list[Check]:
    """Small requests of a kind: past a tile and short of one, packed and apart; of unequal lengths fewer and more."""
    if kind.square:
        lengths = ((SEQ_LEN, SEQ_LEN, True), (SHORT, SHORT, False))
    else:
        lengths = ((FEWER, SEQ_LEN, False), (SEQ_LEN, FEWER, False))
    found = []
    for seq_len, seq_len_kv, packed in lengths:
        mask = MASKS[kind.mask]
        if isinstance(mask, Documents):
            if not kind.square:
                continue
            mask = Documents(ends=(*(end for end in mask.ends if end < seq_len), seq_len), inside=mask.inside)
        found.append(Check(kind, request(kind, mask, seq_len, seq_len_kv), packed))
    return found


def sizes(backend: Backend, machine: Machine) -> Iterator[tuple[str, Check]]:
    """By name, sizes that are no kind of their own: other groupings of heads, and a batch past 65535."""
    capabilities = backend.capabilities[machine.device]
    dtype = "bfloat16" if "bfloat16" in capabilities.dtypes else capabilities.dtypes[0]
    head_dim = 64
    for group in (2, 7, 16) if capabilities.grouped_heads else ():
        kind = Kind(head_dim, dtype, "causal", True, True, capabilities.backward)
        yield f"{group} query heads a key/value head", Check(kind, request(kind, Causal(), SEQ_LEN, SEQ_LEN, group))
    kind = Kind(head_dim, dtype, "causal", False, True, capabilities.backward)
    yield f"batch {LARGE_BATCH}", Check(kind, request(kind, Causal(), 8, 8, batch_size=LARGE_BATCH, heads=1))


def request(
    kind: Kind, mask: Mask, seq_len: int, seq_len_kv: int, group: int = GROUP, *, batch_size: int = 2, heads: int = 2
) -> Request:
    """A request of that kind: `heads` key/value heads, with `group` query heads each where they are grouped."""
    query_heads = heads * (group if kind.grouped else 1)
    shape = Shape(
        batch_size=1 if mask.ends is not None else batch_size, seq_len=seq_len, seq_len_kv=seq_len_kv,
        num_heads=query_heads, num_kv_heads=heads, head_dim=kind.head_dim, emb_dim=query_heads * kind.head_dim,
        dtype=kind.dtype,
    )  # fmt: skip
    return Request(shape=shape, mask=mask, passes=PASSES if kind.gradients else ("forward",))
