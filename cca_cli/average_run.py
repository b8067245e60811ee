"""What `cca models average` does: read the shares, average the adapters, say what was kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cca_cli.console import Console
from cca_cli.errors import UsageError
from cca_cli.formatting import format_bytes

__all__ = ["run_average"]


def run_average(
    console: Console, folders: Sequence[Path], out: Path, weights: str | None, dtype: str
) -> None:
    """Average adapters as asked.

    Raises:
        UsageError: If an adapter is not there, or the weights do not make a mean.
        AdapterError: If the adapters cannot be averaged, or something is in `out`.
    """
    from cca_models.adaptation.averaging import average_adapters
    from cca_models.adapters import read_adapter

    shares = _shares(weights, len(folders))
    for folder in folders:
        if not folder.expanduser().is_dir():
            raise UsageError(
                f"{folder}: no adapter is there",
                hint="name folders that cca adapt made, OUT/adapter",
            )
    kept = average_adapters(list(zip(folders, shares, strict=True)), out, dtype=dtype)
    adapter = read_adapter(out)
    settings = adapter.settings
    assert settings is not None
    parts = [
        {key: part[key] for key in ("name", "share", "weights_sha256")}
        for part in settings.training["averaged"]
    ]
    size = adapter.weights.stat().st_size
    if console.human:
        console.result(f"averaged: {out} ({format_bytes(size)})")
    else:
        energy = {"mean": kept.mean, "lowest": kept.lowest}
        console.json({"adapter": str(out), "bytes": size, "kept_energy": energy, "parts": parts})
    console.note(
        f"rank {adapter.lora.rank} keeps {kept.mean:.1%} of the products' energy, "
        f"{kept.lowest:.1%} where it keeps least"
    )
    if settings.locate or settings.not_found:
        console.note(
            f"locate and not_found are those of {parts[0]['name']}; "
            "tools/calibrate_not_found.py measures the thresholds again"
        )


def _shares(weights: str | None, count: int) -> list[float]:
    """Read "0.7,0.3"; equal shares if nothing is given."""
    if weights is None:
        return [1 / count] * count
    from cca_models.adaptation.averaging import check_shares

    try:
        shares = [_number(part) for part in weights.split(",")]
        check_shares(shares)
        if len(shares) != count:
            raise ValueError(f"{len(shares)} for {count} adapters")
    except ValueError as error:
        raise UsageError(
            f"--weights {weights}: {error}", hint="one number an adapter, that sum to 1: 0.7,0.3"
        ) from None
    return shares


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text.strip()!r} is no number") from None
