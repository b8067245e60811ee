"""What a benchmark yields: measurements of single processes, and the rows made of them."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What one process measured in one cell.

    Attributes:
        mark: "measured", "sampled", "oom" or "failed: <why>".
        prefill_s: Seconds of every timed reading; one, computed, where it was sampled.
        decode_s: Seconds of every step of writing at that length: a token for each row.
        decode_busy_s: Seconds of a step in which the GPU computed, the mean of a few after the
            timed ones; None where that is not known, as off CUDA.
        kv_bytes: Storage of the keys and values held once all was read, room for more included.
        peak_bytes: Peak of reading and writing: the CUDA allocator's, else the process's
            resident set.
        reserved_bytes: The most that the CUDA allocator took from the device; None elsewhere.
        prefill_j: Joules of a reading, where the device counts them; None where it was sampled.
        decode_j: Joules of a step.
        plan: How it was read: "one-shot" or "chunks of 1,024".
        sampled: What was timed if not all of it: "9 of 128 chunks".
        reason: Why there are no figures.
        needs_bytes: What it was expected to need.
        free_bytes: What was free before.
    """

    mark: str
    prefill_s: tuple[float, ...] = ()
    decode_s: tuple[float, ...] = ()
    decode_busy_s: float | None = None
    kv_bytes: int | None = None
    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    prefill_j: float | None = None
    decode_j: float | None = None
    plan: str = ""
    sampled: str = ""
    reason: str = ""
    needs_bytes: int | None = None
    free_bytes: int | None = None

    @property
    def has_figures(self) -> bool:
        """Whether it was measured or sampled."""
        return bool(self.prefill_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One cell, all its processes together.

    Times are medians. The ratios say how many times as much the dense baseline took at the same
    length; None where one of the two has no figure.

    Attributes:
        batch: Rows that were read and written together; all figures are of all of them.
        n: Readings that were timed.
        prefill_s: Seconds of reading, between prefill_min_s and prefill_max_s.
        prefill_tokens_per_s: Tokens of all rows by that time.
        decode_ms: Milliseconds per step of writing, a token for each row, between decode_min_ms
            and decode_max_ms; decode_p95_ms the 95th percentile.
        decode_busy_ms: Milliseconds of a step in which the GPU computed; the rest of decode_ms it
            waited for its host. None where that is not known.
        decode_tokens_per_s: Tokens of all rows written by the second.
        prefill_j: Joules of a reading; decode_j of a step; None where the device does not say.
        samples: Everything that was measured, process by process.
    """

    method: str
    length: int
    mark: str
    batch: int = 1
    n: int = 0
    prefill_s: float | None = None
    prefill_min_s: float | None = None
    prefill_max_s: float | None = None
    prefill_tokens_per_s: float | None = None
    decode_ms: float | None = None
    decode_min_ms: float | None = None
    decode_max_ms: float | None = None
    decode_p95_ms: float | None = None
    decode_busy_ms: float | None = None
    decode_tokens_per_s: float | None = None
    kv_bytes: int | None = None
    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    prefill_j: float | None = None
    decode_j: float | None = None
    prefill_ratio: float | None = None
    decode_ratio: float | None = None
    kv_ratio: float | None = None
    peak_ratio: float | None = None
    plan: str = ""
    sampled: str = ""
    reason: str = ""
    needs_bytes: int | None = None
    free_bytes: int | None = None
    samples: tuple[Measurement, ...] = ()


def make_row(
    method: str, length: int, measurements: Sequence[Measurement], *, batch: int = 1
) -> Row:
    """Sum up the measurements of one cell; at least one."""
    good = [m for m in measurements if m.has_figures]
    last = measurements[-1]
    if not good:
        return Row(
            method=method, length=length, mark=last.mark, batch=batch, reason=last.reason,
            needs_bytes=last.needs_bytes, free_bytes=last.free_bytes, samples=tuple(measurements),
        )  # fmt: skip
    prefill = [s for m in good for s in m.prefill_s]
    decode = [1000 * s for m in good for s in m.decode_s]
    busy = _middle(m.decode_busy_s for m in good)
    seconds, step = statistics.median(prefill), statistics.median(decode) if decode else None
    sampled = next((m for m in good if m.sampled), good[0])
    return Row(
        method=method,
        length=length,
        mark=sampled.mark,
        batch=batch,
        n=len(prefill),
        prefill_s=seconds,
        prefill_min_s=min(prefill),
        prefill_max_s=max(prefill),
        prefill_tokens_per_s=batch * length / seconds,
        decode_ms=step,
        decode_min_ms=min(decode, default=None),
        decode_max_ms=max(decode, default=None),
        decode_p95_ms=percentile(decode, 95) if decode else None,
        decode_busy_ms=1000 * busy if busy is not None else None,
        decode_tokens_per_s=1000 * batch / step if step else None,
        kv_bytes=_most(m.kv_bytes for m in good),
        peak_bytes=_most(m.peak_bytes for m in good),
        reserved_bytes=_most(m.reserved_bytes for m in good),
        prefill_j=_middle(m.prefill_j for m in good),
        decode_j=_middle(m.decode_j for m in good),
        plan=sampled.plan,
        sampled=sampled.sampled,
        needs_bytes=last.needs_bytes,
        free_bytes=last.free_bytes,
        samples=tuple(measurements),
    )


def add_ratios(rows: Sequence[Row]) -> list[Row]:
    """Set every row beside the dense baseline of its length."""
    baseline = {row.length: row for row in rows if row.method == "full"}
    done = []
    for row in rows:
        full = baseline.get(row.length)
        if full is None:
            done.append(row)
            continue
        done.append(
            replace(
                row,
                prefill_ratio=_ratio(full.prefill_s, row.prefill_s),
                decode_ratio=_ratio(full.decode_ms, row.decode_ms),
                kv_ratio=_ratio(full.kv_bytes, row.kv_bytes),
                peak_ratio=_ratio(full.peak_bytes, row.peak_bytes),
            )
        )
    return done


def percentile(values: Sequence[float], percent: float) -> float:
    """Give a percentile, between two values on the line between them."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _most(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _middle(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _ratio(full: float | None, other: float | None) -> float | None:
    return full / other if full is not None and other else None
