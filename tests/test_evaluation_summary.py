"""Summaries: the lead, equal lengths, documents read once, and every method's way of writing."""

import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from reading_helpers import ToldModel
from tiny_checkpoint import make_tiny_checkpoint
from told_method import ToldMethod, ToldModelMethod

from cca_models.config import CCAConfig
from cca_models.evaluation.summary import FILES, Summaries, Wanted, first_sentences, length_for
from cca_models.evaluation.types import EvaluationError, Figure, TaskOptions
from cca_models.reading.summarising import REPETITION_PENALTY
from cca_models.tokenizer import Tokenizer, load_tokenizer

EVAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "eval"
STORY = "The keeper lit the lamp. The storm came in the night. Nobody saw the boat. "
QUERIES = ("Who lit the lamp?", "What came in the night?")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", context=4096)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return load_tokenizer(checkpoint)


def write_set(folder: Path, name: str, records: list[dict[str, Any]], *, packed: bool) -> None:
    lines = "\n".join(map(json.dumps, records)).encode()
    path = folder / f"{name}.jsonl{'.xz' * packed}"
    path.write_bytes(lzma.compress(lines) if packed else lines)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stories = [
        {"id": f"{d}/{q}", "document": f"Story {d}. {STORY}", "query": query,
         "summary": "not looked at where there are references",
         "references": ["The keeper lit the lamp in the storm.", "A lamp, and rain at night."]}
        for d in range(3) for q, query in enumerate(QUERIES)
    ]  # fmt: skip
    write_set(tmp_path, "summ_squality_test", stories, packed=True)
    abstracts = [
        {"id": f"a{d}", "document": f"Paper {d} is on bridges. {STORY}", "summary": "On bridges."}
        for d in range(4)
    ]
    write_set(tmp_path, "summ_scitldr_test", abstracts, packed=False)
    return tmp_path


def make_task(tokenizer: Tokenizer, **options: Any) -> Summaries:
    return Summaries(TaskOptions(tokenizer=tokenizer, **options))


def run_all(task: Summaries, method: Any) -> list[dict[str, Any]]:
    return [
        {**row, "method": method.name}
        for unit in task.units()
        for row in task.run(unit, method)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (1, "The keeper lit the lamp."),
        (7, "The keeper lit the lamp."),
        (8, "The keeper lit the lamp. The storm came in the night."),
        (100, STORY.strip()),
    ],
)
def test_the_lead_comes_closest_to_the_words_in_whole_sentences(words: int, expected: str) -> None:
    assert first_sentences(STORY, words) == expected


def test_the_lead_of_nothing_is_nothing() -> None:
    assert first_sentences("  \n", 10) == ""


def test_lengths_are_the_closest_of_the_product() -> None:
    # The medians of the sets: SciTLDR, proposals, sections, SQuALITY.
    assert [length_for(w) for w in (18, 56, 116, 237)] == ["short", "short", "medium", "long"]


def test_scores_are_beside_those_of_the_lead(folder: Path, tokenizer: Tokenizer) -> None:
    task = make_task(tokenizer, data=folder)
    rows = run_all(task, ToldMethod(says=lambda _: "The keeper lit the lamp in the storm."))
    story = next(row for row in rows if row["set"] == "squality_test")
    assert story["words"] == 7
    assert story["metrics"]["rougeL"] == pytest.approx(1.0)
    # "Story 0. The keeper lit the lamp.": 5 words in order, of 7 here and 8 there.
    assert story["metrics"]["lead"] == pytest.approx(2 * (5 / 7) * (5 / 8) / (5 / 7 + 5 / 8))
    assert story["metrics"]["difference"] == pytest.approx(1 - story["metrics"]["lead"])
    table = task.table(rows)
    assert [line[:2] for line in table.lines] == [
        ("squality_test", "told"), ("scitldr_test", "told"),
    ]  # fmt: skip
    cells = dict(zip(table.columns, table.lines[0], strict=True))
    difference = cells["difference"]
    assert isinstance(difference, Figure) and difference.n == 6
    assert difference.mean == pytest.approx(story["metrics"]["difference"])
    assert any("squality_test 7 words" in note for note in table.notes)
    assert json.loads(json.dumps(rows)) == rows


def test_the_lead_itself_is_level_with_the_lead(folder: Path, tokenizer: Tokenizer) -> None:
    task = make_task(tokenizer, data=folder)
    for unit in task.units():
        wanted: Wanted = unit.data
        for row in task.run(unit, ToldMethod(says=lambda _, text=wanted.document: text)):
            assert row["metrics"]["difference"] == 0
            assert row["metrics"]["rougeL_uncut"] != row["metrics"]["rougeL"]


def test_a_document_is_read_once_for_all_its_queries(folder: Path, tokenizer: Tokenizer) -> None:
    task = make_task(tokenizer, data=folder)
    method = ToldMethod(says=lambda _: "x")
    units = [unit for unit in task.units() if unit.key.startswith("squality_test/")]
    assert len(units) == 3
    rows = task.run(units[0], method)
    assert len(method.contexts) == 1
    assert method.asked == list(QUERIES)
    assert len(rows) == 2 and len({row["key"] for row in rows}) == 2


def test_a_limit_counts_summaries_and_the_seed_decides(folder: Path, tokenizer: Tokenizer) -> None:
    def keys(seed: int) -> list[str]:
        task = make_task(tokenizer, data=folder, limit=3, seed=seed)
        return [item.id for unit in task.units() for item in unit.data.items]

    assert len(keys(0)) == 6
    assert keys(0) == keys(0)
    assert len({tuple(keys(seed)) for seed in range(5)}) > 1


def test_reading_it_all_is_one_prompt_and_reading_in_parts_is_the_products(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    long = " ".join(f"Sentence {i} is about the bridge number {i}." for i in range(300))
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"document": long, "summary": "On bridges. " * 20}))
    task = make_task(tokenizer, data_file=own)
    (unit,) = task.units()
    cca = CCAConfig(group_size=4, window=512)
    core = ToldModelMethod(
        says=lambda _: "unused", model=ToldModel(tokenizer, says=" Bridges.", cca=cca)
    )
    (row,) = task.run(unit, core)
    assert row["reply"] == "Bridges."
    (prompt,) = core.prompts
    assert "number 0." in prompt and "number 299." in prompt
    assert core.model.settings[0]["repetition_penalty"] == REPETITION_PENALTY
    parts = ToldModelMethod(
        says=lambda _: "unused", reads="focus", model=ToldModel(tokenizer, says="Part.", cca=cca)
    )
    task.run(unit, parts)
    read = "".join(parts.prompts)
    assert len(parts.prompts) > 3
    assert all(len(ids) <= 512 for ids in parts.model.prompts)
    assert all(f"number {i}." in read for i in range(300))
    # A method without a model is asked.
    plain = ToldMethod(says=lambda _: "Told.")
    task.run(unit, plain)
    assert plain.asked == ["Summarise the text in 2 sentences."]


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([{"summary": "x"}], "no field document"),
        ([{"document": "x"}], "record 1: there is no summary"),
        ([{"document": " ", "summary": "x"}], "record 1: there is no document"),
        ([{"document": d, "summary": "x", "id": "same"} for d in "ab"], "the same id"),
    ],
)
def test_data_of_another_form_is_refused(
    tmp_path: Path, tokenizer: Tokenizer, records: list[dict[str, str]], says: str
) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(EvaluationError, match=says) as caught:
        make_task(tokenizer, data_file=own)
    assert caught.value.hint


def test_no_data_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(EvaluationError, match="needs data"):
        make_task(tokenizer)
    with pytest.raises(EvaluationError, match="summ_qmsum_test"):
        make_task(tokenizer, data=tmp_path)


def test_every_method_writes_summaries(folder: Path, checkpoint: Path) -> None:
    from cca_models.checkpoints import resolve_checkpoint
    from cca_models.engine import load_model
    from cca_models.evaluation.methods import make_methods

    model = load_model(
        resolve_checkpoint(str(checkpoint)),
        cca=CCAConfig(group_size=16, window=512), device="cpu", dtype="fp32",
    )  # fmt: skip
    task = make_task(model.tokenizer, data=folder, limit=1, max_new_tokens=3)
    names = ["full", "core", "focus", "lexical", "window"]
    methods = make_methods(model, names)
    rows = [row for name in names for row in run_all(task, methods[name])]
    assert len(rows) == 5 * 2
    assert len(task.table(rows).lines) == 5 * 2


@pytest.mark.skipif(not EVAL.is_dir(), reason="needs the shared evaluation data")
def test_the_shared_sets_are_all_read(tokenizer: Tokenizer) -> None:
    task = make_task(tokenizer, data=EVAL, limit=2)
    units = task.units()
    assert {unit.data.set for unit in units} == {name.removeprefix("summ_") for name in FILES}
    for unit in units:
        assert 10 < unit.data.words < 300
        queried = unit.data.set in ("qmsum_test", "squality_test")
        assert all((item.query is not None) == queried for item in unit.data.items)
        if unit.data.set in ("scitldr_test", "squality_test"):
            assert max(len(item.references) for item in unit.data.items) > 1
