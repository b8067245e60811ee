"""What can go wrong with a model, as a tree.

ModelError
├── CheckpointError          missing, damaged or not loadable
│   └── UnsupportedModelError    readable, but not a LLaMA-family architecture
├── AdapterError             an adapter is missing, damaged or made for another checkpoint
├── DownloadError            the default model could not be obtained
├── ContextTooLongError      more tokens than the checkpoint can be stretched to
├── EvaluationError          data that a task cannot use (evaluation.types)
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


class AdapterError(ModelError):
    """An adapter is missing, damaged, of an unknown kind or made for another checkpoint."""


class DownloadError(ModelError):
    """The default model could not be obtained."""


class ContextTooLongError(ModelError):
    """A text needs more tokens than the checkpoint's positions can be stretched to."""


class MemoryFileError(ModelError):
    """A saved memory is damaged or was made with other settings."""
