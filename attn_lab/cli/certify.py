"""attn-lab certify: verify every kind of request that backends declare on this machine, and keep what is found."""

import argparse
import os
from pathlib import Path

from attn_lab.certify.command import certify
from attn_lab.certify.grid import HEAD_DIMS
from attn_lab.core.errors import BadRequest
from attn_lab.core.machine import DEVICES, detect
from attn_lab.nn.auto.candidates import KNOWN
from attn_lab.nn.auto.resolve import backends_named
from attn_lab.nn.registry import AUTO, backend_names
from attn_lab.report.terminal import Terminal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backends", help="names, with commas between; else all that this machine can run")
    parser.add_argument("--head-dims", help="head sizes, with commas between; else 8, 16, … 256")
    parser.add_argument("--device", default="auto", choices=DEVICES)
    parser.add_argument("--workers", type=int, help="processes that share the device; else by the number of cores")
    parser.add_argument("-o", "--output", type=Path, help="a file to add the findings to, beside the user's cache")


def run(given: argparse.Namespace) -> int:
    """Returns 1 if anything that is declared was found incorrect.  Raises BadRequest for an unknown backend."""
    machine = detect(given.device)
    pairs = [name for name in KNOWN if "+" in name]
    names = given.backends.split(",") if given.backends else [*backend_names(), *pairs]
    if given.backends == AUTO:
        raise BadRequest("certify: expected backends that compute attention; got auto, which selects one of them")
    chosen = [each for each in backends_named([name for name in names if name != AUTO])
              if not each.machine_reasons(machine)]  # fmt: skip
    if not chosen:
        raise BadRequest(f"certify: expected a backend that {machine.name} can run; got {given.backends} "
                         "(attn-lab doctor has the reasons)")  # fmt: skip
    try:
        head_dims = tuple(map(int, given.head_dims.split(","))) if given.head_dims else HEAD_DIMS
    except ValueError:
        raise BadRequest(f"certify: expected head sizes such as 64,128; got {given.head_dims!r}") from None
    if unknown := [each for each in head_dims if each not in HEAD_DIMS]:
        raise BadRequest(f"certify: expected head sizes of 8, 16, … 256; got {unknown[0]}")
    workers = given.workers or max(1, min(12, (os.cpu_count() or 1) - 1))
    return certify(chosen, machine, head_dims=head_dims, workers=workers, output=given.output,
                   console=Terminal())  # fmt: skip
