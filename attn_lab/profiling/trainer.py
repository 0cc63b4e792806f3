"""attn_lab.profile as a callback of transformers' Trainer: it looks inside the first steps of a training."""

from typing import Any

from transformers import TrainerCallback

from attn_lab.profiling.loop import profile


class ProfileCallback(TrainerCallback):
    """Trainer(…, callbacks=[ProfileCallback(probes=["phases"], folder="runs/mine")]); takes what `profile` takes.

    `record` holds what was seen once the training is over.
    """

    def __init__(self, **settings: Any):
        self._settings = settings
        self._profile: profile | None = None

    @property
    def record(self) -> Any:
        return self._profile and self._profile.record

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._profile = profile(given["model"], **self._settings).__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self._profile is not None
        self._profile.step()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self._profile is not None
        self._profile.__exit__(None, None, None)
