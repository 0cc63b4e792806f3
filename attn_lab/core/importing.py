"""A package that is installed but does not load makes a backend unsupported; it breaks nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager

from attn_lab.core.errors import Unsupported


@contextmanager
def importing(backend: str, package: str) -> Iterator[None]:
    """Turn whatever an import raises into Unsupported, with the foreign cause whole.

    An undefined symbol, another CUDA's library or a missing shared object show only when the package is imported; they
    come as ImportError, OSError, RuntimeError or AttributeError.
    """
    try:
        yield
    except Exception as error:
        cause = " ".join(str(error).split())
        raise Unsupported(
            backend, [f"{package} is installed, but does not load: {type(error).__name__}: {cause}"]
        ) from error
