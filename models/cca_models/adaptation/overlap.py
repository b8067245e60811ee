"""Proof that what is trained on holds no evaluation text: shared runs of 13 words.

Runs that stand in many training records (licences, menus, verses) prove nothing and are left out.
A record counts as overlapping when it holds 30 % of a short evaluation text's runs, or 3 % of a
long one's: what is below that are quotations (a law, a verse) that stand in many books.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from cca_models.adaptation.sources import available, read_records

_WORD = re.compile(r"[^\W_]+")
_RUN = 13
_COMMON = 5
_SHARE_OF_SHORT, _SHARE_OF_LONG, _LEAST = 0.3, 0.03, 3
# Sampled runs of a text that is long: some 4,000 words.
_LONG = 1000
# One run in four is looked at, chosen by its hash: enough, and four times less to remember.
_SAMPLE = 4


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training record that holds evaluation text.

    Attributes:
        source: File of the record.
        record: Its id.
        evaluation: File and id of the evaluation text.
        share: Of the evaluation text's runs.
    """

    source: str
    record: str
    evaluation: str
    share: float


def find_overlap(
    data: Path, evaluation: Path, *, on_file: Callable[[str], None] | None = None
) -> list[Overlap]:
    """Compare every training record with every evaluation text.

    Args:
        data: Folder with pretrain/, qa/ and summarise/.
        evaluation: Folder with evaluation files, JSON Lines, plain or packed with xz.
        on_file: Told of every file.
    """
    runs: dict[int, set[int]] = {}
    names: list[str] = []
    sizes: list[int] = []
    for path in sorted(evaluation.glob("*.jsonl*")):
        if on_file:
            on_file(path.name)
        seen: dict[int, int] = {}
        for number, record in enumerate(read_records(path)):
            for text in _texts(record):
                digest = hash(text)
                if digest in seen:
                    continue
                seen[digest] = len(names)
                found = set(_runs(text))
                names.append(f"{path.name} {record.get('id', number)}")
                sizes.append(len(found))
                for run in found:
                    runs.setdefault(run, set()).add(len(names) - 1)
    held: list[tuple[str, str, set[int]]] = []
    often: Counter[int] = Counter()
    for source in available(data):
        file = source.file(data)
        assert file is not None
        if on_file:
            on_file(file.name)
        last: dict[str, set[int]] = {}
        for number, record in enumerate(read_records(file)):
            for text in _texts(record):
                if text in last:
                    continue
                shared = {run for run in _runs(text) if run in runs}
                last = {text: shared} if len(text) > 2000 else last
                if shared:
                    often.update(shared)
                    held.append((file.name, str(record.get("id", number)), shared))
    overlaps = []
    for name, record_id, shared in held:
        hits: Counter[int] = Counter()
        for run in shared:
            if often[run] <= _COMMON:
                hits.update(runs[run])
        for text_id, count in hits.items():
            share = count / sizes[text_id]
            most = _SHARE_OF_LONG if sizes[text_id] >= _LONG else _SHARE_OF_SHORT
            if share >= most and count >= _LEAST:
                overlaps.append(Overlap(name, record_id, names[text_id], share))
    return overlaps


def _texts(record: Mapping[str, Any]) -> Iterator[str]:
    """Give the long texts of a record, whatever its kind."""
    for name in ("text", "context", "document", "content"):
        value = record.get(name)
        if isinstance(value, str):
            yield value
    for value in record.get("contexts") or ():
        if isinstance(value, str):
            yield value


def _runs(text: str) -> Iterator[int]:
    """Give the hashes of a text's runs of 13 words that fall into the sample."""
    words = _WORD.findall(text.lower())
    for start in range(len(words) - _RUN + 1):
        run = " ".join(words[start : start + _RUN]).encode()
        value = int.from_bytes(blake2b(run, digest_size=8).digest(), "little")
        if value % _SAMPLE == 0:
            yield value
