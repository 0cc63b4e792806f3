"""attn_lab: which attention should I use on this GPU for these shapes, what does it cost, and is it right?"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Attention", "__version__", "convert", "profile"]

if TYPE_CHECKING:
    from attn_lab.integrations.multihead import convert as convert
    from attn_lab.nn.attention import Attention as Attention
    from attn_lab.profiling.loop import profile as profile


def __getattr__(name: str) -> Any:
    if name == "Attention":  # on demand: reports read records without loading torch
        from attn_lab.nn.attention import Attention

        return Attention
    if name == "convert":
        from attn_lab.integrations.multihead import convert

        return convert
    if name == "profile":
        from attn_lab.profiling.loop import profile

        return profile
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
