"""Standard attention, for comparison: transformers' own LLaMA with SDPA and its DynamicCache.

Nothing of it is changed. It reads in whichever way is fastest here, one-shot or in chunks, and with
whichever of torch's attention kernels is; the logits of the last token alone are computed. As all
layers cost the same, one layer is timed where all of them would take too long.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cca_models.benchmarks_cells import WARM_STEPS, random_rows, wait_for, warm_up
from cca_models.benchmarks_forking import Report
from cca_models.benchmarks_sampling import extrapolate, integrate, sample_chunks, steady_seconds
from cca_models.benchmarks_sizes import DENSE_CHUNK
from cca_models.dense_model import attention_kernel, dense_model

_SAMPLES = 9
# Where one layer's share of a reading is longer than this part of the budget, it is timed on two
# parts of the text: what it takes is a line and a square of the length.
_PATIENCE = 0.5
_PARTS = (16, 4)
# Slots of keys that are drawn; a cache that is filled repeats them.
_BLOCK = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """A way of reading: chunk and attention kernel; seconds of a layer and of what is no layer.

    `what` says on what a layer was timed, if not on all of the text.
    """

    chunk: int
    kernel: str
    layer_s: float
    rest_s: float
    what: str = ""

    def total(self, layers: int) -> float:
        return layers * self.layer_s + self.rest_s


class DenseContender:
    """The baseline as a contender, see cca_models.benchmarks_cells.

    Args:
        config: The checkpoint's config.json.
        weights: Its tensors.
        length: Tokens to be read.
        seed: Seed of the token ids.
        one_shot: Whether the states of all tokens at once fit into memory.
        batch: Rows to be read and written together.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        *,
        length: int,
        seed: int,
        one_shot: bool,
        batch: int = 1,
    ) -> None:
        self.model = dense_model(config, weights)
        self.device: torch.device = weights["model.embed_tokens.weight"].device
        vocabulary = weights["model.embed_tokens.weight"].shape[0]
        self._ids = random_rows(batch, length, vocabulary, seed).to(self.device)
        self._layers = int(config["num_hidden_layers"])
        self._one_shot_fits = one_shot or length <= DENSE_CHUNK
        self._chunk = length if self._one_shot_fits else DENSE_CHUNK
        self._kernel = ""
        self._kernels = ("", "cuDNN") if self.device.type == "cuda" else ("",)
        self._cache: Any = None
        self._token = self._ids[:, -1:]
        self._spent = 0.0
        self._what = ""
        self._times: dict[int, float] = {}
        self._both: dict[int, tuple[float, float]] = {}
        self._kernel_of_steps = ""
        self._base: tuple[Tensor, Tensor] | None = None

    @property
    def plan(self) -> str:
        """How it reads."""
        way = "one-shot" if self._chunk >= self._ids.shape[1] else f"chunks of {self._chunk:,}"
        return f"{way}, {self._kernel} attention" if self._kernel else way

    @torch.inference_mode()
    def estimate(self, length: int, budget: float) -> float:
        """Time one layer in a few chunks and, if that is quick, one-shot; settle on the faster."""
        ways, start = [], time.perf_counter()
        if length >= 2 * DENSE_CHUNK:
            ways.append(self._try_chunks(length, most=3, budget=budget))
        if not ways or ways[0].total(self._layers) < 2 * budget:
            ways += self._try_one_shot(length, spare=bool(ways))
        self._spent = time.perf_counter() - start
        return self._settle_on(ways)

    @torch.inference_mode()
    def prefill(self, length: int, report: Report) -> float:
        """Read so many tokens afresh."""
        from transformers import DynamicCache

        self._cache = None
        cache = DynamicCache(config=self.model.config)
        wait_for(self.device)
        start = time.perf_counter()
        for a in range(0, length, self._chunk):
            report("prefill", a, length)
            logits = self._forward(self._ids[:, a : a + self._chunk], cache)
        wait_for(self.device)
        seconds = time.perf_counter() - start
        self._cache, self._token = cache, logits[:, -1:].argmax(-1)
        return seconds

    @torch.inference_mode()
    def sample(self, length: int, budget: float) -> tuple[float, str]:
        """Time one layer while the keys of all others are in memory, and leave a full cache."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        for i in range(self._layers - 1):
            cache.update(*self._random_kv(length), i)
        ways = []
        if length >= 2 * DENSE_CHUNK:
            ways.append(self._try_chunks(length, most=_SAMPLES, budget=budget - self._spent))
        # In one shot a layer takes no longer than in chunks, and half as long on some machines.
        slow = bool(ways) and ways[0].layer_s > _PATIENCE * budget
        ways += self._try_one_shot(length, spare=bool(ways), parts=_PARTS if slow else ())
        seconds = self._settle_on(ways)
        cache.update(*self._random_kv(length), self._layers - 1)
        self._cache, self._token = cache, self._ids[:, -1:]
        return seconds, f"{self._what}1 of {self._layers} layers"

    @torch.inference_mode()
    def settle(self) -> None:
        """Write a few tokens untimed, and with each attention kernel, and keep the fastest."""
        speeds = []
        for kernel in self._kernels:
            self._kernel_of_steps = kernel
            try:
                if len(self._kernels) == 1:
                    warm_up(self.step)
                    return
                times = [self._timed_step() for _ in range(WARM_STEPS)]
            except RuntimeError as error:
                if not kernel or isinstance(error, torch.OutOfMemoryError):
                    raise
                continue
            speeds.append((min(times), kernel))
        self._kernel_of_steps = min(speeds)[1]

    def _timed_step(self) -> float:
        start = time.perf_counter()
        self.step()
        return time.perf_counter() - start

    @torch.inference_mode()
    def step(self) -> None:
        """Write a token to every row."""
        logits = self._forward(self._token, self._cache, kernel=self._kernel_of_steps)
        self._token = logits[:, -1:].argmax(-1)
        self._token.tolist()

    def tensors(self) -> Iterable[Tensor]:
        """Give the cache's keys and values."""
        return [t for layer in self._cache.layers for t in (layer.keys, layer.values)]

    def _settle_on(self, ways: Sequence[_Way]) -> float:
        """Take the fastest way; give the seconds of all layers."""
        best = min(ways, key=lambda way: way.total(self._layers))
        self._chunk, self._kernel, self._what = best.chunk, best.kernel, best.what
        return best.total(self._layers)

    def _try_chunks(self, length: int, *, most: int, budget: float) -> _Way:
        """Time one layer in chunks."""
        whole = length // DENSE_CHUNK
        self._base = self._random_kv(length)
        self._times = sample_chunks(
            self._time_chunk, whole, most=most, budget=budget, known=self._times
        )
        self._base = None
        part = length / (whole * DENSE_CHUNK)
        layer = integrate({i: layer for i, (layer, _) in self._both.items()}, whole) * part
        rest = integrate({i: rest for i, (_, rest) in self._both.items()}, whole) * part
        what = f"{len(self._times)} of {-(-length // DENSE_CHUNK)} chunks, "
        return _Way(chunk=DENSE_CHUNK, kernel="", layer_s=layer, rest_s=rest, what=what)

    def _try_one_shot(self, length: int, *, spare: bool, parts: tuple[int, ...] = ()) -> list[_Way]:
        """Time one layer in one shot, with each attention kernel; none if it does not fit.

        Args:
            length: Tokens.
            spare: Whether there is another way: then what cannot be done this way is left out.
            parts: Divisors of the length: time the layer on these two parts of the text instead.
        """
        if not self._one_shot_fits:
            return []
        ways: list[_Way] = []
        for kernel in self._kernels:
            self._kernel = kernel
            try:
                lengths = [length // part for part in parts or (1,)]
                times = [self._layer_seconds(n) for n in lengths]
            except RuntimeError as error:
                # cuDNN's kernel does not do all shapes; of memory, chunks need less.
                no_memory = isinstance(error, torch.OutOfMemoryError)
                if (no_memory and not spare) or (not no_memory and not kernel):
                    raise
                continue
            what = f"{' and '.join(f'{length // part:,}' for part in parts)} tokens, "
            layer = extrapolate(lengths, [layer for layer, _ in times], length)
            rest = times[-1][1] * length / lengths[-1]
            ways.append(
                _Way(
                    chunk=length, kernel=kernel, layer_s=layer, rest_s=rest,
                    what=what if parts else "",
                )
            )  # fmt: skip
        return ways

    def _layer_seconds(self, length: int) -> tuple[float, float]:
        """Time one layer in one shot, and what is no layer."""
        rest = self._steady(lambda: self._time_layers(0, length))
        both = self._steady(lambda: self._time_layers(1, length))
        return max(0.0, both - rest), rest

    def _forward(self, ids: Tensor, cache: Any, kernel: str | None = None) -> Tensor:
        with attention_kernel(self._kernel if kernel is None else kernel):
            out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: Tensor = out.logits
        return logits

    def _time_layers(self, layers: int, length: int) -> float:
        """Time the first layers, or none, on a fresh cache in one shot."""
        from transformers import DynamicCache

        return self._time_forward(layers, self._ids[:, :length], DynamicCache())

    def _time_chunk(self, i: int) -> float:
        """Time one layer on a chunk after a random cache; what is not the layer is taken off."""
        from transformers import DynamicCache

        ids = self._ids[:, i * DENSE_CHUNK : (i + 1) * DENSE_CHUNK]

        def run(layers: int) -> float:
            cache = DynamicCache()
            if i and self._base is not None:
                k, v = (t[:, :, : i * DENSE_CHUNK] for t in self._base)
                cache.update(k, v, 0)
            return self._time_forward(layers, ids, cache)

        # The mask is made once for all layers: it is in what a run without layers takes.
        rest = self._steady(lambda: run(0))
        layer = max(0.0, self._steady(lambda: run(1)) - rest)
        self._both[i] = (layer, rest)
        return layer

    def _steady(self, call: Callable[[], float]) -> float:
        return steady_seconds(call, compiles=self.device.type == "cuda")

    def _time_forward(self, layers: int, ids: Tensor, cache: Any) -> float:
        with self._only(layers):
            wait_for(self.device)
            start = time.perf_counter()
            self._forward(ids, cache)
            wait_for(self.device)
            return time.perf_counter() - start

    def _random_kv(self, length: int) -> tuple[Tensor, Tensor]:
        """Make keys and values of one layer, [B, KV, length, D]; memory of their own."""
        config = self.model.config
        rows = self._ids.shape[0]
        shape = (rows, config.num_key_value_heads, min(length, _BLOCK), config.head_dim)
        dtype = self.model.dtype
        block = torch.empty(shape, device=self.device, dtype=dtype).uniform_(-1, 1)
        keys = torch.empty(*shape[:2], length, shape[3], device=self.device, dtype=dtype)
        for start in range(0, length, _BLOCK):
            part = keys[:, :, start : start + _BLOCK]
            part.copy_(block[:, :, : part.shape[2]])
        return keys, keys.clone()

    @contextmanager
    def _only(self, layers: int) -> Iterator[None]:
        """Let the model run its first layers alone: it asks its config how many it has."""
        self.model.config.num_hidden_layers = layers
        try:
            yield
        finally:
            self.model.config.num_hidden_layers = self._layers
