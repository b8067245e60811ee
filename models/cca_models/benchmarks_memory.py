"""Memory of a process and of a device: what is free, what is held, what the peak was.

Importing it imports no torch: the process that plans needs none.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: "torch.device") -> int:
    """Give the free memory of a device; on the CPU that of the host or of the container."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return free_host_bytes()


def free_host_bytes() -> int:
    """Give what a process may still take: of the host, or of its container where that is less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    if limit == "max":
        return free
    # Cached files count as used but are given up before anything is killed.
    return max(0, min(free, int(limit) - used + int(stat.get("inactive_file", 0))))


def held_bytes(tensors: "Iterable[Tensor]") -> int:
    """Add up the storage behind tensors, each storage once, room for more included."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def file_bytes() -> int:
    """Give the part of this process's resident set that belongs to files; 0 if nobody tells."""
    return _status("RssFile")


def _status(name: str) -> int:
    """Read bytes off the system's account of this process; 0 if it is not there."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class PeakMemory:
    """The peak from the last reset on: the allocator's on CUDA, else the process's resident set.

    Args:
        device: Whose memory.
        libraries: Bytes to add to a resident set, for libraries that the process shares with the
            one that it is a copy of.
    """

    def __init__(self, device: "torch.device", *, libraries: int = 0) -> None:
        self._device, self._libraries = device, libraries

    def reset(self) -> None:
        """Start anew from what is held now."""
        if self._device.type == "cuda":
            import torch

            # What the allocator keeps of earlier tensors would count as reserved for ever.
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        try:
            # Makes the kernel forget the peak; where it may not, the life's peak is reported.
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return

    def read(self) -> int:
        """Give the peak in bytes."""
        if self._device.type == "cuda":
            import torch

            return int(torch.cuda.max_memory_allocated(self._device))
        peak = _status("VmHWM")
        if not peak:
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            peak *= 1 if sys.platform == "darwin" else 1024
        return peak + self._libraries

    def read_reserved(self) -> int | None:
        """Give the most bytes that the CUDA allocator took from the device; None elsewhere."""
        if self._device.type != "cuda":
            return None
        import torch

        return int(torch.cuda.max_memory_reserved(self._device))
