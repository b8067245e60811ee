"""What can go wrong with a model, as a tree.

ModelError
├── CheckpointError          missing, damaged or not loadable
│   └── UnsupportedModelError    readable, but not a LLaMA-family architecture
├── DownloadError            the default model could not be obtained
├── ContextTooLongError      more tokens than the checkpoint can be stretched to
└── MemoryFileError          a saved memory is damaged or belongs to other settings
"""


class ModelError(Exception):
    """Base of all errors that cca_models raises on purpose.

    `hint` is the next thing for the user to do, a short sentence or a command, or empty.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class CheckpointError(ModelError):
    """A checkpoint is missing, damaged or not loadable."""


class UnsupportedModelError(CheckpointError):
    """A checkpoint is readable but its architecture is not of the LLaMA family."""


class DownloadError(ModelError):
    """The default model could not be obtained."""


class ContextTooLongError(ModelError):
    """A text needs more tokens than the checkpoint's positions can be stretched to."""


class MemoryFileError(ModelError):
    """A saved memory is damaged or was made with other settings."""
