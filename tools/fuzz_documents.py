"""Feed spoilt documents to the readers, each in a process of its own, and tell what went wrong.

    python tools/fuzz_documents.py --runs 10000 --seeds FOLDER --save FINDINGS

An input passes if it is read or refused (exit codes 0 and 4 of the command line), within the
limits of time and memory, without a control character in its text and without the canary file's
content. Input number i of a seed is always the same; --only i repeats it alone.

Needs fork and resource limits: Linux or macOS.
"""

import argparse
import collections
import fnmatch
import functools
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from fuzz_monsters import MONSTERS
from fuzz_mutations import mutate
from fuzz_process import CANARY, Backend, Limits, Result, finding_of, read_apart, read_here
from fuzz_seeds import CANARY_PATH, seeds

from cca_cli.failures import explain

__all__ = ["inputs"]

# Where members with names that lead out of an archive would land.
ESCAPED = "/tmp/cca-fuzz-escaped"
# Larger seeds are read for a second each and teach nothing more.
SEED_BYTES = 200_000


def inputs(
    sound: Mapping[str, bytes], *, runs: int, seed: int, only: int | None = None
) -> Iterator[tuple[int, str, bytes]]:
    """Make spoilt documents.

    Args:
        sound: Documents to spoil, by file name.
        runs: How many to make.
        seed: Another seed makes others.
        only: The one to make, or None for all.

    Yields:
        Number, file name and bytes.
    """
    names, others = list(sound), list(sound.values())
    for number in range(runs) if only is None else [only]:
        rng = random.Random(f"{seed} {number}")
        name = names[number % len(names)]
        data = mutate(rng, name, sound[name], others)
        # A name can lie, too.
        yield number, name if rng.random() < 0.9 else rng.choice(names), data


def _all_inputs(options: argparse.Namespace) -> Iterator[tuple[str, str, bytes]]:
    sound = seeds()
    for folder in options.seeds:
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file() and file.stat().st_size <= SEED_BYTES:
                sound[file.name] = file.read_bytes()
    if options.replay:
        for file in sorted(options.replay.iterdir()):
            yield file.name, file.name, file.read_bytes()
        return
    for name, make in MONSTERS.items():
        if options.only is None and any(
            fnmatch.fnmatch(name, pattern) for pattern in options.monsters
        ):
            yield f"monster-{Path(name).stem.replace(' ', '-')}", f"x{Path(name).suffix}", make()
    for number, name, data in inputs(
        sound, runs=options.runs, seed=options.seed, only=options.only
    ):
        yield f"{options.seed}-{number}", name, data


def main() -> int:
    """Run the fuzzer; the exit code is 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000, help="spoilt documents to make")
    parser.add_argument("--seeds", action="append", default=[], help="folder of sound documents")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of the one input to make")
    parser.add_argument("--monsters", nargs="*", default=["*"], help="patterns of their names")
    parser.add_argument("--replay", type=Path, help="folder of inputs to read as they are instead")
    parser.add_argument("--pdf-backend", choices=["auto", "pypdf", "pdfium"], default="auto")
    parser.add_argument("--jobs", type=int, default=2, help="documents read at the same time")
    parser.add_argument("--seconds", type=float, default=60.0, help="limit of one document")
    parser.add_argument("--memory", type=int, default=1024, help="limit of one document, MiB")
    parser.add_argument("--save", type=Path, help="folder for the inputs of findings")
    options = parser.parse_args()
    limits = Limits(seconds=options.seconds, memory=options.memory << 20)
    Path(CANARY_PATH).write_text(CANARY)
    # What the readers import on first use is imported once, before the forks.
    for name, data in seeds().items():
        _read_here(name, data)

    start = time.monotonic()
    tally: collections.Counter[tuple[str, str]] = collections.Counter()
    found: dict[str, list[str]] = {}
    slowest = largest = (0.0, "")
    # Forked, so that the readers are there already.
    pool = multiprocessing.get_context("fork").Pool(options.jobs)
    with tempfile.TemporaryDirectory() as folder, pool:
        one = functools.partial(_read_item, limits, options.pdf_backend, folder)
        # map takes all inputs at once; a few at a time keep the memory flat.
        work = _all_inputs(options)
        while batch := [item for _, item in zip(range(64), work, strict=False)]:
            results = pool.map(one, batch, chunksize=1)
            for (label, name, data), result in zip(batch, results, strict=True):
                finding = finding_of(result)
                outcome = "read" if result.code == 0 else "refused" if not finding else "FINDING"
                tally[Path(name).suffix, outcome] += 1
                slowest = max(slowest, (result.seconds, f"{label} {name}"))
                largest = max(largest, (result.memory / 2**20, f"{label} {name}"))
                if finding:
                    found.setdefault(finding, []).append(f"{label} {name}")
                    sys.stderr.write(f"{label} {name}: {finding} ({result.message})\n")
                    if options.save:
                        options.save.mkdir(parents=True, exist_ok=True)
                        (options.save / f"{label}-{name}").write_bytes(data)
    if os.path.exists(ESCAPED):
        found.setdefault(f"{ESCAPED} was written", []).append("one of them")
    seconds = time.monotonic() - start
    _report(tally, found, seconds, slowest, largest)
    return bool(found)


def _read_item(
    limits: Limits, backend: Backend, folder: str, item: tuple[str, str, bytes]
) -> Result:
    _, name, data = item
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place, name)
        path.write_bytes(data)
        return read_apart(path, limits, backend=backend)


def _read_here(name: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        try:
            read_here(path)
        except Exception as error:
            print(f"seed {name}: {explain(error).message}")


def _report(
    tally: Mapping[tuple[str, str], int],
    found: Mapping[str, list[str]],
    seconds: float,
    slowest: tuple[float, str],
    largest: tuple[float, str],
) -> None:
    total = sum(tally.values())
    print(f"{total:,} inputs in {seconds:.0f} s, {total / seconds:.0f} a second")
    for suffix in sorted({suffix for suffix, _ in tally}):
        parts = (f"{tally[suffix, word]:,} {word}" for word in ("read", "refused", "FINDING"))
        print(f"  {suffix or 'no suffix'}: {', '.join(parts)}")
    print(f"slowest {slowest[0]:.1f} s ({slowest[1]}), largest {largest[0]:.0f} MiB ({largest[1]})")
    for finding, where in sorted(found.items(), key=lambda pair: -len(pair[1])):
        print(f"{len(where)} x {finding}: {', '.join(where[:3])}")


if __name__ == "__main__":
    sys.exit(main())
