"""Documents that grow at their end: only the new part is read, and the memory is the right one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeMemory, FakeModel, digest_of, load_fake
from tiny_checkpoint import make_tiny_checkpoint

from cca_cli import ingestion_job
from cca_cli.console import Console
from cca_cli.document_text import ReadOptions
from cca_cli.ingestion import OpenDocument, open_document, prefix_ids
from cca_cli.ingestion_growth import MARGIN_TOKENS
from cca_cli.library import Library
from cca_cli.paths import library_dir

LINES = [f"12:{i // 60:02d}:{i % 60:02d} the keeper lit lamp {i}" for i in range(600)]


def fake(**settings: Any) -> FakeModel:
    """Make a model whose memories may grow."""
    return FakeModel(roomy=True, **settings)


def lines(start: int, end: int) -> str:
    """Return lines of a log, with the last line's end."""
    return "".join(f"{line}\n" for line in LINES[start:end])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for the library."""
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CCA_CACHE_DIR", raising=False)
    return tmp_path


@pytest.fixture
def log(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log of 100 lines that a fake engine reads."""
    monkeypatch.setattr(ingestion_job, "_load_memory", load_fake)
    path = home / "lamp.log"
    path.write_text(lines(0, 100))
    return path


def opened(path: Path, model: FakeModel, **options: Any) -> OpenDocument:
    """Open a document and check that its memory is of exactly its ids."""
    result = open_document(str(path), model, console=Console(), prefix_ids=(7, 8), **options)
    assert result.memory.digest == digest_of(result.text.ids.tolist())
    return result


def entries() -> int:
    """Count the finished entries."""
    return len(list(Library(library_dir()).entries()))


def test_a_log_that_grew_is_read_on(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    had = len(opened(log, fake()).text.ids)
    with log.open("a") as stream:
        stream.write(lines(100, 110))
    model = fake()
    result = opened(log, model)
    new = len(result.text.ids) - had
    assert new <= sum(model.prefilled) <= new + MARGIN_TOKENS
    assert not result.hit
    assert result.reason == "it has grown since it was read"
    assert "continuing after" in capsys.readouterr().err
    assert entries() == 1, "the earlier version is part of the new one"
    again = opened(log, fake())
    assert again.hit and again.document.pages[-1].text.endswith("lamp 109")


def test_it_may_grow_again_and_again(log: Path) -> None:
    read = 0
    for end in range(110, 200, 10):
        model = fake()
        opened(log, model)
        read += sum(model.prefilled)
        with log.open("a") as stream:
            stream.write(lines(end - 10, end))
    total = len(opened(log, fake()).text.ids)
    assert read < total + 9 * MARGIN_TOKENS
    assert entries() == 1


def test_every_version_can_be_read_on(log: Path) -> None:
    for end in range(5, 40, 5):
        # So little is new that the last version's margin must serve for the next one's.
        log.write_text(lines(0, 100) + "13:00:00 the keeper wrote a long letter"[:end])
        model = fake()
        entry = opened(log, model).entry
        assert entry is not None and entry.margin_path is not None
        assert sum(model.prefilled) < 100 or end == 5


def test_a_last_line_that_was_cut_off_is_read_again(log: Path) -> None:
    log.write_text(lines(0, 100) + "13:00:00 the keeper wro")
    opened(log, fake())
    log.write_text(lines(0, 100) + "13:00:00 the keeper wrote a letter\n")
    model = fake()
    opened(log, model)
    assert 0 < sum(model.prefilled) < 100


def test_a_change_before_the_end_is_read_anew(log: Path) -> None:
    opened(log, fake())
    log.write_text(lines(0, 100).replace("lamp 50", "lamp fifty") + lines(100, 110))
    model = fake()
    result = opened(log, model)
    assert sum(model.prefilled) == len(result.text.ids)
    assert result.reason == "the file has changed since it was read"
    assert entries() == 2


def test_what_shrank_is_read_anew(log: Path) -> None:
    opened(log, fake())
    log.write_text(lines(0, 99))
    model = fake()
    result = opened(log, model)
    assert sum(model.prefilled) == len(result.text.ids) and entries() == 2


@pytest.mark.parametrize(
    "change",
    [{"weights": "v2"}, {"group_size": 32}, {"dtype": "torch.float16"}],
    ids=str,
)
def test_another_model_reads_all(log: Path, change: dict[str, Any]) -> None:
    opened(log, fake())
    with log.open("a") as stream:
        stream.write(lines(100, 110))
    model = fake(**change)
    result = opened(log, model)
    assert sum(model.prefilled) == len(result.text.ids)


def test_other_pages_are_read_anew(log: Path) -> None:
    opened(log, fake(), options=ReadOptions(pages="1"))
    model = fake()
    result = opened(log, model)
    assert sum(model.prefilled) == len(result.text.ids)


def test_another_file_that_begins_alike_is_another_document(log: Path) -> None:
    opened(log, fake())
    copy = log.with_name("copy.log")
    copy.write_text(lines(0, 110))
    model = fake()
    result = opened(copy, model)
    assert sum(model.prefilled) == len(result.text.ids) and entries() == 2


def test_refresh_reads_all(log: Path) -> None:
    opened(log, fake())
    with log.open("a") as stream:
        stream.write(lines(100, 110))
    model = fake()
    result = opened(log, model, cache="refresh")
    assert sum(model.prefilled) == len(result.text.ids)


@pytest.mark.parametrize("file", ["margin.safetensors", "memory.safetensors", "tokens.npy"])
def test_a_damaged_earlier_version_is_not_used(log: Path, file: str) -> None:
    entry = opened(log, fake()).entry
    assert entry is not None
    (entry.path / file).write_bytes(b"nonsense")
    with log.open("a") as stream:
        stream.write(lines(100, 110))
    model = fake()
    result = opened(log, model)
    assert sum(model.prefilled) == len(result.text.ids)


def test_an_earlier_version_in_use_stays(log: Path) -> None:
    user = opened(log, fake())
    with log.open("a") as stream:
        stream.write(lines(100, 110))
    opened(log, fake())
    assert entries() == 2 and user.entry is not None and user.entry.path.is_dir()


def test_a_killed_reading_of_the_rest_is_continued(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cca_cli import ingestion_checkpoints
    from cca_cli.library_draft import Draft

    monkeypatch.setattr(ingestion_checkpoints, "CHECKPOINT_SECONDS", 0.0)
    had = len(opened(log, fake()).text.ids)
    with log.open("a") as stream:
        stream.write(lines(100, 130))

    class KilledError(BaseException):
        pass

    def die(seen: int) -> None:
        if seen > had + 400:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Draft, "discard_if_useless", lambda self: None)
        with pytest.raises(KilledError):
            opened(log, fake(on_tokens=die))
    assert entries() == 1
    model = fake()
    result = opened(log, model)
    assert sum(model.prefilled) < len(result.text.ids) - had - 200
    assert result.reason == "an earlier run was interrupted"


def test_the_real_memory_is_that_of_the_whole_text(home: Path) -> None:
    import torch

    from cca_cli.model_loading import open_model
    from cca_models.engine import LanguageModel

    checkpoint = make_tiny_checkpoint(home / "tiny", context=16384)
    model = open_model(Console(), str(checkpoint), group_size=4, window=64)
    log = home / "lamp.log"
    log.write_text(lines(0, 60))
    ids = prefix_ids(model)

    def ask(cache: Any) -> tuple[OpenDocument, torch.Tensor]:
        found = open_document(str(log), model, console=Console(), prefix_ids=ids, cache=cache)
        question = model.tokenizer.encode("Who lit the lamp?")
        return found, model.prefill(found.memory.fork(), question)

    ask("use")
    read: list[int] = []
    prefill = LanguageModel.prefill

    def count(self: LanguageModel, memory: Any, tokens: Any, **options: Any) -> Any:
        read.append(len(tokens))
        return prefill(self, memory, tokens, **options)

    with pytest.MonkeyPatch.context() as patch:
        for end in (61, 75):
            log.write_text(lines(0, end))
            patch.setattr(LanguageModel, "prefill", count)
            read.clear()
            grown, logits = ask("use")
            assert grown.reason == "it has grown since it was read"
            assert sum(read) < 0.6 * len(grown.text.ids)
            patch.undo()
            whole, expected = ask("off")
            assert grown.text.ids.tolist() == whole.text.ids.tolist()
            assert torch.allclose(logits, expected, atol=1e-5)
            for a, b in zip(grown.memory.layers, whole.memory.layers, strict=True):
                for name, tensor in b.tensors().items():
                    assert torch.allclose(a.tensors()[name], tensor, atol=1e-5), name
            assert torch.equal(ask("require")[1], logits)


def test_positions_that_stretch_are_read_anew(home: Path) -> None:
    from cca_cli.model_loading import open_model

    # Past 4,096 tokens with room for the answer the positions of this checkpoint stretch.
    checkpoint = make_tiny_checkpoint(home / "tiny", context=4096)
    model = open_model(Console(), str(checkpoint))
    log = home / "lamp.log"
    sizes = []
    for end in (100, 350):
        log.write_text(lines(0, end))
        result = open_document(str(log), model, console=Console(), reserve=16)
        sizes.append(result.memory.stretch)
    assert sizes[0] != sizes[1]
    assert result.reason == "the file has changed since it was read"


def test_a_margin_is_of_one_memory(home: Path) -> None:
    import torch

    from cca_cli.model_loading import open_model
    from cca_models.errors import MemoryFileError

    checkpoint = make_tiny_checkpoint(home / "tiny", context=4096)
    model = open_model(Console(), str(checkpoint), group_size=4, window=32)
    memory = model.new_memory(400)
    model.prefill(memory, [5] * 100)
    before = memory.fork()
    model.prefill(memory, list(range(5, 36)))
    margin = home / "margin.safetensors"
    memory.save_margin(margin, before)
    earlier = memory.rewound(margin, 107, model)
    expected = model.new_memory(400)
    model.prefill(expected, [5] * 100)
    model.prefill(expected, list(range(5, 12)))
    a, b = (model.prefill(one, [9, 10]) for one in (earlier, expected))
    assert torch.allclose(a, b, atol=1e-5)
    for tokens in (99, 132):
        with pytest.raises(MemoryFileError, match="reaches back to token 100"):
            memory.rewound(margin, tokens, model)
    with pytest.raises(MemoryFileError, match="of another memory"):
        before.rewound(margin, 100, model)
    with pytest.raises(ValueError, match="an earlier state"):
        before.save_margin(margin, memory)
    model.prefill(memory, [7] * 20)
    with pytest.raises(ValueError, match="within the window of 32 tokens, got 51"):
        memory.save_margin(margin, before)


def test_a_fake_memory_rewinds_like_a_real_one(tmp_path: Path) -> None:
    memory = FakeMemory(100)
    for token in range(20):
        memory.read(token)
    before = FakeMemory(100, seen=10)
    memory.save_margin(tmp_path / "m", before)
    assert memory.rewound(tmp_path / "m", 12, fake()).digest == digest_of(range(12))


@pytest.mark.parametrize("file", ["memory.safetensors", "margin.safetensors", "text.jsonl"])
def test_damage_is_not_read_on_from(log: Path, file: str) -> None:
    """A flipped bit would live on in an entry whose digests fit it."""
    first = opened(log, fake())
    assert first.entry is not None
    path = first.entry.path / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    log.write_text(lines(0, 110))
    model = fake()
    second = opened(log, model)
    assert sum(model.prefilled) == len(second.text.ids), "all of it is read anew"
