"""Checkpoints of a training: written aside, taken up again by the same training alone."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from cca_models.errors import ModelError

if TYPE_CHECKING:
    from cca_models.adaptation.recipe import Recipe
    from cca_models.adaptation.trainer import Training

_STATE = "state.json"
_AFRESH = "another --out begins afresh"


def identity_of(
    recipe: "Recipe", training: "Training", begun_from: Mapping[str, str] | None
) -> dict[str, Any]:
    """Give all that a resumed training must share; how often it is saved may differ."""
    free = ("checkpoint_every", "compile", "recompute_from")
    about = {
        "recipe": recipe.facts(),
        "training": {k: v for k, v in asdict(training).items() if k not in free},
        # Its name may change, with the folder's.
        "begun_from": begun_from and begun_from["weights_sha256"],
    }
    return json.loads(json.dumps(about))  # type: ignore[no-any-return]


def save_state(accelerator: Accelerator, out: Path, step: int, identity: Mapping[str, Any]) -> None:
    """Write a checkpoint beside the last one, then let it take its place."""
    aside, target = out / "checkpoint.new", out / "checkpoint"
    accelerator.save_state(str(aside))
    if accelerator.is_main_process:
        (aside / _STATE).write_text(json.dumps({"step": step, **identity}, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
    accelerator.wait_for_everyone()


def resume(accelerator: Accelerator, out: Path, identity: Mapping[str, Any]) -> int:
    """Load the checkpoint that is there; gives the steps that it had done.

    Raises:
        ModelError: If it is of another training, or of a release that trained otherwise.
    """
    file = out / "checkpoint" / _STATE
    if not file.is_file():
        return 0
    state = json.loads(file.read_text())
    lacking = sorted(
        name for part in ("recipe", "training") for name in identity[part].keys() - state[part]
    )
    if lacking or "begun_from" not in state:
        what = (lacking or ["begun_from"])[0]
        raise ModelError(
            f"{out} holds a training by an earlier release of cca, which had no {what}",
            hint=f"{_AFRESH}; that release can go on with it",
        )
    odd = [name for name in identity if state[name] != identity[name]]
    if odd:
        raise ModelError(
            f"{out} holds a training with another {odd[0]}",
            hint=f"{_AFRESH}; the same settings go on",
        )
    accelerator.load_state(str(out / "checkpoint"))
    return int(state["step"])
