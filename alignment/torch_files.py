"""Reading what torch.save wrote, by anyone. No paddle in here, so that the reference reads so too.

`torch.load(weights_only=True)` runs no code of a file, but takes whatever memory and depth the
file asks for. So the file is first read as data (see pickles.py): the archive, if it is one, must
be stored as torch.save stores it, and each tensor must lie within its storage, and each storage
within the file.
"""

from __future__ import annotations

import argparse
import math
import mmap
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .files import CannotRun, is_utf8, reason_of, require_file, shown
from .pickles import Foreign, Name, Pending, Sized, Unpickler, Unreadable, encode, new_dict

__all__ = ["load_torch_file"]

# torch/serialization.py: the numbers with which a file of torch.save begins before PyTorch 1.6.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

# That of mobilenet_v3_small takes 36 KB, and the directory of its archive 17 KB.
MAX_PICKLE = 64 * 2**20
MAX_DIRECTORY = 64 * 2**20

ITEM_SIZES = {
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage", "UntypedStorage"), 1),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
# Of tensors whose storage has no type of its own.
UNTYPED_ITEM_SIZES = {"torch.uint16": 2, "torch.uint32": 4, "torch.uint64": 8}


def load_torch_file(path: Path) -> dict[str, Any]:
    """What torch.save wrote, on the CPU; the storages mapped rather than read where possible.

    Plain values, dense tensors, OrderedDict, Counter, torch.Size, torch.device and
    argparse.Namespace, in lists, tuples and dictionaries. No code that is in the file is run.

    Raises:
        CannotRun: the file is missing, damaged, hostile, or holds anything else.
    """
    require_file(path)
    try:
        # PyTorch cannot map a file whose name is not UTF-8.
        mapped = _check(path) and is_utf8(path)
        # torchvision's trainer puts its argparse.Namespace, which is inert, into checkpoints.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Foreign as error:
        if error.name.startswith(("torch._utils._rebuild", "torch.serialization._get_layout")):
            reason = f"it holds sparse, quantised or other tensors ({error.name}); save dense ones"
        else:
            reason = f"it holds more than weights ({error.name}), which could run code; save "
            reason += "model.state_dict()"
        raise CannotRun(f"cannot read {shown(path)}: {reason}") from error
    except Unreadable as error:
        raise CannotRun(
            f"cannot read {shown(path)}: not written by torch.save, or damaged: {error}"
        ) from error
    except OSError as error:
        raise CannotRun(f"cannot read {shown(path)}: {reason_of(error)}") from error
    except Exception as error:  # a damaged file can raise nearly anything
        raise CannotRun(
            f"cannot read {shown(path)}: not written by torch.save, or damaged "
            f"({type(error).__name__})"
        ) from error


def _check(path: Path) -> bool:
    """Whether the file `path` is a zip archive. Raises: Unreadable, and what zipfile does."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if size == 0:
            raise Unreadable("it is empty")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if data[:4] != b"PK\3\4":  # as PyTorch tells it
            _check_legacy(data)
            return False
        _check_directory(data)
        with zipfile.ZipFile(file) as archive:
            _check_archive(archive, size)
    return True


def _check_directory(data: Any) -> None:
    """That the archive ends with its directory, and that this is no larger than it may be."""
    end = len(data) - 22  # the record that is last, without a comment
    if end < 0 or data[end : end + 4] != b"PK\5\6":
        raise Unreadable("the directory at its end is missing")
    nbytes = struct.unpack("<I", data[end + 12 : end + 16])[0]
    if nbytes == 2**32 - 1:  # a larger record stands before this one and its 20-byte locator
        nbytes = struct.unpack("<Q", data[end - 36 : end - 28])[0]
    if nbytes > MAX_DIRECTORY:
        raise Unreadable(f"the directory of the archive has {nbytes:,} bytes")


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """That the archive holds no more bytes than its file, and the pickle in it no bomb."""
    entries = {entry.filename.lower(): entry for entry in archive.infolist()}
    if len(entries) < len(archive.infolist()):
        raise Unreadable("two entries of the archive have one name")
    for entry in entries.values():
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise Unreadable(
                f"its entry {entry.filename!a} is compressed, and torch.save compresses "
                "nothing. Load it where you trust it, and save it again"
            )
    if sum(entry.file_size for entry in entries.values()) > size:
        raise Unreadable("the entries of the archive are larger than the file")
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Unreadable("there is no data.pkl in it")
    if entries[pickles[0]].file_size > MAX_PICKLE:
        raise Unreadable(f"its data.pkl is larger than {MAX_PICKLE:,} bytes")
    folder = pickles[0].removesuffix("data.pkl")

    def storage_bytes(key: str) -> int:
        entry = entries.get(f"{folder}data/{key}".lower())
        return entry.file_size if entry else -1

    _TorchUnpickler(archive.read(entries[pickles[0]]), size, storage_bytes).load()


def _check_legacy(data: Any) -> None:
    """The same of a file as PyTorch wrote it before 1.6: five pickles, then the storages."""
    position, storages = 0, {}
    for number in range(5):
        reader = _TorchUnpickler(data, len(data), storages=storages, begin=position)
        value = reader.load()
        position = reader.position
        if number == 0 and value != LEGACY_MAGIC:
            raise Unreadable("it begins with other numbers")
    if sum(storages.values()) > len(data) - position:
        raise Unreadable("its storages are larger than the file")


class Storage:
    """Stands for a storage of `count` elements of `item_size` bytes."""

    def __init__(self, item_size: int, count: int) -> None:
        self.item_size, self.count = item_size, count


class _TorchUnpickler(Unpickler):
    """Follows a pickle of torch.save without making a tensor.

    Args:
        file_size: of the whole file.
        storage_bytes: function of a storage's key, the bytes that the file has for it.
        storages: gets {key: bytes that are declared} where those are not known yet.
    """

    def __init__(
        self,
        data: Any,
        file_size: int,
        storage_bytes: Callable[[str], int] | None = None,
        storages: dict[str, Any] | None = None,
        begin: int = 0,
    ) -> None:
        super().__init__(data, _TORCH, _TorchUnpickler.storage, begin, file_size)
        self.storage_bytes, self.storages = storage_bytes, storages

    def is_inert(self, name: Name) -> bool:
        """Types of storages, and dtypes."""
        if name.module == "torch" and isinstance(vars(torch).get(name.name), torch.dtype):
            return True
        return name.module in ("torch", "torch.storage") and name.name.endswith("Storage")

    def storage(self, identity: Any) -> Storage:
        """("storage", type, key, location, number of elements); older: and a view, or None."""
        if type(identity) is not tuple or len(identity) < 5 or identity[0] != "storage":
            raise Unreadable("it is damaged: it refers to what is no storage")
        _, kind, key, _, count = identity[:5]
        if type(kind) is not Name or type(key) is not str or type(count) is not int or count < 0:
            raise Unreadable("it is damaged: a storage in it is none")
        if kind.name not in ITEM_SIZES or kind.module not in ("torch", "torch.storage"):
            raise Unreadable(f"it holds quantised or other storages ({kind}); save dense tensors")
        nbytes = count * ITEM_SIZES[kind.name]
        if self.storage_bytes is None and self.storages is not None:
            self.storages[key] = max(nbytes, self.storages.get(key, 0))
        elif self.storage_bytes is None or nbytes > self.storage_bytes(key):
            raise Unreadable("a storage in it is larger than its bytes in the file")
        return Storage(ITEM_SIZES[kind.name], count)


def _tensor(reader: Unpickler, arguments: Sequence[Any]) -> Sized:
    """_rebuild_tensor(storage, offset, size, stride); _v2 has more, which says nothing of size."""
    storage, offset, size, stride = arguments[:4]
    return _within(reader, storage, offset, size, stride)


def _untyped_tensor(reader: Unpickler, arguments: Sequence[Any]) -> Sized:
    """_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype)."""
    storage, offset, size, stride = arguments[:4]
    item_size = UNTYPED_ITEM_SIZES.get(str(arguments[6]))
    if item_size is None or type(storage) is not Storage:
        raise Unreadable("it holds tensors of a dtype that no weights have")
    nbytes = storage.count * storage.item_size
    return _within(reader, Storage(item_size, nbytes // item_size), offset, size, stride)


def _within(reader: Unpickler, storage: Any, offset: Any, size: Any, stride: Any) -> Sized:
    if type(storage) is not Storage or type(size) is not tuple or type(stride) is not tuple:
        raise Unreadable("it is damaged: a tensor in it has no storage")
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or len(size) > 64:
        raise Unreadable("it is damaged: a tensor in it has no shape")
    if any(type(n) is not int or not 0 <= n <= reader.file_size for n in numbers):
        raise Unreadable("it declares a tensor that is larger than the file")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if math.prod(size) and last >= storage.count:
        raise Unreadable("it declares a tensor that reaches beyond its storage")
    return Sized(math.prod(size) * storage.item_size)


def _parameter(reader: Unpickler, arguments: Sequence[Any]) -> Any:
    if type(arguments[0]) is not Sized:
        raise Unreadable("it is damaged: a parameter in it is no tensor")
    return arguments[0]


def _namespace(reader: Unpickler, arguments: Sequence[Any]) -> Pending:
    def build(reader: Unpickler, state: Any) -> Any:
        if type(state) is not dict:
            raise Unreadable("it is damaged")
        return state

    return Pending(build)


_TORCH = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _untyped_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "collections.OrderedDict": new_dict,
    "_codecs.encode": encode,
    "argparse.Namespace": _namespace,
    # They hold what they are given, and no more.
    "collections.Counter": None,
    "torch.Size": None,
    "torch.device": None,
}
