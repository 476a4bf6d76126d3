"""Hostile and damaged files: one line, no crash, no hang, bounded memory, nothing left behind."""

import argparse
import collections
import io
import json
import os
import pickle
import re
import runpy
import shutil
import socket
import struct
import sys
import tarfile
import time
import zipfile

import hostile
import numpy as np
import paddle
import pytest
import torch
from conftest import ROOT, Result, same

from alignment import files, pickles
from alignment.files import CannotRun
from alignment.stages.fake import load_fake_data
from alignment.torch_files import load_torch_file
from alignment.weights import load_pth
from Checkpoint6 import checkpoint, predict

WEIGHTS = "mobilenet_v3_small-047dcff4.pth"
PADDLE_WEIGHTS = "mv3_small_paddle.pdparams"

# --- pickles ---------------------------------------------------------------------------------

READERS = {
    "record": (hostile.record, "from alignment.files import load_record", "load_record(path)"),
    "pdparams": (
        hostile.pickled,
        "from alignment.files import load_pdparams",
        "load_pdparams(path)",
    ),
    "checkpoint": (
        hostile.checkpoint,
        "from Checkpoint6 import checkpoint",
        "checkpoint.read_weights(path)",
    ),
    "pth": (hostile.pth, "from alignment.weights import load_pth", "load_pth(path)"),
    "legacy pth": (hostile.legacy, "from alignment.weights import load_pth", "load_pth(path)"),
}  # fmt: skip


QUICK = ("pdparams",)  # the others take ten seconds each


@pytest.mark.parametrize(
    "kind",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in READERS],
)
def test_hostile_pickles_are_answered_in_one_line(kind, tmp_path):
    make, imports, read = READERS[kind]
    names = {}
    for number, (what, operations) in enumerate(hostile.VALUES.items()):
        path = tmp_path / str(number)
        path.write_bytes(make(operations))
        names[str(path)] = what
    for path, said in hostile.read_all(names, imports, read).items():
        assert said.startswith("error: ") and "\n" not in said, (names[path], said)
        # PyTorch's files hold no arrays of NumPy.
        wanted = hostile.SAID.get(names[path], "") + ("|more than weights" if "pth" in kind else "")
        assert re.search(wanted, said), (names[path], said)
    assert not os.path.exists("owned")


@pytest.mark.slow
def test_operations_are_bounded(tmp_path):
    (tmp_path / "x").write_bytes(hostile.pickled(hostile.TWO_MILLION_DICTIONARIES))
    said = hostile.read_all([tmp_path / "x"], *READERS["pdparams"][1:]).popitem()[1]
    assert "more than 2,000,000 operations" in said


def arrays():
    rng = np.random.default_rng(0)
    found = {
        f"{kind} {np.dtype(kind).str}": rng.integers(0, 2, (3, 4)).astype(kind)
        for kind in "?bhilqBHILQefdFD"
    }
    found |= {"scalar": np.float32(1.5), "no dimensions": np.array(2.5), "empty": np.ones((0, 3))}
    found |= {
        "Fortran's": np.asfortranarray(rng.random((3, 4))),
        "view": rng.random((8, 8))[::2, 1],
    }
    found |= {"large": rng.random(100_000), "big endian": np.arange(3, dtype=">i4")}
    found |= {"one byte": np.zeros(1, np.uint8), "the same byte": np.zeros(1, np.uint8)}
    return found


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_numpy_and_paddle_pickle_is_read_as_it_was(protocol):
    shared = [1, 2]
    value = collections.OrderedDict(
        arrays=arrays(),
        plain=[
            None,
            True,
            False,
            0,
            -1,
            255,
            65_536,
            -(2**31),
            2**40,
            1.5,
            float("inf"),
            "é\ud800",
        ],
        nested={"a": [{"b": (1, (2, [3]))}], 5: {}},
        shared=[shared, shared],
        tied=[*[np.arange(4.0)] * 3],
    )
    read = pickles.unpickle_arrays(pickle.dumps(value, protocol))
    big = read["arrays"].pop("big endian")
    assert big.dtype == np.int32 and big.tolist() == [0, 1, 2]
    del value["arrays"]["big endian"]
    same(read, dict(value))
    assert read["arrays"]["large"].flags.writeable
    assert isinstance(read["arrays"]["scalar"], np.float32)


@pytest.mark.parametrize("protocol", [2, 4])
def test_state_dicts_of_paddle_are_read(protocol, tmp_path):
    model = paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.BatchNorm1D(4))
    model.add_sublayer("tied", model[0])
    paddle.save(model.state_dict(), str(tmp_path / "x.pdparams"), protocol=protocol)
    wanted = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    same(files.load_pdparams(tmp_path / "x.pdparams"), wanted)


def test_reading_takes_no_more_memory_than_the_file(tmp_path):
    """A file of 1 TB that is all hole: mapped, and refused at its first byte."""
    path = tmp_path / "x.pdparams"
    with open(path, "wb") as file:
        file.truncate(10**12)
    for read in (
        files.load_pdparams,
        files.load_record,
        checkpoint.load,
        load_pth,
        files.load_array,
    ):
        with pytest.raises(CannotRun, match=r"x\.pdparams"):
            read(path)


# --- checkpoints -----------------------------------------------------------------------------

GOOD = {"model": {"w": np.ones(3, np.float32)}, "model_ema": None, "args": {}, "classes": ["a"]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", {"w": "text"}),
        ("model", {1: np.ones(3)}),
        ("model_ema", {"module": {"w": np.ones(3)}}),
        ("model_ema", {"n_averaged": 3}),
        ("model_ema", {"n_averaged": -3, "module": {}}),
        ("args", ["a"]),
        ("classes", "abc"),
        ("classes", [1, 2]),
        ("optimizer", {"a": [1]}),
        ("epoch", -1),
        ("epoch", "1"),
        ("best", [1]),
        ("sums", None),
    ],
    ids=str,
)
def test_a_checkpoint_with_a_right_checksum_and_wrong_entries(name, value, tmp_path):
    checkpoint.save(tmp_path / "good", GOOD)
    assert checkpoint.read_weights(tmp_path / "good")[0]["w"].tolist() == [1, 1, 1]
    checkpoint.save(tmp_path / "bad", {**GOOD, name: value})
    with pytest.raises(checkpoint.Damaged, match=f"bad is no checkpoint: its {name} is none"):
        checkpoint.read_weights(tmp_path / "bad")


def set_shapes(state, shape):
    state["optimizer"] = {name: np.ones(shape) for name in state["optimizer"]}


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_gone_on_from(tmp_path, images, run):
    options = ["--data-path", images, "--output-dir", tmp_path / "out", "--device", "cpu"]
    options += ["--workers", 0, "-b", 26, "--train-crop-size", 32, "--val-crop-size", 32]
    options += ["--val-resize-size", 32, "--epochs", 2, "--lr-warmup-epochs", 0]
    assert run("Checkpoint6/train.py", *options).status == 0
    path = checkpoint.checkpoints(tmp_path / "out")[1]
    for change, said in (
        (lambda state: state.pop("sums"), "it has no sums"),
        (lambda state: state.pop("lr_scheduler"), "it has no lr_scheduler"),
        (lambda state: state.update(lr_scheduler={"last_epoch": "x"}), "no checkpoint of such"),
        (lambda state: state["optimizer"].update(nothing=np.ones(3)), "no checkpoint of such"),
        (lambda state: set_shapes(state, 7), r"features.0.0.weight_velocity_0 is \[7\] in it"),
        (lambda state: state.update(sums=np.ones(99)), "its sums is none"),
    ):
        state = checkpoint.load(path)
        change(state)
        checkpoint.save(tmp_path / "x.pdparams", state)
        line = run("Checkpoint6/train.py", *options, "--resume", tmp_path / "x.pdparams").error_line
        assert re.search(said, line) and "x.pdparams" in line, line


@pytest.mark.parametrize(
    ("args", "bias", "said"),
    [
        ({"model": ["x"]}, 3, "which is none of mobilenet_v3_large"),
        ({"val_crop_size": 10**9}, 3, "val_crop_size of 1000000000"),
        ({"val_resize_size": "224"}, 3, "val_resize_size of '224'"),
        ({"interpolation": 3}, 3, "which is none of nearest"),
        ({}, 10**6, "classifier.3.bias is \\[1000000\\]"),
    ],
    ids=str,
)
def test_what_a_checkpoint_says_of_its_model_is_checked(args, bias, said, tmp_path, run, image_dir):
    state = {"model": {"classifier.3.bias": np.ones(bias, np.float32)}, "args": args}
    checkpoint.save(tmp_path / "x.pdparams", state)
    image = next(image_dir.rglob("*.JPEG"))
    with pytest.raises(CannotRun, match=said):
        flags = predict.parser().parse_args([str(image), "--weights", str(tmp_path / "x.pdparams")])
        predict.main(flags)


# --- .pth ------------------------------------------------------------------------------------


def torch_values():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3), torch.nn.BatchNorm2d(3))
    model.add_module("tied", model[0])
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 3, 7, 7)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])
    tensor = torch.arange(12.0).reshape(3, 4)
    kinds = (torch.bfloat16, torch.float16, torch.int8, torch.uint8, torch.bool, torch.complex64)
    return {
        "state_dict": model.state_dict(),
        "checkpoint": {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": schedule.state_dict(),
            "args": argparse.Namespace(lr=0.1, milestones=[1, 2], device=torch.device("cpu")),
            "shape": tensor.shape,
            "dtype": torch.float16,
            "epoch": 3,
        },
        "parameters": dict(model.named_parameters()),
        "dtypes": {str(kind): tensor.to(kind) for kind in kinds},
        "views": {
            "t": tensor.t(),
            "step": tensor[::2, 1:],
            "empty": tensor[:0],
            "one": tensor[0, 0],
        },
    }


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("name", ["state_dict", "checkpoint", "parameters", "dtypes", "views"])
def test_what_torch_saves_is_read_as_it_was(name, as_zip, tmp_path):
    value = torch_values()[name]
    torch.save(value, tmp_path / "x.pth", _use_new_zipfile_serialization=as_zip)
    read = load_torch_file(tmp_path / "x.pth")
    if name == "checkpoint":
        assert vars(read.pop("args")) == vars(value.pop("args"))
    same(read, value)


PTH = {
    "zip bomb in a storage": hostile.pth(
        hostile.tensor(hostile.storage(10**7), (10**7,), (1,)),
        [bytes(4 * 10**7)],
        zipfile.ZIP_DEFLATED,
    ),
    "zip bomb in data.pkl": hostile.pth(b"]" * 10**7, compression=zipfile.ZIP_DEFLATED),
    "stride 0": hostile.pth(hostile.tensor(hostile.storage(1), (4 * 10**9,), (0,))),
    "stride 0, many": hostile.pth(
        b"(" + hostile.tensor(hostile.storage(1), (1000,), (0,)) * 1000 + b"t"
    ),
    "beyond the storage": hostile.pth(hostile.tensor(hostile.storage(1), (2,), (1,))),
    "offset beyond": hostile.pth(hostile.tensor(hostile.storage(1), (1,), (1,), offset=7)),
    "negative stride": hostile.pth(hostile.tensor(hostile.storage(1), (2,), (-1,), offset=1)),
    "storage beyond the file": hostile.pth(hostile.tensor(hostile.storage(10**9), (1,), (1,))),
    "storage that is not there": hostile.pth(
        hostile.tensor(hostile.storage(1, key="9"), (1,), (1,))
    ),
    "storage of objects": hostile.pth(
        hostile.tensor(hostile.storage(1, "ObjectStorage"), (1,), (1,))
    ),
    "legacy, storage beyond the file": hostile.legacy(
        hostile.tensor(hostile.storage(10**10), (1,), (1,))
    ),
    "an empty tensor of any size": hostile.pth(
        hostile.call("torch", "FloatTensor", hostile.integer(10**10))
    ),
    "bytes of any size": hostile.pth(
        hostile.call("builtins", "bytearray", hostile.integer(10**10))
    ),
    "two data.pkl": hostile.pth(b"N", names=("version", "y/data.pkl")),
    "no data.pkl": hostile.pth(b"N").replace(b"data.pkl", b"data.pk1"),
    "a tar file": (ROOT / "lite_data.tar").read_bytes(),
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(1000),
    "something after the archive": hostile.pth(b"N") + b"PK\5\6",
    "empty": b"",
    "four bytes": b"PK\3\4",
}  # fmt: skip


PTH_SAID = {
    **{what: "is compressed" for what in PTH if "zip bomb" in what},
    "stride 0": "larger than the file",
    "stride 0, many": "reaches beyond|unfolds to many times",
    "beyond the storage": "reaches beyond its storage",
    "offset beyond": "reaches beyond its storage",
    "negative stride": "larger than the file",
    **{what: "larger than" for what in PTH if "beyond the file" in what or "not there" in what},
    "storage of objects": "quantised or other storages",
    "two data.pkl": "no data.pkl",
    "no data.pkl": "no data.pkl",
    "something after the archive": "directory at its end",
    "empty": "empty",
}


def test_hostile_pth(tmp_path):
    names = {}
    for number, (what, content) in enumerate(PTH.items()):
        path = tmp_path / str(number)
        path.write_bytes(content)
        names[str(path)] = what
    imports, read = READERS["pth"][1:]
    for path, said in hostile.read_all(names, imports, read).items():
        assert said.startswith("error: ") and "\n" not in said, (names[path], said)
        assert re.search(PTH_SAID.get(names[path], ""), said), (names[path], said)


def test_entries_that_share_their_bytes_are_too_many(tmp_path):
    """A directory that names one storage a thousand times."""
    content = hostile.pth(b"N", [bytes(100_000)])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        begin = archive.start_dir
    directory, end = content[begin:-22], content[-22:]
    at = directory.index(b"x/data/0") - 46
    entry = directory[at : at + 46 + len(b"x/data/0")]
    copies = [entry[:46] + f"x/data/{i % 10}".encode() for i in range(1, 10)]
    more = directory + b"".join(copies)
    end = end[:8] + struct.pack("<HHII", 12, 12, len(more), begin) + end[20:]
    (tmp_path / "x.pth").write_bytes(content[:begin] + more + end)
    with pytest.raises(CannotRun, match="larger than the file"):
        load_pth(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8), "quantised"),
        (lambda: torch.ones(3, device="meta"), "quantised or other"),
        (lambda: print, "__builtin__.print.*could run code"),
        (lambda: np.ones(3), "numpy.*could run code"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_other_kinds_are_told(value, said, tmp_path):
    torch.save({"w": value()}, tmp_path / "x.pth")
    with pytest.raises(CannotRun, match=said):
        load_pth(tmp_path / "x.pth")


# --- what is no file -------------------------------------------------------------------------


def make_strange(kind, path):
    """Puts something at `path` that is no file. Returns what has to be kept until the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        found = socket.socket(socket.AF_UNIX)
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket has at most 107 bytes
        found.bind(path.name)
        os.chdir(here)
        return found
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("not there")
    return None


STRANGE = {
    "pipe": "a pipe",
    "socket": "a socket",
    "device": "a device",
    "folder": "a folder",
    "loop": "Too many levels",
    "dangling": "links to not there",
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_file_is_told(kind, tmp_path):
    kept = make_strange(kind, tmp_path / "x")
    readers = (
        files.load_record,
        files.load_pdparams,
        files.load_array,
        files.read_text,
        files.read_json,
        checkpoint.load,
        checkpoint.read_weights,
        load_pth,
    )
    for read in readers:
        with pytest.raises(CannotRun, match=STRANGE[kind]):
            read(tmp_path / "x")
    with pytest.raises(CannotRun, match=STRANGE[kind]):
        files.unpack(tmp_path / "x", tmp_path / "lite_data")
    if kept:
        kept.close()
    assert os.listdir(tmp_path) == ["x"]


def test_a_name_with_a_zero_byte_is_told():
    with pytest.raises(CannotRun, match=r"a\\x00b"):
        files.require_file("a\0b")


@pytest.mark.parametrize("kind", ["pipe", "loop", "dangling"])
@pytest.mark.parametrize("name", [WEIGHTS, PADDLE_WEIGHTS, "fake_data.npy", "fake_label.npy"])
def test_a_step_does_not_hang_at_it_nor_replace_it(kind, name, tmp_path, data_dir, run):
    shutil.copytree(data_dir, tmp_path / "data")
    path = tmp_path / "data" / name
    make_strange(kind, path)
    os.utime(path, (0, 0), follow_symlinks=False)  # older than what it is made from
    before = os.lstat(path)
    line = run("01_test_forward.py", "--data-dir", tmp_path / "data").error_line
    assert name in line
    assert os.lstat(path).st_ino == before.st_ino and os.path.lexists(path)


# --- .npy ------------------------------------------------------------------------------------


def npy(descr, shape, data=b"", fortran=False):
    header = str({"descr": descr, "fortran_order": fortran, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (npy("<f4", (10**12, 3, 224, 224)), "it declares float32"),
        (npy("<f4", (1, 3, 40, 40), bytes(19_199)), "19,200 bytes, and has 19,199"),
        (npy("<f4", (1, 3, 40, 40), bytes(19_201)), "19,200 bytes, and has 19,201"),
        (npy("|V1000000000", (1,)), "no numbers"),
        (npy([("a", "<f4")], (1,), bytes(4)), "no numbers"),
        (npy("|O", ()), "no numbers"),
        (npy("<U4", (1,), bytes(16)), "no numbers"),
        (npy("<f4", (-1, -3, 40, 40)), "fake_data.npy"),
        (npy("<f4", "(" * 3000), "is not an array"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16, "is not an array"),
        (b"\x93NUMPY\x03\x00", "is not an array"),
        (b"", "is not an array"),
        (npy("<f4", (1, 3, 1, 1), bytes(12)), "images of 1 x 1"),
        (npy("<f4", (0, 3, 40, 40)), "N at least 1"),
        (npy("<f4", (1, 3, 40, 40), b"\0\0\xc0\x7f" * 4800), r"nan at \[0, 0, 0, 0\]"),
        (npy("<f4", (1, 3, 40, 40), bytes(19_196) + b"\0\0\x80\xff"), r"-inf at \[0, 2, 39, 39\]"),
    ],
    ids=range(16),
)
def test_fake_images_that_are_none(content, said, tmp_path):
    (tmp_path / "fake_data.npy").write_bytes(content)
    with pytest.raises(CannotRun, match=said) as raised:
        load_fake_data(tmp_path)
    assert "fake_data.npy" in str(raised.value) and "\n" not in str(raised.value)


def test_an_archive_of_arrays_is_told(tmp_path):
    np.savez(tmp_path / "x.npz", np.zeros((1, 3, 40, 40), np.float32))
    (tmp_path / "x.npz").rename(tmp_path / "fake_data.npy")
    with pytest.raises(CannotRun, match=r"fake_data.npy .*\.npz"):
        load_fake_data(tmp_path)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
def test_any_order_of_bytes_and_axes_is_read(order, dtype, tmp_path):
    images = np.random.default_rng(0).random((2, 3, 40, 48)).astype(np.float32)
    np.save(tmp_path / "fake_data.npy", np.asarray(images, dtype=dtype, order=order))
    np.save(tmp_path / "fake_label.npy", np.arange(2, dtype=np.int64))
    read, labels = load_fake_data(tmp_path, 2)
    assert read.dtype == np.float32 and read.flags.c_contiguous and read.flags.writeable
    assert np.array_equal(read, images) and labels.tolist() == [0, 1]


@pytest.mark.parametrize("label", [-1, 1000, 2**62])
def test_labels_out_of_range(label, tmp_path):
    np.save(tmp_path / "fake_label.npy", np.array([label]))
    with pytest.raises(
        CannotRun, match=rf"fake_label.npy holds the label {label}: wanted 0 to 999"
    ):
        load_fake_data(tmp_path)


# --- texts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" + b"1," * 10**7 + b"1]", "more than the 4,194,304"),
        (b'["\xff"]', "no text in UTF-8, at byte 2"),
        (b'["a\0"]', "zero bytes"),
        (b'{"1": "a", "0": "b", "1": "c"}', "'1' is given twice"),
        (b"[" + b"1" * 10_000 + b"]", r"x\.json"),
        (b'["a"', r"x\.json"),
        (b"", r"x\.json"),
    ],
    ids=range(9),
)
def test_json_that_is_none(content, said, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    for read in (files.read_json, predict.read_class_names):
        with pytest.raises(CannotRun, match=said) as raised:
            read(tmp_path / "x.json")
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"feature.0.0": "features.0.0"}, "names 'feature.0.0', and the port .* Is features.0.0"),
        ({"features.0.0": "nowhere"}, "names 'nowhere', and the reference has no such layer"),
        ({"features.0.0": 3}, "wanted"),
    ],
)
@pytest.mark.parametrize("script", ["01_test_forward.py", "04_test_loss.py", "05_test_backward.py"])
def test_a_layer_map_that_names_no_layer(content, said, script, run, tmp_path):
    (tmp_path / "map.json").write_text(json.dumps(content))
    line = run(script, "--layer-map", tmp_path / "map.json").error_line
    assert "map.json" in line
    assert re.search(said, line), line


# --- response files --------------------------------------------------------------------------


def parsers():
    from Checkpoint6 import arguments
    from torch_ref import train

    return {
        "Checkpoint6/train.py": arguments.parser("").parse_args,
        "torch_ref/train.py": train.parser().parse_args,
    }


RESPONSES = {
    "one long line": (b"--lr 0.1 " * 20_000, "more than the 100,000"),
    "100 MB": (None, "100,000,000 bytes, more than the 100,000"),
    "many arguments": (b"a\n" * 40_000, "more than 10,000 arguments"),
    "itself": (b"--lr 0.1\n@args.txt", "args.txt names itself"),
    "each other": (b"@other.txt", "args.txt names itself"),
    "binary": (bytes(range(256)), "args.txt: it is no text"),
    "zero bytes": (b"--lr\0 1", "args.txt: it is no text"),
    "open quote": (b"--lr 0.1\n--output-dir 'x", "args.txt, line 2: No closing quotation"),
    "not there": (b"@none.txt", "none.txt: No such file"),
    "alone": (b"@", "@ stands alone"),
    "twice as many each time": (b"@a0.txt", "more than 100 files"),
}


@pytest.mark.parametrize("script", ["Checkpoint6/train.py", "torch_ref/train.py"])
@pytest.mark.parametrize("what", RESPONSES)
def test_response_files_that_are_none(what, script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content, said = RESPONSES[what]
    with open("args.txt", "wb") as file:
        if content is None:
            file.truncate(10**8)
        else:
            file.write(content)
    (tmp_path / "other.txt").write_text("@args.txt")
    for number in range(40):
        (tmp_path / f"a{number}.txt").write_text(f"@a{number + 1}.txt @a{number + 1}.txt")
    (tmp_path / "a40.txt").write_text("")
    begin = time.monotonic()
    with pytest.raises(SystemExit) as leaving:
        parsers()[script](["@args.txt", "--data-path", "x"])
    (line,) = capsys.readouterr().err.splitlines()
    assert leaving.value.code == 2 and line.startswith("error: ") and said in line
    assert time.monotonic() - begin < 20  # it took 90 s and more


@pytest.mark.parametrize("script", ["Checkpoint6/train.py", "torch_ref/train.py"])
def test_response_files_may_name_others(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.txt").write_text("# it's a comment\n--lr 0.5 --wd 1e-3 # wd\n'@c.txt'\n")
    (tmp_path / "c.txt").write_text("--epochs 7")
    args = parsers()[script](["--lr", "3", "@a b.txt", "@c.txt", "--data-path", "x", "--wd", "1"])
    assert (args.lr, args.weight_decay, args.epochs) == (0.5, 1.0, 7)


# --- lite_data.tar ---------------------------------------------------------------------------


def tar(path, entries, mode="w"):
    """entries: [(name, bytes or None for a folder)]"""
    with tarfile.open(path, mode) as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))


@pytest.mark.parametrize("what", ["absolute", "gzip", "bomb", "sparse bomb", "another folder"])
def test_an_archive_that_is_refused_leaves_nothing(what, tmp_path):
    path, folder = tmp_path / "lite_data.tar", tmp_path / "here" / "lite_data"
    folder.parent.mkdir()
    begin = ("lite_data", None), ("lite_data/val", None)
    if what == "absolute":
        tar(path, [*begin, ("/lite_data/val/x", b"x")])
    elif what == "gzip":
        tar(path, [*begin, ("lite_data/val/x", bytes(10**6))], "w:gz")
    elif what == "another folder":
        tar(path, [*begin, ("lite_data2/x", b"x")])
    else:
        tar(path, [*begin, ("lite_data/val/x", b"")])
        info = tarfile.TarInfo("lite_data/val/bomb")
        info.size = 10**12
        if what == "sparse bomb":
            info.type, info.size = tarfile.REGTYPE, 0
            info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(10**12)}
        with open(path, "r+b") as file:
            file.seek(-10_240, 2)
            end = path.read_bytes().rstrip(b"\0")
            file.truncate(len(end) + -len(end) % 512)
            file.seek(0, 2)
            file.write(info.tobuf(tarfile.PAX_FORMAT) + bytes(2048))
    for _ in range(2):
        with pytest.raises(CannotRun, match=r"cannot unpack .*lite_data.tar"):
            files.unpack_once(path, folder)
        assert os.listdir(folder.parent) == []


def test_a_folder_that_is_not_whole_is_told(tmp_path):
    path, folder = tmp_path / "lite_data.tar", tmp_path / "lite_data"
    tar(path, [("lite_data", None), ("lite_data/val/a", b"a"), ("lite_data/val/b", b"b")])
    assert files.unpack_once(path, folder) and not files.unpack_once(path, folder)
    (folder / "val" / "a").write_text("changed on purpose")
    assert not files.unpack_once(path, folder)
    (folder / "val" / "b").unlink()
    with pytest.raises(CannotRun, match="lacks 1 files, 'lite_data/val/b' the first"):
        files.unpack_once(path, folder)
    assert (folder / "val" / "a").exists()
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(CannotRun, match="lacks 2 files"):
        files.unpack_once(path, folder)
    folder.rmdir()
    assert files.unpack_once(path, folder)
    path.unlink()
    assert not files.unpack_once(path, folder)


# --- the list of images ----------------------------------------------------------------------


@pytest.mark.parametrize("what", ["bomb", "declares more", "objects", "targets", "pipe", "names"])
def test_a_hostile_list_of_images_is_made_anew(what, tmp_path):
    from paddle_mv3.data import listing

    root, cache = tmp_path / "images", tmp_path / "cache"
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for folder in (root / "a", root / "b", root):
        os.utime(folder, (10**9, 10**9))
    wanted = list(listing.find_samples(root, ["a", "b"], cache))
    (path,) = cache.iterdir()
    with np.load(path) as file:
        content = dict(file)
    if what == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif what == "bomb":
        content["names"] = np.zeros(10**8, np.uint8)
        np.savez_compressed(path, **content)
    elif what == "declares more":
        with zipfile.ZipFile(path, "w") as archive:
            for name in content:
                archive.writestr(f"{name}.npy", npy("|u1", (10**11,), b"abc"))
    elif what == "objects":
        content["names"] = np.array([{}], dtype=object)
        np.savez(path, **content)
    elif what == "targets":
        content["targets"] = content["targets"] + 10**9
        np.savez(path, **content)
    elif what == "names":
        content["names"] = content["names"][:-1]
        np.savez(path, **content)
    assert list(listing.find_samples(root, ["a", "b"], cache)) == wanted
    assert path.is_file() and path.stat().st_size < 10_000


# --- whole programs --------------------------------------------------------------------------

PROGRAMS = {
    "01_test_forward.py": [],
    "torch2paddle.py": ["{pth}", "{folder}/out.pdparams"],
    "torch2paddle.py --reverse": ["--reverse", "{pdparams}", "{folder}/out.pth"],
    "Checkpoint6/predict.py": ["{image}", "--weights", "{pdparams}"],
    "Checkpoint6/export.py": ["--weights", "{pdparams}", "--output", "{folder}/out"],
    "Checkpoint6/average_checkpoints.py": ["{pdparams}", "--output", "{folder}/out.pdparams"],
    "Checkpoint6/train.py": ["--weights", "{pdparams}"],
    "Checkpoint6/train.py --resume": ["--resume", "{checkpoint}"],
    "Checkpoint6/compare_top1.py": ["--published", "60"],
    "torch_ref/train.py": ["--weights", "{pth}"],
    "torch_ref/train.py --resume": ["--resume", "{pth}"],
}
BOMBS = ["tuples of one, deep", "a deep tuple as a key", "4e9 elements of four bytes", "stride 0"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_survive_hostile_files(program, tmp_path, data_dir, images, monkeypatch, capfd):
    data = shutil.copytree(data_dir, tmp_path / "data")
    result = tmp_path / "result"
    result.mkdir()
    script = program.split()[0]
    for what in BOMBS:
        operations = hostile.VALUES[what]
        places = {"folder": tmp_path, "image": next(images.rglob("*.png"))}
        for kind, make in (
            ("pth", hostile.pth),
            ("pdparams", hostile.pickled),
            ("checkpoint", hostile.checkpoint),
        ):
            places[kind] = tmp_path / f"x.{kind}"
            places[kind].write_bytes(make(operations))
        (result / "train_align_paddle.npy").write_bytes(hostile.record(operations))
        (data / WEIGHTS).write_bytes(hostile.pth(operations))
        options = [option.format(**places) for option in PROGRAMS[program]]
        if script == "01_test_forward.py":
            options += ["--data-dir", data]
        if script.endswith("train.py"):
            options += ["--data-path", images, "--output-dir", tmp_path / "out", "--epochs", 3]
            options += ["--device", "cpu", "--workers", 0, "-b", 13, "--train-crop-size", 64]
            options += ["--result-dir", result]
        if script in ("01_test_forward.py", "Checkpoint6/compare_top1.py"):
            options += ["--result-dir", result]
        monkeypatch.setattr(sys, "argv", [script, *map(str, options)])
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        out, err = capfd.readouterr()
        line = Result(leaving.value.code, out, err).error_line
        assert re.search("deep|as a key|declares an array|numpy|more than weights", line), line
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out.")]
