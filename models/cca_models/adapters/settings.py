"""cca.json: what an adapter was trained for and is therefore used with."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cca_models.config import CCAConfig
from cca_models.errors import AdapterError

FORMAT = 1
SETTINGS_FILE = "cca.json"

_AGAIN = "copy or train the adapter again; --adapter none reads without one"
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeSettings:
    """Which rotary positions an adapter was trained with; cca_models.rope has the rules.

    Attributes:
        rule: "fixed-base" or "larger-base-1".
        theta: Base of the frequencies; of "fixed-base" alone.
        max_tokens: Most tokens that a memory may hold.
        trained_tokens: The longest text it was trained on.
    """

    rule: str
    theta: float
    max_tokens: int
    trained_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LocateSettings:
    """How the adapted checkpoint's attention finds passages; measured on the training side.

    Attributes:
        heads: Layer and query head, counted from 0, best first; empty if that was not measured.
        subtract_empty: Whether the attention of a question without content is taken off; None to
            leave it to cca_models.reading.
        attention_weight: What attention counts beside BM25, which counts 1; None likewise.
    """

    heads: tuple[tuple[int, int], ...]
    subtract_empty: bool | None = None
    attention_weight: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSettings:
    """Content of cca.json.

    Attributes:
        base_name: Name of the checkpoint that it was trained on.
        base_sha256: Digest of that checkpoint's weights, see weights_sha256.
        cca: Group size and window.
        attention: "cca", or "dense" for a baseline.
        rope: Rotary positions.
        locate: How its attention finds passages; None if that was not measured.
        not_found: Thresholds for saying that a document does not contain the answer.
        training: Free facts about its training.
    """

    base_name: str
    base_sha256: str
    cca: CCAConfig
    rope: RopeSettings
    attention: str = "cca"
    locate: LocateSettings | None = None
    not_found: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


def read_settings(folder: Path) -> AdapterSettings | None:
    """Read cca.json of an adapter's folder; None if there is none: a plain PEFT adapter.

    Raises:
        AdapterError: If it is damaged, incomplete or of another format.
    """
    file = folder / SETTINGS_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise AdapterError(f"{file}: the file is damaged ({error})", hint=_AGAIN) from error
    facts = _Facts(file, "", content)
    written = facts.take("format", int)
    if written != FORMAT:
        raise AdapterError(
            f"{file}: format {written} is not known, only {FORMAT} is",
            hint="update cca, or train the adapter with this release",
        )
    base = facts.part("base")
    try:
        cca = CCAConfig(group_size=facts.take("group_size", int), window=facts.take("window", int))
    except ValueError as error:
        raise AdapterError(f"{file}: {error}", hint=_AGAIN) from error
    return AdapterSettings(
        base_name=base.take("name", str),
        base_sha256=base.take("weights_sha256", str),
        cca=cca,
        attention=facts.optional("attention", str) or "cca",
        rope=_rope(facts.part("rope")),
        locate=_locate(facts.part("locate")) if content.get("locate") else None,
        not_found=facts.part("not_found").content if content.get("not_found") else {},
        training=facts.part("training").content if content.get("training") else {},
    )


class _Facts:
    """One JSON object of the file; what it lacks is an error that names it."""

    def __init__(self, file: Path, where: str, content: Any) -> None:
        self._file, self._where = file, where
        if not isinstance(content, dict):
            raise self.wrong(where.rstrip(".") or "the file", content)
        self.content: dict[str, Any] = content

    def take(self, name: str, kind: type[_T]) -> _T:
        """Give a value of that type; a whole number will do where any is wanted."""
        value = self.content.get(name)
        if kind is float and type(value) is int:
            value = float(value)
        # A bool is an int to isinstance.
        if type(value) is not kind:
            raise self.wrong(self._where + name, value)
        return value

    def optional(self, name: str, kind: type[_T]) -> _T | None:
        """Give a value of that type; None if there is none."""
        return None if self.content.get(name) is None else self.take(name, kind)

    def count(self, name: str) -> int:
        """Give a whole number of at least 1."""
        value = self.take(name, int)
        if value < 1:
            raise self.wrong(self._where + name, value)
        return value

    def part(self, name: str) -> "_Facts":
        """Give an object inside."""
        return _Facts(self._file, f"{self._where}{name}.", self.content.get(name))

    def wrong(self, name: str, value: Any) -> AdapterError:
        """Make the error for a value that will not do."""
        return AdapterError(
            f"{self._file}: {name} is {json.dumps(value)[:60]}, which cannot be used", hint=_AGAIN
        )


def _rope(facts: _Facts) -> RopeSettings:
    rule = facts.take("rule", str)
    # What stretches with the document has the checkpoint's own base.
    theta = facts.take("theta", float) if rule == "fixed-base" else 0.0
    if rule not in ("fixed-base", "larger-base-1"):
        raise facts.wrong("rope.rule", rule)
    if rule == "fixed-base" and not 1 < theta < float("inf"):
        raise facts.wrong("rope.theta", theta)
    return RopeSettings(
        rule=rule,
        theta=theta,
        max_tokens=facts.count("max_tokens"),
        trained_tokens=facts.count("trained_tokens"),
    )


def _locate(facts: _Facts) -> LocateSettings:
    heads = facts.content.get("heads")
    if not isinstance(heads, list) or not all(_is_head(head) for head in heads):
        raise facts.wrong("locate.heads", heads)
    return LocateSettings(
        heads=tuple((layer, head) for layer, head in heads),
        subtract_empty=facts.optional("subtract_empty", bool),
        attention_weight=facts.optional("attention_weight", float),
    )


def _is_head(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(number) is int and number >= 0 for number in value)
    )
