"""Reading several rows of one length together: what a benchmark does for `--batch`.

Every memory of a layer holds rows that stand at one position, so all attentions can. Writing goes
through the same forward pass: the captured step of a GPU (cca_models.decode_graph) is for one row.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cca_models.decoder import CHUNK
from cca_models.engine import LanguageModel
from cca_models.memory import Memory


def chunk_of_rows(chunk: int, rows: int) -> int:
    """Give the tokens of each row to read at a time, where one row would have `chunk`."""
    return chunk if rows == 1 or chunk <= CHUNK else max(CHUNK, chunk // rows)


@torch.inference_mode()
def read_rows(
    model: LanguageModel,
    memory: Memory,
    ids: Tensor,
    *,
    chunk: int,
    on_chunk: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Read rows into a memory.

    Args:
        model: What reads.
        memory: Where to; empty, or of as many rows.
        ids: Token ids, [B, L].
        chunk: Tokens of each row at a time.
        on_chunk: Called after every chunk with tokens done and tokens in all, of a row.

    Returns:
        Logits of the rows' last tokens, [B, V], float32.

    Raises:
        ContextTooLongError: If the memory cannot hold them.
    """
    length = ids.shape[1]
    memory.expect_room(length)
    state = ids.new_zeros(0)
    for start in range(0, length, chunk):
        part = ids[:, start : start + chunk]
        state = model.decoder.forward(part, memory.layers, memory.rotary)
        if on_chunk is not None:
            on_chunk(min(start + chunk, length), length)
    return model.decoder.logits(state)[:, -1]
