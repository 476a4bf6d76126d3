"""Files that want to crash their reader or to eat the machine, and a process to read them in."""

import hashlib
import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
from conftest import ROOT

MILLION = 1_000_000
DEEP = 200_000


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def name(module, function):
    return f"c{module}\n{function}\n".encode()


def integer(value):
    raw = value.to_bytes(12, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def call(module, function, *arguments):
    return name(module, function) + b"(" + b"".join(arguments) + b"tR"


def dtype(kind):
    """A plain dtype as NumPy pickles it."""
    state = b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return call("numpy", "dtype", text(kind), b"\x89", b"\x88") + state


FLOAT32 = dtype("f4")
EMPTY = call(
    "numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), b"K\x00\x85", b"C\x01b"
)
MEGABYTE = b"B" + struct.pack("<I", MILLION) + bytes(MILLION)


def array(shape, raw, kind=FLOAT32):
    """An array as NumPy pickles it: raw is the operation that pushes its bytes."""
    return EMPTY + b"(K\x01(" + b"".join(map(integer, shape)) + b"t" + kind + b"\x89" + raw + b"tb"


def structured():
    """A dtype of 8 bytes whose field lies at byte 10^9."""
    field = b"}" + text("a") + FLOAT32 + integer(10**9) + b"\x86s"
    state = b"(K\x03" + text("|") + b"N" + text("a") + b"\x85" + field + b"K\x08K\x01K\x00tb"
    return call("numpy", "dtype", text("V8"), b"\x89", b"\x88") + state


def doubled(times, empty=b")", join=b"\x86"):
    """A tuple of twice a tuple of twice …: 2^times values."""
    memo = [b"r" + struct.pack("<I", i) for i in range(times + 1)]
    get = [b"j" + struct.pack("<I", i) for i in range(times + 1)]
    operations = empty + memo[0]
    for i in range(times):
        operations += get[i] + get[i] + join + memo[i + 1]
    return operations


# {what: the operations that push a hostile value}
VALUES = {
    "lists, deep": b"]" * DEEP + b"a" * (DEEP - 1),
    "tuples of one, deep": b")" + b"\x85" * DEEP,
    "tuples of two, deep": b")" + b"N\x86" * DEEP,
    "tuples of three, deep": b")" + b"NN\x87" * DEEP,
    "tuples by marks, deep": b"(" * (DEEP) + b"t" * (DEEP),
    "dictionaries, deep": b"}K\x00" * (DEEP) + b"N" + b"s" * (DEEP),
    "a deep tuple as a key": b"})" + b"\x85" * DEEP + b"Ns",
    "paddle.save's tuples, deep": name("builtins", "tuple") * 1000 + b")" + b"\x85\x85R" * 1000,
    "arrays of objects, deep": (EMPTY + b"(K\x01)" + dtype("O8") + b"\x89]") * 2000
    + b"]"
    + b"atb" * 2000,
    "attributes, deep": b"".join(
        call("collections", "OrderedDict") + b"}" + text("_metadata") for _ in range(1000)
    )
    + b"N"
    + b"sb" * 1000,
    "a list in itself": b"]q\x00h\x00a",
    "a dictionary in itself": b"}q\x00K\x00h\x00s",
    "two lists in each other": b"]q\x00]h\x00aa",
    "doubled 60 times": doubled(60),
    "one text many times": b"(" + text("x" * MILLION) + b"q\x00" + b"h\x00" * DEEP + b"t",
    "one array of a megabyte, many times": b"("
    + array((250_000,), MEGABYTE)
    + b"q\x00"
    + b"h\x00" * 100_000
    + b"t",
    "arrays of the same bytes": b"("
    + MEGABYTE
    + b"q\x00"
    + array((250_000,), b"h\x00") * 2000
    + b"t",
    "an index of 4e9 in the memo": b"Nr\xff\xff\xff\xff",
    "a text that is longer than the file": b"X\xff\xff\xff\xff" + b"abc",
    "bytes that are longer than the file": b"\x8e" + struct.pack("<Q", 2**62) + b"abc",
    "4e9 elements of no bytes": array((4 * 10**9,), b"C\x00"),
    "4e9 elements of four bytes": array((4 * 10**9,), b"C\x04abcd"),
    "4e9 times no elements": array((4 * 10**9, 0), b"C\x00"),
    "a shape of negative numbers": array((-1, -4), b"C\x10" + bytes(16)),
    "a shape of a thousand dimensions": array((1,) * 1000, b"C\x04abcd"),
    "stride 0": call(
        "numpy",
        "ndarray",
        integer(4 * 10**9) + b"\x85",
        FLOAT32 + b"C\x04abcdK\x00K\x00\x85",
    ),
    "fields outside": array((1,), b"C\x08abcdefgh", structured()),
    "a dtype of objects": array((1,), b"]Na", dtype("O8")),
    "an array without a state": EMPTY,
    "a memmap": call("numpy", "memmap", text("/etc/passwd")),
    "code": call("os", "mkdir", text("owned")),
    "numbers of one hash": b"}("
    + b"".join(integer(i * (2**61 - 1)) + b"N" for i in range(50_000))
    + b"u",
    "marks alone": b"(" * DEEP,
    "operations of old protocols": b"(I1\nI2\nl",
    "no operation": b"\xff" * 100,
}


# {what: what is to be said of it}, or the reader stops for another reason than the hostile one.
SAID = {
    **{what: "nests more than 100 deep" for what in VALUES if "deep" in what},
    "arrays of objects, deep": "no named array|none$|more than weights",
    **{what: "contains itself" for what in VALUES if "in itself" in what or "each other" in what},
    **{what: "unfolds to many times" for what in VALUES if "times" in what},
    "4e9 times no elements": "declares an array",
    "arrays of the same bytes": "more memory than it has bytes",
    "a text that is longer than the file": "cut short",
    "bytes that are longer than the file": "cut short",
    **{what: "declares an array" for what in VALUES if "4e9 elements" in what or "shape" in what},
    "stride 0": "numpy.ndarray",
    "fields outside": "V8",
    "a dtype of objects": "array of Python objects",
    "an array without a state": "no state",
    "a memmap": "numpy.memmap",
    "code": "os.mkdir",
    "numbers of one hash": "int as a key",
}
# Takes seconds.
TWO_MILLION_DICTIONARIES = b"(" + b"}" * (2 * MILLION) + b"t"


def pickled(operations):
    return b"\x80\x02}" + text("model") + operations + b"s."


def record(operations):
    """As ReprodLogger.save writes it."""
    file = io.BytesIO()
    np.save(file, np.array({}, dtype=object), allow_pickle=True)
    header = file.getvalue()[: file.getvalue().index(b"\n") + 1]
    return header + pickled(operations)


def with_checksum(body):
    return body + b"\nsha256:" + hashlib.sha256(body).hexdigest().encode() + b"\n"


def checkpoint(operations):
    return with_checksum(pickled(operations))


def pth(operations, *arguments, **options):
    return archive(pickled(operations), *arguments, **options)


def archive(content, storages=(b"abcd",), compression=zipfile.ZIP_STORED, names=("version",)):
    """As torch.save writes it: `content` is its data.pkl."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        made.writestr("x/data.pkl", content)
        for key, storage in enumerate(storages):
            made.writestr(f"x/data/{key}", storage)
        for other in names:
            made.writestr(f"x/{other}", b"3\n")
    return file.getvalue()


def storage(count, kind="FloatStorage", key="0"):
    identity = text("storage") + name("torch", kind) + text(key) + text("cpu") + integer(count)
    return b"(" + identity + b"tQ"


def tensor(storage, size, stride, offset=0):
    numbers = [b"(" + b"".join(map(integer, values)) + b"t" for values in (size, stride)]
    hooks = call("collections", "OrderedDict")
    return call(
        "torch._utils", "_rebuild_tensor_v2", storage, integer(offset), *numbers, b"\x89", hooks
    )


def legacy(operations):
    """As torch.save wrote it before PyTorch 1.6."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    system = pickle.dumps({"little_endian": True}, 2)
    keys = pickle.dumps(["0"], 2)
    begin = magic + pickle.dumps(1001, 2) + system
    return begin + pickled(operations) + keys + struct.pack("<Q", 1) + b"abcd"


READ = """
import json, resource, signal, sys, time, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {root!r})
from alignment.files import CannotRun
{imports}
for word in open("/proc/self/status"):
    if word.startswith("VmSize"):
        used = 1024 * int(word.split()[1])
resource.setrlimit(resource.RLIMIT_AS, (used + {room}, used + {room}))
for path in json.loads(sys.stdin.read()):
    signal.alarm({seconds})
    try:
        value = {read}
        said = "read: " + type(value).__name__
    except (CannotRun, OSError) as error:
        said = "error: " + str(error)
    except BaseException as error:
        said = f"raised {{type(error).__name__}}: {{error}}"[:500]
    signal.alarm(0)
    print(json.dumps([path, said]), flush=True)
"""


def read_all(paths, imports, read, room=1_500_000_000, seconds=30):
    """{path: "read: …", "error: …" or "raised …"}, each in one process that has `room` bytes.

    A path that crashes or hangs the process is "ended it".

    Args:
        imports: statements that import the reader.
        read: expression that reads `path`.
    """
    code = READ.format(root=str(ROOT), imports=imports, read=read, room=room, seconds=seconds)
    waiting, found = list(map(str, paths)), {}
    while waiting:
        process = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(waiting),
            capture_output=True,
            text=True,
            timeout=600,
        )
        lines = [json.loads(line) for line in process.stdout.splitlines()]
        found.update(lines)
        waiting = waiting[len(lines) :]
        if waiting:
            found[waiting.pop(0)] = f"ended it, {process.returncode}: {process.stderr[-500:]}"
    return found
