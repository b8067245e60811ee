"""A checkpoint ready to read and to write: loading, prefill, generation."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from cca_kernels.devices import on_device
from cca_models.adapters.adapter_files import trained_settings
from cca_models.adapters.base_weights import check_base
from cca_models.adapters.merging import Merger
from cca_models.checkpoints import Checkpoint
from cca_models.config import CCAConfig
from cca_models.decoder import CHUNK, Decoder, make_decoder
from cca_models.generation import Generation, one_by_one
from cca_models.layer_memory import Probe
from cca_models.memory import Memory
from cca_models.rope import RopeRule, Rotary, rope_rule
from cca_models.tokenizer import Tokenizer, load_tokenizer
from cca_models.weights import choose_device, choose_dtype, load_weights


class LanguageModel:
    """A LLaMA checkpoint with CCA memories.

    Attributes:
        checkpoint: Where it came from.
        tokenizer: Its tokenizer.
        cca: Group size and window.
        decoder: Its layers.
        rope: The rule that gives memories their positions.
    """

    def __init__(
        self, checkpoint: Checkpoint, tokenizer: Tokenizer, decoder: Decoder, *, cca: CCAConfig
    ) -> None:
        self.checkpoint = checkpoint
        self.tokenizer = tokenizer
        self.decoder = decoder
        self.cca = cca
        self.rope: RopeRule = rope_rule(checkpoint)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.decoder.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.decoder.dtype

    @property
    def max_tokens(self) -> int:
        """Most tokens that a memory may hold: what the positions reach."""
        return self.rope.max_tokens

    @property
    def adapted_tokens(self) -> int | None:
        """The longest text that the adapter was trained on; None where nobody says."""
        settings = trained_settings(self.checkpoint.adapter)
        return settings.rope.trained_tokens if settings else None

    @property
    def fingerprint(self) -> str:
        """Digest of all that shapes a memory: checkpoint, adapter, settings, positions, dtype."""
        facts = {
            "checkpoint": self.checkpoint.fingerprint,
            "dtype": str(self.dtype),
            "group_size": self.cca.group_size,
            "window": self.cca.window,
            **self.rope.facts,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def new_memory(self, capacity: int, *, room: int | None = None) -> Memory:
        """Make an empty memory.

        Args:
            capacity: Tokens that it must be able to hold, document, question and answer together.
                Where the checkpoint's own positions are stretched it decides how far, so equal
                capacities read alike.
            room: Tokens that there is room for at once, if that differs; it grows beyond.

        Raises:
            ContextTooLongError: If the positions do not reach that far.
        """
        room = capacity if room is None else room
        rotary = Rotary(self.rope.frequencies(capacity))
        layers = self.decoder.new_layer_memories(self.cca, capacity=room, rotary=rotary)
        return Memory(
            layers,
            rotary=rotary,
            stretch=self.rope.stretch(capacity),
            capacity=self.rope.capacity(capacity),
            room=room,
            model_fingerprint=self.fingerprint,
        )

    @torch.inference_mode()
    def prefill(
        self,
        memory: Memory,
        ids: Sequence[int],
        *,
        on_chunk: Callable[[int, int], None] | None = None,
        chunk: int | None = None,
        probes: Mapping[int, Probe] | None = None,
    ) -> Tensor:
        """Read tokens into a memory.

        Args:
            memory: Where to; it moves on by len(ids).
            ids: At least one token.
            on_chunk: Called after every chunk with tokens done and tokens in all. On a GPU done
                means launched: at most the last chunk told of is still being worked on, and none
                when all tokens are told of. What it raises stops the reading after a whole chunk:
                the memory is sound and can go on.
            chunk: Tokens at a time; what the decoder likes best by default.
            probes: See Decoder.forward.

        Returns:
            Logits of the last token, [V], float32.

        Raises:
            ContextTooLongError: If the memory cannot hold them; it is left as it was.
            ValueError: If ids is empty.
        """
        if not ids:
            raise ValueError("expected at least one token, got none")
        memory.expect_room(len(ids))
        if len(ids) == 1 and probes is None and memory.seen:
            stepper = self.decoder.stepper(self.cca)
            if stepper is not None:
                logits = stepper.read(memory, ids[0])
                if on_chunk is not None:
                    on_chunk(1, 1)
                return logits
        chunk = chunk or self.decoder.chunk
        told = _Told(self.device, on_chunk, len(ids))
        state = None
        whole = torch.tensor([ids], device=self.device)
        for start in range(0, len(ids), chunk):
            part = whole[:, start : start + chunk]
            state = self.decoder.forward(part, memory.layers, memory.rotary, probes=probes)
            told.chunk(min(start + chunk, len(ids)))
        assert state is not None
        return self.decoder.logits(state)[0, -1]

    @torch.inference_mode()
    def probe(self, memory: Memory, ids: Sequence[int], probes: Mapping[int, Probe]) -> None:
        """Let tokens look at a memory, for the probes alone: runs no further than they need.

        The memory is spent afterwards; give it a fork.
        """
        memory.expect_room(len(ids))
        part = torch.tensor([list(ids)], device=self.device)
        self.decoder.forward(
            part, memory.layers, memory.rotary, probes=probes, last_layer=max(probes)
        )

    def likeliest(self, memory: Memory, logits: Tensor, limit: int) -> Iterator[tuple[int, float]]:
        """Write on greedily, at the full speed of the device.

        Args:
            memory: What has been read. Whenever a token is given out it has read those before it.
            logits: Of the first token, [V], from `prefill`.
            limit: Tokens to write at most.

        Yields:
            Every token with its log-probability; what ends a text is the caller's to decide.
        """
        stepper = self.decoder.stepper(self.cca)
        if stepper is not None and memory.seen:
            yield from stepper.likeliest(memory, logits, limit)
            return
        yield from one_by_one(self, lambda row: int(row.argmax()), memory, logits, limit)

    def generate(
        self,
        memory: Memory,
        ids: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        opening: Callable[[Tensor], Tensor] | None = None,
        stop_loops: bool = False,
    ) -> Generation:
        """Read a prompt and write on from it; iterate over the result for pieces of text.

        Args:
            memory: Read on from here; it moves on. Give it a fork to keep the original.
            ids: The prompt, at least one token.
            max_new_tokens: Most tokens to write.
            temperature: 0 for greedy, else the sampling temperature.
            top_p: Sample from the smallest set of tokens with this probability.
            repetition_penalty: Logits of tokens already written are divided by it, or multiplied
                where negative; the prompt's tokens are left alone.
            seed: Seed of the sampling: equal seeds write equal texts.
            stop: Texts that end the answer; they are not part of it.
            stop_loops: End the text when the same few tokens come again and again.
            opening: Given the first token's logits, [V], gives those that it is chosen by.

        Raises:
            ContextTooLongError: If prompt and answer do not fit.
            ValueError: If a setting is out of range.
        """
        memory.expect_room(len(ids) + max_new_tokens)
        return Generation(
            self, memory, ids, max_new_tokens=max_new_tokens, temperature=temperature,
            top_p=top_p,
            repetition_penalty=repetition_penalty, seed=seed, stop=stop,
            likeliest=self.likeliest, opening=opening, stop_loops=stop_loops,
        )  # fmt: skip

    def flops(self, tokens: int, *, start: int = 0) -> float:
        """Count the operations of reading tokens after a memory of `start` tokens."""
        d = self.decoder
        middle = start + tokens / 2
        raw = min(middle, self.cca.window + self.cca.group_size / 2)
        keys = raw + max(0.0, middle - self.cca.window) / self.cca.group_size
        attention = 4 * d.num_layers * d.heads * d.head_dim * keys
        return tokens * (2 * d.layer_parameters + attention)

    def estimate_seconds(self, tokens: int) -> float:
        """Estimate how long reading takes here, from a matrix product timed now (tens of ms)."""
        a = torch.randn(CHUNK, self.decoder.hidden, device=self.device, dtype=self.dtype)
        b = torch.randn(self.decoder.hidden, 2048, device=self.device, dtype=self.dtype)
        times = []
        for _ in range(4):
            start = time.perf_counter()
            (a @ b)[0, 0].item()
            times.append(time.perf_counter() - start)
        rate = 2 * CHUNK * self.decoder.hidden * 2048 / min(times)
        # A quarter on top for what is not matrix products: norms, rotations, copies.
        return 1.25 * self.flops(tokens) / rate


class _Told:
    """Tells of chunks: on a GPU when they have been launched and all before them are done."""

    def __init__(
        self, device: torch.device, on_chunk: Callable[[int, int], None] | None, total: int
    ) -> None:
        self._device = device
        self._on_chunk, self._total = on_chunk, total
        self._before: torch.cuda.Event | None = None

    def chunk(self, done: int) -> None:
        """Tell of a chunk that has been launched; lets the host be one chunk ahead."""
        if self._on_chunk is None:
            return
        if self._device.type == "cuda":
            with on_device(self._device):
                event = torch.cuda.Event()
                event.record()
            waited = event if done == self._total else self._before
            if waited is not None:
                waited.synchronize()
            self._before = event
        self._on_chunk(done, self._total)


def load_model(
    checkpoint: Checkpoint,
    *,
    cca: CCAConfig | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> LanguageModel:
    """Load a checkpoint.

    Args:
        checkpoint: From resolve_checkpoint; its adapter, if there is one, is merged.
        cca: Group size and window; those that the adapter was trained with, or the defaults, if
            None.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dtype: "auto", "bf16", "fp16" or "fp32".

    Raises:
        CheckpointError: If the weights are damaged or do not fit the config.
        UnsupportedModelError: If the architecture is not LLaMA's.
        AdapterError: If the adapter is damaged, or made for other weights.
        ModelError: If device or dtype cannot be used.
    """
    where = choose_device(device)
    as_dtype = choose_dtype(dtype, where)
    merger = None
    if checkpoint.adapter is not None:
        check_base(checkpoint.adapter, checkpoint.path)
        merger = Merger(checkpoint.adapter, checkpoint.config, device=where)
    weights = load_weights(checkpoint.path, device=where, dtype=as_dtype, merger=merger)
    decoder = make_decoder(checkpoint.config, weights)
    tokenizer = load_tokenizer(checkpoint.path)
    return LanguageModel(checkpoint, tokenizer, decoder, cca=cca or checkpoint.cca)
