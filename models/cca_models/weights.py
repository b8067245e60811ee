"""Where and in what to compute, and a checkpoint's tensors brought there."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from cca_kernels.devices import on_device
from cca_models.adapters.merging import Merger
from cca_models.checkpoint_files import weight_files
from cca_models.errors import CheckpointError, ModelError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class _Placed(Protocol):
    @property
    def device(self) -> torch.device: ...


_Self = TypeVar("_Self", bound=_Placed)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def choose_device(name: str) -> torch.device:
    """Turn "auto", "cpu", "cuda", "cuda:1" or "mps" into a device that is there.

    Raises:
        ModelError: If it is not.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}",
            hint="cca doctor lists the devices; --device cpu always works",
        ) from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Turn "auto", "bf16", "fp16" or "fp32" into a dtype; auto is fp32 on the CPU, else bf16.

    Raises:
        ModelError: If the name is none of these.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in _DTYPES:
        raise ModelError(f"dtype {name!r} is unknown", hint="use auto, bf16, fp16 or fp32")
    return _DTYPES[name]


def load_weights(
    path: Path, *, device: torch.device, dtype: torch.dtype, merger: Merger | None = None
) -> dict[str, Tensor]:
    """Load a checkpoint's tensors; on the CPU in its own dtype they are mapped, not copied.

    Args:
        path: The checkpoint's directory.
        device: Where to.
        dtype: What they are cast to in the end.
        merger: Merges an adapter on the way.

    Raises:
        CheckpointError: If a file is missing or damaged.
        AdapterError: If the adapter does not fit.
    """
    from safetensors import SafetensorError, safe_open

    weights: dict[str, Tensor] = {}
    names, _ = weight_files(path)
    for file in (path / name for name in names):
        try:
            with safe_open(file, framework="pt", device=str(device)) as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    tensor = tensors.get_tensor(name)
                    if merger is not None:
                        tensor = merger.merge(name, tensor)
                    weights[name] = tensor.to(dtype)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} cannot be read: {error}", hint="cca models pull fetches it anew"
            ) from error
    if merger is not None:
        merger.finish()
    return weights


def on_own_device(
    method: Callable[Concatenate[_Self, _P], _R],
) -> Callable[Concatenate[_Self, _P], _R]:
    """Run a method with its object's device as the current one; not for generators."""

    @wraps(method)
    def run(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with on_device(self.device):
            return method(self, *args, **kwargs)

    return run
