"""CCA-Attention itself, so that it stands in the same tables and passes the same tests."""

from torch import Tensor

from cca_kernels import reference
from cca_models.config import CCAConfig
from cca_models.layer_memory import LayerMemory
from cca_models.peers.records import AttentionRecord, Place


def _make(place: Place, *, group_size: int, window: int) -> LayerMemory:
    return LayerMemory(CCAConfig(group_size=group_size, window=window))


def _oracle(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, place: Place, group_size: int, window: int
) -> Tensor:
    groups = q.shape[2] // group_size
    whole = slice(0, groups * group_size)
    anchor = reference.group_anchors(
        q[:, :, group_size - 1 : groups * group_size : group_size], kv_heads=k.shape[1]
    )
    core_k, core_v = reference.pool_groups(
        k[:, :, whole], v[:, :, whole], anchor, group_size=group_size, scale=scale
    )
    out, _ = reference.attend(
        q, k, v, core_k, core_v, position=0, group_size=group_size, window=window, scale=scale
    )
    return out


RECORD = AttentionRecord(
    name="cca",
    title="CCA-Attention",
    make=_make,
    oracle=_oracle,
    settings={"group_size": 16, "window": 1024},
    paper="Chen et al., ICML 2025 (arXiv 2412.12465)",
    code="chenyaofo/CCA-Attention",
    needs_tuning=True,
    prefill="sparse",
    decode="sparse",
    kv_kept="compressed",
    reaches_all=True,
    shortest=1024,
    adapted="core tokens per KV head, by the mean query of the heads that share it",
    note="the default model comes adapted; `cca adapt` does it for others",
)
