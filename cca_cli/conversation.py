"""Documents, opened once, and the questions that are put to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cca_cli.answer_output import answer_json, citation_lines, document_json
from cca_cli.console import Console
from cca_cli.conversation_settings import Earlier, Settings
from cca_cli.document_text import absolute
from cca_cli.errors import CLIError
from cca_cli.failures import explain
from cca_cli.formatting import format_duration
from cca_cli.inputs import unique_names
from cca_cli.model_loading import asked_model, warn_of_length
from cca_cli.questions import Question

if TYPE_CHECKING:
    from cca_cli.ingestion import Plan
    from cca_cli.question_log import QuestionLog
    from cca_models.documents import Document
    from cca_models.engine import LanguageModel
    from cca_models.reading import Answer, AnswerStream, Source

__all__ = ["Conversation", "load"]

# From here on a user would rather have known before the reading began.
_LONG_SECONDS = 30.0
# A follow-up sees so many of the turns before it: they take room from the passages.
_TURNS = 2


def load(console: Console, settings: Settings) -> tuple[LanguageModel, float]:
    """Load the model that the settings name; returns it with the seconds that this took."""
    started = time.perf_counter()
    model = asked_model(console, asdict(settings))
    return model, time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class _Opened:
    source: Source
    tokens: int | None
    cache: dict[str, object] | None


class Conversation:
    """Some documents, opened, and the questions to them.

    Args:
        console: Where answers and messages go.
        settings: How documents are read and answers written.
        paths: The documents, at least one.
        log: Where answers are kept; None for nowhere.
        earlier: The conversation that this one continues.
        follow: Whether each question follows from the one before.
    """

    def __init__(
        self,
        console: Console,
        settings: Settings,
        paths: Sequence[str],
        *,
        log: QuestionLog | None,
        earlier: Earlier | None = None,
        follow: bool = False,
    ) -> None:
        self._console, self._settings, self._log = console, settings, log
        self._follow = follow or earlier is not None
        self._number = earlier.number if earlier else None
        self._turns = list(earlier.turns) if earlier else []
        self._model, seconds = load(console, settings)
        self._timing: dict[str, float] = {"model_load": seconds}
        names = unique_names([absolute(path) for path in paths])
        self._opened = [self._open(path, name) for path, name in zip(paths, names, strict=True)]
        self._opening_warnings = tuple(console.warnings)
        if earlier is not None:
            self._warn_of_change(earlier)
        # torch is loaded by now.
        from cca_models.reading import Reader, Writing

        self._reader = Reader.over(self._model, [one.source for one in self._opened])
        self._writing = Writing(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=settings.seed,
            passages=settings.passages,
        )

    @property
    def documents(self) -> tuple[Document, ...]:
        """What is asked about."""
        return self._reader.documents

    def forget(self) -> None:
        """Begin a new conversation about the same documents."""
        self._turns, self._number = [], None

    def _open(self, path: str, name: str) -> _Opened:
        from cca_models.reading import Source

        options = self._settings.reading(self._console, path)
        if self._settings.read == "lexical":
            from cca_cli.ingestion import open_text

            start = time.perf_counter()
            document = open_text(path, console=self._console, options=options)
            self._spend({"extract": time.perf_counter() - start})
            return _Opened(Source(document=replace(document, name=name)), None, None)
        from cca_cli.ingestion import open_document, prefix_ids

        opened = open_document(
            path,
            self._model,
            console=self._console,
            prefix_ids=prefix_ids(self._model),
            options=options,
            cache=self._settings.cache,
            on_plan=self._tell_plan,
            must_keep=False,
        )
        self._spend(opened.timing_s)
        warn_of_length(self._console, self._model, name, len(opened.text.ids))
        source = Source(
            document=replace(opened.document, name=name),
            memory=opened.memory,
            page_spans=opened.text.page_spans,
        )
        return _Opened(source, len(opened.text.ids), opened.cache_json())

    def _spend(self, timing_s: Any) -> None:
        for stage, seconds in timing_s.items():
            self._timing[stage] = self._timing.get(stage, 0.0) + seconds

    def _tell_plan(self, plan: Plan) -> None:
        if plan.seconds > _LONG_SECONDS:
            self._console.note(
                f"{plan.name}: the first answer comes in about {format_duration(plan.seconds)}, "
                "later ones at once; --read lexical answers now, without this reading"
            )

    def _warn_of_change(self, earlier: Earlier) -> None:
        for one in self._opened:
            document = one.source.document
            if earlier.digests.get(document.path, document.sha256) != document.sha256:
                self._console.warn(f"{document.name} has changed since the conversation began")

    def ask(
        self,
        item: Question,
        *,
        quotes: bool,
        alone: bool,
        draw: Callable[[AnswerStream], Path] | None = None,
    ) -> dict[str, Any]:
        """Answer one question: stream it to a person, and return the JSON record.

        Args:
            item: The question.
            quotes: Whether the sentences cited are shown.
            alone: Whether it is the only one; its failure is then the call's.
            draw: Draws the map of a finished answer, and gives its file.

        Raises:
            CLIError, ModelError, ValueError: If it fails and stands alone.
        """
        # torch is loaded by now; the package's own import is for commands that use a model.
        import torch

        from cca_models.errors import ModelError
        from cca_models.reading import Turn

        console, picture = self._console, None
        history = [Turn(*turn) for turn in self._turns[-_TURNS:]] if self._follow else []
        try:
            if item.problem is not None:
                raise item.problem
            stream = self._reader.ask(
                item.text, read=self._settings.read, writing=self._writing, history=history
            )
            for piece in stream:
                if console.human:
                    console.write(piece)
            if console.human:
                console.result()
            answer = stream.finished()
            if draw is not None:
                picture = draw(stream)
        except (CLIError, ModelError, ValueError, MemoryError, torch.OutOfMemoryError) as error:
            # One question fails with its own exit code; one of several stops no other.
            if alone:
                raise
            failure = explain(error)
            if console.human:
                console.error(failure)
            return self._record(item, None, error=failure.to_json())
        if console.human:
            for line in citation_lines(answer, quotes=quotes, named=len(self._opened) > 1):
                console.result(line)
        for warning in answer.warnings:
            console.warn(warning)
        if answer.found is not False:
            self._turns.append((item.text, answer.answer))
        return self._record(item, answer, error=None, picture=picture)

    def _record(
        self,
        item: Question,
        answer: Answer | None,
        *,
        error: dict[str, Any] | None,
        picture: Path | None = None,
    ) -> dict[str, Any]:
        record = answer_json(
            item,
            answer,
            documents=[
                document_json(one.source.document, tokens=one.tokens, cache=one.cache)
                for one in self._opened
            ],
            model=self._model,
            timing_s=self._timing,
            warnings=[*self._opening_warnings, *(answer.warnings if answer else ())],
            error=error,
            picture=picture,
        )
        record["log"] = self._keep(record)
        return record

    def _keep(self, record: dict[str, Any]) -> dict[str, int] | None:
        """Put an answer into the log; gives its places there."""
        if self._log is None:
            return None
        # Nothing else here needs a database.
        import sqlite3

        from cca_cli.question_log import logged_answer

        number = self._number if self._follow else None
        try:
            row = logged_answer(record, self._settings.kept())
            own, conversation = self._log.add(row, conversation=number)
        except (sqlite3.Error, OSError, CLIError, ValueError) as error:
            self._console.warn(f"the answer is not in the log ({self._log.path}): {error}")
            self._log = None
            return None
        self._number = conversation
        return {"id": own, "conversation": conversation}
