"""Bytes that processes send to one another in a training step: measured on CPU with gloo.

Every process counts what its own TCP connections sent, as Linux has it (TCP_INFO, kernel 4.19), so
that other traffic of the machine does not matter. Each trains the same small network under DDP.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from cnsn import CNSNSpec, insert
from cnsn.nets import wide_resnet

__all__ = ["Traffic", "measured_traffic", "ring_bytes", "sizes_of"]

STEPS = 3
SENT = 200  # offset of tcpi_bytes_sent in struct tcp_info


class Traffic(NamedTuple):
    """Of one step and process.

    Attributes:
        sent: bytes, the mean over processes and steps.
        seconds: of a step, by the clock.
    """

    sent: float
    seconds: float


class Sizes(NamedTuple):
    """Bytes of a network: gradients, and buffers that DDP sends from process 0 in every step."""

    gradients: int
    buffers: int


def sizes_of(net: torch.nn.Module) -> Sizes:
    gradients = sum(p.nbytes for p in net.parameters() if p.requires_grad)
    return Sizes(gradients, sum(b.nbytes for b in net.buffers()))


def ring_bytes(payload: int, processes: int) -> float:
    """What each process sends in a ring all-reduce: 2 (n - 1) / n of the payload."""
    return 2 * (processes - 1) / processes * payload


def bytes_sent() -> int:
    """Of all TCP connections of this process so far."""
    total = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(entry)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(entry))) as connection:
                if connection.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        except OSError:
            continue
        if len(info) >= SENT + 8:
            total += struct.unpack_from("Q", info, SENT)[0]
    return total


def network(kind: Any, width: int) -> torch.nn.Module:
    return insert(wide_resnet(depth=16, width=width), CNSNSpec(kind=kind))


def _train(rank: int, processes: int, folder: str, kind: str, width: int) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    torch.manual_seed(0)
    net = DistributedDataParallel(network(kind, width))
    images, label = torch.randn(4, 3, 8, 8), torch.arange(4)

    def step() -> None:
        net.zero_grad()
        F.cross_entropy(net(images), label).backward()

    step()  # buckets are ordered anew after the first
    step()
    dist.barrier()
    before, start = bytes_sent(), time.perf_counter()
    for _ in range(STEPS):
        step()
    found = torch.tensor([bytes_sent() - before, time.perf_counter() - start]) / STEPS
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def measured_traffic(processes: int, kind: str = "none", width: int = 1) -> Traffic:
    """Train for a few steps in `processes` processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_train, (processes, folder, kind, width), nprocs=processes)
        found = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(processes)]
    sent, seconds = torch.stack(found).mean(0).tolist()
    return Traffic(sent, seconds)
