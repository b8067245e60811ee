"""How an attention or a method is drawn: alike in every picture."""

from cca_models.attention_names import PEERS

# Full attention and our own ways of reading, thicker than the others, so that they stand out.
_OWN = {
    "full": ("#c44e52", "s"), "cca": ("#3060a8", "o"), "core": ("#3060a8", "o"),
    "focus": ("#102f5c", "D"), "window": ("#93b0d8", "v"), "lexical": ("#444444", "x"),
}  # fmt: skip
# For all others, in the order in which they come.
_COLORS = ("#8c613c", "#6a3d9a", "#2a9d8f", "#e08214", "#7f7f7f", "#b5179e", "#606c38", "#0096c7")
_MARKERS = ("^", "v", "D", "P", "X", "<", ">", "*")
_THICK, _THIN = 1.8, 1.1


def attention_style(name: str) -> tuple[str, str, float]:
    """Give colour, marker (matplotlib's) and width of line in points."""
    if name in _OWN:
        return (*_OWN[name], _THICK)
    place = list(PEERS).index(name) if name in PEERS else len(PEERS)
    # Eight colours; a second round of them has the markers moved on.
    shift = place // len(_COLORS)
    marker = _MARKERS[(place + shift) % len(_MARKERS)]
    return _COLORS[place % len(_COLORS)], marker, _THIN
