"""``cca doctor``: what is installed, where things are, and whether the engine computes."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import typer

from cca_cli import __version__
from cca_cli.console import Console
from cca_cli.errors import ExitCode
from cca_cli.formatting import format_bytes
from cca_cli.model_loading import DEFAULT_MODEL
from cca_cli.options import DebugOpt, JsonOpt, QuietOpt, VerboseOpt
from cca_cli.paths import cache_dir, library_dir, models_dir

_PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "tiktoken",
    "safetensors",
    "pypdf",
    "pypdfium2",
    "bm25s",
    "typer",
)
_LOW_DISK = 2 << 30


def doctor(
    ctx: typer.Context,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Show versions, devices and paths; check that the engine works.

    Exits with 6 if the engine's own check fails.

    \b
    Examples:
      cca doctor
      cca doctor --json
    """
    console = Console.of(ctx)
    with console.progress("doctor") as progress:
        progress("import torch", 0, 0)
        facts: dict[str, Any] = {
            "version": __version__,
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            "packages": {name: _version(name) for name in _PACKAGES},
            "devices": _devices(),
            "paths": {
                "cache": str(cache_dir()),
                "models": str(models_dir()),
                "library": str(library_dir()),
            },
            "free_bytes": shutil.disk_usage(cache_dir()).free,
            "default_model": _default_model(),
            "default_adapter": _default_adapter(),
            "check": _self_check(),
        }
    facts["advice"] = _advice(facts)
    if console.human:
        _say(console, facts)
    else:
        console.json(facts)
    if facts["check"] != "ok":
        raise typer.Exit(int(ExitCode.MODEL))


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    # It takes seconds.
    import torch

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices: list[dict[str, Any]] = [
        {"name": "cpu", "detail": f"{cpus} cores, {torch.get_num_threads()} threads used"}
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        detail = f"{properties.name}, {format_bytes(properties.total_memory)}, {_kernels(index)}"
        devices.append({"name": f"cuda:{index}", "detail": detail})
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "detail": "Apple GPU"})
    return devices


def _kernels(index: int) -> str:
    """Say which kernels a card gets."""
    if _version("triton") is None:
        return "torch operations, for triton is absent"
    import torch

    from cca_kernels.devices import architecture

    return f"Triton kernels for {architecture(torch.device('cuda', index))}"


def _default_model() -> str | None:
    from cca_models.checkpoints import list_checkpoints

    found: list[Path] = [c.path for c in list_checkpoints() if c.name == DEFAULT_MODEL]
    return str(found[0]) if found else None


def _default_adapter() -> str | None:
    """Name the folder of the adapter that ships with cca, if it can be used."""
    from cca_models.adapters import shipped_adapter
    from cca_models.errors import AdapterError

    try:
        adapter = shipped_adapter(DEFAULT_MODEL)
    except AdapterError as error:
        return f"damaged: {error}"
    return str(adapter.path) if adapter else None


def _self_check() -> str:
    """Compare the fast attention with its specification, on the CPU and, if there is one, a GPU."""
    import torch

    result = _compare("cpu")
    if result == "ok" and torch.cuda.is_available():
        result = _compare("cuda")
    return result


def _compare(device: str) -> str:
    """Compare on a small random case."""
    import torch

    from cca_kernels import attend, pool_groups, reference

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 48, 16, generator=generator).to(device) for _ in range(3))
    try:
        core = pool_groups(k, v, q[:, :, 3::4], group_size=4)
        fast, _ = attend(q, k, v, *core, position=0, group_size=4, window=8)
        qkv = (q.double(), k.double(), v.double())
        wide = (core[0].double(), core[1].double())
        exact, _ = reference.attend(*qkv, *wide, position=0, group_size=4, window=8, scale=16**-0.5)
        error = (fast.double() - exact).abs().max().item()
    except (RuntimeError, ValueError, OSError) as failure:
        return f"failed on {device}: {failure}"
    return "ok" if error < 1e-5 else f"failed on {device}: off by {error:.1e}"


def _advice(facts: dict[str, Any]) -> list[str]:
    advice = []
    if facts["default_model"] is None:
        advice.append("the default model is not here yet: cca models pull")
    if facts["free_bytes"] < _LOW_DISK:
        advice.append(f"only {format_bytes(facts['free_bytes'])} of disk are free")
    if facts["packages"]["pypdfium2"] is None:
        advice.append("pip install 'cca[fast]' reads PDFs about ten times as fast")
    return advice


def _say(console: Console, facts: dict[str, Any]) -> None:
    console.facts(
        [
            ("cca", facts["version"]),
            ("python", f"{facts['python']}, {facts['platform']}"),
            *((name, version or "absent") for name, version in facts["packages"].items()),
            *((f"device {device['name']}", device["detail"]) for device in facts["devices"]),
            *facts["paths"].items(),
            ("free disk", format_bytes(facts["free_bytes"])),
            ("default model", facts["default_model"] or "absent"),
            ("default adapter", facts["default_adapter"] or "absent"),
            ("engine check", facts["check"]),
        ]
    )
    for line in facts["advice"]:
        console.note(f"hint: {line}")
