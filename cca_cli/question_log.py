"""The log of questions and answers: one SQLite file among the user's data.

It holds what was asked and answered and where the answer stands, but no text of the documents.
Nothing is written with CCA_LOG=off, --no-log or --cache off. A log that cannot be written costs a
warning, never an answer.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cca_cli.errors import InputError
from cca_cli.paths import data_dir
from cca_cli.switches import means_off

if TYPE_CHECKING:
    import sqlite3

__all__ = ["QuestionLog", "is_on", "log_path", "logged_answer"]

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    asked TEXT NOT NULL,            -- UTC, ISO 8601
    conversation INTEGER NOT NULL,  -- id of its first question
    question TEXT NOT NULL,
    answer TEXT,
    found INTEGER,
    documents TEXT NOT NULL,        -- JSON: name, path, sha256, pages
    citations TEXT NOT NULL,        -- JSON: places, without quotes
    settings TEXT NOT NULL,         -- JSON: the options that the answer depends on
    model TEXT NOT NULL,
    seconds REAL,
    error TEXT                      -- JSON: code, message, hint
)
"""
_JSON = ("documents", "citations", "settings", "error")


def is_on() -> bool:
    """Say whether CCA_LOG leaves the log on."""
    return not means_off(os.environ.get("CCA_LOG", "").strip())


def log_path() -> Path:
    """Return the log's file, which need not exist yet."""
    return data_dir() / "questions.sqlite3"


def logged_answer(record: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Choose what the log keeps of an answer.

    Args:
        record: The JSON record of the answer.
        settings: The options that it depends on.

    Returns:
        A row for `QuestionLog.add`; no text of the documents is in it, so no quotes.
    """
    kept = ("name", "path", "sha256", "pages", "unit")
    return {
        "question": record["question"],
        "answer": record["answer"],
        "found": record["found"],
        "documents": [{name: one[name] for name in kept} for one in record["documents"]],
        "citations": [_place(citation) for citation in record["citations"]],
        "settings": dict(settings),
        "model": record["model"]["name"],
        "seconds": record["timing_s"].get("first_token", 0.0)
        + record["timing_s"].get("decode", 0.0),
        "error": record["error"],
    }


def _place(citation: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is text of the document: the quote, and the heading of a section."""
    text = ("quote",) if citation["unit"] == "page" else ("quote", "page_label")
    return {name: value for name, value in citation.items() if name not in text}


class QuestionLog:
    """The log in a file; made when the first answer is kept.

    Args:
        path: The file; the user's own if None.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or log_path()

    def add(self, record: Mapping[str, Any], *, conversation: int | None) -> tuple[int, int]:
        """Keep one answer.

        Args:
            record: The columns but `id`, `asked` and `conversation`.
            conversation: That it belongs to; None begins one.

        Returns:
            Its id, and the conversation's.

        Raises:
            sqlite3.Error: If the file cannot be written or is none of ours.
            OSError: If it cannot be made.
        """
        row = {**record, "asked": datetime.now(UTC).isoformat(timespec="seconds")}
        for name in _JSON:
            if row.get(name) is not None:
                row[name] = json.dumps(row[name], ensure_ascii=False)
        # A name or an argument that is not UTF-8 holds what SQLite does not take.
        row = {
            name: value.encode("utf-8", "backslashreplace").decode()
            if isinstance(value, str)
            else value
            for name, value in row.items()
        }
        row["conversation"] = conversation if conversation is not None else -1
        names = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        with self._open(make=True) as base:
            base.execute("BEGIN IMMEDIATE")
            done = base.execute(f"INSERT INTO answers ({names}) VALUES ({marks})", row)
            number = int(done.lastrowid or 0)
            if conversation is None:
                base.execute("UPDATE answers SET conversation = id WHERE id = ?", (number,))
            base.execute("COMMIT")
        return number, number if conversation is None else conversation

    def rows(
        self,
        *,
        limit: int | None = None,
        search: str | None = None,
        conversation: int | None = None,
        number: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return answers, the latest first.

        Args:
            limit: Most answers to return.
            search: Text that question, answer or a document's name or path must hold.
            conversation: Only these.
            number: Only the answer with this id.

        Raises:
            InputError: If the file is locked, or damaged.
        """
        if not self.path.exists():
            return []
        where, values = ["1"], []
        if search is not None:
            # instr takes the text as it is; LIKE would read % and _ as wildcards.
            columns = "question || char(10) || coalesce(answer, '') || char(10) || documents"
            where.append(f"instr(lower({columns}), lower(?)) > 0")
            values.append(search)
        for name, value in (("conversation", conversation), ("id", number)):
            if value is not None:
                where.append(f"{name} = ?")
                values.append(str(value))
        query = f"SELECT * FROM answers WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?"
        with self._explained(), self._open() as base:
            found = base.execute(query, (*values, -1 if limit is None else limit)).fetchall()
            return [_row(row) for row in found]

    def last_conversation(self) -> list[dict[str, Any]]:
        """Return the answers of the latest conversation, earliest first; failed ones left out.

        Raises:
            InputError: If there is none.
        """
        last = self.rows(limit=1)
        if not last:
            raise InputError(
                "there is no conversation to continue: the log is empty",
                hint='name the document: cca ask FILE "your question"',
            )
        found = self.rows(conversation=last[0]["conversation"])
        return [row for row in reversed(found) if row["error"] is None] or last

    def remove(
        self,
        numbers: Sequence[int] = (),
        *,
        older_than_days: int | None = None,
        everything: bool = False,
    ) -> int:
        """Remove answers for good: their text is overwritten, too.

        Args:
            numbers: Ids.
            older_than_days: Those that were asked longer ago than this as well.
            everything: All of them.

        Returns:
            How many were removed.

        Raises:
            InputError: If the file is locked, or damaged.
        """
        if not self.path.exists():
            return 0
        with self._explained():
            return self._remove(numbers, older_than_days, everything)

    def _remove(self, numbers: Sequence[int], older_than_days: int | None, everything: bool) -> int:
        gone = 0
        with self._open() as base:
            base.execute("PRAGMA secure_delete = ON")
            if everything:
                gone += base.execute("DELETE FROM answers").rowcount
            for number in numbers:
                gone += base.execute("DELETE FROM answers WHERE id = ?", (number,)).rowcount
            if older_than_days is not None:
                day = datetime.now(UTC) - timedelta(days=older_than_days)
                done = base.execute(
                    "DELETE FROM answers WHERE asked < ?", (day.isoformat(timespec="seconds"),)
                )
                gone += done.rowcount
        with self._open() as base:
            base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            base.execute("VACUUM")
        return gone

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in words what SQLite finds wrong with the file."""
        import sqlite3

        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            if "locked" in str(error):
                hint = "another program holds it; try again when that is done"
            else:
                hint = f"begin a new one: mv {shlex.quote(str(self.path))} damaged.sqlite3"
            raise InputError(f"{self.path}: the log cannot be read: {error}", hint=hint) from error

    @contextmanager
    def _open(self, *, make: bool = False) -> Iterator[sqlite3.Connection]:
        """Open the file for one piece of work, which is done whole or not at all."""
        # Most commands keep no log.
        import sqlite3

        if make and not self.path.exists():
            # Before SQLite makes it with the permissions of any file; its side files copy these.
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
        # No transaction but those that are begun here.
        base = sqlite3.connect(self.path, timeout=5, isolation_level=None)
        try:
            base.row_factory = sqlite3.Row
            version = int(base.execute("PRAGMA user_version").fetchone()[0])
            if version > _VERSION:
                raise InputError(
                    f"{self.path}: written by a newer version of cca",
                    hint="update cca, or CCA_LOG=off",
                )
            if version < _VERSION:
                base.execute("PRAGMA journal_mode = WAL")
                base.execute(_SCHEMA)
                base.execute(f"PRAGMA user_version = {_VERSION}")
            yield base
        finally:
            base.close()


def _row(row: sqlite3.Row) -> dict[str, Any]:
    found = dict(row)
    for name in _JSON:
        if found[name] is not None:
            found[name] = json.loads(found[name])
    if found["found"] is not None:
        found["found"] = bool(found["found"])
    return found
