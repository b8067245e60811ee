"""The CCA memory as a cache of transformers.

A layer's update hands a Handle to the attention function (cca_models.attention), which calls back
with the queries. Rows of a batch whose padding differs stand at different positions, so each set of
rows with equal padding keeps a LayerMemory of its own.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from cca_models.attention import Handle, Padding, settings_of
from cca_models.config import CCAConfig
from cca_models.errors import MemoryFileError
from cca_models.layer_memory import KEPT, Layer, LayerMemory


class RowLayer(Layer, Protocol):
    """The memory of one layer, whose rows can be chosen and repeated."""

    def fork(self) -> Self:
        """Make a second memory that goes its own way from here."""

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Apply a change of rows or of device to all tensors."""


class CCACacheLayer(CacheLayerMixin):
    """The cache of one layer; see the module's first lines."""

    is_sliding = False
    is_compileable = False
    is_croppable = False

    def __init__(
        self, config: CCAConfig | None = None, *, make: Callable[[], RowLayer] | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.config = config or CCAConfig()
        # Another attention's memories behind the same hook: see cca_models.peers.hook.
        self._make = make or partial(LayerMemory, self.config)
        self._read = 0  # tokens read, padding included
        self._parts: list[tuple[int, list[int], RowLayer]] = []  # padding, rows, memory

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Note dtype and device; memories are made when the padding is known."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(  # type: ignore[override]
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Handle, Tensor]:
        """Send new keys and values on to the attention function, together with this layer."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return Handle(self, key_states, value_states), value_states

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, padding: Padding | None, scale: float
    ) -> Tensor:
        """Take in new tokens and attend; [B, H, L, D] as in LayerMemory.attend.

        Raises:
            ValueError: If the padding is at the right, or has changed since the first call.
        """
        if torch.is_grad_enabled() and k.requires_grad:
            raise ValueError("a CCACache is for inference: use torch.no_grad() or use_cache=False")
        B, _, L, _ = q.shape
        left = padding.left if padding else (0,) * B
        if padding and any(padding.right):
            raise ValueError(
                "expected padding at the left; a cache cannot go on after right padding"
            )
        self._start_rows(left, end=self._read + L)
        if len(self._parts) == 1 and len(self._parts[0][1]) == B and left[0] <= self._read:
            o = self._parts[0][2].attend(q, k, v, scale=scale)
        else:
            o = torch.zeros_like(q)
            for pad, rows, memory in self._parts:
                skip = max(0, pad - self._read)
                index = torch.tensor(rows, device=q.device)
                new = [t.index_select(0, index)[:, :, skip:] for t in (q, k, v)]
                o[index, :, skip:] = memory.attend(*new, scale=scale)
        self._read += L
        return o

    def _start_rows(self, left: tuple[int, ...], *, end: int) -> None:
        """Give a memory to the rows whose first real token lies before `end`."""
        started = {row: pad for pad, rows, _ in self._parts for row in rows}
        if any(left[row] != pad for row, pad in started.items()):
            raise ValueError("expected the padding of the earlier tokens, got another")
        waiting = [row for row in range(len(left)) if row not in started]
        if any(left[row] < self._read for row in waiting):
            raise ValueError("expected the rows of the earlier tokens, got others")
        for pad in sorted({left[row] for row in waiting if left[row] < end}):
            rows = [row for row in waiting if left[row] == pad]
            self._parts.append((pad, rows, self._make()))

    def get_seq_length(self) -> int:
        """Count the tokens read, padding included."""
        return self._read

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Give the length and the offset of the keys that a mask would cover."""
        return self._read + query_length, 0

    def get_max_length(self) -> int:
        """Say that there is no largest length."""
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.2x

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held."""
        return sum(memory.nbytes for _, _, memory in self._parts)

    def fork(self) -> "CCACacheLayer":
        """Make a second layer that goes its own way from here."""
        twin = CCACacheLayer(self.config, make=self._make)
        if self.is_initialized:
            twin.dtype, twin.device, twin.is_initialized = self.dtype, self.device, True
        twin._read = self._read
        twin._parts = [(pad, list(rows), memory.fork()) for pad, rows, memory in self._parts]
        return twin

    def crop(self, max_length: int) -> None:
        """Refuse: pooled tokens cannot be given back."""
        raise NotImplementedError(
            "a CCACache cannot be cropped: assisted and prompt-lookup decoding do not work with it"
        )

    def reset(self) -> None:
        """Forget everything."""
        self._read, self._parts = 0, []

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row i continue from row beam_idx[i]."""
        self._select(beam_idx.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self._select([row for row in range(self._rows()) for _ in range(repeats)])

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self._select(torch.arange(self._rows())[indices.cpu()].tolist())

    def offload(self) -> None:
        """Move everything to the CPU."""
        self._map(lambda t: t.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        """Move everything back."""
        if self.is_initialized:
            self._map(lambda t: t.to(self.device, non_blocking=True))

    def _rows(self) -> int:
        return sum(len(rows) for _, rows, _ in self._parts)

    def _map(self, change: Callable[[Tensor], Tensor]) -> None:
        for _, _, memory in self._parts:
            memory.map_rows(change)

    def _select(self, order: list[int]) -> None:
        """Make new rows, each a copy of the old row that `order` names."""
        parts = []
        for pad, rows, memory in self._parts:
            place = {row: i for i, row in enumerate(rows)}
            new = [i for i, old in enumerate(order) if old in place]
            if not new:
                continue
            source = [place[order[i]] for i in new]
            memory.map_rows(lambda t, s=source: t[torch.tensor(s, device=t.device)])  # type: ignore[misc]
            parts.append((pad, new, memory))
        self._parts = parts


class CCACache(Cache):
    """A cache of core tokens and raw tails, for past_key_values.

    Args:
        config: The model's config; says how many layers there are, and group size and window if it
            carries them as `config.cca`.
        cca: Group size and window, if they shall be others.
    """

    def __init__(self, config: Any, *, cca: CCAConfig | None = None) -> None:
        self.cca = cca or settings_of(config)
        super().__init__(layers=[CCACacheLayer(self.cca) for _ in range(config.num_hidden_layers)])

    @property
    def _cca_layers(self) -> list[CCACacheLayer]:
        return cast("list[CCACacheLayer]", self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held."""
        return sum(layer.nbytes for layer in self._cca_layers)

    def fork(self) -> "CCACache":
        """Make a second cache that goes its own way from here; nothing large is copied."""
        twin = CCACache.__new__(CCACache)
        twin.cca = self.cca
        Cache.__init__(twin, layers=[layer.fork() for layer in self._cca_layers])
        return twin

    def save(self, path: Path | str) -> None:
        """Write it to one safetensors file."""
        from safetensors.torch import save_file

        tensors, parts = {}, []
        for i, layer in enumerate(self._cca_layers):
            for j, (pad, rows, memory) in enumerate(layer._parts):
                if i == 0:
                    parts.append({"padding": pad, "rows": rows, "seen": memory.seen})
                for name, tensor in memory.tensors().items():
                    tensors[f"layers.{i}.parts.{j}.{name}"] = tensor.contiguous()
        header = {
            "group_size": self.cca.group_size,
            "window": self.cca.window,
            "layers": len(self.layers),
            "read": self.get_seq_length(),
            "parts": parts,
        }
        save_file(tensors, path, metadata={"cca_cache": json.dumps(header)})

    @classmethod
    def load(cls, path: Path | str, *, device: str = "cpu") -> "CCACache":
        """Load a saved cache; on the CPU it is mapped from the file.

        Raises:
            MemoryFileError: If the file is missing or damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt", device=device) as file:
                header = json.loads((file.metadata() or {})["cca_cache"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            cache = cls.__new__(cls)
            cache.cca = CCAConfig(group_size=header["group_size"], window=header["window"])
            layers = [CCACacheLayer(cache.cca) for _ in range(header["layers"])]
            for i, layer in enumerate(layers):
                layer._read = header["read"]
                for j, part in enumerate(header["parts"]):
                    memory = LayerMemory(cache.cca)
                    if part["seen"]:
                        found = {n: tensors[f"layers.{i}.parts.{j}.{n}"] for n in KEPT}
                        memory.restore(found, seen=part["seen"])
                        layer.lazy_initialization(found["raw_k"], found["raw_v"])
                    layer._parts.append((part["padding"], list(part["rows"]), memory))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise MemoryFileError(f"{path} cannot be read: {error}") from error
        Cache.__init__(cache, layers=list(layers))
        return cache
