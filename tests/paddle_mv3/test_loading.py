"""Loading: listing, samplers, what draws depend on, batches with and without workers, failures."""

import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch.utils.data.distributed import DistributedSampler as TorchSampler

import paddle_mv3
import torch_ref
from alignment.stages.sampling import compare_sampling
from paddle_mv3 import BatchSampler, DistributedSampler, Draw, RASampler
from paddle_mv3.data.dataset import load_image

WORLD_SIZES = (1, 2, 3, 8)


def indices(sampler):
    return [draw.index for draw in sampler]


# --- the listing -----------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """A small image folder that has not changed for a minute, with empty files."""
    root = tmp_path / "tree"
    for name in ("a/1.png", "a/sub/2.JPEG", "b/3.jpg", "b/ünï.jpg"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "b" / os.fsdecode(b"\xff.jpg")).touch()
    settle(root)
    return root


def settle(root):
    """Sets the times of all folders back by a minute, each from its own."""
    for folder in [root, *root.rglob("*/")]:
        before = folder.stat().st_mtime_ns - 60 * 10**9
        os.utime(folder, ns=(before, before))


def listed(root, cache=None):
    return paddle_mv3.ImageFolder(root, cache=cache).samples


def names(root, samples):
    return [(str(Path(path).relative_to(root)), target) for path, target in samples]


def test_samples_are_a_sequence_equal_to_torchvisions_list(tree):
    samples, expected = listed(tree), torch_ref.ImageFolder(str(tree)).samples
    assert samples == expected and expected == samples and samples == listed(tree)
    assert samples != expected[:-1] and samples != [*expected[:-1], expected[0]]
    assert samples[-1] == expected[-1] and samples[np.int64(1)] == expected[1]
    assert samples[1:3] == expected[1:3]
    assert [type(x) for x in samples[0]] == [str, int]
    for number in (5, -6):
        with pytest.raises(IndexError):
            samples[number]
    assert listed(f"{tree}/") == torch_ref.ImageFolder(f"{tree}/").samples
    assert (samples == tuple(expected)) is False


def test_a_listing_is_remembered_until_a_folder_changes(tree, tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "listings"
    expected = listed(tree)
    assert listed(tree, cache) == expected

    with monkeypatch.context() as patch:
        patch.setattr(os, "walk", None)
        assert listed(tree, cache) == expected
        patch.chdir(tree.parent)
        assert names("tree", listed("tree", cache)) == names(tree, expected)
        other = tree.with_name("other")
        other.symlink_to(tree)
        with pytest.raises(TypeError):
            listed(other, cache)  # another folder, even with all the same times

    for change in (
        lambda: (tree / "a" / "sub" / "new.jpg").touch(),
        lambda: (tree / "b" / "3.jpg").unlink(),
        lambda: (tree / "a").rename(tree / "z"),
        lambda: [(tree / "c").mkdir(), (tree / "c" / "4.jpg").touch()],
    ):
        change()
        expected = torch_ref.ImageFolder(str(tree)).samples
        assert listed(tree, cache) == expected  # not stored, as the folder is still changing
        settle(tree)
        assert listed(tree, cache) == expected
    assert len(list(cache.iterdir())) == 1


def test_a_listing_of_one_class_is_remembered(tree, tmp_path, monkeypatch):
    shutil.rmtree(tree / "b")
    settle(tree)
    expected = listed(tree, tmp_path / "cache")
    monkeypatch.setattr(os, "walk", None)
    assert listed(tree, tmp_path / "cache") == expected


def test_a_folder_that_is_changing_is_not_remembered(tree, tmp_path):
    """What comes within the same tick of the clock leaves the folder's time as it is."""
    (tree / "a" / "new.jpg").touch()
    changed = (tree / "a").stat().st_mtime_ns
    listed(tree, tmp_path / "cache")
    (tree / "a" / "newer.jpg").touch()
    os.utime(tree / "a", ns=(changed, changed))
    assert len(listed(tree, tmp_path / "cache")) == 7


def test_a_damaged_or_unwritable_cache_stops_nothing(tree, tmp_path):
    cache = tmp_path / "cache"
    expected = listed(tree, cache)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    damage = [b"", b"x" * 100, whole[: len(whole) // 2]]
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 1
        damage.append(bytes(changed))
    for content in damage:
        file.write_bytes(content)
        assert listed(tree, cache) == expected
    file.write_bytes(damage[0])
    listed(tree, cache)
    assert file.read_bytes() == whole
    assert list(cache.iterdir()) == [file]
    for nowhere in (tree / "a" / "1.png", "/proc/none", "/dev/null/none"):
        assert listed(tree, nowhere) == expected


def test_a_cache_file_of_which_less_would_be_read_is_damaged(tree, tmp_path):
    """NumPy by itself looks at no check sum then."""
    for number in range(2000):
        (tree / "b" / f"{number}.png").touch()
    settle(tree)
    expected = listed(tree, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    content = file.read_bytes()
    assert content.count(b"(2005,)") == 1
    file.write_bytes(content.replace(b"(2005,)", b"(1005,)"))
    assert listed(tree, tmp_path / "cache") == expected


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("target", [-1, 2])
def test_a_cache_file_with_a_class_that_is_not_there_is_damaged(place, target, tree, tmp_path):
    expected = listed(tree, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    with np.load(file) as content:
        arrays = dict(content)
    arrays["targets"][0 if place == "first" else -1] = target
    np.savez(file, **arrays)
    assert listed(tree, tmp_path / "cache") == expected


# --- samplers --------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("length", [1, 3, 7, 8, 23, 64])
@pytest.mark.parametrize("drop_last", [False, True])
def test_distributed_sampler_is_torchs_given_the_order(length, world_size, drop_last, monkeypatch):
    """Sharding, filling up (with more processes than images too), cutting, lengths."""
    if drop_last and length < world_size:
        with pytest.raises(ValueError, match=f"of {length} images has none"):
            DistributedSampler(range(length), world_size=world_size, drop_last=True)
        return
    for rank in range(world_size):
        for shuffle in (False, True):
            port = DistributedSampler(range(length), rank, world_size, shuffle, drop_last, seed=5)
            reference = TorchSampler(range(length), world_size, rank, shuffle, 5, drop_last)
            port.set_epoch(3)
            order = torch.from_numpy(port.permutation())
            monkeypatch.setattr(torch, "randperm", lambda n, generator, order=order: order)
            assert indices(port) == list(reference)
            assert len(port) == len(reference) == len(indices(port))


def test_repeated_augmentation_by_its_definition():
    length = 600
    for world_size in WORLD_SIZES:
        order = RASampler(range(length)).permutation()
        repeated = [Draw(int(i), 0, repetition) for i in order for repetition in range(3)]
        repeated += repeated[: -len(repeated) % world_size]
        for rank in range(world_size):
            port = RASampler(range(length), rank, world_size)
            assert list(port) == repeated[rank::world_size][: 512 // world_size]
            assert len(port) == 512 // world_size


def test_repeated_augmentation_is_the_references():
    for repetitions in (1, 2, 4):
        compared = compare_sampling(
            lambda *a, n=repetitions: RASampler(*a, repetitions=n),
            lambda dataset, rank, world_size, n=repetitions: torch_ref.RASampler(
                dataset, world_size, rank, repetitions=n
            ),
        )
        assert compared.agrees, compared.lines()


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed=0, epoch=0, **kwargs):
        sampler = DistributedSampler(range(100), seed=seed, **kwargs)
        sampler.set_epoch(epoch)
        return sampler.permutation().tolist()

    assert sorted(order()) == list(range(100)) != order()
    assert order() == order(rank=1, world_size=3)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("sampler", [DistributedSampler, RASampler])
def test_resume_in_the_middle_of_an_epoch(sampler):
    def batches(epoch, start=0):
        batch_sampler = BatchSampler(sampler(range(300), 1, 2), batch_size=16)
        batch_sampler.set_epoch(epoch, start)
        assert len(batch_sampler) == len(list(batch_sampler))
        return list(batch_sampler)

    for start in (0, 3, len(batches(2))):
        assert batches(2, start) == batches(2)[start:]
    batch_sampler = BatchSampler(sampler(range(300), 1, 2), batch_size=16)
    batch_sampler.set_epoch(2, 3)
    batch_sampler.set_epoch(3)
    assert list(batch_sampler) == batches(3)
    with pytest.raises(ValueError, match=r"start is 99: an epoch has \d+ batches"):
        batch_sampler.set_epoch(2, 99)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DistributedSampler(range(9), 2, 2), "rank is 2: give 0 to 1"),
        (lambda: DistributedSampler(range(9), 0, 0), "world_size is 0"),
        (lambda: DistributedSampler(range(9), seed=-1), "seed is -1"),
        (lambda: DistributedSampler([]), "of 0 images"),
        (lambda: RASampler(range(255)), "of 255 images has none for repeated augmentation"),
        (lambda: RASampler(range(256), repetitions=0), "repetitions is 0"),
        (lambda: paddle_mv3.DataLoader([(1,)], seed=-1), "seed is -1"),
        (lambda: paddle_mv3.DataLoader([(1,)], skip_corrupt=-1), "skip_corrupt is -1"),
        (lambda: paddle_mv3.DataLoader([(1,)], batch_size=None), "batch_size is None"),
    ],
)
def test_bad_arguments_are_told(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def wrong(**methods):
    return type("WrongSampler", (DistributedSampler,), methods)


def rank_after_rank(self):
    """Each process a piece of the order in place of every world_size-th image."""
    order = np.resize(self.permutation(), len(self) * self.world_size).tolist()
    return (Draw(i, self.epoch) for i in order[self.rank * len(self) :][: len(self)])


WRONG_SAMPLERS = {
    "sharding": wrong(__iter__=rank_after_rank),
    "rank 1 has another order": wrong(
        permutation=lambda self: np.random.default_rng(self.rank + self.epoch).permutation(
            self.length
        )
    ),
    "an earlier epoch's": wrong(set_epoch=lambda self, epoch: None),
    "leaves out": wrong(
        permutation=lambda self: np.random.default_rng(self.epoch).choice(self.length, self.length)
    ),
    "padding, drop_last": wrong(
        __init__=lambda self, *a: DistributedSampler.__init__(self, *a, drop_last=True)
    ),
    "as in an earlier epoch": wrong(
        __iter__=lambda self: (d._replace(epoch=0) for d in DistributedSampler.__iter__(self))
    ),
}


@pytest.mark.parametrize("found", WRONG_SAMPLERS)
def test_wrong_samplers_are_found_and_named(found):
    def reference(dataset, rank, world_size):
        return TorchSampler(dataset, world_size, rank)

    compared = compare_sampling(DistributedSampler, reference)
    assert compared.agrees and len(compared.lines()) == 1
    compared = compare_sampling(WRONG_SAMPLERS[found], reference)
    assert not compared.agrees and found in compared.lines()[0]


def test_repetitions_that_are_drawn_alike_are_found():
    class Alike(RASampler):
        def __iter__(self):
            return (draw._replace(repetition=0) for draw in super().__iter__())

    compared = compare_sampling(
        Alike, lambda dataset, rank, world_size: torch_ref.RASampler(dataset, world_size, rank)
    )
    assert not compared.agrees and "augmented alike" in compared.lines()[0]


# --- what draws depend on --------------------------------------------------------------------


def folder(image_dir, seed=0):
    preset = paddle_mv3.ClassificationPresetTrain(crop_size=32)
    return paddle_mv3.ImageFolder(image_dir, preset, seed=seed)


def test_an_images_draws_depend_on_seed_epoch_index_and_repetition(image_dir):
    first = folder(image_dir)[10][0]
    assert np.array_equal(first, folder(image_dir)[Draw(10, 0, 0)][0])
    others = [
        folder(image_dir, 1)[10],
        *(folder(image_dir)[Draw(10, *x)] for x in [(1, 0), (0, 1)]),
    ]
    for image, _ in others:
        assert not np.array_equal(first, image)
    with pytest.raises(ValueError, match="seed is -1"):
        folder(image_dir, seed=-1)


def load(image_dir, sampler, workers, epochs=(0, 1), start=0, **kwargs):
    """{draw: image} over some epochs, as a training loop reads them."""
    batches = BatchSampler(sampler, batch_size=8)
    loader = paddle_mv3.DataLoader(
        folder(image_dir), batch_sampler=batches, num_workers=workers, **kwargs
    )
    loaded = {}
    for epoch in epochs:
        batches.set_epoch(epoch, start)
        drawn = [draw for batch in batches for draw in batch]
        images = np.concatenate([images.numpy() for images, _ in loader])
        assert len(images) == len(drawn)
        loaded.update(zip(drawn, images))
    return loaded


def test_images_are_the_same_whatever_loads_them(image_dir):
    """Workers, persistent ones, ranks, a resume."""
    length = len(folder(image_dir))
    expected = load(image_dir, DistributedSampler(range(length)), 0)
    assert len(expected) == 2 * length
    others = [
        load(image_dir, DistributedSampler(range(length)), 2),
        load(image_dir, DistributedSampler(range(length)), 2, persistent_workers=True),
        load(image_dir, DistributedSampler(range(length)), 0, epochs=[1], start=2),
        *(load(image_dir, DistributedSampler(range(length), rank, 3), 0) for rank in range(3)),
    ]
    for loaded in others:
        assert loaded
        for draw, image in loaded.items():
            assert np.array_equal(image, expected[draw]), draw
    assert {draw for loaded in others[-3:] for draw in loaded} == set(expected)


# --- batches ---------------------------------------------------------------------------------


class Numbers(paddle.io.Dataset):
    """Item i is ((4, 4) float32 of i, i)."""

    def __getitem__(self, draw):
        index = draw.index if isinstance(draw, Draw) else draw
        return np.full((4, 4), index, dtype=np.float32), index

    def __len__(self):
        return 300


def test_batches_are_whole_and_in_order():
    """Also while many are kept: nothing is written where a batch still is."""
    for workers in (0, 1, 2):
        batches = list(paddle_mv3.DataLoader(Numbers(), batch_size=7, num_workers=workers))
        images, targets = (np.concatenate([x.numpy() for x in field]) for field in zip(*batches))
        assert images.dtype == np.float32 and images.shape == (300, 4, 4)
        assert targets.dtype == np.int64
        assert np.array_equal(targets, np.arange(300))
        assert np.array_equal(images[:, 3, 3], targets)


def test_batch_transform_has_the_arrays_and_its_own_draws():
    def transform(images, targets, rng):
        assert isinstance(images, np.ndarray) and images.dtype == np.float32
        return images + rng.random(dtype=np.float32), np.eye(300, dtype=np.float32)[targets]

    def first_batches(workers, seed=0, epoch=0, start=0):
        batches = BatchSampler(DistributedSampler(range(300), shuffle=False), batch_size=50)
        batches.set_epoch(epoch, start)
        loader = paddle_mv3.DataLoader(
            Numbers(),
            batch_sampler=batches,
            num_workers=workers,
            batch_transform=transform,
            seed=seed,
        )
        fields = [[x.numpy() for x in field] for field in zip(*loader)]
        assert all(labels.shape == (50, 300) for labels in fields[1])
        return np.stack(fields[0]) - np.arange(300).reshape(6, 50, 1, 1)[start:]

    drawn = first_batches(0)
    assert len(np.unique(drawn[:, 0, 0, 0].round(3))) == 6
    assert np.array_equal(drawn, first_batches(2))
    assert np.array_equal(drawn[4:], first_batches(0, start=4))
    for other in (first_batches(0, seed=1), first_batches(0, epoch=1)):
        assert not np.isclose(drawn, other, atol=1e-3).all()


class Broken(paddle.io.Dataset):
    def __getitem__(self, index):
        if index == 2:
            return (np.zeros((1, 3), dtype=np.float32),)
        if index > 2:
            return (np.zeros((3, 3), dtype=np.float32),)
        raise {0: OSError("no such: image"), 1: KeyError("bug")}[index]

    def __len__(self):
        return 4


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_passes_on_what_the_data_set_raises(workers):
    def read(*batch, **kwargs):
        list(
            paddle_mv3.DataLoader(
                Broken(), batch_sampler=[list(batch)], num_workers=workers, **kwargs
            )
        )

    with pytest.raises(OSError, match=r"^no such: image$"):
        read(3, 0)
    with pytest.raises(RuntimeError, match="KeyError: 'bug'"):
        read(1)
    with pytest.raises(RuntimeError, match=r"item 2 holds float32 \(1, 3\), the batch's first"):
        read(3, 2)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        read(3, batch_transform=lambda images, rng: 1 / 0)
    read(3, 3)


# --- workers that die ------------------------------------------------------------------------


class Deadly(paddle.io.Dataset):
    """Noise, where an item of `deaths` [(index, signal, file)] kills whoever makes it.

    Signal 0: it ends by itself. Once only, if there is a file: it is removed then.
    """

    def __init__(self, *deaths):
        self.deaths = deaths

    def __getitem__(self, draw):
        for index, number, once in self.deaths:
            if draw.index == index and (once is None or once.exists()):
                if once is not None:
                    once.unlink()
                os.kill(os.getpid(), number) if number else os._exit(0)
        noise = np.random.default_rng(draw).random((3, 64, 64), dtype=np.float32)
        return noise, draw.index

    def __len__(self):
        return 200


def epoch_of(dataset, **kwargs):
    batches = BatchSampler(DistributedSampler(range(len(dataset))), batch_size=4)
    batches.set_epoch(3, start=2)
    return paddle_mv3.DataLoader(dataset, batch_sampler=batches, **kwargs)


def arrays(loader):
    return [[field.numpy() for field in batch] for batch in loader]


def assert_same(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(batch, other, strict=True))


@pytest.fixture
def worker_pids():
    """The processes that have been started since."""
    others = set(multiprocessing.active_children())
    return lambda: sorted({p.pid for p in multiprocessing.active_children() if p not in others})


def files_of(pids):
    """Names of what is left in shared memory."""
    files = os.listdir("/dev/shm")
    return [file for file in files if any(file.startswith(f"paddle_{pid}_") for pid in pids)]


@pytest.mark.parametrize(
    "options", [{}, {"use_shared_memory": False}, {"persistent_workers": True}]
)
def test_a_worker_killed_in_the_middle_of_an_epoch_changes_no_batch(options, worker_pids):
    """While the main process does something else, and while it waits for a batch."""
    expected = arrays(epoch_of(Deadly()))
    told, batches, pids, kills = [], [], set(), 0
    loader = epoch_of(Deadly(), num_workers=2, on_restart=told.append, **options)
    for batch in loader:
        batches.append(batch)
        pids.update(worker_pids())
        # The second time as soon as the first has been noticed.
        if len(batches) == 4 or len(told) == 1 == kills:
            os.kill(worker_pids()[0], signal.SIGKILL)
            kills += 1
            busy = time.perf_counter() + 0.05
            while kills == 1 and time.perf_counter() < busy:
                pass
    assert_same([[field.numpy() for field in batch] for batch in batches], expected)
    assert len(told) == 2 and len(pids) == 6
    assert "was killed by SIGKILL: workers start again from batch " in told[0]
    assert_same(arrays(loader), expected)
    if "persistent_workers" in options:
        (pid, _) = worker_pids()
        os.kill(pid, signal.SIGKILL)
        assert_same(arrays(loader), expected)
        pids.update(worker_pids())
    del loader, batch, batches
    assert worker_pids() == files_of(pids) == []


def test_a_batch_that_kills_its_worker_once(tmp_path):
    """A batch sampler that cannot be read twice, too."""
    expected = arrays(epoch_of(Deadly()))
    deaths = []
    for index, number in ((7, signal.SIGBUS), (20, signal.SIGKILL), (21, signal.SIGINT)):
        once = tmp_path / str(index)
        once.touch()
        deaths.append((index, number, once))
    told = []
    loader = epoch_of(Deadly(*deaths), num_workers=2, on_restart=told.append)
    assert_same(arrays(loader), expected)
    assert 1 <= len(told) <= 3

    (tmp_path / "7").touch()
    told.clear()
    once_only = iter(list(loader.batch_sampler.batch_sampler))
    loader = paddle_mv3.DataLoader(
        Deadly(*deaths), batch_sampler=once_only, num_workers=2, on_restart=told.append
    )
    assert_same(arrays(loader), expected)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGRTMIN + 1, f"was killed by signal {signal.SIGRTMIN + 1}: "),  # has no name
        (0, "has ended (exit code 0): "),
    ],
)
def test_how_a_worker_has_ended_is_told(number, words, tmp_path):
    once, told = tmp_path / "once", []
    once.touch()
    deadly = Deadly((7, number, once))
    loader = epoch_of(deadly, num_workers=2, on_restart=told.append)
    assert_same(arrays(loader), arrays(epoch_of(Deadly())))
    assert words in told[0]


def test_a_batch_that_kills_every_worker_ends_the_epoch(worker_pids):
    told = []
    loader = epoch_of(Deadly((30, signal.SIGKILL, None)), num_workers=2, on_restart=told.append)
    loaded = []
    with pytest.raises(
        RuntimeError, match=r"SIGKILL, the 3rd time .*/dev/shm.* fewer workers"
    ) as e:
        loaded.extend(loader)
    assert "\n" not in str(e.value)
    assert len(told) >= 2
    assert worker_pids() == []


@pytest.mark.parametrize(
    "options", [{}, {"use_shared_memory": False}, {"persistent_workers": True}]
)
def test_no_worker_is_left_when_an_epoch_is_left_early(options, worker_pids):
    loader = epoch_of(Deadly(), num_workers=2, **options)
    for _ in loader:
        pids = worker_pids()
        break
    assert len(pids) == 2
    assert worker_pids() == files_of(pids) == []
    assert_same(arrays(loader), arrays(epoch_of(Deadly())))
    del loader
    assert worker_pids() == []


@pytest.fixture
def unraisable(monkeypatch):
    """What is raised where nobody can catch it, such as in __del__."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    return told


def test_persistence_without_workers_changes_nothing(unraisable):
    expected = arrays(epoch_of(Deadly()))
    loader = epoch_of(Deadly(), persistent_workers=True)
    for _ in range(2):
        assert_same(arrays(loader), expected)
    del loader
    gc.collect()
    assert not unraisable


@pytest.mark.parametrize("workers", [1, 2])
def test_persistent_workers_are_kept_while_they_live(workers, worker_pids):
    expected, threads = arrays(epoch_of(Deadly())), set(threading.enumerate())
    loader = epoch_of(Deadly(), num_workers=workers, persistent_workers=True)
    assert_same(arrays(loader), expected)
    first = worker_pids()
    assert_same(arrays(loader), expected)
    assert len(first) == workers and worker_pids() == first
    # At its end Python would wait for others.
    assert all(thread.daemon for thread in threading.enumerate() if thread not in threads)
    # One dies between two epochs, and that is noticed before the next.
    os.kill(first[0], signal.SIGKILL)
    time.sleep(0.5)
    assert_same(arrays(loader), expected)
    assert not set(worker_pids()) & set(first)
    loader = epoch_of(Deadly(), num_workers=workers)
    assert_same(arrays(loader), expected)
    assert worker_pids() == []  # those of the other loader had ended with it


def test_workers_that_die_before_the_first_batch(worker_pids, tmp_path):
    once, told = tmp_path / "once", []
    once.touch()
    first = next(iter(epoch_of(Deadly()).batch_sampler.batch_sampler))[0].index
    deadly = Deadly((first, signal.SIGKILL, once))
    loader = epoch_of(deadly, num_workers=1, on_restart=told.append)
    assert_same(arrays(loader), arrays(epoch_of(Deadly())))
    assert [text.partition(": ")[2] for text in told] == ["workers start again from batch 0"]
    told.clear()
    deadly.deaths = [(first, signal.SIGKILL, None)]
    with pytest.raises(RuntimeError, match="SIGKILL, the 3rd time"):
        arrays(loader)
    assert len(told) == 2


def test_no_thread_is_left_when_an_epoch_is_left_early():
    before = set(threading.enumerate())
    for _ in paddle_mv3.DataLoader(Numbers(), batch_size=1):
        break
    ended = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < ended:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before


def test_an_interrupt_while_workers_are_made_is_all_that_is_told(monkeypatch, unraisable):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("paddle_mv3.data.loader._Workers._new_slots", interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(epoch_of(Deadly(), num_workers=1))
    gc.collect()
    assert not unraisable


def test_a_program_ends_while_workers_wait_for_the_next_epoch():
    code = """
        import numpy as np, paddle_mv3
        data = [(np.zeros(3, np.float32), 0)] * 8
        loader = paddle_mv3.DataLoader(data, batch_size=2, num_workers=1, persistent_workers=True)
        print(len(list(loader)), flush=True)
    """
    program = [sys.executable, "-c", textwrap.dedent(code)]
    ran = subprocess.run(program, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ran.returncode == 0 and ran.stdout == "4\n", ran.stderr


# --- images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_damaged_image_is_told_by_name(cut, tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "class" / "cut.jpg"
    path.parent.mkdir()
    Image.fromarray(rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(OSError, match=r"cannot decode image .*cut\.jpg"):
        load_image(str(path))
    preset = paddle_mv3.ClassificationPresetTrain(crop_size=32)
    loader = paddle_mv3.DataLoader(paddle_mv3.ImageFolder(tmp_path, preset), num_workers=1)
    with pytest.raises(OSError, match=r"cannot decode image .*cut\.jpg"):
        list(loader)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "preset", [paddle_mv3.ClassificationPresetEval, paddle_mv3.ClassificationPresetTrain]
)
def test_bytes_that_are_normalised_last_are_the_same_images(preset, workers, image_dir):
    def batches(finish=None, **arguments):
        dataset = paddle_mv3.ImageFolder(image_dir, preset(crop_size=40, **arguments))
        loader = paddle_mv3.DataLoader(dataset, batch_size=50, num_workers=workers, finish=finish)
        return [(images.numpy(), labels.numpy()) for images, labels in loader]

    finished = batches(paddle_mv3.normalize_batch, normalize=False)
    for (images, labels), (expected, expected_labels) in zip(finished, batches(), strict=True):
        assert images.dtype == np.float32
        assert np.array_equal(images, expected)
        assert np.array_equal(labels, expected_labels)
    assert batches(normalize=False)[0][0].dtype == np.uint8


@pytest.mark.parametrize("offset", [0, 4])
def test_what_is_normalised_last_is_copied_only_where_it_lies_badly(offset, image_dir):
    """Off a multiple of 64 bytes a kernel's last bits may depend on the address."""
    made = []

    def finish(images):
        batch = paddle_mv3.normalize_batch(images)
        assert batch.ctypes.data % 64 == 0
        memory = np.empty(batch.nbytes + 128, dtype=np.uint8)
        start = -memory.ctypes.data % 64 + offset
        made.append(memory[start : start + batch.nbytes].view(np.float32).reshape(batch.shape))
        made[-1][:] = batch
        return made[-1]

    preset = paddle_mv3.ClassificationPresetEval(crop_size=40, normalize=False)
    dataset = paddle_mv3.ImageFolder(image_dir, preset)
    loader = paddle_mv3.DataLoader(dataset, batch_size=5, num_workers=0, finish=finish)
    for images, _ in loader:
        assert np.array_equal(images.numpy(), made[-1])
        assert (images.data_ptr() == made[-1].ctypes.data) == (offset == 0)
        assert images.data_ptr() % 64 == 0


# --- images that cannot be read --------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path):
    """Twelve images, 3 of them cut short, 7 an empty file."""
    rng = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "images" / "class" / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(path)
        if number == 3:
            path.write_bytes(path.read_bytes()[:300])
        if number == 7:
            path.write_bytes(b"")
    return tmp_path / "images"


def loader_of(root, workers, batch_size=4, **kwargs):
    dataset = paddle_mv3.ImageFolder(root, paddle_mv3.ClassificationPresetEval(32, 32))
    return paddle_mv3.DataLoader(dataset, batch_size=batch_size, num_workers=workers, **kwargs)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_cannot_be_read_are_left_out(workers, damaged):
    told = []
    loader = loader_of(damaged, workers, skip_corrupt=3, on_skip=told.append)
    (damaged / "class" / "10.jpg").unlink()
    whole = [load_image(str(damaged / "class" / f"{i:02}.jpg")) for i in (0, 1, 2)]
    preset = paddle_mv3.ClassificationPresetEval(32, 32)
    for _ in range(2):  # in the second epoch they are known
        batches = [(images.numpy(), labels.numpy()) for images, labels in loader]
        assert [(len(images), len(labels)) for images, labels in batches] == [(3, 3)] * 3
        assert np.array_equal(batches[0][0], [preset(image) for image in whole])
        assert len(told) == 3
    for name, text in zip(("03", "07", "10"), told, strict=True):
        path = str(damaged / "class" / f"{name}.jpg")
        assert path in text and loader.skipped[path] == text
    assert len(loader.skipped) == 3

    # In one batch a new one behind one that is known.
    told.clear()
    loader = loader_of(damaged, workers, 8, skip_corrupt=3, on_skip=told.append)
    loader.skipped[str(damaged / "class" / "03.jpg")] = "known"
    assert [len(labels) for _, labels in loader] == [6, 3]
    assert len(told) == 1 and "07.jpg" in told[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_one_image_too_many_cannot_be_read(workers, damaged):
    def sizes(skip_corrupt, skipped=(), **kwargs):
        loader = loader_of(damaged, workers, skip_corrupt=skip_corrupt, **kwargs)
        loader.skipped.update(skipped)
        return [len(labels) for _, labels in loader]

    assert sizes(2) == [3, 3, 4]
    with pytest.raises(OSError, match=r"07\.jpg.* cannot be read: 2, more than skip_corrupt.* 1$"):
        sizes(1)
    with pytest.raises(OSError, match=r"^cannot decode image \S*03\.jpg: [^;]*$"):
        sizes(0)
    third, other = str(damaged / "class" / "03.jpg"), str(damaged / "class" / "x.jpg")
    assert sizes(2, {third: ""}) == [3, 3, 4]
    with pytest.raises(OSError, match=r"07\.jpg.* more than skip_corrupt, which is 2"):
        sizes(2, {third: "", other: ""})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_of_which_nothing_is_left_is_none(workers, damaged):
    told = []
    more = {"skip_corrupt": 2, "on_skip": told.append}
    for options in ({}, {"batch_transform": paddle_mv3.MixUp(1.0, num_classes=2)}):
        loader = loader_of(damaged, workers, 1, **more, **options)
        assert [number for number, batch in enumerate(loader) if batch is None] == [3, 7]
        assert sum(batch is not None for batch in loader) == 10
    assert len(told) == 4
    model = paddle.nn.Sequential(paddle.nn.Flatten(), paddle.nn.Linear(3 * 32 * 32, 2))
    sums = paddle_mv3.batch_sums(model, loader_of(damaged, workers, 1, **more), (1,))
    assert sums[:, 0].tolist() == [1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1]
    with pytest.raises(OSError, match="not one image to evaluate could be read"):
        paddle_mv3.evaluate(model, [None, None], (1,))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_transform_gets_what_is_left_and_other_failures_are_not_skipped(workers, damaged):
    mixup = paddle_mv3.MixUp(1.0, num_classes=2)
    loader = loader_of(damaged, workers, 2, skip_corrupt=2, batch_transform=mixup)
    shapes = [(*images.shape[:1], *labels.shape) for images, labels in loader]
    assert shapes == [(2, 2, 2), (1, 1, 2), (2, 2, 2), (1, 1, 2), (2, 2, 2), (2, 2, 2)]
    with pytest.raises(RuntimeError, match="KeyError: 'bug'"):
        list(
            paddle_mv3.DataLoader(
                Broken(), batch_sampler=[[3, 1]], num_workers=workers, skip_corrupt=5
            )
        )
