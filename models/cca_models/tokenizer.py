"""Text to tokens and back, exactly as the checkpoint's own tokenizer does it.

The work is done by tiktoken with an encoding built from the checkpoint's vocabulary, where that is
proven and probed to give the same tokens (`compiled_tokenizer`); else by the `tokenizers` library,
with a warning. Single texts that tiktoken would treat otherwise go to `tokenizers` without one:
those with characters younger than this Python's Unicode tables, on whose kind the libraries
disagree, with bytes that are in no token, or with white space by the ten thousand.
"""

import codecs
import hashlib
import json
import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cca_models.chat_template import render_chat
from cca_models.compiled_tokenizer import (
    CompiledTokenizer,
    compile_tokenizer,
    full_tokenizer,
    plain_tokenizer,
)
from cca_models.errors import CheckpointError
from cca_models.tokenizer_settings import TokenizerSettings, read_settings

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

_log = logging.getLogger(__name__)

# tiktoken's regular expressions give up, by a panic, on white space from about half a million on.
_SPACE_BLOCK = 10_000
# Bytes that go on with a character of UTF-8 instead of beginning one.
_CONTINUATION = bytes(range(0x80, 0xC0))
_CONTINUATION_STARTS = frozenset(bytes([byte]) for byte in _CONTINUATION)


def load_tokenizer(path: Path) -> "Tokenizer":
    """Return the tokenizer of the checkpoint directory `path`.

    Raises:
        CheckpointError: If tokenizer.json is missing or damaged.
    """
    file = path / "tokenizer.json"
    try:
        raw = file.read_bytes()
        return Tokenizer(raw, compile_tokenizer(raw), read_settings(path))
    except FileNotFoundError:
        hint = "save the checkpoint's tokenizer with transformers' AutoTokenizer.save_pretrained"
        raise CheckpointError(f"{path}: tokenizer.json is missing", hint=hint) from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file}: the file is damaged ({error})", hint="copy or download the checkpoint again"
        ) from error


class Tokenizer:
    """The tokenizer of one checkpoint.

    Attributes:
        backend: Which library does the work.
        warning: Why that is not tiktoken, one sentence; None if it is.
        eos_ids: Tokens that end an answer.
        vocab_size: One more than the highest token number.
        fingerprint: SHA-256, hex, of all that decides the tokens of a text or a chat.
    """

    backend: Literal["tiktoken", "tokenizers"]

    def __init__(
        self,
        raw: bytes,
        compiled: CompiledTokenizer,
        settings: TokenizerSettings,
    ) -> None:
        self._raw = raw
        self._added = compiled.added
        self._nfc = compiled.nfc
        self._template = settings.chat_template
        self._variables = settings.special_tokens
        self.warning = compiled.warning
        self._bytes = _decoding_table(compiled)
        self._plain_characters: set[str] = set()
        self._known_bytes = bytes(token[0] for token in compiled.tokens if len(token) == 1)
        self.vocab_size = max(
            len(compiled.tokens) or self._full.get_vocab_size(),
            max(compiled.added.values(), default=-1) + 1,
        )
        eos = self._added.get(self._variables.get("eos_token", ""))
        self.eos_ids = settings.eos_ids | (frozenset() if eos is None else {eos})
        says = json.dumps([hashlib.sha256(raw).hexdigest(), self._variables, self._template])
        self.fingerprint = hashlib.sha256(says.encode()).hexdigest()
        self._encoding = _encoding(compiled) if self.warning is None else None
        self.backend = "tiktoken" if self._encoding else "tokenizers"
        if self.warning:
            _log.warning("%s", self.warning)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of ordinary text; names of special tokens in it are just text."""
        text = _without_surrogates(text)
        if self._encoding is None or self._is_unusual(text):
            return list(self._plain.encode(text, add_special_tokens=False).ids)
        if self._nfc:
            text = unicodedata.normalize("NFC", text)
        return self._encoding.encode_ordinary(text)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int]]:
        """Return the tokens of ordinary text and the character in `text` where each starts.

        The same as `encode` and then `offsets`, but right as well where decoding does not give
        the text back: the tokenizer normalises, or has no token for some byte.
        """
        text = _without_surrogates(text)
        normal = not self._nfc or unicodedata.is_normalized("NFC", text)
        if self._encoding and normal and not self._is_unusual(text):
            ids = self._encoding.encode_ordinary(text)
            return ids, self.offsets(ids)
        encoded = self._plain.encode(text, add_special_tokens=False)
        return list(encoded.ids), [start for start, _ in encoded.offsets]

    def encode_prompt(self, text: str) -> list[int]:
        """Return the tokens of a prompt that `chat` made; special tokens in it are recognised."""
        if self._encoding is None:
            text = _without_surrogates(text)
            return list(self._full.encode(text, add_special_tokens=False).ids)
        ids: list[int] = []
        for part in self._added_tokens.split(text) if self._added else (text,):
            if part in self._added:
                ids.append(self._added[part])
            elif part:
                ids += self.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, without special tokens and with U+FFFD for broken UTF-8."""
        if self._bytes is None:
            return str(self._full.decode(list(ids), skip_special_tokens=True))
        return b"".join(map(self._token_bytes, ids)).decode("utf-8", "replace")

    def offsets(self, ids: Sequence[int]) -> list[int]:
        """Return the character in `decode(ids)` at which each token starts.

        A token that starts inside a character has that character's place. Exact for what `encode`
        makes, where all UTF-8 is whole.
        """
        starts = []
        place = 0
        if self._bytes is None:
            stream = TokenStream(self)
            for token in ids:
                starts.append(place)
                place += len(stream.push(token))
            return starts
        for token in ids:
            data = self._token_bytes(token)
            inside = data[:1] in _CONTINUATION_STARTS and place > 0
            starts.append(place - inside)
            place += len(data.translate(None, _CONTINUATION))
        return starts

    def stream(self) -> "TokenStream":
        """Return a decoder that takes tokens one by one."""
        return TokenStream(self)

    def chat(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True
    ) -> str:
        """Return `messages` in the form the checkpoint was tuned on, for `encode_prompt`.

        Raises:
            CheckpointError: If the checkpoint's template is damaged or refuses these messages.
        """
        try:
            return render_chat(
                self._template,
                messages,
                special_tokens=self._variables,
                add_generation_prompt=add_generation_prompt,
            )
        except ValueError as error:
            hint = "correct chat_template in the checkpoint's tokenizer_config.json"
            raise CheckpointError(str(error), hint=hint) from error

    @cached_property
    def _plain(self) -> "tokenizers.Tokenizer":
        return plain_tokenizer(self._raw)

    @cached_property
    def _full(self) -> "tokenizers.Tokenizer":
        return full_tokenizer(self._raw)

    @cached_property
    def _added_tokens(self) -> re.Pattern[str]:
        # The longest name wins, as in the tokenizers library.
        names = sorted(self._added, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, names))})")

    def _token_bytes(self, token: int) -> bytes:
        table = self._bytes or ()
        return table[token] if 0 <= token < len(table) else b""

    def _is_unusual(self, text: str) -> bool:
        for character in set(text) - self._plain_characters:
            if unicodedata.category(character) == "Cn":
                return True
            if character.encode().translate(None, self._known_bytes):
                return True
            self._plain_characters.add(character)
        return any(
            text[start : start + _SPACE_BLOCK].isspace()
            for start in range(0, len(text) - _SPACE_BLOCK + 1, _SPACE_BLOCK)
        )


class TokenStream:
    """Decodes tokens one by one, holding back what is not a whole character yet."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._ids: list[int] = []
        self._given = 0
        self._steps: tokenizers.decoders.DecodeStream | None = None
        if tokenizer._bytes is None:
            from tokenizers.decoders import DecodeStream

            self._steps = DecodeStream(skip_special_tokens=True)

    def push(self, token: int) -> str:
        """Take one token and return the text that it completes."""
        if self._steps is None:
            return self._decoder.decode(self._tokenizer._token_bytes(token))
        self._ids.append(token)
        text = self._steps.step(self._tokenizer._full, token) or ""
        self._given += len(text)
        return text

    def flush(self) -> str:
        """Return what is left at the end: U+FFFD for a character that was never completed."""
        if self._steps is None:
            return self._decoder.decode(b"", final=True)
        rest = self._tokenizer.decode(self._ids)[self._given :]
        self._given += len(rest)
        return rest


def _encoding(compiled: CompiledTokenizer) -> "tiktoken.Encoding":
    import tiktoken

    return tiktoken.Encoding(
        "checkpoint",
        pat_str=compiled.pattern,
        mergeable_ranks={token: number for number, token in enumerate(compiled.tokens) if token},
        special_tokens={},
    )


def _decoding_table(compiled: CompiledTokenizer) -> list[bytes] | None:
    """Return every token's bytes, nothing for special ones; None without byte-level tokens."""
    if not any(compiled.tokens):
        return None
    highest = max(compiled.added.values(), default=-1)
    table = [*compiled.tokens, *[b""] * (highest + 1 - len(compiled.tokens))]
    for name, number in compiled.added.items():
        table[number] = b"" if number in compiled.special else name.encode()
    return table


def _without_surrogates(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot hold, by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
