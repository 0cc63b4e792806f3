"""Remote workers as Slurm jobs, by submitit: each job has one GPU, and claims batches while there are any."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit

from attn_lab.core.errors import BadRequest
from attn_lab.run.cluster.remote_worker import error_line, run_worker
from attn_lab.run.local.fork_server import child_environment


class SlurmJob:
    def __init__(self, job: "submitit.Job[str]"):
        self._job = job

    def begun(self) -> str:
        return f"job {self._job.job_id}" if self._job.paths.stdout.exists() else ""

    def done(self) -> bool:
        return self._job.done()

    def result(self) -> str:
        try:
            return self._job.result()
        except submitit.core.utils.FailedJobError as error:
            raise RuntimeError(f"job {self._job.job_id}: {error_line(str(error))}") from None
        except submitit.core.utils.UncompletedJobError:
            last = error_line(self._job.stderr() or "") or "it said nothing"
            raise RuntimeError(
                f"job {self._job.job_id} ended early, {self._job.state}: {last} (log: {self._job.paths.stderr})"
            ) from None

    def cancel(self) -> None:
        self._job.cancel(check=False)


class SlurmBackend:
    """`count` jobs; `cluster` is slurm, or local: processes here, to try it.  `sbatch` are options of sbatch."""

    def __init__(self, *, count: int, cluster: str, folder: str, gpus_per_node: int, **sbatch: Any):
        if count < 1:
            raise BadRequest(f"hydra.launcher.count: expected at least 1; got {count}")
        self._count, self._cluster, self._gpus = count, cluster, gpus_per_node
        self._folder = Path(folder).expanduser()
        self._ids: list[str] = []
        self._sbatch = {name: value for name, value in sbatch.items() if value not in (None, {})}

    def count(self, device: str) -> int:
        return self._count

    def start(self, argv: Sequence[str], device: str) -> SlurmJob:
        try:
            executor = submitit.AutoExecutor(folder=self._folder, cluster=self._cluster)
            executor.update_parameters(
                name=f"attn-lab-{argv[0]}", gpus_per_node=0 if device == "cpu" else self._gpus, **self._sbatch
            )
            with child_environment():
                job = executor.submit(run_worker, list(argv), os.getcwd())
        except (submitit.core.utils.FailedJobError, RuntimeError, ValueError, NameError) as error:
            got = " ".join(str(error).split())
            raise BadRequest(f"hydra/launcher=slurm: expected jobs to be taken; got {got}") from None
        if self._cluster == "local":
            job._results_timeout_s = 1  # else 15: what a job leaves may be late on a file system of many machines
        self._ids.append(job.job_id)
        return SlurmJob(job)

    def pending_reason(self, device: str) -> str:
        return f"Slurm to start jobs {', '.join(self._ids)}; squeue --me says what they wait for"


def make(slurm: Mapping[str, Any], **settings: Any) -> SlurmBackend:
    return SlurmBackend(**settings, **{f"slurm_{name}": value for name, value in slurm.items()})
