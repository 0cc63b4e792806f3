"""Where attn_lab keeps what it found out about this machine: a folder of the user's cache."""

from pathlib import Path

import platformdirs


def cache_folder() -> Path | None:
    """The folder, whether or not it is there; None where no home directory is known, and nothing is kept."""
    try:
        return platformdirs.user_cache_path("attn_lab", appauthor=False)
    except RuntimeError:  # no HOME, and a user without an entry in the password file
        return None


def shown(path: Path) -> str:
    """`path` with ~ for the home directory."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (RuntimeError, ValueError):
        return str(path)
