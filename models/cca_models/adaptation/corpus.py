"""Training data as tokens: made once from the sources' text, then mapped from disk.

Three tables. *Texts*: whole documents for language modelling. *Contexts* with *questions*: every
context is cut into pieces as the reader cuts passages, and each question knows its context, the
pieces that hold its answer, the pieces of other contexts that BM25 takes for relevant, and whether
its words name its own context among all. *Summaries*: documents with a summary and, for some, the
request that it answers.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from cca_models.adaptation.context_pieces import Context, Question, cut_contexts
from cca_models.adaptation.neighbours import find_neighbours
from cca_models.adaptation.ragged import Ids, Ragged
from cca_models.adaptation.sources import Source, available, read_records
from cca_models.adaptation.synthetic import blanks, facts
from cca_models.fingerprints import file_sha256
from cca_models.model_store import building
from cca_models.reading.passages import sentences
from cca_models.reading.prompts import QUESTION
from cca_models.tokenizer import Tokenizer, load_tokenizer

_FORMAT = 5
# Questions made from the texts, as two more sources: "blanks" and "facts".
_BLANKS, _FACTS = 50_000, 8_000
_ARRAYS = (
    "texts", "pieces", "continued", "context_pieces", "titles", "questions", "bare_questions",
    "answers", "question_answers", "gold", "neighbours", "documents", "requests", "summaries",
)  # fmt: skip
_HELD_OUT = 40  # one context in so many
_FLAT = (
    "held_out",
    "text_source",
    "context_source",
    "question_context",
    "named",
    "summary_source",
    "sentences",
)
# Texts tokenised by one process at a time.
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Corpus:
    """Tokens of all sources, mapped.

    Attributes:
        sources: Names; the *_source arrays count in it.
        arrays: Ragged ones: see the module's first lines and `prepare`.
        flat: Plain ones.
    """

    sources: tuple[str, ...]
    arrays: Mapping[str, Ragged]
    flat: Mapping[str, Ids]

    @classmethod
    def load(cls, folder: Path) -> "Corpus":
        """Map what `prepare` made."""
        about = json.loads((folder / "corpus.json").read_text())
        return cls(
            sources=tuple(about["sources"]),
            arrays={name: Ragged.load(folder / name) for name in _ARRAYS},
            flat={
                name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                for name in _FLAT
            },
        )

    def tokens(self) -> dict[str, int]:
        """Count the tokens of texts, contexts and documents to summarise."""
        return {name: len(self.arrays[name].values) for name in ("texts", "pieces", "documents")}


def prepare(
    data: Path,
    checkpoint: Path,
    folder: Path,
    *,
    workers: int | None = None,
    on_source: Callable[[str], None] | None = None,
) -> Corpus:
    """Turn the sources of a data folder into tokens; what is there already is used again.

    Args:
        data: Folder with pretrain/, qa/ and summarise/.
        checkpoint: Directory with the tokenizer.
        folder: Where the tokens go, one subfolder for each state of data and tokenizer.
        workers: Processes; the number of cores by default.
        on_source: Told the name of each source that is tokenised.

    Raises:
        ModelError: If files are missing or damaged.
        OSError: If the tokens cannot be written.
    """
    sources = available(data)
    tokenizer = load_tokenizer(checkpoint)
    state = {
        "format": _FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "files": {s.name: file_sha256(_file(s, data)) for s in sources},
    }
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    # Of the processes of one training, the first makes it and the others wait.
    with building(digest, root=folder) as (target, aside):
        if aside is not None:
            # Forked children would inherit the threads' locks of whoever calls.
            with ProcessPoolExecutor(
                workers, mp_context=get_context("spawn"), initializer=_start, initargs=(checkpoint,)
            ) as pool:
                _write(sources, data, tokenizer, aside, pool, on_source)
            about = {**state, "sources": [*(s.name for s in sources), "blanks", "facts"]}
            (aside / "corpus.json").write_text(json.dumps(about, indent=1))
    return Corpus.load(target)


def _file(source: Source, data: Path) -> Path:
    path = source.file(data)
    assert path is not None
    return path


def _write(
    sources: Sequence[Source],
    data: Path,
    tokenizer: Tokenizer,
    folder: Path,
    pool: ProcessPoolExecutor,
    on_source: Callable[[str], None] | None,
) -> None:
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    texts: list[str] = []
    text_source: list[int] = []
    contexts: list[Context] = []
    questions: list[Question] = []
    documents: list[tuple[int, str, str, list[str]]] = []
    for place, source in enumerate(sources):
        if on_source:
            on_source(source.name)
        records = list(read_records(_file(source, data)))
        if source.kind == "text":
            texts += [r["text"] for r in records]
            text_source += [place] * len(records)
        elif source.kind == "questions":
            cut_contexts(records, place, contexts, questions)
        else:
            documents += [
                (place, r["document"], r.get("query") or "", r.get("references") or [r["summary"]])
                for r in records
            ]
    names = [s.name for s in sources]
    for kind, invented in (
        ("blanks", blanks(texts, _BLANKS, seed=1)),
        ("facts", facts(_FACTS, seed=2)),
    ):
        if on_source:
            on_source(kind)
        cut_contexts(list(invented), len(names), contexts, questions)
        names.append(kind)
    if on_source:
        on_source("tokens")
    encode = partial(_encode_all, pool, dtype)
    pieces = [piece for context in contexts for piece in context.pieces]
    answers = [a for q in questions for a in q.answers]
    summaries = [(i, s) for i, d in enumerate(documents) for s in d[3]]
    made: dict[str, Ragged] = {
        "texts": encode(texts),
        "pieces": encode(pieces),
        # The same as they stand in running text, behind another piece.
        "continued": encode([f" {piece}" for piece in pieces]),
        "context_pieces": _runs([len(c.pieces) for c in contexts]),
        "titles": encode([c.title for c in contexts]),
        "questions": encode([f"{QUESTION} {q.text}" for q in questions]),
        # As people type them into a search box.
        "bare_questions": encode([f"{QUESTION} {_bare(q.text)}" for q in questions]),
        "answers": encode([f" {a}" for a in answers]),
        "question_answers": _runs([len(q.answers) for q in questions]),
        "gold": Ragged.of((q.gold for q in questions), np.int32),
        "documents": encode([d[1] for d in documents]),
        "requests": encode([f"{QUESTION} {d[2]}" if d[2] else "" for d in documents]),
        "summaries": encode([s for _, s in summaries]),
    }
    if on_source:
        on_source("neighbours")
    neighbours = find_neighbours(contexts, questions, sources=len(sources))
    made["neighbours"] = Ragged.of(neighbours.pieces, np.int32)
    flat = {
        "text_source": np.asarray(text_source, np.int32),
        "context_source": np.asarray([c.source for c in contexts], np.int32),
        "held_out": np.asarray([_is_held_out(c) for c in contexts], np.bool_),
        "question_context": np.asarray([q.context for q in questions], np.int32),
        "named": np.asarray(neighbours.named, np.bool_),
        "summary_source": np.asarray(
            [[documents[i][0], i] for i, _ in summaries], np.int32
        ).reshape(-1, 2),
        "sentences": np.asarray([_sentences(s) for _, s in summaries], np.int32),
    }
    for name, array in made.items():
        array.save(folder / name)
    for name, values in flat.items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)


def _is_held_out(context: Context) -> bool:
    """Choose contexts that are never trained on, for measuring and choosing on this side."""
    text = context.pieces[0].encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "little") % _HELD_OUT == 0


def _bare(question: str) -> str:
    return question.rstrip("?. ").lower()


def _runs(lengths: Sequence[int]) -> Ragged:
    """Give each of several runs of consecutive numbers as a row."""
    starts = np.cumsum(np.asarray([0, *lengths], np.int64))
    return Ragged(np.arange(starts[-1], dtype=np.int32), starts)


def _sentences(summary: str) -> int:
    return max(1, len(sentences(summary)))


_tokenizer: Tokenizer | None = None


def _start(checkpoint: Path) -> None:
    """Load the tokenizer once in each process."""
    global _tokenizer
    _tokenizer = load_tokenizer(checkpoint)


def _encode_batch(texts: Sequence[str]) -> list[Ids]:
    assert _tokenizer is not None
    # Bytes through the pipe, not millions of integer objects.
    return [np.asarray(_tokenizer.encode(text), np.uint32) for text in texts]


def _encode_all(pool: ProcessPoolExecutor, dtype: Any, texts: Sequence[str]) -> Ragged:
    """Tokenise texts in the pool, in order."""
    rest = iter(texts)
    batches = iter(lambda: list(islice(rest, _BATCH)), [])
    rows = (row for part in pool.map(_encode_batch, batches) for row in part)
    return Ragged.of(rows, dtype)
