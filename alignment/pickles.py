"""Pickles, read as data: nothing that they name is called, and memory stays within their size.

`pickle.Unpickler` with a list of allowed names runs no foreign code. A file of a few bytes can
still make it build lists nested a million deep, lists that double forty times over, or an array
of 10^12 elements with stride 0. Here each operation is carried out by this module:

- a value is at most MAX_DEPTH containers deep, known as it is built;
- a list or dictionary that was referred to is not changed any more, so nothing contains itself;
- all that is referred to several times counts each time, up to MAX_SHARED times the file's size;
- an array is made from bytes of the file, exactly as many as its shape and dtype say;
- there are at most MAX_OPERATIONS operations.

Source of the format: Lib/pickletools.py of CPython.
"""

from __future__ import annotations

import math
import pickle
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    Operation: TypeAlias = Callable[["Unpickler"], None]

__all__ = [
    "MAX_DEPTH",
    "MAX_OPERATIONS",
    "Foreign",
    "Name",
    "Pending",
    "Sized",
    "Unpickler",
    "Unreadable",
    "encode",
    "new_dict",
    "unpickle_arrays",
]

# Checkpoints and state_dicts of today nest 5 deep.
MAX_DEPTH = 100
# A state_dict takes 20 for each tensor, a checkpoint with an optimizer 60. A file of 2 MB that
# consists of the costliest operations takes 4 s and 400 MB.
MAX_OPERATIONS = 2_000_000
# Tied weights refer to one tensor twice; a bomb refers to one 10^6 times.
MAX_SHARED = 8
# What a small file may take beyond its size.
SLACK = 65_536

# bool, signed, unsigned, float, complex; as NumPy writes them into a pickle.
_NUMBERS = ["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]
_OBJECT = "O8"


class Unreadable(Exception):
    """The pickle is damaged, hostile, or holds something else than is read here; says why."""


class Foreign(Unreadable):
    """It names something that is not among what may be called."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it wants to load {name}, which is no array")
        self.name = name


class Name:
    """A global of the pickle: a module and a name in it, never imported."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Pending:
    """An array or a dtype that waits for its state; the memo may refer to it before that."""

    def __init__(self, build: Callable[[Unpickler, Any], Any]) -> None:
        self.build, self.value = build, None


class Sized:
    """Something that stands for `nbytes` bytes, as an array does."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


class Unpickler:
    """Reads one pickle of a buffer.

    Args:
        data: bytes, mmap or memoryview.
        names: {"module.name": function of the tuple of arguments}, all that may be called; the
            function gets this Unpickler first.
        persistent: function of this Unpickler and a persistent id, or None.
        begin: where in `data` the pickle begins. After `load`, `position` is where it ends.
        file_size: in bytes, where `data` is a part of the file.
    """

    def __init__(
        self,
        data: Any,
        names: Mapping[str, Callable[..., Any] | None],
        persistent: Callable[[Any, Any], Any] | None = None,
        begin: int = 0,
        file_size: int | None = None,
    ) -> None:
        self.data = memoryview(data)
        self.size = len(self.data)
        self.file_size = file_size or self.size
        self.position = begin
        self.names = names
        self.persistent = persistent
        self.stack, self.marks, self.memo = [], [], {}
        # {id of a container: (depth, weight)}; an entry is made anew with each new container.
        self.sizes = {}
        self.frozen = set()
        self.taken = 0

    def load(self) -> Any:
        """The value that was pickled.

        Raises:
            Unreadable: see the class.
        """
        operations, data = _OPERATIONS, self.data
        try:
            for _ in range(MAX_OPERATIONS):
                code = data[self.position]
                self.position += 1
                if code == _STOP:
                    self.weigh([self.stack[-1]])
                    return self.stack.pop()
                operations[code](self)
        except KeyError as error:
            raise Unreadable("it is damaged, or of a kind that is not read here") from error
        except (IndexError, ValueError, TypeError, struct.error) as error:
            raise Unreadable("it is damaged or cut short") from error
        except MemoryError as error:
            raise Unreadable("it does not fit into memory") from error
        raise Unreadable(f"it takes more than {MAX_OPERATIONS:,} operations, as no weights do")

    def new(self, container: Any, items: Any = ()) -> Any:
        """`container`, of which `items` are all, with its depth and weight remembered."""
        self.frozen.discard(id(container))
        self.sizes[id(container)] = self.weigh(items)
        return container

    def weigh(self, items: Iterable[Any]) -> tuple[int, int]:
        """(depth, weight) of a container of `items`. Raises Unreadable, if it is out of bounds."""
        depth, weight = 0, 1
        for item in items:
            kind = type(item)
            if kind is str or kind is memoryview or kind is bytes:
                weight += len(item)
            elif kind is tuple or kind is list or kind is dict:
                inner, more = self.sizes[id(item)]
                depth = inner if inner > depth else depth
                weight += more
            elif kind is np.ndarray or kind is Sized:
                weight += item.nbytes
            elif kind is Pending:
                raise Unreadable("it is damaged: an array in it has no state")
            else:
                weight += 1
        if depth >= MAX_DEPTH:
            raise Unreadable(f"it nests more than {MAX_DEPTH} deep, as no weights do")
        if weight > MAX_SHARED * self.file_size + SLACK:
            raise Unreadable("it unfolds to many times its size, as no weights do")
        return depth + 1, weight

    def grow(self, container: Any, items: Sequence[Any]) -> None:
        """Remembers that `items` were put into `container`."""
        if id(container) in self.frozen:
            raise Unreadable("it is damaged: a list in it contains itself")
        depth, weight = self.sizes[id(container)]
        inner, more = self.weigh(items)
        if weight + more > MAX_SHARED * self.file_size + SLACK:
            raise Unreadable("it unfolds to many times its size, as no weights do")
        self.sizes[id(container)] = max(depth, inner), weight + more

    def take(self, nbytes: int) -> None:
        """Counts memory that is about to be taken beyond the file's own bytes."""
        self.taken += nbytes
        if self.taken > 2 * self.size + SLACK:  # a str of protocol 2, and the array of it
            raise Unreadable("it asks for more memory than it has bytes")

    def read(self, count: int) -> memoryview:
        end = self.position + count
        if end > self.size:
            raise Unreadable("it is cut short")
        found = self.data[self.position : end]
        self.position = end
        return found

    def number(self, count: int) -> int:
        return int.from_bytes(self.read(count), "little")

    def pop_mark(self) -> list[Any]:
        begin = self.marks.pop()
        items = self.stack[begin:]
        del self.stack[begin:]
        return items

    def push_name(self, module: Any, name: Any) -> None:
        found = Name(module, name)
        if str(found) not in self.names and not self.is_inert(found):
            raise Foreign(_short(found))
        self.stack.append(found)

    def is_inert(self, name: Name) -> bool:
        """Whether a name may stand in the pickle without being called."""
        return str(name) == "numpy.ndarray"  # which kind of array _reconstruct is to make

    def call(self, name: Any, arguments: Any) -> Any:
        if type(name) is not Name or type(arguments) is not tuple:
            raise Unreadable("it is damaged: it calls what is no function")
        if str(name) not in self.names:
            raise Foreign(_short(name))
        function = self.names[str(name)]
        return arguments if function is None else function(self, arguments)


def _short(value: object) -> str:
    text = ascii(str(value))[1:-1]
    return text if len(text) <= 80 else text[:77] + "..."


# The operations, by the names that pickletools gives them.


def _push(value: Any) -> Operation:
    return lambda reader: reader.stack.append(value)


def _push_read(read: Callable[[Unpickler], Any]) -> Operation:
    return lambda reader: reader.stack.append(read(reader))


def _text(width: int) -> Operation:
    def read(reader: Unpickler) -> str:
        return str(reader.read(reader.number(width)), "utf-8", "surrogatepass")

    return _push_read(read)


# The most frequent operations, without the calls that the others are made of: the time of reading a
# checkpoint of 20 MB goes from 22 ms to 18.


def _short_text(reader: Unpickler) -> None:
    begin = reader.position + 1
    end = begin + reader.data[begin - 1]
    if end > reader.size:
        raise Unreadable("it is cut short")
    reader.position = end
    reader.stack.append(str(reader.data[begin:end], "utf-8", "surrogatepass"))


def _byte(reader: Unpickler) -> None:
    reader.stack.append(reader.data[reader.position])
    reader.position += 1


def _short_get(reader: Unpickler) -> None:
    _push_memo(reader, reader.data[reader.position])
    reader.position += 1


def _old_text(width: int) -> Operation:
    """A str of Python 2, in which the bytes of its arrays stand too."""
    return _push_read(lambda reader: str(reader.read(reader.number(width)), "latin-1"))


def _bytes(width: int) -> Operation:
    return _push_read(lambda reader: reader.read(reader.number(width)))


def _tuple_of(count: int) -> Operation:
    def operation(reader: Unpickler) -> None:
        items = tuple(reader.stack[-count:])
        if len(items) < count:
            raise Unreadable("it is damaged")
        reader.stack[-count:] = [reader.new(items, items)]

    return operation


def _tuple(reader: Unpickler) -> None:
    items = tuple(reader.pop_mark())
    reader.stack.append(reader.new(items, items))


def _append(reader: Unpickler) -> None:
    _extend(reader, [reader.stack.pop()])


def _extend(reader: Unpickler, items: list[Any]) -> None:
    target = reader.stack[-1]
    if type(target) is not list:
        raise Unreadable("it is damaged: it appends to what is no list")
    reader.grow(target, items)
    target.extend(items)


def _set_item(reader: Unpickler) -> None:
    value, key = reader.stack.pop(), reader.stack.pop()
    _set_items(reader, [key, value])


def _set_items(reader: Unpickler, items: list[Any]) -> None:
    target = reader.stack[-1]
    if type(target) is not dict:
        raise Unreadable("it is damaged: it puts entries into what is no dictionary")
    reader.grow(target, items)
    for key, value in zip(items[::2], items[1::2], strict=True):
        # The hash of a deep tuple overflows the stack, those of chosen large numbers are equal.
        if type(key) is not str and not (type(key) is int and -(2**31) <= key < 2**31):
            raise Unreadable(f"a dictionary in it has a {type(key).__name__} as a key")
        target[key] = value


def _put(width: int) -> Operation:
    def operation(reader: Unpickler) -> None:
        reader.memo[reader.number(width)] = reader.stack[-1]

    return operation


def _memoize(reader: Unpickler) -> None:
    reader.memo[len(reader.memo)] = reader.stack[-1]


def _push_memo(reader: Unpickler, index: int) -> None:
    value = reader.memo[index]
    if type(value) is Pending and value.value is not None:
        value = value.value
    if type(value) is list or type(value) is dict:
        reader.frozen.add(id(value))
    reader.stack.append(value)


def _global(reader: Unpickler) -> None:
    lines = []
    for _ in range(2):
        rest = bytes(reader.data[reader.position : reader.position + 256])
        line, newline, _ = rest.partition(b"\n")
        if not newline:
            raise Unreadable("it is damaged")
        reader.position += len(line) + 1
        lines.append(str(line, "utf-8"))
    reader.push_name(*lines)


def _stack_global(reader: Unpickler) -> None:
    name, module = reader.stack.pop(), reader.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise Unreadable("it is damaged")
    reader.push_name(module, name)


def _reduce(reader: Unpickler) -> None:
    arguments = reader.stack.pop()
    reader.stack[-1] = reader.call(reader.stack[-1], arguments)


def _build(reader: Unpickler) -> None:
    state = reader.stack.pop()
    target = reader.stack[-1]
    if type(target) is Pending:
        if target.value is not None:
            raise Unreadable("it is damaged: an array in it has two states")
        target.value = reader.stack[-1] = target.build(reader, state)
    elif type(target) is dict and type(state) is dict and list(state) == ["_metadata"]:
        # An attribute that PyTorch gives to the OrderedDict of a state_dict. It counts as an entry.
        reader.grow(target, [state])
    else:
        raise Unreadable("it is damaged: it gives a state to what has none")


def _persistent(reader: Unpickler) -> None:
    if reader.persistent is None:
        raise Unreadable("it is damaged, or of a kind that is not read here")
    reader.stack[-1] = reader.persistent(reader, reader.stack[-1])


_STOP = pickle.STOP[0]
_OPERATIONS = {
    pickle.PROTO[0]: lambda reader: reader.read(1),
    pickle.FRAME[0]: lambda reader: reader.read(8),
    pickle.NONE[0]: _push(None),
    pickle.NEWTRUE[0]: _push(True),
    pickle.NEWFALSE[0]: _push(False),
    pickle.BININT[0]: _push_read(lambda reader: struct.unpack("<i", reader.read(4))[0]),
    pickle.BININT1[0]: _byte,
    pickle.BININT2[0]: _push_read(lambda reader: reader.number(2)),
    pickle.LONG1[0]: _push_read(
        lambda reader: int.from_bytes(reader.read(reader.number(1)), "little", signed=True)
    ),
    pickle.BINFLOAT[0]: _push_read(lambda reader: struct.unpack(">d", reader.read(8))[0]),
    pickle.SHORT_BINUNICODE[0]: _short_text,
    pickle.BINUNICODE[0]: _text(4),
    pickle.BINUNICODE8[0]: _text(8),
    pickle.SHORT_BINSTRING[0]: _old_text(1),
    pickle.BINSTRING[0]: _old_text(4),
    pickle.SHORT_BINBYTES[0]: _bytes(1),
    pickle.BINBYTES[0]: _bytes(4),
    pickle.BINBYTES8[0]: _bytes(8),
    pickle.BYTEARRAY8[0]: _bytes(8),
    pickle.EMPTY_TUPLE[0]: lambda reader: reader.stack.append(reader.new(())),
    pickle.EMPTY_LIST[0]: lambda reader: reader.stack.append(reader.new([])),
    pickle.EMPTY_DICT[0]: lambda reader: reader.stack.append(reader.new({})),
    pickle.MARK[0]: lambda reader: reader.marks.append(len(reader.stack)),
    pickle.TUPLE[0]: _tuple,
    pickle.TUPLE1[0]: _tuple_of(1),
    pickle.TUPLE2[0]: _tuple_of(2),
    pickle.TUPLE3[0]: _tuple_of(3),
    pickle.APPEND[0]: _append,
    pickle.APPENDS[0]: lambda reader: _extend(reader, reader.pop_mark()),
    pickle.SETITEM[0]: _set_item,
    pickle.SETITEMS[0]: lambda reader: _set_items(reader, reader.pop_mark()),
    pickle.BINPUT[0]: _put(1),
    pickle.LONG_BINPUT[0]: _put(4),
    pickle.MEMOIZE[0]: _memoize,
    pickle.BINGET[0]: _short_get,
    pickle.LONG_BINGET[0]: lambda reader: _push_memo(reader, reader.number(4)),
    pickle.GLOBAL[0]: _global,
    pickle.STACK_GLOBAL[0]: _stack_global,
    pickle.REDUCE[0]: _reduce,
    pickle.NEWOBJ[0]: _reduce,
    pickle.BUILD[0]: _build,
    pickle.BINPERSID[0]: _persistent,
}


# What a pickle of arrays calls, from NumPy 1 or 2 and from paddle.save.


def new_dict(reader: Unpickler, arguments: Any) -> dict[Any, Any]:
    """OrderedDict(), whose entries follow."""
    if arguments:
        raise Unreadable("it is damaged: an OrderedDict in it has arguments")
    return reader.new({})


def encode(reader: Unpickler, arguments: Any) -> bytes:
    """The bytes of an array in protocol 2: _codecs.encode(text, "latin1")."""
    text, encoding = arguments
    if type(text) is not str or encoding != "latin1":
        raise Unreadable("it is damaged")
    reader.take(len(text))
    return text.encode("latin-1")


def _no_bytes(reader: Unpickler, arguments: Any) -> bytes:
    """The bytes of an empty array in protocol 2: bytes()."""
    if arguments:
        raise Unreadable("it asks for bytes that are not in it")
    return b""


def _as_tuple(reader: Unpickler, arguments: Any) -> Any:
    """paddle.save keeps a tensor as tuple((its name, array))."""
    (items,) = arguments
    if type(items) is list:
        items = reader.new(tuple(items), items)
    if type(items) is not tuple:
        raise Unreadable("it is damaged")
    return items


def _dtype(reader: Unpickler, arguments: Any) -> Pending:
    name = arguments[0]
    if name == _OBJECT:
        return Pending(lambda reader, state: object)
    if type(name) is not str or name not in _NUMBERS:
        raise Unreadable(f"it holds an array of dtype {_short(name)}, which is no plain number")

    def build(reader: Unpickler, state: Any) -> np.dtype:
        # (version, byte order, subarray, names, fields, …)
        if len(state) < 5 or state[1] not in ("<", ">", "|", "=") or state[2:5] != (None,) * 3:
            raise Unreadable("it holds an array of a structured dtype")
        return np.dtype(name).newbyteorder(state[1])

    return Pending(build)


def _array_to_be(reader: Unpickler, arguments: Any) -> Pending:
    if str(arguments[0]) != "numpy.ndarray":
        raise Unreadable(f"it holds an array of the type {_short(arguments[0])}")

    def build(reader: Unpickler, state: Any) -> Any:
        shape, dtype, fortran, raw = state[-4:]
        if dtype is object:
            # numpy.save writes a dictionary as an array of no dimensions that holds it.
            if shape != () or type(raw) is not list or len(raw) != 1:
                raise Unreadable("it holds an array of Python objects")
            return raw[0]
        return _array(reader, raw, dtype, shape, fortran)

    return Pending(build)


def _from_buffer(reader: Unpickler, arguments: Any) -> np.ndarray:
    raw, dtype, shape, order = arguments
    return _array(reader, raw, dtype, shape, order == "F")


def _scalar(reader: Unpickler, arguments: Any) -> Any:
    dtype, raw = arguments
    return _array(reader, raw, dtype, (), False)[()]


def _array(reader: Unpickler, raw: Any, dtype: Any, shape: Any, fortran: Any) -> np.ndarray:
    """A new array in the machine's byte order. Raises Unreadable, if the bytes are not all."""
    if type(raw) is str:
        raw = raw.encode("latin-1")
    if type(dtype) is Pending or not isinstance(dtype, np.dtype) or type(shape) is not tuple:
        raise Unreadable("it is damaged")
    fits = len(shape) <= 32 and all(type(n) is int and 0 <= n <= reader.size for n in shape)
    if not fits or math.prod(shape) * dtype.itemsize != len(raw):
        raise Unreadable(
            f"it declares an array of {dtype} {_short(shape)} and has {len(raw)} bytes for it"
        )
    reader.take(len(raw))
    flat = np.frombuffer(raw, dtype) if len(raw) else np.empty(0, dtype)
    return flat.astype(dtype.newbyteorder("=")).reshape(shape, order="F" if fortran else "C")


_ARRAYS = {
    "builtins.tuple": _as_tuple,
    "__builtin__.tuple": _as_tuple,
    "builtins.bytes": _no_bytes,
    "__builtin__.bytes": _no_bytes,
    "_codecs.encode": encode,
    "collections.OrderedDict": new_dict,
    "numpy.dtype": _dtype,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in (
            ("multiarray._reconstruct", _array_to_be),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}


def unpickle_arrays(data: Any, begin: int = 0) -> Any:
    """What a pickle of plain values and NumPy arrays holds; OrderedDicts as dicts.

    Args:
        data: bytes or mmap; arrays and texts are copied out of it.

    Raises:
        Unreadable: it is damaged or hostile, or holds anything else.
    """
    value = Unpickler(data, _ARRAYS, begin=begin).load()
    waiting, seen = [value], set()
    while waiting:
        value_ = waiting.pop()
        if type(value_) in (tuple, list, dict):
            if id(value_) not in seen:
                seen.add(id(value_))
                waiting += value_.values() if type(value_) is dict else value_
        elif not isinstance(value_, (str, int, float, type(None), np.ndarray, np.generic)):
            raise Unreadable("it holds what is neither a plain value nor an array")
    return value
