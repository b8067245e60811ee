"""MInference and A-shape: the choice worked by hand, its blocks, and what follows the prompt."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peer_settings import SMALL
from test_peers import draw, place
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cca_models.peers import minference as module
from cca_models.peers import oracle, record
from cca_models.peers.past import PeerLayer

SETTINGS = {"columns": 3, "diagonals": 4, "last": 4, "sinks": 1, "recent": 1}


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def prompt(length: int, *, heads: int = 4, kv_heads: int = 2, rows: int = 1) -> list[Tensor]:
    random = torch.Generator().manual_seed(length)
    return [
        torch.randn(rows, h, length, 8, generator=random, dtype=torch.float64)
        for h in (heads, kv_heads, kv_heads)
    ]


def looks(
    length: int, query: Callable[[int], int], key: Callable[[int], int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries that each ask for one number, keys that answer to one, values that name their key."""
    axes = torch.eye(length, dtype=torch.float64)
    q = torch.stack([axes[query(i)] for i in range(length)]) * 50
    k = torch.stack([axes[key(j)] for j in range(length)])
    return q[None, None], k[None, None], axes[None, None]


def seen(o: Tensor, row: int) -> set[int]:
    """Keys with any weight, where values name their keys."""
    return set(o[0, 0, row].nonzero().flatten().tolist())


def test_a_column_that_the_last_queries_want_is_seen_by_all() -> None:
    # The last four want key 5; all others want nothing that is there.
    q, k, v = looks(20, lambda i: 5 if i >= 16 else 19, lambda j: min(j, 18))
    settings = SETTINGS | {"columns": 2, "diagonals": 1}
    o = record("minference").make(place(1, 1), **settings).attend(q, k, v, scale=1.0)
    # Key 0 and distance 0 are forced; key 5 is the one more column.
    assert seen(o, 19) == {0, 5, 19}
    assert seen(o, 9) == {0, 5, 9}
    assert seen(o, 4) == {0, 4}


def test_a_distance_that_the_last_queries_want_is_seen_by_all() -> None:
    # Everyone wants the key seven back: no column, one diagonal.
    q, k, v = looks(20, lambda i: (i - 7) % 20, lambda j: j)
    settings = SETTINGS | {"columns": 1, "diagonals": 2}
    o = record("minference").make(place(1, 1), **settings).attend(q, k, v, scale=1.0)
    # Softmax leaves the forced ones a trace of weight.
    assert seen(o, 19) == {0, 12, 19}
    assert seen(o, 10) == {0, 3, 10}
    assert seen(o, 6) == {0, 6}


def test_the_sums_by_distance() -> None:
    q, k, _ = prompt(11, heads=1, kv_heads=1)
    by_key, by_distance = module._sums(q[:, :, -4:], k, scale=0.3)
    weight = (q @ k.transpose(-1, -2) * 0.3).masked_fill(~oracle.causal(11), -torch.inf).softmax(-1)
    expected = torch.zeros(11, dtype=torch.float64)
    for i in range(7, 11):
        for j in range(i + 1):
            expected[i - j] += weight[0, 0, i, j]
    torch.testing.assert_close(by_distance[0, 0], expected)
    torch.testing.assert_close(by_key[0, 0], weight[0, 0, 7:].sum(0))
    assert by_distance.sum().item() == pytest.approx(4)


def test_what_is_forced_is_the_least() -> None:
    """Sizes below what is forced count as that: the choice among the forced is not left open."""
    q, k, _ = prompt(60)
    settings = {"columns": 1, "diagonals": 2, "last": 4, "sinks": 4, "recent": 5}
    layer = record("minference").make(place(4, 2), **settings)
    layer.take(q, k, k, scale=0.4)
    columns, diagonals = layer._choice
    assert (columns.sort(-1).values == torch.arange(4)).all()
    assert torch.equal(diagonals, (torch.arange(60) < 5).expand(1, 4, 60))


def test_heads_choose_for_themselves() -> None:
    q, k, _ = prompt(60, heads=4, kv_heads=2)
    layer = record("minference").make(place(4, 2), **SETTINGS)
    layer.take(q, k, k, scale=0.4)
    columns, diagonals = layer._choice
    assert columns.shape == (1, 4, 3) and diagonals.shape == (1, 4, 60)
    assert (diagonals.sum(-1) == 4).all() and (columns == 0).any(-1).all()
    assert len({tuple(sorted(one.tolist())) for one in columns[0]}) == 4


@pytest.mark.parametrize("keys", [8, 13])
@pytest.mark.parametrize("rows", [7, 16])
def test_gathered_blocks_equal_the_oracle(
    monkeypatch: pytest.MonkeyPatch, rows: int, keys: int
) -> None:
    """Long prompts with few diagonals, where only the blocks that they cross are gathered."""
    monkeypatch.setattr(module, "_ROWS", rows)
    monkeypatch.setattr(module, "_KEYS", keys)
    monkeypatch.setattr("cca_models.peers.prompt_sparse._ENTRIES", 2 * 2 * rows * 90)
    gathers = []
    gathered = module.gathered
    monkeypatch.setattr(
        module, "gathered", lambda *a, **k: gathers.append(a[3].shape) or gathered(*a, **k)
    )
    q, k, v = prompt(301, heads=6, kv_heads=3, rows=2)
    settings = {"columns": 9, "diagonals": 5, "last": 10, "sinks": 2, "recent": 2}
    actual = record("minference").make(place(6, 3), **settings).attend(q, k, v, scale=0.4)
    exact = record("minference").oracle(q, k, v, scale=0.4, place=place(6, 3), **settings)
    torch.testing.assert_close(actual, exact, atol=1e-9, rtol=1e-9)
    assert len(gathers) > 10 and all(shape[-1] < 301 for shape in gathers)
    # A KV head at a time: the entries allowed are too few for more.
    assert {shape[1] for shape in gathers} == {2}


@pytest.mark.parametrize("columns", [0, 5])
@pytest.mark.parametrize("length", [17, 40, 3])
def test_sizes_at_the_edge(columns: int, length: int) -> None:
    """Prompts shorter than what is forced or than the last queries, and no columns at all."""
    q, k, v = prompt(length)
    settings = {"columns": columns, "diagonals": 18, "last": 30, "sinks": 0, "recent": 1}
    actual = record("minference").make(place(4, 2), **settings).attend(q, k, v, scale=0.4)
    exact = record("minference").oracle(q, k, v, scale=0.4, place=place(4, 2), **settings)
    torch.testing.assert_close(actual, exact, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["minference", "minference-a-shape", "xattention"])
def test_what_follows_the_prompt_sees_everything(name: str) -> None:
    q, k, v = draw()
    layer: PeerLayer = record(name).make(place(4, 2), **SMALL[name])
    parts, at = [], 0
    for step in (100, 1, 1, 30, 18):
        new = [t[:, :, at : at + step] for t in (q, k, v)]
        parts.append(layer.attend(*new, scale=0.4))
        at += step
    o = torch.cat(parts, 2)
    begin = [t[:, :, :100] for t in (q, k, v)]
    sparse = record(name).oracle(*begin, scale=0.4, place=place(4, 2), **SMALL[name])
    full = oracle.by_mask(q, k, v, oracle.causal(150), scale=0.4)
    torch.testing.assert_close(o[:, :, :100], sparse, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(o[:, :, 100:], full[:, :, 100:], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["minference", "minference-a-shape", "xattention"])
def test_no_scores_of_all_queries_and_keys(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 32)
    monkeypatch.setattr("cca_models.peers.a_shape._ROWS", 32)
    monkeypatch.setattr("cca_models.peers.xattention._SCORED", 2)
    length = 2048
    q, k, v = prompt(length, heads=2, kv_heads=1)
    layer = record(name).make(place(2, 1), **SMALL[name])
    with Largest() as largest:
        layer.attend(q, k, v, scale=0.4)
    assert 0 < largest.numel < length * length / 8


def test_the_a_shape() -> None:
    q, k, v = looks(20, lambda i: i, lambda j: j)
    layer = record("minference-a-shape").make(place(1, 1), sinks=2, window=3)
    o = layer.attend(q * 0, k, v, scale=1.0)
    assert seen(o, 19) == {0, 1, 17, 18, 19}
    assert seen(o, 4) == {0, 1, 2, 3, 4} and seen(o, 5) == {0, 1, 3, 4, 5}


@pytest.mark.parametrize("sinks", [0, 3, 60])
@pytest.mark.parametrize("window", [1, 5, 60])
def test_the_a_shape_by_blocks(monkeypatch: pytest.MonkeyPatch, sinks: int, window: int) -> None:
    monkeypatch.setattr("cca_models.peers.a_shape._ROWS", 16)
    q, k, v = prompt(100)
    settings = {"sinks": sinks, "window": window}
    actual = record("minference-a-shape").make(place(4, 2), **settings).attend(q, k, v, scale=0.4)
    exact = record("minference-a-shape").oracle(q, k, v, scale=0.4, place=place(4, 2), **settings)
    torch.testing.assert_close(actual, exact, atol=1e-9, rtol=1e-9)


def test_the_releases_sizes() -> None:
    assert record("minference").settings == {
        "columns": 1000, "diagonals": 6096, "last": 64, "sinks": 30, "recent": 100
    }  # fmt: skip
    assert record("minference-a-shape").settings == {"sinks": 128, "window": 3968}


def test_refuses_to_choose_from_nothing() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        record("minference").make(place(1, 1), **(SETTINGS | {"last": 0}))
