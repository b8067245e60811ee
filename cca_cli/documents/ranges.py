"""Page numbers as people write them: "1-20,35,40-" and "label:iv-xii", read and written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from cca_cli.errors import UsageError

__all__ = ["page_ranges", "select_pages"]

_RANGE = re.compile(r"(?P<first>\d*)\s*(?P<dash>-?)\s*(?P<last>\d*)", re.ASCII)


def page_ranges(numbers: Iterable[int]) -> str:
    """Write page numbers shortly: [1, 2, 3, 7] as "1-3, 7"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def select_pages(
    spec: str | None, labels: Sequence[str | None], *, name: str, unit: str = "page"
) -> list[int]:
    """Resolve a `--pages` value to page numbers.

    Args:
        spec: "1-20,35,40-", "label:iv-xii", or None for every page.
        labels: The printed label of every page of the document, None where it has none.
        name: What to call the document in errors.
        unit: What to call its pages in errors.

    Returns:
        Page numbers from 1, ascending, each once.

    Raises:
        UsageError: If the value is malformed or names a page that the document lacks.
    """
    count = len(labels)
    if spec is None:
        return list(range(1, count + 1))
    by_label = spec.strip().casefold().startswith("label:")
    body = spec.strip()[len("label:") :] if by_label else spec
    chosen: set[int] = set()
    for part in (item.strip() for item in body.split(",")):
        if not part:
            continue
        first, last = (
            _labelled(part, labels, name=name)
            if by_label
            else _physical(part, count, name=name, unit=unit)
        )
        chosen.update(range(first, last + 1))
    if not chosen:
        raise UsageError(f"--pages {spec!r}: names no page", hint=_hint(count))
    return sorted(chosen)


def _physical(part: str, count: int, *, name: str, unit: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(part)
    if match is None or not (match["first"] or match["last"]):
        raise UsageError(f"--pages {part!r}: not a page number or range", hint=_hint(count))
    first = int(match["first"] or 1)
    last = int(match["last"] or count) if match["dash"] else first
    if not 1 <= first <= count or not 1 <= last <= count:
        has = f"{unit} 1 only" if count == 1 else f"{unit}s 1-{count}"
        raise UsageError(f"--pages {part}: {name} has {has}", hint=_hint(count))
    if first > last:
        raise UsageError(
            f"--pages {part}: the range runs backwards", hint=f"--pages {last}-{first}"
        )
    return first, last


def _labelled(part: str, labels: Sequence[str | None], *, name: str) -> tuple[int, int]:
    count = len(labels)
    if not any(labels):
        raise UsageError(
            f"--pages label:{part}: {name} has no printed page labels", hint=_hint(count)
        )
    whole = _find(part, labels, 0)
    if whole is not None:
        return whole + 1, whole + 1
    # A label may itself hold a hyphen ("A-8"), so every hyphen is tried as the dash.
    for dash in (m.start() for m in re.finditer("-", part)):
        first = _find(part[:dash].strip(), labels, 0) if dash else 0
        if first is None:
            continue
        tail = part[dash + 1 :].strip()
        last = _find(tail, labels, first) if tail else count - 1
        if last is not None:
            return first + 1, last + 1
    known = [label for label in labels if label]
    raise UsageError(
        f"--pages label:{part}: {name} has no such printed labels; "
        f"they run from {known[0]} to {known[-1]}",
        hint=f"--pages label:{known[0]}-{known[-1]}, or by physical number {_hint(count)}",
    )


def _find(label: str, labels: Sequence[str | None], start: int) -> int | None:
    for same in (str, str.casefold):
        for i in range(start, len(labels)):
            own = labels[i]
            if own is not None and same(own) == same(label):
                return i
    return None


def _hint(count: int) -> str:
    return "--pages 1" if count == 1 else f"--pages 1-{count}"
