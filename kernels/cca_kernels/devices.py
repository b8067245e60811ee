"""What a device is to the kernels: its architecture, whether they run there, how to launch."""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from importlib.util import find_spec

import torch


@lru_cache(maxsize=64)
def architecture(device: torch.device) -> str:
    """Name the architecture that a device's tiles are chosen for.

    Returns:
        "hopper"; "ampere" (A100); "ada" for all whose programs have 99 KiB of shared memory: other
        Amperes, Ada, and Blackwell without data centre sizes; "blackwell"; "older"; or
        "interpreter" on a CPU.
    """
    if device.type != "cuda":
        return "interpreter"
    major, minor = torch.cuda.get_device_capability(device)
    if major == 9:
        return "hopper"
    if (major, minor) == (8, 0):
        return "ampere"
    if major == 8 or major >= 12:
        return "ada"
    return "blackwell" if major >= 10 else "older"


def has_kernels(device: torch.device) -> bool:
    """Say whether the kernels run on a device by themselves: NVIDIA, Ampere or newer, and Triton.

    Before Ampere a program has too little shared memory for the tiles, and there is no bfloat16;
    ROCm calls its devices cuda, too, but compiles other kernels.
    """
    if device.type != "cuda" or torch.version.hip is not None or find_spec("triton") is None:
        return False
    return architecture(device) != "older"


def on_device(device: torch.device) -> AbstractContextManager[None]:
    """Make a GPU the current one for a while; on other devices, nothing.

    Triton launches there, and events are recorded there, wherever the tensors lie.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
