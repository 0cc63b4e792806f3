"""A process that runs checks one after another: a line of JSON in, a line of JSON out.

A kernel that breaks its process, or its GPU's context, costs one check: another worker goes on with the next.
"""

import json
import os
import sys
import warnings
from dataclasses import replace
from typing import Any

import torch

from attn_lab.certify.grid import HEAD_DIMS, Check, checks, kinds, sizes
from attn_lab.core.backend import Backend
from attn_lab.core.errors import Unsupported
from attn_lab.core.machine import Machine, detect
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.nn.small_case import small_case_errors


def run(backend: Backend, check: Check, machine: Machine) -> dict[str, Any]:
    """Errors by name, each [largest, allowed]; or why it is unsupported; or what it raised.

    A request that is served without gradients alone is checked without, and marked so.
    """
    request = check.request
    if reasons := backend.declared_reasons(request, machine):
        request = replace(request, passes=("forward",))
        if backend.declared_reasons(request, machine):
            return {"unsupported": reasons}
    only = {} if request is check.request else {"forward_only": reasons}
    try:
        return {"errors": small_case_errors(backend, request, machine, packed=check.packed), **only}
    except Unsupported as late:
        return {"unsupported": late.reasons}
    except Exception as error:  # noqa: BLE001  whatever another's kernel raises is a finding
        return {"raised": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}


def main() -> None:
    """Answer lines {"backend", "head_dim", "number"} or {"backend", "size"} until there are none."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    machine = detect(sys.argv[1])
    for line in sys.stdin:
        task = json.loads(line)
        (backend,) = backends_named(task["backend"])
        found = run(backend, find(backend, machine, task), machine)
        answers.write(json.dumps(found) + "\n")
        if "raised" in found and machine.device == "cuda" and not _gpu_is_usable():
            os._exit(3)


def find(backend: Backend, machine: Machine, task: dict[str, Any]) -> Check:
    """The check that a task names by its place in the grid."""
    if "size" in task:
        return dict(sizes(backend, machine))[task["size"]]
    kind = list(kinds(backend, machine, HEAD_DIMS))[task["kind"]]
    return checks(kind)[task["number"]]


def _gpu_is_usable() -> bool:
    try:
        torch.cuda.synchronize()
        return bool(torch.ones(1, device="cuda").item() == 1)
    except RuntimeError:
        return False


if __name__ == "__main__":
    main()
