"""Summaries, held against references and against the document's own first sentences.

QMSum and SQuALITY ask for a summary that answers a query: it is asked as a question about the
document. SciTLDR's abstracts, textbook sections and technical proposals are summarised whole.

The lead baseline is the document's first sentences. It and the method's summary are both cut after
the sentence that brings them closest to the same number of words: the median of the references of
the set. So neither gains by being longer or shorter than the other.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cca_models.evaluation import data
from cca_models.evaluation.contexts import TextCache, cut_pages
from cca_models.evaluation.metrics import rouge
from cca_models.evaluation.results import metric_lines
from cca_models.evaluation.types import EvaluationError, Method, Row, Table, TaskOptions, Unit
from cca_models.evaluation.writing import summarise
from cca_models.reading.passages import sentences
from cca_models.reading.summarising import LENGTHS, SENTENCES, Length

FILES = (
    "summ_qmsum_test",
    "summ_squality_test",
    "summ_scitldr_test",
    "summ_openstax_sections",
    "summ_technical_proposals",
)
# Summaries of a set: enough for an interval, and an hour's work at most for a small model.
_LIMIT = 50
_WORDS_PER_SENTENCE = 22
# Tokens for every word that is wished for: a third more than English takes.
_TOKENS_PER_WORD = 2
_SHOWN = ("rougeL", "lead", "difference", "rouge1", "rouge2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A summary to be written.

    Attributes:
        id: Unique in its set.
        query: What the summary shall answer; None to summarise it all.
        references: Summaries that people wrote.
    """

    id: str
    query: str | None
    references: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A document with all that is wanted of it, and the words that a summary of its set has."""

    set: str
    document: str
    words: int
    items: tuple[Item, ...]


class Summaries:
    """ROUGE of summaries beside the lead's.

    Args:
        options: As asked for. One file of the user's own needs the fields document and summary, or
            references; id and query are read if they are there.

    Raises:
        EvaluationError: If there is no data, or not of this form.
    """

    name = "summary"

    def __init__(self, options: TaskOptions) -> None:
        self._options = options
        self._texts = TextCache(options.tokenizer)
        self.files: list[Path] = (
            [options.data_file]
            if options.data_file is not None
            else data.find_all(options.data, FILES, task=self.name)
        )
        self._wanted = [w for path in self.files for w in _load(path, options)]

    def settings(self) -> Mapping[str, Any]:
        """Give what changes summaries of equal documents."""
        return {"max_new_tokens": self._options.max_new_tokens}

    def methods(self, asked: Sequence[str]) -> Sequence[str]:
        """Run all that were asked for."""
        return asked

    def units(self) -> Sequence[Unit]:
        """Take document by document, so that each is read once for all its queries."""
        units = []
        for wanted in self._wanted:
            digest = hashlib.sha256(wanted.document.encode()).hexdigest()[:16]
            # English has some four characters to the token.
            tokens = len(wanted.document) // 4
            units.append(Unit(key=f"{wanted.set}/{digest}", tokens=tokens, data=wanted))
        return units

    def run(self, unit: Unit, method: Method) -> list[Row]:
        """Write all summaries that are wanted of a document."""
        wanted: Wanted = unit.data
        lead = first_sentences(wanted.document, wanted.words)
        rows = []
        for item, reply in zip(wanted.items, self._replies(wanted, method), strict=True):
            scores = rouge(first_sentences(reply, wanted.words), item.references)
            base = rouge(lead, item.references)["rougeL"]
            uncut = rouge(reply, item.references)["rougeL"]
            rows.append(
                {
                    "key": f"{wanted.set}/{item.id}",
                    "set": wanted.set,
                    "query": item.query,
                    "reply": reply,
                    "words": wanted.words,
                    "metrics": {
                        **scores,
                        "lead": base,
                        "difference": scores["rougeL"] - base,
                        "rougeL_uncut": uncut,
                    },
                }
            )
        return rows

    def _replies(self, wanted: Wanted, method: Method) -> list[str]:
        queries = [item.query for item in wanted.items if item.query is not None]
        most = self._options.max_new_tokens or _TOKENS_PER_WORD * wanted.words
        reading = None
        if queries:
            room = self._texts.room(queries, most)
            reading = method.read(cut_pages(wanted.document), room=room)
        replies = []
        for item in wanted.items:
            if reading is not None and item.query is not None:
                text = reading.ask(item.query, max_new_tokens=most).text
            else:
                text = summarise(method, wanted.document, length=length_for(wanted.words))
            replies.append(text.strip())
        return replies

    def table(self, rows: Sequence[Row]) -> Table:
        """Sum up by set and method."""
        words = {row["set"]: row["words"] for row in rows}
        return Table(
            task=self.name,
            title="summary: ROUGE (F, best reference) beside the lead's ROUGE-L",
            columns=("set", "method", "ROUGE-L", "lead", "difference", "ROUGE-1", "ROUGE-2"),
            lines=metric_lines(rows, ("set", "method"), _SHOWN),
            notes=(
                "lead: the document's first sentences; it and the summaries are cut after the "
                "sentence that brings them closest to the median reference: "
                + ", ".join(f"{name} {count} words" for name, count in words.items()),
                "difference: ROUGE-L less the lead's, its interval from the pairs",
            ),
        )


def first_sentences(text: str, words: int) -> str:
    """Give a text's first sentences, whole, as many as come closest to so many words; one at least.

    Headings and lines that stand alone count as sentences.
    """
    end, count = 0, 0
    for start, stop in sentences(text):
        more = count + len(text[start:stop].split())
        if count and abs(more - words) > abs(count - words):
            break
        end, count = stop, more
    return text[:end].strip()


def length_for(words: int) -> Length:
    """Choose the length of the product's summaries that is closest to so many words."""
    return min(LENGTHS, key=lambda name: abs(SENTENCES[name] * _WORDS_PER_SENTENCE - words))


def _load(path: Path, options: TaskOptions) -> list[Wanted]:
    """Load a set and choose the documents by the seed, whole ones with all their queries."""
    name = data.stem(path).removeprefix("summ_")
    by_document: dict[str, list[Item]] = {}
    for number, record in enumerate(data.load(path, fields=("document",)), start=1):
        references = tuple(data.as_list(record.get("references") or record.get("summary")))
        query = record.get("query")
        if not references or not str(record["document"]).strip():
            raise EvaluationError(
                f"{path}, record {number}: there is no "
                + ("document" if references else "summary"),
                hint="every record needs document, and summary or a list of references",
            )
        item = Item(
            id=str(record.get("id", number)),
            query=str(query) if query else None,
            references=references,
        )
        by_document.setdefault(str(record["document"]), []).append(item)
    items = [item for group in by_document.values() for item in group]
    if len({item.id for item in items}) < len(items):
        raise EvaluationError(f"{path}: two summaries have the same id", hint="make ids unique")
    words = round(median(len(r.split()) for item in items for r in item.references))
    documents = list(by_document)
    random.Random(options.seed).shuffle(documents)
    wanted, left = [], options.limit or _LIMIT
    for document in documents:
        if left <= 0:
            break
        some = tuple(by_document[document][:left])
        left -= len(some)
        wanted.append(Wanted(set=name, document=document, words=words, items=some))
    return wanted
