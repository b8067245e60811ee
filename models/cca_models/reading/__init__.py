"""Reading: questions answered over a document, with places; whole documents summarised.

reader = Reader(model, document, memory=memory, page_spans=spans)
for piece in (stream := reader.ask("Who inherits the estate?")):
    print(piece, end="")
stream.finished().citations
"""

from cca_models.reading.answering import AnswerStream, Reader, Writing
from cca_models.reading.prompts import document_prefix
from cca_models.reading.summarising import Summariser
from cca_models.reading.types import (
    NOT_FOUND,
    READ_MODES,
    Answer,
    Citation,
    ReadMode,
    Section,
    Summary,
)

__all__ = [
    "NOT_FOUND",
    "READ_MODES",
    "Answer",
    "AnswerStream",
    "Citation",
    "ReadMode",
    "Reader",
    "Section",
    "Summariser",
    "Summary",
    "Writing",
    "document_prefix",
]
