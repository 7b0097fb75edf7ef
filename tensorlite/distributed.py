"""Several processes that compute one result together: MPI between CPUs, NCCL between GPUs.

    world = distributed.join()    # in a process that mpiexec or srun has started
    world.all_reduce(x)           # x becomes the sum of x over all processes

Every process calls the same functions in the same order. Arrays are contiguous; NumPy's travel by MPI, CuPy's by NCCL
on the current stream. mpi4py is imported by `join` alone, so a program that does not call it needs no MPI.

Message Passing Interface Forum, "MPI: A Message-Passing Interface Standard", version 4.0, 2021, chapter 6.
"""

import faulthandler
import os
import pickle
import time
from typing import Any

import numpy as np

from .backend import Array

# Names of environment variables: rank, number of processes, rank among those of the host. In this order: Hydra (MPICH,
# Intel MPI), Open MPI, Slurm. A batch script has SLURM_NTASKS, but only what srun starts has SLURM_STEP_NUM_TASKS.
LAUNCHERS = (
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)
ABORT_PATIENCE = 5.0  # seconds that MPI_Abort may take
SPIN = 0.005  # seconds for which a wait only yields its core; then it sleeps between looks
_yield = getattr(os, "sched_yield", lambda: time.sleep(0))  # Windows has no sched_yield
_world: "World | None" = None


def launched() -> tuple[int, int, int]:
    """Rank, number of processes, and rank on this host, as the launcher's environment has them; (0, 1, 0) without."""
    for names in LAUNCHERS:
        values = [os.environ.get(name, "") for name in names]
        if values[0].isdecimal() and values[1].isdecimal():
            return int(values[0]), int(values[1]), int(values[2]) if values[2].isdecimal() else int(values[0])
    return 0, 1, 0


def joined() -> "World | None":
    """The world that `join` made; None before."""
    return _world


def join() -> "World":
    """All processes that were started together; the same object at every call.

    ImportError where mpi4py or an MPI library is missing, RuntimeError where MPI does not see all that were started.
    """
    global _world
    if _world is None:
        rank, size, _ = launched()
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            missing = "mpi4py is not installed" if isinstance(error, ImportError) else "mpi4py finds no MPI library"
            raise ImportError(
                f"this is process {rank} of {size} of one run, and {missing}: pip install 'tensorlite[mpi]' or, on a "
                "cluster, load its MPI and pip install mpi4py; without mpiexec or srun one process trains alone"
            ) from None
        if MPI.COMM_WORLD.size != size:
            raise RuntimeError(
                f"{size} processes were started together, and MPI sees {MPI.COMM_WORLD.size} of them: start them with "
                f"the mpiexec of mpi4py's own MPI, {MPI.Get_library_version().splitlines()[0].strip()}"
            )
        _world = World(MPI.COMM_WORLD.Dup())
    return _world


class World:
    """The processes of one run. `rank` is this one's number, from 0; `local_rank` its number on its host.

    `size` and `local_size` count processes, `hosts` counts hosts. `payload` adds up the bytes of the arrays that were
    reduced and gathered. An MPI library sends 2 (size - 1) / size times that from each process if it uses an algorithm
    of optimal bandwidth, where reducing and gathering all count as a half each.
    """

    def __init__(self, comm: Any):
        from mpi4py import MPI

        self.mpi, self.comm, self.rank, self.size = MPI, comm, comm.rank, comm.size
        local = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = local.rank, local.size
        self.hosts = comm.allreduce(int(local.rank == 0))
        self.payload = 0.0
        self._gpus: Any = None

    # ----- objects, on the host: what is pickled here is small

    def share(self, value: Any = None) -> Any:
        """The value of process 0, in all."""
        data = np.frombuffer(pickle.dumps(value) if self.rank == 0 else b"", np.uint8).copy()
        size = self.share_number(data.size)
        data = data if self.rank == 0 else np.empty(size, np.uint8)
        self.broadcast(data)
        return value if self.rank == 0 else pickle.loads(data.tobytes())

    def collect(self, value: Any) -> list[Any]:
        """The values of all processes by rank, in all."""
        data = np.frombuffer(pickle.dumps(value), np.uint8).copy()
        sizes = np.zeros(self.size, np.int64)
        sizes[self.rank] = data.size
        self.wait(self.comm.Iallreduce(self.mpi.IN_PLACE, sizes))
        found = np.empty(int(sizes.sum()), np.uint8)
        self.wait(self.comm.Iallgatherv(data, (found, sizes)))
        return [pickle.loads(part.tobytes()) for part in np.split(found, np.cumsum(sizes)[:-1])]

    def share_number(self, number: int = 0) -> int:
        """The integer of process 0, in all."""
        found = np.array([number])
        self.broadcast(found)
        return int(found[0])

    def notify(self, number: int) -> None:
        """Send an integer to process 0 without waiting for it: what `noticed` returns there."""
        self._notice = np.array([number])  # kept until it is sent
        self.comm.Isend(self._notice, 0, tag=1)

    def noticed(self) -> int | None:
        """An integer that another process has sent to process 0, if any has arrived."""
        if not self.comm.Iprobe(tag=1):
            return None
        found = np.zeros(1, np.int64)
        self.comm.Recv(found, tag=1)
        return int(found[0])

    # ----- arrays

    def broadcast(self, x: Array) -> None:
        """Overwrite x by that of process 0."""
        if (gpus := self._nccl(x)) is not None:
            gpus.broadcast(x)
        else:
            self.wait(self.comm.Ibcast(x))

    def all_reduce(self, x: Array) -> None:
        """Overwrite x by its sum over all processes."""
        self.wait(self.start_all_reduce(x))

    def start_all_reduce(self, x: Array) -> Any:
        """The same without waiting: a request for `wait` and `progress`; None on a GPU, where the stream has it."""
        self.payload += x.nbytes
        if (gpus := self._nccl(x)) is not None:
            return gpus.all_reduce(x)
        return self.comm.Iallreduce(self.mpi.IN_PLACE, x)

    def start_reduce_scatter(self, x: Array, part: Array) -> Any:
        """`part` becomes this process' part of the sum of x: x (size * n,), part (n,). As `start_all_reduce`."""
        self.payload += x.nbytes / 2
        if (gpus := self._nccl(x)) is not None:
            return gpus.reduce_scatter(x, part)
        return self.comm.Ireduce_scatter_block(x, part)

    def start_all_gather(self, x: Array) -> Any:
        """Each process' part of x (size * n,), in all: the others' parts are overwritten. As `start_all_reduce`."""
        self.payload += x.nbytes / 2
        if (gpus := self._nccl(x)) is not None:
            return gpus.all_gather(x)
        return self.comm.Iallgather(self.mpi.IN_PLACE, x)

    def sent(self) -> float:
        """Bytes that this process has sent for `payload`, by an algorithm of optimal bandwidth."""
        return 2 * (self.size - 1) / self.size * self.payload

    def _nccl(self, x: Array) -> Any:
        """The communicator between GPUs, made at the first CuPy array; None for NumPy's."""
        if type(x) is np.ndarray:
            return None
        if self._gpus is None:
            from .devices.nccl import Communicator

            self._gpus = Communicator(self.rank, self.size, self.share)
        return self._gpus

    # ----- waiting

    def wait(self, request: Any) -> None:
        """Return when the request is complete. A wait that takes long sleeps, so that others can use the core."""
        if request is None:
            return
        began = time.monotonic()
        while not request.Test():
            waited = time.monotonic() - began
            if waited < SPIN:
                _yield()
            else:
                time.sleep(min(waited / 200, 0.01))  # MPI moves data only while it is called

    def abort(self) -> None:
        """End all processes at once with status 1, without any cleaning up.

        MPICH's MPI_Abort waits for ever where the link to another host is gone: then this process ends by itself after
        a few seconds, and its launcher ends the others.
        """
        with open(os.devnull, "w") as nowhere:  # mpi4py holds Python's lock meanwhile: only a thread of C can end it
            faulthandler.dump_traceback_later(ABORT_PATIENCE, exit=True, file=nowhere)
            self.comm.Abort(1)
