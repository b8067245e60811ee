r"""The byte-level BPE vocabulary of a tokenizer.json in the form that tiktoken works with.

tokenizer.json merges by a list of pairs, in order; tiktoken merges whichever neighbours form the
token with the lowest number. The two agree if every token comes from one pair, in the order of the
numbers, and merging a token's own bytes with lower-numbered tokens only ends at that very pair:
what happens between two untouched boundaries does not depend on what is outside them, so no other
pair that spells the same bytes is ever left standing. `_check_merges` proves it for every token. A
list that holds all pairs for every token (LLaMA 3's, which was made from a tiktoken vocabulary)
agrees by construction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cca_models.tokenizer_patterns import byte_characters, recognise


class NotEquivalentError(Exception):
    """A tokenizer.json that tiktoken cannot stand in for; the text is the reason, a clause."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ByteVocabulary:
    """What tiktoken needs, and what decoding needs.

    Attributes:
        pattern: Expression that cuts text into fragments.
        ranks: Bytes of every ordinary token -> its number, which is also its rank.
        nfc: Whether text is brought to Unicode's form NFC first.
    """

    pattern: str
    ranks: Mapping[bytes, int]
    nfc: bool


def read_vocabulary(tokenizer: Mapping[str, Any]) -> ByteVocabulary:
    """Return the vocabulary of a parsed tokenizer.json.

    Raises:
        NotEquivalentError: If tiktoken would not give the same tokens.
    """
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE" or (tokenizer.get("decoder") or {}).get("type") != "ByteLevel":
        raise NotEquivalentError("it is not a byte-level BPE")
    for option in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise NotEquivalentError(f"it uses {option}")
    if model.get("byte_fallback"):
        raise NotEquivalentError("it uses byte_fallback")
    normalizer = tokenizer.get("normalizer")
    if normalizer not in (None, {"type": "NFC"}):
        raise NotEquivalentError("its normaliser is not known")
    cutting = recognise(tokenizer.get("pre_tokenizer"))
    if cutting is None:
        raise NotEquivalentError("its pre-tokeniser is not known")
    added = tokenizer.get("added_tokens") or ()
    for token in added:
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            raise NotEquivalentError(f"its token {token['content']} takes in its surroundings")
        if token.get("normalized") and normalizer:
            raise NotEquivalentError(f"its token {token['content']} is normalised")
    ranks = byte_ranks(model["vocab"], {token["content"] for token in added})
    _check_merges(ranks, model["merges"], bool(model.get("ignore_merges")))
    return ByteVocabulary(pattern=cutting.pattern, ranks=ranks, nfc=normalizer is not None)


def byte_ranks(vocabulary: Mapping[str, int], added: set[str]) -> dict[bytes, int]:
    """Return the bytes that each ordinary token of a byte-level vocabulary stands for.

    Raises:
        NotEquivalentError: If a token is not written in byte-level characters.
    """
    names = [name for name in vocabulary if name not in added]
    table = {ord(character): byte for byte, character in byte_characters().items()}
    # One translation of everything is several times as fast as one a token.
    together = "".join(names)
    if not {ord(character) for character in set(together)} <= table.keys():
        raise NotEquivalentError("its vocabulary is not written in byte-level characters")
    data = together.translate(table).encode("latin-1")
    ranks = {}
    start = 0
    for name in names:
        end = start + len(name)
        ranks[data[start:end]] = vocabulary[name]
        start = end
    return ranks


def _check_merges(
    ranks: Mapping[bytes, int], merges: Sequence[str | Sequence[str]], whole_fragments: bool
) -> None:
    table = {character: bytes([byte]) for byte, character in byte_characters().items()}
    pairs = []
    try:
        for merge in merges:
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            pairs.append(
                (
                    b"".join(map(table.__getitem__, left)),
                    b"".join(map(table.__getitem__, right)),
                )
            )
        results = [ranks[left + right] for left, right in pairs]
    except (KeyError, ValueError):
        raise NotEquivalentError("its merges do not fit its vocabulary") from None
    if any(first > second for first, second in pairwise(results)):
        raise NotEquivalentError("its merges are not in the order of its vocabulary")
    made = set(results)
    if any(len(token) > 1 and rank not in made for token, rank in ranks.items()):
        raise NotEquivalentError("some of its tokens come from no merge")
    if len(made) == len(results):
        if all(_ends_at(left, right, ranks) for left, right in pairs):
            return
    elif whole_fragments and set(pairs) == set(_all_pairs(ranks)):
        return
    raise NotEquivalentError("its merges and its vocabulary would merge differently")


def _ends_at(left: bytes, right: bytes, ranks: Mapping[bytes, int]) -> bool:
    """Tell whether merging the bytes of `left + right` by rank reaches exactly this pair."""
    whole = left + right
    limit = ranks[whole]
    parts = [whole[i : i + 1] for i in range(len(whole))]
    while len(parts) > 2:
        best, place = limit, -1
        for i, (first, second) in enumerate(pairwise(parts)):
            rank = ranks.get(first + second, limit)
            if rank < best:
                best, place = rank, i
        if place < 0:
            return False
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts == [left, right]


def _all_pairs(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    return [
        (token[:cut], token[cut:])
        for token in ranks
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
