"""Where the questions of ``cca chat`` come from: a prompt on a terminal, or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from cca_cli.console import Console

__all__ = ["typed_questions"]

_PROMPT = "> "


def typed_questions(
    console: Console, *, remembered: Sequence[str] = (), commands: Sequence[str] = ()
) -> Iterator[str]:
    """Go through the lines that are typed, or piped in, until there are no more.

    Args:
        console: For colour.
        remembered: Earlier questions, the latest last: the arrow keys bring them back.
        commands: Words that the tab key completes.
    """
    if not sys.stdin.isatty():
        # Each line as soon as it is there: another program may be asking.
        yield from iter(sys.stdin.readline, "")
        return
    # A tenth of a second, and terminals only.
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.output import ColorDepth, create_output

    session: PromptSession[str] = PromptSession(
        # stdout holds the answers alone, even if it is a file.
        output=create_output(stdout=sys.stderr),
        history=InMemoryHistory(list(remembered)),
        completer=WordCompleter(list(commands), sentence=True),
        complete_while_typing=False,
        color_depth=None if console.use_color(sys.stderr) else ColorDepth.MONOCHROME,
    )
    while True:
        try:
            yield session.prompt(_PROMPT)
        except KeyboardInterrupt:
            continue  # what was typed is dropped, as in a shell
        except EOFError:
            return
