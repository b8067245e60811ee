"""What `cca bench --ops` times: the cells and, in each, CCA beside dense attention.

Floating-point operations are 4 * D for each pair of query and key that is seen (two products), and
2.5 times as many for a backward pass; bytes of a decoding step are those of the keys and values
that it sees.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import cca_kernels
from cca_kernels import reference
from cca_models.benchmarks_exactness import (
    draw,
    gradient_error,
    prefill_error,
    relative_error,
)
from cca_models.benchmarks_operations import Bench, Cell, Contender, Sizes

_BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}
_K = 1024


def all_cells(bench: Bench, *, group_size: int = 16, window: int = 1024) -> list[Cell]:
    """List the cells; what compiles longest comes last."""

    def sizes(heads: int, kv_heads: int, head_dim: int, length: int) -> Sizes:
        return Sizes(
            heads=heads, kv_heads=kv_heads, head_dim=head_dim, length=length,
            group_size=group_size, window=window,
        )  # fmt: skip

    mha, long = (32, 32, 128), 128 * _K
    shapes = (mha, (32, 8, 128), (9, 3, 64))
    cells = [copy_cell(2 << 30), matmul_cell(8 * _K)]
    cells += [prefill_cell(sizes(*mha, 32 * _K)), prefill_cell(sizes(*mha, long))]
    cells += [prefill_cell(sizes(*shape, long), dense=False) for shape in shapes[1:]]
    cells += [decode_cell(sizes(*shape, long)) for shape in shapes]
    cells.append(training_cell(sizes(*mha, 64 * _K)))
    if bench.flex:
        cells.append(prefill_cell(sizes(*mha, long), dense=False, flex=True))
    return cells


def copy_cell(size: int) -> Cell:
    """Copy so many bytes from the device to itself: the ceiling of what moves bytes."""

    def contenders(bench: Bench) -> Iterator[Contender]:
        source = torch.zeros(size, dtype=torch.uint8, device=bench.device)
        target = torch.empty_like(source)
        yield Contender(
            method=f"{size / (1 << 30):.3g} GiB", calls=[lambda: target.copy_(source)],
            bytes_moved=2 * size,
        )  # fmt: skip

    return Cell(
        operation="copy", contenders=contenders, methods=(f"{size / (1 << 30):.3g} GiB",)
    )  # fmt: skip


def matmul_cell(n: int) -> Cell:
    """Multiply two square matrices: the ceiling of what computes."""

    def contenders(bench: Bench) -> Iterator[Contender]:
        random = torch.Generator(bench.device).manual_seed(bench.seed)
        a, b = (
            torch.randn(n, n, generator=random, device=bench.device, dtype=bench.dtype)
            for _ in range(2)
        )
        yield Contender(method=f"{n:,} cubed", calls=[lambda: a @ b], flop=2 * n**3)

    return Cell(operation="matmul", contenders=contenders, methods=(f"{n:,} cubed",))


def prefill_cell(sizes: Sizes, *, dense: bool = True, flex: bool = False) -> Cell:
    """Read a whole text: anchors and pooling included for CCA.

    Args:
        sizes: Its sizes.
        dense: Whether dense attention takes part.
        flex: Whether FlexAttention does.
    """

    def contenders(bench: Bench) -> Iterator[Contender]:
        H, KV, L = sizes.heads, sizes.kv_heads, sizes.length
        q, k, v = draw(((H, L), (KV, L), (KV, L)), sizes, bench.device, bench.dtype, bench.seed)
        flop = 4 * sizes.head_dim * H * sizes.pairs

        def checked(call: Callable[[], Tensor], *, dense: bool = False) -> Callable[[], float]:
            return lambda: prefill_error(call(), q, k, v, sizes, dense=dense)

        ours = partial(_prefill, q, k, v, sizes, bench)
        yield Contender(method="cca", calls=[ours], error=checked(ours), flop=flop)
        if dense:
            full = partial(_dense, q, k, v, bench)
            yield Contender(
                method=bench.dense, calls=[full], error=checked(full, dense=True),
                flop=4 * sizes.head_dim * H * sizes.dense_pairs,
            )  # fmt: skip
        if flex:
            # Importing it takes seconds.
            from cca_models.benchmarks_flex import flex_call

            other = flex_call(q, k, v, sizes)
            yield Contender(method="flex", calls=[other], error=checked(other), flop=flop)

    methods = ("cca",) + ("cudnn",) * dense + ("flex",) * flex
    return Cell(operation="prefill", contenders=contenders, methods=methods, sizes=sizes)


def training_cell(sizes: Sizes) -> Cell:
    """Read a whole text and go back: gradients of q, k and v, through the pooling too."""

    def contenders(bench: Bench) -> Iterator[Contender]:
        H, KV, L = sizes.heads, sizes.kv_heads, sizes.length
        shapes = ((H, L), (KV, L), (KV, L), (H, L))
        tensors = draw(shapes, sizes, bench.device, bench.dtype, bench.seed)
        ours, full = partial(_train, sizes, bench, False), partial(_train, sizes, bench, True)
        for method, run, pairs in (
            ("cca", ours, sizes.pairs),
            (bench.dense, full, sizes.dense_pairs),
        ):
            error = partial(
                gradient_error, run, sizes, dense=run is full, device=bench.device,
                dtype=bench.dtype, seed=bench.seed,
            )  # fmt: skip
            yield Contender(
                method=method, calls=[partial(run, *tensors)], error=error,
                flop=3.5 * 4 * sizes.head_dim * H * pairs,
            )  # fmt: skip

    return Cell(
        operation="forward + backward", contenders=contenders, methods=("cca", "cudnn"),
        sizes=sizes,
    )  # fmt: skip


def decode_cell(sizes: Sizes) -> Cell:
    """Attend from the last token of a text, going round among inputs that no cache holds."""

    def contenders(bench: Bench) -> Iterator[Contender]:
        H, KV = sizes.heads, sizes.kv_heads
        shapes = ((H, 1), (KV, sizes.raws), (KV, sizes.raws), (KV, sizes.cores), (KV, sizes.cores))
        keys = sizes.cores + sizes.raws
        moved = 2 * KV * keys * sizes.head_dim * bench.dtype.itemsize
        count = max(2, min(64, -(-bench.rotate_bytes // moved)))
        inputs = [
            draw(shapes, sizes, bench.device, bench.dtype, bench.seed + i) for i in range(count)
        ]
        rounds = max(1, bench.calls // count)
        options: dict[str, Any] = {
            "position": sizes.length - 1, "group_size": sizes.group_size,
            "window": sizes.window, "scale": sizes.scale,
        }  # fmt: skip

        def contender(method: str, calls: list[Callable[[], Tensor]]) -> Contender:
            def error() -> float:
                exact, _ = reference.attend(*(t.double() for t in inputs[0]), **options)
                return relative_error(calls[0](), exact)

            return Contender(method=method, calls=calls * rounds, error=error, bytes_moved=moved)

        yield contender("cca", _decodes(inputs, sizes, bench, options))
        if bench.device.type == "cuda":
            yield contender("cca step", _steps(inputs, sizes, bench))
        joined = [(q, torch.cat([ck, k], 2), torch.cat([cv, v], 2)) for q, k, v, ck, cv in inputs]
        full = [partial(_dense, *one, bench, causal=False) for one in joined]
        yield contender(bench.dense, [*full])

    return Cell(
        operation="decode", contenders=contenders, methods=("cca", "cca step", "cudnn"),
        sizes=sizes,
    )  # fmt: skip


def _prefill(q: Tensor, k: Tensor, v: Tensor, sizes: Sizes, bench: Bench) -> Tensor:
    G, whole = sizes.group_size, sizes.groups * sizes.group_size
    core_k, core_v = cca_kernels.pool_queries(
        q, k[:, :, :whole], v[:, :, :whole], first=G - 1, group_size=G, impl=bench.impl
    )
    o, _ = cca_kernels.attend(
        q, k, v, core_k, core_v, position=0, group_size=G, window=sizes.window, impl=bench.impl
    )
    return o


def _dense(q: Tensor, k: Tensor, v: Tensor, bench: Bench, *, causal: bool = True) -> Tensor:
    # With a backend named, what it cannot run raises; nothing else is taken in its place.
    with sdpa_kernel(_BACKENDS[bench.dense]):
        return scaled_dot_product_attention(
            q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
        )


def _train(
    sizes: Sizes, bench: Bench, dense: bool, q: Tensor, k: Tensor, v: Tensor, do: Tensor
) -> tuple[Tensor, ...]:
    # Sizes of q, not of `sizes`: the check runs it shorter.
    q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
    with torch.enable_grad():
        if dense:
            o = _dense(q, k, v, bench)
        else:
            L = q.shape[2]
            G, whole = sizes.group_size, L // sizes.group_size * sizes.group_size
            core_k, core_v = cca_kernels.pool_queries(
                q, k[:, :, :whole], v[:, :, :whole], first=G - 1, group_size=G, impl=bench.impl
            )
            o, _ = cca_kernels.attend(
                q, k, v, core_k, core_v,
                position=0, group_size=G, window=sizes.window, impl=bench.impl,
            )  # fmt: skip
        return (o.detach(), *torch.autograd.grad(o, (q, k, v), do))


def _decodes(
    inputs: list[list[Tensor]], sizes: Sizes, bench: Bench, options: dict[str, Any]
) -> list[Callable[[], Tensor]]:
    """Make the calls of the public operation, on a GPU with a workspace that stays."""
    if bench.device.type == "cuda":
        return _decodes_kept(inputs, sizes, bench, options)
    return [
        lambda t=t: cca_kernels.decode(*t, **options, impl=bench.impl)[0]  # type: ignore[misc]
        for t in inputs
    ]


def _decodes_kept(
    inputs: list[list[Tensor]], sizes: Sizes, bench: Bench, options: dict[str, Any]
) -> list[Callable[[], Tensor]]:
    from cca_kernels.decoding import decode_fwd

    workspace = _workspace(sizes, bench)
    return [
        lambda t=t: decode_fwd(*t, **options, workspace=workspace)[0]  # type: ignore[misc]
        for t in inputs
    ]


def _steps(inputs: list[list[Tensor]], sizes: Sizes, bench: Bench) -> list[Callable[[], Tensor]]:
    """Make the calls that a captured step of a model makes, which read their place from memory."""
    from cca_kernels.decode_step import decode_step

    workspace = _workspace(sizes, bench)
    last = sizes.length - 1
    cursor = torch.tensor([last, last + 1 - sizes.raws], device=bench.device)

    def make(q: Tensor, k: Tensor, v: Tensor, core_k: Tensor, core_v: Tensor) -> Any:
        buffers = (core_k, core_v, k, v)
        facts = [*(t.data_ptr() for t in buffers), core_k.stride(1), k.stride(1), 0, 0]
        row, out = torch.tensor(facts, device=bench.device), torch.empty_like(q)

        def call() -> Tensor:
            # The row holds addresses only: this keeps what they point to.
            assert buffers
            return decode_step(
                q, row, cursor, out, kv_heads=sizes.kv_heads, head_dim=sizes.head_dim,
                group_size=sizes.group_size, window=sizes.window, scale=sizes.scale,
                workspace=workspace,
            )  # fmt: skip

        return call

    return [make(*t) for t in inputs]


def _workspace(sizes: Sizes, bench: Bench) -> Any:
    from cca_kernels.decoding import decode_workspace

    return decode_workspace(
        batch=1, heads=sizes.heads, kv_heads=sizes.kv_heads, head_dim=sizes.head_dim,
        dtype=bench.dtype, device=bench.device,
    )  # fmt: skip
