"""The sizes of one attention problem: checked once, with everything derivable derived."""

from dataclasses import dataclass, fields
from operator import index

from attn_lab.core.errors import BadRequest

LARGEST = 2**40
DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The four axes of the study and what follows from them.

    q and out are (batch_size, seq_len, num_heads, head_dim); k and v are (batch_size, seq_len_kv, num_kv_heads,
    head_dim).  A field left None is derived: num_kv_heads = num_heads, seq_len_kv = seq_len, head_dim = emb_dim /
    num_heads.  Raises BadRequest, naming the field, for sizes that make no attention.
    """

    batch_size: int
    seq_len: int
    num_heads: int
    emb_dim: int
    num_kv_heads: int = None  # type: ignore[assignment]
    seq_len_kv: int = None  # type: ignore[assignment]
    head_dim: int = None  # type: ignore[assignment]
    dtype: str = "float16"

    def __post_init__(self) -> None:
        derive = object.__setattr__  # the one moment a frozen value may be completed
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) and (plain := whole_number(value)) is not None:  # numpy's
                value = plain
                derive(self, field.name, value)
            if field.name == "dtype":
                if value not in DTYPES:
                    raise BadRequest(f"shape.dtype: expected one of {', '.join(DTYPES)}; got {value!r}")
            elif value is None and field.default is None:
                continue
            elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BadRequest(f"shape.{field.name}: expected a whole number of at least 1; got {value!r}")
            elif value > LARGEST:
                raise BadRequest(f"shape.{field.name}: expected at most 2^40; got {value}")
        if self.head_dim is None and self.emb_dim % self.num_heads:
            raise BadRequest(
                f"shape.emb_dim: expected a multiple of num_heads={self.num_heads}; got {self.emb_dim} "
                "(or give shape.head_dim yourself)"
            )
        if self.num_kv_heads is None:
            derive(self, "num_kv_heads", self.num_heads)
        if self.seq_len_kv is None:
            derive(self, "seq_len_kv", self.seq_len)
        if self.head_dim is None:
            derive(self, "head_dim", self.emb_dim // self.num_heads)
        if self.num_heads % self.num_kv_heads:
            raise BadRequest(
                f"shape.num_kv_heads: expected a divisor of num_heads={self.num_heads}; got {self.num_kv_heads}"
            )

    @property
    def group_size(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def offset(self) -> int:
        """Absolute position of the first query: queries are the last seq_len of seq_len_kv positions."""
        return self.seq_len_kv - self.seq_len

    @property
    def scale(self) -> float:
        """What scores are multiplied by before the softmax: 1 / sqrt(head_dim) (Vaswani et al. 2017, eq. 1)."""
        return self.head_dim**-0.5

    def __str__(self) -> str:
        text = f"{self.batch_size}×{self.seq_len}×{self.num_heads}×{self.emb_dim} {self.dtype}"
        if self.num_kv_heads != self.num_heads:
            text += f" kv_heads={self.num_kv_heads}"
        if self.seq_len_kv != self.seq_len:
            text += f" kv_len={self.seq_len_kv}"
        if self.head_dim * self.num_heads != self.emb_dim:
            text += f" head_dim={self.head_dim}"
        return text


def whole_number(value: object) -> int | None:
    """`value` as an int, numpy's and torch's included; None for a bool, or for what is no whole number."""
    try:
        return None if isinstance(value, bool) else index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
