"""Chat templates: rendered as transformers renders them, and in a sandbox."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import make_tiny_checkpoint

from cca_models.errors import CheckpointError
from cca_models.tokenizer import Tokenizer, load_tokenizer

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who keeps the light? <&>"},
]

TEMPLATES = {
    "blocks are trimmed": "{% for m in messages %}\n    {% if true %}\n{{ m.content }}\n"
    "    {% endif %}\n{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.index0 %}{% break %}{% endif %}"
    "{{ m.content }}{% endfor %}",
    "generation tags": "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}"
    "{% endfor %}",
    "json": "{{ messages | tojson }} {{ messages[1] | tojson(indent=2) }}",
    "special tokens": "{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}",
    "prompt": "{% if add_generation_prompt %}go{% endif %}{% if tools %}no{% endif %}",
    "undefined": "[{{ nothing }}]{% if documents is none %}x{% endif %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% endfor %}{{ ns.n }}",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCA_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_tiny_checkpoint(tmp_path / "tiny", layers=1)


def with_template(path: Path, template: Any) -> Tokenizer:
    file = path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config["chat_template"] = template
    file.write_text(json.dumps(config))
    return load_tokenizer(path)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_render_as_in_transformers(path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    ours = with_template(path, TEMPLATES[name])
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    for ready in (True, False):
        expected = theirs.apply_chat_template(TALK, tokenize=False, add_generation_prompt=ready)
        assert ours.chat(TALK, add_generation_prompt=ready) == expected


def test_template_file_and_list_of_templates_are_found(path: Path) -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    assert with_template(path, named).chat(TALK) == "yes"
    (path / "chat_template.jinja").write_text("file")
    assert load_tokenizer(path).chat(TALK) == "file"


def test_without_a_template_messages_become_paragraphs(path: Path) -> None:
    ours = with_template(path, None)
    text = "System: Be brief.\n\nUser: Who keeps the light? <&>"
    assert ours.chat(TALK, add_generation_prompt=False) == text
    assert ours.chat(TALK) == text + "\n\nAssistant:"


def test_template_knows_the_day(path: Path) -> None:
    today = with_template(path, "{{ strftime_now('%Y-%m-%d') }}").chat(TALK)
    assert abs((datetime.now() - datetime.fromisoformat(today)).days) <= 1


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('no system message, please') }}", "no system message, please"),
        ("{% for %}", "template"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "not safely callable|unsafe"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ messages[7].content }}", "undefined|no element"),
    ],
)
def test_bad_templates_are_an_error_with_a_hint(path: Path, template: str, says: str) -> None:
    ours = with_template(path, template)
    with pytest.raises(CheckpointError, match=says) as caught:
        ours.chat(TALK)
    assert "chat_template" in caught.value.hint
