"""The path of every case, from its overrides to its record, for cases of no command line."""

import gc
from collections.abc import Collection

from hydra import compose, initialize_config_module
from omegaconf import open_dict

from attn_lab.config.build import build
from attn_lab.config.resolvers import register_resolvers
from attn_lab.config.schema import register
from attn_lab.core.machine import Machine
from attn_lab.measure.case import Case
from attn_lab.measure.run_case import run_case
from attn_lab.records.record import Record
from attn_lab.run.provenance import provenance_of


class Harness:
    """The lab on one machine: `case` composes and builds as a sweep does, `record` runs it."""

    def __init__(self, machine: Machine):
        self.machine = machine
        self._first = True
        register()
        register_resolvers()

    def case(self, name: str, target: str, *overrides: str, without: Collection[str] = ()) -> Case:
        """A quick case of the backend that `target` names, labelled `name`; `without` leaves probes out."""
        device = self.machine.device
        dtype = {"cpu": "float32", "cuda": "float16"}[device]
        own = (f"backend._target_={target}", f"device={device}", "measure=quick", "shape.batch_size=2")
        with initialize_config_module("attn_lab.conf", version_base="1.3"):
            config = compose("config", [*own, f"shape.dtype={dtype}", *overrides], return_hydra_config=True)
        with open_dict(config):
            config.probe = {key: probe for key, probe in config.probe.items() if key not in without}
        return build(config, self.machine, choices={**config.hydra.runtime.choices, "backend": name})

    def record(self, case: Case) -> Record:
        record = run_case(case, self.machine, provenance_of(case, self.machine, "selfcheck", "attn-lab selfcheck"))
        if self._first:
            gc.freeze()  # as a sweep does, and for its reason
        self._first = False
        return record
