"""Where in the documents the model looked for an answer, page by page and core token by core token.

A view for people: nothing is decided by it. The heads that locate are shown where they are known
and chose the passages; else every layer, its heads averaged, as the last token before the answer
saw the documents.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cca_models.reading.locate import attention, locating_heads
from cca_models.reading.passages import Span

if TYPE_CHECKING:
    from cca_models.reading.answering import AnswerStream


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What an answer's question looked at.

    Attributes:
        rows: What each row of `shares` is: "layer 15, head 6", or "layer 15". Counted from 0.
        shares: For each document [rows, tokens]: the share of a row's attention that each token of
            its pages drew, a core token's spread over its group. Over all documents a row adds up
            to 1; what fell on the prompt around them is left out.
        pages: For each document first token, and one past the last, of every page in `shares`.
        read: Passages that the answer was written from, best first: document, and first token and
            one past the last in its `shares`.
        cited: The same for the passages quoted that hold the answer's words.
    """

    rows: tuple[str, ...]
    shares: tuple[Tensor, ...]
    pages: tuple[tuple[tuple[int, int], ...], ...]
    read: tuple[tuple[int, int, int], ...]
    cited: tuple[tuple[int, int, int], ...]

    def page_shares(self) -> list[list[float]]:
        """Give what share each page of each document drew, the rows counting alike."""
        return [
            [float(share[:, a:b].sum()) / len(self.rows) for a, b in pages]
            for share, pages in zip(self.shares, self.pages, strict=True)
        ]


def look(stream: "AnswerStream") -> Look:
    """Look where the question of a finished answer looked.

    Raises:
        ValueError: If the documents have no memories: nothing looked at them but words.
    """
    reader, answer = stream.reader, stream.finished()
    if not reader.memories:
        raise ValueError("expected memories, which reading by 'lexical' does not use")
    heads = locating_heads(reader.model) if stream.read == "focus" else ()
    by_layer = not heads
    if by_layer:
        decoder = reader.model.decoder
        heads = tuple((i, j) for i in range(decoder.num_layers) for j in range(decoder.heads))
    found = attention(
        reader.model, reader.memories, stream.question, heads, stream.history, last=by_layer
    )
    starts = [source.page_spans[0][0] for source in reader.sources]
    shares = []
    for drawn, start, source in zip(found, starts, reader.sources, strict=True):
        end = source.page_spans[-1][1]
        every = torch.stack([drawn[head][start:end] for head in heads])
        if by_layer:
            every = every.unflatten(0, (decoder.num_layers, decoder.heads)).mean(1)
        shares.append(every)
    total = torch.stack([share.sum(1) for share in shares]).sum(0).clamp(min=1e-12)
    rows = [f"layer {i}" for i in range(decoder.num_layers)] if by_layer else [
        f"layer {i}, head {j}" for i, j in heads
    ]  # fmt: skip

    def placed(spans: list[Span]) -> tuple[tuple[int, int, int], ...]:
        tokens = [(span.doc, *reader.tokens_of(span)) for span in spans]
        return tuple((doc, a - starts[doc], b - starts[doc]) for doc, a, b in tokens)

    cited = []
    for citation in answer.citations:
        if citation.supports and citation.verified:
            doc = next(
                i
                for i, one in enumerate(reader.documents)
                if (one.name, one.path) == (citation.doc, citation.path)
            )
            numbers = [page.number for page in reader.documents[doc].pages]
            page = numbers.index(citation.page)
            cited.append(Span(page, citation.start, citation.end, doc))
    return Look(
        rows=tuple(rows),
        shares=tuple(share / total[:, None] for share in shares),
        pages=tuple(
            tuple((a - start, b - start) for a, b in source.page_spans)
            for start, source in zip(starts, reader.sources, strict=True)
        ),
        read=placed(stream.passages),
        cited=placed(cited),
    )
