"""Readers and files that nobody thought of: a value, or one line; no crash, no hang, no gigabytes.

Valid files are mutated (bytes, cuts, splices), and pickles put together from operations. 100 inputs
for each reader by default, 10,000 with -m slow, or as many as FUZZ_INPUTS says.
"""

import collections
import contextlib
import io
import json
import os
import resource
import signal
import zipfile

import hostile
import numpy as np
import paddle
import pytest
import torch
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from alignment import files, layers
from alignment.files import CannotRun
from alignment.stages.fake import load_fake_data
from alignment.weights import load_pth
from Checkpoint6 import arguments, checkpoint, predict
from paddle_mv3.data.dataset import ImageFolder

ROOM = 2_000_000_000  # bytes that a reader may take; PIL reads images of up to 540 MB
SECONDS = 60

# --- inputs ----------------------------------------------------------------------------------

# Bytes that sizes, counts and ends are made of.
TELLING = [b"\0", b"\xff", b"\xff" * 4, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\0" * 8, b"\n", b'"']

MUTATION = st.tuples(
    st.sampled_from(["flip", "cut", "drop", "repeat", "splice", "put", "swap"]),
    st.integers(0, 2**20),
    st.integers(0, 2**20),
    st.integers(0, 255),
)


def mutated(content, others, mutations):
    """`content` after [(kind, place, other place, byte)]; `others` are spliced in."""
    content = bytearray(content)
    for kind, first, second, byte in mutations:
        size = len(content) + 1
        begin, end = sorted((first % size, second % size))
        end = min(end, begin + 4096)
        if kind == "flip" and begin < len(content):
            content[begin] ^= byte or 1
        elif kind == "cut":
            del content[begin:]
        elif kind == "drop":
            del content[begin : begin + 1 + byte]
        elif kind == "repeat":
            content[begin:begin] = content[begin:end] * (1 + byte % 4)
        elif kind == "splice":
            other = others[byte % len(others)]
            at = second % (len(other) + 1)
            content[begin : begin + byte] = other[at : at + 256]
        elif kind == "put":
            telling = TELLING[byte % len(TELLING)]
            content[begin : begin + len(telling)] = telling
        elif kind == "swap":
            content[begin:end] = reversed(content[begin:end])
    return bytes(content)


def mutations_of(*contents):
    """A strategy: one of `contents`, mutated one to four times."""
    return st.builds(
        lambda number, mutations: mutated(contents[number], contents, mutations),
        st.integers(0, len(contents) - 1),
        st.lists(MUTATION, min_size=1, max_size=4),
    )


ONE = hostile.array((1,), b"C\x04abcd")
SNIPPETS = [
    *[bytes([code]) for code in b"N)]}(tasueqRbQ.0\x81\x85\x86\x87\x88\x89\x94\x93"],
    *[b"q\x00", b"h\x00", b"h\x01", b"q\x01", b"K\x00", b"K\x05", b"C\x04abcd", b"C\x00"],
    *[b"J\xff\xff\xff\xff", b"G?\xf0\0\0\0\0\0\0", b"X\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f"],
    *[hostile.text(word) for word in ("", "a", "w", "model", "latin1", "f4", "<", "storage")],
    *[hostile.integer(value) for value in (-1, 0, 1, 2**31, 2**62)],
    *[hostile.FLOAT32, hostile.EMPTY, ONE, hostile.dtype("O8"), hostile.dtype("c16")],
    hostile.text("w") + ONE,
    hostile.name("numpy", "dtype"),
    hostile.name("numpy", "ndarray"),
    hostile.name("numpy.core.multiarray", "scalar"),
    hostile.name("numpy.core.numeric", "_frombuffer"),
    hostile.name("builtins", "tuple"),
    hostile.name("_codecs", "encode"),
    hostile.name("collections", "OrderedDict"),
    hostile.name("os", "mkdir"),
    hostile.storage(1),
    hostile.text("w") + hostile.tensor(hostile.storage(1), (1,), (1,)),
    hostile.name("torch._utils", "_rebuild_tensor_v2"),
    hostile.name("torch._utils", "_rebuild_parameter"),
    hostile.name("argparse", "Namespace"),
    hostile.name("torch", "Size"),
]
OPERATIONS = st.lists(st.sampled_from(SNIPPETS), max_size=30).map(b"".join)


# --- the property ----------------------------------------------------------------------------


@contextlib.contextmanager
def bounded():
    """Memory may grow by ROOM, and a call may take SECONDS."""

    def too_long(*_):
        raise TimeoutError(f"more than {SECONDS} s")

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def fuzz(examples, contents, read, write):
    """Reads `examples` inputs.

    Args:
        contents: strategy of bytes.
        read: called without arguments after each `write(content)`; raises AssertionError if what it
            reads is not what it promises, and CannotRun or OSError in one line.
    """
    seen, last = collections.Counter(), {}

    @settings(
        max_examples=examples,
        derandomize=examples <= 100,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(contents)
    def attempt(content):
        write(content)
        signal.alarm(SECONDS)
        try:
            read()
            seen["read"] += 1
        except (CannotRun, OSError) as error:
            assert not isinstance(error, TimeoutError), error
            assert len(str(error).splitlines()) == 1, str(error)
            seen["refused"] += 1
            last["refused"] = str(error)
        finally:
            signal.alarm(0)

    with bounded():
        attempt()
    assert seen["read"] and seen["refused"], (seen, last)


# The whole takes some twenty minutes on one core; CI takes a sample.
INPUTS = int(os.environ.get("FUZZ_INPUTS", 10_000))
many = pytest.mark.parametrize("examples", [100, pytest.param(INPUTS, marks=pytest.mark.slow)])


# --- readers ---------------------------------------------------------------------------------


def are_arrays(value):
    assert isinstance(value, dict)
    for name, array in value.items():
        assert isinstance(name, str) and isinstance(array, np.ndarray)
        assert array.dtype.kind in "biufc"
        array.copy()


def a_record():
    from reprod_log import ReprodLogger

    log = ReprodLogger()
    log.add("logits", np.arange(6, dtype=np.float32).reshape(2, 3))
    log.add("length", np.array(3))
    file = io.BytesIO()
    np.save(file, log.data, allow_pickle=True)
    return file.getvalue()


@many
def test_records(examples, tmp_path):
    path = tmp_path / "x.npy"
    contents = mutations_of(a_record(), hostile.record(ONE)) | OPERATIONS.map(hostile.record)
    fuzz(examples, contents, lambda: are_arrays(files.load_record(path)), path.write_bytes)


def saved(path, value):
    checkpoint.save(path, value)
    return path.read_bytes()


def a_state():
    return {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "n": np.array(3),
        "h": np.ones(2, "f2"),
    }


@many
def test_pdparams(examples, tmp_path):
    import paddle

    path = tmp_path / "x.pdparams"
    bases = []
    for protocol in (2, 4):
        state = {name: paddle.to_tensor(array) for name, array in a_state().items()}
        paddle.save(state, str(path), protocol=protocol)
        bases.append(path.read_bytes())
    contents = mutations_of(*bases, hostile.pickled(ONE)) | OPERATIONS.map(hostile.pickled)
    fuzz(examples, contents, lambda: are_arrays(files.load_pdparams(path)), path.write_bytes)


@many
def test_checkpoints(examples, tmp_path):
    """With a right checksum, or there would be nothing to find."""
    path = tmp_path / "x.pdparams"
    state = {"model": a_state(), "model_ema": None, "args": {"lr": 0.1, "model": "a"}}
    state |= {"classes": ["a", "b"], "epoch": 3, "best": {"top1": 1.0}, "skipped": {}}
    whole = saved(path, state)
    more = saved(path, {**state, "model_ema": {"n_averaged": 1, "module": a_state()}})

    bodies = [content[: -checkpoint.TRAILER] for content in (whole, more)]
    contents = (
        mutations_of(*bodies).map(hostile.with_checksum)
        | OPERATIONS.map(hostile.checkpoint)
        | mutations_of(whole, more)
        | st.just(whole)
    )

    def read():
        arrays, state = checkpoint.read_weights(path)
        are_arrays(arrays)
        assert isinstance(state, dict)

    fuzz(examples, contents, read, path.write_bytes)


@many
@pytest.mark.filterwarnings("ignore")
def test_pth(examples, tmp_path):
    path = tmp_path / "x.pth"
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()
    values = (
        state,
        {"model": state, "epoch": 3, "lr": 0.1},
        {"p": torch.nn.Parameter(state["0.bias"])},
    )
    bases, pickles = [], []
    for value in values:
        for as_zip in (True, False):
            torch.save(value, path, _use_new_zipfile_serialization=as_zip)
            bases.append(path.read_bytes())
        torch.save(value, path)
        with zipfile.ZipFile(path) as archive:
            pickles.append(archive.read("x/data.pkl"))

    def zipped(content):
        return hostile.archive(content, [bytes(24)] * 8)

    contents = (
        mutations_of(*bases)
        | mutations_of(*pickles).map(zipped)
        | OPERATIONS.map(hostile.pth)
        | OPERATIONS.map(hostile.legacy)
    )

    def read():
        for name, tensor in load_pth(path).items():
            assert isinstance(name, str) and isinstance(tensor, torch.Tensor)
            tensor.clone()

    fuzz(examples, contents, read, path.write_bytes)


@many
def test_fake_data(examples, tmp_path):
    images = io.BytesIO()
    np.save(images, np.random.default_rng(0).random((1, 3, 32, 32)).astype(np.float32))
    archive = io.BytesIO()
    np.savez(archive, np.zeros(3))
    bases = images.getvalue(), (ROOT / "data" / "fake_label.npy").read_bytes(), archive.getvalue()

    def read():
        read_images, labels = load_fake_data(tmp_path)
        assert np.isfinite(read_images).all() and read_images.dtype == np.float32
        assert len(labels) == len(read_images) and 0 <= labels.min() <= labels.max() < 1000

    # Nearly all damage to the header is seen; damage to a value gives another value.
    fuzz(examples, mutations_of(*bases), read, (tmp_path / "fake_data.npy").write_bytes)


TEXTS = st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
).map(lambda value: json.dumps(value).encode())


@many
def test_layer_maps(examples, tmp_path):
    path = tmp_path / "map.json"
    valid = json.dumps({"0": "1", "1": "0"}).encode()
    port = paddle.nn.Sequential(paddle.nn.ReLU(), paddle.nn.ReLU())
    reference = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.ReLU())

    def read():
        layer_map = layers.read_layer_map(path, port, reference)
        assert all(isinstance(word, str) for pair in layer_map.items() for word in pair)

    contents = mutations_of(valid, b"\xef\xbb\xbf{}") | TEXTS | JSON | st.just(valid)
    fuzz(examples, contents, read, path.write_bytes)


@many
@pytest.mark.parametrize("suffix", [".json", ".txt"])
def test_class_names(suffix, examples, tmp_path):
    path = tmp_path / f"names{suffix}"
    names = {"0": ["n01", "tench"], "1": "goldfish"}
    bases = json.dumps(names).encode(), json.dumps(["a", "b"]).encode(), "tench\né\n".encode()

    def read():
        found = predict.read_class_names(path)
        assert all(isinstance(name, str) and name.strip() == name != "" for name in found)

    fuzz(examples, mutations_of(*bases) | TEXTS | JSON, read, path.write_bytes)


@many
@pytest.mark.parametrize("trainer", ["port", "reference"])
def test_recipes(trainer, examples, tmp_path, capsys, monkeypatch):
    from torch_ref import train

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.txt"
    (tmp_path / "other.txt").write_text("--lr 0.1\n")
    parser = arguments.parser("") if trainer == "port" else train.parser()
    recipes = (ROOT / "Checkpoint6" / "recipes").glob("*.txt")
    bases = [*(path.read_bytes() for path in recipes), b"@other.txt --wd '1e-3' # x\n@recipe.txt"]

    def read():
        try:
            parser.parse_args(["@recipe.txt", "--data-path", "x"])
        except SystemExit as leaving:
            out, err = capsys.readouterr()
            if leaving.code == 0:  # --help
                assert out
                return
            assert leaving.code == 2 and err.startswith("error: ")
            raise CannotRun(err.removesuffix("\n")) from leaving

    fuzz(examples, mutations_of(*bases) | TEXTS, read, path.write_bytes)


def an_image(kind, **options):
    rng = np.random.default_rng(0)
    mode = options.pop("mode", "RGB")
    image = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@many
@pytest.mark.filterwarnings("ignore")
def test_image_folders(examples, tmp_path):
    """Any bytes under any suffix that is listed."""
    bases = [
        an_image("JPEG"),
        an_image("JPEG", progressive=True, mode="CMYK"),
        an_image("PNG"),
        an_image("PNG", mode="P"),
        an_image("PPM"),
        an_image("BMP"),
        an_image("TIFF", compression="tiff_lzw"),
        an_image("WEBP"),
        an_image("GIF", mode="P"),
    ]
    (tmp_path / "class").mkdir()
    folder = []

    def write(content):
        (tmp_path / "class" / "x.png").write_bytes(content)

    def read():
        folder[:] = folder or [ImageFolder(str(tmp_path))]
        image, target = folder[0][0]
        assert image.mode == "RGB" and target == 0
        np.asarray(image)

    fuzz(examples, mutations_of(*bases), read, write)
