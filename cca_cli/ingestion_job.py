"""The steps of opening one document: recognise, look up, read, prefill, store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cca_cli.console import Console
from cca_cli.document_text import (
    ReadOptions,
    absolute,
    fingerprint_of,
    summary_line,
    tokenize,
)
from cca_cli.failures import explain
from cca_cli.formatting import format_duration
from cca_cli.ingestion_checkpoints import Checkpoints
from cca_cli.ingestion_growth import MARGIN_TOKENS, Grown, find_grown, memory_of
from cca_cli.ingestion_types import FileChangedError, OpenDocument, Plan
from cca_cli.interrupts import deferred_interrupts
from cca_cli.library import DAMAGED, Library, Miss
from cca_cli.library_draft import Draft
from cca_cli.library_entry import Entry, Fingerprint, Settings, StoredText
from cca_cli.library_files import UNREADABLE
from cca_cli.library_locks import Lease
from cca_cli.library_space import make_room, size_cap, told_of
from cca_cli.limits import check_length, expect_disk

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel
    from cca_models.memory import Memory

__all__ = ["Job"]


@dataclass(kw_only=True, slots=True)
class Job:
    """One call of `open_document`."""

    path: str
    model: LanguageModel
    console: Console
    prefix_ids: tuple[int, ...]
    options: ReadOptions
    reserve: int
    on_plan: Callable[[Plan], None] | None
    library: Library
    must_keep: bool = True
    text: StoredText | None = None
    timing_s: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What to call the document."""
        return "stdin" if self.path == "-" else os.path.basename(self.path)

    @property
    def settings(self) -> Settings:
        """What it is read with, for people."""
        adapter = self.model.checkpoint.adapter
        return Settings(
            model=self.model.checkpoint.name,
            group_size=self.model.cca.group_size,
            window=self.model.cca.window,
            dtype=str(self.model.dtype).removeprefix("torch."),
            adapter=adapter.name if adapter else None,
        )

    def recognise(self) -> Fingerprint:
        """Find out what the document is, by reading it only where there is no other way."""
        # Standard input cannot be read twice; a file that cannot be read gets the reader's words.
        if self.text is None and os.path.isfile(self.path) and os.access(self.path, os.R_OK):
            with suppress(OSError):
                return fingerprint_of(self.path, None, self.model, self.prefix_ids, self.options)
        text = self.text or self._read()
        return fingerprint_of(self.path, text.document, self.model, self.prefix_ids, self.options)

    def look_up(self, wanted: Fingerprint) -> OpenDocument | Miss:
        """Open the library's entry, or say why there is none to use."""
        lease = self.library.use(wanted)
        found = self.library.lookup(wanted, path=absolute(self.path), settings=self.settings)
        if isinstance(found, Miss):
            return found
        try:
            with self._timed("cache_load"):
                text = self.stored_text(found.entry)
                if isinstance(text, Miss):
                    return text
                memory = _load_memory(found.entry.memory_path, self.model)
        except FileNotFoundError:
            return Miss("it was removed from the library at this moment")
        if isinstance(memory, str) or memory.seen != len(text.ids):
            detail = memory if isinstance(memory, str) else "memory and tokens do not agree"
            return Miss(f"{DAMAGED}: {detail}")
        if memory.capacity < len(text.ids) + self.reserve:
            return Miss("read with too little room for the question and answer")
        found.entry.touch()
        self.console.detail(f"{summary_line(text)}; from the library")
        return self._opened(text, memory, reason=None, entry=found.entry, lease=lease)

    def stored_text(self, entry: Entry) -> StoredText | Miss:
        """Read an entry's text, under the name that the file has now."""
        try:
            text = entry.read_text()
            agree = text.prefix_tokens + sum(text.page_tokens) == len(text.ids)
        except UNREADABLE:
            return Miss(f"{DAMAGED}: its text or tokens cannot be read")
        if not agree:
            return Miss(f"{DAMAGED}: pages and tokens do not agree")
        self.options.require_text(text.document)
        named = replace(text.document, name=self.name, path=absolute(self.path))
        return replace(text, document=named)

    def tell_wait(self, holder: str) -> None:
        """Say that another process is making the same memory."""
        self.console.note(f"{self.name}: another cca (pid {holder}) is reading it; waiting")

    def read_only_now(self) -> OpenDocument:
        """Read without the library."""
        reason = "the library is off"
        text = self._announced_text()
        memory = self._new_memory(text)
        self._announce(text, 0, reason)
        self._prefill(text, memory, on_chunk=lambda done: None)
        return self._opened(text, memory, reason=reason, entry=None)

    def read_and_store(self, wanted: Fingerprint, reason: str, *, anew: bool) -> OpenDocument:
        """Read what the library lacks and store it. The caller holds the key."""
        cap = size_cap(self.library.root)
        draft = self.library.open_draft(wanted, self.settings)
        target = self.library.path_of(wanted)
        if anew:
            draft.discard()
        elif Draft.is_complete(draft.path):
            draft.promote(target)
            found = self.look_up(wanted)
            if isinstance(found, OpenDocument):
                return found
        grown = None
        try:
            text = self._text_of(draft, wanted)
            memory = self._resumed(draft, text)
            if memory is None:
                grown, memory = (None, None) if anew else self._continued(wanted, text)
                draft.start(text)
            memory = memory or self._new_memory(text)
            if grown is not None:
                reason = "it has grown since it was read"
            self._announce(text, memory.seen, reason)
            expect_disk(self.library.root, self.model, text, held=draft.saved_bytes)
            with deferred_interrupts(self._tell_stop) as stop:
                keep = Checkpoints(draft, text, memory, stop, self.console)
                before = self._prefill(text, memory, on_chunk=keep.on_chunk)
                entry = self._kept(draft, text, memory, target, before)
                if stop:
                    if entry is not None:
                        self.console.note(f"{self.name}: read to the end and stored")
                    stop.leave()
        except BaseException:
            draft.discard_if_useless()
            raise
        if entry is None:
            return self._opened(text, memory, reason=reason, entry=None)
        lease = self.library.use(wanted)
        self._tidy(cap, entry, grown)
        return self._opened(text, memory, reason=reason, entry=entry, lease=lease)

    def _kept(
        self, draft: Draft, text: StoredText, memory: Memory, target: Path, before: Memory | None
    ) -> Entry | None:
        """Store what was read; None where there is no room for it, and that is no failure."""
        try:
            with self._timed("save"), self.console.progress(self.name) as progress:
                progress("save", 0, 0)
                return draft.finish(text, memory, target, before=before)
        except OSError as error:
            if self.must_keep:
                raise
            # The reading took minutes, and what was asked can be answered from it.
            self.console.warn(
                f"{self.name}: not kept in the library ({explain(error).message}); "
                "the next question reads it again"
            )
        with suppress(OSError):
            draft.discard_if_useless()
        return None

    def _prefill(
        self, text: StoredText, memory: Memory, *, on_chunk: Callable[[int], None]
    ) -> Memory | None:
        """Read on to the end; returns the memory a few tokens before it, None if that is past."""
        start, total = memory.seen, len(text.ids)
        # Reading stops here whether it is stored or not: both must give the same memory.
        turn = self._turn(text)
        before = None
        if start == total:
            return None
        with self._timed("prefill"), self.console.progress(self.name) as progress:
            for end in (turn, total):
                begin = memory.seen
                if begin >= end:
                    continue
                if begin == start:
                    progress("prefill", start, total)
                if end == total and begin == turn:
                    before = memory.fork()

                def tell(done: int, _: int, begin: int = begin) -> None:
                    progress("prefill", begin + done, total)
                    if begin + done < total:
                        on_chunk(begin + done)

                self.model.prefill(memory, text.ids[begin:end].tolist(), on_chunk=tell)
        return before

    def _turn(self, text: StoredText) -> int:
        """Return where the reading stops for the state that an entry's margin leads back to."""
        return max(len(text.ids) - min(MARGIN_TOKENS, self.model.cca.window // 2), 1)

    def _continued(
        self, wanted: Fingerprint, text: StoredText
    ) -> tuple[Grown, Memory] | tuple[None, None]:
        """Take over the memory of an earlier, shorter version of the document."""
        grown = find_grown(self.library, wanted, absolute(self.path), text)
        # What is damaged here would live on in the new entry, whose digests fit it.
        if grown is None or grown.entry.damage(thorough=True) is not None:
            return None, None
        memory = _load_memory(grown.entry.memory_path, self.model)
        if isinstance(memory, str):
            return None, None
        capacity = len(text.ids) + self.reserve
        # A little further back than need be, so that the new entry gets a margin of its own.
        for tokens in (min(grown.tokens, self._turn(text)), grown.tokens):
            found = replace(grown, tokens=tokens)
            earlier = memory_of(found, memory, self.model, capacity)
            if earlier is not None:
                return found, earlier
        return None, None

    def _tidy(self, cap: int | None, entry: Entry, grown: Grown | None) -> None:
        """Remove what the new entry stands in for, and what the library has no room for."""
        if grown is not None and self.path != "-" and self.library.evict(grown.entry.path):
            self.console.detail(f"{self.name}: its earlier version has left the library")
        removed = make_room(self.library, cap, spare=(entry.key,))
        for line in told_of(removed, cap):
            self.console.note(line)

    def _tell_stop(self) -> None:
        self.console.note(
            f"{self.name}: stopping after this chunk, keeping what was read; "
            "Ctrl-C again stops at once"
        )

    def _text_of(self, draft: Draft, wanted: Fingerprint) -> StoredText:
        if self.text is None:
            self.text = draft.read_text()
        text = self._announced_text()
        if text.document.sha256 != wanted.document_sha256:
            raise FileChangedError(self.name)
        return text

    def _resumed(self, draft: Draft, text: StoredText) -> Memory | None:
        saved = draft.saved_memory()
        if saved is None:
            return None
        path, done = saved
        memory = _load_memory(path, self.model)
        if isinstance(memory, str) or memory.seen != done:
            self.console.warn(f"{self.name}: the interrupted run's memory is damaged; not used")
            return None
        if memory.capacity < len(text.ids) + self.reserve:
            return None
        return memory

    def _new_memory(self, text: StoredText) -> Memory:
        return self.model.new_memory(len(text.ids) + self.reserve)

    def text_read(self) -> StoredText:
        """Read the document unless that is done, and pass its warnings on."""
        text = self.text or self._read()
        self.options.require_text(text.document)
        for warning in text.document.warnings:
            self.console.warn(f"{self.name}: {warning}")
        return text

    def _announced_text(self) -> StoredText:
        text = self.text_read()
        self.console.note(summary_line(text))
        check_length(text, limit=self.model.max_tokens, reserve=self.reserve)
        return text

    def _announce(self, text: StoredText, done: int, reason: str) -> None:
        tokens = len(text.ids) - done
        seconds = self.model.estimate_seconds(len(text.ids))
        seconds -= self.model.estimate_seconds(done) if done else 0.0
        seconds = max(seconds, 0.0)
        plan = Plan(name=self.name, tokens=tokens, reason=reason, seconds=seconds)
        if done:
            self.console.note(
                f"{self.name}: {reason}; continuing after {done:,} of {len(text.ids):,} tokens"
            )
        else:
            self.console.note(
                f"{self.name}: {reason}; reading takes about {format_duration(seconds)}"
            )
        if self.on_plan is not None:
            self.on_plan(plan)

    def _read(self) -> StoredText:
        with self.console.progress(self.name) as progress:
            with self._timed("extract"):
                progress("read", 0, 0)
                document = self.options.read(self.path)
            with self._timed("tokenise"):
                self.text = tokenize(
                    document, self.model.tokenizer, self.prefix_ids, progress=progress
                )
        return self.text

    def _opened(
        self,
        text: StoredText,
        memory: Memory,
        *,
        reason: str | None,
        entry: Entry | None,
        lease: Lease | None = None,
    ) -> OpenDocument:
        if memory.seen != len(text.ids):
            raise RuntimeError(f"expected a memory of {len(text.ids)} tokens, got {memory.seen}")
        return OpenDocument(
            text=text,
            memory=memory,
            hit=reason is None,
            reason=reason,
            entry=entry,
            timing_s=dict(self.timing_s),
            lease=lease,
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timing_s[stage] = time.perf_counter() - start


def _load_memory(path: Path, model: LanguageModel) -> Memory | str:
    """Load a memory, or say what is wrong with the file."""
    # The engine imports torch.
    from cca_models.errors import MemoryFileError
    from cca_models.memory import Memory

    try:
        return Memory.load(path, model)
    except MemoryFileError as error:
        return str(error)
