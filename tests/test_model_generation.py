"""Writing: greedy and sampled, where it stops, and what comes out of the stream."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import load_tiny, random_ids, tiny_surroundings

from cca_models.engine import LanguageModel
from cca_models.generation import Generation
from cca_models.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(path: Path) -> LanguageModel:
    return load_tiny(path)


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Tokenizer:
    return load_tokenizer(path)


class Script:
    """A model that says what it was told to say, or the same distribution for ever."""

    def __init__(
        self, tokenizer: Tokenizer, ids: Sequence[int] = (), *, logits: list[float] | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self._ids = iter(ids)
        self._logits = logits
        self.read: list[list[int]] = []

    def prefill(self, memory: Any, ids: Sequence[int]) -> torch.Tensor:
        self.read.append(list(ids))
        logits = torch.full((self.tokenizer.vocab_size,), -50.0)
        if self._logits is not None:
            logits[10 : 10 + len(self._logits)] = torch.tensor(self._logits)
        else:
            logits[next(self._ids, 2)] = 5.0
        return logits


def write(model: Script, **options: Any) -> Generation:
    settings = {
        "max_new_tokens": 64, "temperature": 0.0, "top_p": 1.0, "repetition_penalty": 1.0,
        "seed": 0, "stop": (),
    }  # fmt: skip
    return Generation(model, SimpleNamespace(), [7, 8], **{**settings, **options})  # type: ignore[arg-type]


def test_greedy_is_deterministic_and_leaves_a_fork_alone(model: LanguageModel) -> None:
    memory, ids = model.new_memory(300), random_ids(20)
    model.prefill(memory, random_ids(150))
    first, second = (model.generate(memory.fork(), ids, max_new_tokens=30) for _ in range(2))
    assert first.text() == second.text() and first.tokens == second.tokens
    assert first.logprobs == second.logprobs and memory.seen == 150


def test_greedy_takes_the_likeliest_every_time(model: LanguageModel) -> None:
    ids = random_ids(40)
    generation = model.generate(model.new_memory(100), ids, max_new_tokens=10)
    generation.text()
    read = list(ids)
    for token, logprob in zip(generation.tokens, generation.logprobs, strict=False):
        logits = model.prefill(model.new_memory(100), read)
        assert int(logits.argmax()) == token
        assert float(logits.log_softmax(-1)[token]) == pytest.approx(logprob, abs=1e-4)
        read.append(token)


def test_samples_are_those_of_the_seed(model: LanguageModel) -> None:
    def sample(seed: int) -> list[int]:
        generation = model.generate(
            model.new_memory(100), [5, 9], max_new_tokens=20, temperature=1.0, seed=seed
        )
        generation.text()
        return generation.tokens

    drawn = [sample(seed) for seed in (0, 1, 2, 0)]
    assert drawn[0] == drawn[3]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


def test_the_coldest_writes_the_likeliest(tokenizer: Tokenizer) -> None:
    model = Script(tokenizer, logits=[0.0, 1.0, 0.5])
    cold = write(model, temperature=1e-320, max_new_tokens=3)
    cold.text()
    assert cold.tokens == [11, 11, 11]


@pytest.mark.parametrize("seed", [10**30, -(10**30), 2**64 - 1, -1])
def test_any_number_is_a_seed(model: LanguageModel, seed: int) -> None:
    memory = model.new_memory(100)
    generation = model.generate(memory, [5], max_new_tokens=2, temperature=1.0, seed=seed)
    generation.text()
    assert generation.tokens


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1.0, 4), (0.96, 4), (0.94, 3), (0.7, 2), (0.5, 1), (0.01, 1)]
)
def test_the_nucleus(tokenizer: Tokenizer, top_p: float, kept: int) -> None:
    logits = [math.log(p) for p in (0.05, 0.51, 0.14, 0.30)]
    generation = write(
        Script(tokenizer, logits=logits), temperature=1.0, top_p=top_p, max_new_tokens=400
    )
    generation.text()
    counted = Counter(generation.tokens)
    assert set(counted) == set([11, 13, 12, 10][:kept])
    likeliest = 0.51 / sum([0.51, 0.30, 0.14, 0.05][:kept])
    assert counted[11] / 400 == pytest.approx(likeliest, abs=0.1)


def test_temperature_sharpens(tokenizer: Tokenizer) -> None:
    shares = []
    for temperature in (0.25, 1.0, 4.0):
        model = Script(tokenizer, logits=[1.0, 0.0])
        generation = write(model, temperature=temperature, max_new_tokens=300)
        generation.text()
        shares.append(generation.tokens.count(10) / 300)
    assert shares[0] > 0.9 > shares[1] > 0.65 > shares[2] > 0.4


def test_repetition_penalty(tokenizer: Tokenizer) -> None:
    def tokens(logits: list[float], penalty: float) -> list[int]:
        model = Script(tokenizer, logits=logits)
        generation = write(model, max_new_tokens=4, repetition_penalty=penalty)
        generation.text()
        assert generation.finish == "length"
        return generation.tokens

    assert tokens([2.0, 1.9, 1.0], 1.0) == [10, 10, 10, 10]
    assert tokens([2.0, 1.9, 1.6], 1.5) == [10, 11, 12, 10]
    assert tokens([-1.0, -1.1], 1.2) == [10, 11, 10, 10]


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (["\n\n"], "One two."),
        (["two"], "One "),
        (["wo.\n\nTh"], "One t"),
        (["absent", "e."], "One two.\n\nThre"),
        (["two", "One t"], ""),
        (["ee.X", ""], "One two.\n\nThree."),
    ],
)
def test_stop_texts_are_never_shown(tokenizer: Tokenizer, stop: list[str], text: str) -> None:
    whole = "One two.\n\nThree."
    # One token a character, so that every stop text of several is split across tokens.
    ids = [token for character in whole for token in tokenizer.encode(character)]
    assert len(ids) >= len(whole)
    generation = write(Script(tokenizer, ids), stop=stop)
    shown = ""
    for piece in generation:
        shown += piece
        assert piece and text.startswith(shown)
    assert shown == text
    assert generation.finish == ("eos" if text == whole else "stop")


def test_what_may_begin_a_stop_text_is_held_back_only_as_long(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.encode(character)[0] for character in "a\nb\n"]
    pieces = list(write(Script(tokenizer, ids), stop=["\n\n"]))
    assert pieces == ["a", "\nb", "\n"]


def test_characters_split_across_tokens(tokenizer: Tokenizer) -> None:
    text = "é中👍a"
    ids = tokenizer.encode(text)
    assert len(ids) > len(text)
    pieces = list(write(Script(tokenizer, ids)))
    assert "".join(pieces) == text and all("\ufffd" not in piece for piece in pieces)
    cut = write(Script(tokenizer, ids), max_new_tokens=len(ids) - 2)
    assert cut.text() == "é中\ufffd" and cut.finish == "length"


def test_where_it_ends(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("The lamp was lit.")
    ended = write(Script(tokenizer, ids))
    assert ended.finish is None
    assert ended.text() == "The lamp was lit."
    assert ended.finish == "eos" and ended.tokens == ids
    assert len(ended.logprobs) == len(ids) + 1 and all(p <= 0 for p in ended.logprobs)
    short = write(Script(tokenizer, ids), max_new_tokens=2)
    assert short.text() == tokenizer.decode(ids[:2])
    assert short.finish == "length" and len(short.logprobs) == len(short.tokens) == 2
    nothing = write(Script(tokenizer, []))
    assert (nothing.text(), nothing.finish, nothing.tokens) == ("", "eos", [])


def test_nothing_is_read_that_is_not_needed(tokenizer: Tokenizer) -> None:
    """The last token is written, not read; and nothing happens before somebody asks."""
    model = Script(tokenizer, tokenizer.encode("The lamp"))
    generation = write(model, max_new_tokens=2)
    assert model.read == []
    generation.text()
    assert model.read == [[7, 8], generation.tokens[:1]]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": math.inf},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"repetition_penalty": 0.9},
    ],
    ids=str,
)
def test_settings_out_of_range(model: LanguageModel, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        model.generate(model.new_memory(10), [5], max_new_tokens=1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("run", "kept"), [([7], 5), ([5, 6, 7], 15), (list(range(5, 14)), 60)])
def test_a_loop_is_cut_where_asked(tokenizer: Tokenizer, run: list[int], kept: int) -> None:
    for stop_loops in (True, False):
        model: Any = Script(tokenizer, (run * 60)[:60])
        generation = write(model, max_new_tokens=60, stop_loops=stop_loops)
        generation.text()
        assert len(generation.tokens) == (kept if stop_loops else 60)
        assert generation.finish == ("loop" if stop_loops and kept < 60 else "length")
