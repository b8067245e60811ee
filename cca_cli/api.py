"""The commands as Python functions: what `--json` prints comes back as the same dictionaries.

    import cca_cli

    answer = cca_cli.ask("book.pdf", "Who inherits the estate?")
    print(answer["answer"], answer["citations"][0]["page"])

An option of the command is a keyword with underscores: --max-new-tokens 32 is max_new_tokens=32,
--no-quotes is quotes=False. Defaults are the command line's, CCA_* variables included; the config
file is left to people. Nothing is printed. Errors are raised: `CLIError` and its kinds,
`cca_models.errors.ModelError` and its kinds, OSError. The last model stays loaded for the next
call. One call at a time: not for several threads at once.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cca_cli.console import SCHEMA_VERSION, Console, Progress
from cca_cli.errors import PartialFailureError, UsageError

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel

__all__ = [
    "ask",
    "command",
    "count",
    "forget_models",
    "ingest",
    "list_documents",
    "list_models",
    "summarise",
]

Document = str | os.PathLike[str]

_models: dict[Any, LanguageModel] = {}


def ask(
    documents: Document | Sequence[Document],
    question: str | Sequence[str],
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Any:
    """Answer questions from one or several documents, as `cca ask --json` does.

    Args:
        documents: Path of a file, or paths of files that are asked together.
        question: One question, or several.
        progress: Called with a stage, the units done and the units in all (0 if unknown).
        options: Of the command.

    Returns:
        The answer's dictionary, or a list of them for several questions; one that could not be
        answered then has its "error" set.

    Raises:
        CLIError: If a document cannot be read, is too long, or an option is wrong.
        ModelError: If the model cannot be used.
    """
    alone = isinstance(question, str)
    asked = [question] if isinstance(question, str) else list(question)
    if not asked:
        raise UsageError("no question was asked", hint="give one, or a list of them")
    record = command("ask", *_paths(documents), progress=progress, question=asked, **options)
    answers = record.get("answers", [record])
    return answers[0] if alone else answers


def ingest(
    documents: Document | Sequence[Document],
    *,
    progress: Progress | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Read documents into the library, as `cca ingest --json` does.

    Args:
        documents: Path of a file, or paths.
        progress: As in `ask`.
        options: Of the command.

    Returns:
        One dictionary per document; of several, one that could not be read has its "error" set.

    Raises:
        CLIError: If the only document cannot be read.
        ModelError: If the model cannot be used.
    """
    record = command("ingest", *_paths(documents), progress=progress, **options)
    return list(record["documents"])


def summarise(
    document: Document, *, progress: Progress | None = None, **options: Any
) -> dict[str, Any]:
    """Summarise a document, as `cca summarise --json` does; the arguments are those of `ask`."""
    return command("summarise", *_paths(document), progress=progress, **options)


def count(documents: Document | Sequence[Document], **options: Any) -> Any:
    """Count tokens and what reading would take, as `cca count --json` does.

    Args:
        documents: Path of a file, or paths.
        options: Of the command.

    Returns:
        The document's dictionary, or a list of them for several; of these, one that could not be
        read has its "error" set.

    Raises:
        CLIError: If the only document cannot be read.
        ModelError: If the model cannot be used.
    """
    record = command("count", *_paths(documents), **options)
    if isinstance(documents, (str, os.PathLike)) and "documents" not in record:
        return record
    return list(record.get("documents", [record]))


def list_documents() -> list[dict[str, Any]]:
    """Return the documents in the library, as `cca docs ls --json` does."""
    return list(command("docs", "ls")["documents"])


def list_models() -> list[dict[str, Any]]:
    """Return the models on this machine, as `cca models ls --json` does."""
    return list(command("models", "ls")["models"])


def forget_models() -> None:
    """Let go of the model that was kept for the next call."""
    _models.clear()


def command(*words: str, progress: Progress | None = None, **options: Any) -> dict[str, Any]:
    """Run any command that knows --json, and return what it would print.

    Args:
        words: The command's name, or names, and its arguments: "docs", "show", "book.pdf".
        progress: As in `ask`.
        options: Its options. True and False switch, None leaves the default, a list repeats.

    Raises:
        UsageError: If there is no such command or option, or a value is wrong.
        CLIError: As the command line reports it.
    """
    console = _Recorder(progress)
    names, arguments, found = _split(words)
    try:
        _parser().main(
            args=[*names, *_typed(found, options), "--json", "--", *arguments],
            prog_name="cca",
            standalone_mode=False,
            obj=console,
        )
    except PartialFailureError:
        # The records say which failed, and why.
        if not console.records:
            raise
    except Exception as error:
        if hasattr(error, "format_message"):
            message = " ".join(error.format_message().split()).rstrip(".")
            raise UsageError(message, hint=f"cca {' '.join(names)} --help") from None
        raise
    return console.records[-1] if console.records else {"schema_version": SCHEMA_VERSION}


class _Recorder(Console):
    """A console that keeps results and writes nothing."""

    def __init__(self, progress: Progress | None) -> None:
        super().__init__()
        self.mode = "json"
        self.quiet = True
        self.records: list[dict[str, Any]] = []
        self.models = _models
        self._progress = progress

    def json(self, value: Mapping[str, Any]) -> None:
        """Keep a result."""
        self.records.append({"schema_version": SCHEMA_VERSION, **value})

    def write(self, piece: str) -> None:
        """Write nothing."""

    @contextmanager
    def progress(self, label: str) -> Iterator[Progress]:
        """Pass progress on to the caller."""
        yield self._progress or (lambda stage, done, total: None)

    def ask_secret(self, question: str) -> str | None:
        """Ask nobody: a library must not wait at a terminal."""
        return None


@functools.cache
def _parser() -> Any:
    """Return the command line's parser; making it takes longer than a call of it."""
    import typer.main

    from cca_cli.app import app
    from cca_cli.settings import name_variables

    root = typer.main.get_command(app)
    name_variables(root)
    return root


def _paths(documents: Document | Sequence[Document]) -> list[str]:
    if isinstance(documents, (str, os.PathLike)):
        documents = [documents]
    return [os.fspath(path) for path in documents]


def _split(words: Sequence[str]) -> tuple[list[str], list[str], Any]:
    """Tell the names of a command from its arguments, which may look like options; find it."""
    names: list[str] = []
    found = _parser()
    for word in words:
        children = getattr(found, "commands", {})
        if word not in children:
            break
        names.append(word)
        found = children[word]
    if not names or getattr(found, "commands", {}):
        raise UsageError(f"{' '.join(words)}: no such command", hint="cca --help")
    return names, list(words[len(names) :]), found


def _typed(found: Any, options: Mapping[str, Any]) -> Iterator[str]:
    """Write options as they are typed."""
    switches = {"--json", "--jsonl"}
    known = {name: p for p in found.params if p.param_type_name == "option" for name in p.opts}
    for name, value in options.items():
        flag = f"--{name.strip('_').replace('_', '-')}"
        parameter = known.get(flag)
        if parameter is None or flag in switches:
            raise UsageError(
                f"{name} is no option of {found.name}", hint=f"cca {found.name} --help lists them"
            )
        if value is None:
            continue
        if isinstance(value, bool):
            # What is off unless it is switched on has no other form.
            yield from [flag] if value else parameter.secondary_opts[:1]
            continue
        for item in value if isinstance(value, (list, tuple)) else [value]:
            yield f"{flag}={os.fspath(item) if isinstance(item, os.PathLike) else item}"
