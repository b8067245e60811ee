"""Tokenisation: equality with the checkpoint's own tokenizer, over scripts and by accident."""

import json
import logging
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import KINDS, SAMPLES, write_sentencepiece, write_tokenizer

from cca_models import compiled_tokenizer, tokenizer_patterns
from cca_models.errors import CheckpointError
from cca_models.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCA_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    """Ours and the reference, for one kind of pre-tokeniser."""
    path = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CCA_CACHE_DIR", str(path / "cache"))
        return load_tokenizer(write_tokenizer(path, request.param)), reference(path)


def reference(path: Path) -> tokenizers.Tokenizer:
    exact = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    exact.encode_special_tokens = True
    return exact


def exact_ids(exact: tokenizers.Tokenizer, text: str) -> list[int]:
    return list(exact.encode(text, add_special_tokens=False).ids)


def edit(path: Path, change: dict[str, Any], part: str | None = None) -> None:
    file = path / "tokenizer.json"
    content = json.loads(file.read_text())
    (content[part] if part else content).update(change)
    file.write_text(json.dumps(content))


def test_tiktoken_is_used_for_every_known_kind(pair: tuple[Tokenizer, Any]) -> None:
    ours, _ = pair
    assert (ours.backend, ours.warning) == ("tiktoken", None)


@pytest.mark.parametrize("name", SAMPLES)
def test_scripts_give_the_reference_tokens(pair: tuple[Tokenizer, Any], name: str) -> None:
    ours, exact = pair
    text = SAMPLES[name]
    ids = ours.encode(text)
    assert ids == exact_ids(exact, text)
    normal = unicodedata.normalize("NFC", text) if ours._nfc else text
    assert ours.decode(ids) == normal
    assert ours.decode(ids) == exact.decode(ids)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text() | st.text("a1 .'\n\r\t½Ⅷ٣éе\u0301中👍\u200d\u00a0S", max_size=60))
def test_random_text_gives_the_reference_tokens(pair: tuple[Tokenizer, Any], text: str) -> None:
    ours, exact = pair
    ids = ours.encode(text)
    assert ids == exact_ids(exact, text)
    found, starts = ours.encode_with_offsets(text)
    assert (found, starts) == (ids, [start for start, _ in exact.encode(text).offsets])
    stream = ours.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == ours.decode(ids)


def test_every_assigned_character_gives_the_reference_tokens(pair: tuple[Tokenizer, Any]) -> None:
    ours, exact = pair
    characters = [
        character
        for number in range(sys.maxunicode + 1)
        # Of the large blocks, where all characters are of one kind, a sample is enough.
        if (number < 0x3000 or number % 29 == 0 or 0xA000 <= number < 0xAC00)
        and unicodedata.category(character := chr(number)) not in ("Cs", "Cn")
    ]
    assert len(characters) > 15_000
    texts = [f"a{c}a {c}{c}5 {c} !{c} '{c}" for c in characters]
    found = [list(e.ids) for e in exact.encode_batch(texts, add_special_tokens=False)]
    wrong = [c for c, text, ids in zip(characters, texts, found, strict=True)
             if ours.encode(text) != ids]  # fmt: skip
    assert wrong == []


def test_characters_younger_than_the_tables_are_left_to_the_reference(tmp_path: Path) -> None:
    # Digits of Unicode 17: tokenizers knows them, tiktoken's expressions may not.
    text = "in \U00011de1\U00011de2 and \U00016ff4\U00016ff5 x"
    path = write_tokenizer(tmp_path / "checkpoint", "gpt-2", more=(text,) * 50)
    edit(path, {"pre_tokenizer": tokenizer_patterns.PRE_TOKENIZERS[0].spec})
    ours, exact = load_tokenizer(path), reference(path)
    assert ours.encode(text) == exact_ids(exact, text)
    assert ours.backend == "tiktoken"


def test_very_long_runs_neither_fail_nor_differ(pair: tuple[Tokenizer, Any]) -> None:
    ours, exact = pair
    for character in (" ", "\n", "a", "-", "7", "👍"):
        text = f"x{character * 15_000}5"
        assert ours.encode(text) == exact_ids(exact, text)
    # tiktoken's expressions give up from about half a million on.
    assert len(ours.decode(ours.encode(" " * 1_100_000 + "x"))) == 1_100_001


def test_lone_surrogates_are_replaced(pair: tuple[Tokenizer, Any]) -> None:
    ours, _ = pair
    assert ours.decode(ours.encode("a\ud800b")) == "a\ufffdb"
    assert ours.encode("\ud83d\ude00") == ours.encode("😀")


def test_bytes_without_a_token_are_left_to_the_reference(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "checkpoint", "smollm")
    content = json.loads((path / "tokenizer.json").read_text())
    # U+0004 and the first byte of U+4xxxx.
    for name in ("\u0104", "ñ"):
        del content["model"]["vocab"][name]
    (path / "tokenizer.json").write_text(json.dumps(content))
    ours, exact = load_tokenizer(path), reference(path)
    assert ours.backend == "tiktoken"
    for text in ("!\x04!", "a\x04\x04 b", "x\U00050000y", "plain"):
        assert ours.encode(text) == exact_ids(exact, text)
    ids, starts = ours.encode_with_offsets("to\x04 the keeper")
    assert starts == [start for start, _ in exact.encode("to\x04 the keeper").offsets]
    assert ours.decode(ids) == "to the keeper"


def test_special_tokens_count_only_in_prompts(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "checkpoint", "smollm")
    ours = load_tokenizer(path)
    exact = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    text = "<|im_start|>user\nThe keeper<|im_end|>\n<|im_end|><|im_end |> x"
    assert ours.encode_prompt(text) == exact_ids(exact, text)
    assert ours.encode_prompt(text).count(2) == 2
    assert 2 not in ours.encode(text)
    assert ours.decode(ours.encode(text)) == text
    assert ours.decode(ours.encode_prompt(text)) == "user\nThe keeper\n<|im_end |> x"
    assert ours.eos_ids == {2}
    assert ours.vocab_size == exact.get_vocab_size()


def test_longest_special_token_wins_and_added_ones_are_kept(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "checkpoint", "smollm")
    content = json.loads((path / "tokenizer.json").read_text())
    plain = content["added_tokens"][0] | {"special": False}
    size = max(content["model"]["vocab"].values()) + 1
    content["added_tokens"] += [
        plain | {"id": size, "content": "<tool>"},
        plain | {"id": size + 1, "content": "<tool>s"},
    ]
    (path / "tokenizer.json").write_text(json.dumps(content))
    ours = load_tokenizer(path)
    exact = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    text = "a <tool> b<tool>s"
    ids = ours.encode_prompt(text)
    assert ids == exact_ids(exact, text)
    assert ids[-1] == size + 1
    assert ours.decode(ids) == exact.decode(ids) == text
    assert size not in ours.encode(text)


WRONG_PATTERNS = {
    "three digits together": (r"|\p{N}|", r"|\p{N}{1,3}|"),
    "white space before a digit": (r"|\s+(?=\p{N})", ""),
    "contractions": (r"'(?:[sdmt]|ll|ve|re)|", ""),
    "letters only of Latin script": (r" ?\p{L}++", r" ?\p{Latin}++"),
    "digits only of Western form": (r"|\p{N}|", r"|[0-9]|"),
    "white space at the end": (r"|\s++$|\s+(?!\S)|", "|"),
}


@pytest.mark.parametrize("name", WRONG_PATTERNS)
def test_probe_catches_a_wrong_pattern(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    right = tokenizer_patterns.PRE_TOKENIZERS[0]
    pattern = right.pattern.replace(*WRONG_PATTERNS[name])
    assert pattern != right.pattern
    wrong = tokenizer_patterns.PreTokenizer(
        name=right.name, ggml_names=right.ggml_names, spec=right.spec, pattern=pattern
    )
    monkeypatch.setattr(tokenizer_patterns, "PRE_TOKENIZERS", (wrong,))
    monkeypatch.setattr(compiled_tokenizer, "PRE_TOKENIZERS", (wrong,))
    # With a vocabulary that has tokens of several digits; without, some patterns do no harm.
    path = write_tokenizer(tmp_path / "checkpoint", "gpt-2")
    edit(path, {"pre_tokenizer": right.spec})
    for _ in range(2):  # found out, then remembered
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            ours = load_tokenizer(path)
        assert ours.backend == "tokenizers"
        assert ours.warning and "differ" in ours.warning
        assert ours.warning in caplog.text
    text = SAMPLES["digits of many scripts"]
    assert ours.encode(text) == exact_ids(reference(path), text)


def _swap_merges(model: dict[str, Any]) -> None:
    model["merges"][3], model["merges"][4] = model["merges"][4], model["merges"][3]


def _drop_merge(model: dict[str, Any]) -> None:
    del model["merges"][5]


def _other_split(model: dict[str, Any]) -> None:
    for merge in model["merges"]:
        token = "".join(merge)
        for cut in range(1, len(token)):
            if cut != len(merge[0]) and {token[:cut], token[cut:]} <= model["vocab"].keys():
                merge[:] = [token[:cut], token[cut:]]
                return
    raise AssertionError("no merge has another split")


@pytest.mark.parametrize("change", [_swap_merges, _drop_merge, _other_split])
def test_merges_that_tiktoken_would_do_otherwise_are_found(tmp_path: Path, change: Any) -> None:
    path = write_tokenizer(tmp_path / "checkpoint", "smollm")
    content = json.loads((path / "tokenizer.json").read_text())
    change(content["model"])
    (path / "tokenizer.json").write_text(json.dumps(content))
    ours = load_tokenizer(path)
    assert ours.backend == "tokenizers"
    assert ours.warning and "merge" in ours.warning
    text = " ".join(SAMPLES.values())
    ids = ours.encode(text)
    assert ids == exact_ids(reference(path), text)
    assert ours.decode(ids) == text
    assert ours.offsets(ids) == ours.encode_with_offsets(text)[1]


def test_llama_3_list_of_all_pairs_is_accepted(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "checkpoint", "llama-3", all_pairs=True)
    ours, exact = load_tokenizer(path), reference(path)
    assert ours.warning is None
    for text in SAMPLES.values():
        assert ours.encode(text) == exact_ids(exact, text)
    edit(path, {"ignore_merges": False}, "model")
    assert load_tokenizer(path).backend == "tokenizers"


@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        (None, {"normalizer": {"type": "Lowercase"}}, "normaliser"),
        (None, {"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokeniser"),
        ("model", {"byte_fallback": True}, "byte_fallback"),
        ("model", {"dropout": 0.1}, "dropout"),
    ],
)
def test_unknown_settings_fall_back_with_the_reason(
    tmp_path: Path, part: str | None, change: dict[str, Any], reason: str
) -> None:
    path = write_tokenizer(tmp_path / "checkpoint", "smollm")
    edit(path, change, part)
    ours = load_tokenizer(path)
    assert ours.backend == "tokenizers"
    assert ours.warning and reason in ours.warning


def test_sentencepiece_checkpoint_works_through_the_reference(tmp_path: Path) -> None:
    path = write_sentencepiece(tmp_path / "checkpoint")
    ours, exact = load_tokenizer(path), reference(path)
    assert ours.backend == "tokenizers"
    assert ours.warning and "byte-level" in ours.warning
    text = "The keeper of the 灯台 wrote 👍 every evening"
    ids = ours.encode(text)
    assert ids == exact_ids(exact, text)
    assert ours.decode(ids) == text
    stream = ours.stream()
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.flush() == text
    starts = ours.offsets(ids)
    assert starts == sorted(starts) and starts[0] == 0 and len(starts) == len(ids)
    assert ours.vocab_size == exact.get_vocab_size()
    assert ours.encode_prompt("<s>The")[0] == exact.token_to_id("<s>")


def test_offsets_point_into_the_decoded_text(pair: tuple[Tokenizer, Any]) -> None:
    ours, _ = pair
    for text in SAMPLES.values():
        ids = ours.encode(text)
        decoded, starts = ours.decode(ids), ours.offsets(ids)
        assert starts == sorted(starts)
        for i, start in enumerate(starts):
            # What comes before a token is whole exactly up to the token's character.
            before = ours.decode(ids[:i]).rstrip("\ufffd")
            assert decoded[:start] == before


def test_stream_holds_incomplete_characters_back(tmp_path: Path) -> None:
    ours = load_tokenizer(write_tokenizer(tmp_path / "checkpoint", "smollm"))
    ids = ours.encode("𝖃ǿ")
    assert len(ids) == 6
    stream = ours.stream()
    pieces = [stream.push(token) for token in ids]
    assert pieces == ["", "", "", "𝖃", "", "ǿ"]
    assert stream.flush() == ""
    stream = ours.stream()
    assert [stream.push(token) for token in ids[:2]] == ["", ""]
    assert stream.flush() == "\ufffd"
    assert ours.decode(ids[:2]) == "\ufffd"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(ids=st.lists(st.integers(0, 410), max_size=30))
def test_any_tokens_stream_to_what_they_decode_to(
    pair: tuple[Tokenizer, Any], ids: list[int]
) -> None:
    ours, exact = pair
    stream = ours.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == ours.decode(ids)
    known = [token for token in ids if token < exact.get_vocab_size()]
    assert ours.decode(ids) == exact.decode(known)


def test_outcome_is_remembered_and_a_damaged_memory_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tokenizer(tmp_path / "checkpoint", "smollm")
    first = load_tokenizer(path)
    (remembered,) = (tmp_path / "cache" / "tokenizers").iterdir()
    monkeypatch.setattr(compiled_tokenizer, "_compile", None)
    assert load_tokenizer(path).encode("The keeper 12") == first.encode("The keeper 12")
    monkeypatch.undo()
    monkeypatch.setenv("CCA_CACHE_DIR", str(tmp_path / "cache"))
    whole = remembered.read_bytes()
    remembered.write_bytes(whole[:-7])
    assert load_tokenizer(path).encode("The keeper 12") == first.encode("The keeper 12")
    assert remembered.read_bytes() == whole


def test_cache_that_cannot_be_written_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CCA_CACHE_DIR", str(tmp_path / "file" / "cache"))
    path = write_tokenizer(tmp_path / "checkpoint", "smollm")
    assert load_tokenizer(path).backend == "tiktoken"


def test_fingerprint_follows_vocabulary_and_template(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "checkpoint", "smollm")
    first = load_tokenizer(path).fingerprint
    assert load_tokenizer(path).fingerprint == first
    (path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    second = load_tokenizer(path).fingerprint
    edit(path, {"normalizer": {"type": "NFC"}})
    assert len({first, second, load_tokenizer(path).fingerprint}) == 3


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": 3}', b'{"model": {}}']
)
def test_damaged_file_is_an_error_with_a_hint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: the file is damaged") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.hint


def test_missing_file_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is missing") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.hint
