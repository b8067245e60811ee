"""The process of one cell: `python -m cca_models.benchmarks_worker`, a task on stdin.

It writes JSON lines to stdout: {"progress": [stage, done, total]} while it works, and one
{"result": ...} or {"error": ...} at the end. A process for each cell keeps one cell's peak of
memory out of the next one, and lets a run that the system kills become a row of the table. Copies
of cca_models.benchmarks_host do the same work the same way.
"""

import contextlib
import json
import os
import platform
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch

from cca_models.attention_names import PEERS
from cca_models.benchmarks_busy import busy_seconds
from cca_models.benchmarks_cells import Contender, measure_cell, random_ids
from cca_models.benchmarks_energy import NoEnergyMeter, NvmlMeter, energy_meter
from cca_models.benchmarks_engine import CCAContender
from cca_models.benchmarks_memory import PeakMemory, free_bytes
from cca_models.benchmarks_weights import benchmark_weights
from cca_models.checkpoints import Checkpoint
from cca_models.config import CCAConfig
from cca_models.decoder import make_decoder
from cca_models.rope import MAX_STRETCH
from cca_models.weights import choose_device, choose_dtype

_CHECKED_TOKENS = 512


def main() -> None:
    """Do one task."""
    out = protocol_stream()
    work(json.load(sys.stdin), out)


def protocol_stream() -> TextIO:
    """Take stdout for the protocol; what libraries print must not get between its lines."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def work(task: Mapping[str, Any], out: TextIO) -> None:
    """Do a task and say how it ended."""
    # Where memory runs out, this process is the one to go.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        say(out, {"result": _TASKS[task["do"]](task, out)})
    except Exception as error:
        say(out, {"error": _describe(error)})


def say(out: TextIO, message: Mapping[str, Any]) -> None:
    """Write a line of the protocol."""
    out.write(json.dumps(message) + "\n")
    out.flush()


def _describe(error: Exception) -> dict[str, Any]:
    text = " ".join(str(error).split())
    return {
        "type": type(error).__name__,
        "message": text,
        "hint": getattr(error, "hint", ""),
        "model_error": any(k.__name__ == "ModelError" for k in type(error).__mro__),
        "out_of_memory": _is_out_of_memory(error, text.lower()),
        "traceback": traceback.format_exc(),
    }


def _is_out_of_memory(error: Exception, text: str) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    signs = ("can't allocate memory", "out of memory", "alloc_failed")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def _machine(task: Mapping[str, Any], out: TextIO) -> dict[str, Any]:
    """Say where a task would run, and what is free there."""
    import importlib.metadata

    device, dtype = _place(task)
    torch.empty(1, device=device)
    meter, why = _meter(device)
    return {
        "device": str(device),
        "device_name": _device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "itemsize": dtype.itemsize,
        "threads": torch.get_num_threads(),
        "free_bytes": free_bytes(device),
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "max_tokens": MAX_STRETCH * int(task["config"]["max_position_embeddings"]),
        "cuda": (torch.version.cuda or "") if device.type == "cuda" else "",
        "driver": meter.driver if meter is not None else "",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "energy": why,
    }


def _meter(device: torch.device) -> tuple[NvmlMeter | None, str]:
    """Give the device's counter of joules, or why an NVIDIA GPU has none."""
    try:
        return energy_meter(device), ""
    except NoEnergyMeter as error:
        return None, str(error)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cell(task: Mapping[str, Any], out: TextIO) -> dict[str, Any]:
    """Measure one cell."""
    device, dtype = _place(task)
    length, seed, batch = int(task["length"]), int(task["seed"]), int(task["batch"])

    def report(stage: str, done: int, total: int) -> None:
        say(out, {"progress": [stage, done, total]})

    report("load", 0, 0)
    weights = benchmark_weights(_path(task), task["config"], device=device, dtype=dtype, seed=seed)
    contender: Contender
    if task["method"] == "full":
        from cca_models.dense_baseline import DenseContender

        contender = DenseContender(
            task["config"],
            weights,
            length=length,
            seed=seed,
            one_shot=task["one_shot"],
            batch=batch,
        )
    elif task["method"] in PEERS:
        from cca_models.benchmarks_peers import PeerContender

        contender = PeerContender(
            Checkpoint(name=task["name"], path=Path(task["name"]), config=task["config"]),
            make_decoder(task["config"], weights),
            peer=task["method"], length=length, new_tokens=int(task["new_tokens"]), seed=seed,
            batch=batch,
        )  # fmt: skip
    else:
        contender = CCAContender(
            Checkpoint(name=task["name"], path=Path(task["name"]), config=task["config"]),
            make_decoder(task["config"], weights),
            cca=CCAConfig(**task["cca"]),
            length=length,
            new_tokens=int(task["new_tokens"]),
            seed=seed,
            batch=batch,
        )
    measurement = measure_cell(
        contender,
        length=length,
        new_tokens=int(task["new_tokens"]),
        budget=float(task["budget"]),
        peak=PeakMemory(device, libraries=int(task.get("libraries_bytes", 0))),
        report=report,
        energy=_meter(device)[0],
        busy=partial(busy_seconds, device=device),
    )
    return asdict(measurement)


@torch.inference_mode()
def _check(task: Mapping[str, Any], out: TextIO) -> dict[str, Any]:
    """Compare the logits of the engine and of the baseline, all tokens of a short prompt."""
    from cca_models.dense_model import dense_model

    device, dtype = _place(task)
    cca, seed = CCAConfig(**task["cca"]), int(task["seed"])
    weights = benchmark_weights(_path(task), task["config"], device=device, dtype=dtype, seed=seed)
    tokens = min(cca.window, _CHECKED_TOKENS)
    decoder = make_decoder(task["config"], weights)
    drawn = random_ids(tokens, decoder.embedding.shape[0], seed)
    ids = torch.tensor([drawn], device=device)
    contender = CCAContender(
        Checkpoint(name=task["name"], path=Path(task["name"]), config=task["config"]),
        decoder, cca=cca, length=tokens, new_tokens=1, seed=seed,
    )  # fmt: skip
    memory = contender.model.new_memory(tokens)
    states = decoder.forward(ids, memory.layers, memory.rotary, every=True)
    ours = decoder.logits(states)[0]
    theirs = dense_model(task["config"], weights)(input_ids=ids, use_cache=False).logits[0].float()
    return {
        "tokens": tokens,
        "max_difference": float((ours - theirs).abs().max()),
        "max_logit": float(theirs.abs().max()),
        "same_top": int((ours.argmax(-1) == theirs.argmax(-1)).sum()),
    }


def _place(task: Mapping[str, Any]) -> tuple[torch.device, torch.dtype]:
    if task["threads"]:
        torch.set_num_threads(int(task["threads"]))
    device = choose_device(task["device"])
    if device.type == "cuda" and device.index is not None:
        # Events and graphs of the whole process, which does nothing else, belong to this card.
        torch.cuda.set_device(device)
    return device, choose_dtype(task["dtype"], device)


def _path(task: Mapping[str, Any]) -> Path | None:
    return Path(task["path"]) if task["path"] else None


def _records(task: Mapping[str, Any], out: TextIO) -> dict[str, Any]:
    """Say what the attentions of a task are."""
    from cca_models.peers.records import record

    kept = (
        "name", "title", "settings", "paper", "code", "needs_tuning", "prefill", "decode",
        "kv_kept", "exact", "reaches_all", "shortest", "adapted", "whole_prompt", "note",
    )  # fmt: skip
    found = [record(name) for name in task["methods"]]
    return {one.name: {name: _plain(getattr(one, name)) for name in kept} for one in found}


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


_TASKS = {"machine": _machine, "cell": _cell, "check": _check, "records": _records}

if __name__ == "__main__":
    main()
