"""How a conversation's documents are read and answered from: the options, and the log's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cca_cli.errors import InputError, UsageError

if TYPE_CHECKING:
    import typer

    from cca_cli.console import Console
    from cca_cli.document_text import ReadOptions
    from cca_cli.options import CachePolicy
    from cca_cli.question_log import QuestionLog

__all__ = ["Earlier", "Settings", "earlier_conversation", "open_log"]

# What an earlier answer depended on, so that a follow-up is answered alike.
_KEPT = (
    "model", "adapter", "group_size", "window", "read", "pages", "kind", "encoding",
    "pdf_backend",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The options of ``cca ask`` and ``cca chat``, under the names that the commands give them."""

    model: str
    adapter: str
    device: str
    dtype: str
    group_size: int | None
    window: int | None
    offline: bool
    read: Literal["focus", "core", "lexical"]
    passages: int
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    cache: CachePolicy
    pages: str | None
    kind: Any
    encoding: str | None
    password_file: Path | None
    pdf_backend: Literal["auto", "pypdf", "pdfium"]
    strict: bool

    @classmethod
    def of(cls, ctx: typer.Context, earlier: Mapping[str, Any] | None = None) -> Settings:
        """Take them from a running command.

        Args:
            ctx: Its context.
            earlier: Those of the conversation that it continues; they count where the user says
                nothing.
        """
        settings = cls(**{field.name: ctx.params[field.name] for field in fields(cls)})
        if earlier is None:
            return settings
        silent = [name for name in _KEPT if name in earlier and not _was_given(ctx, name)]
        return replace(settings, **{name: earlier[name] for name in silent})

    def kept(self) -> dict[str, Any]:
        """Return what the log keeps of them."""
        return {name: getattr(self, name) for name in _KEPT}

    def reading(self, console: Console, path: str) -> ReadOptions:
        """Return how one of the documents is read."""
        from cca_cli.document_text import ReadOptions

        return ReadOptions.asked(console, path, asdict(self))

    def check(self, console: Console, paths: Sequence[str]) -> None:
        """Refuse, before a model is loaded, what can be seen at once to be impossible.

        Raises:
            CLIError: If a file is missing or of no known format, or the options exclude each other.
        """
        if self.read == "core" and len(paths) > 1:
            raise UsageError(
                f"--read core answers from one memory, and there are {len(paths)} documents",
                hint="--read focus finds the passages in all of them",
            )
        for path in paths:
            self.reading(console, path).check(path)


def _was_given(ctx: typer.Context, name: str) -> bool:
    """Say whether the user chose an option's value, by argument or by variable."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT", "PROMPT")


@dataclass(frozen=True, slots=True)
class Earlier:
    """A conversation from the log.

    Attributes:
        number: Its id.
        paths: Its documents.
        digests: SHA-256 of each document, by path.
        settings: What its last answer depended on.
        turns: Questions and answers, earliest first; those not found left out.
    """

    number: int
    paths: tuple[str, ...]
    digests: Mapping[str, str]
    settings: Mapping[str, Any]
    turns: tuple[tuple[str, str], ...]


def open_log(*, no_log: bool, cache: str) -> QuestionLog | None:
    """Return the log that answers go to; None if they go nowhere."""
    from cca_cli.question_log import QuestionLog, is_on

    # --cache off leaves nothing behind, and an answer is something.
    return None if no_log or cache == "off" or not is_on() else QuestionLog()


def earlier_conversation(named: Sequence[str]) -> Earlier:
    """Look the last conversation up in the log.

    Args:
        named: Documents that the user named; they stand for the conversation's.

    Raises:
        InputError: If there is none, or its document was standard input.
    """
    from cca_cli.question_log import QuestionLog, is_on

    if not is_on():
        raise InputError(
            "there is no conversation to continue: the log is off", hint="unset CCA_LOG"
        )
    rows = QuestionLog().last_conversation()
    documents = rows[-1]["documents"]
    paths = tuple(named) or tuple(str(one["path"]) for one in documents)
    if "-" in paths and not named:
        raise InputError(
            "the last conversation was about standard input, which is gone",
            hint='name the document: cca ask -c FILE "your question"',
        )
    return Earlier(
        number=int(rows[-1]["conversation"]),
        paths=paths,
        digests={str(one["path"]): str(one["sha256"]) for one in documents},
        settings=rows[-1]["settings"],
        turns=tuple(
            (str(row["question"]), str(row["answer"])) for row in rows if row["found"] is not False
        ),
    )
