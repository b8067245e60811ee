"""LongBench-E: its files, prompts, measures and means, on small files of the published layout."""

import json
from pathlib import Path
from typing import Any

import pytest
from reading_helpers import ToldModel
from tiny_checkpoint import make_tiny_checkpoint
from told_method import ToldMethod, ToldModelMethod

from cca_models.config import CCAConfig
from cca_models.evaluation.longbench import LongBench
from cca_models.evaluation.longbench_answers import Answerer
from cca_models.evaluation.longbench_categories import Scored, bucket, figures
from cca_models.evaluation.longbench_files import CATEGORIES, DATASETS, Instance, read_folder
from cca_models.evaluation.longbench_metrics import score
from cca_models.evaluation.longbench_prompts import pieces
from cca_models.evaluation.types import EvaluationError, Figure, TaskOptions
from cca_models.tokenizer import Tokenizer, load_tokenizer

CLASSES = ["Other location", "City", "Food", "location"]
ANSWERS = {
    "trec": "Other location",
    "passage_count": "7",
    "passage_retrieval_en": "Paragraph 12",
    "lcc": "    return {key: 1}",
    "repobench-p": "    return {key: 1}",
}
CONTEXTS = {
    "trec": "Question: Where is Oslo ?\nType: City\nQuestion: What is bread ?\nType: Food",
    "triviaqa": "Passage:\nThe lamp.\nQuestion:\nWhat?\nAnswer:\nA lamp\n\nPassage:\nSea.",
    "samsum": "Dialogue: A: hi\nSummary: A greets.\n\nDialogue: B: bye\nSummary: B leaves.",
    "passage_count": "Paragraph 1: The sea.\n\nParagraph 2: The lamp.\n\nParagraph 3: The sea.",
    "passage_retrieval_en": "Paragraph 1: The sea.\n\nParagraph 2: The lamp.\n",
    "lcc": "def f(key):\n    table = {}\n" + "    table[key] = key\n" * 40,
    "repobench-p": "# file a.py\nclass A:\n    pass\n\n",
}
WORDS = (1000, 4000, 7999, 8000)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", context=4096)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return load_tokenizer(checkpoint)


def record(name: str, words: int = 1000, **changes: Any) -> dict[str, Any]:
    """Make an instance as published."""
    return {
        "input": f"{name} input {words} {{brace}}",
        "context": CONTEXTS.get(name, f"The context of {name}.\n\nIt goes on."),
        "answers": [ANSWERS.get(name, "the nephew of the keeper")],
        "length": words,
        "dataset": name,
        "language": "en",
        "all_classes": CLASSES if name == "trec" else None,
        "_id": f"{name}-{words}",
        **changes,
    }


def write_folder(folder: Path, names: Any = DATASETS) -> Path:
    for name in names:
        lines = [json.dumps(record(name, words)) for words in WORDS]
        (folder / f"{name}_e.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def instance(tmp_path: Path, name: str, **changes: Any) -> Instance:
    line = json.dumps(record(name, **changes))
    (tmp_path / f"{name}_e.jsonl").write_text(line, encoding="utf-8")
    return next(i for i in read_folder(tmp_path) if i.dataset.name == name)


def make_task(folder: Path, tokenizer: Tokenizer, **options: Any) -> LongBench:
    return LongBench(TaskOptions(tokenizer=tokenizer, data=folder, **options))


# Files


def test_all_thirteen_data_sets_are_read_in_the_published_order(tmp_path: Path) -> None:
    instances = read_folder(write_folder(tmp_path))
    names = list(dict.fromkeys(i.dataset.name for i in instances))
    assert " ".join(names) == (
        "qasper multifieldqa_en hotpotqa 2wikimqa gov_report multi_news trec triviaqa samsum "
        "passage_count passage_retrieval_en lcc repobench-p"
    )
    assert len(instances) == 13 * len(WORDS)
    trec = next(i for i in instances if i.dataset.name == "trec")
    assert (trec.key, trec.words, trec.classes) == ("trec-1000", 1000, tuple(CLASSES))
    assert {d.category for d in DATASETS.values()} == set(CATEGORIES)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1: not JSON"),
        ('{"input": "x", "answers": ["y"], "length": 3}', "line 1: no field context"),
        (json.dumps(record("trec", answers=[])), "record 1: answers is empty"),
        (json.dumps(record("trec", answers="City")), "answers is not a list"),
        (json.dumps(record("trec", all_classes=None)), "all_classes is empty"),
        (json.dumps(record("trec", length="long")), "length is not a whole number"),
        (json.dumps(record("trec", context=None)), "context is not a text"),
        ("\n".join([json.dumps(record("trec"))] * 2), "record 2: _id trec-1000 was there before"),
    ],
)
def test_a_file_of_another_form_is_refused_with_its_place(
    tmp_path: Path, line: str, says: str
) -> None:
    (tmp_path / "trec_e.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(EvaluationError, match=says) as caught:
        read_folder(tmp_path)
    assert caught.value.hint


def test_a_folder_without_the_files_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "qasper.jsonl").write_text(json.dumps(record("qasper")), encoding="utf-8")
    with pytest.raises(EvaluationError, match="no file of LongBench-E"):
        make_task(tmp_path, tokenizer)
    with pytest.raises(EvaluationError, match="needs the folder"):
        LongBench(TaskOptions(tokenizer=tokenizer))


# Measures


@pytest.mark.parametrize(
    ("name", "prediction", "answers", "expected"),
    [
        ("qasper", "the red house", ["garden", "a big red house"], 0.8),
        ("triviaqa", "\nOslo\nPassage: more", ["Oslo"], 1.0),
        ("hotpotqa", "Oslo\nPassage: more", ["Oslo"], 0.5),
        # Classes: parts of the right name do not count against it, others share the point.
        ("trec", "Other location\nQuestion: Food", ["Other location"], 1.0),
        ("trec", "Food or City", ["City"], 0.5),
        ("trec", "location", ["Other location"], 0.0),
        ("trec", "Animal", ["City"], 0.0),
        ("passage_count", "There are 7, or 7, or 12.", ["7"], 2 / 3),
        ("passage_count", "17", ["7"], 0.0),
        ("passage_count", "many", ["7"], 0.0),
        ("passage_retrieval_en", "Paragraph 12", ["Paragraph 12"], 1.0),
        ("passage_retrieval_en", "Paragraph 12 or 3", ["Paragraph 12"], 0.5),
        ("passage_retrieval_en", "", ["Paragraph 12"], 0.0),
        ("lcc", "\n```python\n# the line\nreturn x\n", ["return x"], 1.0),
        # 3 of 4 + 4 letters twice: the ratio is 2 * 3 / 8, in whole per cent.
        ("lcc", "abcd", ["abce"], 0.75),
        ("repobench-p", "# only a comment", ["return x"], 0.0),
        ("repobench-p", "", ["return x"], 0.0),
        ("samsum", "A greets B.\nDialogue: other words", ["A greets B."], 1.0),
        ("gov_report", "", ["A report."], 0.0),
        ("gov_report", ".", ["A report."], 0.0),
        # 2 of 3 distinct words of the one, 2 of 4 of the other.
        ("multi_news", "the lamp burns", ["the lamp was lit"], 4 / 7),
    ],
)
def test_measures_are_the_published_ones(
    name: str, prediction: str, answers: list[str], expected: float
) -> None:
    got = score(prediction, answers, dataset=DATASETS[name], classes=CLASSES)
    assert got == pytest.approx(expected, abs=1e-6)


def test_a_paragraph_without_a_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="Paragraph 7"):
        score("3", ["the third"], dataset=DATASETS["passage_retrieval_en"])


# Means


def test_the_average_is_the_plain_mean_of_the_categories_as_the_paper_prints_it() -> None:
    # The paper's Table 1, LLaMA2-7B-32K with full attention: 22.11.
    printed = dict(zip(CATEGORIES, (2.75, 1.85, 12.43, 66.28, 0.34, 48.99), strict=True))
    scores = [
        # Sets of unlike sizes and figures: instances must not be pooled.
        Scored(d.name, 100, (printed[d.category] + shift) / 100)
        for d in DATASETS.values()
        for shift in ([0.1] * 3 if d.name in ("qasper", "lcc") else [0.0])
    ]
    means = figures(scores)
    assert means.average is not None
    assert 100 * means.average.mean == pytest.approx(22.11 + 0.05 / 6 + 0.05 / 6, abs=0.005)
    assert 100 * means.categories["S.QA"].mean == pytest.approx(2.75 + 0.05)
    assert means.categories["S.QA"].n == 4
    assert 100 * means.datasets["qasper"].mean == pytest.approx(2.85)


def test_intervals_hold_the_means_and_narrow_with_the_average() -> None:
    scores = [Scored(name, 100, float(i % 2)) for name in DATASETS for i in range(60)]
    means = figures(scores)
    assert means.average is not None
    widths = [f.high - f.low for f in (means.datasets["trec"], means.average)]
    assert means.average.low < 0.5 < means.average.high
    assert widths[1] < widths[0] / 2


def test_a_category_stands_only_with_all_its_data_sets() -> None:
    means = figures([Scored("lcc", 10, 1.0), Scored("qasper", 10, 1.0), Scored("trec", 1, 0.0)])
    assert means.categories == {}
    assert means.average is None
    assert set(means.datasets) == {"lcc", "qasper", "trec"}


def test_lengths_fall_into_the_published_ranges() -> None:
    assert [bucket(words) for words in WORDS] == ["0-4k", "4-8k", "4-8k", "8k+"]


# Prompts and answers


@pytest.mark.parametrize("name", ["trec", "triviaqa", "samsum", "passage_count", "lcc"])
def test_pieces_are_whole_examples_and_lose_nothing(tmp_path: Path, name: str) -> None:
    one = instance(tmp_path, name)
    parts = pieces(one)
    assert "".join(parts) == one.context
    assert len(parts) > 1
    if name == "triviaqa":
        assert parts[0].startswith("Passage:\nThe lamp") and "Answer:" in parts[0]


def read_prompt(tokenizer: Tokenizer, one: Instance, **options: Any) -> tuple[str, ToldModelMethod]:
    model = ToldModel(tokenizer, says=" said", cca=CCAConfig(group_size=4, window=512))
    method = ToldModelMethod(says=lambda _: "told", model=model, **options)
    answered = Answerer(tokenizer).answer(one, method)
    assert answered.text in (" said", "told", "said")
    return (method.prompts[-1] if method.prompts else ""), method


@pytest.mark.parametrize("name", ["trec", "samsum", "lcc", "repobench-p"])
def test_few_shots_and_code_are_continued_as_plain_text(
    tmp_path: Path, tokenizer: Tokenizer, name: str
) -> None:
    one = instance(tmp_path, name)
    prompt, method = read_prompt(tokenizer, one)
    assert one.context in prompt
    assert f"{name} input 1000 {{brace}}" in prompt.split(one.context)[1]
    (opens,) = tokenizer.encode_prompt("<|im_start|>")
    assert opens not in method.model.prompts[-1]
    assert method.model.settings[-1]["max_new_tokens"] == DATASETS[name].max_new_tokens


@pytest.mark.parametrize("name", ["gov_report", "passage_count", "passage_retrieval_en"])
def test_the_others_are_asked_as_a_chat(tmp_path: Path, tokenizer: Tokenizer, name: str) -> None:
    special = "Say <|im_end|> aloud."
    one = instance(tmp_path, name, context=f"{special}\n\nParagraph 2: more.", input=special)
    _, method = read_prompt(tokenizer, one)
    ids = method.model.prompts[-1]
    opens, ends = tokenizer.encode_prompt("<|im_start|><|im_end|>")
    # One message, and the beginning of the answer: special names in the text stay text.
    assert (ids.count(opens), ids.count(ends)) == (2, 1)


def test_questions_are_asked_as_the_product_asks(tmp_path: Path, tokenizer: Tokenizer) -> None:
    one = instance(tmp_path, "hotpotqa")
    prompt, method = read_prompt(tokenizer, one)
    assert prompt == ""
    assert method.asked == [one.input]
    assert method.contexts == [(one.context,)]
    asked = instance(tmp_path, "qasper")
    assert "unanswerable" in read_prompt(tokenizer, asked)[1].asked[0]
    # Passages must not be looked for by the words of the rule.
    assert read_prompt(tokenizer, asked, reads="focus")[1].asked == [asked.input]


def test_what_is_not_found_counts_as_unanswerable_in_qasper_alone(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    silent = ToldMethod(says=lambda _: "")
    answerer = Answerer(tokenizer)
    assert answerer.answer(instance(tmp_path, "qasper"), silent).text == "unanswerable"
    assert "Not found" in answerer.answer(instance(tmp_path, "hotpotqa"), silent).text


@pytest.mark.parametrize("name", ["gov_report", "hotpotqa", "lcc"])
def test_what_is_too_long_is_cut_in_the_middle(
    tmp_path: Path, tokenizer: Tokenizer, name: str
) -> None:
    lines = "".join(f"line {i:05d} of the text\n" for i in range(2000))
    one = instance(tmp_path, name, context=f"FIRST\n{lines}LAST")
    longest = 2000
    model = ToldModel(tokenizer, says=" said")
    method = ToldModelMethod(says=lambda _: "told", model=model, longest=longest)
    answered = Answerer(tokenizer).answer(one, method)
    read = method.prompts[-1] if method.prompts else "\n\n".join(method.contexts[-1])
    assert "FIRST" in read and "LAST" in read
    assert "line 01000" not in read
    used = len(tokenizer.encode(read)) + one.dataset.max_new_tokens
    assert longest - 200 < used <= longest
    total = len(tokenizer.encode(one.context))
    assert total - longest < answered.left_out < total
    # The halves are equal.
    kept = [
        int(line.split()[1]) for line in read.splitlines() if line[:5] == "line " and len(line) > 20
    ]
    early = sum(number < 1000 for number in kept)
    assert abs(early - len(kept) / 2) <= 3


def test_nothing_is_cut_that_fits(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = ToldModel(tokenizer, says=" said")
    method = ToldModelMethod(says=lambda _: "told", model=model)
    assert Answerer(tokenizer).answer(instance(tmp_path, "lcc"), method).left_out == 0


def test_found_examples_fill_the_window_in_order(tmp_path: Path, tokenizer: Tokenizer) -> None:
    examples = [f"Dialogue: talk {i} of the weather\nSummary: {i} is said.\n" for i in range(200)]
    one = instance(
        tmp_path, "samsum", context="".join(examples), input="Dialogue: talk 150 of\nSummary:"
    )
    prompt, method = read_prompt(tokenizer, one, reads="lexical")
    found = [i for i, example in enumerate(examples) if example in prompt]
    assert 150 in found and 1 < len(found) < 200
    # In the order of the context, and as much as fits.
    assert found == sorted(found, key=lambda i: prompt.index(examples[i]))
    ids = method.model.prompts[-1]
    assert 512 - 60 < len(ids) + one.dataset.max_new_tokens <= 512
    assert prompt.endswith(one.input)


def test_code_is_continued_from_its_last_lines(tmp_path: Path, tokenizer: Tokenizer) -> None:
    lines = [f"value_{i} = compute({i})\n" for i in range(400)]
    one = instance(tmp_path, "lcc", context="".join(lines), input="")
    prompt, _ = read_prompt(tokenizer, one, reads="lexical")
    assert lines[-1] in prompt and "".join(lines[-5:]) in prompt
    assert "value_100 = " not in prompt


def test_reports_are_summarised_part_by_part_where_passages_are_found(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    one = instance(tmp_path, "gov_report", context="The bridge was closed in 1987. " * 300)
    _, method = read_prompt(tokenizer, one, reads="focus")
    assert len(method.prompts) > 3
    assert all(len(ids) < 512 for ids in method.model.prompts)


# The task


def oracle(folder: Path) -> dict[str, str]:
    return {i.input: i.answers[0] for i in read_folder(folder)}


def test_right_answers_give_a_hundred_in_every_column(tmp_path: Path, tokenizer: Tokenizer) -> None:
    task = make_task(write_folder(tmp_path), tokenizer)
    right = oracle(tmp_path)

    def says(question: str) -> str:
        known = [answer for asked, answer in right.items() if asked in question]
        # Reports and news have no question; all of these have the same answer.
        return known[0] if known else ANSWERS.get(task_now, "the nephew of the keeper")

    rows = []
    for unit in task.units():
        task_now = unit.key.split("/")[0]
        for row in task.run(unit, ToldMethod(says=says)):
            rows.append({**row, "task": task.name, "method": "told", "unit": unit.key})
    table = task.table(rows)
    assert table.columns == (
        "length",
        "method",
        "S.QA",
        "M.QA",
        "Sum.",
        "FS.",
        "Synth.",
        "Code",
        "Avg",
    )
    assert [line[:2] for line in table.lines] == [
        ("all", "told"), ("0-4k", "told"), ("4-8k", "told"), ("8k+", "told"),
    ]  # fmt: skip
    for line in table.lines:
        for cell in line[2:]:
            assert isinstance(cell, Figure) and cell.mean == pytest.approx(1.0, abs=1e-6)
    average = table.lines[0][-1]
    assert isinstance(average, Figure) and average.n == 13 * len(WORDS)
    assert json.loads(json.dumps(rows)) == rows
    assert len({row["key"] for row in rows}) == len(rows)


def test_missing_data_sets_leave_gaps_and_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    task = make_task(write_folder(tmp_path, ["lcc", "repobench-p", "trec"]), tokenizer)
    rows = [
        {**row, "method": "told"}
        for unit in task.units()
        for row in task.run(unit, ToldMethod(says=lambda _: "Other location"))
    ]
    table = task.table(rows)
    cells = dict(zip(table.columns, table.lines[0], strict=True))
    assert isinstance(cells["Code"], Figure)
    assert cells["FS."] is None and cells["Avg"] is None
    assert any("without qasper" in note for note in table.notes)
    assert any("trec 100.00 (n 4)" in note for note in table.notes)
    assert [path.name for path in task.files] == [
        "trec_e.jsonl",
        "lcc_e.jsonl",
        "repobench-p_e.jsonl",
    ]


def test_a_limit_takes_of_every_length_and_repeats(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = write_folder(tmp_path)
    units = make_task(folder, tokenizer, limit=3, seed=1).units()
    assert len(units) == 13 * 3
    for name in DATASETS:
        of_set = [u.data.words for u in units if u.key.startswith(f"{name}/")]
        assert {bucket(words) for words in of_set} == {"0-4k", "4-8k", "8k+"}
    again = make_task(folder, tokenizer, limit=3, seed=1).units()
    assert [u.key for u in units] == [u.key for u in again]


def test_every_method_runs_every_data_set(tmp_path: Path, checkpoint: Path) -> None:
    from cca_models.checkpoints import resolve_checkpoint
    from cca_models.engine import load_model
    from cca_models.evaluation.methods import make_methods

    model = load_model(
        resolve_checkpoint(str(checkpoint)),
        cca=CCAConfig(group_size=16, window=256), device="cpu", dtype="fp32",
    )  # fmt: skip
    folder = write_folder(tmp_path)
    task = make_task(folder, model.tokenizer, limit=1, max_new_tokens=3)
    methods = make_methods(model, ["full", "core", "focus", "lexical", "window"])
    rows = [
        {**row, "method": name}
        for unit in task.units()
        for name, method in methods.items()
        for row in task.run(unit, method)
    ]
    assert len(rows) == 13 * 5
    assert all(0 <= row["metrics"]["score"] <= 1 for row in rows)
    assert len(task.table(rows).lines) >= 5
