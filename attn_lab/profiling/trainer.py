"""attn_lab.profile as a callback of transformers' Trainer: it profiles the first steps of a training."""

import weakref
from typing import Any

from transformers import TrainerCallback

from attn_lab.profiling.loop import profile


class ProfileCallback(TrainerCallback):
    """Trainer(…, callbacks=[ProfileCallback(probes=["phases"], folder="runs/mine")]); Takes the arguments of `profile`.

    `record` is the record once the training is over; a training that raises leaves none, and no hook or lock.
    """

    def __init__(self, **settings: Any):
        self._settings = settings
        self._profile: profile | None = None
        self._release: weakref.finalize[Any, Any] | None = None

    @property
    def record(self) -> Any:
        return self._profile and self._profile.record

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self._release is not None:  # an earlier training raised: the Trainer does not tell its callbacks
            self._release()
        self._profile = profile(given["model"], **self._settings)
        self._release = weakref.finalize(self, self._profile.close)
        self._profile.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self._profile is not None
        self._profile.step()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self._profile is not None
        self._profile.__exit__(None, None, None)
