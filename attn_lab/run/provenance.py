"""Which source, which machine and which sweep a record comes from."""

from attn_lab.config.basis import machine_basis
from attn_lab.core.machine import Machine
from attn_lab.measure.case import Case
from attn_lab.records.record import Provenance
from attn_lab.records.source import now, source

TOOLS = ("hydra-core", "omegaconf", "wandb")


def provenance_of(case: Case, machine: Machine, sweep: str, command: str) -> Provenance:
    commit, dirty = source()
    versions = {name: version for name, version in case.basis.items() if name not in machine_basis(machine)}
    versions |= {name: machine.packages[name] for name in TOOLS if name in machine.packages}
    return Provenance(
        machine=machine.as_json(), versions=versions, commit=commit, dirty=dirty, config=case.config,
        started=now(), sweep=sweep, command=command,
    )  # fmt: skip
