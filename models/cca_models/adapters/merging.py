"""An adapter merged into a checkpoint's tensors while they are loaded.

A LoRA pair A [r, in], B [out, r] changes a weight W [out, in] into W + scale * B A, which is
computed in float32 whatever the three were saved in; tensors that were trained as a whole, norms
above all, take the place of the checkpoint's. Reading a merged checkpoint costs nothing extra.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cca_models.adapters.adapter_files import Adapter
from cca_models.adapters.peft_names import PREFIX, A, B
from cca_models.errors import AdapterError

_OUTPUT = "lm_head.weight"
_EMBEDDINGS = ("model.embed_tokens.weight", _OUTPUT)
_AGAIN = "copy the adapter again; --adapter none reads without it"


@dataclass(frozen=True, slots=True)
class _Pair:
    """The two factors of a change: a [r, in], b [out, r], and the factor on their product."""

    a: Tensor
    b: Tensor
    scale: float


class Merger:
    """Changes tensors one by one, in whichever order they come.

    Args:
        adapter: What to merge.
        config: The checkpoint's config.json.
        device: Where the checkpoint's tensors will lie.

    Raises:
        AdapterError: If the adapter's file is damaged, or holds what cannot be merged.
    """

    def __init__(
        self, adapter: Adapter, config: Mapping[str, Any], *, device: torch.device
    ) -> None:
        self._adapter = adapter
        self._pairs: dict[str, _Pair] = {}
        self._whole: dict[str, Tensor] = {}
        self._sort(_read(adapter, device))
        if config.get("tie_word_embeddings"):
            self._tie()
        self._check_heads(config)

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """Give a tensor of the checkpoint as it is with the adapter; `weight` is not changed.

        Args:
            name: Its name in the checkpoint.
            weight: Of any floating dtype.

        Returns:
            The tensor itself if the adapter leaves it alone, else a new one in float32.

        Raises:
            AdapterError: If the shapes do not fit.
        """
        if name in self._whole:
            whole = self._whole.pop(name)
            self._expect(name, whole.shape, weight.shape)
            weight = whole
        if name not in self._pairs:
            return weight
        pair = self._pairs.pop(name)
        self._expect(name, torch.Size((pair.b.shape[0], pair.a.shape[1])), weight.shape)
        return torch.addmm(weight.float(), pair.b, pair.a, alpha=pair.scale)

    def finish(self) -> None:
        """Check that everything found its place, when all of the checkpoint has been loaded.

        Raises:
            AdapterError: If the checkpoint lacks a tensor that the adapter changes.
        """
        for name in (*self._pairs, *self._whole):
            raise AdapterError(
                f"adapter {self._adapter.name} does not fit this checkpoint: "
                f"it changes {name}, which is not there",
                hint="name the checkpoint that it was trained on, or --adapter none",
            )

    def _sort(self, tensors: Mapping[str, Tensor]) -> None:
        """Pair the factors up under the names of the checkpoint's tensors."""
        for key, tensor in tensors.items():
            name = key.removeprefix(PREFIX)
            if key == name or (".lora_" in name and not name.endswith((A, B))):
                raise self._unsupported(key)
            if name.endswith(A):
                module = name.removesuffix(A)
                b = tensors.get(f"{PREFIX}{module}{B}")
                rank = self._adapter.lora.rank_of(module)
                if b is None or tensor.dim() != 2 or b.dim() != 2:
                    raise self._damaged(f"{key} has no partner")
                if not tensor.shape[0] == b.shape[1] == rank:
                    raise self._damaged(f"{key} has rank {tensor.shape[0]}, its config says {rank}")
                scale = self._adapter.lora.scale_of(module)
                self._pairs[f"{module}.weight"] = _Pair(tensor.float(), b.float(), scale)
            elif name.endswith(B):
                if f"{PREFIX}{name.removesuffix(B)}{A}" not in tensors:
                    raise self._damaged(f"{key} has no partner")
            else:
                # PEFT saves what stands below a change of the embeddings, too.
                self._whole[name.replace(".base_layer.", ".")] = tensor.float()
        if not self._pairs and not self._whole:
            raise self._damaged("it is empty")

    def _tie(self) -> None:
        """Make sure that input and output embeddings, one tensor here, are not trained apart."""
        found = [name for name in _EMBEDDINGS if name in self._whole]
        if _OUTPUT in self._pairs or (found and not self._adapter.lora.tied):
            raise self._unsupported("training one of two embeddings that are tied")
        self._whole.pop(_OUTPUT, None)

    def _check_heads(self, config: Mapping[str, Any]) -> None:
        """Refuse heads for locating that the checkpoint has not got."""
        settings = self._adapter.settings
        layers, heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
        for layer, head in settings.locate.heads if settings and settings.locate else ():
            if layer >= layers or head >= heads:
                raise AdapterError(
                    f"adapter {self._adapter.name} does not fit this checkpoint: it locates with "
                    f"head {head} of layer {layer}, and there are {layers} layers of {heads}",
                    hint="name the checkpoint that it was trained on, or --adapter none",
                )

    def _expect(self, name: str, found: torch.Size, wanted: torch.Size) -> None:
        if found != wanted:
            raise AdapterError(
                f"adapter {self._adapter.name} does not fit this checkpoint: it changes {name} "
                f"as {tuple(found)}, the checkpoint has {tuple(wanted)}",
                hint="name the checkpoint that it was trained on, or --adapter none",
            )

    def _unsupported(self, what: str) -> AdapterError:
        return AdapterError(
            f"adapter {self._adapter.name}: {what} is not supported",
            hint="adapters must be plain LoRA on linear layers, with norms trained as a whole",
        )

    def _damaged(self, what: str) -> AdapterError:
        return AdapterError(f"{self._adapter.weights}: the file is damaged ({what})", hint=_AGAIN)


def _read(adapter: Adapter, device: torch.device) -> dict[str, Tensor]:
    """Read the adapter's tensors in the dtypes that they were saved in."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(adapter.weights, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in set(file.keys())}
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{adapter.weights} cannot be read: {error}", hint=_AGAIN) from error
