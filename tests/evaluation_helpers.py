"""Small data folders in the forms that evaluation reads."""

import json
from pathlib import Path
from typing import Any

WORDS = (
    "harbour", "lantern", "meadow", "copper", "violin", "winter", "orchard",
    "granite", "falcon", "thunder", "ribbon", "candle", "marble", "saddle",
    "willow", "anchor", "velvet", "hammer", "pepper", "timber",
)  # fmt: skip


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write records as JSON Lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def fact(i: int) -> str:
    """Give the word that passage i alone has."""
    return f"{WORDS[i % len(WORDS)]}{i}"


def write_multidoc(folder: Path, *, passages: int = 40, near: int = 5) -> Path:
    """Write questions and passages: question i asks for the word of passage i."""
    write_lines(
        folder / "lost_in_the_middle_passages.jsonl",
        [
            {"id": 100 + i, "title": f"Town {i}", "text": f"The word of town {i} is {fact(i)}."}
            for i in range(passages)
        ],
    )
    write_lines(
        folder / "lost_in_the_middle_questions.jsonl",
        [
            {
                "id": f"q{i}",
                "question": f"what is the word of town {i}",
                "answers": [fact(i)],
                "gold": 100 + i,
                "distractors": [100 + (i + d) % passages for d in range(1, near + 1)],
            }
            for i in range(passages // 2)
        ],
    )
    return folder


def write_books(folder: Path, *, books: int = 2, paragraphs: int = 120) -> Path:
    """Write books of many short paragraphs."""
    texts = [
        "\n\n".join(
            f"Chapter {b}, part {i}. The {WORDS[i % 20]} lay by the {WORDS[(i * 7 + b) % 20]}. "
            f"Nobody moved it. It was there in the year {1000 + i}."
            for i in range(paragraphs)
        )
        for b in range(books)
    ]
    records = [{"id": f"book/{b}", "title": f"Book {b}", "text": t} for b, t in enumerate(texts)]
    write_lines(folder / "whole_books.jsonl", records)
    return folder
