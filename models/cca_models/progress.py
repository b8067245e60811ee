"""How long work reports on itself."""

from collections.abc import Callable

# Called with the stage ("download", "convert", ...), what is done of it and the total, both in the
# stage's own unit (bytes here); a total of 0 means that it is not known.
Progress = Callable[[str, int, int], None]
