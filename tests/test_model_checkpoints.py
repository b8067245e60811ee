"""Checkpoints by name: what is accepted, what is refused, and in which words."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_checkpoint import make_tiny_checkpoint
from tiny_gguf import write_gguf
from tiny_tokenizers import SAMPLES

from cca_models.checkpoints import list_checkpoints, remove_checkpoint, resolve_checkpoint
from cca_models.errors import CheckpointError, DownloadError, UnsupportedModelError
from cca_models.paths import cache_dir, models_dir
from cca_models.tokenizer import load_tokenizer


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCA_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("CCA_HOME", "CCA_OFFLINE", "CCA_DEFAULT_MODEL_WHEEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_tiny_checkpoint(tmp_path / "tiny")


def refuse(name: Path | str, error: type[Exception] = CheckpointError, **options: Any) -> str:
    """Resolve what must be refused, check that a hint comes with it, return the message."""
    with pytest.raises(error) as caught:
        resolve_checkpoint(str(name), **options)
    assert type(caught.value) is error
    assert getattr(caught.value, "hint", "")
    return str(caught.value)


def edit_config(path: Path, **change: Any) -> None:
    file = path / "config.json"
    config = json.loads(file.read_text()) | change
    file.write_text(json.dumps({key: value for key, value in config.items() if value != "drop"}))


def test_directory_is_taken_as_it_is(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = resolve_checkpoint(str(tiny), offline=True)
    assert (checkpoint.name, checkpoint.path) == ("tiny", tiny)
    assert checkpoint.trained_tokens == 512
    assert not checkpoint.adapted
    monkeypatch.chdir(tiny.parent)
    assert resolve_checkpoint("tiny").path == tiny


def test_fingerprint_follows_config_tokenizer_and_weights(tiny: Path) -> None:
    def fingerprint() -> str:
        return resolve_checkpoint(str(tiny)).fingerprint

    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    moved = shutil.copytree(tiny, tiny.with_name("moved"))
    assert resolve_checkpoint(str(moved)).fingerprint == seen[0]
    edit_config(tiny, rope_theta=20000.0)
    seen.append(fingerprint())
    with (tiny / "tokenizer.json").open("a") as file:
        file.write(" ")
    seen.append(fingerprint())
    weights = bytearray((tiny / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tiny / "model.safetensors").write_bytes(weights)
    seen.append(fingerprint())
    assert len(set(seen)) == 4


def test_fingerprint_of_unchanged_files_is_remembered(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    for file in tiny.iterdir():
        os.utime(file, (1_000_000_000, 1_000_000_000))
    first = resolve_checkpoint(str(tiny)).fingerprint
    monkeypatch.setattr("hashlib.file_digest", None)
    assert resolve_checkpoint(str(tiny)).fingerprint == first


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: (path / "config.json").unlink(), "config.json is missing"),
        (lambda path: (path / "config.json").write_text("{"), "damaged"),
        (lambda path: (path / "config.json").write_text("[]"), "damaged"),
        (lambda path: edit_config(path, hidden_size="drop"), "hidden_size is None"),
        (lambda path: (path / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda path: (path / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda path: (path / "model.safetensors").write_bytes(b""), "empty"),
        (lambda path: (path / "model.safetensors").write_bytes(b"\xff" * 64), "not safetensors"),
        (
            lambda path: (path / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"nope"),
            "not a safetensors file",
        ),
    ],
)
def test_damaged_directories_are_refused(tiny: Path, damage: Any, says: str) -> None:
    damage(tiny)
    assert says in refuse(tiny)


@pytest.mark.parametrize("lost", [1, 1000, -8])
def test_weights_of_another_length_are_refused_with_both(tiny: Path, lost: int) -> None:
    file = tiny / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-lost] if lost > 0 else whole + b"more" * 2)
    assert f"{len(whole) - lost:,} bytes where its header says {len(whole):,}" in refuse(tiny)


def test_other_architectures_are_named(tiny: Path) -> None:
    edit_config(tiny, model_type="gpt_neox")
    assert "'gpt_neox'" in refuse(tiny, UnsupportedModelError)
    edit_config(tiny, model_type="llama", quantization_config={"quant_method": "gptq"})
    assert "gptq" in refuse(tiny, UnsupportedModelError)


def test_pickled_weights_are_refused(tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")
    assert "pytorch_model.bin" in refuse(tiny)


def test_directory_with_a_gguf_file_names_it_in_the_hint(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(str(tmp_path))
    assert str(tmp_path / "x.gguf") in caught.value.hint


def test_shards_are_checked_through_their_index(tiny: Path) -> None:
    weights = load_file(tiny / "model.safetensors")
    (tiny / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"a.safetensors": names[:7], "b.safetensors": names[7:]}
    for shard, held in shards.items():
        save_file({name: weights[name] for name in held}, tiny / shard)
    places = {name: shard for shard, held in shards.items() for name in held}
    index = tiny / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    first = resolve_checkpoint(str(tiny)).fingerprint
    index.write_text(json.dumps({"weight_map": places | {"lm_head.weight": "b.safetensors"}}))
    assert "1 tensors" in refuse(tiny) and "lm_head.weight" in refuse(tiny)
    index.write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    assert "damaged" in refuse(tiny)
    index.write_text(json.dumps({"weight_map": places}))
    (tiny / "b.safetensors").unlink()
    assert "b.safetensors: the file is missing" in refuse(tiny)
    save_file({name: weights[name] + 1 for name in names[7:]}, tiny / "b.safetensors")
    assert resolve_checkpoint(str(tiny)).fingerprint != first


@pytest.mark.parametrize("name", ["nope", "./nope", "/nope/nope", "nope/nope/nope", "~/nope.gguf"])
def test_wrong_names_are_refused(name: str) -> None:
    assert "there is no such" in refuse(name)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    assert "neither" in refuse(tmp_path / "notes.txt")


def test_hub_is_not_asked_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "offline" in refuse("owner/name", DownloadError, offline=True)
    for variable in ("CCA_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(variable, "1")
        assert "offline" in refuse("owner/name", DownloadError)
        assert "offline" in refuse("smollm2-135m-instruct", DownloadError)
        monkeypatch.delenv(variable)


@pytest.mark.parametrize("quantised", [False, True])
def test_gguf_gives_the_checkpoint_back(tiny: Path, tmp_path: Path, quantised: bool) -> None:
    file = write_gguf(tiny, tmp_path / "Tiny model.gguf", quantised=quantised)
    stages: list[tuple[str, int, int]] = []
    checkpoint = resolve_checkpoint(str(file), progress=lambda *now: stages.append(now))
    assert checkpoint.name.startswith("tiny-model-")
    assert stages[-1][0] == "convert" and stages[-1][1] == stages[-1][2] > 0
    found, exact = (load_file(path / "model.safetensors") for path in (checkpoint.path, tiny))
    assert found.keys() == exact.keys()
    for name, values in exact.items():
        assert found[name].dtype == np.float32
        limit = np.abs(values).max() / 127 if quantised and values.ndim == 2 else 0
        np.testing.assert_allclose(found[name], values, rtol=0, atol=limit)
    was = json.loads((tiny / "config.json").read_text())
    assert {key: checkpoint.config[key] for key in was if key != "pad_token_id"} == {
        key: value for key, value in was.items() if key != "pad_token_id"
    }
    ours, theirs = load_tokenizer(checkpoint.path), load_tokenizer(tiny)
    assert ours.backend == "tiktoken"
    for text in SAMPLES.values():
        assert ours.encode(text) == theirs.encode(text)
    talk = [{"role": "user", "content": "Who?"}]
    assert ours.encode_prompt(ours.chat(talk)) == theirs.encode_prompt(theirs.chat(talk))
    assert ours.eos_ids == theirs.eos_ids
    # Converted once: the second time the weights stay as they are.
    before = (checkpoint.path / "model.safetensors").stat()
    assert resolve_checkpoint(str(file)) == checkpoint
    assert (checkpoint.path / "model.safetensors").stat() == before
    # And it goes by its name from then on, also without the file.
    file.unlink()
    assert resolve_checkpoint(checkpoint.name) == checkpoint


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"arch": "qwen2"}, "'qwen2'"),
        ({"experts": 8}, "mixture of experts"),
        ({"tokenizer": "llama"}, "'llama'"),
        ({"pre": "tekken"}, "'tekken'"),
        ({"tensors": {"blk.0.ssm_a.weight": np.ones(4, np.float32)}}, "ssm_a"),
        ({"tensors": {"rope_freqs.weight": np.full(4, 3, np.float32)}}, "rope frequencies"),
    ],
)
def test_gguf_of_other_kinds_is_refused_and_leaves_nothing(
    tiny: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    file = write_gguf(tiny, tmp_path / "other.gguf", **change)
    assert says in refuse(file, UnsupportedModelError)
    assert [path for path in models_dir().iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("part", [0.2, 0.9, 0.999])
def test_cut_off_gguf_is_refused_and_leaves_nothing(
    tiny: Path, tmp_path: Path, part: float
) -> None:
    file = write_gguf(tiny, tmp_path / "cut.gguf")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole))])
    assert "cut.gguf" in refuse(file)
    assert [path for path in models_dir().iterdir() if path.is_dir()] == []


def test_gguf_of_llama_3_1_gives_its_rope_scaling_back(tmp_path: Path) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    source = make_tiny_checkpoint(tmp_path / "source", hidden=128, heads=2, kv_heads=1)
    edit_config(source, rope_theta=500000.0)
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, rope_parameters=scaling | {"rope_theta": 5e5}
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1 / 5e5 ** (np.arange(0, 64, 2) / 64)
    divisors = (plain / scaled.numpy()).astype(np.float32)
    file = write_gguf(source, tmp_path / "x.gguf", tensors={"rope_freqs.weight": divisors})
    assert resolve_checkpoint(str(file)).config["rope_scaling"] == scaling


def test_only_what_was_made_here_is_listed_and_removed(tiny: Path, tmp_path: Path) -> None:
    assert list_checkpoints() == []
    file = write_gguf(tiny, tmp_path / "x.gguf")
    checkpoint = resolve_checkpoint(str(file))
    (models_dir() / "broken").mkdir()
    shutil.copytree(tiny, models_dir() / "owner--name")
    assert [found.name for found in list_checkpoints()] == ["owner/name", checkpoint.name]
    assert resolve_checkpoint("owner/name", offline=True).path == models_dir() / "owner--name"
    for name in ("nope", "tiny", str(tiny), "../tiny", ".", "..", "", "/"):
        with pytest.raises(CheckpointError):
            remove_checkpoint(name)
    size = sum(found.stat().st_size for found in checkpoint.path.iterdir())
    assert remove_checkpoint(checkpoint.name) == size
    assert remove_checkpoint("owner/name") > 0
    assert remove_checkpoint("broken") == 0
    assert list_checkpoints() == []
    assert tiny.is_dir() and file.is_file()


def test_damaged_checkpoint_of_ours_is_refused_with_the_way_out(tiny: Path) -> None:
    shutil.copytree(tiny, models_dir() / "mine")
    (models_dir() / "mine" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint("mine")
    assert caught.value.hint.startswith("cca models rm mine")


def test_transformers_loads_the_tiny_checkpoint(tiny: Path) -> None:
    transformers = pytest.importorskip("transformers")
    _, info = transformers.AutoModelForCausalLM.from_pretrained(tiny, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_cache_directory_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CCA_CACHE_DIR", str(tmp_path / "deep" / "own"))
    assert cache_dir() == tmp_path / "deep" / "own"
    assert (tmp_path / "deep").stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("CCA_CACHE_DIR", "")
    assert cache_dir() == tmp_path / "home" / "cache"
    assert models_dir() == tmp_path / "home" / "cache" / "models"
    assert models_dir().stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("CCA_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir().is_relative_to(tmp_path) and cache_dir().name == "cca"
