"""Token after token on a GPU: one captured graph for every step and every memory.

A step is a fixed sequence of kernels on fixed buffers (`StepKernels.run`). What changes from step
to step lies on the device: the token, the position (`cursor`), and the addresses of the memory's
buffers (`tables`), which change when another memory is read or a buffer moves. So the graph is
captured once, replays allocate nothing, and the likeliest next token is chosen inside it: the next
step is launched before the host has seen the token of this one. The host reads tokens one step
behind. A step that turns out to be too many has written behind `seen` alone, where everything may
be overwritten, and is never counted.

Without CUDA the same kernels run one by one (under Triton's interpreter): tests hold both equal.
"""

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cca_kernels.decode_step import append_step, decode_step, decode_workspace
from cca_kernels.gemv import gemv_fwd
from cca_kernels.step_tokens import choose_fwd, choose_workspace, embed_step_fwd
from cca_models.config import CCAConfig
from cca_models.static_memory import StaticLayerMemory
from cca_models.weights import on_own_device

if TYPE_CHECKING:
    from cca_models.fused_decoder import FusedDecoder
    from cca_models.memory import Memory

# Stands for a device's cursor that must be set before the next step.
_UNKNOWN = (-1, -1)


class StepKernels:
    """The buffers of a step, and the sequence of its kernels.

    Attributes:
        token: What is read next, int64 [1].
        result: The likeliest next token and its log-probability, float64 [1, 2].
        logits: Of the step, float32 [1, V].
        cursor: Position of the token now read, position of the first raw slot, int64 [2].
        tables: Addresses by layer, int64 [2, layers, 8]: what is read, what is written.
        frequencies: Of the rotary positions, float64 [D / 2].
        single: Whether their angles are rounded to float32, int64 [1].
    """

    def __init__(self, decoder: "FusedDecoder", config: CCAConfig, *, pdl: bool) -> None:
        d, device, dtype = decoder, decoder.device, decoder.dtype
        self._config, self._pdl = config, pdl
        # Not the decoder itself: it holds the stepper, and a circle is not freed when it is let go.
        self._layers = [d.layer(i) for i in range(d.num_layers)]
        self._embedding, self._final_norm, self._head = d.embedding, d.final_norm, d.head
        self._heads, self._kv_heads, self._head_dim = d.heads, d.kv_heads, d.head_dim
        self._scale, self._eps = d.scale, d.eps

        def integers(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        def states(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.token, self.cursor, self.single = integers(1), integers(2), integers(1)
        self.tables = integers(2, d.num_layers, 8)
        self.frequencies = torch.zeros(d.head_dim // 2, dtype=torch.float64, device=device)
        self.result = torch.zeros(1, 2, dtype=torch.float64, device=device)
        self.logits = torch.zeros(1, d.vocabulary, dtype=torch.float32, device=device)
        self._cos, self._sin = states(d.head_dim), states(d.head_dim)
        self._x, self._act = states(1, d.hidden), states(1, d.inner)
        self._qkv = states(1, (d.heads + 2 * d.kv_heads) * d.head_dim)
        self._q, self._o = (states(1, d.heads, 1, d.head_dim) for _ in range(2))
        self._attention = decode_workspace(
            batch=1, heads=d.heads, kv_heads=d.kv_heads, head_dim=d.head_dim,
            dtype=dtype, device=device,
        )  # fmt: skip
        self._choice = choose_workspace(1, d.vocabulary, device=device)

    def run(self) -> None:
        """Launch one step."""
        config, x, eps = self._config, self._x, self._eps
        kv_heads, head_dim, scale = self._kv_heads, self._head_dim, self._scale
        embed_step_fwd(
            self.token, self.cursor, self._embedding, self.frequencies, self.single,
            x=x, cos=self._cos, sin=self._sin,
        )  # fmt: skip
        for i, layer in enumerate(self._layers):
            self._gemv(x, layer, "self_attn.qkv_proj", self._qkv, norm="input_layernorm")
            append_step(
                self._qkv, self._cos, self._sin, self.tables[1, i], self.cursor,
                heads=self._heads, kv_heads=kv_heads, head_dim=head_dim,
                group_size=config.group_size, scale=scale, out=self._q,
            )  # fmt: skip
            decode_step(
                self._q, self.tables[0, i], self.cursor, self._o,
                kv_heads=kv_heads, head_dim=head_dim, group_size=config.group_size,
                window=config.window, scale=scale, workspace=self._attention,
            )  # fmt: skip
            self._gemv(self._o.view(1, -1), layer, "self_attn.o_proj", x, add=True)
            self._gemv(
                x, layer, "mlp.gate_up_proj", self._act, norm="post_attention_layernorm", gated=True
            )
            self._gemv(self._act, layer, "mlp.down_proj", x, add=True)
        gemv_fwd(x, self._head, out=self.logits, norm=self._final_norm, eps=eps, pdl=self._pdl)
        choose_fwd(
            self.logits, token=self.token, result=self.result, workspace=self._choice,
            cursor=self.cursor,
        )  # fmt: skip

    def choose(self, logits: Tensor) -> None:
        """Put the likeliest token of other logits, float32 [1, V], where the next step reads it."""
        choose_fwd(logits, token=self.token, result=self.result, workspace=self._choice)

    def _gemv(
        self,
        x: Tensor,
        layer: dict[str, Tensor],
        name: str,
        out: Tensor,
        *,
        norm: str = "",
        gated: bool = False,
        add: bool = False,
    ) -> None:
        gemv_fwd(
            x, layer[f"{name}.weight"], out=out, bias=layer.get(f"{name}.bias"),
            norm=layer[f"{norm}.weight"] if norm else None, eps=self._eps,
            residual=out if add else None, gated=gated, pdl=self._pdl,
        )  # fmt: skip


class Stepper:
    """Reads tokens one by one into memories of one decoder.

    Args:
        decoder: The layers.
        config: Group size and window of the memories.
        pdl: Let a matrix kernel start while the kernel before it ends.

    Attributes:
        device: Where the steps run.
    """

    def __init__(self, decoder: "FusedDecoder", config: CCAConfig, *, pdl: bool = False) -> None:
        self.device = decoder.device
        with torch.inference_mode():
            self.kernels = StepKernels(decoder, config, pdl=pdl)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._memory: weakref.ref[Memory] | None = None
        self._cursor = _UNKNOWN  # what the device's cursor holds after all that was launched
        self._turn: object = None  # whose token lies in the token buffer

    @torch.inference_mode()
    @on_own_device
    def read(self, memory: "Memory", token: int) -> Tensor:
        """Read a token into a memory that is not empty; logits of the next one, float32 [V]."""
        self._turn = None
        self.kernels.token.fill_(token)
        self.launch(memory)
        _advance(memory)
        return self.kernels.logits[0].clone()

    def likeliest(
        self, memory: "Memory", logits: Tensor, limit: int
    ) -> Iterator[tuple[int, float]]:
        """Write on greedily, launching each step before the token it reads is known here.

        Args:
            memory: What has been read. When a token is given out, it has read those before it.
            logits: Of the first token, float32 [V].
            limit: Tokens to write at most.

        Yields:
            Every token with its log-probability.
        """
        if limit < 1:
            return
        turn = object()
        self._choose(turn, logits)
        result = self._fetch()
        for written in range(limit):
            following = None
            if written + 1 < limit:
                if self._turn is not turn:
                    self._set_token(turn, result.token())
                self.launch(memory)
                following = self._fetch()
            yield result.token(), result.logprob()
            if following is not None:
                _advance(memory)
                result = following

    @torch.inference_mode()
    @on_own_device
    def launch(self, memory: "Memory") -> None:
        """Launch a step: the token buffer's token into a memory, which does not count it yet."""
        self._bind(memory)
        position, raw_position = self._cursor
        # A step that breaks off leaves the device's cursor anywhere; the next one sets it anew.
        self._cursor = _UNKNOWN
        self._run()
        self._cursor = (position + 1, raw_position)

    def _run(self) -> None:
        """Replay the step, capturing it first where that has not been done."""
        if self.device.type != "cuda":
            self.kernels.run()
            return
        if self._graph is not None:
            self._graph.replay()
            return
        # The first step compiles the kernels, so it cannot be captured; it is run as it is.
        self.kernels.run()
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.kernels.run()
        self._graph = graph

    def _bind(self, memory: "Memory") -> None:
        """Bring cursor and addresses into line with a memory, where they are not."""
        moved = self._memory is None or self._memory() is not memory
        layers = [layer for layer in memory.layers if isinstance(layer, StaticLayerMemory)]
        for layer in layers:
            layer.make_room()
            moved |= layer.moved
        cursor = (layers[0].seen, layers[0].raw_position)
        assert all((layer.seen, layer.raw_position) == cursor for layer in layers)
        if moved:
            self._memory = None  # until all of the device's tables are this memory's
            rows = [layer.addresses() for layer in layers]
            tables = torch.tensor([[read for read, _ in rows], [write for _, write in rows]])
            self.kernels.tables.copy_(tables, non_blocking=True)
            frequencies = memory.rotary.frequencies
            self.kernels.frequencies.copy_(frequencies, non_blocking=True)
            self.kernels.single.fill_(int(frequencies.dtype == torch.float32))
            for layer in layers:
                layer.moved = False
            self._memory = weakref.ref(memory)
        if cursor != self._cursor:
            self._cursor = _UNKNOWN
            self.kernels.cursor[0].fill_(cursor[0])
            self.kernels.cursor[1].fill_(cursor[1])
            self._cursor = cursor

    @torch.inference_mode()
    @on_own_device
    def _choose(self, turn: object, logits: Tensor) -> None:
        self._turn = turn
        self.kernels.choose(logits[None])

    @torch.inference_mode()
    @on_own_device
    def _set_token(self, turn: object, token: int) -> None:
        self._turn = turn
        self.kernels.token.fill_(token)

    @torch.inference_mode()
    @on_own_device
    def _fetch(self) -> "_Result":
        return _Result(self.kernels.result)


class _Result:
    """A step's token and log-probability on their way to the host."""

    def __init__(self, result: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if result.device.type == "cuda":
            self._host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
            self._host.copy_(result, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = result.clone()

    def token(self) -> int:
        """Wait for the step, and give its token."""
        self._wait()
        return int(self._host[0, 0])

    def logprob(self) -> float:
        """Wait for the step, and give its token's log-probability."""
        self._wait()
        return float(self._host[0, 1])

    def _wait(self) -> None:
        if self._event is not None:
            self._event.synchronize()


def _advance(memory: "Memory") -> None:
    """Count the token of a launched step."""
    for layer in memory.layers:
        layer.seen += 1
