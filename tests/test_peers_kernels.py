"""Peers by kernels: equal to their oracles, and to what torch makes of the same."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from peer_settings import SMALL
from test_peers import place
from torch import Tensor

from cca_models.peers import kernels, record, records

gpu = pytest.mark.gpu
LENGTH, D = 70, 16
# Blocks that tiles divide; all else as small as for the other tests.
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: dict(SMALL[name]) for name in records()},
    "bigbird": {"block": 16, "random_blocks": 1},
    "moba": {"block": 16, "count": 3, "sparse_decode": False},
    "nsa": {**SMALL["nsa"], "block": 16},
}
# What attends by kernels over a prompt.
SPARSE = (
    "streaming-llm", "lm-infinite", "longformer", "minference", "minference-a-shape", "xattention",
    "bigbird", "moba", "nsa",
)  # fmt: skip


def draw(heads: int, kv_heads: int, *, rows: int = 1) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [
        torch.randn(rows, h, LENGTH, D, generator=random) * 1.5 for h in (heads, kv_heads, kv_heads)
    ]


def read(name: str, tensors: Sequence[Tensor], steps: Sequence[int], **settings: Any) -> Tensor:
    q, k, _ = tensors
    where = place(q.shape[1], k.shape[1])
    layer = record(name).make(where, **{**SETTINGS[name], **settings})
    pieces = zip(*(t.split(list(steps), 2) for t in tensors), strict=True)
    return torch.cat([layer.attend(*piece, scale=0.4) for piece in pieces], 2)


def expected(name: str, tensors: Sequence[Tensor], **settings: Any) -> Tensor:
    q, k, v = (t.double() for t in tensors)
    where = place(q.shape[1], k.shape[1])
    return record(name).oracle(q, k, v, scale=0.4, place=where, **{**SETTINGS[name], **settings})


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the CPU take the kernels, under the interpreter; and note which."""
    from cca_kernels import decoding, listed_attention

    notes: list[str] = []

    def noted(module: Any, name: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **o: notes.append(name) or real(*a, **o))

    noted(listed_attention, "listed_attention")
    noted(decoding, "decode_fwd")
    monkeypatch.setattr(kernels, "use_kernels", lambda q: q.dtype != torch.float64)
    real = kernels.decode
    monkeypatch.setattr(kernels, "decode", lambda *a, **o: real(*a, impl="triton", **o))
    return notes


@pytest.mark.parametrize("name", SPARSE)
def test_equals_its_oracle(name: str, launched: list[str]) -> None:
    tensors = draw(2, 1)
    actual = read(name, tensors, [LENGTH])
    assert "listed_attention" in launched
    torch.testing.assert_close(actual.double(), expected(name, tensors), atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", SPARSE)
def test_equals_the_path_of_torch(name: str, launched: list[str]) -> None:
    """In pieces, which begin anywhere, and beside other rows; the same in float64 without."""
    tensors = draw(1, 1, rows=2 if name != "nsa" else 1)
    steps = [30, 1, 13, 1, 25]
    actual = read(name, tensors, steps)
    assert launched
    before = len(launched)
    exact = read(name, [t.double() for t in tensors], steps)
    assert len(launched) == before
    torch.testing.assert_close(actual.double(), exact, atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", SPARSE)
def test_the_last_query_alone(name: str, launched: list[str]) -> None:
    tensors = draw(2, 1)
    layer = record(name).make(place(2, 1), **SETTINGS[name])
    last = layer.attend(*tensors, scale=0.4, last_only=True)
    torch.testing.assert_close(last.double(), expected(name, tensors)[:, :, -1:], atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("minference", {"columns": 3, "sinks": 0, "diagonals": 90, "recent": 1}),
        ("minference", {"columns": 70, "diagonals": 1, "recent": 1}),
        ("minference-a-shape", {"sinks": 0, "window": 1}),
        ("minference-a-shape", {"sinks": 40, "window": 33}),
        ("xattention", {"threshold": 0.0}),
        ("xattention", {"threshold": 1.01}),
        ("xattention", {"block": 64, "threshold": 0.7}),
        ("moba", {"block": 8}),  # smaller than a tile
        ("moba", {"block": 64, "count": 2}),
        ("moba", {"count": 1}),
        ("bigbird", {"random_blocks": 0}),
        ("bigbird", {"block": 32}),
        ("lm-infinite", {"global_tokens": 0}),
        ("streaming-llm", {"sinks": 40, "window": 8}),
        ("longformer", {"global_tokens": 30, "window": 200}),
        ("nsa", {"initial": 0, "local": 1, "count": 1}),
        ("nsa", {"block": 32, "count": 16}),
        ("nsa", {"block": 8}),  # smaller than a tile
    ],
)
def test_other_sizes(name: str, settings: dict[str, Any], launched: list[str]) -> None:
    tensors = draw(1, 1)
    actual = read(name, tensors, [LENGTH], **settings)
    exact = expected(name, tensors, **settings)
    torch.testing.assert_close(actual.double(), exact, atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "calls"),
    [("full", 3), ("minference", 3), ("snapkv", 3), ("moba", 2), ("quest", 1)],
)
def test_dense_steps_split_the_keys(name: str, calls: int, launched: list[str]) -> None:
    """Two steps of one token; and ten tokens, which to MoBA are more of the prompt."""
    tensors = draw(2, 1)
    steps = [LENGTH - 12, 1, 10, 1]
    actual = read(name, tensors, steps)
    assert launched.count("decode_fwd") == calls
    exact = read(name, [t.double() for t in tensors], steps)
    torch.testing.assert_close(actual.double(), exact, atol=5e-5, rtol=0)


def test_who_takes_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.zeros(1, 1, 1, 16)
    assert not kernels.use_kernels(q), "a CPU has none by itself"
    monkeypatch.setattr(kernels, "has_kernels", lambda device: True)
    assert kernels.use_kernels(q)
    assert not kernels.use_kernels(q.double())
    assert not kernels.use_kernels(torch.zeros(1, 1, 1, 512))
    assert not kernels.use_kernels(q.clone().requires_grad_()), "there are no gradients"


# The authors' settings leave little out of a few thousand tokens.
REAL: dict[str, dict[str, Any]] = {
    "minference": {"columns": 200, "diagonals": 600, "last": 64, "sinks": 30, "recent": 100},
    "moba": {"block": 512, "count": 3, "sparse_decode": False},
    "minference-a-shape": {"sinks": 128, "window": 900},
    "lm-infinite": {"global_tokens": 10, "window": 1024},
}


def on_accelerator(
    name: str, heads: int, kv_heads: int, length: int, dim: int, **settings: Any
) -> tuple[Any, list[Tensor]]:
    """Make a layer, and what it reads."""
    random = torch.Generator(device="cuda").manual_seed(0)
    tensors = [
        torch.randn(1, h, length, dim, generator=random, device="cuda", dtype=torch.bfloat16)
        for h in (heads, kv_heads, kv_heads)
    ]
    frequencies = 10000.0 ** (-torch.arange(dim // 2, device="cuda").double() * 2 / dim)
    where = replace(place(heads, kv_heads), head_dim=dim, frequencies=frequencies)
    return record(name).make(where, **{**record(name).settings, **settings}), tensors


@gpu
@pytest.mark.parametrize("length", [4096, 9001])
@pytest.mark.parametrize("shape", [(9, 3, 64), (8, 1, 128), (4, 4, 64)], ids=str)
@pytest.mark.parametrize("name", SPARSE)
def test_equals_the_path_of_torch_on_the_accelerator(
    name: str, shape: tuple[int, int, int], length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, kv_heads, dim = shape
    outputs = []
    for kernel in (True, False):
        layer, tensors = on_accelerator(name, heads, kv_heads, length, dim, **REAL.get(name, {}))
        if not kernel:
            monkeypatch.setattr(kernels, "use_kernels", lambda q: False)
        outputs.append(layer.attend(*tensors, scale=dim**-0.5).float())
    far = (outputs[0] - outputs[1]).norm(dim=-1) / outputs[1].norm(dim=-1)
    assert far.median() < 1e-2
    # NSA may choose other blocks where two are worth almost the same.
    assert (far < 2e-2).float().mean() > (0.95 if name == "nsa" else 0.999)


@gpu
@pytest.mark.parametrize("name", [name for name in sorted(records()) if name != "cca"])
def test_nothing_waits_for_the_accelerator(name: str) -> None:
    """Neither a prompt nor a step asks the device for a number that the host would wait for."""
    modes = ("default", "error")  # in the first round kernels are compiled
    for mode in modes:
        layer, tensors = on_accelerator(name, 9, 3, 4096 + 70, 64, **REAL.get(name, {}))
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode(mode)
        try:
            for piece in zip(*(t.split([4096, *[1] * 70], 2) for t in tensors), strict=True):
                layer.attend(*piece, scale=0.125)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@gpu
@pytest.mark.parametrize("name", [name for name in sorted(records()) if name != "cca"])
def test_a_long_prompt_takes_a_few_gigabytes(name: str) -> None:
    layer, tensors = on_accelerator(name, 9, 3, 131072, 64)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    layer.attend(*tensors, scale=0.125)
    assert torch.cuda.max_memory_allocated() - before < 5 << 30
