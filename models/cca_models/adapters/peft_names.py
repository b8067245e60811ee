"""The names that PEFT gives an adapter's tensors."""

PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"


def module_of(key: str) -> str:
    """Name the module that a factor belongs to, such as model.layers.0.self_attn.q_proj."""
    return key.removeprefix(PREFIX).removesuffix(A).removesuffix(B)
