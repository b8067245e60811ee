"""Memories: forks, files, sizes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import CCA, load_tiny, make_tiny_model, random_ids, tiny_surroundings

from cca_models.config import CCAConfig
from cca_models.engine import LanguageModel
from cca_models.errors import MemoryFileError
from cca_models.memory import Memory


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    # Heads of 64, as real models have: smaller ones leave some tensors of a file unaligned.
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", hidden=256)


def read(model: LanguageModel, ids: list[int], capacity: int = 1024) -> Memory:
    memory = model.new_memory(capacity)
    model.prefill(memory, ids)
    return memory


def walk(model: LanguageModel, memory: Memory, ids: list[int]) -> torch.Tensor:
    """Read on token by token; logits of all steps."""
    return torch.stack([model.prefill(memory, [token]) for token in ids])


@pytest.mark.parametrize("length", [1, 32, 37, 700])
def test_a_saved_memory_goes_on_bit_by_bit(
    model: LanguageModel, tmp_path: Path, length: int
) -> None:
    memory = read(model, random_ids(length))
    file = tmp_path / "memory.safetensors"
    memory.save(file)
    loaded = Memory.load(file, model)
    assert (loaded.seen, loaded.nbytes) == (memory.seen, memory.nbytes) != (0, 0)
    assert (loaded.stretch, loaded.capacity) == (memory.stretch, memory.capacity) == (2, 1024)
    more = random_ids(2 * CCA.window + 5, seed=1)
    at_once = [model.prefill(m.fork(), more) for m in (memory, loaded)]
    assert torch.equal(*at_once)
    steps = [walk(model, m.fork(), more) for m in (memory, loaded)]
    assert torch.equal(*steps)


def test_an_empty_memory_can_be_saved(model: LanguageModel, tmp_path: Path) -> None:
    file = tmp_path / "memory.safetensors"
    model.new_memory(2000).save(file)
    loaded = Memory.load(file, model)
    assert loaded.seen == 0 and loaded.nbytes == 0 and loaded.stretch == 4
    ids = random_ids(50)
    assert torch.equal(model.prefill(loaded, ids), model.prefill(model.new_memory(2000), ids))


@pytest.mark.parametrize("length", [1, 37, 500])
def test_its_bytes_are_those_of_the_tensors(
    model: LanguageModel, tmp_path: Path, length: int
) -> None:
    memory = read(model, random_ids(length))
    file = tmp_path / "memory.safetensors"
    memory.save(file)
    with safe_open(file, framework="pt") as saved:
        held = sum(saved.get_tensor(name).nbytes for name in saved.keys())  # noqa: SIM118
    assert memory.nbytes == held
    assert held <= file.stat().st_size <= held + 4000
    assert (file.stat().st_size - held) % 64 == 0
    assert model.new_memory(10_000).nbytes == 0


def test_it_grows_by_a_core_token_a_group(model: LanguageModel) -> None:
    short, long = (read(model, random_ids(n)).nbytes for n in (400, 400 + 40 * CCA.group_size))
    decoder = model.decoder
    token = 2 * decoder.num_layers * decoder.kv_heads * decoder.head_dim * 4
    assert long - short == 40 * token


def test_forks_go_their_own_ways(model: LanguageModel) -> None:
    ids = random_ids(150)
    ways = [random_ids(2 * CCA.window + 7, seed=seed) for seed in (1, 2, 3)]
    origin = read(model, ids)
    fork = origin.fork()
    before = model.prefill(fork.fork(), ways[0])
    memories = [origin, fork, fork.fork()]
    # Step by step in turns, so that one memory's writing would meet another's.
    steps = [
        [model.prefill(memory, [token]) for memory, token in zip(memories, tokens, strict=True)]
        for tokens in zip(*ways, strict=True)
    ]
    for i, way in enumerate(ways):
        alone = walk(model, read(model, ids), way)
        torch.testing.assert_close(torch.stack([s[i] for s in steps]), alone, rtol=0, atol=1e-5)
    assert origin.seen == fork.seen == 150 + len(ways[0])
    again = model.prefill(read(model, ids), ways[0])
    torch.testing.assert_close(before, again, rtol=0, atol=1e-5)


def test_a_fork_survives_its_origin(model: LanguageModel, tmp_path: Path) -> None:
    origin = read(model, random_ids(150))
    origin.save(tmp_path / "m.safetensors")
    fork = Memory.load(tmp_path / "m.safetensors", model).fork()
    model.prefill(origin, random_ids(300, seed=5))
    del origin
    more = random_ids(40, seed=1)
    assert torch.equal(model.prefill(fork, more), model.prefill(read(model, random_ids(150)), more))


def test_a_fork_can_be_saved(model: LanguageModel, tmp_path: Path) -> None:
    origin = read(model, random_ids(150))
    fork = origin.fork()
    model.prefill(fork, random_ids(70, seed=1))
    model.prefill(origin, random_ids(70, seed=2))
    fork.save(tmp_path / "m.safetensors")
    loaded = Memory.load(tmp_path / "m.safetensors", model)
    more = random_ids(50, seed=3)
    assert torch.equal(model.prefill(loaded, more), model.prefill(fork, more))


def saved(model: LanguageModel, file: Path) -> Path:
    read(model, random_ids(100)).save(file)
    return file


@pytest.mark.parametrize("damage", ["absent", "empty", "short", "garbage", "text", "directory"])
def test_damaged_files(model: LanguageModel, tmp_path: Path, damage: str) -> None:
    file = saved(model, tmp_path / "m.safetensors")
    content = file.read_bytes()
    changed = {
        "empty": b"", "short": content[:-1], "garbage": b"\xff" * 500, "text": b"Dear reader,\n",
    }  # fmt: skip
    file.unlink()
    if damage == "directory":
        file.mkdir()
    elif damage in changed:
        file.write_bytes(changed[damage])
    with pytest.raises(MemoryFileError, match=file.name):
        Memory.load(file, model)


@pytest.mark.parametrize(
    "header",
    [
        None,
        {},
        {"cca": "no json"},
        {"cca": "[]"},
        {"cca": "{}"},
        {"cca": '{"format": 99}'},
        {"other": "{}"},
    ],
    ids=str,
)
def test_foreign_files(model: LanguageModel, tmp_path: Path, header: dict[str, str] | None) -> None:
    file = tmp_path / "m.safetensors"
    save_file({"layers.0.core_k": torch.zeros(3)}, file, metadata=header)
    with pytest.raises(MemoryFileError, match=file.name):
        Memory.load(file, model)


@pytest.mark.parametrize("what", ["a layer", "capacity", "seen", "shape"])
def test_files_that_lack_a_part(model: LanguageModel, tmp_path: Path, what: str) -> None:
    file = saved(model, tmp_path / "m.safetensors")
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["cca"])
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    if what == "a layer":
        del tensors["layers.1.raw_v"]
    elif what == "shape":
        tensors["layers.1.raw_v"] = tensors["layers.1.raw_v"][:, :, 1:].contiguous()
    else:
        del header[what]
    save_file(tensors, file, metadata={"cca": json.dumps(header)})
    with pytest.raises(MemoryFileError, match=file.name):
        Memory.load(file, model)


def test_files_of_other_models_and_settings(model: LanguageModel, tmp_path: Path) -> None:
    path = model.checkpoint.path
    file = saved(model, tmp_path / "m.safetensors")
    others = [
        load_tiny(path, dtype="bf16"),
        load_tiny(path, cca=CCAConfig(group_size=8, window=32)),
        load_tiny(path, cca=CCAConfig(group_size=4, window=64)),
        load_tiny(make_tiny_checkpoint(tmp_path / "other", seed=1)),
    ]
    for other in others:
        with pytest.raises(MemoryFileError, match="another model or other settings"):
            Memory.load(file, other)
    assert Memory.load(file, load_tiny(path)).seen == 100


def test_what_cannot_be_written(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"m\.safetensors"):
        read(model, random_ids(10)).save(tmp_path / "absent" / "m.safetensors")


class Elsewhere(torch.Tensor):
    """Keys on a device that has no room left."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")

    def contiguous(self, *args: Any, **options: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_saving_needs_no_room_on_the_device(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = read(model, random_ids(150))
    memory.save(tmp_path / "here.safetensors")
    for layer in memory.layers:
        kept = {name: t.as_subclass(Elsewhere) for name, t in layer.tensors().items()}
        monkeypatch.setattr(layer, "tensors", lambda kept=kept: kept)
    memory.save(tmp_path / "there.safetensors")
    here, there = (load_file(tmp_path / f"{name}.safetensors") for name in ("here", "there"))
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_saving_copies_nothing_that_is_whole_already(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "m.safetensors"
    read(model, random_ids(150)).save(file)
    loaded = Memory.load(file, model)
    saved: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(
        "safetensors.torch.save_file", lambda tensors, *_, **__: saved.append(tensors)
    )
    loaded.save(file)
    for i, layer in enumerate(loaded.layers):
        for name, tensor in layer.tensors().items():
            assert saved[0][f"layers.{i}.{name}"].data_ptr() == tensor.data_ptr()
