"""What LongBench's tasks ask for, in our words: the task is the published one, the wording is not.

Questions are put as the product puts them, whose prompt asks for a brief answer in words from the
text. For the other data sets there is a text to stand before the context and one behind it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from cca_models.evaluation.longbench_files import Instance

# Each example of a few-shot task, and each paragraph of a synthetic one, begins like this.
_BEGINNINGS = {
    "trec": "Question:",
    "triviaqa": "Passage:",
    "samsum": "Dialogue:",
    "passage_count": r"Paragraph \d+:",
    "passage_retrieval_en": r"Paragraph \d+:",
}
_CODE_CHARACTERS = 560


@dataclass(frozen=True, slots=True)
class Wording:
    """The words around a context."""

    before: str
    after: str


_QASPER_RULE = (
    ' (If the article does not say, write "unanswerable". Where yes or no is asked for, write '
    '"yes", "no" or "unanswerable".)'
)

# {input} is the instance's own; the answer is written right behind the last word.
_WORDINGS: Mapping[str, Wording] = {
    "gov_report": Wording(
        "This is a report of a government agency, to be summarised on one page.\n\nReport:\n",
        "\n\nSummarise the report on one page.\n\nSummary:",
    ),
    "multi_news": Wording(
        "These are several news articles, to be summarised together on one page.\n\nNews:\n",
        "\n\nSummarise all of the news on one page.\n\nSummary:",
    ),
    "trec": Wording(
        "Say which type the last question is of. Questions with their types come first.\n\n",
        "\n{input}",
    ),
    "triviaqa": Wording(
        "Answer the last question from its passage, with the answer and nothing else. Examples "
        "come first.\n\n",
        "\n\n{input}",
    ),
    "samsum": Wording(
        "Summarise the last dialogue in a few short sentences. Examples come first.\n\n",
        "\n\n{input}",
    ),
    "passage_count": Wording(
        "These paragraphs are from Wikipedia, and some of them stand here more than once. Read "
        "them with care and find out how many different paragraphs there are, each counted "
        "once.\n\n",
        "\n\nHow many different paragraphs are there, duplicates counted once? Write the number "
        "alone, like 1, 2 or 3.\n\nThe number of different paragraphs is: ",
    ),
    "passage_retrieval_en": Wording(
        "These are 30 paragraphs from Wikipedia; an abstract of one of them follows. Find out "
        "which paragraph it is an abstract of.\n\n",
        "\n\nThis is the abstract:\n\n{input}\n\nWhich paragraph is it an abstract of? Write it "
        'like "Paragraph 1" or "Paragraph 2".\n\nThe paragraph is: ',
    ),
    "lcc": Wording("Complete this code.\n", "{input}The next line of the code:\n"),
    "repobench-p": Wording("Complete this code.\n", "{input}The next line of the code:\n"),
}


def question(instance: Instance) -> str | None:
    """Give what is asked about the context; None if it is not a question."""
    if instance.dataset.name == "qasper":
        return instance.input + _QASPER_RULE
    return None if instance.dataset.name in _WORDINGS else instance.input


def wording(instance: Instance) -> Wording:
    """Give the words around the context of what is not a question."""
    words = _WORDINGS[instance.dataset.name]
    # Not str.format: code is full of braces.
    return Wording(words.before, words.after.replace("{input}", instance.input))


def pieces(instance: Instance) -> list[str]:
    """Cut a context where it falls apart by itself: at examples, paragraphs, or lines of code.

    Joined, they are the context, letter by letter.
    """
    context = instance.context
    beginning = _BEGINNINGS.get(instance.dataset.name)
    if beginning is not None:
        starts = [match.start() for match in re.finditer(f"^{beginning}", context, re.MULTILINE)]
        edges = sorted({0, *starts, len(context)})
        return [context[a:b] for a, b in pairwise(edges)]
    out: list[str] = []
    for line in context.splitlines(keepends=True):
        if out and len(out[-1]) + len(line) <= _CODE_CHARACTERS:
            out[-1] += line
        else:
            out.append(line)
    return out
