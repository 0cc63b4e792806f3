"""What a training step is worth: tokens a second, model FLOPs utilisation, and the share of attention in its time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attn_lab.core.request import TRAIN_STEP
from attn_lab.measure.prepared_case import PreparedCase, Probe
from attn_lab.records.record import Measurement

STEPS = 5


@dataclass(frozen=True)
class Training(Probe):
    """train_step/tokens_per_second and /mfu from the time measured, /attention_share from `STEPS` more steps.

    MFU by this convention: two FLOPs for each weight of a matrix and token, attention by the mask's exact pairs, a
    backward twice its forward (attention's 2.5 times); what is computed again for a checkpoint, the optimizer and
    everything else counts as nothing.  It is a share of peak_rates/gemm, measured here, not of a data sheet's figure.

    Attention's share is that of its forward and backward alone, without projections, from where they begin on the
    device to where they end.
    """

    clocks = True

    def measure(self, prepared: PreparedCase) -> Iterator[Measurement]:
        if not prepared.trains:
            return
        shape = prepared.request.shape
        if time := prepared.found.get(f"{TRAIN_STEP}/time"):
            tokens = shape.batch_size * shape.seq_len * 1e3
            low, high = (tokens / each if each else None for each in (time.high, time.low))
            yield Measurement(name=f"{TRAIN_STEP}/tokens_per_second", value=tokens / time.value, unit="tokens/s",
                              low=low, high=high, samples=time.samples)  # fmt: skip
        rate, ceiling = (prepared.found.get(name) for name in (f"{TRAIN_STEP}/tflops", "peak_rates/gemm"))
        if rate and ceiling:
            yield Measurement(name=f"{TRAIN_STEP}/mfu", value=100 * rate.value / ceiling.value, unit="%",
                              note="of peak_rates/gemm, attention by its exact pairs")  # fmt: skip
        if prepared.spans:
            shares = []
            for _ in range(1 + STEPS):
                prepared.clear_gradients()
                shares.append(100 * prepared.spans.share(prepared.train_step))
            prepared.clear_gradients()
            del shares[0]  # may have compiled
            yield Measurement(name=f"{TRAIN_STEP}/attention_share", value=float(np.median(shares)), unit="%",
                              low=min(shares), high=max(shares), samples=STEPS)  # fmt: skip
