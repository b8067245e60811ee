"""Joules of a GPU, read from the driver's own counter (NVML); needs the package nvidia-ml-py."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

# The counter moves in steps of up to a tenth of a second; what is shorter than a few is not told.
SHORTEST_SECONDS = 0.5


class EnergyMeter(Protocol):
    """A counter of joules."""

    def read(self) -> float:
        """Give the joules spent since some fixed time."""


class NoEnergyMeter(Exception):
    """A GPU's joules cannot be counted; says why in one line."""


class NvmlMeter:
    """The counter of one NVIDIA GPU: the whole card's, whoever uses it.

    Args:
        device: A CUDA device.

    Raises:
        NoEnergyMeter: If the package is missing, or driver or card have no such counter.
    """

    def __init__(self, device: "torch.device") -> None:
        self._nvml = _start_nvml()
        try:
            self._handle = _handle_of(self._nvml, device)
            self.read()
        except self._nvml.NVMLError as error:
            raise NoEnergyMeter(f"the driver does not count it: {error}") from error

    def read(self) -> float:
        """Give the joules since the driver was loaded."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000

    @property
    def driver(self) -> str:
        """Version of the driver."""
        return str(self._nvml.nvmlSystemGetDriverVersion())


def energy_meter(device: "torch.device") -> NvmlMeter | None:
    """Give the counter of a device that has one; None on a CPU and on GPUs of other makers.

    Raises:
        NoEnergyMeter: If it is an NVIDIA GPU and cannot be read.
    """
    import torch

    if device.type != "cuda" or torch.version.cuda is None:
        return None
    return NvmlMeter(device)


def joules(before: float, after: float, seconds: float, count: int) -> float | None:
    """Divide what was counted between two readings among `count` runs; None if it was too short."""
    return (after - before) / count if seconds >= SHORTEST_SECONDS and count else None


def _start_nvml() -> Any:
    if find_spec("pynvml") is None:
        raise NoEnergyMeter("needs nvidia-ml-py: pip install 'cca[energy]'")
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NoEnergyMeter(f"the driver's library does not answer: {error}") from error
    return pynvml


def _handle_of(nvml: Any, device: "torch.device") -> Any:
    """Find a device by its UUID: NVML counts all cards, torch those that are visible to it."""
    import torch

    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
