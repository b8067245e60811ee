"""What a file's name says about its format; asked only where its content does not tell."""

from __future__ import annotations

import re
from pathlib import PurePath

__all__ = ["CODE", "HTML", "MARKDOWN", "TEXT", "is_code_name"]

MARKDOWN = frozenset({".md", ".markdown", ".mdown", ".mkd", ".mkdn", ".mdwn", ".qmd", ".rmd"})
TEXT = frozenset(
    {".txt", ".text", ".log", ".rst", ".tex", ".org", ".adoc", ".csv", ".tsv", ".srt", ".vtt"}
)
HTML = frozenset({".html", ".htm", ".xhtml", ".xht"})
CODE = frozenset(
    {
        ".asm", ".awk", ".bash", ".bat", ".c", ".cc", ".cfg", ".clj", ".cmake", ".coffee", ".cpp",
        ".cs", ".css", ".cu", ".cuh", ".cxx", ".dart", ".diff", ".el", ".elm", ".erl", ".ex",
        ".exs", ".f", ".f90", ".fish", ".fs", ".go", ".gradle", ".graphql", ".groovy", ".h", ".hh",
        ".hpp", ".hs", ".hxx", ".ini", ".java", ".jl", ".js", ".json", ".jsonl", ".jsx", ".kt",
        ".kts", ".less", ".lisp", ".lua", ".m", ".mjs", ".ml", ".mli", ".mm", ".nim", ".nix",
        ".pas", ".patch", ".php", ".pl", ".pm", ".proto", ".ps1", ".py", ".pyi", ".pyx", ".r",
        ".rb", ".rs", ".sass", ".scala", ".scm", ".scss", ".sh", ".sql", ".svelte", ".swift",
        ".tcl", ".tf", ".toml", ".ts", ".tsx", ".v", ".vb", ".vhd", ".vim", ".vue", ".xml", ".xsd",
        ".xsl", ".yaml", ".yml", ".zig", ".zsh",
    }
)  # fmt: skip
_CODE_NAMES = re.compile(
    r"(?:gnu)?makefile|dockerfile|cmakelists\.txt|rakefile|gemfile|jenkinsfile|vagrantfile|"
    r"build(?:\.bazel)?|\.gitignore|\.bashrc|\.profile",
    re.I,
)


def is_code_name(name: str) -> bool:
    """Return whether a file's name is one that source code has."""
    return PurePath(name).suffix.lower() in CODE or _CODE_NAMES.fullmatch(name) is not None
