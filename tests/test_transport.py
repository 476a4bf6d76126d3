"""Bytes from the workers to the device: shared memory, threads, erasing and normalising there."""

import os
import threading
import time
from contextlib import suppress

import numpy as np
import paddle
import pytest
from PIL import Image

import paddle_mv3
from paddle_mv3.data import memory
from paddle_mv3.data.device import look_up_and_erase
from paddle_mv3.data.memory import Slots, empty
from paddle_mv3.data.transforms import RandomErasing, bytes_to_erase, take_apart


def read(loader):
    return [[field.numpy() for field in batch] for batch in loader]


def assert_same(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        for a, b in zip(batch, other, strict=True):
            assert a.dtype == b.dtype and np.array_equal(a, b)


# --- shared memory ---------------------------------------------------------------------------


class Mixed(paddle.io.Dataset):
    """Fields of several dtypes and sizes, those of 8 bytes behind some that end anywhere."""

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        return rng.integers(0, 9, (3, 5), np.uint8), index, rng.random(7), bool(index % 2)

    def __len__(self):
        return 50


@pytest.fixture
def no_slots(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")


@pytest.fixture
def few_slots(monkeypatch):
    """As if the reader were slow: every other batch finds none free."""
    put, calls = Slots.put, []

    def sometimes(self, arrays):
        calls.append(1)
        return put(self, arrays) if len(calls) % 2 else None

    monkeypatch.setattr(Slots, "put", sometimes)


@pytest.mark.parametrize("how", ["slots", "few_slots", "no_slots"])
@pytest.mark.parametrize("persistent", [False, True])
def test_batches_are_the_same_however_they_come(how, persistent, request):
    """Kept by the reader too: nothing is written where a batch still is."""
    if how != "slots":
        request.getfixturevalue(how)
    expected = read(paddle_mv3.DataLoader(Mixed(), batch_size=4))
    loader = paddle_mv3.DataLoader(
        Mixed(), batch_size=4, num_workers=2, persistent_workers=persistent
    )
    for _ in range(2):
        batches = list(loader)
        assert_same([[field.numpy() for field in batch] for batch in batches], expected)


@pytest.mark.parametrize(
    "finish",
    [lambda array: array, lambda array: array[:, ::-1], lambda array: array * 2],
    ids=["what it was given", "a view of that", "an array of its own"],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_finish_gives_back_is_copied_where_it_is_lent(finish, workers):
    expected = [
        [finish(first), *others]
        for first, *others in read(paddle_mv3.DataLoader(Mixed(), batch_size=4))
    ]
    loader = paddle_mv3.DataLoader(Mixed(), batch_size=4, num_workers=workers, finish=finish)
    batches = list(loader)
    assert_same([[field.numpy() for field in batch] for batch in batches], expected)


def test_every_batch_of_an_epoch_comes_in_a_slot(monkeypatch):
    get, slots = Slots.get, []

    def counted(self, slot, forms):
        slots.append(slot)
        return get(self, slot, forms)

    monkeypatch.setattr(Slots, "get", counted)
    loader = paddle_mv3.DataLoader(Mixed(), batch_size=2, num_workers=1)
    assert len(read(loader)) == len(slots) == 25


def test_no_memory_stays_open():
    def files():
        links = []
        for number in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                links.append(os.readlink(f"/proc/self/fd/{number}"))
        return sum(link.startswith("/memfd:batches") for link in links)

    for leave in (False, True):
        for _ in paddle_mv3.DataLoader(Mixed(), batch_size=4, num_workers=2):
            assert files() >= 2
            if leave:
                break
        assert files() == 0


def test_a_slot_is_used_again_when_it_is_free():
    slots = Slots(2)
    arrays = [np.arange(3, dtype=np.uint8), np.arange(5.0), np.zeros((0, 2), np.int64)]
    forms = [(array.dtype, array.shape) for array in arrays]
    assert [slots.put(arrays) for _ in range(3)] == [0, 1, None]
    kept = slots.get(1, forms)
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(kept, arrays))
    assert all(array.ctypes.data % memory.ALIGNMENT == 0 for array in kept)
    slots.free(0)
    larger = [np.full((300, 100), 7, np.int32)]
    assert slots.put(larger) is None  # somebody reads where they would have to grow
    assert slots.put(arrays[:1]) == 0
    slots.free(1)
    assert slots.put(larger) is None  # the first, too
    slots.free(0)
    assert slots.put(larger) == 0
    (got,) = slots.get(0, [(larger[0].dtype, larger[0].shape)])
    assert np.array_equal(got, larger[0])
    slots.close()
    assert np.array_equal(got, larger[0])


def test_a_batch_without_a_byte_fits_a_slot():
    slots, nothing = Slots(1), np.zeros((0, 3), np.float32)
    assert slots.put([nothing]) == 0
    (got,) = slots.get(0, [(nothing.dtype, nothing.shape)])
    assert got.shape == (0, 3)


def test_memory_that_is_not_to_be_had_is_done_without(monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "ftruncate", full)
    expected = read(paddle_mv3.DataLoader(Mixed(), batch_size=4))
    assert_same(read(paddle_mv3.DataLoader(Mixed(), batch_size=4, num_workers=1)), expected)


# --- threads ---------------------------------------------------------------------------------


class Watched(paddle.io.Dataset):
    """Tells how many threads were in it at the same time."""

    def __init__(self, thread_safe):
        if thread_safe is not None:
            self.thread_safe = thread_safe
        self.inside, self.most = set(), 0

    def __getitem__(self, index):
        if index in (9, 14):
            raise OSError(f"no such: {index}")
        self.inside.add(threading.get_ident())
        self.most = max(self.most, len(self.inside))
        time.sleep(0.002 * (index % 3))  # the order in which they end is another
        self.inside.discard(threading.get_ident())
        return np.full(3, index), index

    def __len__(self):
        return 24


@pytest.mark.parametrize("thread_safe", [None, False, True])
def test_threads_change_nothing_and_run_only_where_they_may(thread_safe, monkeypatch):
    monkeypatch.setattr("paddle_mv3.data.loader._threads", lambda: 4)
    told = []
    dataset = Watched(thread_safe)
    loader = paddle_mv3.DataLoader(dataset, batch_size=8, skip_corrupt=2, on_skip=told.append)
    batches = read(loader)
    assert (dataset.most > 1) == bool(thread_safe)
    indices = np.concatenate([labels for _, labels in batches])
    assert indices.tolist() == [i for i in range(24) if i not in (9, 14)]
    assert all(np.array_equal(images[:, 2], labels) for images, labels in batches)
    assert told == ["no such: 9", "no such: 14"]
    with pytest.raises(OSError, match=r"no such: 9$"):
        list(paddle_mv3.DataLoader(dataset, batch_size=8))


def test_a_transform_of_the_user_s_own_is_not_run_by_several_threads(image_dir):
    presets = (paddle_mv3.ClassificationPresetEval(), paddle_mv3.ClassificationPresetTrain())
    for transform in (None, *presets):
        assert paddle_mv3.ImageFolder(image_dir, transform).thread_safe
    assert not paddle_mv3.ImageFolder(image_dir, lambda image, rng: image).thread_safe


# --- erased, and normalised, where the batch arrives -----------------------------------------


def erasing(image_dir, normalize, seed=3):
    preset = paddle_mv3.ClassificationPresetTrain(
        40, auto_augment_policy="imagenet", random_erase_prob=0.6, normalize=normalize
    )
    return paddle_mv3.ImageFolder(image_dir, preset, seed)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("finish", ["normalize_batch", "normalize_on_device"])
def test_bytes_that_are_erased_last_are_the_same_images(finish, workers, image_dir):
    expected = read(paddle_mv3.DataLoader(erasing(image_dir, True), batch_size=30))
    loader = paddle_mv3.DataLoader(
        erasing(image_dir, False),
        batch_size=30,
        num_workers=workers,
        finish=getattr(paddle_mv3, finish),
    )
    assert_same(read(loader), expected)
    unerased = [erasing(image_dir, False)[i][0]["erased"]["box"][2] == 0 for i in range(50)]
    assert 5 < sum(unerased) < 45


def test_records_without_a_finish_are_told(image_dir):
    with pytest.raises(ValueError, match=r"records of pixels, erased.*normalize_on_device"):
        list(paddle_mv3.DataLoader(erasing(image_dir, False), batch_size=30))


def records(value):
    """A batch of records with all bytes in each channel, and rectangles up to the rims."""
    rng = np.random.default_rng(0)
    images = np.zeros(6, bytes_to_erase(20))
    images["pixels"] = rng.integers(0, 256, (6, 20, 20, 3))
    images["pixels"][0].reshape(-1)[:768] = np.repeat(np.arange(256), 3)
    images["erased"]["box"][1:] = [
        (0, 0, 5, 7),
        (13, 2, 7, 18),
        (0, 0, 20, 20),
        (3, 19, 1, 1),
        (0, 0, 0, 0),
    ]
    images["erased"]["value"][:] = value
    return images


@pytest.mark.parametrize("value", [0, (-1.5, 0.25, 1e-7)])
def test_a_device_gives_the_bits_of_numpy(value):
    """Run on the CPU: the operations look up, compare and choose, and round nothing."""
    images = records(value)
    expected = paddle_mv3.normalize_batch(images)
    found = look_up_and_erase(*take_apart(images))
    assert found.dtype == paddle.float32
    assert np.array_equal(found.numpy(), expected)
    assert np.array_equal(
        look_up_and_erase(images["pixels"]).numpy(),
        paddle_mv3.normalize_batch(np.ascontiguousarray(images["pixels"])),
    )
    by_hand = paddle_mv3.normalize_batch(np.ascontiguousarray(images["pixels"]))
    for planes, image in zip(by_hand, images):
        top, left, height, width = image["erased"]["box"]
        planes[:, top : top + height, left : left + width] = np.reshape(value, (-1, 1, 1))
    assert np.array_equal(expected, by_hand)


def test_on_another_device_a_batch_goes_there_as_bytes(monkeypatch, image_dir):
    """The loader takes the tensor as it is. No device but the CPU: its name only."""
    expected = read(
        paddle_mv3.DataLoader(
            erasing(image_dir, False), batch_size=30, finish=paddle_mv3.normalize_batch
        )
    )
    sent, to_tensor = [], paddle.to_tensor

    def listening(data, *args, **kwargs):
        sent.append((data.dtype, data.nbytes))
        return to_tensor(data, *args, **kwargs)

    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle, "to_tensor", listening)
    loader = paddle_mv3.DataLoader(
        erasing(image_dir, False), batch_size=30, finish=paddle_mv3.normalize_on_device
    )
    assert_same(read(loader), expected)
    assert max(sent, key=lambda each: each[1]) == (np.uint8, 30 * 40 * 40 * 3)


def test_values_that_a_record_cannot_hold_are_refused():
    preset = paddle_mv3.ClassificationPresetTrain(32, random_erase_prob=1.0, normalize=False)
    preset.erase = RandomErasing(p=1.0, value="random")
    image = Image.new("RGB", (60, 50))
    with pytest.raises(ValueError, match="broadcast"):
        preset(image, np.random.default_rng(0))


def test_memory_of_a_batch_lies_as_paddle_s_own():
    for shape, dtype in (((3, 5), np.float32), ((), np.float64), ((7,), "u1")):
        array = empty(shape, dtype)
        assert array.shape == shape and array.dtype == dtype
        assert array.ctypes.data % memory.ALIGNMENT == 0 and array.flags.c_contiguous
