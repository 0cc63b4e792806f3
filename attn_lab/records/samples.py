"""Raw samples of a record: `samples/ID.npz` in the run folder, 32-bit floats by metric."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_lab.records.artifacts import inside, sync_folder
from attn_lab.records.printable import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attn_lab.records.broken import BrokenLines

FOLDER = "samples"
MOST_BYTES = 64 * 2**20  # of one record, unpacked: a sweep's samples take kilobytes
UNREADABLE = (OSError, EOFError, ValueError, KeyError, RuntimeError, NotImplementedError, MemoryError,
              zipfile.BadZipFile)  # fmt: skip


def write_samples(folder: Path, record_id: str, series: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Write them whole or not at all, on the disk when this returns.  Returns their artifact entry.

    Raises OSError that names the file.
    """
    import numpy as np

    path = folder / FOLDER / f"{record_id}.npz"
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(exist_ok=True)
        with part.open("wb") as file:
            samples: Any = {name: np.asarray(values, np.float32) for name, values in series.items()}
            np.savez(file, **samples)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
    return {"kind": "samples", "path": f"{FOLDER}/{path.name}", "size": size}


def read_samples(
    folder: Path, artifacts: Sequence[Mapping[str, Any]], broken: "BrokenLines | None" = None
) -> "dict[str, NDArray[np.float64]]":
    """The samples that these artifacts list, by metric.  A file that cannot be read is counted in `broken`."""
    found: dict[str, NDArray[np.float64]] = {}
    for each in artifacts:
        if each.get("kind") != "samples" or (path := inside(folder, each.get("path"))) is None:
            continue
        try:
            found |= _load(path)
        except UNREADABLE as error:
            if broken is not None:
                broken.note([f"{printable(str(path))}: {printable(_why(error))}"], 1)
    return found


def _load(path: Path) -> "dict[str, NDArray[np.float64]]":
    import numpy as np

    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES / 2**20:.0f} MB of samples; got {size / 2**20:.0f} MB")
    found = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            each = file[name]
            if each.ndim != 1 or each.dtype.kind not in "fiu" or not np.isfinite(each).all() or not (each > 0).all():
                raise ValueError(f"{name}: expected a row of times above 0; got {each.dtype} of shape {each.shape}")
            if len(each):
                found[name] = each.astype(np.float64)
    return found


def _why(error: BaseException) -> str:
    return f"unreadable samples: {error or type(error).__name__}"
