"""Free memory, checked before a large allocation: Linux grants more memory than it has and kills the process that uses it."""

from __future__ import annotations

from pathlib import Path

from scg.agents.execution.options import OptionError

SMALL = 2**28  # bytes; smaller allocations are not checked
MIB, GIB = 2**20, 2**30


def free() -> float:
    """Bytes that can still be used, by this process's control group too; infinite where the system does not say."""
    found = [float("inf")]
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024.0)
    for limit, used, stat, inactive in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        most, now = _read(f"/sys/fs/cgroup/{limit}").strip(), _read(f"/sys/fs/cgroup/{used}").strip()
        if most.isdigit() and now.isdigit():
            cached = [
                int(line.split()[1]) for line in _read(f"/sys/fs/cgroup/{stat}").splitlines() if line.startswith(f"{inactive} ")
            ]
            found.append(float(int(most) - int(now) + sum(cached)))  # the cache of files that were read is freed on demand
    return min(found)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def require(needed: float, what: str, remedy: str) -> None:
    """OptionError unless so many bytes are free."""
    if needed > SMALL and needed > free():
        raise OptionError(f"{what} needs {shown(needed)} of memory, {shown(free())} are free. {remedy}")


def shown(size: float) -> str:
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{size / MIB:,.0f} MiB"


def is_shortage(error: BaseException) -> bool:
    """Whether memory ran out: numpy's error, or torch's, which has no type of its own on a CPU."""
    said = str(error)
    return isinstance(error, MemoryError) or any(text in said for text in ("can't allocate memory", "out of memory"))
