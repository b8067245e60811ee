"""When "not found" stands: the adapter's threshold, at the first token."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import load_tiny, random_ids, tiny_surroundings

from cca_models.engine import LanguageModel
from cca_models.reading.refusing import opening, threshold_of
from cca_models.reading.types import NOT_FOUND, READ_MODES


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("refusing")
    with tiny_surroundings(place / "home"):
        yield load_tiny(make_tiny_checkpoint(place / "tiny"))


def with_measured(tiny: LanguageModel, not_found: Mapping[str, Any]) -> Any:
    """The model as if an adapter with these thresholds were applied."""
    adapter = SimpleNamespace(settings=SimpleNamespace(not_found=not_found, locate=None))
    return SimpleNamespace(
        checkpoint=SimpleNamespace(adapter=adapter),
        tokenizer=tiny.tokenizer,
        generate=tiny.generate,
    )


def test_without_a_measured_threshold_nothing_is_decided(tiny: LanguageModel) -> None:
    assert all(opening(tiny, read) is None for read in READ_MODES)
    assert opening(with_measured(tiny, {}), "focus") is None


def test_each_way_of_reading_has_its_own_threshold(tiny: LanguageModel) -> None:
    model = with_measured(tiny, {"focus": 0.5, "core": 0.9})
    assert threshold_of(model, "focus") == threshold_of(model, "lexical") == 0.5
    assert threshold_of(model, "core") == 0.9


def test_below_the_threshold_the_refusal_is_no_choice(tiny: LanguageModel) -> None:
    token = tiny.tokenizer.encode(f" {NOT_FOUND}")[0]
    logits = torch.zeros(tiny.tokenizer.vocab_size)
    logits[token] = 3.0
    share = float(torch.softmax(logits, -1)[token])
    below = opening(with_measured(tiny, {"focus": share + 0.01}), "focus")
    above = opening(with_measured(tiny, {"focus": share - 0.01}), "focus")
    assert below is not None and above is not None
    assert int(above(logits).argmax()) == token
    assert below(logits)[token] == float("-inf") and float(logits[token]) == 3.0
    kept = torch.arange(len(logits)) != token
    assert torch.equal(below(logits)[kept], logits[kept])


def test_above_the_threshold_it_is_said_even_if_something_else_is_likelier(
    tiny: LanguageModel,
) -> None:
    token = tiny.tokenizer.encode(f" {NOT_FOUND}")[0]
    logits = torch.zeros(tiny.tokenizer.vocab_size)
    logits[(token + 1) % len(logits)], logits[token] = 6.0, 5.9
    decide = opening(with_measured(tiny, {"focus": 0.2}), "focus")
    assert decide is not None and int(decide(logits).argmax()) == token


def test_generation_begins_as_decided(tiny: LanguageModel) -> None:
    token = tiny.tokenizer.encode(f" {NOT_FOUND}")[0]
    ids = random_ids(40)
    for threshold, refused in ((0.0, True), (1.1, False)):
        decide = opening(with_measured(tiny, {"focus": threshold}), "focus")
        written = tiny.generate(tiny.new_memory(64), ids, max_new_tokens=4, opening=decide)
        written.text()
        assert (written.tokens[0] == token) == refused
