"""A bound on a process's memory, for an allocation to fail before the kernel kills the process."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attn_lab.core.machine import Machine

if sys.platform == "linux":
    import resource
else:
    resource = None


@contextmanager
def memory_bounded(machine: Machine) -> Iterator[None]:
    """On the CPU, let an allocation past the free memory fail, as on a GPU, rather than the kernel kill us."""
    if machine.device != "cpu" or resource is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _private_bytes() + int(0.9 * available_bytes())
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _private_bytes() -> int:
    """What RLIMIT_DATA counts: this process's private writable mappings."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))


def available_bytes(root: Path = Path("/")) -> int:
    """Free memory of the host, or of the control group this process is in (Slurm, containers) where that is less.

    Args:
        root: where proc and sys are mounted.
    """
    with open(root / "proc/meminfo") as lines:
        host = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return min([host, *_free_in_groups(root)])


def _free_in_groups(root: Path) -> Iterator[int]:
    """What each group with a limit has left, this process's own first; page cache counts as free."""
    try:
        groups = [line.strip().split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in groups:
        if not controllers:
            top, limit, usage, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            limit, usage, cache = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        group = top / path.strip("/")
        for folder in (group, *(each for each in group.parents if each == top or top in each.parents)):
            with suppress(OSError, ValueError):  # "max", or a group that only the host can see
                most, used = (int((folder / name).read_text()) for name in (limit, usage))
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield max(most - used + int(stat.get(cache, 0)), 0)
