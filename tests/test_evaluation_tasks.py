"""ppl, needle and longqa on methods that were told what to say."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from evaluation_helpers import write_books, write_lines
from tiny_checkpoint import make_tiny_checkpoint
from told_method import ToldMethod

from cca_models.evaluation import ppl
from cca_models.evaluation.contexts import TextCache
from cca_models.evaluation.longqa import LongQuestions
from cca_models.evaluation.longqa_records import Question, read_questions, right_choice
from cca_models.evaluation.needle import DEPTHS, Needle
from cca_models.evaluation.plots import save_heat_map
from cca_models.evaluation.ppl import Perplexity
from cca_models.evaluation.types import EvaluationError, Figure, TaskOptions
from cca_models.tokenizer import Tokenizer, load_tokenizer

EVAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "eval"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny"))


class Rising:
    """Loses one nat a token up to a position and two behind it."""

    def __init__(self, name: str, edge: int) -> None:
        self.name, self.edge, self.read_ids = name, edge, []

    def losses(self, ids: Sequence[int]) -> torch.Tensor:
        self.read_ids.append(list(ids))
        position = torch.arange(1, len(ids))
        return 1.0 + (position >= self.edge).float()


@pytest.fixture
def edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppl, "_EDGES", (0, 16, 64, 128, 256, 512))
    monkeypatch.setattr(ppl, "_REFERENCE", 64)
    monkeypatch.setattr(ppl, "_BLOCK", 8)


def perplexity_rows(task: Perplexity, *methods: Rising) -> list[dict]:
    return [
        {**row, "method": method.name}
        for unit in task.units()
        for method in methods
        for row in task.run(unit, method)
    ]


@pytest.mark.usefixtures("edges")
def test_losses_count_where_their_token_stands(tokenizer: Tokenizer, tmp_path: Path) -> None:
    text = "the lamp was lit by the keeper " * 60
    path = write_lines(tmp_path / "texts.jsonl", [{"id": 1, "text": text}])
    task = Perplexity(TaskOptions(tokenizer=tokenizer, data_file=path, lengths=(64, 300)))
    full, core = Rising("full", 10**6), Rising("core", 128)
    rows = perplexity_rows(task, full, core)
    assert full.read_ids == [tokenizer.encode(text)[:300]]
    tokens = {(row["from"], row["to"]): row["tokens"] for row in rows}
    assert tokens == {(0, 16): 15, (16, 64): 48, (64, 128): 64, (128, 256): 128, (256, 300): 44}
    table = task.table(rows)
    assert table.columns == (
        "position", "tokens", "full", "full ratio", "core", "core ratio", "core / full",
    )  # fmt: skip
    by = {line[0]: line for line in table.lines}
    assert by["64-128"][4].mean == pytest.approx(math.e)
    assert by["128-256"][4].mean == pytest.approx(math.e**2)
    assert by["128-256"][4].n == 16 and not by["128-256"][4].percent
    assert by["128-256"][5] == pytest.approx(math.e)  # to 64-128
    assert by["128-256"][6] == pytest.approx(math.e)  # to full
    assert by["128-256"][3] == pytest.approx(1)


@pytest.mark.usefixtures("edges")
def test_a_text_that_ends_early_does_not_change_what_is_compared(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    easy, hard = "the lamp was lit " * 14, "who inherits the estate " * 60
    path = write_lines(tmp_path / "t.jsonl", [{"id": 0, "text": easy}, {"id": 1, "text": hard}])
    task = Perplexity(TaskOptions(tokenizer=tokenizer, data_file=path, lengths=(256,)))
    units = task.units()
    assert 80 < units[0].tokens < 128 <= 256 == units[1].tokens
    losses = {0: 1.0, 1: 3.0}

    class Flat:
        name = "core"

        def losses(self, ids: Sequence[int]) -> torch.Tensor:
            return torch.full((len(ids) - 1,), losses[int(len(ids) == 256)])

    rows = [{**row, "method": "core"} for unit in units for row in task.run(unit, Flat())]
    by = {line[0]: line for line in task.table(rows).lines}
    assert by["128-256"][3] == pytest.approx(1), "the hard text beside itself"
    assert by["64-128"][2].mean < by["128-256"][2].mean


def test_perplexity_takes_methods_that_have_one(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", [{"text": "the lamp"}])
    task = Perplexity(TaskOptions(tokenizer=tokenizer, data_file=path))
    assert task.methods(["focus", "full", "core", "lexical"]) == ["full", "core"]
    with pytest.raises(EvaluationError, match="no field text"):
        Perplexity(
            TaskOptions(
                tokenizer=tokenizer, data_file=write_lines(tmp_path / "u.jsonl", [{"txt": "x"}])
            )
        )


def test_needles_lie_where_they_should(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = write_books(tmp_path)
    options = TaskOptions(tokenizer=tokenizer, data=folder, lengths=(1024, 2048), limit=2)
    task, texts = Needle(options), TextCache(tokenizer)
    units = task.units()
    assert len(units) == 2 * len(DEPTHS) * 2 and units == Needle(options).units()
    answers = set()
    for unit in units:
        cell = unit.data
        whole = "\n\n".join(cell.pages)
        needle = f"is {cell.answer}."
        assert whole.count(needle) == 1 and cell.answer in needle
        before = len(tokenizer.encode(whole[: whole.index(needle)]))
        total = len(tokenizer.encode(whole))
        # Next to a sentence's end: within one sentence of the depth.
        assert abs(before / total - cell.depth) < 60 / total
        used = len(texts.prefix) + total + cell.room
        assert cell.length - 350 < used <= cell.length
        answers.add(cell.answer)
    assert len(answers) == len(units)
    other = Needle(TaskOptions(tokenizer=tokenizer, data=folder, lengths=(1024,), seed=1))
    assert other.units()[0].data.answer != units[0].data.answer


def test_found_needles_are_drawn_and_counted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    options = TaskOptions(tokenizer=tokenizer, data=write_books(tmp_path), lengths=(1024,), limit=1)
    task = Needle(options)
    rows = []
    for unit in task.units():
        right = unit.data.answer if unit.data.depth >= 0.5 else "12"
        method = ToldMethod(says=lambda q, right=right: f"The number is {right}.")
        rows += [{**row, "method": "told"} for row in task.run(unit, method)]
    table = task.table(rows)
    assert table.lines[0][:2] == ("1k", "told")
    found = table.lines[0][2]
    assert isinstance(found, Figure) and found.mean == pytest.approx(6 / 11)
    assert table.lines[0][3:] == ("0",) * 5 + ("100",) * 6
    pytest.importorskip("matplotlib")
    save_heat_map(rows, tmp_path / "map.png", title="a title")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_needle_wants_long_books(tokenizer: Tokenizer, tmp_path: Path) -> None:
    options = TaskOptions(tokenizer=tokenizer, data=write_books(tmp_path), lengths=(1 << 20,))
    with pytest.raises(EvaluationError, match="no text has 1,048,576 tokens"):
        Needle(options).units()


FORMS = {
    "plain": {"context": "C", "question": "Q?", "answers": ["a", "b"]},
    "one": {"context": "C", "question": "Q?", "answers": "a"},
    "several": {"contexts": ["C", "D"], "question": "Q?", "answers": ["a"]},
    "turns": {"context": "C", "question": "Q?", "answers": ["a"], "history": [["P?", "p."]]},
    "unsaid": {"context": "C", "question": "Q?", "answers": ["unanswerable"]},
    "options": {"context": "C", "question": "Q?", "answers": ["tin"], "options": ["gold", "tin"]},
    "leval": {"context": "C", "questions": ["Q?", "R?"], "answers": ["a", "b"], "metric": "f1"},
    "judged": {"context": "C", "questions": ["Q?"], "answers": ["a"], "metric": "LLM"},
    "bamboo": {"content": "C", "question": "Q?", "options": ["A. gold", "B.  tin"], "answer": "B"},
    "reversed": {"content": "Answer.\n\nQuestion:\nQ?\n\nDocument:\nC\n", "answer": "7"},
    "wrapped": {"content": "Answer.\n\nDocument:\nC\n\nQuestion:\nQ?\n", "answer": "7"},
}


def read_form(tmp_path: Path, *names: str) -> list[Question]:
    records = [{"id": name, **FORMS[name]} for name in names]
    return read_questions(write_lines(tmp_path / "forms.jsonl", records))


def test_all_forms_of_records_are_read(tmp_path: Path) -> None:
    found = {q.id: q for q in read_form(tmp_path, *FORMS)}
    assert set(found) == {*FORMS, "leval/0", "leval/1"} - {"leval", "judged"}
    assert found["plain"].answers == ("a", "b") and found["one"].answers == ("a",)
    assert found["several"].context == "C\n\nD"
    assert found["turns"].question == "P? p. Q?"
    assert found["unsaid"].answers == ()
    assert found["leval/1"].question == "R?" and found["leval/1"].answers == ("b",)
    assert found["bamboo"].options == (("A", "gold"), ("B", "tin"))
    assert found["bamboo"].question == "Q?\nA. gold\nB. tin"
    assert found["options"].options == (("A", "gold"), ("B", "tin"))
    for name in ("wrapped", "reversed"):
        assert (found[name].context.strip(), found[name].question) == ("C", "Q?")


@pytest.mark.parametrize(
    ("reply", "right"),
    [("B", 1), ("B. tin", 1), ("(B)", 1), ("tin", 1), ("It was Tin.", 1), ("A", 0), ("gold", 0),
     ("gold or tin", 0), ("", 0), ("A man found tin", 1), ("A: tin", 0), ("C", 0)],
)  # fmt: skip
def test_choices(tmp_path: Path, reply: str, right: float) -> None:
    bamboo, own = read_form(tmp_path, "bamboo", "options")
    assert right_choice(reply, bamboo) == right
    assert right_choice(reply, own) == right


@pytest.mark.parametrize("record", [{"context": "C"}, {"context": "C", "question": "Q?"}, {"x": 1}])
def test_unknown_forms_are_refused(tmp_path: Path, record: dict) -> None:
    path = write_lines(tmp_path / "x.jsonl", [FORMS["plain"], record])
    with pytest.raises(EvaluationError, match="record 2: of no known form"):
        read_questions(path)


def test_documents_are_read_once_and_scored(tokenizer: Tokenizer, tmp_path: Path) -> None:
    lamp = {"context": "The lamp was lit. " * 300}
    records = [
        {"id": 1, **lamp, "question": "What was lit?", "answers": ["the lamp"]},
        {"id": 2, **lamp, "question": "Who came?", "answers": ["unanswerable"]},
        {"id": 3, "context": "Tin.", "question": "Which?", "answers": ["B"], "options": ["a", "b"]},
    ]
    write_lines(tmp_path / "qa_covidqa.jsonl", records)
    task = LongQuestions(TaskOptions(tokenizer=tokenizer, data=tmp_path))
    method = ToldMethod(says=lambda q: {"What": "A lamp", "Who ": "", "Whic": "B"}[q[:4]])
    rows = [{**row, "method": "told"} for unit in task.units() for row in task.run(unit, method)]
    assert len(method.contexts) == 2
    metrics = {row["key"].split("/")[1]: row["metrics"] for row in rows}
    assert metrics["1"] == {"em": 1, "strict": 1, "f1": 1, "rougeL": 0.5, "refused": 0}
    assert metrics["2"] == {"not found": 1}
    assert metrics["3"] == {"em": 1, "refused": 0}
    table = task.table(rows)
    assert table.columns[-1] == "not found"
    assert table.lines[0][:2] == ("covidqa", "told") and table.lines[0][2].n == 2


def test_limit_counts_questions_of_a_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name in ("qa_covidqa", "qa_quac"):
        write_lines(
            tmp_path / f"{name}.jsonl",
            [
                {"id": f"{i}{j}", "context": f"Text {i}.", "question": f"Q{j}?", "answers": ["a"]}
                for i in range(4) for j in range(3)
            ],
        )  # fmt: skip
    task = LongQuestions(TaskOptions(tokenizer=tokenizer, data=tmp_path, limit=5))
    counts: dict[str, list[int]] = {}
    for unit in task.units():
        counts.setdefault(unit.data.set, []).append(len(unit.data.questions))
    assert counts == {"covidqa": [3, 2], "quac": [3, 2]}


@pytest.mark.skipif(not EVAL.is_dir(), reason="needs the shared evaluation data")
def test_published_files_are_read(tokenizer: Tokenizer) -> None:
    task = LongQuestions(TaskOptions(tokenizer=tokenizer, data=EVAL, limit=10))
    assert len(task.files) == 10
    assert {unit.data.set for unit in task.units()} == {
        path.name.removeprefix("qa_").removesuffix(".jsonl.xz") for path in task.files
    }
    chosen = [q for unit in task.units() for q in unit.data.questions if q.options]
    assert chosen and all(
        right_choice(json.loads(json.dumps(answer)), q) == 1 for q in chosen for answer in q.answers
    )
