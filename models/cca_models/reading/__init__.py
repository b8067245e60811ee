"""Reading: questions answered over a document, with places; whole documents summarised.

reader = Reader(model, document, memory=memory, page_spans=spans)
for piece in (stream := reader.ask("Who inherits the estate?")):
    print(piece, end="")
stream.finished().citations
"""

from cca_models.reading.answering import AnswerStream
from cca_models.reading.looking import Look, look
from cca_models.reading.prompts import document_prefix
from cca_models.reading.reader import Reader, Source
from cca_models.reading.summarising import Summariser
from cca_models.reading.types import (
    NOT_FOUND,
    READ_MODES,
    Answer,
    Citation,
    Coverage,
    ReadMode,
    Section,
    Summary,
    Turn,
    Writing,
)

__all__ = [
    "NOT_FOUND",
    "READ_MODES",
    "Answer",
    "AnswerStream",
    "Citation",
    "Coverage",
    "Look",
    "ReadMode",
    "Reader",
    "Section",
    "Source",
    "Summariser",
    "Summary",
    "Turn",
    "Writing",
    "document_prefix",
    "look",
]
