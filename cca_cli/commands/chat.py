"""``cca chat``: question after question over documents that stay open."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

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
from cca_cli.errors import CLIError, PartialFailureError, UsageError
from cca_cli.inputs import once
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
from cca_cli.questions import Question

if TYPE_CHECKING:
    from cca_cli.conversation import Conversation
    from cca_cli.question_log import QuestionLog

_COMMANDS = {
    "/help": "what can be typed",
    "/docs": "the documents that are asked",
    "/new": "forget what was said; the next question follows from nothing",
    "/quotes": "show or hide the sentences that are cited",
    "/quit": "leave; so does Ctrl-D",
}


def chat(
    ctx: typer.Context,
    documents: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            autocompletion=complete_documents,
            help="Documents, directories of them, patterns.",
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
    jsonl: JsonlOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Ask question after question; one may follow from another.

    Model and documents are opened once. Questions are typed, or piped in, one a line; /help tells
    what else can be typed.

    \b
    Examples:
      cca chat book.pdf
      cca chat -c
      printf 'Who inherits the estate?\\nAnd the garden?\\n' | cca chat book.pdf --jsonl
    """
    # Importing these for --help would slow it down.
    from cca_cli.collecting import collect_documents
    from cca_cli.conversation import Conversation
    from cca_cli.conversation_settings import Settings, earlier_conversation, open_log
    from cca_cli.question_prompt import typed_questions

    console = Console.of(ctx)
    named = once(collect_documents(console, documents or []))
    if not named and not continued:
        raise UsageError("no document was named", hint="cca chat FILE, or cca chat -c")
    if "-" in named:
        raise UsageError(
            "standard input holds the questions of a chat, not the document",
            hint="cca ask - answers single questions about standard input",
        )
    earlier = earlier_conversation(named) if continued else None
    settings = Settings.of(ctx, earlier.settings if earlier else None)
    paths = earlier.paths if earlier else named
    settings.check(console, paths)
    log = open_log(no_log=no_log, cache=cache)
    conversation = Conversation(console, settings, paths, log=log, earlier=earlier, follow=True)
    console.note(f"asking {_names(conversation)}; /help, or Ctrl-D to leave")
    lines = typed_questions(console, remembered=_remembered(log), commands=tuple(_COMMANDS))
    talk = _Talk(console, conversation, quotes=quotes, typed=sys.stdin.isatty())
    for line in lines:
        if not talk.take(line):
            break
    talk.end()


class _Talk:
    """What is done with the lines of a chat."""

    def __init__(
        self, console: Console, conversation: Conversation, *, quotes: bool, typed: bool
    ) -> None:
        self._console, self._conversation = console, conversation
        self._quotes, self._typed = quotes, typed
        self._asked = self._failed = 0

    def take(self, line: str) -> bool:
        """Answer a question or obey a command; False if it ends the chat."""
        text = line.strip()
        if text.startswith("/"):
            return self._obey(text)
        if text:
            self._answer(text)
        return True

    def end(self) -> None:
        """End the chat.

        Raises:
            PartialFailureError: If questions from a pipe failed; who types has seen it.
        """
        if self._failed and not self._typed:
            raise PartialFailureError(
                f"{self._failed} of {self._asked} questions could not be answered"
            )

    def _answer(self, text: str) -> None:
        console = self._console
        self._asked += 1
        if console.human and not self._typed:
            console.result(text)
        item = Question(str(self._asked), text)
        try:
            record: dict[str, Any] = self._conversation.ask(item, quotes=self._quotes, alone=False)
        except KeyboardInterrupt:
            if not self._typed:
                raise
            console.result()
            console.note("stopped")
            return
        self._failed += record["error"] is not None
        if console.human:
            console.result()
        else:
            console.json(record)

    def _obey(self, text: str) -> bool:
        console = self._console
        match text.split()[0]:
            case "/quit" | "/exit" | "/q":
                return False
            case "/help":
                for name, does in _COMMANDS.items():
                    console.note(f"  {name:8} {does}")
            case "/docs":
                for document in self._conversation.documents:
                    count = f"{len(document.pages):,} {document.unit}s"
                    console.note(f"  {document.name}: {count}, {document.path}")
            case "/new":
                self._conversation.forget()
                console.note("what was said is forgotten")
            case "/quotes":
                self._quotes = not self._quotes
                console.note(f"quotes are {'shown' if self._quotes else 'hidden'}")
            case other:
                console.note(f"{other} is not known; /help tells what is")
        return True


def _names(conversation: Conversation) -> str:
    names = [document.name for document in conversation.documents]
    return names[0] if len(names) == 1 else f"{len(names)} documents: {', '.join(names)}"


def _remembered(log: QuestionLog | None) -> list[str]:
    """Return the questions of earlier calls, the latest last."""
    if log is None or not sys.stdin.isatty():
        return []
    try:
        return [str(row["question"]) for row in reversed(log.rows(limit=200))]
    except CLIError:
        # A damaged log costs the arrow keys, not the chat.
        return []
