"""Output: results on stdout, everything else on stderr.

A `Console` belongs to one call of the program. Commands write results through it and never
print; whether a result is text or JSON is its `mode`, set by the shared options.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TextIO

from cca_cli.errors import UsageError
from cca_cli.failures import Failure
from cca_cli.formatting import format_bytes, format_moment, strip_control
from cca_cli.safe_output import dump_json, emit, one_line, tell

if TYPE_CHECKING:
    import typer

    from cca_cli.progress import ProgressBar
    from cca_cli.settings import Settings
    from cca_models.engine import LanguageModel

__all__ = ["Console", "Mode", "Progress"]

Mode = Literal["human", "json", "jsonl"]
Progress = Callable[[str, int, int], None]
"""Called with a stage, the units done and the units in all; 0 in all means unknown."""

SCHEMA_VERSION = 1
_MAX_WARNINGS = 5
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?[+-]\d\d:\d\d")


class Console:
    """Where one call of ``cca`` writes, and how much.

    Attributes:
        mode: Form of the results: text, one JSON object, or one object per line.
        quiet: Errors only on stderr.
        verbosity: 0, 1 (more notes) or 2 (the libraries' messages too).
        debug: Show tracebacks.
        color: "auto", "always" or "never".
        warnings: Every warning given so far, for JSON results.
        settings: What the user's config file says, if it was read.
        models: The model that the last call loaded, by what it was asked for; None to keep none.
    """

    def __init__(self) -> None:
        self.mode: Mode = "human"
        self.quiet = False
        self.verbosity = 0
        self.debug = os.environ.get("CCA_DEBUG", "0") not in ("", "0")
        self.color: Literal["auto", "always", "never"] = "auto"
        self.warnings: list[str] = []
        self.settings: Settings | None = None
        self.models: dict[Any, LanguageModel] | None = None
        self._bar: ProgressBar | None = None

    @classmethod
    def of(cls, ctx: typer.Context) -> Console:
        """Return the console of a running command, set up by the options before and after it.

        Args:
            ctx: Context of the command.

        Raises:
            UsageError: If the options contradict each other.
        """
        root = ctx.find_root()
        if not isinstance(root.obj, cls):
            root.obj = cls()
        console = root.obj
        console._apply(root)
        if ctx is not root:
            console._apply(ctx)
        return console

    def _apply(self, ctx: Any) -> None:
        options: Mapping[str, Any] = ctx.params
        forms: list[Mode] = [form for form in ("json", "jsonl") if options.get(form)]
        if len(forms) > 1:
            # What was typed beats what a file or a variable says.
            forms = [form for form in forms if _typed(ctx, form)]
            if len(forms) != 1:
                raise UsageError("--json and --jsonl exclude each other", hint="leave one out")
        if forms:
            self.mode = forms[0]
        self.quiet = self.quiet or bool(options.get("quiet"))
        self.debug = self.debug or bool(options.get("debug"))
        self.color = options.get("color", self.color)
        if options.get("verbose"):
            self.be_verbose(int(options["verbose"]))
        if options.get("offline"):
            # The hub's client reads this one; ours are told by argument.
            os.environ["HF_HUB_OFFLINE"] = "1"

    @property
    def human(self) -> bool:
        """Whether results are text for people rather than JSON."""
        return self.mode == "human"

    def be_verbose(self, level: int) -> None:
        """Raise the verbosity, and let the libraries' log messages through from level 2 on."""
        import logging

        self.verbosity = max(self.verbosity, level)
        ours = logging.INFO if self.verbosity >= 1 else logging.WARNING
        for name in ("cca_cli", "cca_models", "cca_kernels"):
            logging.getLogger(name).setLevel(ours)
        if self.verbosity >= 2:
            logging.getLogger().setLevel(logging.INFO)

    # Results, on stdout.

    def result(self, text: str = "") -> None:
        """Write a line of a result."""
        self.write(text + "\n")

    def write(self, piece: str) -> None:
        """Write a piece of a streamed result at once, without what could steer a terminal.

        In a pipe, too: what reads it is often `less` or `tee`, with a terminal at its end. Form
        feeds stay there, between the pages of a text.
        """
        ends = "" if sys.stdout.isatty() else "\f"
        parts = piece.split("\f") if ends else [piece]
        emit(ends.join(strip_control(part) for part in parts))

    def json(self, value: Mapping[str, Any]) -> None:
        """Write one JSON object: indented for --json, on one line for --jsonl."""
        record = {"schema_version": SCHEMA_VERSION, **value}
        emit(dump_json(record, indent=2 if self.mode == "json" else None) + "\n")

    def facts(self, pairs: Sequence[tuple[str, object]]) -> None:
        """Write names and values, one a line: below one another on a terminal, else by a tab."""
        names = [strip_control(name) for name, _ in pairs]
        wide = max(map(len, names), default=0) + 2 if sys.stdout.isatty() else 0
        for name, (_, value) in zip(names, pairs, strict=True):
            apart = name.ljust(wide) if wide else f"{name}\t"
            self.result(f"{apart}{_cell(value)}".rstrip(" "))

    def listing(
        self,
        key: str,
        rows: Sequence[Mapping[str, Any]],
        columns: Sequence[str],
        *,
        spare: Sequence[str] = (),
    ) -> None:
        """Write rows: as a table, as tab-separated text when piped, or as JSON.

        Args:
            key: Name of the list in the object that --json prints.
            rows: One mapping per row; JSON prints all of it.
            columns: Keys that the text forms show, in order. A key ending in ``bytes`` is shown
                with a unit on a terminal and as a plain number when piped; a moment as the
                clock shows it.
            spare: Columns that a terminal too narrow for all goes without, the first one first.
        """
        if self.mode == "json":
            self.json({key: list(rows)})
        elif self.mode == "jsonl":
            for row in rows:
                self.json(row)
        elif sys.stdout.isatty():
            self._table(rows, columns, spare)
        else:
            lines = [columns, *([_cell(row[name]) for name in columns] for row in rows)]
            self.write("".join("\t".join(line) + "\n" for line in lines))

    def _table(
        self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], spare: Sequence[str]
    ) -> None:
        from cca_cli.tables import MANY_ROWS, aligned, fitting

        lines = [[strip_control(_pretty_cell(n, row[n])) for n in columns] for row in rows]
        shown = fitting(columns, lines, spare)
        columns = [columns[at] for at in shown]
        lines = [[line[at] for at in shown] for line in lines]
        right = [bool(rows) and isinstance(rows[0][name], int) for name in columns]
        if len(rows) >= MANY_ROWS:
            self.write(aligned(columns, lines, right))
            return
        # rich costs start-up time; only a table on a terminal needs it.
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for name, numeric in zip(columns, right, strict=True):
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for line in lines:
            table.add_row(*map(Text, line))
        RichConsole(file=sys.stdout, no_color=not self.use_color(sys.stdout)).print(table)

    # Messages, on stderr.

    def note(self, text: str) -> None:
        """Tell the user something on stderr, unless --quiet."""
        if not self.quiet:
            self._message(text)

    def detail(self, text: str) -> None:
        """Tell the user something on stderr with --verbose."""
        if self.verbosity and not self.quiet:
            self._message(text)

    def warn(self, text: str) -> None:
        """Warn on stderr, one line; after the first few the rest are only counted."""
        self.warnings.append(text)
        if len(self.warnings) <= _MAX_WARNINGS:
            self.note(f"cca: warning: {text}")
        elif len(self.warnings) == _MAX_WARNINGS + 1:
            self.note("cca: warning: there are more; --json lists them all")

    def error(self, failure: Failure) -> None:
        """Write a failure on stderr: two lines, or an object with --json and --jsonl."""
        if not self.human:
            self._message(dump_json({"error": failure.to_json()}))
            return
        label = "cca: error:"
        if self.use_color(sys.stderr):
            label = f"\x1b[31m{label}\x1b[0m"
        hint = f"\nhint: {one_line(failure.hint)}" if failure.hint else ""
        tell(f"{label} {one_line(failure.message)}{hint}\n")

    def _message(self, text: str) -> None:
        # The name of a file may hold a line end, and must not pass for a message of its own.
        tell(one_line(text) + "\n")

    def use_color(self, stream: TextIO) -> bool:
        """Decide on colour; NO_COLOR wins over FORCE_COLOR, an option over both."""
        if self.color != "auto":
            return self.color == "always"
        if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return False
        return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()

    @contextmanager
    def progress(self, label: str) -> Iterator[Progress]:
        """Show the progress of one job on stderr while the block runs.

        A bar on a terminal; elsewhere at most one plain line per tenth of a stage.

        Args:
            label: What is at work, usually the name of a document.
        """
        if self.quiet:
            yield _ignore
        elif sys.stderr.isatty():
            # rich is imported in there, for terminals only.
            from cca_cli.progress import ProgressBar

            with ProgressBar(label, color=self.use_color(sys.stderr)) as self._bar:
                yield self._bar
            self._bar = None
        else:
            from cca_cli.progress import PlainProgress

            yield PlainProgress(label, self._message)

    def ask_secret(self, question: str) -> str | None:
        """Ask for a secret on the terminal; None if there is nobody to ask."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return None
        import getpass

        with self._bar.hidden() if self._bar is not None else nullcontext():
            return getpass.getpass(strip_control(question), stream=sys.stderr)


def _typed(ctx: Any, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _ignore(stage: str, done: int, total: int) -> None:
    """Swallow progress."""


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = "" if value is None else str(value)
    return text.replace("\t", " ").replace("\r", " ").replace("\n", " ")


def _pretty_cell(name: str, value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return format_bytes(value) if name.endswith("bytes") else f"{value:,}"
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        return format_moment(value)
    return _cell(value)
