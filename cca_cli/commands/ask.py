"""``cca ask``: questions over documents, answers with pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cca_cli.answer_options import (
    ContinueOpt,
    MaxNewTokensOpt,
    NoLogOpt,
    PassagesOpt,
    QuotesOpt,
    ReadOpt,
    SeedOpt,
    TemperatureOpt,
    TopPOpt,
)
from cca_cli.completion import complete_documents
from cca_cli.console import Console
from cca_cli.errors import ExitCode, PartialFailureError, UsageError
from cca_cli.inputs import once, split_arguments, unique_names
from cca_cli.model_loading import DEFAULT_ADAPTER, DEFAULT_MODEL
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
    NoSaveOpt,
    OfflineOpt,
    PagesOpt,
    PasswordFileOpt,
    PdfBackendOpt,
    QuietOpt,
    StrictOpt,
    VerboseOpt,
    WindowOpt,
)
from cca_cli.questions import Question, collect_questions, stream_questions

if TYPE_CHECKING:
    from cca_cli.conversation import Conversation
    from cca_models.reading import AnswerStream


def ask(
    ctx: typer.Context,
    documents: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE|QUESTION",
            autocompletion=complete_documents,
            help="Documents, directories of them, patterns; - is stdin. The last one is the "
            "question, in quotes, unless it is a file.",
        ),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("--question", "-Q", metavar="TEXT", help="A question; may be repeated."),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--questions",
            metavar="FILE",
            help="Questions from a file: one a line, or JSON Lines with question and id; - takes "
            "them from stdin, each as it comes.",
        ),
    ] = None,
    continued: ContinueOpt = False,
    read: ReadOpt = "focus",
    passages: PassagesOpt = 3,
    max_new_tokens: MaxNewTokensOpt = 64,
    temperature: TemperatureOpt = 0.0,
    top_p: TopPOpt = 1.0,
    seed: SeedOpt = 0,
    quotes: QuotesOpt = True,
    fail_if_not_found: Annotated[
        bool,
        typer.Option(
            "--fail-if-not-found", help="Exit 3 if the document does not contain an answer."
        ),
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--map",
            metavar="FILE",
            help="Draw where in the documents the model looked (.png, .svg or .pdf; needs the "
            "extra cca[plot]).",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "-n", help="Only say what it would take: memory, disk, time."),
    ] = False,
    no_log: NoLogOpt = False,
    no_save: NoSaveOpt = False,
    cache: CacheOpt = "use",
    pages: PagesOpt = None,
    kind: FormatOpt = None,
    encoding: EncodingOpt = None,
    password_file: PasswordFileOpt = None,
    pdf_backend: PdfBackendOpt = "auto",
    strict: StrictOpt = False,
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
    """Answer questions from documents, with page numbers and quotes.

    A document that has not been read yet is read first and kept in the library. Several documents
    are asked together; citations then name the file.

    \b
    Examples:
      cca ask book.pdf "Who inherits the estate?"
      cca ask may.pdf june.pdf "When was the bridge closed?"
      cca ask -c "And when was it opened again?"
      cat notes.md | cca ask - "What is still open?" --json | jq -r .answer
      cca ask book.pdf --questions list.jsonl --jsonl > answers.jsonl
    """
    # Importing these for --help would slow it down.
    from cca_cli.collecting import collect_documents
    from cca_cli.conversation import Conversation, load
    from cca_cli.conversation_settings import Settings, earlier_conversation, open_log

    console = Console.of(ctx)
    elsewhere = bool(more) or questions is not None or dry_run
    named, question = split_arguments(
        documents or [], asked_elsewhere=elsewhere, continued=continued
    )
    named = once(collect_documents(console, named))
    streamed = questions is not None and str(questions) == "-"
    if streamed and "-" in named:
        raise UsageError(
            "standard input cannot hold the document and the questions",
            hint="name a file for one of them",
        )
    asked: list[Question] = []
    if question is not None or more or not (streamed or (dry_run and questions is None)):
        asked = collect_questions(question, more or [], None if streamed else questions)
    earlier = earlier_conversation(named) if continued else None
    settings = Settings.of(ctx, earlier.settings if earlier else None)
    paths = earlier.paths if earlier else named
    settings.check(console, paths)
    if earlier and not named:
        console.note(f"following on about {', '.join(unique_names(paths))}")
    if picture is not None:
        from cca_cli.attention_map import check_map

        check_map(picture, settings.read)
    if dry_run:
        from cca_cli.dry_run import report

        report(
            console,
            load(console, settings)[0],
            [(path, settings.reading(console, path)) for path in paths],
            questions=len(asked),
            remembered=settings.read != "lexical",
        )
        return
    conversation = Conversation(
        console,
        settings,
        paths,
        log=open_log(no_log=no_log, cache=cache),
        earlier=earlier,
    )
    alone = len(asked) == 1 and not streamed
    items = chain(asked, stream_questions(len(asked) + 1)) if streamed else asked
    records = _answer_all(console, conversation, items, alone, quotes, picture)
    if console.mode == "json":
        console.json(records[0] if alone else {"answers": records})
    failed = sum(record["error"] is not None for record in records)
    if failed:
        raise PartialFailureError(f"{failed} of {len(records)} questions could not be answered")
    if fail_if_not_found and any(record["found"] is False for record in records):
        raise typer.Exit(ExitCode.NOT_FOUND)


def _answer_all(
    console: Console,
    conversation: Conversation,
    items: Iterable[Question],
    alone: bool,
    quotes: bool,
    picture: Path | None,
) -> list[dict[str, object]]:
    """Answer one question after the other; each is written out before the next is taken."""
    records = []
    for i, item in enumerate(items):
        if console.human and not alone:
            console.result(f"{'' if i == 0 else chr(10)}{item.text}")
        draw = _drawing(console, conversation, picture, item, alone) if picture else None
        records.append(conversation.ask(item, quotes=quotes, alone=alone, draw=draw))
        if console.mode == "jsonl":
            console.json(records[-1])
    return records


def _drawing(
    console: Console, conversation: Conversation, picture: Path, item: Question, alone: bool
) -> Callable[[AnswerStream], Path]:
    """Return what draws one answer's map; several answers get a file each, named by id."""

    def draw(stream: AnswerStream) -> Path:
        from cca_cli.attention_map import map_file, save_map

        path = picture if alone else map_file(picture, item.id)
        save_map(stream, path, warn=console.warn)
        console.note(f"{path}: where the model looked")
        return path

    return draw
