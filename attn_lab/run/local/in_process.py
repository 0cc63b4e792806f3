"""Cases run one after the other in this very process."""

import gc
from collections.abc import Iterator

from attn_lab.core.machine import Machine
from attn_lab.measure.run_case import case_steps
from attn_lab.run.executor import Event, Finished, ProbeBegan, Started
from attn_lab.run.interrupt import Interrupt
from attn_lab.run.local.machines import local_machines
from attn_lab.run.plan import Plan
from attn_lab.run.provenance import provenance_of

WORKER = "here"


class InProcess:
    """Runs one case after the other in this very process."""

    def __init__(self, interrupt: Interrupt):
        self._interrupt = interrupt

    def machines(self, device: str) -> tuple[Machine, ...]:
        return local_machines(device)

    def n_workers(self, plan: Plan) -> int:
        return 1

    def run(self, plan: Plan) -> Iterator[Event]:
        machine, spec = plan.sweep.machines[0], plan.sweep.spec
        for number, case in enumerate(plan.todo):
            if self._interrupt.requested:
                return
            yield Started(WORKER, case)
            steps = case_steps(case, machine, provenance_of(case, machine, spec.sweep, spec.command))
            while True:
                try:
                    yield ProbeBegan(WORKER, case, next(steps))
                except StopIteration as end:
                    record = end.value
                    break
            if number == 0:
                gc.freeze()  # what the first case has loaded stays: a collection after each then takes ms, not 0.2 s
            yield Finished(WORKER, case, record)
