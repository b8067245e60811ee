"""From messages to the text that a checkpoint was tuned to continue."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import Template


def render_chat(
    template: str | None,
    messages: Sequence[Mapping[str, str]],
    *,
    special_tokens: Mapping[str, str],
    add_generation_prompt: bool,
) -> str:
    """Return `messages` as one prompt.

    A checkpoint's Jinja template runs in the sandbox and with the helpers that transformers gives
    it. Without one the messages become paragraphs, each behind its role and a colon, and the
    prompt for an answer is "Assistant:".

    Args:
        template: The checkpoint's template; None if it has none.
        messages: Each with "role" and "content".
        special_tokens: Variables of the template, such as `bos_token`.
        add_generation_prompt: Whether the text ends where the answer begins.

    Raises:
        ValueError: If the template is damaged or does not take these messages.
    """
    if template is None:
        paragraphs = [
            f"{message['role'].capitalize()}: {message['content']}" for message in messages
        ]
        if add_generation_prompt:
            paragraphs.append("Assistant:")
        return "\n\n".join(paragraphs)
    try:
        return _compiled(template).render(
            messages=[dict(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **special_tokens,
        )
    # A template is a program from elsewhere; what it raises is anybody's guess.
    except Exception as error:
        raise ValueError(f"the checkpoint's chat template failed: {error}") from error


@lru_cache(maxsize=8)
def _compiled(template: str) -> "Template":
    # Costs 60 ms, as much as the rest of a tokenizer's start.
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's words for training; here it changes nothing."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(template)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    import json

    # jinja2's own filter escapes for HTML.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _strftime_now(format: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(format)
