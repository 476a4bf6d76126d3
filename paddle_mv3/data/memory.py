"""Where batches lie: aligned as Paddle's tensors, or in memory that two processes share."""

import math
import mmap
import os

import numpy as np

__all__ = ["Slots", "empty"]

ALIGNMENT = 64  # bytes, of Paddle's own tensors


def empty(shape, dtype=np.float32):
    """numpy.empty from a multiple of 64 bytes on: DataLoader takes it without a copy."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


class Slots:
    """Shared memory in which a worker leaves batches, made before the worker is forked.

    Paddle makes a file in /dev/shm for each batch and maps it twice: 0.25 ms an image of 150 KB
    goes into pages that are new each time. These stay. They are a file without a name, so it is
    gone with the last process that has it, and /dev/shm may be as small as in a container.

    Args:
        count: of batches that may be on their way at the same time.

    Raises:
        OSError: the system has no such files, or gives no more of them.
    """

    def __init__(self, count):
        if not hasattr(os, "memfd_create"):
            raise OSError("memfd_create is Linux's")
        # A byte for each slot: 1 from when the worker has written until the reader has read.
        self.taken = mmap.mmap(-1, count)
        self.file = os.memfd_create("batches")
        self.memory = None

    def close(self):
        """What is mapped stays so as long as an array lies in it."""
        if self.file is not None:
            os.close(self.file)
        self.file = self.memory = None

    def put(self, arrays):
        """In the worker: copies C-contiguous arrays. Returns the slot; None: all are taken, or
        those of before are too small and not all free, or memory is short.
        """
        slot = self.taken.find(b"\0")
        *places, end = layout(array.nbytes for array in arrays)
        try:
            if slot < 0 or not self._fit(end):
                return None
            memory = self._bytes()[slot * self._slot_size() :]
        except OSError:
            return None
        for array, place in zip(arrays, places):
            memory[place : place + array.nbytes] = array.reshape(-1).view(np.uint8)
        self.taken[slot] = 1
        return slot

    def get(self, slot, forms):
        """In the reader: the arrays, [(dtype, shape)], where they lie. `free` ends their life."""
        sizes = [math.prod(shape) * dtype.itemsize for dtype, shape in forms]
        memory = self._bytes()[slot * self._slot_size() :]
        return [
            memory[place : place + size].view(dtype).reshape(shape)
            for place, size, (dtype, shape) in zip(layout(sizes), sizes, forms)
        ]

    def free(self, slot):
        self.taken[slot] = 0

    def _size(self):
        return os.fstat(self.file).st_size

    def _slot_size(self):
        return self._size() // len(self.taken)

    def _fit(self, size):
        """Whether a slot has so many bytes; makes all larger where nobody reads."""
        if self._slot_size() < size and self.taken.find(b"\1") < 0:
            os.ftruncate(self.file, size * len(self.taken))
        return self._slot_size() >= size

    def _bytes(self):
        if self.memory is None or len(self.memory) != self._size():
            self.memory = np.frombuffer(mmap.mmap(self.file, self._size()), np.uint8)
        return self.memory


def layout(sizes):
    """Where arrays of so many bytes begin, and, last, where the memory ends; that is above 0."""
    places = [0]
    for size in sizes:
        places.append(places[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
    places[-1] = max(places[-1], ALIGNMENT)
    return places
