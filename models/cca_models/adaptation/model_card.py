"""The model card of an adapter: how it was made and on whose data, from what its cca.json says."""

from collections.abc import Iterator, Mapping
from typing import Any

from cca_models.adaptation.sources import SOURCES

CARD_FILE = "README.md"

# Questions made by rule from the other sources' texts.
_MADE = ("blanks", "facts")
_COUNTED = (("steps", "steps"), ("tokens", "tokens read"))


def model_card(about: Mapping[str, Any]) -> str:
    """Write the card of an adapter that was trained, or averaged of others.

    Args:
        about: Content of its cca.json.
    """
    training, rope = about["training"], about["rope"]
    name = about["base"]["name"]
    averaged = "averaged" in training
    lines = [
        f"# Adapter for {name}",
        "",
        f"LoRA weights (PEFT layout) that teach {name} to read through core",
        f"tokens (group size {about['group_size']}, window {about['window']}). "
        + ("`cca models average` made" if averaged else "`cca adapt` made"),
        "it, the weighted mean of others:" if averaged else "it.",
        "",
        *(_parts(training) if averaged else [_steps(training)]),
        f"- Attention: {about['attention']}; rotary base {_base(rope)}",
        f"- Rows of up to {rope['trained_tokens']:,} tokens; longer texts are read, but it has not",
        "  been trained on them",
    ]
    if begun := training.get("begun_from"):
        lines.append(f"- Begun from the adapter {begun['name']} ({begun['weights_sha256']})")
    return "\n".join([*lines, "", *_data(sources_used(training)), ""])


def sources_used(training: Mapping[str, Any]) -> list[str]:
    """Name the sources of a training, or of all that were averaged, each once and in order.

    Args:
        training: That part of a cca.json; a source that was left out is not named.
    """
    if "averaged" in training:
        every = [name for part in training["averaged"] for name in sources_used(part["training"])]
        return list(dict.fromkeys(every))
    left_out = training.get("recipe", {}).get("without", ())
    return [name for name in training.get("sources", ()) if name not in left_out]


def _steps(training: Mapping[str, Any]) -> str:
    return f"- Steps: {training['steps']:,}; tokens read: {training['tokens']:,}" + (
        "" if training["finished"] else " (not all of the planned steps)"
    )


def _parts(training: Mapping[str, Any], whole: float = 1.0) -> Iterator[str]:
    """Give a line for each adapter that was averaged; of a mean, for each of its own."""
    for part in training["averaged"]:
        own, share = part["training"], whole * part["share"]
        if "averaged" in own:
            yield from _parts(own, share)
            continue
        # What another program trained need not say how.
        told = [f"{own[key]:,} {what}" for key, what in _COUNTED if key in own]
        if own.get("finished") is False:
            told.append("not all of the planned steps")
        if begun := own.get("begun_from"):
            told.append(f"begun from {begun['name']}")
        yield f"- {100 * share:.4g} % {part['name']}: {', '.join(told) or 'no record of training'}"
        yield f"  ({part['weights_sha256']})"


def _base(rope: Mapping[str, Any]) -> str:
    # What stretches with the document has the checkpoint's own base.
    return f"{rope['theta']:,.0f} at every length" if "theta" in rope else "by length"


def _data(names: list[str]) -> Iterator[str]:
    """Give the table of sources, and what whoever uses the weights should know of them."""
    used = [source for source in SOURCES if source.name in names]
    yield from ("## Data", "", "| file | from | licence |", "|---|---|---|")
    yield from (f"| {s.name} | {s.origin} | {s.licence} |" for s in used)
    yield ""
    yield from (f"- {s.name}: {s.note}." for s in used if s.note)
    if made := [name for name in _MADE if name in names]:
        yield f"- Made by rule, without further text: {', '.join(made)}."
