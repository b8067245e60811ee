"""The transformers hook and its cache: equality with the base model and with itself."""

from pathlib import Path

import pytest
import torch

from cca_models import CCACache, CCAConfig, register
from cca_models.errors import MemoryFileError

transformers = pytest.importorskip("transformers")

CCA = {"group_size": 4, "window": 16}


def make_model(attn: str, *, heads: int = 4, kv_heads: int = 2, **extra: object) -> object:
    """Make a random LLaMA; equal seeds make equal weights."""
    register()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=heads * 8, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=512,
        initializer_range=0.3, pad_token_id=0, cca=CCA, **extra,
    )  # fmt: skip
    config._attn_implementation = attn
    return transformers.LlamaForCausalLM(config).double().eval()


@pytest.fixture(scope="module")
def model() -> object:
    return make_model("cca")


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.randint(1, 97, (2, 97), generator=torch.Generator().manual_seed(1))


def places(mask: torch.Tensor) -> torch.Tensor:
    """Count positions from each row's first real token, as generate does."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def read(model: object, ids: torch.Tensor, cuts: list[int], **kwargs: torch.Tensor) -> torch.Tensor:
    """Read in chunks that end at the cuts; give the logits of all tokens."""
    cache, out, start = CCACache(model.config), [], 0
    mask = kwargs.get("attention_mask")
    with torch.no_grad():
        for end in [*cuts, ids.shape[1]]:
            part = {}
            if mask is not None:
                part = {"attention_mask": mask[:, :end], "position_ids": places(mask)[:, start:end]}
            out.append(model(ids[:, start:end], past_key_values=cache, **part).logits)
            start = end
    return torch.cat(out, 1)


def test_within_the_window_it_is_the_base_model(model: object, ids: torch.Tensor) -> None:
    base = make_model("sdpa")
    with torch.no_grad():
        short = ids[:, : CCA["window"]]
        torch.testing.assert_close(model(short, use_cache=False).logits, base(short).logits)
        longer = ids[:, : 3 * CCA["window"]]
        assert (model(longer, use_cache=False).logits - base(longer).logits).abs().max() > 1e-3


@pytest.mark.parametrize(
    "cuts", [[40], [3, 7, 8, 50, 51, 90], [16, 32, 48, 64, 80, 96], list(range(1, 97))],
    ids=["two", "uneven", "window", "tokens"],
)  # fmt: skip
@pytest.mark.parametrize("heads", [(4, 2), (4, 4), (6, 2), (4, 1)], ids=str)
def test_chunked_is_one_shot(ids: torch.Tensor, cuts: list[int], heads: tuple[int, int]) -> None:
    model = make_model("cca", heads=heads[0], kv_heads=heads[1])
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
    torch.testing.assert_close(read(model, ids, cuts), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("pads", [(0, 5), (40, 0), (23, 24)], ids=str)
@pytest.mark.parametrize("cuts", [[], [13, 30, 31, 90]], ids=["whole", "chunks"])
def test_left_padded_row_is_the_row_alone(
    model: object, ids: torch.Tensor, pads: tuple[int, int], cuts: list[int]
) -> None:
    mask = torch.ones_like(ids)
    for row, pad in enumerate(pads):
        mask[row, :pad] = 0
    padded = read(model, ids, cuts, attention_mask=mask)
    with torch.no_grad():
        afresh = model(ids, attention_mask=mask, position_ids=places(mask), use_cache=False).logits
        for row, pad in enumerate(pads):
            alone = model(ids[row : row + 1, pad:], use_cache=False).logits[0]
            torch.testing.assert_close(padded[row, pad:], alone, rtol=0, atol=1e-10)
            torch.testing.assert_close(afresh[row, pad:], alone, rtol=0, atol=1e-10)


def test_right_padding_disturbs_nobody_without_a_cache(model: object, ids: torch.Tensor) -> None:
    mask = torch.ones_like(ids)
    mask[0, 60:] = 0
    with torch.no_grad():
        padded = model(ids, attention_mask=mask, use_cache=False).logits
        alone = model(ids[:1, :60], use_cache=False).logits
    torch.testing.assert_close(padded[:1, :60], alone, rtol=0, atol=1e-10)


def test_later_tokens_do_not_change_earlier_logits(model: object, ids: torch.Tensor) -> None:
    other = ids.clone()
    other[:, 70:] = (other[:, 70:] + 1) % 97
    with torch.no_grad():
        a, b = (model(x, use_cache=False).logits[:, :70] for x in (ids, other))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_every_earlier_token_is_reachable(model: object, ids: torch.Tensor) -> None:
    embedded = model.get_input_embeddings()(ids[:1]).detach().requires_grad_()
    model(inputs_embeds=embedded, use_cache=False).logits[0, -1].sum().backward()
    assert (embedded.grad.abs().sum(-1) > 0).all()


def test_generate_left_padded_batch(model: object, ids: torch.Tensor) -> None:
    mask = torch.ones_like(ids)
    mask[1, :30] = 0
    options = {"max_new_tokens": 12, "do_sample": False}
    both = model.generate(
        ids, attention_mask=mask, past_key_values=CCACache(model.config), **options
    )
    for row, pad in enumerate((0, 30)):
        alone = model.generate(
            ids[row : row + 1, pad:], past_key_values=CCACache(model.config), **options
        )
        assert both[row, ids.shape[1] :].tolist() == alone[0, ids.shape[1] - pad :].tolist()


def test_beam_search_runs_and_equals_itself_in_chunks(model: object, ids: torch.Tensor) -> None:
    options = {"max_new_tokens": 10, "do_sample": False, "num_beams": 3}
    one = model.generate(ids, past_key_values=CCACache(model.config), **options)
    two = model.generate(
        ids, past_key_values=CCACache(model.config), prefill_chunk_size=32, **options
    )
    assert one.tolist() == two.tolist()


def test_cache_holds_core_tokens_and_the_window_only(model: object, ids: torch.Tensor) -> None:
    cache = CCACache(model.config)
    with torch.no_grad():
        model(ids, past_key_values=cache)
    memory = cache.layers[0]._parts[0][2]
    raw = 97 - CCAConfig(**CCA).raw_start(97)
    assert memory.pooled == 97 // 4
    assert cache.nbytes == 3 * 2 * 2 * 2 * (97 // 4 + raw) * 8 * 8
    assert cache.get_seq_length() == 97


def test_forks_go_their_own_ways(model: object, ids: torch.Tensor) -> None:
    cache = CCACache(model.config)
    with torch.no_grad():
        model(ids[:, :50], past_key_values=cache)
        twin, second = cache.fork(), cache.fork()
        for end in range(51, 98):  # interleaved, so that a shared buffer would show
            a = model(ids[:, end - 1 : end], past_key_values=twin).logits
            b = model((ids[:, end - 1 : end] + 3) % 97, past_key_values=second).logits
            c = model(ids[:, end - 1 : end], past_key_values=cache).logits
            torch.testing.assert_close(a, c, rtol=0, atol=0)
        whole = model(ids, use_cache=False).logits[:, -1:]
        torch.testing.assert_close(c, whole, rtol=0, atol=1e-10)
        assert (a - b).abs().max() > 1e-3


def test_saved_and_loaded_cache_goes_on_the_same(
    model: object, ids: torch.Tensor, tmp_path: Path
) -> None:
    cache = CCACache(model.config)
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    with torch.no_grad():
        model(ids[:, :60], attention_mask=mask[:, :60], past_key_values=cache)
        cache.save(tmp_path / "cache.safetensors")
        loaded = CCACache.load(tmp_path / "cache.safetensors")
        assert loaded.get_seq_length() == 60
        a, b = (
            model(ids[:, 60:], attention_mask=mask, past_key_values=c).logits
            for c in (cache, loaded)
        )
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    (tmp_path / "broken.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(MemoryFileError, match="cannot be read"):
        CCACache.load(tmp_path / "broken.safetensors")


def test_wrong_uses_are_refused(model: object, ids: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="its own cache"), torch.no_grad():
        model.generate(ids, max_new_tokens=3, do_sample=False)
    with pytest.raises(ValueError, match="2D attention_mask"), torch.no_grad():
        model(ids, attention_mask=torch.zeros(2, 1, 97, 97, dtype=torch.float64), use_cache=False)
    holes = torch.ones_like(ids)
    holes[0, 5] = 0
    holes[0, 0] = 0
    with pytest.raises(ValueError, match="padding at the ends"), torch.no_grad():
        model(ids, attention_mask=holes, use_cache=False)
    with pytest.raises(ValueError, match="packed"), torch.no_grad():
        packed = torch.cat([torch.arange(50), torch.arange(47)])[None].expand(2, -1)
        model(ids, position_ids=packed, use_cache=False)
    with pytest.raises(ValueError, match="for inference"):
        model(ids, past_key_values=CCACache(model.config))
    with pytest.raises(NotImplementedError, match="cropped"):
        CCACache(model.config).crop(3)
    with pytest.raises(ValueError, match="window >= group_size"):
        CCAConfig(group_size=16, window=8)


def test_training_gradients_flow_through_core_tokens(model: object, ids: torch.Tensor) -> None:
    model.zero_grad()
    model(ids, labels=ids, use_cache=False).loss.backward()
    for layer in model.model.layers:
        assert layer.self_attn.q_proj.weight.grad.abs().max() > 0


def test_mixed_precision_runs_with_and_without_a_cache(ids: torch.Tensor) -> None:
    """Under autocast rotation gives float32 queries and keys beside 16-bit values."""
    model = make_model("cca").float()  # type: ignore[attr-defined]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids, use_cache=False).logits
        chunked = read(model, ids, [40])
    logits.float().sum().backward()
    assert torch.isfinite(model.model.layers[0].self_attn.k_proj.weight.grad).all()
    assert torch.nn.functional.cosine_similarity(logits.flatten(), chunked.flatten(), 0) > 0.99
