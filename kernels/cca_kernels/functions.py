"""The differentiable operations of the Triton kernels: forward and backward launchers joined.

Arguments as in cca_kernels.api, already checked. What a backward pass needs is kept as it came;
a gradient that nobody asks for is not computed.
"""

from typing import Any

import torch
from torch import Tensor

from cca_kernels.pooling import pool_bwd, pool_fwd
from cca_kernels.prefill_backward import attend_bwd
from cca_kernels.prefill_forward import attend_fwd


class Attend(torch.autograd.Function):
    """`attend`: q, k, v, core_k, core_v, position, group_size, window, scale -> o, lse."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        core_k: Tensor,
        core_v: Tensor,
        position: int,
        group_size: int,
        window: int,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        """Launch the forward kernel and keep what the backward pass reads."""
        options: dict[str, Any] = {
            "position": position, "group_size": group_size, "window": window, "scale": scale
        }  # fmt: skip
        o, lse = attend_fwd(q, k, v, core_k, core_v, **options)
        ctx.save_for_backward(q, k, v, core_k, core_v, o, lse)
        ctx.options = options
        ctx.set_materialize_grads(False)
        return o, lse

    @staticmethod
    def backward(ctx: Any, do: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
        """Launch the backward kernels of the gradients that are asked for."""
        _once()
        q, k, v, core_k, core_v, o, lse = ctx.saved_tensors
        wants = ctx.needs_input_grad[:5]
        if do is None and dlse is None:
            return (None,) * 9
        gradients = attend_bwd(
            q, k, v, core_k, core_v, o, lse,
            torch.zeros_like(o) if do is None else do,
            dlse,
            **ctx.options,
            need=(wants[0], wants[1] or wants[2], wants[3] or wants[4]),
        )  # fmt: skip
        kept = (g if want else None for g, want in zip(gradients, wants, strict=True))
        return (*kept, None, None, None, None)


class PoolGroups(torch.autograd.Function):
    """`pool_groups`: k, v, anchor, group_size, scale -> core_k, core_v."""

    @staticmethod
    def forward(
        ctx: Any, k: Tensor, v: Tensor, anchor: Tensor, group_size: int, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Launch the forward kernel and keep what the backward pass reads."""
        core_k, core_v = pool_fwd(k, v, anchor, group_size=group_size, scale=scale)
        ctx.save_for_backward(k, v, anchor, core_k, core_v)
        ctx.options = {"group_size": group_size, "scale": scale}
        ctx.set_materialize_grads(False)
        return core_k, core_v

    @staticmethod
    def backward(
        ctx: Any, dcore_k: Tensor | None, dcore_v: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Launch the backward kernel, with zeros for a gradient that did not arrive."""
        _once()
        k, v, anchor, core_k, core_v = ctx.saved_tensors
        if dcore_k is None and dcore_v is None:
            return (None,) * 5
        dcore_k = torch.zeros_like(core_k) if dcore_k is None else dcore_k.contiguous()
        dcore_v = torch.zeros_like(core_v) if dcore_v is None else dcore_v.contiguous()
        gradients = pool_bwd(k, v, anchor, core_k, core_v, dcore_k, dcore_v, **ctx.options)
        wants = ctx.needs_input_grad[:3]
        kept = (g if want else None for g, want in zip(gradients, wants, strict=True))
        return (*kept, None, None)


def _once() -> None:
    """Refuse second derivatives: without a word, their terms would be missing.

    Gradients are recorded during a backward pass only where create_graph asks for it.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the kernels are differentiable once: create_graph=True needs impl='torch'"
        )
