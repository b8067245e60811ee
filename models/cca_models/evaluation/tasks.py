"""The tasks by name; each is imported when it is asked for."""

from collections.abc import Callable
from importlib import import_module

from cca_models.evaluation.types import EvaluationError, Task, TaskOptions

# Module of this package, and what makes the task there.
_TASKS = {
    "ppl": ("ppl", "Perplexity"),
    "multidoc": ("multidoc", "MultiDocument"),
    "squad": ("multidoc", "squad"),
    "locate": ("locate", "Locate"),
    "needle": ("needle", "Needle"),
    "longqa": ("longqa", "LongQuestions"),
    "summary": ("summary", "Summaries"),
    "longbench": ("longbench", "LongBench"),
}


def task_names() -> tuple[str, ...]:
    """Give the names of all tasks."""
    return tuple(_TASKS)


def make_task(name: str, options: TaskOptions) -> Task:
    """Make a task and load its data.

    Raises:
        EvaluationError: If there is no such task, or its data cannot be used.
    """
    if name not in _TASKS:
        raise EvaluationError(f"task {name!r} is unknown", hint=f"one of {', '.join(_TASKS)}")
    module, maker = _TASKS[name]
    make: Callable[[TaskOptions], Task] = getattr(
        import_module(f"cca_models.evaluation.{module}"), maker
    )
    return make(options)
