"""Two processes that train or test together, as torchrun or srun would have started them."""

from __future__ import annotations

import socket
from typing import Any

from tests.reliability.faults import Fault
from tests.reliability.launcher import Launcher, Process
from tests.reliability.runs import succeeded

TWO = ["--trainer.strategy=ddp", "--trainer.devices=2"]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def torchrun(rank: int, port: str) -> dict[str, str]:
    """What torchrun sets for each of two processes."""
    return {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "2"},
        **{"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        **{"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0"},
    }


def slurm(rank: int, port: str) -> dict[str, str]:
    """What srun sets for each of two tasks."""
    return {
        **{"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2"},
        **{"SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "localhost", "SLURM_NODEID": "0"},
        **{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_STEP_ID": "0"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
    }


def together(
    warm: Launcher,
    task: str,
    command: list[str],
    faults: tuple[Fault | None, Fault | None] = (None, None),
    variables: Any = torchrun,
    environment: dict[str, str] | None = None,
) -> list[Process]:
    port = free_port()
    return [
        warm.start(task, [*command, *TWO], fault, variables(rank, port) | (environment or {}))
        for rank, fault in enumerate(faults)
    ]


def finished(processes: list[Process]) -> None:
    for process in processes:
        succeeded(process)
