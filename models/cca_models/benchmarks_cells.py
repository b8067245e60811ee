"""One cell of a benchmark: reading timed whole or sampled, then writing, KV bytes and the peak.

What runs is a Contender: the engine of this package, or the dense baseline.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from cca_models.benchmarks_memory import PeakMemory, held_bytes
from cca_models.benchmarks_process import Report
from cca_models.benchmarks_results import Measurement
from cca_models.benchmarks_sampling import integrate, sample_chunks
from cca_models.checkpoints import Checkpoint
from cca_models.config import CCAConfig
from cca_models.decoder import Decoder
from cca_models.engine import LanguageModel
from cca_models.memory import Memory

# A reading shorter than this is run once untimed before; probes have warmed up for longer ones.
_WARM_SECONDS = 5.0
# Readings are repeated within a process until they add up to this, five at most.
_ENOUGH_SECONDS = 1.0
_SAMPLES = 9
_WARM_STEPS = 3


class Contender(Protocol):
    """What a cell runs. Times are in seconds and end when the device has finished."""

    @property
    def plan(self) -> str:
        """How it reads."""

    def estimate(self, length: int, budget: float) -> float:
        """Estimate the reading of so many tokens from parts of it; warms up by the way."""

    def prefill(self, length: int, report: Report) -> float:
        """Read so many tokens afresh."""

    def sample(self, length: int, budget: float) -> tuple[float, str]:
        """Time parts of the reading, say which, and leave a memory of that length."""

    def settle(self) -> None:
        """Get ready to write: untimed steps."""

    def step(self) -> None:
        """Write a token, greedy, and wait for it."""

    def tensors(self) -> Iterable[Tensor]:
        """Give the keys and values held."""


def measure_cell(
    contender: Contender,
    *,
    length: int,
    new_tokens: int,
    budget: float,
    peak: PeakMemory,
    report: Report,
) -> Measurement:
    """Measure reading `length` tokens and writing `new_tokens` after them."""
    peak.reset()
    report("estimate", 0, 0)
    estimate = contender.estimate(length, budget)
    sampled = ""
    if estimate > budget:
        report("sample", 0, 0)
        seconds, sampled = contender.sample(length, budget)
        times = [seconds]
    else:
        # The parts that were timed for the estimate are gone; their peak is not the cell's.
        peak.reset()
        if estimate < _WARM_SECONDS:
            contender.prefill(length, report)
        times = [contender.prefill(length, report)]
        while sum(times) < _ENOUGH_SECONDS and len(times) < 5:
            times.append(contender.prefill(length, report))
    kv_bytes = held_bytes(contender.tensors())
    report("decode", 0, new_tokens)
    contender.settle()
    decode: list[float] = []
    while len(decode) < new_tokens and (len(decode) < 3 or sum(decode) < budget):
        start = time.perf_counter()
        contender.step()
        decode.append(time.perf_counter() - start)
        report("decode", len(decode), new_tokens)
    return Measurement(
        mark="sampled" if sampled else "measured",
        prefill_s=tuple(times),
        decode_s=tuple(decode),
        kv_bytes=kv_bytes,
        peak_bytes=peak.read(),
        plan=contender.plan,
        sampled=sampled,
    )


def wait_for(device: torch.device) -> None:
    """Wait until a device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def random_ids(length: int, vocabulary: int, seed: int) -> list[int]:
    """Draw token ids; the same for every contender."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(vocabulary, (length,), generator=generator).tolist()
    return ids


class _NamedCheckpoint(Checkpoint):
    """A checkpoint that need not lie on the disk: memories are not kept, its name will do."""

    @property
    def fingerprint(self) -> str:
        return self.name


class _NoTokenizer:
    """Stands where the engine has its tokenizer: a benchmark reads ids and writes ids."""


class CCAContender:
    """The engine itself: LanguageModel.prefill into a Memory, chunk by chunk.

    Args:
        checkpoint: Name and config; its files are not read.
        decoder: Its layers.
        cca: Group size and window.
        length: Tokens to be read.
        new_tokens: Tokens to be written after them.
        seed: Seed of the token ids.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        decoder: Decoder,
        *,
        cca: CCAConfig,
        length: int,
        new_tokens: int,
        seed: int,
    ) -> None:
        named = _NamedCheckpoint(
            name=checkpoint.name, path=checkpoint.path, config=checkpoint.config
        )
        self.model = LanguageModel(named, _NoTokenizer(), decoder, cca=cca)  # type: ignore[arg-type]
        self._capacity = length + new_tokens + 2 * _WARM_STEPS + 1
        self._ids = random_ids(length, decoder.embedding.shape[0], seed)
        self._memory: Memory | None = None
        self._logits = torch.zeros(0)
        self._token = self._ids[-1]
        self._writing: Iterator[tuple[int, float]] | None = None
        self._times: dict[int, float] = {}

    @property
    def plan(self) -> str:
        """How it reads."""
        return f"chunks of {self._chunk:,}"

    @property
    def _chunk(self) -> int:
        return self.model.decoder.chunk

    def estimate(self, length: int, budget: float) -> float:
        """Time three chunks: the first, the last, the second."""
        chunk = self._chunk
        whole = length // chunk
        if whole < 2:
            return self.prefill(length, _ignore)
        self._times = sample_chunks(self._time_chunk, whole, most=3, budget=budget)
        return integrate(self._times, whole) * length / (whole * chunk)

    def prefill(self, length: int, report: Report) -> float:
        """Read so many tokens afresh."""
        self._memory = None
        memory = self.model.new_memory(self._capacity)
        seconds = self._read(
            memory, self._ids[:length], lambda done, total: report("prefill", done, total)
        )
        self._memory = memory
        return seconds

    def sample(self, length: int, budget: float) -> tuple[float, str]:
        """Time more chunks and leave a memory of that length: random but for its end."""
        chunk = self._chunk
        whole = length // chunk
        if whole < 2:
            return self.prefill(length, _ignore), "all of it"
        self._times = sample_chunks(
            self._time_chunk, whole, most=_SAMPLES, budget=budget, known=self._times
        )
        seconds = integrate(self._times, whole)
        memory = self._filled(whole * chunk - chunk)
        self._read(memory, self._ids[whole * chunk - chunk : whole * chunk])
        if length % chunk:
            seconds += self._read(memory, self._ids[whole * chunk : length])
        self._memory = memory
        return seconds, f"{len(self._times)} of {-(-length // chunk)} chunks"

    def settle(self) -> None:
        """Write a few tokens untimed."""
        for _ in range(_WARM_STEPS):
            self.step()

    def step(self) -> None:
        """Write a token the way that an answer is written."""
        if self._writing is None:
            assert self._memory is not None
            room = self._capacity - self._memory.seen
            self._writing = self.model.likeliest(self._memory, self._logits, room)
            next(self._writing)  # known from reading
        self._token, _ = next(self._writing)

    def tensors(self) -> Iterable[Tensor]:
        """Give the buffers of the memory."""
        layers = self._memory.layers if self._memory is not None else []
        return [tensor for layer in layers for tensor in layer.tensors().values()]

    def _time_chunk(self, i: int) -> float:
        """Time a chunk after one that brings the memory into the state it has when reading."""
        chunk = self._chunk
        memory = self._filled(max(0, i - 1) * chunk)
        if i:
            self._read(memory, self._ids[(i - 1) * chunk : i * chunk])
        seconds = self._read(memory, self._ids[i * chunk : (i + 1) * chunk])
        if i == 0 and not self._times and seconds < _WARM_SECONDS:
            # The process's very first work: its cost is not the chunk's.
            self._times = {0: seconds}
            seconds = self._time_chunk(0)
        return seconds

    def _read(
        self,
        memory: Memory,
        ids: Sequence[int],
        on_chunk: Callable[[int, int], None] | None = None,
    ) -> float:
        wait_for(self.model.device)
        start = time.perf_counter()
        logits = self.model.prefill(memory, ids, on_chunk=on_chunk)
        wait_for(self.model.device)
        seconds = time.perf_counter() - start
        self._token, self._logits, self._writing = int(logits.argmax()), logits, None
        return seconds

    def _filled(self, tokens: int) -> Memory:
        """Make a memory that has seen so many tokens; its keys and values are random."""
        memory = self.model.new_memory(self._capacity)
        if not tokens:
            return memory
        d, cca = self.model.decoder, self.model.cca
        raw = tokens - cca.raw_start(tokens)
        slots = {"core_k": tokens // cca.group_size, "core_v": tokens // cca.group_size}
        slots |= {"raw_k": raw, "raw_v": raw}
        for layer in memory.layers:
            layer.restore(
                {
                    name: torch.empty(
                        1, d.kv_heads, count, d.head_dim, device=d.device, dtype=d.dtype
                    ).uniform_(-1, 1)
                    for name, count in slots.items()
                },
                seen=tokens,
            )
        return memory


def _ignore(stage: str, done: int, total: int) -> None:
    """Swallow progress."""
