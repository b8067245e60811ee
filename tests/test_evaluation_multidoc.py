"""Contexts of questions and passages, and the tasks on them: multidoc, squad, locate."""

from pathlib import Path

import pytest
from evaluation_helpers import fact, write_lines, write_multidoc
from tiny_checkpoint import make_tiny_checkpoint
from told_method import ToldMethod

from cca_models.evaluation.contexts import Context, TextCache
from cca_models.evaluation.haystack import Haystack
from cca_models.evaluation.locate import Locate
from cca_models.evaluation.multidoc import MultiDocument, squad
from cca_models.evaluation.types import EvaluationError, Figure, TaskOptions
from cca_models.tokenizer import Tokenizer, load_tokenizer

EVAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "eval"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def _four_questions_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cca_models.evaluation.haystack.TOKENS_PER_QUESTION", 512)


def make(tokenizer: Tokenizer, folder: Path, **options) -> MultiDocument:
    return MultiDocument(TaskOptions(tokenizer=tokenizer, data=folder, **options))


def haystacks(task: MultiDocument) -> list[Haystack]:
    return [unit.data for unit in task.units()]


def test_every_question_has_its_gold_passage_and_its_distractors(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    task = make(tokenizer, write_multidoc(tmp_path), lengths=(512, 1024))
    texts = TextCache(tokenizer)
    for haystack in haystacks(task):
        assert len(haystack.asked) == haystack.length // 512
        used = len(Context(haystack.passages, texts).ids) + haystack.room
        # The longest passage would no longer fit.
        assert haystack.length - 60 < used <= haystack.length
        assert len(set(haystack.passages)) == len(haystack.passages)
        for asked in haystack.asked:
            assert f" {asked.item.answers[0]}." in haystack.passages[asked.place]
            town = int(asked.item.id[1:])
            for near in range(1, 6):
                assert any(f"town {(town + near) % 40} is" in p for p in haystack.passages)


def test_distractors_that_do_not_all_fit_are_the_best(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = make(tokenizer, write_multidoc(tmp_path, near=30), lengths=(512,))
    for haystack in haystacks(task):
        gold = int(haystack.asked[0].item.id[1:])
        here = {int(p.split("\n")[0].removeprefix("Town ")) for p in haystack.passages}
        ranks = sorted((town - gold) % 40 for town in here)
        assert ranks[: len(ranks) - 2] == list(range(len(ranks) - 2)), "a gap among the best"


def test_gold_passages_lie_at_depths_spread_evenly(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for length in (512, 2048):
        task = make(tokenizer, write_multidoc(tmp_path), lengths=(length,))
        depths = sorted(asked.depth for h in haystacks(task) for asked in h.asked)
        assert len(depths) == 20
        gaps = [b - a for a, b in zip([0.0, *depths], [*depths, 1.0], strict=True)]
        assert max(gaps) < 0.2
        assert 0.4 < sum(depths) / len(depths) < 0.6


def test_equal_seeds_make_equal_units_and_limits_cut_them(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    folder = write_multidoc(tmp_path)
    first, again = (make(tokenizer, folder, lengths=(512, 1024)).units() for _ in range(2))
    assert first == again
    few = make(tokenizer, folder, lengths=(512, 1024), limit=4).units()
    assert len(few) == 4 + 2
    assert all(unit in first for unit in few)
    other = make(tokenizer, folder, lengths=(512, 1024), seed=1).units()
    assert {unit.key for unit in other} != {unit.key for unit in first}
    assert len({unit.key for unit in first}) == len(first)


def test_lengths_ask_the_same_questions(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = make(tokenizer, write_multidoc(tmp_path), lengths=(512, 1024, 2048), limit=8)
    asked = {}
    for haystack in haystacks(task):
        asked.setdefault(haystack.length, []).extend(a.item.id for a in haystack.asked)
    assert len(set(map(tuple, asked.values()))) == 1 and len(asked[512]) == 8


def test_the_right_answer_scores_and_a_wrong_one_does_not(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    task = make(tokenizer, write_multidoc(tmp_path), lengths=(1024,), limit=4)
    method = ToldMethod(says=lambda q: "" if "town 3" in q else f"It is {fact(int(q.split()[-1]))}")
    rows = [row for unit in task.units() for row in task.run(unit, method)]
    assert len(method.contexts) == 2 and len(rows) == 4
    assert len({row["key"] for row in rows}) == 4
    for row in rows:
        silent = "town 3" in row["question"]
        metrics = row["metrics"]
        assert metrics["em"] == 1 - silent and metrics["refused"] == silent
        assert metrics["strict"] == 0 and (metrics["f1"] > 0.4) == (not silent)
    table = task.table([{**row, "method": "told"} for row in rows])
    assert table.columns[:3] == ("length", "method", "em")
    assert table.lines[0][:2] == ("1k", "told")
    em = table.lines[0][2]
    assert isinstance(em, Figure) and em.n == 4 and em.low <= em.mean <= em.high


def test_answers_that_are_taken_out_stand_nowhere(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = write_multidoc(tmp_path)
    # Another passage that gives the answers away.
    with (folder / "lost_in_the_middle_passages.jsonl").open("a") as file:
        told = " ".join(fact(i) for i in range(20))
        file.write(f'{{"id": 999, "title": "All", "text": "{told}"}}\n')
    task = make(tokenizer, folder, lengths=(1024,), unanswerable=0.5)
    asked = [(h, a) for h in haystacks(task) for a in h.asked]
    missing = [(h, a) for h, a in asked if a.place is None]
    assert 4 <= len(missing) <= 16 and len(asked) == 20
    for haystack, one in missing:
        assert not any(one.item.answers[0] in passage for passage in haystack.passages)
    rows = []
    for says in ("", "Paris"):
        method = ToldMethod(says=lambda q, says=says: says)
        rows += [
            {**row, "method": says or "silent"} for u in task.units() for row in task.run(u, method)
        ]
    table = task.table(rows)
    place = table.columns.index("not found")
    silent, paris = table.lines
    assert silent[place].mean == 1 and paris[place].mean == 0
    assert silent[place].n == len(missing) and silent[place - 1].n == 20 - len(missing)
    assert silent[place - 1].mean == 1 and paris[place - 1].mean == 0  # refused


def test_paragraphs_of_one_file_are_each_others_distractors(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = write_lines(
        tmp_path / "mine.jsonl",
        [
            {"id": f"{i}-{j}", "context": f"Paragraph {i} says {fact(i)}.", "answers": [fact(i)],
             "question": f"What says paragraph {i}, part {j}?"}
            for i in range(12) for j in range(2)
        ],
    )  # fmt: skip
    task = squad(TaskOptions(tokenizer=tokenizer, data_file=path, lengths=(512,)))
    assert task.name == "squad" and task.files == [path]
    for haystack in haystacks(task):
        (asked,) = haystack.asked
        assert asked.item.answers[0] in haystack.passages[asked.place]
        assert len(haystack.passages) > 5


def test_locate_counts_ranks(tokenizer: Tokenizer, tmp_path: Path) -> None:
    options = TaskOptions(tokenizer=tokenizer, data=write_multidoc(tmp_path), lengths=(1024,))
    task = Locate(options)
    assert task.methods(["core", "full"]) == ("focus",)
    rows = []
    for unit in task.units():
        for row in task.run(unit, ToldMethod(says=str)):
            rows.append({**row, "method": "focus"})
    assert len(rows) == 3 * 20
    assert all(row["metrics"]["recall@1"] == (row["rank"] <= 1) for row in rows)
    assert all(row["metrics"]["recall@5"] == (row["rank"] <= 5) for row in rows)
    table = task.table(rows)
    assert [line[1] for line in table.lines] == ["attention", "bm25", "fused"]
    assert table.lines[0][0] == "1k" and table.lines[0][2].n == 20


@pytest.mark.parametrize(
    ("name", "record", "says"),
    [
        ("questions", {"id": "a", "question": "?", "answers": ["x"], "gold": 7, "distractors": []},
         "passage 7"),
        ("questions", {"id": "a", "question": "?"}, "no field answers"),
        ("passages", {"id": 1, "text": "x"}, "no field title"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_is_refused(
    tokenizer: Tokenizer, tmp_path: Path, name: str, record: dict, says: str
) -> None:
    folder = write_multidoc(tmp_path)
    write_lines(folder / f"lost_in_the_middle_{name}.jsonl", [record])
    with pytest.raises(EvaluationError, match=says):
        make(tokenizer, folder)


def test_missing_data_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no such folder"):
        make(tokenizer, tmp_path / "nowhere")
    with pytest.raises(EvaluationError, match=r"lost_in_the_middle_questions\.jsonl\.xz is miss"):
        make(tokenizer, tmp_path)
    with pytest.raises(EvaluationError, match="multidoc needs data"):
        MultiDocument(TaskOptions(tokenizer=tokenizer))
    (tmp_path / "torn.jsonl").write_text('{"context": "x"\n')
    with pytest.raises(EvaluationError, match=r"torn\.jsonl, line 1: not JSON"):
        squad(TaskOptions(tokenizer=tokenizer, data_file=tmp_path / "torn.jsonl"))


@pytest.mark.skipif(not EVAL.is_dir(), reason="needs the shared evaluation data")
def test_published_questions_are_read(tokenizer: Tokenizer) -> None:
    options = TaskOptions(tokenizer=tokenizer, data=EVAL, lengths=(32768,), limit=8)
    for task in (MultiDocument(options), squad(options)):
        (first,) = [h for h in haystacks(task) if h.length == 32768][:1]
        for asked in first.asked:
            passage = first.passages[asked.place].lower()
            assert any(answer.lower() in passage for answer in asked.item.answers)
