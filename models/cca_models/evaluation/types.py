"""What evaluation is made of: units of work, rows of results, tables; tasks, methods, readings.

A task cuts its data into units; a method reads a unit's context and answers; every answer is a row,
written down as it comes; a table is computed from rows alone, so it can be made again from a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cca_models.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from cca_models.tokenizer import Tokenizer

# A JSON object: "task", "method" and "key" name it; "metrics" maps names to numbers, which are
# fractions unless the task says otherwise; the rest are facts. A unit that could not be run gives
# one row that has "error", a sentence, and no metrics.
Row = dict[str, Any]
By = Literal["attention", "bm25", "fused"]


class EvaluationError(ModelError):
    """Data that a task cannot use, or results of other settings; `hint` says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """A piece of work that is done whole or not at all.

    Attributes:
        key: Unique in the task, and the same in every run that would give the same rows.
        tokens: About how many tokens are read; 0 if the task does not know.
        data: What the task needs to run it.
    """

    key: str
    tokens: int = 0
    data: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A mean with its 95 % interval.

    Attributes:
        mean: Of n values.
        low: Lower end of the interval.
        high: Upper end.
        n: Values.
        percent: Whether it is a fraction, to be shown as a percentage.
    """

    mean: float
    low: float
    high: float
    n: int
    percent: bool = True


Cell = str | int | float | Figure | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """What is printed of a task.

    Attributes:
        task: The task's name.
        title: One line above it.
        columns: Names of the columns.
        lines: The cells, line by line, one for each column.
        notes: Sentences beneath it.
    """

    task: str
    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        text: As written.
        found: False if it says that the text does not say; None if nobody can tell.
    """

    text: str
    found: bool | None = True


class Reading(Protocol):
    """A context that has been read."""

    @property
    def tokens(self) -> int:
        """Tokens of the context, the prompt's beginning included."""

    def ask(self, question: str, *, max_new_tokens: int = 32) -> Reply:
        """Answer a question about the context."""

    def rank(self, question: str, *, by: By) -> list[int]:
        """Order the passages, best first.

        Returns:
            Places of the passages in the context; empty if they cannot be ranked this way.
        """


class Method(Protocol):
    """A way to read a context and answer from it."""

    @property
    def name(self) -> str:
        """As the user names it."""

    def read(self, passages: Sequence[str], *, room: int = 512) -> Reading:
        """Read a context.

        Args:
            passages: Its parts in order; an empty line comes between them.
            room: Most tokens of a question with its prompt and of its answer, together.

        Raises:
            ContextTooLongError: If the model cannot be stretched that far.
        """

    def note(self, tokens: int) -> str:
        """Say what must be known about figures of this length; empty if nothing."""


class ScoringMethod(Method, Protocol):
    """A method that has a probability for every token, and so a perplexity."""

    def losses(self, ids: Sequence[int]) -> "Tensor":
        """Read tokens and say how unlikely each was, nats, float32 [len(ids) - 1] on the CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskOptions:
    """What the user asked of a task.

    Attributes:
        tokenizer: Of the model: lengths are counted in its tokens.
        data: Folder with the data files, by their usual names.
        data_file: One file of the user's own instead.
        lengths: Tokens of a context, ascending; empty for the task's own.
        limit: Most questions, documents or cells of a kind; None for the task's own.
        seed: Of all that is drawn.
        unanswerable: Share of the questions whose answer is taken out of the context.
        max_new_tokens: Most tokens of an answer; None for the task's own.
    """

    tokenizer: "Tokenizer"
    data: Path | None = None
    data_file: Path | None = None
    lengths: tuple[int, ...] = ()
    limit: int | None = None
    seed: int = 0
    unanswerable: float = 0.0
    max_new_tokens: int | None = None


class Task(Protocol):
    """A task; made from TaskOptions, see cca_models.evaluation.tasks."""

    @property
    def name(self) -> str:
        """As the user names it."""

    @property
    def files(self) -> Sequence[Path]:
        """The data files that it reads."""

    def settings(self) -> Mapping[str, Any]:
        """Give what changes rows of equal keys, JSON-able; the seed and the files are added."""

    def methods(self, asked: Sequence[str]) -> Sequence[str]:
        """Choose the methods to run, of those asked for or, where it has its own, others."""

    def units(self) -> Sequence[Unit]:
        """Cut the data into units; the same ones for the same seed."""

    def run(self, unit: Unit, method: Method) -> list[Row]:
        """Run one unit; at least one row. The runner adds "task", "method" and "unit"."""

    def table(self, rows: Sequence[Row]) -> Table:
        """Sum up rows of this task, of all methods; those with "error" are left to the runner."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """A task when it is done.

    Attributes:
        table: Its table.
        rows: All its rows, those that were there before included.
        failed: Sentences on what could not be run.
    """

    table: Table
    rows: tuple[Row, ...] = field(repr=False)
    failed: tuple[str, ...] = ()
