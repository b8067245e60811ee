"""Adapters: merged as PEFT merges them, refused where that would be wrong, their settings held."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_adapter import ALPHA, PREFIX, RANK, adapter_tensors, cca_settings, write_adapter
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import random_ids, tiny_surroundings

from cca_models.adapters import adapter_files, read_adapter, weights_sha256
from cca_models.checkpoints import list_checkpoints, resolve_checkpoint
from cca_models.config import CCAConfig
from cca_models.default_model import DEFAULT_MODEL
from cca_models.dense_model import dense_model_of
from cca_models.engine import LanguageModel, load_model
from cca_models.errors import AdapterError, ContextTooLongError
from cca_models.memory import Memory
from cca_models.paths import models_dir
from cca_models.reading.locate import locating_heads
from cca_models.rope import FixedBase, LargerBase

# Everything is read inside the window, where PEFT's dense model computes the same.
WIDE = CCAConfig(group_size=4, window=256)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def made(tmp_path: Path, base: Path) -> Path:
    """An adapter that is made for cca."""
    return write_adapter(tmp_path / "made", base, settings=cca_settings(base))


def load(base: Path, adapter: Path | str, **options: Any) -> LanguageModel:
    checkpoint = resolve_checkpoint(str(base), adapter=str(adapter))
    return load_model(checkpoint, **{"device": "cpu", "dtype": "fp32", **options})


def every_logit(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    memory = model.new_memory(len(ids))
    with torch.inference_mode():
        states = model.decoder.forward(
            torch.tensor([ids]), memory.layers, memory.rotary, every=True
        )
        return model.decoder.logits(states)[0].clone()


# Against PEFT itself.

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PATTERNS = {
    "rank_pattern": {"down_proj": 3, r"layers\.0\.self_attn\.q_proj": 7},
    "alpha_pattern": {"gate_proj": 5, r"layers\.\d\.self_attn\.q_proj": 2},
}


def make_peft(base: Path, folder: Path, **config: Any) -> Any:
    """Save a PEFT adapter with random weights; give PEFT's own model with it, not merged."""
    import peft
    import transformers

    theta = config.pop("theta", None)
    torch.manual_seed(0)
    options = {"rope_parameters": {"rope_type": "default", "rope_theta": theta}} if theta else {}
    model = transformers.LlamaForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager", **options
    )
    settings = {"r": 4, "lora_alpha": 12, "target_modules": ALL_LINEAR, **config}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, value in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(value, std=0.1)
        elif value.requires_grad:
            with torch.no_grad():
                value.mul_(torch.rand_like(value) + 0.5)
    wrapped.save_pretrained(folder)
    return wrapped.eval()


@pytest.mark.parametrize(
    ("tied", "config"),
    [
        (True, {}),
        (True, {"use_rslora": True, "r": 9}),
        (True, {"modules_to_save": ["norm"]}),
        (True, PATTERNS),
        (True, {**PATTERNS, "use_rslora": True, "modules_to_save": ["norm"]}),
        (True, {"target_modules": ["v_proj"], "layers_to_transform": [1]}),
        (False, {"modules_to_save": ["norm", "embed_tokens"]}),
        (False, {"target_modules": ["lm_head", "up_proj"]}),
    ],
    ids=["plain", "rslora", "norms", "patterns", "all", "one", "embeddings", "output"],
)
def test_merged_is_what_peft_computes(tmp_path: Path, tied: bool, config: dict[str, Any]) -> None:
    base = make_tiny_checkpoint(tmp_path / "tiny", tied=tied)
    exact = make_peft(base, tmp_path / "adapter", **config)
    ids = random_ids(60)
    with torch.no_grad():
        expected = exact(torch.tensor([ids])).logits[0]
    ours = every_logit(load(base, tmp_path / "adapter", cca=WIDE), ids)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert (ours - every_logit(load(base, "none", cca=WIDE), ids)).abs().max() > 0.01


def test_a_fixed_base_is_that_of_transformers(tmp_path: Path, base: Path) -> None:
    exact = make_peft(base, tmp_path / "adapter", modules_to_save=["norm"], theta=5e4)
    (tmp_path / "adapter/cca.json").write_text(json.dumps(cca_settings(base, window=256)))
    model, ids = load(base, tmp_path / "adapter"), random_ids(60)
    with torch.no_grad():
        expected = exact(torch.tensor([ids])).logits[0]
        dense = dense_model_of(model)(torch.tensor([ids])).logits[0]
    ours = every_logit(model, ids)
    # Our angles are exact, those of transformers are rounded to float32.
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dense, expected, rtol=1e-5, atol=1e-5)
    own = load(base, tmp_path / "adapter")
    own.rope = LargerBase(own.checkpoint.config)
    assert (ours - every_logit(own, ids)).abs().max() > 1e-2


# Numbers.


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_sums_are_in_float32_and_then_cast(
    tmp_path: Path, base: Path, saved: torch.dtype, dtype: str
) -> None:
    folder = write_adapter(tmp_path / "adapter", base)
    file = folder / "adapter_model.safetensors"
    tensors = {name: tensor.to(saved) for name, tensor in load_file(file).items()}
    save_file(tensors, file)
    before = load_file(base / "model.safetensors")
    model = load(base, folder, dtype=dtype)
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        a, b = (tensors[f"{PREFIX}{name}.lora_{f}.weight"].double() for f in "AB")
        exact = before[f"{name}.weight"].double() + ALPHA / RANK * (b @ a)
        found = model.decoder.weights[f"{name}.weight"]
        assert found.dtype == model.dtype
        # One rounding to the dtype, and what float32 adds.
        allowed = exact.abs() * torch.finfo(found.dtype).eps / 2 + 1e-6
        assert bool(((found.double() - exact).abs() <= allowed).all())
    norm = "model.layers.1.input_layernorm.weight"
    assert torch.equal(model.decoder.weights[norm], tensors[PREFIX + norm].float().to(model.dtype))
    embedding = "model.embed_tokens.weight"
    assert torch.equal(model.decoder.weights[embedding], before[embedding].to(model.dtype))
    # The checkpoint's own file is mapped, and stays as it was.
    assert all(torch.equal(t, before[n]) for n, t in load_file(base / "model.safetensors").items())


# What an adapter says is held.


def test_settings_come_from_the_adapter(base: Path, made: Path) -> None:
    model = load(base, made)
    assert model.checkpoint.adapted and model.cca == CCAConfig(group_size=4, window=32)
    assert model.rope == FixedBase(theta=5e4, dims=8, max_tokens=8192)
    assert (model.max_tokens, model.adapted_tokens) == (8192, 1024)
    assert locating_heads(model) == ((1, 2), (0, 3))
    settings = read_adapter(made).settings
    assert settings is not None and settings.locate is not None
    assert settings.locate.attention_weight == 1.0 and not settings.locate.subtract_empty
    assert settings.not_found == {"coverage": 0.5} and settings.training == {"steps": 1}
    other = CCAConfig(group_size=8, window=64)
    assert load(base, made, cca=other).cca == other


def test_a_plain_adapter_is_read_with_the_checkpoints_own(tmp_path: Path, base: Path) -> None:
    model = load(base, write_adapter(tmp_path / "plain", base))
    adapter = model.checkpoint.adapter
    assert adapter is not None and adapter.warning and "cca.json" in adapter.warning
    assert model.cca == CCAConfig() and model.rope == LargerBase(model.checkpoint.config)
    assert model.adapted_tokens is None and locating_heads(model) == ()
    assert read_adapter(write_adapter(tmp_path / "made", base, settings=cca_settings(base))
                        ).warning is None  # fmt: skip


def test_what_was_not_measured_is_left_to_reading(tmp_path: Path, base: Path) -> None:
    folder = write_adapter(
        tmp_path / "a", base, settings=cca_settings(base, locate={"heads": [[0, 1]]})
    )
    settings = read_adapter(folder).settings
    assert settings is not None and settings.locate is not None
    assert (settings.locate.subtract_empty, settings.locate.attention_weight) == (None, None)
    model = load(base, folder)
    assert locating_heads(model) == ((0, 1),)
    write_adapter(folder, base, settings=cca_settings(base, locate={"heads": []}))
    carrying = replace(
        load(base, folder).checkpoint,
        config={**model.checkpoint.config, "cca_locate_heads": [[1, 1]]},
    )
    model.checkpoint = carrying
    assert locating_heads(model) == ((1, 1),)


def test_the_checkpoints_own_rule_may_be_asked_for(tmp_path: Path, base: Path) -> None:
    rope = {"rule": "larger-base-1", "max_tokens": 100, "trained_tokens": 100}
    folder = write_adapter(tmp_path / "a", base, settings=cca_settings(base, rope=rope))
    model = load(base, folder)
    assert model.rope == LargerBase(model.checkpoint.config) and model.adapted_tokens == 100


def test_fingerprints_name_adapter_and_positions(tmp_path: Path, base: Path, made: Path) -> None:
    def of(name: str, **changes: Any) -> str:
        settings = cca_settings(base, **changes.pop("settings", {}))
        return load(base, write_adapter(tmp_path / name, base, settings=settings, **changes),
                    cca=WIDE).fingerprint  # fmt: skip

    rope = cca_settings(base)["rope"]
    first = load(base, made, cca=WIDE).fingerprint
    others = [
        load(base, "none", cca=WIDE).fingerprint,
        of("seed", seed=1),
        of("alpha", config={"lora_alpha": 9}),
        of("theta", settings={"rope": {**rope, "theta": 6e4}}),
        load(base, made).fingerprint,
    ]
    assert len({first, *others}) == 6
    # What reads alike is known alike.
    assert of("reach", settings={"rope": {**rope, "max_tokens": 9999}, "training": {}}) == first


def test_unadapted_fingerprints_are_those_of_the_libraries_out_there(base: Path) -> None:
    """Documents that were read before there were adapters need not be read again."""
    import hashlib

    checkpoint = resolve_checkpoint(str(base))
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
    files = [base / name for name in names]
    parts = [[f.name, f.stat().st_size, hashlib.sha256(f.read_bytes()).hexdigest()] for f in files]
    says = json.dumps([parts, False])
    assert checkpoint.fingerprint == hashlib.sha256(says.encode()).hexdigest()
    facts = {
        "checkpoint": checkpoint.fingerprint, "dtype": "torch.float32", "group_size": 16,
        "rope_rule": "larger-base-1", "window": 1024,
    }  # fmt: skip
    says = json.dumps(facts, sort_keys=True)
    assert load(base, "none").fingerprint == hashlib.sha256(says.encode()).hexdigest()


# Memories on a fixed base.


def test_a_fixed_base_knows_no_lengths(base: Path, made: Path) -> None:
    model = load(base, made)
    memories = [model.new_memory(tokens) for tokens in (1, 5000, 8192)]
    for memory in memories:
        assert (memory.stretch, memory.capacity) == (1, 8192)
        assert torch.equal(memory.rotary.frequencies, memories[0].rotary.frequencies)
    frequencies = memories[0].rotary.frequencies
    assert frequencies.dtype == torch.float64
    expected = [5e4 ** (-2 * i / 8) for i in range(4)]
    assert frequencies.tolist() == pytest.approx(expected, rel=1e-15)
    with pytest.raises(ContextTooLongError, match=r"needs 8,193 .* reaches 8,192 \(1 over\)"):
        model.new_memory(8193)
    for ask in (model.rope.capacity, model.rope.frequencies, model.rope.stretch):
        with pytest.raises(ContextTooLongError):
            ask(8193)


def test_a_memory_grows_past_what_it_was_made_for(tmp_path: Path, base: Path, made: Path) -> None:
    model, ids = load(base, made), random_ids(900)
    whole, grown = model.new_memory(900), model.new_memory(100)
    expected = model.prefill(whole, ids)
    model.prefill(grown, ids[:100])
    grown.save(tmp_path / "memory.safetensors")
    loaded = Memory.load(tmp_path / "memory.safetensors", model)
    assert (loaded.capacity, loaded.room, loaded.seen) == (8192, 100, 100)
    for memory in (grown, loaded, loaded.fork()):
        if memory.seen == 100:
            logits = model.prefill(memory, ids[100:])
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def test_dense_attention_takes_the_same_weights_and_positions(base: Path, made: Path) -> None:
    model, ids = load(base, made, cca=WIDE), random_ids(50)
    dense = dense_model_of(model)
    with torch.no_grad():
        logits = dense(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(every_logit(model, ids), logits, rtol=1e-4, atol=1e-4)
    weight = dense.model.layers[0].self_attn.q_proj.weight
    assert weight.data_ptr() == model.decoder.weights[
        "model.layers.0.self_attn.q_proj.weight"
    ].data_ptr()  # fmt: skip
    assert dense.config.max_position_embeddings == 8192


# The base.


def test_weights_are_known_by_their_values(tmp_path: Path, base: Path) -> None:
    copy = shutil.copytree(base, tmp_path / "copy")
    file = copy / "model.safetensors"
    tensors = load_file(file)
    turned = {name: tensors[name].clone() for name in reversed(tensors)}
    save_file(turned, file, metadata={"written": "by another hand"})
    assert file.read_bytes() != (base / "model.safetensors").read_bytes()
    assert weights_sha256(copy) == weights_sha256(base)
    turned["model.norm.weight"][3] += 1e-6
    save_file(turned, file)
    assert weights_sha256(copy) != weights_sha256(base)


def test_shards_count_too(tmp_path: Path, base: Path) -> None:
    whole = load_file(base / "model.safetensors")
    first = {name: tensor for name, tensor in whole.items() if "layers.0" in name}
    rest = {name: tensor for name, tensor in whole.items() if name not in first}
    digests = set()
    for i in range(2):
        copy = tmp_path / f"copy{i}"
        copy.mkdir()
        save_file(first, copy / "one.safetensors")
        rest["model.norm.weight"] = rest["model.norm.weight"] + i
        save_file(rest, copy / "two.safetensors")
        places = {name: "one.safetensors" if name in first else "two.safetensors" for name in whole}
        (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        digests.add(weights_sha256(copy))
    assert len(digests) == 2


def test_other_weights_are_refused(tmp_path: Path, base: Path, made: Path) -> None:
    other = make_tiny_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(AdapterError, match="trained on other weights of tiny") as caught:
        load(other, made)
    assert "--adapter none" in caught.value.hint
    load(other, write_adapter(tmp_path / "plain", base))


# What is refused.


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"peft_type": "LOHA"}, "'LOHA', not 'LORA'"),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"bias": "all"}, "bias 'all' is not supported"),
        ({"lora_bias": True}, "lora_bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"a_setting_of_tomorrow": 1}, "a_setting_of_tomorrow is not supported"),
        ({"r": 0}, "a rank is below 1"),
        ({"r": "many"}, "cannot be used"),
        ({"rank_pattern": {"(": 3}}, "cannot be used"),
        ({"r": 5}, "has rank 4, its config says 5"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_other_kinds_of_adapters(
    tmp_path: Path, base: Path, config: dict[str, Any], says: str
) -> None:
    folder = write_adapter(tmp_path / "adapter", base, config=config)
    with pytest.raises(AdapterError, match=says) as caught:
        load(base, folder)
    assert caught.value.hint and "\n" not in str(caught.value)


def test_folders_that_hold_no_adapter(tmp_path: Path, base: Path, made: Path) -> None:
    with pytest.raises(AdapterError, match="no such adapter folder") as caught:
        load(base, tmp_path / "absent")
    assert "default, none or a folder" in caught.value.hint
    with pytest.raises(AdapterError, match=r"adapter_config\.json is missing"):
        load(base, base)
    (made / "adapter_model.safetensors").rename(made / "adapter_model.bin")
    with pytest.raises(AdapterError, match=r"adapter_model\.bin, which may run code"):
        load(base, made)
    (made / "adapter_model.bin").unlink()
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is missing"):
        load(base, made)
    (made / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterError, match="damaged"):
        load(base, made)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": 2}, "format 2 is not known"),
        ({"format": None}, "format is null"),
        ({"group_size": "16"}, "group_size"),
        ({"window": 2}, "expected window >= group_size"),
        ({"base": {"name": "tiny"}}, "base.weights_sha256 is null"),
        ({"base": []}, "base is"),
        ({"rope": {"rule": "yarn", "max_tokens": 1, "trained_tokens": 1}}, "rope.rule"),
        ({"rope": {"rule": "fixed-base", "theta": 0, "max_tokens": 1, "trained_tokens": 1}},
         "rope.theta"),
        ({"rope": {"rule": "fixed-base", "theta": 9.0, "max_tokens": 0, "trained_tokens": 1}},
         "rope.max_tokens is 0"),
        ({"locate": {"heads": [[1]], "subtract_empty": True, "attention_weight": 1}}, "heads"),
        ({"locate": {"heads": [[1, 1]], "subtract_empty": 1, "attention_weight": 1}}, "subtract"),
        ({"locate": {"heads": [[2, 0]], "subtract_empty": True, "attention_weight": 1}},
         "head 0 of layer 2, and there are 2 layers of 4"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_settings_that_cannot_be_used(
    tmp_path: Path, base: Path, changes: dict[str, Any], says: str
) -> None:
    folder = write_adapter(tmp_path / "adapter", base, settings=cca_settings(base, **changes))
    with pytest.raises(AdapterError, match=says) as caught:
        load(base, folder)
    assert caught.value.hint and "\n" not in str(caught.value)


def _change(folder: Path, change: Any) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


Q = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop(f"{Q}A.weight"), "has no partner"),
        (lambda t: t.pop(f"{Q}B.weight"), "has no partner"),
        (lambda t: t.clear(), "empty"),
        (lambda t: t.update({f"{Q}B.weight": torch.zeros(5, RANK)}), r"as \(5, 32\), .* \(32, 32"),
        (lambda t: t.update({f"{PREFIX}model.norm.weight": torch.zeros(3)}), r"as \(3,\)"),
        (lambda t: t.update({f"{Q}embedding_A": torch.zeros(RANK, 3)}), "not supported"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(3)}), "not supported"),
        (lambda t: t.update({f"{PREFIX}model.layers.2.norm.weight": torch.zeros(32)}),
         r"model\.layers\.2\.norm\.weight, which is not there"),
        (lambda t: t.update({f"{PREFIX}model.embed_tokens.weight": torch.zeros(3, 3)}), "tied"),
        (lambda t: t.update({f"{PREFIX}lm_head.lora_A.weight": torch.zeros(RANK, 32),
                             f"{PREFIX}lm_head.lora_B.weight": torch.zeros(9, RANK)}), "tied"),
    ],
    ids=["no-a", "no-b", "empty", "shape", "norm", "embedding", "prefix", "layer", "tied", "head"],
)  # fmt: skip
def test_tensors_that_do_not_fit(tmp_path: Path, base: Path, change: Any, says: str) -> None:
    folder = write_adapter(tmp_path / "adapter", base)
    _change(folder, change)
    with pytest.raises(AdapterError, match=says) as caught:
        load(base, folder)
    assert caught.value.hint and "\n" not in str(caught.value)


def test_tied_embeddings_may_be_trained_as_one(tmp_path: Path, base: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", base, config={"ensure_weight_tying": True})
    shape = load_file(base / "model.safetensors")["model.embed_tokens.weight"].shape
    both = torch.randn(shape)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[PREFIX + name] = both.clone()

    _change(folder, change)
    assert torch.equal(load(base, folder).decoder.embedding, both)


def test_a_damaged_file_is_named(base: Path, made: Path) -> None:
    file = made / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors cannot be read"):
        load(base, made)


# The one that ships.


def test_the_default_model_gets_what_ships(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    home = models_dir() / DEFAULT_MODEL
    shutil.copytree(base, home)
    monkeypatch.setattr(adapter_files, "_SHIPPED", tmp_path / "shipped")
    assert resolve_checkpoint(DEFAULT_MODEL).adapter is None
    shipped = tmp_path / "shipped" / DEFAULT_MODEL
    write_adapter(shipped, home, settings=cca_settings(home))
    for name in (DEFAULT_MODEL, str(home)):
        checkpoint = resolve_checkpoint(name)
        assert checkpoint.adapter is not None and checkpoint.adapter.path == shipped
    assert [c.adapted for c in list_checkpoints()] == [True]
    assert not resolve_checkpoint(DEFAULT_MODEL, adapter="none").adapted
    assert not resolve_checkpoint(str(base)).adapted
    assert load_model(resolve_checkpoint(DEFAULT_MODEL)).max_tokens == 8192
    # Other weights in the default model's place.
    tensors = load_file(home / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, home / "model.safetensors")
    with pytest.raises(AdapterError, match="other weights"):
        load_model(resolve_checkpoint(DEFAULT_MODEL))
    (shipped / "cca.json").write_text("{}")
    with pytest.raises(AdapterError) as caught:
        resolve_checkpoint(DEFAULT_MODEL)
    assert "install cca again" in caught.value.hint


def test_what_ships_is_whole_and_small() -> None:
    adapter = adapter_files.shipped_adapter(DEFAULT_MODEL)
    if adapter is None:
        pytest.skip("no adapter ships with this version")
    assert adapter.settings is not None and adapter.settings.base_name == DEFAULT_MODEL
    assert adapter.settings.locate is not None and (adapter.path / "README.md").is_file()
    assert sum(file.stat().st_size for file in adapter.path.iterdir()) <= 20e6


def test_looking_for_an_adapter_loads_nothing_heavy() -> None:
    from test_layering import modules_after

    loaded = modules_after("import cca_models.adapters, cca_models.checkpoints")
    assert not loaded & {"torch", "numpy", "safetensors", "transformers", "peft"}


def test_a_checkpoint_may_be_given_another_adapter(base: Path, made: Path) -> None:
    plain = resolve_checkpoint(str(base))
    assert replace(plain, adapter=read_adapter(made)).cca.window == 32
    assert adapter_tensors(base).keys() == load_file(made / "adapter_model.safetensors").keys()


def test_a_directory_of_the_default_models_name_is_not_the_default_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(adapter_files, "_SHIPPED", tmp_path / "shipped")
    own = make_tiny_checkpoint(tmp_path / DEFAULT_MODEL)
    write_adapter(tmp_path / "shipped" / DEFAULT_MODEL, own, settings=cca_settings(own))
    assert resolve_checkpoint(str(own)).adapter is None
