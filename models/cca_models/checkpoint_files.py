"""The files of a checkpoint directory, checked without loading a tensor."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cca_models.errors import CheckpointError, UnsupportedModelError

_NUMBERS = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
)
_AGAIN = "copy or download the checkpoint again"
# Longer headers than any real file has are damage, or an attempt to fill the memory.
_HEADER_LIMIT = 100_000_000


def read_config(path: Path) -> Mapping[str, Any]:
    """Return config.json of a checkpoint directory.

    Raises:
        CheckpointError: If it is missing, damaged or incomplete.
        UnsupportedModelError: If it does not describe a LLaMA, or one with quantised weights or
            with code of its own.
    """
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        files = sorted(found.name for found in path.glob("*.gguf"))
        hint = f"name the file: {path / files[0]}" if files else "cca models ls"
        raise CheckpointError(f"{path}: config.json is missing", hint=hint) from None
    except ValueError as error:
        raise CheckpointError(f"{file}: the file is damaged ({error})", hint=_AGAIN) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: the file is damaged (no JSON object)", hint=_AGAIN)
    kind = config.get("model_type")
    if kind != "llama":
        raise UnsupportedModelError(
            f"{path}: the model is of type {kind!r}, and only 'llama' can be used",
            hint="choose a checkpoint with the LLaMA architecture",
        )
    if own := _own_code(config):
        raise UnsupportedModelError(
            f"{path}: the model wants to run Python code of its own ({own}), which cca never does",
            hint="choose a checkpoint that transformers loads without trust_remote_code",
        )
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "?"
        raise UnsupportedModelError(
            f"{path}: the weights are quantised ({method}), and only plain ones can be used",
            hint="choose the checkpoint's original, or a GGUF file of it",
        )
    for name in _NUMBERS:
        value = config.get(name)
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{file}: {name} is {value!r}, not a number", hint=_AGAIN)
    return config


def _own_code(config: Mapping[str, Any]) -> str | None:
    """Name the code that a checkpoint brings for its model; without it, it would be another one."""
    places = config.get("auto_map")
    if not places:
        return None
    named = places.values() if isinstance(places, dict) else [places]
    return ", ".join(sorted({str(name) for name in named}))[:100]


def check_weights(path: Path) -> list[str]:
    """Return the names of a checkpoint's weight files, after a look at their headers and sizes.

    Raises:
        CheckpointError: If a file is missing, empty, cut off or not safetensors.
    """
    names, wanted = weight_files(path)
    held: set[str] = set()
    for name in names:
        held |= _check_safetensors(path / name)
    if missing := sorted(wanted - held):
        raise CheckpointError(
            f"{path}: {len(missing)} tensors of the index are in no file, such as {missing[0]}",
            hint=_AGAIN,
        )
    return names


def weight_files(path: Path) -> tuple[list[str], set[str]]:
    """Return the names of a checkpoint's weight files, and of the tensors that an index promises.

    Raises:
        CheckpointError: If there are none, or the index is damaged.
    """
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(places.values()))
            # A shard is a file beside the index, whatever the index says.
            if names and all(name == Path(name).name for name in names):
                return names, set(places)
            raise ValueError("it names no files beside it")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index}: the file is damaged ({error})", hint=_AGAIN) from error
    if (path / "model.safetensors").is_file():
        return ["model.safetensors"], set()
    others = sorted(
        found.name for found in path.glob("*") if found.suffix in (".bin", ".pt", ".pth")
    )
    if others:
        raise CheckpointError(
            f"{path}: the weights are only there as {others[0]}, which may run code when loaded",
            hint="convert them with transformers: AutoModelForCausalLM.from_pretrained(...)"
            ".save_pretrained(...)",
        )
    raise CheckpointError(f"{path}: model.safetensors is missing", hint=_AGAIN)


def _check_safetensors(file: Path) -> set[str]:
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 0 < length <= min(_HEADER_LIMIT, size - 8):
                raise CheckpointError(
                    f"{file}: the file is empty, cut off or not safetensors ({size:,} bytes)",
                    hint=_AGAIN,
                )
            header = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max(entry["data_offsets"][1] for entry in header.values())
    except FileNotFoundError:
        raise CheckpointError(f"{file}: the file is missing", hint=_AGAIN) from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{file}: not a safetensors file ({error})", hint=_AGAIN) from error
    if size != end:
        raise CheckpointError(
            f"{file}: the file is damaged: {size:,} bytes where its header says {end:,}",
            hint=_AGAIN,
        )
    return set(header)
