"""``cca ask``: questions over one document, answers with pages."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cca_cli.answer_output import answer_json, citation_lines
from cca_cli.console import Console
from cca_cli.errors import CLIError, ExitCode, PartialFailureError
from cca_cli.failures import explain
from cca_cli.formatting import format_duration
from cca_cli.model_loading import DEFAULT_ADAPTER, DEFAULT_MODEL, open_model, warn_of_length
from cca_cli.options import (
    AdapterOpt,
    CacheOpt,
    DebugOpt,
    DeviceOpt,
    DtypeOpt,
    EncodingOpt,
    FormatOpt,
    GroupSizeOpt,
    JsonlOpt,
    JsonOpt,
    ModelOpt,
    OfflineOpt,
    PagesOpt,
    PasswordFileOpt,
    PdfBackendOpt,
    QuietOpt,
    VerboseOpt,
    WindowOpt,
)
from cca_cli.questions import Question, collect_questions

if TYPE_CHECKING:
    from cca_cli.document_text import ReadOptions
    from cca_cli.ingestion import OpenDocument, Plan
    from cca_models.engine import LanguageModel
    from cca_models.reading import Answer, Reader

# From here on a user would rather have known before the reading began.
_LONG_SECONDS = 30.0


def ask(
    ctx: typer.Context,
    document: Annotated[str, typer.Argument(help="PDF, Markdown or text file; - reads stdin.")],
    question: Annotated[str | None, typer.Argument(help="The question, in quotes.")] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("--question", "-Q", metavar="TEXT", help="A question; may be repeated."),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--questions",
            metavar="FILE",
            help="Questions from a file: one a line, or JSON Lines with question and id.",
        ),
    ] = None,
    read: Annotated[
        Literal["focus", "core", "lexical"],
        typer.Option(
            "--read",
            help="focus: the model's attention and BM25 find the passages, which are read in "
            "full; core: straight from the memory; lexical: BM25 alone, no memory needed.",
        ),
    ] = "focus",
    passages: Annotated[
        int, typer.Option("--passages", min=1, max=20, help="Passages read for one answer.")
    ] = 3,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, max=512, help="Longest answer, in tokens.")
    ] = 64,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0 writes the likeliest answer.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option("--top-p", min=0.01, max=1.0, help="Nucleus for sampling.")
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Seed for sampling.")] = 0,
    quotes: Annotated[
        bool, typer.Option("--quotes/--no-quotes", help="Show the sentences that are cited.")
    ] = True,
    fail_if_not_found: Annotated[
        bool,
        typer.Option(
            "--fail-if-not-found", help="Exit 3 if the document does not contain an answer."
        ),
    ] = False,
    cache: CacheOpt = "use",
    pages: PagesOpt = None,
    kind: FormatOpt = None,
    encoding: EncodingOpt = None,
    password_file: PasswordFileOpt = None,
    pdf_backend: PdfBackendOpt = "auto",
    model: ModelOpt = DEFAULT_MODEL,
    adapter: AdapterOpt = DEFAULT_ADAPTER,
    device: DeviceOpt = "auto",
    dtype: DtypeOpt = "auto",
    group_size: GroupSizeOpt = None,
    window: WindowOpt = None,
    offline: OfflineOpt = False,
    json: JsonOpt = False,
    jsonl: JsonlOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Answer questions from a document, with page numbers and quotes.

    A document that has not been read yet is read first and kept in the library.

    \b
    Examples:
      cca ask book.pdf "Who inherits the estate?"
      cat notes.md | cca ask - "What is still open?" --json | jq -r .answer
    """
    # Importing these for --help would slow it down.
    from cca_cli.document_text import ReadOptions
    from cca_cli.passwords import password_source

    console = Console.of(ctx)
    asked = collect_questions(question, more or [], questions)
    options = ReadOptions(
        pages=pages,
        password=password_source(console, password_file, document),
        backend=pdf_backend,
        kind=kind,
        encoding=encoding,
    )
    options.check(document)
    started = time.perf_counter()
    loaded = open_model(
        console,
        model,
        adapter=adapter,
        device=device,
        dtype=dtype,
        group_size=group_size,
        window=window,
        offline=offline,
    )
    session = _Session(console, loaded, document, options, time.perf_counter() - started)
    if read == "lexical":
        session.open_text()
    else:
        session.open_memory(cache)
    # torch is loaded by now.
    from cca_models.reading import Writing

    writing = Writing(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        passages=passages,
    )
    records = []
    alone = len(asked) == 1
    for i, item in enumerate(asked):
        if console.human and not alone:
            console.result(f"{'' if i == 0 else chr(10)}{item.text}")
        records.append(session.answer(item, read, writing, quotes=quotes, alone=alone))
        if console.mode == "jsonl":
            console.json(records[-1])
    if console.mode == "json":
        console.json(records[0] if alone else {"answers": records})
    failed = sum(record["error"] is not None for record in records)
    if failed:
        raise PartialFailureError(f"{failed} of {len(asked)} questions could not be answered")
    if fail_if_not_found and any(record["found"] is False for record in records):
        raise typer.Exit(ExitCode.NOT_FOUND)


class _Session:
    """One document, opened, and the questions to it."""

    def __init__(
        self,
        console: Console,
        model: LanguageModel,
        path: str,
        options: ReadOptions,
        load_seconds: float,
    ) -> None:
        self._console, self._model = console, model
        self._path, self._options = path, options
        self._timing: dict[str, float] = {"model_load": load_seconds}
        self._opened: OpenDocument | None = None
        self._reader: Reader | None = None
        self._opening_warnings: tuple[str, ...] = ()

    def open_text(self) -> None:
        """Open the text alone, for the lexical way."""
        from cca_cli.ingestion import open_text
        from cca_models.reading import Reader

        start = time.perf_counter()
        document = open_text(self._path, console=self._console, options=self._options)
        self._timing["extract"] = time.perf_counter() - start
        self._reader = Reader(self._model, document)
        self._opening_warnings = tuple(self._console.warnings)

    def open_memory(self, cache: Literal["use", "refresh", "off", "require"]) -> None:
        """Open the document with its memory, reading it if need be."""
        from cca_cli.ingestion import open_document, prefix_ids
        from cca_models.reading import Reader

        self._opened = open_document(
            self._path,
            self._model,
            console=self._console,
            prefix_ids=prefix_ids(self._model),
            options=self._options,
            cache=cache,
            on_plan=self._tell_plan,
        )
        text = self._opened.text
        warn_of_length(self._console, self._model, text.document.name, len(text.ids))
        self._timing.update(self._opened.timing_s)
        self._reader = Reader(
            self._model,
            self._opened.document,
            memory=self._opened.memory,
            page_spans=self._opened.text.page_spans,
        )
        self._opening_warnings = tuple(self._console.warnings)

    def _tell_plan(self, plan: Plan) -> None:
        if plan.seconds > _LONG_SECONDS:
            self._console.note(
                f"{plan.name}: the first answer comes in about {format_duration(plan.seconds)}, "
                "later ones at once; --read lexical answers now, without this reading"
            )

    def answer(
        self,
        item: Question,
        read: Literal["focus", "core", "lexical"],
        writing: Any,
        *,
        quotes: bool,
        alone: bool,
    ) -> dict[str, Any]:
        """Answer one question: stream it to a person, and return the JSON record."""
        # Cheap, but the package's own import is for commands that use a model.
        from cca_models.errors import ModelError

        assert self._reader is not None
        console = self._console
        try:
            stream = self._reader.ask(item.text, read=read, writing=writing)
            for piece in stream:
                if console.human:
                    console.write(piece)
        except (CLIError, ModelError, ValueError) as error:
            # One question fails with its own exit code; one of several stops no other.
            if alone or console.mode == "json":
                raise
            failure = explain(error)
            if console.human:
                console.error(failure)
            return self._record(item, None, error=failure.to_json())
        answer = stream.finished()
        if console.human:
            console.result()
            for line in citation_lines(answer, self._reader.document.unit, quotes=quotes):
                console.result(line)
        for warning in answer.warnings:
            console.warn(warning)
        return self._record(item, answer, error=None)

    def _record(
        self, item: Question, answer: Answer | None, *, error: dict[str, Any] | None
    ) -> dict[str, Any]:
        assert self._reader is not None
        cache = self._opened.cache_json() if self._opened else None
        tokens = len(self._opened.text.ids) if self._opened else None
        return answer_json(
            item,
            answer,
            document=self._reader.document,
            tokens=tokens,
            model=self._model,
            cache=cache,
            timing_s=self._timing,
            warnings=[*self._opening_warnings, *(answer.warnings if answer else ())],
            error=error,
        )
