"""What a checkpoint says about its tokenizer outside tokenizer.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cca_models.errors import CheckpointError

_VARIABLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerSettings:
    """Settings of a checkpoint's tokenizer.

    Attributes:
        special_tokens: The special tokens by their role ("bos_token"), for the chat template.
        chat_template: Jinja template that turns messages into a prompt; None if there is none.
        eos_ids: Tokens that end an answer, according to the model's configuration.
    """

    special_tokens: Mapping[str, str]
    chat_template: str | None
    eos_ids: frozenset[int]


def read_settings(path: Path) -> TokenizerSettings:
    """Read the settings of the checkpoint directory `path`; missing files count as empty.

    Raises:
        CheckpointError: If a file is damaged.
    """
    config = _read_json(path / "tokenizer_config.json")
    eos: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = _read_json(path / name).get("eos_token_id")
        eos.update(value if isinstance(value, list) else () if value is None else (value,))
    return TokenizerSettings(
        special_tokens=_special_tokens(config),
        chat_template=_chat_template(path, config),
        eos_ids=frozenset(eos),
    )


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name in _VARIABLES:
        value = config.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        if isinstance(value, str):
            found[name] = value
    return found


def _chat_template(path: Path, config: Mapping[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CheckpointError(
            f"{path}: the file is damaged ({error})", hint="copy or download the checkpoint again"
        ) from error
    return content if isinstance(content, dict) else {}
