"""Beginning a training with the weights of an adapter instead of none."""

from typing import TYPE_CHECKING

from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from cca_models.adaptation.folded_lora import load_weights_into
from cca_models.adapters import Adapter, weights_sha256
from cca_models.adapters.peft_names import B, module_of
from cca_models.checkpoints import Checkpoint
from cca_models.errors import AdapterError
from cca_models.fingerprints import file_sha256

if TYPE_CHECKING:
    from cca_models.adaptation.trainer import Training


def expect_fit(adapter: Adapter, checkpoint: Checkpoint, training: "Training") -> list[str]:
    """Check that a training can begin from an adapter.

    Returns:
        What it was trained with and this training is not, a sentence each; it learns the rest.

    Raises:
        AdapterError: If rank or base are others, or the attention is none that is known.
        CheckpointError: If a file of the checkpoint is missing or damaged.
    """
    if adapter.lora.rank != training.rank:
        raise AdapterError(
            f"adapter {adapter.name} has rank {adapter.lora.rank}, the training {training.rank}",
            hint=f"--rank {adapter.lora.rank} goes on from it",
        )
    settings = adapter.settings
    if settings is None:
        return [f"adapter {adapter.name} does not say what it was trained on, or with"]
    if settings.base_sha256 != weights_sha256(checkpoint.path):
        raise AdapterError(
            f"adapter {adapter.name} was trained on other weights of {settings.base_name} "
            f"than those of {checkpoint.name}",
            hint=f"--model {settings.base_name} if it came from there",
        )
    if settings.attention not in ("cca", "dense"):
        raise AdapterError(
            f"adapter {adapter.name} was trained with {settings.attention!r} attention",
            hint="cca and dense are known; train without --from",
        )
    if settings.attention != training.attention:
        return [
            f"adapter {adapter.name} was trained with {settings.attention} attention; "
            f"it is trained on with {training.attention}"
        ]
    pairs = [("rotary base", settings.rope.theta, training.theta)]
    if training.attention == "cca":
        pairs += [
            ("group size", settings.cca.group_size, training.cca.group_size),
            ("window", settings.cca.window, training.cca.window),
        ]
    return [
        f"adapter {adapter.name} was trained with {what} {before:g}; it is trained on with {now:g}"
        for what, before, now in pairs
        if before != now
    ]


def load_beginning(model: PeftModel, adapter: Adapter, training: "Training") -> dict[str, str]:
    """Put an adapter's weights into a model from build_model.

    Products that the adapter scales otherwise keep what they come to.

    Returns:
        Its name, and the SHA-256 of its weights' file, for the record.

    Raises:
        AdapterError: If the file is damaged, or its tensors are not those that are trained.
    """
    scale = training.alpha / training.rank
    try:
        weights = {name: tensor.float() for name, tensor in load_file(adapter.weights).items()}
        for name, tensor in weights.items():
            if name.endswith(B):
                weights[name] = tensor * (adapter.lora.scale_of(module_of(name)) / scale)
        load_weights_into(model, weights)
    except SafetensorError as error:
        raise AdapterError(
            f"{adapter.weights}: the file is damaged ({error})", hint="copy the adapter again"
        ) from error
    except ValueError as error:
        raise AdapterError(
            str(error), hint="--from takes an adapter that cca adapt made; train without it"
        ) from error
    return {"name": adapter.name, "weights_sha256": file_sha256(adapter.weights)}
