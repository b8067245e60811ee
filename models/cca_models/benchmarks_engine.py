"""The engine of this package as a contender of a benchmark: chunks read, tokens written."""

import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from cca_models.benchmarks_cells import BUSY_STEPS, WARM_STEPS, random_rows, wait_for, warm_up
from cca_models.benchmarks_forking import Report
from cca_models.benchmarks_rows import chunk_of_rows, read_rows
from cca_models.benchmarks_sampling import integrate, sample_chunks
from cca_models.checkpoints import Checkpoint
from cca_models.config import CCAConfig
from cca_models.decoder import Decoder
from cca_models.engine import LanguageModel
from cca_models.memory import Memory

_SAMPLES = 9
# A chunk that takes this many seconds is timed as it comes: what warming up would save is little.
_SLOW_CHUNK = 2.0


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
        batch: Rows to be read and written together.
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
        batch: int = 1,
    ) -> None:
        named = _NamedCheckpoint(
            name=checkpoint.name, path=checkpoint.path, config=checkpoint.config
        )
        self.model = LanguageModel(named, _NoTokenizer(), decoder, cca=cca)  # type: ignore[arg-type]
        self._capacity = length + new_tokens + 2 * WARM_STEPS + BUSY_STEPS + 1
        self._batch = batch
        # For one row as the engine takes them; on the device for several.
        self._rows = random_rows(batch, length, decoder.embedding.shape[0], seed)
        self._ids: list[int] = self._rows[0].tolist()
        self._rows = self._rows.to(decoder.device)
        self._memory: Memory | None = None
        self._logits = torch.zeros(0)
        self._tokens: list[int] = self._rows[:, -1].tolist()
        self._writing: Iterator[tuple[int, float]] | None = None
        self._times: dict[int, float] = {}
        self._slow = False
        self._spent = 0.0

    @property
    def plan(self) -> str:
        """How it reads."""
        return f"chunks of {self._chunk:,}{self._plan_of_rows}"

    @property
    def _plan_of_rows(self) -> str:
        """What of the plan is owed to several rows; empty for one."""
        captured = self._batch > 1 and self.model.decoder.stepper(self.model.cca) is not None
        return ", steps not captured: that is for one row" if captured else ""

    @property
    def _chunk(self) -> int:
        return chunk_of_rows(self.model.decoder.chunk, self._batch)

    def estimate(self, length: int, budget: float) -> float:
        """Time three chunks: the first, the last, the second."""
        chunk = self._chunk
        whole = length // chunk
        if whole < 2:
            return self.prefill(length, _ignore)
        start = time.perf_counter()
        self._times = sample_chunks(self._time_chunk, whole, most=3, budget=budget)
        self._spent = time.perf_counter() - start
        return integrate(self._times, whole) * length / (whole * chunk)

    def prefill(self, length: int, report: Report) -> float:
        """Read so many tokens afresh."""
        self._memory = None
        memory = self.model.new_memory(self._capacity)
        seconds = self._read(memory, 0, length, lambda done, total: report("prefill", done, total))
        self._memory = memory
        return seconds

    def sample(self, length: int, budget: float) -> tuple[float, str]:
        """Time more chunks and leave a memory of that length: random but for its end."""
        chunk = self._chunk
        whole = length // chunk
        if whole < 2:
            return self.prefill(length, _ignore), "all of it"
        self._times = sample_chunks(
            self._time_chunk, whole, most=_SAMPLES, budget=budget - self._spent, known=self._times
        )
        seconds = integrate(self._times, whole)
        memory = self._filled(whole * chunk - chunk)
        self._read(memory, whole * chunk - chunk, whole * chunk)
        if length % chunk:
            seconds += self._read(memory, whole * chunk, length)
        self._memory = memory
        return seconds, f"{len(self._times)} of {-(-length // chunk)} chunks"

    def settle(self) -> None:
        """Write a few tokens untimed."""
        warm_up(self.step, compiles=self.model.device.type == "cuda")

    def step(self) -> None:
        """Write a token the way that an answer is written; several rows without its graph."""
        assert self._memory is not None
        if self._batch > 1:
            tokens = torch.tensor(self._tokens, device=self.model.device)[:, None]
            logits = read_rows(self.model, self._memory, tokens, chunk=1)
            self._tokens = logits.argmax(-1).tolist()
            return
        if self._writing is None:
            room = self._capacity - self._memory.seen
            self._writing = self.model.likeliest(self._memory, self._logits, room)
            next(self._writing)  # known from reading
        token, _ = next(self._writing)
        self._tokens = [token]

    def tensors(self) -> Iterable[Tensor]:
        """Give the buffers of the memory."""
        layers = self._memory.layers if self._memory is not None else []
        return [tensor for layer in layers for tensor in layer.tensors().values()]

    def _time_chunk(self, i: int) -> float:
        """Time a chunk; a quick one after another, which brings the memory into its usual state."""
        chunk = self._chunk
        before = 0 if self._slow else min(i, 1)
        memory = self._filled((i - before) * chunk)
        if before:
            self._read(memory, (i - 1) * chunk, i * chunk)
        seconds = self._read(memory, i * chunk, (i + 1) * chunk)
        compiles = self.model.device.type == "cuda"
        if i == 0 and not self._times and (compiles or seconds <= _SLOW_CHUNK):
            # The process's very first work: its cost is not the chunk's.
            self._times = {0: seconds}
            seconds = self._time_chunk(0)
        self._slow = self._slow or seconds > _SLOW_CHUNK
        return seconds

    def _read(
        self,
        memory: Memory,
        first: int,
        end: int,
        on_chunk: Callable[[int, int], None] | None = None,
    ) -> float:
        """Read the tokens from one place up to another; give the seconds."""
        wait_for(self.model.device)
        start = time.perf_counter()
        if self._batch == 1:
            logits = self.model.prefill(memory, self._ids[first:end], on_chunk=on_chunk)
        else:
            rows = self._rows[:, first:end]
            logits = read_rows(self.model, memory, rows, chunk=self._chunk, on_chunk=on_chunk)
        wait_for(self.model.device)
        seconds = time.perf_counter() - start
        self._tokens = logits.view(self._batch, -1).argmax(-1).tolist()
        self._logits, self._writing = logits, None
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
                        self._batch, d.kv_heads, count, d.head_dim, device=d.device, dtype=d.dtype
                    ).uniform_(-1, 1)
                    for name, count in slots.items()
                },
                seen=tokens,
            )
        return memory


def _ignore(stage: str, done: int, total: int) -> None:
    """Swallow progress."""
