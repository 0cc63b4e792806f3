"""Where attn_lab keeps what it found out about this machine: a folder of the user's cache."""

import tempfile
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The folder, whether or not it is there; below the folder for temporary files where no home directory is known."""
    try:
        return platformdirs.user_cache_path("attn_lab")
    except RuntimeError:  # no HOME, and a user without an entry in the password file
        return Path(tempfile.gettempdir(), "attn_lab-cache")


def shown(path: Path) -> str:
    """`path` as people write it: from ~ where it lies there."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (RuntimeError, ValueError):
        return str(path)
