"""What `cca bench` measures: cells of method and length, each in a process of its own.

Prints nothing and imports no torch. How a cell is measured is in cca_models.benchmarks_cells, the
baseline in cca_models.dense_baseline, and what the figures mean in docs/benchmarks.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cca_models.attention_names import PEERS
from cca_models.benchmarks_forking import Report
from cca_models.benchmarks_memory import free_host_bytes
from cca_models.benchmarks_process import TaskFailed, run_task
from cca_models.benchmarks_results import Measurement
from cca_models.benchmarks_sizes import Needs, cca_needs, dense_needs, peer_needs
from cca_models.config import CCAConfig
from cca_models.errors import ModelError

METHODS = ("full", "cca", *PEERS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What all cells of a benchmark share.

    Attributes:
        name: Model or shape.
        path: The checkpoint; None for random weights.
        config: Its config.json, or the shape's.
        device: As for load_model; dtype too.
        threads: CPU threads; None for torch's own choice.
        cca: Group size and window.
        new_tokens: Tokens to write after reading.
        budget: Seconds; a reading that would take longer is sampled.
        batch: Rows that are read and written together, all of one length.
        seed: Seed of token ids and random weights.
    """

    name: str
    path: Path | None
    config: Mapping[str, Any]
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    cca: CCAConfig
    new_tokens: int = 32
    budget: float = 60.0
    batch: int = 1
    seed: int = 0

    def task(self, do: str, **more: Any) -> dict[str, Any]:
        """Write it down for a worker."""
        facts = {name: getattr(self, name) for name in self.__slots__}
        facts |= {"path": str(self.path) if self.path else None, "config": dict(self.config)}
        return {**facts, "cca": asdict(self.cca), "do": do, **more}


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Where a workload runs.

    Attributes:
        device: Torch's name of it; device_name its maker's.
        itemsize: Bytes of a number in `dtype`.
        free_bytes: Memory that was free there at the start.
        max_tokens: Most tokens that the model's positions reach.
        cuda: Version of CUDA that torch was built with; empty without a GPU of that kind.
        driver: Version of the GPU's driver, where the driver's library says.
        system: Operating system and architecture.
        energy: Why joules are not counted on this GPU; empty if they are, or without a GPU.
    """

    device: str
    device_name: str
    dtype: str
    itemsize: int
    threads: int
    free_bytes: int
    torch: str
    transformers: str
    max_tokens: int
    cuda: str = ""
    driver: str = ""
    system: str = ""
    energy: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One cell to run, and whether it is expected to fit.

    Attributes:
        needs: What it is expected to need.
        free_bytes: What is free.
        one_shot: Whether the dense baseline may read all tokens at once.
    """

    method: str
    length: int
    needs: Needs
    free_bytes: int
    one_shot: bool

    @property
    def fits(self) -> bool:
        """Whether it is worth trying."""
        return self.needs.total <= self.free_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitCheck:
    """Engine beside baseline on a prompt within the window, where both compute the same.

    Attributes:
        tokens: Length of the prompt.
        max_difference: Largest difference of any logit of any token.
        max_logit: Largest logit, for scale.
        same_top: Tokens at which both think the same next token the likeliest.
        reason: Why it was not checked; empty if it was.
    """

    tokens: int = 0
    max_difference: float | None = None
    max_logit: float | None = None
    same_top: int = 0
    reason: str = ""


def inspect_machine(work: Workload) -> Machine:
    """Look at the device that a workload would run on.

    Raises:
        ModelError: If device or dtype cannot be used.
    """
    try:
        return Machine(**run_task(work.task("machine")))
    except TaskFailed as error:
        raise ModelError(error.message, hint=error.hint) from error


def describe_attentions(work: Workload, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Say what attentions are, need and keep: the fields of cca_models.peers.AttentionRecord."""
    return list(run_task(work.task("records", methods=list(methods))).values())


def plan_case(work: Workload, machine: Machine, method: str, length: int) -> Case:
    """Work out whether a cell fits into what is free now."""
    cpu = machine.device.startswith("cpu")
    free = free_host_bytes() if cpu else machine.free_bytes
    sizes: dict[str, Any] = {
        "length": length,
        "new_tokens": work.new_tokens,
        "itemsize": machine.itemsize,
        "device": machine.device,
        "batch": work.batch,
    }
    one_shot = True
    if method == "full":
        needs = dense_needs(work.config, **sizes, one_shot=True)
        if needs.total > free:
            chunked = dense_needs(work.config, **sizes, one_shot=False)
            one_shot, needs = (False, chunked) if chunked.total <= needs.total else (True, needs)
    elif method in PEERS:
        needs = peer_needs(work.config, **sizes, peer=PEERS[method])
    else:
        needs = cca_needs(work.config, **sizes, cca=work.cca)
    return Case(method=method, length=length, needs=needs, free_bytes=free, one_shot=one_shot)


def run_case(work: Workload, case: Case, *, report: Report | None = None) -> Measurement:
    """Run a cell; whatever goes wrong in it becomes its mark."""
    sizes: dict[str, Any] = {"needs_bytes": case.needs.total, "free_bytes": case.free_bytes}
    if not case.fits:
        return Measurement(mark="oom", reason="does not fit, not tried", **sizes)
    task = work.task("cell", method=case.method, length=case.length, one_shot=case.one_shot)
    try:
        result = run_task(task, report=report)
    except TaskFailed as error:
        mark = "oom" if error.out_of_memory else f"failed: {error.message}"
        return Measurement(mark=mark, reason=error.detail or error.message, **sizes)
    result |= {name: tuple(result[name]) for name in ("prefill_s", "decode_s")} | sizes
    return Measurement(**result)


def check_logits(work: Workload, machine: Machine) -> LogitCheck:
    """Compare the logits of engine and baseline on the same weights."""
    if not plan_case(work, machine, "full", min(work.cca.window, 512)).fits:
        return LogitCheck(reason="the weights do not fit into free memory")
    try:
        return LogitCheck(**run_task(work.task("check")))
    except TaskFailed as error:
        return LogitCheck(reason="out of memory" if error.out_of_memory else error.message)


def rounds(
    lengths: Sequence[int], methods: Sequence[str], repeat: int
) -> Iterator[tuple[int, str, int]]:
    """Order the runs: at each length the methods take turns, so that a drift of the clock hits all.

    Yields:
        Length, method, number of the round.
    """
    for length in lengths:
        for turn in range(repeat):
            for method in methods:
                yield length, method, turn
