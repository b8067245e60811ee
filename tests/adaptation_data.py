"""A small data folder to adapt on: made-up texts, questions and summaries."""

import json
import random
from pathlib import Path

TOWNS = ("Arlen", "Bosk", "Corvin", "Delph", "Eskar", "Fane", "Gorse", "Hale", "Ister", "Jorun")
TRADES = ("baker", "smith", "tailor", "miller", "carter", "weaver", "cooper", "mason")


def make_data(folder: Path, *, seed: int = 0) -> Path:
    """Write pretrain/, qa/ and summarise/ with a few records each, and return the folder."""
    rng = random.Random(seed)
    texts = [{"id": f"t{i}", "text": _story(rng, 40)} for i in range(4)]
    questions = []
    for town in TOWNS:
        for trade in TRADES[:4]:
            number = str(rng.randrange(100, 999))
            context = f"In the town of {town} the {trade} owns {number} barrels. {_story(rng, 2)}"
            questions.append(
                {
                    "id": f"{town}/{trade}",
                    "context": context,
                    "question": f"How many barrels does the {trade} of {town} own?",
                    "answers": [number, f"{number} barrels"],
                    "title": town,
                }
            )
    summaries = [
        {"id": f"s{i}", "document": _story(rng, 12), "summary": "The town sold its grain. All ate."}
        for i in range(4)
    ]
    _write(folder / "pretrain" / "books-00.jsonl", texts)
    _write(folder / "qa" / "squadshifts_new_wiki.train.jsonl", questions)
    _write(folder / "summarise" / "scitldr.train.jsonl", summaries)
    return folder


def _story(rng: random.Random, sentences: int) -> str:
    return " ".join(
        f"The {rng.choice(TRADES)} of {rng.choice(TOWNS)} sold {rng.randrange(2, 90)} sacks to "
        f"the {rng.choice(TRADES)} before the market closed."
        for _ in range(sentences)
    )


def _write(path: Path, records: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
