"""A checkpoint with PEFT's LoRA, its low-rank product folded into the weight at every step.

Adding B A to the weight first costs a product of small matrices; applying A and then B to tens of
thousands of tokens costs two passes over all of them, and their activations kept. The parameters,
and what PEFT saves, are the same. All layers' matrices of one shape are folded in one product: a
small model's step is bound by the number of kernels, and folding one by one would be half of them.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import AutoModelForCausalLM, LlamaConfig

from cca_models.attention import NAME, register
from cca_models.config import CCAConfig

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NORMS = ("input_layernorm", "post_attention_layernorm", "norm")


class FoldedLinear(LoraLinear):
    """PEFT's LoRA of a linear layer, computed as one product with the sum of both weights.

    Attributes:
        folded: The sum [out, in], where the decoder's forward has made it; None to make it here.
    """

    folded: Tensor | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Project x, [..., in] to [..., out]."""
        base: Any = self.get_base_layer()
        weight: Tensor = base.weight
        if self.folded is not None:
            weight = self.folded
        elif self.applied:
            for name in self.active_adapters:
                pair: Any = (self.lora_A[name], self.lora_B[name])
                a, b = (matrix.weight.to(weight.dtype) for matrix in pair)
                weight = weight + (b @ a) * self.scaling[name]
        return nn.functional.linear(x, weight, base.bias)

    @property
    def applied(self) -> bool:
        """Whether the product is to be added: neither switched off nor merged already."""
        return not self.disable_adapters and not self.merged

    def pair(self) -> tuple[Tensor, Tensor, float] | None:
        """Give A [r, in], B [out, r] and their scale, where one adapter alone is applied."""
        if not self.applied or len(self.active_adapters) != 1:
            return None
        name = self.active_adapters[0]
        a: Any = self.lora_A[name]
        b: Any = self.lora_B[name]
        return a.weight, b.weight, self.scaling[name]


class _FoldTogether:
    """Folds all layers' products before a forward, those of one shape together.

    They stay until the next forward, for layers that are computed again in the backward.
    """

    def __init__(self, decoder: nn.Module) -> None:
        self._alike: dict[tuple[int, ...], list[FoldedLinear]] = {}
        for module in decoder.modules():
            if isinstance(module, FoldedLinear):
                base: Any = module.get_base_layer()
                self._alike.setdefault(tuple(base.weight.shape), []).append(module)

    def __call__(self, decoder: nn.Module, args: Any) -> None:
        for modules in self._alike.values():
            pairs = [module.pair() for module in modules]
            scales = {pair[2] if pair else None for pair in pairs}
            if len(scales) > 1 or None in scales:
                for module in modules:
                    module.folded = None
                continue
            bases = torch.stack([cast(Any, m.get_base_layer()).weight for m in modules])
            a, b = (torch.stack([cast(Any, p)[i] for p in pairs]).to(bases.dtype) for i in (0, 1))
            folded = torch.baddbmm(bases, b, a, alpha=cast(float, scales.pop()))
            # unbind's backward is one stack; indexing's would fill zeros for every layer.
            for module, weight in zip(modules, folded.unbind(), strict=True):
                module.folded = weight


class _In(nn.Module):
    """Gives a parameter in another dtype: kept in float32, used in that of the activations."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, weight: Tensor) -> Tensor:
        return weight.to(self.dtype)


def build_model(
    checkpoint: Path,
    *,
    cca: CCAConfig | None,
    theta: float,
    rank: int,
    alpha: float,
    dtype: torch.dtype,
    device: torch.device,
    norms: bool = True,
    seed: int = 0,
) -> PeftModel:
    """Load a checkpoint and put LoRA on all its projections, and free its norms.

    Args:
        checkpoint: Directory in the Hugging Face layout.
        cca: Group size and window; None trains dense attention, for comparison.
        theta: Base of the rotary positions.
        rank: Of the low-rank products, r.
        alpha: The products are scaled by alpha / r.
        dtype: Of the frozen weights and the activations; what is trained is float32.
        device: Where it goes.
        norms: Whether the norms' gains are trained too.
        seed: Of the initial A; B begins at zero.
    """
    register()
    config = LlamaConfig.from_pretrained(checkpoint)
    config.rope_parameters = {"rope_type": "default", "rope_theta": theta}
    if cca is not None:
        config.cca = asdict(cca)
    base = AutoModelForCausalLM.from_pretrained(
        checkpoint, config=config, dtype=dtype, use_safetensors=True,
        attn_implementation="sdpa" if cca is None else NAME,
    )  # fmt: skip
    base.config.use_cache = False
    settings = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",  # type: ignore[arg-type]
        target_modules=list(PROJECTIONS), modules_to_save=list(NORMS) if norms else None,
    )  # fmt: skip
    settings._register_custom_module({nn.Linear: FoldedLinear})
    torch.manual_seed(seed)
    model: Any = get_peft_model(base, settings, autocast_adapter_dtype=True)
    # PEFT puts the directory's whole path here, which means nothing elsewhere.
    settings.base_model_name_or_path = checkpoint.name
    for module in list(model.modules()):
        # A module's own: PEFT's wrappers pass on those of the module inside.
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if weight is not None and weight.requires_grad:
            module.weight = nn.Parameter(weight.detach().float())
            if not isinstance(module, nn.Linear):
                # unsafe: the cast is no projection, which torch would otherwise demand.
                parametrize.register_parametrization(module, "weight", _In(dtype), unsafe=True)
    decoder = decoder_of(model).model
    decoder.register_forward_pre_hook(_FoldTogether(decoder))
    return model.to(device)  # type: ignore[no-any-return]


def decoder_of(model: PeftModel) -> Any:
    """Give transformers' LlamaForCausalLM inside."""
    return model.base_model.model


def trained_weights(model: PeftModel) -> dict[str, Tensor]:
    """Give what was trained, under the names that PEFT saves, float32, on the CPU."""
    from peft import get_peft_model_state_dict

    found: Mapping[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {
        name.replace("parametrizations.weight.original", "weight"): tensor.detach().float().cpu()
        for name, tensor in found.items()
    }


def load_weights_into(model: PeftModel, weights: Mapping[str, Tensor]) -> None:
    """Begin from trained weights instead: the other way round of `trained_weights`.

    Raises:
        ValueError: If names or shapes differ.
    """
    own = {
        name.replace("modules_to_save.default.", "")
        .replace("parametrizations.weight.original", "weight")
        .replace(".default.", "."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    if own.keys() != weights.keys():
        odd = sorted(own.keys() ^ weights.keys())[0]
        raise ValueError(f"the adapter does not fit these settings: {odd} is on one side only")
    with torch.no_grad():
        for name, parameter in own.items():
            if parameter.shape != weights[name].shape:
                raise ValueError(
                    f"the adapter does not fit these settings: {name} is "
                    f"{list(weights[name].shape)}, expected {list(parameter.shape)}"
                )
            parameter.copy_(weights[name])
