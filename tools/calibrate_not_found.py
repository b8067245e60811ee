"""Measure from which probability on "not found" should stand, on questions of the training side.

    python tools/calibrate_not_found.py --questions fairytaleqa.val.jsonl.xz --adapter DIR

Every question is asked of its own context and of another one, by the passages that BM25 finds, as
`--read lexical` does. The table says what each threshold refuses of both kinds; the adapter's
cca.json takes the chosen one as `not_found.focus`.
"""

import argparse
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cca_models.adaptation.sources import read_records
from cca_models.checkpoints import resolve_checkpoint
from cca_models.documents import Document
from cca_models.engine import load_model
from cca_models.errors import ModelError
from cca_models.evaluation.metrics import confidence_interval
from cca_models.reading import Reader, Writing
from cca_models.reading.apart import read_apart

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel

THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question's probability of "not found": of its own context, and of another."""

    own: float
    other: float


def measure(
    model: "LanguageModel", records: Sequence[Mapping[str, Any]], *, limit: int, seed: int
) -> list[Asked]:
    """Ask questions of both kinds.

    Args:
        model: With an adapter.
        records: With `context`, `question` and `answers`.
        limit: Questions at most, spread evenly over the contexts.
        seed: Of the order and of the other contexts.

    Raises:
        ModelError: If there are fewer than two contexts.
    """
    rng = random.Random(seed)
    readers: dict[str, Reader] = {}
    questions: dict[str, list[str]] = {}
    for record in records:
        context = record["context"]
        readers.setdefault(context, Reader(model, Document.of_texts([context])))
        questions.setdefault(context, []).append(record["question"])
    if len(readers) < 2:
        raise ModelError("two contexts at least are needed", hint="--questions with more records")
    contexts = list(readers)
    rng.shuffle(contexts)
    for asked in questions.values():
        rng.shuffle(asked)
    order = [
        (context, asked[turn])
        for turn in range(max(map(len, questions.values())))
        for context in contexts
        if turn < len(asked := questions[context])
    ]
    found = []
    for context, question in order[:limit]:
        other = rng.choice([c for c in contexts if c != context])
        found.append(
            Asked(_refusal(readers[context], question), _refusal(readers[other], question))
        )
    return found


def _refusal(reader: Reader, question: str) -> float:
    """Give the probability that the answer begins as a refusal does."""
    chosen = reader.choose(reader.rank(question, attention=False), question, Writing())
    read = read_apart(reader, chosen, question)
    # Nothing to read holds no answer.
    return read[0].refusal if read else 1.0


def table(found: Sequence[Asked]) -> list[dict[str, Any]]:
    """Say, for every threshold, what share of each kind is refused, with 95 % intervals."""
    lines = []
    for threshold in THRESHOLDS:
        line: dict[str, Any] = {"threshold": threshold, "n": len(found)}
        for kind in ("own", "other"):
            refused = [float(getattr(asked, kind) >= threshold) for asked in found]
            line[kind] = sum(refused) / len(refused)
            line[f"{kind}_interval"] = confidence_interval(refused)
        lines.append(line)
    return lines


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--questions", type=Path, required=True, help="JSON Lines, or .xz of it")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--adapter", default="default", help="default, or a folder")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        checkpoint = resolve_checkpoint(options.model, adapter=options.adapter)
        model = load_model(checkpoint, device=options.device)
        records = list(read_records(options.questions))
        lines = table(measure(model, records, limit=options.limit, seed=options.seed))
    except (ModelError, OSError, KeyError) as error:
        print(f"calibrate: error: {error}", file=sys.stderr)
        print(f"hint: {getattr(error, 'hint', '') or '--help'}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(lines, indent=1))
        return 0
    print("threshold  refused: own context   refused: another one")
    for line in lines:
        shares = (
            f"{100 * line[kind]:5.1f} % [{100 * low:4.1f}, {100 * high:5.1f}]"
            for kind in ("own", "other")
            for low, high in [line[f"{kind}_interval"]]
        )
        print(f"{line['threshold']:9.2f}  {'   '.join(shares)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
