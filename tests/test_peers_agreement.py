"""Peers against what their authors' own reference functions gave; the numbers are in data/peers.

Where a function gives a choice (columns, blocks, pages, tokens), our output must be that of full
attention masked by the choice; where it gives outputs, ours must be these.
"""

import re
from typing import Any

import pytest
import torch
from peer_golden import drawn, golden
from torch import Tensor

from cca_models.peers import Place, oracle, record

# The functions compute in float32, and their outputs are noted to six digits.
CLOSE = {"atol": 2e-5, "rtol": 2e-5}


def cases(name: str) -> list[Any]:
    return [pytest.param(case, id=f"{name}-{i}") for i, case in enumerate(golden(name)["cases"])]


def layer_of(name: str, case: dict[str, Any], **settings: Any) -> Any:
    """Make the memory of a layer that is not among a model's first two."""
    inputs = case["inputs"]
    place = Place(
        layer=3, layers=6, heads=inputs["heads"], kv_heads=inputs["kv_heads"],
        head_dim=inputs["head_dim"], frequencies=torch.ones(inputs["head_dim"] // 2),
    )  # fmt: skip
    return record(name).make(place, **{**case["settings"], **settings})


def inputs_of(case: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, float]:
    """Draw q, k, v of a case in float64, and give the factor on the scores."""
    q, k, v = (t.double() for t in drawn(case["inputs"]))
    return q, k, v, case["inputs"]["head_dim"] ** -0.5


def rows_of(case: dict[str, Any], numbers: list[float]) -> Tensor:
    """Shape the outputs noted for some rows, [H, rows, D]."""
    return torch.tensor(numbers, dtype=torch.float64).view(
        case["inputs"]["heads"], len(case["rows"]), case["inputs"]["head_dim"]
    )


def assert_masked(
    actual: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float
) -> None:
    """Check outputs against full attention under a mask that leaves something out."""
    full = oracle.by_mask(q, k, v, torch.ones_like(mask), scale=scale)
    exact = oracle.by_mask(q, k, v, mask, scale=scale)
    assert (exact - full).abs().amax(-1).mean() > 1e-2
    torch.testing.assert_close(actual, exact, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["minference", "moba", "nsa", "quest", "snapkv", "xattention"])
def test_a_source_is_named(name: str) -> None:
    source = golden(name)["source"]
    assert source["repository"].count("/") == 1 and source["file"].endswith(".py")
    assert source["function"] and "note" in source
    assert re.fullmatch("[0-9a-f]{40}", source["commit"])


@pytest.mark.parametrize("case", cases("minference"))
def test_minference_sees_the_authors_columns_and_diagonals(case: dict[str, Any]) -> None:
    q, k, v, scale = inputs_of(case)
    length = q.shape[2]
    far = torch.arange(length)[:, None] - torch.arange(length)
    mask = torch.stack([
        torch.isin(far, torch.tensor(diagonals))
        | torch.isin(torch.arange(length), torch.tensor(columns))
        for columns, diagonals in zip(case["columns"], case["diagonals"], strict=True)
    ])[None]  # fmt: skip
    actual = layer_of("minference", case).attend(q, k, v, scale=scale)
    assert_masked(actual, q, k, v, mask, scale)


@pytest.mark.parametrize("case", cases("xattention"))
def test_xattention_weighs_and_chooses_blocks_as_the_authors(case: dict[str, Any]) -> None:
    q, k, v, scale = inputs_of(case)
    length, block, first = q.shape[2], case["settings"]["block"], case["first_row"]
    layer = layer_of("xattention", case)
    mass = layer._mass(q, k, scale=scale)[0]
    for head, noted in enumerate(case["mass"]):
        for row, values in zip(case["mass_rows"], noted, strict=True):
            expected = torch.tensor(values, dtype=torch.float64)
            torch.testing.assert_close(mass[head, row, : row + 1], expected, **CLOSE)
    # What the first rows see is not compared: there the release takes what it need not.
    mask = torch.ones(1, q.shape[1], length, length, dtype=torch.bool)
    mask[:, :, first * block :] = False
    for head, rows in enumerate(case["blocks"]):
        for row, seen in enumerate(rows, start=first):
            for one in seen:
                part = slice(one * block, (one + 1) * block)
                mask[0, head, row * block : (row + 1) * block, part] = True
    late = slice(first * block, None)
    exact = oracle.by_mask(q, k, v, mask, scale=scale)[:, :, late]
    full = oracle.by_mask(q, k, v, torch.ones_like(mask), scale=scale)[:, :, late]
    assert (exact - full).abs().amax(-1).mean() > 1e-2
    actual = layer.attend(q, k, v, scale=scale)[:, :, late]
    torch.testing.assert_close(actual, exact, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("case", cases("moba"))
def test_moba_gives_the_authors_outputs(case: dict[str, Any]) -> None:
    q, k, v, scale = inputs_of(case)
    expected = rows_of(case, case["output"])
    layer = layer_of("moba", case, sparse_decode=True)
    actual = layer.attend(q, k, v, scale=scale)[0][:, case["rows"]]
    torch.testing.assert_close(actual, expected, **CLOSE)
    # Token by token, and not what full attention gives.
    layer = layer_of("moba", case, sparse_decode=True)
    steps = zip(*(t.split(1, 2) for t in (q, k, v)), strict=True)
    written = torch.cat([layer.attend(*step, scale=scale) for step in steps], 2)
    torch.testing.assert_close(written[0][:, case["rows"]], expected, **CLOSE)
    full = oracle.by_mask(q, k, v, oracle.causal(q.shape[2]), scale=scale)
    assert (full[0][:, case["rows"]] - expected).abs().max() > 1e-2


@pytest.mark.parametrize("case", cases("nsa"))
@pytest.mark.parametrize("branch", ["pooled", "chosen"])
def test_nsa_gives_the_outputs_of_each_branch(case: dict[str, Any], branch: str) -> None:
    q, k, v, scale = inputs_of(case)
    gates = (1.0, 0.0, 0.0) if branch == "pooled" else (0.0, 1.0, 0.0)
    actual = layer_of("nsa", case, gates=gates).attend(q, k, v, scale=scale)
    expected = rows_of(case, case[branch])
    torch.testing.assert_close(actual[0][:, case["rows"]], expected, **CLOSE)


@pytest.mark.parametrize("case", cases("nsa"))
def test_nsa_reads_the_blocks_that_were_chosen(case: dict[str, Any]) -> None:
    q, k, v, scale = inputs_of(case)
    length, block = q.shape[2], case["settings"]["block"]
    group = q.shape[1] // k.shape[1]
    actual = layer_of("nsa", case, gates=(0.0, 1.0, 0.0)).attend(q, k, v, scale=scale)
    fewer = 0
    for head in range(q.shape[1]):
        for place, row in enumerate(case["rows"]):
            seen = case["blocks"][head // group][place]
            fewer += len(seen) < row // block + 1
            mask = torch.isin(torch.arange(length) // block, torch.tensor(seen))
            mask &= torch.arange(length) <= row
            score = (k[0, head // group] @ q[0, head, row] * scale).masked_fill(~mask, -torch.inf)
            exact = score.softmax(0) @ v[0, head // group]
            torch.testing.assert_close(actual[0, head, row], exact, atol=1e-9, rtol=1e-9)
    assert fewer > 10


@pytest.mark.parametrize("case", cases("quest"))
def test_quest_reads_the_authors_pages(case: dict[str, Any]) -> None:
    q, k, v, scale = inputs_of(case)
    length, page, steps = q.shape[2], case["settings"]["page"], case["steps"]
    layer = layer_of("quest", case)
    prompt = slice(0, length - steps)
    layer.attend(q[:, :, prompt], k[:, :, prompt], v[:, :, prompt], scale=scale)
    pages = set()
    for step, at in enumerate(range(length - steps, length)):
        part = slice(at, at + 1)
        actual = layer.attend(q[:, :, part], k[:, :, part], v[:, :, part], scale=scale)[0, :, 0]
        noted = torch.tensor(case["output"][step], dtype=torch.float64).view_as(actual)
        torch.testing.assert_close(actual, noted, **CLOSE)
        for head in range(q.shape[1]):
            seen = case["pages"][step][head]
            pages.add((head, *seen))
            mask = torch.isin(torch.arange(at + 1) // page, torch.tensor(seen))
            own = head // (q.shape[1] // k.shape[1])
            score = k[0, own, : at + 1] @ q[0, head, at] * scale
            exact = score.masked_fill(~mask, -torch.inf).softmax(0) @ v[0, own, : at + 1]
            torch.testing.assert_close(actual[head], exact, atol=1e-9, rtol=1e-9)
    assert len(pages) > q.shape[1]  # not the same pages at every step


@pytest.mark.parametrize("case", cases("snapkv"))
def test_snapkv_keeps_what_the_authors_keep(case: dict[str, Any]) -> None:
    q, k, v, scale = inputs_of(case)
    length, window = q.shape[2], case["settings"]["window"]
    layer = layer_of("snapkv", case)
    layer.attend(q, k, v, scale=scale)
    kept = torch.zeros(1, q.shape[1], 1, length + 1, dtype=torch.bool)
    for head, tokens in enumerate(case["kept"]):
        assert len(tokens) == case["settings"]["keep"]
        kept[0, head, 0, tokens] = True
        ours = torch.cat([k[0, head, tokens], k[0, head, length - window :]])
        torch.testing.assert_close(layer.past.k[0, head], ours, atol=0, rtol=0)
    kept[..., length - window :] = True
    # The next token sees what was kept, and itself.
    next_q, next_k, next_v = (t[:, :, :1] for t in (q, k, v))
    actual = layer.attend(next_q, next_k, next_v, scale=scale)
    every_k, every_v = torch.cat([k, next_k], 2), torch.cat([v, next_v], 2)
    score = oracle.scores(next_q, every_k, scale=scale)
    exact = oracle.weighted(score, kept, every_v)
    torch.testing.assert_close(actual, exact, atol=1e-9, rtol=1e-9)


def test_the_inputs_are_those_of_the_files() -> None:
    """Numbers of the stream that all cases rest on."""
    q, k, v = drawn(golden("moba")["cases"][0]["inputs"])
    found = [round(float(t.double().sum()), 3) for t in (q, k, v)]
    assert found == [-178.179, 142.67, 59.921]
