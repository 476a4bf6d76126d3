"""paddle.io.DataLoader that outlives damaged images and dead workers, and copies images less."""

import gc
import glob
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import connection

import numpy as np
import paddle
from paddle.base import core
from paddle.io.dataloader.dataloader_iter import _DataLoaderIterMultiProcess

from .memory import ALIGNMENT, Slots, empty
from .sampler import BATCH, as_draw, generator

__all__ = ["DataLoader"]

DEATHS = 3  # times that workers die without a batch in between, and the loader gives up


class DataLoader(paddle.io.DataLoader):
    """paddle.io.DataLoader whose iterator raises what the data set raised.

    In Paddle 3.3.1 an exception in a data set makes the next batch wait forever (no workers: the
    thread that reads has died) or ends in "Blocking queue is killed" (workers). Here it travels to
    the main process as the first field of the batch, and is raised there.

    Workers that die, of a signal or for want of memory, are replaced: the batches that they owed
    are made again, the same to the last bit if they depend on nothing but the batch sampler's
    draws. No process is left when an epoch is left early.

    Args:
        dataset: with a length; its items are tuples of arrays and numbers. A batch is the list of
            their fields, stacked.
        args, kwargs: as for paddle.io.DataLoader, except collate_fn. Batches go to the current
            device whatever `places` is.
        batch_transform: called in the worker, so without Paddle, with the fields of a batch as
            arrays and a numpy Generator; returns the fields to use in their place.
        seed: with the Draw of the batch's first item, all that this Generator depends on.
        finish: called in the main process with the first field of a batch as an array, which it may
            read until it returns; returns what to use in its place: an array that nobody may write
            to any more, or a tensor on the device. For what makes a batch larger, as
            `normalize_on_device` does: most of the time of a worker beside decoding goes into
            sending. It may be given dtypes that tensors do not have, as those of NumPy's records.
        skip_corrupt: how many different files the data set may fail to read, with an OSError. They
            are left out of their batches, which nothing fills up; a batch of which nothing is left
            comes as None, so that batches can still be counted.
        on_skip: called with a line about each such file, when it is met for the first time.
        on_restart: called with a line about workers that have died and were replaced.

    Attributes:
        skipped: {file name: message} of the files left out so far. What is put there counts as met:
            for a training that goes on, those of its first part.

    Raises (from the iterator):
        OSError: an OSError in the data set, such as an image that cannot be decoded, if it is one
            too many for `skip_corrupt`.
        RuntimeError: any other exception in the data set or in `batch_transform`, with its
            traceback as the message. Workers that have died 3 times without a batch in between.
    Raises:
        ValueError: no batch size, a negative seed or skip_corrupt.
    """

    def __init__(
        self,
        dataset,
        *args,
        batch_transform=None,
        seed=0,
        finish=None,
        skip_corrupt=0,
        on_skip=None,
        on_restart=None,
        **kwargs,
    ):
        for name, value in (("seed", seed), ("skip_corrupt", skip_corrupt)):
            if value < 0:
                raise ValueError(f"{name} is {value}: give 0 or more")
        kwargs.setdefault("places", paddle.CPUPlace())
        super().__init__(dataset, *args, collate_fn=_only, **kwargs)
        if self.batch_sampler is None:
            raise ValueError("batch_size is None: give the number of items in a batch")
        # Paddle asks a data set for item after item and then stacks them.
        self.dataset = _Batches(
            dataset,
            batch_transform,
            seed,
            skip_corrupt > 0,
            self.prefetch_factor,
            pickled=self.num_workers > 0 and not self.use_shared_memory,
        )
        self.batch_sampler = _OneItem(self.batch_sampler)
        self.finish = finish
        self.skip_corrupt = skip_corrupt
        self.skipped = {}
        self.on_skip = on_skip
        self.on_restart = on_restart

    def __iter__(self):
        for slots, report, *fields in self._sent():
            # Reports and bytes are read on the host, where they came: from a GPU, reading would
            # wait for all that it is doing.
            report = pickle.loads(report.numpy().tobytes())
            self._check(report)
            forms, slot = report["forms"], report["slot"]
            if not forms:
                yield None
                continue
            if slot is None:
                fields = [
                    np.from_dlpack(field).view(dtype).reshape(shape)
                    for field, (dtype, shape) in zip(fields, forms)
                ]
                yield self._finished(fields, lent=False)
            else:
                batch = self._finished(slots[slot[0]].get(slot[1], forms), lent=True)
                slots[slot[0]].free(slot[1])
                yield batch

    def _finished(self, fields, lent):
        """The fields of a batch, arrays, as tensors on the device.

        Args:
            lent: whether the memory of the fields is used again for a later batch.
        """
        keep = [not lent] * len(fields)
        if self.finish is not None:
            given, fields[0] = fields[0], self.finish(fields[0])
            keep[0] = not (lent and _may_share(given, fields[0]))
        return [_tensor(field, own) for field, own in zip(fields, keep)]

    def _sent(self):
        """For each batch of an epoch the slots of its workers, and what `_Batches` gives."""
        drawn = self.batch_sampler.drawn = _Drawn(self.batch_sampler.batch_sampler)
        batches = super().__iter__() if self.num_workers == 0 else self._start_workers()
        done = deaths = 0
        try:
            while True:
                try:
                    fields = next(batches)
                except StopIteration:
                    break
                except _WorkersDied as error:
                    death = str(error)
                else:
                    done, deaths = done + 1, 0
                    drawn.owed.popleft()
                    yield (getattr(batches, "slots", ()), *fields)
                    continue
                deaths += 1
                if deaths == DEATHS:
                    raise RuntimeError(
                        f"{death}, the {deaths}rd time without a batch in between: memory may be "
                        "short, or /dev/shm full (df -h /dev/shm); use fewer workers, a smaller "
                        "prefetch_factor or a larger /dev/shm"
                    )
                batches.stop()
                if self.on_restart is not None:
                    self.on_restart(f"{death}: workers start again from batch {done}")
                batches = self._start_workers()
            if self._persistent_workers and self.num_workers > 0 and self._iterator is None:
                self._iterator = batches
        finally:
            if self.num_workers == 0:
                # Its thread makes the batch it is at, and ends.
                batches._exit_thread_expectedly()
            elif batches is not self._iterator:
                batches.stop()

    def _start_workers(self):
        """An iterator over what workers send: the persistent ones, if they are free and alive."""
        workers, self._iterator = self._iterator, None
        if workers is not None:
            if workers.death is None:
                workers._reset()
                return workers
            workers.stop()
        return _Workers(self)

    def __del__(self):
        workers = getattr(self, "_iterator", None)  # __init__ may have raised
        if workers is not None:
            workers.stop()

    def _check(self, report):
        """Raises what went wrong with a batch, and counts the files that it goes without."""
        for name, message in report["skipped"].items():
            if name in self.skipped:
                continue
            if len(self.skipped) >= self.skip_corrupt:
                raise OSError(
                    f"{message}; files that cannot be read: {len(self.skipped) + 1}, more than "
                    f"skip_corrupt, which is {self.skip_corrupt}"
                )
            self.skipped[name] = message
            if self.on_skip is not None:
                self.on_skip(message)
        if report["error"] is not None:
            kind, message = report["error"]
            raise OSError(message) if kind == "OSError" else RuntimeError(message)


def _may_share(array, finished):
    return isinstance(finished, np.ndarray) and np.may_share_memory(array, finished)


def _tensor(array, own):
    """On the device. On the CPU, if nobody else writes there (`own`) and it lies as Paddle's own
    do, it is the array's memory: to copy a batch of float32 takes twice as long as to normalise it.
    Elsewhere than on a multiple of 64 bytes kernels may round otherwise, which then depends on the
    address.
    """
    if isinstance(array, paddle.Tensor):
        return array
    if array.dtype.names:
        raise ValueError(
            f"a field is of records of {', '.join(array.dtype.names)}, which no tensor can hold: "
            "give the loader a `finish` that makes an array of them, such as normalize_on_device"
        )
    if own and paddle.get_device() == "cpu" and array.ctypes.data % ALIGNMENT == 0:
        return _without_copy(array)
    return paddle.to_tensor(array)


def _without_copy(array):
    return core.eager.Tensor(value=array, place=core.CPUPlace(), zero_copy=True)


class _OneItem:
    """The batches of a batch sampler, each as the only item of a batch."""

    def __init__(self, batch_sampler):
        self.batch_sampler = batch_sampler
        self.drawn = None

    def __iter__(self):
        return iter(self.drawn)

    def __len__(self):
        return len(self.batch_sampler)


class _Drawn:
    """An epoch's batches of draws. Who iterates again begins with those still owed."""

    def __init__(self, batch_sampler):
        self.batches = iter(batch_sampler)
        self.owed = deque()  # given, and not yet crossed out by the main process

    def __iter__(self):
        for draws in list(self.owed):
            yield [draws]
        for draws in self.batches:
            self.owed.append(draws)
            yield [draws]


def _only(items):
    (item,) = items
    return item


class _WorkersDied(Exception):
    pass


class _Workers(_DataLoaderIterMultiProcess):
    """Paddle's iterator over what workers send, whose next() raises _WorkersDied when one has died.

    By itself Paddle 3.3.1 raises SystemError from wherever the main process is, out of a handler of
    SIGCHLD. If it waits for a batch, that takes 5 s, and lasts forever where a worker has died in
    the middle of a message.
    """

    death = None  # how a worker has died
    leaving = False
    slots = ()  # of each worker

    def __init__(self, loader):
        self._ended = threading.Event()  # a worker, and `death` says how
        super().__init__(loader)
        threading.Thread(target=self._watch, daemon=True).start()

    def _init_workers(self):
        # Iterators of before may be garbage that waits to be collected. A worker that collected
        # them would wait forever for their threads, of which a fork has none.
        gc.freeze()
        try:
            self.slots = self._dataset.slots = self._new_slots()
            super()._init_workers()
        finally:
            gc.unfreeze()
        core._erase_process_pids(id(self))  # nothing for that handler to look at

    def _new_slots(self):
        """As many for each worker as batches that it may owe, one that is read, and one more."""
        slots = []
        if self._use_shared_memory:
            with suppress(OSError):
                for _ in range(self._num_workers):
                    slots.append(Slots(self._prefetch_factor + 2))
        return slots

    def _watch(self):
        ended = connection.wait([worker.sentinel for worker in self._workers])
        if self.leaving:
            return
        dead = [worker for worker in self._workers if worker.sentinel in ended]
        for worker in dead:
            worker.join()
        self.death = " and ".join(map(_ending, dead))
        self._ended.set()
        self._exit_thread_unexpectedly()  # wakes the main process

    def __next__(self):
        try:
            return super().__next__()
        except (StopIteration, SystemError):
            if not self._batches_outstanding:
                raise StopIteration from None
            if not self._has_died():
                raise
            raise _WorkersDied(self.death) from None

    def _has_died(self):
        """Whether it is for the death of a worker that reading has failed."""
        # A worker that ends by itself first takes away the batches that are on their way.
        self._ended.wait(5)
        return self.death is not None

    def _thread_loop(self, place):
        try:
            super()._thread_loop(place)
        except Exception:
            if not self._has_died():
                raise

    @property
    def _resume_worker_cnt(self):
        """Workers that have yet to answer to `_reset`, which waits until there are none."""
        return self._resuming if self.death is None else 0

    @_resume_worker_cnt.setter
    def _resume_worker_cnt(self, count):
        self._resuming = count

    def stop(self):
        """Returns when the workers have ended."""
        self._try_shutdown_all()
        for slots in self.slots:
            slots.close()

    def _try_shutdown_all(self, timeout=None):
        if self._shutdown or self._data_queue is None:  # None: interrupted while it was made
            return
        self.leaving = True
        # A worker that ends in the middle of a message leaves a reader waiting for the other half,
        # until nobody is left who could write it.
        self._data_queue._writer.close()
        if self.death is not None:
            # What the dead held they hold forever: the lock of the queue, or of the event.
            for worker in self._workers:
                worker.kill()
            for worker in self._workers:
                worker.join()
            self._workers_done_event = threading.Event()
            # At the interpreter's end no other thread goes on.
            if self._thread is not threading.current_thread() and not sys.is_finalizing():
                self._thread.join(5)
        super()._try_shutdown_all(timeout)
        if self._batches_outstanding:
            # Some were on their way. What has arrived stays mapped.
            for worker in self._workers:
                for path in glob.glob(f"/dev/shm/paddle_{worker.pid}_*"):
                    with suppress(OSError):
                        os.unlink(path)


def _ending(worker):
    """How a process has ended, in words."""
    code = worker.exitcode
    if code is None or code >= 0:
        return f"worker process {worker.pid} has ended (exit code {code})"
    with suppress(ValueError):  # a real-time signal
        return f"worker process {worker.pid} was killed by {signal.Signals(-code).name}"
    return f"worker process {worker.pid} was killed by signal {-code}"


class _Batches(paddle.io.Dataset):
    """A data set whose items are the other's batches, each behind a report.

    The report is a pickle in (bytes,) uint8: {"skipped": {file: message}, "error": None or (kind,
    message), "forms": [(dtype, shape)] of the fields, "slot": None or (worker, number)}. Fields
    are in the slot, or follow as their bytes.
    """

    slots = ()
    threads = None

    def __init__(self, dataset, transform, seed, skip, prefetch_factor, pickled):
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.skip = skip
        self.pickled = pickled
        # Paddle's worker goes on while a thread of it sends a batch, from memory that nothing else
        # keeps. It is sent when the main process has asked for `prefetch_factor` batches more.
        self.unsent = deque(maxlen=prefetch_factor + 1)

    def __getitem__(self, draws):
        fields, skipped, error = [], {}, None
        try:
            fields = self.stack(draws, skipped)
            if self.transform is not None and fields:
                rng = generator(self.seed, as_draw(draws[0]), BATCH)
                fields = self.transform(*fields, rng)
            fields = [np.asarray(field, order="C") for field in fields]
        except OSError as failure:
            fields, error = [], ("OSError", str(failure))
        except Exception:
            fields, error = [], ("RuntimeError", traceback.format_exc())
        slot = self.put(fields) if fields else None
        forms = [(field.dtype, field.shape) for field in fields]
        report = {"skipped": skipped, "error": error, "forms": forms, "slot": slot}
        sent = [np.frombuffer(pickle.dumps(report), dtype=np.uint8)]
        if slot is None:
            sent += [field.reshape(-1).view(np.uint8) for field in fields]
        if self.pickled:
            return sent
        # Of an array Paddle would make a tensor by a copy, and then copy that to the main process.
        tensors = [_without_copy(field) for field in sent]
        self.unsent.append(tensors)
        return tensors

    def put(self, fields):
        """(worker, number) of the slot where they are; None: there is none."""
        worker = paddle.io.get_worker_info()
        if worker is None or worker.id >= len(self.slots):
            return None
        number = self.slots[worker.id].put(fields)
        return None if number is None else (worker.id, number)

    def stack(self, draws, skipped):
        """The fields of the items, stacked, and in `skipped` {file: message} for those left out.

        Each item is copied to its place before the next is made. Where all are kept until the last
        is there, as many pages of memory come and go with every batch: 0.2 ms an image.

        Returns:
            [], if nothing is left.

        Raises:
            OSError: an item cannot be read, and none may be left out.
            ValueError: items of different shapes or dtypes.
        """
        fields, count = None, 0
        for draw, (item, error) in zip(draws, self.items(draws)):
            if error is not None:
                if not self.skip:
                    raise error
                name = getattr(error, "path", None) or error.filename or error
                skipped[str(name)] = str(error)
                continue
            if fields is None:
                fields = [empty((len(draws), *x.shape), x.dtype) for x in item]
            wanted = [(field.shape[1:], field.dtype) for field in fields]
            if [(x.shape, x.dtype) for x in item] != wanted:
                raise ValueError(
                    f"item {draw} holds {_shapes(item)}, the batch's first "
                    f"{_shapes(field[0] for field in fields)}: all must be of one shape and dtype"
                )
            for field, x in zip(fields, item):
                field[count] = x
            count += 1
        return [field[:count] for field in fields or []]

    def items(self, draws):
        """For each draw in turn the item's arrays, or None, and the OSError with which it failed.

        Without workers several at a time, if the data set bears it: PIL holds no lock of Python's
        while it decodes and scales.
        """
        if paddle.io.get_worker_info() or not getattr(self.dataset, "thread_safe", False):
            return map(self.item, draws)
        if self.threads is None:
            self.threads = ThreadPoolExecutor(_threads(), "Dataloader_item")
        return self.threads.map(self.item, draws)

    def item(self, draw):
        try:
            return [np.asarray(value) for value in self.dataset[draw]], None
        except OSError as error:
            return None, error


def _threads():
    """Of all cores, but no more than have something to do: of the 3 ms of an image, some 0.3 are
    Python's own, of which no two run at the same time.
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())
    return min(len(cores), 8)


def _shapes(arrays):
    return ", ".join(f"{x.dtype} {x.shape}" for x in arrays)
