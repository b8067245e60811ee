"""Peers in whole models: the engine, transformers' hooks and `cca eval`'s methods agree."""

import re
from pathlib import Path

import pytest
import torch
from peer_settings import SMALL
from tiny_model import CCA, make_tiny_model, random_ids, tiny_surroundings
from transformers import AutoModelForCausalLM

from cca_models import register
from cca_models.attention_names import PEERS
from cca_models.dense_model import dense_model
from cca_models.engine import LanguageModel
from cca_models.evaluation.methods import is_scoring, make_methods, method_names
from cca_models.peers import peer_model, record, records
from cca_models.peers.hook import peer_cache

NAMES = sorted(PEERS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    home = tmp_path_factory.mktemp("home")
    with tiny_surroundings(home):
        return make_tiny_model(home / "tiny", context=2048)


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path):
    with tiny_surroundings(tmp_path / "home"):
        yield


def test_what_planning_knows_is_what_the_records_say() -> None:
    assert set(records()) == {"full", "cca", *PEERS}
    for name, outline in PEERS.items():
        for field in ("kv_kept", "whole_prompt", "needs_tuning"):
            assert getattr(outline, field) == getattr(record(name), field), (name, field)


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_transformers_hook_gives_what_the_engine_gives(model: LanguageModel, name: str) -> None:
    register()
    hooked = AutoModelForCausalLM.from_pretrained(
        model.checkpoint.path, attn_implementation="cca", dtype=torch.float32
    ).eval()
    twin = peer_model(model, name, **SMALL[name])
    memory = twin.new_memory(256)
    ids = random_ids(120)
    expected = [twin.prefill(memory, ids)]
    expected += [twin.prefill(memory, [token]) for token in random_ids(5, seed=1)]
    cache = peer_cache(hooked, name, **SMALL[name])
    steps = [ids, *([token] for token in random_ids(5, seed=1))]
    for step, right in zip(steps, expected, strict=True):
        got = hooked(torch.tensor([step]), past_key_values=cache).logits[0, -1]
        torch.testing.assert_close(got, right, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_a_padded_row_is_the_row_alone(model: LanguageModel, name: str) -> None:
    register()
    hooked = AutoModelForCausalLM.from_pretrained(
        model.checkpoint.path, attn_implementation="cca", dtype=torch.float32
    ).eval()
    long, short = random_ids(120), random_ids(97, seed=3)
    ids = torch.tensor([long, [0] * 23 + short])
    mask = torch.tensor([[1] * 120, [0] * 23 + [1] * 97])
    options = {"max_new_tokens": 4, "do_sample": False, "output_logits": True,
               "return_dict_in_generate": True, "pad_token_id": 0}  # fmt: skip
    both = hooked.generate(
        ids, attention_mask=mask, past_key_values=peer_cache(hooked, name, **SMALL[name]), **options
    )
    for row, tokens in enumerate((long, short)):
        alone = hooked.generate(
            torch.tensor([tokens]), past_key_values=peer_cache(hooked, name, **SMALL[name]),
            **options,
        )  # fmt: skip
        for a, b in zip(both.logits, alone.logits, strict=True):
            torch.testing.assert_close(a[row], b[0], atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_rows_can_be_chosen_and_repeated(name: str) -> None:
    from test_peers import draw, place, read

    q, k, v = draw(rows=3)
    layer = record(name).make(place(4, 2), **SMALL[name])
    read(record(name), *(t[:, :, :100] for t in (q, k, v)), [100], layer=layer)
    order = torch.tensor([2, 0, 2, 1])
    layer.map_rows(lambda t: t[order])  # type: ignore[attr-defined]
    rest = [t[order][:, :, 100:] for t in (q, k, v)]
    moved = read(record(name), *rest, [1] * 10, layer=layer)
    alone = record(name).make(place(4, 2), **SMALL[name])
    read(record(name), *(t[:, :, :100] for t in (q, k, v)), [100], layer=alone)
    stayed = read(record(name), *(t[:, :, 100:] for t in (q, k, v)), [1] * 10, layer=alone)
    torch.testing.assert_close(moved, stayed[order], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_every_peer_is_a_method_of_eval(model: LanguageModel, name: str) -> None:
    assert name in method_names() and is_scoring(name)
    ids = random_ids(CCA.window)
    method = make_methods(model, [name])[name]
    losses = method.losses(ids)
    if record(name).shortest > 0:
        dense = dense_model(model.checkpoint.config, model.decoder.weights)
        with torch.inference_mode():
            logits = dense(torch.tensor([ids])).logits[0, :-1]
        exact = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        torch.testing.assert_close(losses, exact, atol=2e-4, rtol=0)
    reading = method.read(["The keeper of the lighthouse wrote the weather down."] * 6)
    assert isinstance(reading.ask("Who wrote?", max_new_tokens=3).text, str)


@pytest.mark.parametrize("name", ["streaming-llm", "minference", "moba", "quest"])
def test_the_fused_decoder_gives_the_same(model: LanguageModel, name: str) -> None:
    """Without a GPU its kernels run under Triton's interpreter."""
    from cca_models.fused_decoder import FusedDecoder
    from cca_models.weights import load_weights

    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights = load_weights(model.checkpoint.path, device=where, dtype=torch.float32)
    decoder = FusedDecoder(model.checkpoint.config, weights)
    fused = LanguageModel(model.checkpoint, model.tokenizer, decoder, cca=CCA)
    ids = random_ids(90)
    found = []
    for one in (model, fused):
        twin = peer_model(one, name, **SMALL[name])
        assert isinstance(twin.decoder, type(one.decoder)) and twin.decoder is not one.decoder
        memory = twin.new_memory(200)
        logits = [twin.prefill(memory, ids), *(twin.prefill(memory, [t]) for t in ids[:3])]
        found.append(torch.stack(logits).cpu())
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=0)


def test_an_unknown_name_or_setting_is_refused(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match=r"expected one of .*moba"):
        peer_model(model, "magic")
    with pytest.raises(ValueError, match=r"expected settings of streaming-llm \(sinks, window\)"):
        peer_model(model, "streaming-llm", widow=3)


def test_the_page_has_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[1]
    monkeypatch.syspath_prepend(str(root / "tools"))
    import write_peers_table

    page = (root / "docs/peers.md").read_text(encoding="utf-8")
    again = write_peers_table.page_with(page, write_peers_table.table())
    assert page == again, "run: python tools/write_peers_table.py"
    text = page.split("## Each of them")[1]
    for name, one in records().items():
        assert f"`{name}`" in text, name
        for number in re.findall(r"arXiv ([\d.]+)", one.paper) if name in PEERS else ():
            assert number in text, name
