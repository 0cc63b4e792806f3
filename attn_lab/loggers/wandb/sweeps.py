"""Records of run folders by their sweep, for commands that make something of W&B's from them."""

import sys
from collections.abc import Sequence
from pathlib import Path

from attn_lab.core.errors import BadRequest
from attn_lab.records.printable import printable
from attn_lab.records.reading import records
from attn_lab.records.record import Record


def sweeps(command: str, folders: Sequence[Path]) -> tuple[dict[str, list[Record]], int]:
    """The records by sweep, in the order of the files, and the number of broken lines, each printed.

    Raises BadRequest for folders that cannot be read, and without any record; its text begins with `command`.
    """
    try:
        rows, broken = records(folders, newest=False)
    except OSError as error:
        raise BadRequest(f"{command}: expected run folders; got {error}") from None
    for line in broken:
        print(f"{command}: not read: {line}", file=sys.stderr)
    if not rows:
        raise BadRequest(f"{command}: expected records; got none in {printable(', '.join(map(str, folders)))}")
    found: dict[str, list[Record]] = {}
    for row in rows:
        found.setdefault(row.provenance["sweep"], []).append(row)
    return found, broken.total
