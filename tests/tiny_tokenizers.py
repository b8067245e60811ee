"""Small tokenizers of every known kind, and text in many scripts to try them on."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tiny_checkpoint import CORPUS, SPECIAL_TOKENS, make_tiny_checkpoint
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from cca_models.tokenizer_patterns import PRE_TOKENIZERS

KINDS = tuple(kind.name for kind in PRE_TOKENIZERS)

SAMPLES = {
    "english": "It's what they'd've said: \"WE'LL see\", isn't it? O'Neill's I'M x'S",
    "latin with diacritics": "Ünïcödé naïve café cafe\u0301 Ångström Łódź ĳ ﬁ Straße a\u0308\u0323",
    "greek": "Ἐν ἀρχῇ ἦν ὁ λόγος, καὶ ὁ λόγος; 5ος",
    "cyrillic": "Все счастливые семьи похожи друг на друга, 1877 г.",
    "arabic": "كلّ العائلات السعيدة ١٢٣ متشابهة، لكن",
    "hebrew": "בְּרֵאשִׁית בָּרָא אֱלֹהִים 1:1",
    "devanagari": "सभी सुखी परिवार १२३ एक जैसे होते हैं।",
    "thai": "ครอบครัวที่มีความสุข ๑๒๓ ล้วนเหมือนกัน",
    "cjk": "幸福的家庭都是相似的；三百二十一。かなカナｶﾅ 𠮷野家",
    "hangul": "행복한 가정은 모두 비슷하다 조선 ㅎㅏㄴ 12",
    "emoji": "👩‍👩‍👧‍👦 👍🏽🇩🇪 ❤️5️⃣ ☕☕ 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "digits of many scripts": "1987 3.14 1,000 5 5  5   5\n5\t5 a1b22 x² ½ ⅷ Ⅷ ①② ٣٤٥ ४५ ๔ \u3007",
    "white space": "  a   b\t\tc \t d\r\n\r\ne\n\n\n  f\u00a0g \u00a0\u2003h\u3000\u2028i\x0b\x0c ",
    "white space before digits": "a   1\n\n  2\t\t3 \n4\r\n5\u00a06 ",
    "code": "def f(x):\n    return {'k': [1, 2]}  #\n\n\tif (a != b) && c: //--==>> __x__ ${v}\\n",
    "control characters": "a\x00b\x01\x1b[0m\x7f\x85\u200b\u200e\ufeff\ufffe\ue000",
    "names": "http://example.org/a?b=c%20#d me@example.com C:\\dir\\x.txt 2024-01-31T12:00:00Z",
    "runs": "-------- ======== ..... !!!!!!! aaaaaaaaaaaaaaaa            .",
    "special tokens as text": "<|im_start|>user\n<|endoftext|> <|im_end|>",
    "nothing": "",
}


def write_tokenizer(
    path: Path, kind: str, *, all_pairs: bool = False, more: tuple[str, ...] = ()
) -> Path:
    """Make a tiny checkpoint in `path` whose tokenizer is of `kind`; return the path.

    With `all_pairs` the merges list every pair that spells a token, as LLaMA 3's do. The texts in
    `more` are trained on too.
    """
    known = next(known for known in PRE_TOKENIZERS if known.name == kind)
    make_tiny_checkpoint(path, layers=1, hidden=8, heads=1, kv_heads=1)
    empty = json.loads(tokenizers.Tokenizer(models.BPE()).to_str())
    empty |= {"pre_tokenizer": known.spec, "normalizer": known.normalizer}
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(empty))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        (*CORPUS, *SAMPLES.values(), *more),
        trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    content = json.loads(tokenizer.to_str())
    content["model"]["ignore_merges"] = known.ignore_merges
    if all_pairs:
        content["model"]["merges"] = _all_pairs(content["model"]["vocab"])
    (path / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def write_sentencepiece(path: Path) -> Path:
    """Make a tiny checkpoint in `path` with a tokenizer in the manner of LLaMA 2."""
    make_tiny_checkpoint(path, layers=1, hidden=8, heads=1, kv_heads=1)
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = [word for line in CORPUS for word in line.split()]
    tokenizer.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    content = json.loads(tokenizer.to_str())
    # The bytes are ordinary tokens of the vocabulary.
    content["added_tokens"] = content["added_tokens"][:3]
    (path / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def _all_pairs(vocabulary: dict[str, int]) -> list[list[str]]:
    ordinary = {token: n for token, n in vocabulary.items() if token not in SPECIAL_TOKENS}
    pairs: list[Any] = []
    for token in sorted(ordinary, key=ordinary.__getitem__):
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        both = [pair for pair in cuts if pair[0] in ordinary and pair[1] in ordinary]
        pairs += sorted(both, key=lambda pair: (ordinary[pair[0]], ordinary[pair[1]]))
    return [list(pair) for pair in pairs]
