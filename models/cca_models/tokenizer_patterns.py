r"""Byte-level BPE pre-tokenisers that are known, each in three spellings.

`spec` is what tokenizer.json says, `ggml_names` what a GGUF file says, `pattern` the one regular
expression with which tiktoken cuts text into the same fragments. Where the specification cuts in
several steps the pattern does so at once:

- Isolated digits come first, so a fragment of the GPT-2 expression never spans a digit, and white
  space in front of a digit ends its piece: `\s+(?=\p{N})` takes the whole run there, which
  `\s+(?!\S)` would leave one short.
- `\s++$` and possessive quantifiers change no match; they spare the backtracking stack.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++"
_OTHER_SIGNS = r" ?[^\s\p{L}\p{N}]++"
_SPACE = r"\s++$|\s+(?!\S)|\s"

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,
}
_BYTE_LEVEL_GPT2 = _BYTE_LEVEL | {"use_regex": True}


def _split_then_bytes(expression: str) -> dict[str, Any]:
    split = {
        "type": "Split",
        "pattern": {"Regex": expression},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL]}


def _possessive(expression: str) -> str:
    return (
        expression.replace(r"\p{L}+|", r"\p{L}++|")
        .replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}]++[\r\n]*+")
        .replace(r"|\s+(?!\S)|\s+", r"|\s++$|\s+(?!\S)|\s")
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PreTokenizer:
    """One way of cutting text into the fragments that BPE works on.

    Attributes:
        name: Ours, for messages.
        ggml_names: Values of `tokenizer.ggml.pre` that mean it.
        spec: `pre_tokenizer` of tokenizer.json.
        pattern: The same as one expression for tiktoken.
        normalizer: `normalizer` of tokenizer.json that goes with it in GGUF files.
        ignore_merges: Whether GGUF files with it look whole fragments up before merging.
    """

    name: str
    ggml_names: frozenset[str]
    spec: Mapping[str, Any]
    pattern: str
    normalizer: Mapping[str, Any] | None = None
    ignore_merges: bool = False


PRE_TOKENIZERS = (
    PreTokenizer(
        name="smollm",
        ggml_names=frozenset({"smollm", "starcoder", "refact", "command-r"}),
        spec={
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL_GPT2],
        },
        pattern=rf"{_GPT2_WORDS}|\p{{N}}|{_OTHER_SIGNS}|\s+(?=\p{{N}})|{_SPACE}",
    ),
    PreTokenizer(
        name="gpt-2",
        ggml_names=frozenset({"gpt-2", "default"}),
        spec=_BYTE_LEVEL_GPT2,
        pattern=rf"{_GPT2_WORDS}| ?\p{{N}}++|{_OTHER_SIGNS}|{_SPACE}",
    ),
    PreTokenizer(
        name="llama-3",
        ggml_names=frozenset({"llama-bpe", "llama3", "llama-v3"}),
        spec=_split_then_bytes(_LLAMA3),
        pattern=_possessive(_LLAMA3),
        ignore_merges=True,
    ),
    PreTokenizer(
        name="qwen2",
        ggml_names=frozenset({"qwen2", "deepseek-r1-qwen"}),
        spec=_split_then_bytes(_QWEN2),
        pattern=_possessive(_QWEN2),
        normalizer={"type": "NFC"},
    ),
)


def recognise(spec: object) -> PreTokenizer | None:
    """Return the pre-tokeniser that `pre_tokenizer` of a tokenizer.json describes, if known."""
    plain = _without_defaults(spec)
    for candidate in PRE_TOKENIZERS:
        if _without_defaults(candidate.spec) == plain:
            return candidate
    return None


def _without_defaults(spec: object) -> object:
    """Drop what does not change the fragments: offsets, and sequences of one."""
    if isinstance(spec, list):
        return [_without_defaults(item) for item in spec]
    if not isinstance(spec, Mapping):
        return spec
    plain = {key: _without_defaults(value) for key, value in spec.items() if key != "trim_offsets"}
    if plain.get("type") == "ByteLevel":
        plain.setdefault("use_regex", True)
    steps = plain.get("pretokenizers")
    if isinstance(steps, list) and len(steps) == 1:
        return steps[0]
    return plain


def byte_characters() -> dict[int, str]:
    """Return the printable character by which byte-level BPE writes each byte."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in kept}
    others = [byte for byte in range(256) if byte not in table]
    return table | {byte: chr(256 + place) for place, byte in enumerate(others)}
