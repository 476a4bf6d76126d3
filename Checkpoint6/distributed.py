"""Several processes that train one model, and the signals that stop them."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import multiprocessing
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import paddle
from paddle import distributed

from alignment.screen import tell

__all__ = [
    "Stop",
    "agree",
    "any_rank",
    "broadcast",
    "broadcast_statistics",
    "end_together",
    "end_workers",
    "free_shared_memory",
    "in_worker",
    "leave",
    "start",
    "sum_over_ranks",
    "wait_for_word",
]

# Paddle's own handlers print a stack, and allocate memory: a signal in the middle of an allocation
# makes them wait for ever.
paddle.disable_signal_handler()


def start() -> tuple[int, int]:
    """(rank, world_size); joins the other processes of `python -m paddle.distributed.launch`.

    On GPUs the ranks talk by NCCL, on the CPU by gloo. Each has to say by `leave` that it ends.
    """
    global _companions
    world_size = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    if world_size == 1:
        return 0, 1
    _when_parent_dies(signal.SIGTERM)  # the launcher
    distributed.init_parallel_env()
    _companions = Companions(distributed.get_rank(), world_size)
    _wait_before_abort()
    return distributed.get_rank(), world_size


class Stop:
    """SIGTERM and SIGINT ask for an end after the step.

    A second SIGINT, from someone who does not want to wait, ends at once. A second SIGTERM does
    not: launchers send several.

    Attributes:
        signal: number of the signal, 0 before.
    """

    def __init__(self) -> None:
        self.signal = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            os.write(2, b"stopped at once, without saving\n")
            os._exit(128 + number)
        if number == signal.SIGINT and not self.signal:
            os.write(2, b"finishing this step; once more Ctrl-C to stop without saving\n")
        self.signal = self.signal or number


def in_worker(worker_id: int) -> None:
    """For worker_init_fn: workers of a data loader are forked, and Stop's handlers with them.

    A signal to all processes of a group, from a terminal or a launcher, is none of a worker's
    business: its batches are needed until the step is done. And it ends with the process that made
    it; after a `kill -9` it would wait for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _when_parent_dies(signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)  # it has died before the system was asked, and then nobody is told


def _when_parent_dies(number: int) -> None:
    """Asks the system for a signal then; only Linux has that."""
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_death_signal, number)


def _wait_before_abort() -> None:
    """A C++ exception that nobody catches waits for `Companions` to say who is gone.

    gloo throws where a rank is gone, in the middle of a backward pass, and C++ aborts this process
    at once: all that is said then is the address of a socket.
    """
    if sys.platform != "linux":
        return
    handler = ctypes.CFUNCTYPE(None)
    set_terminate = ctypes.CDLL("libstdc++.so.6")["_ZSt13set_terminatePFvvE"]  # std::set_terminate
    set_terminate.restype, set_terminate.argtypes = handler, [handler]

    @handler
    def wait() -> None:
        wait_for_word()
        before()

    before = set_terminate(wait)
    # No Python after its end; and until then `wait` has to be kept.
    atexit.register(lambda kept: set_terminate(before), wait)


def end_workers() -> None:
    """Workers that are left would be asked by SIGTERM to end, and waited for."""
    workers = multiprocessing.active_children()
    for process in workers:
        process.kill()
    for process in workers:
        process.join()
        _free_shared_memory(process.pid)


SAID_WITHIN = 5  # seconds, from a socket that closes
SHARED_MEMORY = Path("/dev/shm")
LONG_AGO = 600  # seconds; a batch is on its way for less


def free_shared_memory() -> None:
    """Removes the batches that workers of processes killed by `kill -9` had on their way.

    Nothing else frees that memory, and workers die for want of it. Of this user's only; process
    numbers in another container may be others, so what is new is left alone.
    """
    with contextlib.suppress(OSError):
        owners = {path.name.split("_")[1] for path in SHARED_MEMORY.glob("paddle_*_*")}
        for pid in owners:
            if pid.isdigit() and not Path("/proc", pid).exists():
                _free_shared_memory(pid, LONG_AGO)


def _free_shared_memory(pid: int | str | None, age: float = 0) -> None:
    for path in SHARED_MEMORY.glob(f"paddle_{pid}_*"):
        with contextlib.suppress(OSError):
            status = path.stat()
            if status.st_uid == os.getuid() and time.time() - status.st_mtime >= age:
                path.unlink()


class Companions:
    """Connections between ranks, for what is not to wait for a GPU; and who goes, is noticed.

    gloo and NCCL would wait half an hour for a rank that is gone. Here each rank holds a connection
    to rank 0, over which it says goodbye. The system closes the connection of a process that dies,
    and after half a minute that of a machine that is gone: this process then ends as well.

    Attributes:
        ending: whether this process is about to end by itself.
    """

    ORDERLY = (0, 128 + signal.SIGINT, 128 + signal.SIGTERM)
    GOODBYE = b"\xff"  # then the exit status and a message; any other byte is of `any`

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.ending = rank, False
        self.connections: list[socket.socket] = []
        self.said: list[queue.SimpleQueue[int | None]] = []
        if rank == 0:
            host = os.environ["PADDLE_CURRENT_ENDPOINT"].rpartition(":")[0]
            server = socket.create_server((host, 0), backlog=world_size)
            server.settimeout(300)
            broadcast((host, server.getsockname()[1]), world_size)
            for _ in range(1, world_size):
                connection, _ = server.accept()
                self._watch(connection, int.from_bytes(_receive(connection, 4), "big"))
            server.close()
        else:
            connection = socket.create_connection(broadcast(None, world_size), timeout=60)
            connection.settimeout(None)
            connection.sendall(rank.to_bytes(4, "big"))
            self._watch(connection, 0)

    def _watch(self, connection: socket.socket, rank: int) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
        self.connections.append(connection)
        self.said.append(queue.SimpleQueue())
        arguments = connection, rank, self.said[-1]
        threading.Thread(target=self._listen, args=arguments, daemon=True).start()

    def _listen(self, connection: socket.socket, rank: int, said: queue.SimpleQueue) -> None:
        while (byte := _receive(connection, 1)) and byte != self.GOODBYE:
            said.put(byte[0])
        goodbye = _receive(connection).decode(errors="surrogateescape")
        number, _, message = goodbye.partition(" ")
        status = int(number) if number.isdigit() else 1
        if status in self.ORDERLY or (self.ending and goodbye):
            said.put(None)
            return
        message = message or "gone without a word: killed, or its machine is down"
        try:
            tell(f"rank {rank}: {message}. Stopping; go on with --resume auto")
        finally:  # the disk under it may be full
            self.leave(status, message)
            end_workers()
            os._exit(status)

    def any(self, flags: int) -> int:
        """The flags, bits of a number below 255, that any rank gives. All ranks have to ask."""
        if self.rank:
            self._tell(bytes([flags]))
            return self._hear(self.said[0])
        for said in self.said:
            flags |= self._hear(said)
        self._tell(bytes([flags]))
        return flags

    def _hear(self, said: queue.SimpleQueue) -> int:
        flags = said.get()
        if flags is None:
            raise RuntimeError("another rank has ended, and this one goes on: not all do the same")
        return flags

    def _tell(self, data: bytes) -> None:
        for connection in self.connections:
            with contextlib.suppress(OSError):  # who is gone is noticed by _listen
                connection.sendall(data)

    def leave(self, status: int, message: str) -> None:
        self.ending = True
        self._tell(self.GOODBYE + f"{status} {message}".encode())
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)


_companions = None  # of several ranks


def any_rank(flags: int) -> int:
    """The flags, bits of a number below 255, that any rank gives. A collective call.

    Between the hosts: no GPU is waited for.
    """
    return _companions.any(flags) if _companions else flags


def wait_for_word() -> None:
    """Where a rank that is gone broke something: this process ends here, and says which rank."""
    if _companions:
        time.sleep(SAID_WITHIN)


def end_together(world_size: int, message: str | None = None) -> list[str | None]:
    """[message of rank 0, of rank 1, ...], after which all end by themselves, none the others.

    A collective call.
    """
    if _companions:
        _companions.ending = True
    return agree(message, world_size)


def leave(status: int, message: str = "") -> None:
    """Tells the other ranks with which exit status this one ends, and why."""
    if _companions:
        _companions.leave(status, message)


def _receive(connection: socket.socket, count: int | None = None) -> bytes:
    """`count` bytes, or all until the connection ends."""
    data = b""
    with contextlib.suppress(OSError):
        while count is None or len(data) < count:
            part = connection.recv(4096 if count is None else count - len(data))
            if not part:
                break
            data += part
    return data


def sum_over_ranks(array: np.ndarray, world_size: int) -> np.ndarray:
    """float64 array -> its sum over all ranks, on each of them. A collective call."""
    if world_size == 1:
        return array
    tensor = paddle.to_tensor(array)
    distributed.all_reduce(tensor)
    return tensor.numpy()


def agree(values: Any, world_size: int) -> list[Any]:
    """[values of rank 0, of rank 1, ...], any plain objects. A collective call."""
    if world_size == 1:
        return [values]
    gathered: list[Any] = []
    distributed.all_gather_object(gathered, values)
    return gathered


def broadcast(value: Any, world_size: int) -> Any:
    """Rank 0's `value`, any object that can be pickled, on all ranks. A collective call."""
    if world_size == 1:
        return value
    holder = [value]
    distributed.broadcast_object_list(holder, src=0)
    return holder[0]


def broadcast_statistics(models: Iterable[paddle.nn.Layer], world_size: int) -> None:
    """Puts rank 0's running statistics into every rank's models. A collective call.

    Each rank's batch norm sees its own images; PyTorch's DistributedDataParallel takes rank 0's
    statistics as well, before each forward.
    """
    if world_size == 1:
        return
    for model in models:
        for tensor in model.state_dict().values():
            if tensor.stop_gradient and np.prod(tensor.shape):
                distributed.broadcast(tensor, src=0)
