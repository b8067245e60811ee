"""Tiny contenders of a benchmark, with settings so small that every attention leaves some out."""

from pathlib import Path
from typing import Any

import pytest
from peer_settings import SMALL
from test_model_benchmarks import TINY, weights_of

from cca_models.benchmarks_engine import CCAContender
from cca_models.benchmarks_peers import PeerContender
from cca_models.checkpoints import Checkpoint
from cca_models.config import CCAConfig
from cca_models.decoder import Decoder
from cca_models.dense_baseline import DenseContender
from cca_models.peers import decoder as peers_decoder


def make_contender(
    method: str, *, length: int, new_tokens: int, batch: int = 1, decoder: Decoder | None = None
) -> Any:
    """Make a contender of any method; the dense baseline has no decoder of ours."""
    options: dict[str, Any] = {"length": length, "seed": 0, "batch": batch}
    if method == "full":
        return DenseContender(TINY, weights_of(TINY), one_shot=True, **options)
    options["new_tokens"] = new_tokens
    checkpoint = Checkpoint(name="tiny", path=Path("nowhere"), config=TINY)
    decoder = decoder or Decoder(TINY, weights_of(TINY))
    if method == "cca":
        cca = CCAConfig(group_size=4, window=32)
        return CCAContender(checkpoint, decoder, cca=cca, **options)
    return PeerContender(checkpoint, decoder, peer=method, **options)


def settle_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give all peers their small settings instead of their authors'."""
    settle = peers_decoder.AttentionRecord.settled
    monkeypatch.setattr(
        peers_decoder.AttentionRecord, "settled",
        lambda self, changes: settle(self, SMALL[self.name]),
    )  # fmt: skip
