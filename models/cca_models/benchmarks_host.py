"""A process that tasks run in copies of: `python -m cca_models.benchmarks_host KIND DEVICE`.

A line on stdin is a task. For each it forks a copy, which speaks as cca_models.benchmarks_worker
does, and says {"ended": exit code} after it; {"unfit": why} where a copy could not work. It
computes nothing and does not look at the GPU: a fork takes neither threads nor a GPU's state along.
"""

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn, TextIO

import torch

from cca_models.benchmarks_memory import file_bytes
from cca_models.benchmarks_worker import protocol_stream, say, work

# What the tasks of a kind import when they run; a copy has it already.
_MODULES: Mapping[str, tuple[str, ...]] = {
    "engine": ("importlib.metadata", "psutil"),
    "peers": ("cca_models.benchmarks_peers",),
    "dense": ("cca_models.dense_baseline", "transformers.models.llama.modeling_llama"),
}
_NAMES_OF_TRANSFORMERS = ("AutoModelForCausalLM", "DynamicCache", "LlamaConfig")
_KERNELS = (
    "cca_models.fused_decoder", "cca_models.decode_graph", "cca_kernels.functions",
    "cca_kernels.decoding", "cca_kernels.gemv",
)  # fmt: skip
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl


def load(kind: str, device: str) -> None:
    """Import what tasks of a kind import."""
    for name in _MODULES[kind]:
        importlib.import_module(name)
    if kind == "peers":
        from cca_models.peers.records import records

        records()
    if kind == "dense":
        # Loaded when they are first asked for.
        import transformers

        for name in _NAMES_OF_TRANSFORMERS:
            getattr(transformers, name)
    if torch.version.cuda is not None and not device.startswith("cpu"):
        for name in _KERNELS:
            importlib.import_module(name)
    # What is alive now is never collected: no copy copies its pages for that.
    gc.collect()
    gc.freeze()


def serve(out: TextIO) -> None:
    """Run tasks until nobody hands any over."""
    while line := sys.stdin.readline():
        code = _run_copy(json.loads(line), out)
        # The copy may have been killed in the middle of a line.
        out.write("\n")
        say(out, {"ended": code})


def _run_copy(task: dict[str, Any], out: TextIO) -> int:
    """Run a task in a copy; killed, if whoever wants to know goes away. Gives its exit code."""
    host, mapped = os.getpid(), file_bytes()
    # Ends when the copy does: it alone can write to it.
    alive, held = os.pipe()
    with warnings.catch_warnings():
        # Of threads: numpy's, which know what a fork is.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        _be_copy(task, out, host=host, mapped=mapped)
    os.close(held)
    ready, _, _ = select.select([0, alive], [], [])
    os.close(alive)
    if ready == [0]:
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _be_copy(task: dict[str, Any], out: TextIO, *, host: int, mapped: int) -> NoReturn:
    code = 1
    try:
        reason = _unfit(host)
        if reason:
            say(out, {"unfit": reason})
        else:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            # Pages of libraries come to a copy when it first touches them: those that a process
            # of its own would have from importing count as if they were there.
            task["libraries_bytes"] = max(0, mapped - file_bytes())
            work(task, out)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        # The stack below is the host's.
        os._exit(code)


def _unfit(host: int) -> str:
    """Say why a copy cannot work; empty if it can."""
    if ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGKILL)) != 0:
        return "the system does not end a process with its parent"
    if os.getppid() != host:
        return "the host has gone"
    if torch.cuda._is_in_bad_fork() or _holds_gpu():
        return "an import has looked at the GPU"
    return ""


def _holds_gpu() -> bool:
    """Say whether a driver of NVIDIA's has been started here: it keeps its devices open."""
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{number}").startswith("/dev/nvidia"):
                return True
        except OSError:
            continue  # that of the listing itself
    return False


def main() -> None:
    """Import and serve."""
    out = protocol_stream()
    load(*sys.argv[1:3])
    serve(out)


if __name__ == "__main__":
    main()
