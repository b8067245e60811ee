"""The recipe: rows of which kinds and lengths, how many tokens a step, drawn how.

Which rows a step holds follows from the seed, the step and the process alone. So a training that
was broken off goes on exactly, and nothing has to be remembered of the data.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.random import default_rng
from torch import Tensor
from torch.utils.data import Dataset

from cca_models.adaptation.corpus import Corpus
from cca_models.adaptation.mixtures import MIXED, Mixture, Portion, RowKind
from cca_models.adaptation.row import Row
from cca_models.adaptation.rows import Arranger
from cca_models.adaptation.sources import SOURCES
from cca_models.adaptation.wording import Wording

# Kinds whose taught tokens all count alike.
_EVEN = ("text", "summary", "quotes")
# How rows are built: a training goes on only with rows that are built alike.
_ROWS = 2
# Questions made by rule; the other shares stand with their sources.
MADE = {"blanks": 2.0, "facts": 0.6}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What a training draws.

    Attributes:
        tokens: Of one batch on one device. A longer row is a batch of its own.
        longest: Rows longer than it are not drawn.
        seed: Equal seeds draw equal batches.
        portions: Rows by length.
        without: Names of sources to leave out.
        exchanged: Share of the questions over many passages whose answer is exchanged, in the
            passages and in the label, for another question's.

    Raises:
        ValueError: If `exchanged` is no share.
    """

    tokens: int = 32768
    longest: int = 131072
    seed: int = 0
    portions: Sequence[Portion] = MIXED.portions
    without: Sequence[str] = ()
    exchanged: float = MIXED.exchanged

    def __post_init__(self) -> None:
        if not 0 <= self.exchanged <= 1:
            raise ValueError(f"expected exchanged from 0 to 1, got {self.exchanged}")

    @classmethod
    def of(
        cls,
        mixture: Mixture,
        *,
        without: Sequence[str] = (),
        exchanged: float | None = None,
    ) -> "Recipe":
        """Give the recipe of a mixture; `replace` sets the rest.

        Args:
            mixture: Its rows, and what is done to them.
            without: Names of further sources to leave out.
            exchanged: None for the mixture's own share.
        """
        left_out = () if mixture.made else tuple(MADE)
        return cls(
            portions=mixture.portions,
            without=tuple(dict.fromkeys((*without, *left_out))),
            exchanged=mixture.exchanged if exchanged is None else exchanged,
        )  # fmt: skip

    def fitting(self) -> list[Portion]:
        """Give the portions whose rows are not too long.

        Raises:
            ValueError: If there is none.
        """
        found = [p for p in self.portions if p.length <= self.longest]
        if not found:
            shortest = min(p.length for p in self.portions)
            raise ValueError(f"expected rows of {shortest} tokens at least, got {self.longest}")
        return found

    def rows(self, length: int) -> int:
        """Give the rows of one batch."""
        return max(1, self.tokens // length)

    def chances(self) -> list[float]:
        """Give how likely a batch is of each portion: shares are of tokens, batches differ."""
        weights = [p.share / (self.rows(p.length) * p.length) for p in self.fitting()]
        return [weight / sum(weights) for weight in weights]

    def mean_tokens(self) -> float:
        """Give the tokens of a batch, on average."""
        sizes = [self.rows(p.length) * p.length for p in self.fitting()]
        return sum(size * chance for size, chance in zip(sizes, self.chances(), strict=True))

    def facts(self) -> dict[str, Any]:
        """Say what was drawn, for the model card and for comparing a resumed training."""
        return {
            **asdict(self),
            "portions": [asdict(p) for p in self.portions],
            "without": list(self.without),
            "rows": _ROWS,
        }

    def arranger(self, corpus: Corpus, wording: Wording, *, held_out: bool = False) -> Arranger:
        """Make what builds the rows: of what is trained on, or of what is held out."""
        shares = {s.name: s.share for s in SOURCES if s.name not in self.without}
        kinds = {s.name: s.kind for s in SOURCES}
        asked = {n: share for n, share in shares.items() if kinds[n] == "questions"}
        made = {n: share for n, share in MADE.items() if n not in self.without}
        return Arranger(
            corpus,
            wording,
            shares={**asked, **made},
            text_shares={n: share for n, share in shares.items() if kinds[n] == "text"},
            summary_shares={n: share for n, share in shares.items() if kinds[n] == "summaries"},
            exchanged=self.exchanged,
            held_out=held_out,
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one length and kind.

    Attributes:
        kind: Of the rows.
        ids: Tokens, [B, L]; rows are filled up at the right.
        taught: Places of the tokens to be foretold in the flattened ids, [N].
        weights: What each of them counts, [N]; 1 on average.
        looks: Row, first token, one past the last of each question with a known place, [Q, 3].
        gold: Question (row of `looks`), first token, one past the last, [K, 3].
    """

    kind: RowKind
    ids: Tensor
    taught: Tensor
    weights: Tensor
    looks: Tensor
    gold: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Bring it to a device."""
        return replace(
            self,
            ids=self.ids.to(device),
            taught=self.taught.to(device),
            weights=self.weights.to(device),
        )


class Batches(Dataset[Batch]):
    """Batch number `index` of all devices' batches counted together.

    Batches that belong together have rows of one length on all devices, so that none waits.

    Args:
        corpus: Tokens.
        wording: Around them.
        recipe: Shares.
        devices: How many batches make a step.
        count: Batches in all.
        pad: Token that fills rows up.
        held_out: Ask of the contexts that are never trained on, and of no others.
    """

    def __init__(
        self,
        corpus: Corpus,
        wording: Wording,
        recipe: Recipe,
        *,
        devices: int,
        count: int,
        pad: int = 0,
        held_out: bool = False,
    ) -> None:
        self._arranger = recipe.arranger(corpus, wording, held_out=held_out)
        self._recipe, self._devices, self._count, self._pad = recipe, devices, count, pad
        self._portions, self._chances = recipe.fitting(), recipe.chances()
        self._summaries = len(corpus.arrays["documents"]) > 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Batch:
        together = default_rng((self._recipe.seed, index // self._devices, 0))
        portion = self._portions[int(together.choice(len(self._chances), p=self._chances))]
        length = portion.length
        # The last number tells this stream from the one above.
        rng = default_rng((self._recipe.seed, index, 1))
        kinds = [k for k in portion.kinds if k != "summary" or self._summaries]
        share = np.asarray([portion.kinds[k] for k in kinds])
        kind = kinds[int(rng.choice(len(kinds), p=share / share.sum()))]
        build = getattr(self._arranger, kind)
        rows = [build(rng, length) for _ in range(self._recipe.rows(length))]
        return collate(kind, rows, length, pad=self._pad)


def collate(kind: RowKind, rows: Sequence[Row], length: int, *, pad: int) -> Batch:
    """Put rows into one batch."""
    ids = np.full((len(rows), length), pad, np.int64)
    taught: list[Any] = []
    weights: list[Any] = []
    looks: list[tuple[int, int, int]] = []
    gold: list[tuple[int, int, int]] = []
    for number, row in enumerate(rows):
        flat = np.concatenate(row.ids)[:length]
        ids[number, : len(flat)] = flat
        for start, end in row.taught:
            # The first token of a row is foretold by nothing.
            places = np.arange(max(1, start), min(end, length))
            taught.append(places + number * length)
            weights.append(_weights(kind, len(places)))
        for look in row.looks:
            gold += [(len(looks), a, b) for a, b in look.gold]
            looks.append((number, look.start, look.end))
    flat_places = np.concatenate([np.zeros(0, np.int64), *taught]).astype(np.int64)
    flat_weights = np.concatenate([np.zeros(0), *weights])
    if len(flat_weights):
        flat_weights /= flat_weights.mean()
    return Batch(
        kind,
        torch.from_numpy(ids),
        torch.from_numpy(flat_places),
        torch.from_numpy(flat_weights).float(),
        torch.tensor(looks, dtype=torch.long).reshape(-1, 3),
        torch.tensor(gold, dtype=torch.long).reshape(-1, 3),
    )


def _weights(kind: RowKind, count: int) -> Any:
    """Weigh the tokens of one taught run.

    In a text, a summary and a quotation all count alike. Of an answer the first words decide, the
    others follow from them: each counts half of the one before, down to a fiftieth, so that long
    answers outweigh no short ones.
    """
    if kind in _EVEN:
        return np.ones(count)
    return np.maximum(0.5 ** np.arange(count), 0.02)
