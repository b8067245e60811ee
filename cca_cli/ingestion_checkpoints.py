"""Saving the memory while it is being made, so that a killed run can be continued."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cca_cli.console import Console
from cca_cli.interrupts import StopRequest
from cca_cli.library_draft import Draft
from cca_cli.library_entry import StoredText

if TYPE_CHECKING:
    from cca_models.memory import Memory

__all__ = ["CHECKPOINT_SECONDS", "Checkpoints"]

CHECKPOINT_SECONDS = 30.0
"""What a killed run loses at most, a chunk more. Saving takes about a second."""


class Checkpoints:
    """Looks after every chunk whether to save, and whether to stop.

    Args:
        draft: Where to save; the caller holds its key.
        text: What is being read.
        memory: What has been read of it.
        stop: Whether the user asked to stop.
        console: For what is to be told.
    """

    def __init__(
        self, draft: Draft, text: StoredText, memory: Memory, stop: StopRequest, console: Console
    ) -> None:
        self._draft, self._text, self._memory = draft, text, memory
        self._stop, self._console = stop, console
        self._saved_at = time.monotonic()
        self._can_save = True

    def on_chunk(self, done: int) -> None:
        """Save if it is time, or stop if that was asked for.

        Args:
            done: Tokens in the memory; fewer than all.

        Raises:
            KeyboardInterrupt: After saving, if Ctrl-C was pressed.
            SystemExit: The same for SIGTERM.
            OSError: If there is no room for what is to be kept when stopping.
        """
        if self._stop:
            self._draft.checkpoint(self._text, self._memory)
            self._console.note(
                f"{self._text.document.name}: kept {done:,} of {len(self._text.ids):,} tokens; "
                "the same command continues from there"
            )
            self._stop.leave()
        if self._can_save and time.monotonic() - self._saved_at > CHECKPOINT_SECONDS:
            self._save()
            self._saved_at = time.monotonic()

    def _save(self) -> None:
        try:
            self._draft.checkpoint(self._text, self._memory)
        except OSError as error:
            # No reason to stop: the disk may have room again by the end, and if it has not, the
            # user hears of it then.
            self._can_save = False
            self._console.warn(
                f"{self._text.document.name}: progress cannot be saved, "
                f"an interrupted run would begin further back ({error})"
            )
