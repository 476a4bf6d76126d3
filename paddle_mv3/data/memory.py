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
    goes into pages that are new each time. These stay. They are files without a name, so they are
    gone with the last process that has them, and /dev/shm may be as small as in a container.

    Args:
        count: of batches that may be on their way at the same time.

    Raises:
        OSError: the system has no such files, or gives no more of them.
    """

    def __init__(self, count):
        if not hasattr(os, "memfd_create"):
            raise OSError("memfd_create is Linux's")
        self.files = []
        self.maps = [None] * count
        # A byte for each slot: 1 from when the worker has written until the reader has read.
        self.taken = mmap.mmap(-1, count)
        try:
            for _ in range(count):
                self.files.append(os.memfd_create("batch"))
        except OSError:
            self.close()
            raise

    def close(self):
        """What is mapped stays so as long as an array lies in it."""
        while self.files:
            os.close(self.files.pop())

    def put(self, arrays):
        """In the worker: copies C-contiguous arrays. Returns the slot; None: all are taken, or
        memory is short.
        """
        slot = self.taken.find(b"\0")
        if slot < 0:
            return None
        places = layout(array.nbytes for array in arrays)
        try:
            memory = self._mapped(slot, places[-1])
        except OSError:
            return None
        for array, start in zip(arrays, places):
            end = start + array.nbytes
            np.frombuffer(memory, np.uint8)[start:end] = array.reshape(-1).view(np.uint8)
        self.taken[slot] = 1
        return slot

    def get(self, slot, forms):
        """In the reader: the arrays, [(dtype, shape)], where they lie. `free` ends their life."""
        sizes = [math.prod(shape) * dtype.itemsize for dtype, shape in forms]
        places = layout(sizes)
        memory = np.frombuffer(self._mapped(slot, places[-1]), np.uint8)
        return [
            memory[start : start + size].view(dtype).reshape(shape)
            for start, size, (dtype, shape) in zip(places, sizes, forms)
        ]

    def free(self, slot):
        self.taken[slot] = 0

    def _mapped(self, slot, size):
        if self.maps[slot] is None or len(self.maps[slot]) < size:
            if os.fstat(self.files[slot]).st_size < size:
                os.ftruncate(self.files[slot], size)
            self.maps[slot] = mmap.mmap(self.files[slot], size)
        return self.maps[slot]


def layout(sizes):
    """Where arrays of so many bytes begin, and, last, where the memory ends; that is above 0."""
    places = [0]
    for size in sizes:
        places.append(places[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
    places[-1] = max(places[-1], ALIGNMENT)
    return places
