"""A reader of pickles that cannot run code.

Python's own unpickler calls whatever a file names. This one is a small stack machine: it makes plain values by itself,
calls only the functions of a table given to it, and leaves large byte strings in the file, noting where they are.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_SMALL = 256  # bytes; shorter strings are read at once
_LONGEST_LINE = 1024
_MOST_DIGITS = 1024
_MOST_COPIES = 4  # times the file's size: calls may copy what stands in the file once
_MARK = object()


@dataclass(frozen=True)
class Global:
    """A function or class that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Blob:
    """A byte string that was left in the file."""

    offset: int
    length: int


class Opaque(dict):
    """Stands for an object whose contents do not matter: it takes any state and does nothing with it."""


Functions = Mapping[tuple[str, str], Callable[..., Any]]


class PickleReader:
    """Reads one pickle after another from a file.

    Args:
        file: Where to read; its position moves to the end of each pickle read.
        size: Length of the file in bytes, so that no declared length can be larger.
        functions: What a pickle may name: (module, name) to a function that gets the pickled arguments.
        persistent: Resolves persistent ids; None refuses them.
        build: Gives a state to an object that a function of the table returned.
    """

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        functions: Functions,
        persistent: Callable[[Any], Any] | None = None,
        build: Callable[[Any, Any], None] | None = None,
    ) -> None:
        self.file, self.size, self.functions = file, size, functions
        self.persistent, self.build_object = persistent, build
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.budget = _MOST_COPIES * size

    def load(self) -> Any:
        """The next pickle's value.

        Raises:
            ValueError: Damaged, or it asks for something that is not in the table.
        """
        self.stack, self.memo = [], {}
        try:
            while True:
                code = self.file.read(1)
                if code == pickle.STOP:
                    return self._pop()
                step = _STEPS.get(code)
                if step is None:
                    raise ValueError("it ends early" if not code else f"it has an unknown instruction {code!r}")
                step(self)
        except (IndexError, KeyError, TypeError, AttributeError, OverflowError, struct.error, UnicodeError) as error:
            raise ValueError(f"its instructions do not fit together ({type(error).__name__})") from error

    # Reading

    def _take(self, count: int) -> bytes:
        self._check_room(count)
        return self.file.read(count)

    def _check_room(self, count: int) -> None:
        if count < 0 or count > self.size - self.file.tell():
            raise ValueError(f"it declares {count} bytes, more than the file holds")

    def _line(self) -> bytes:
        line = self.file.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise ValueError("it ends early")
        return line[:-1]

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _bytes(self, count: int) -> bytes | Blob:
        if count <= _SMALL:
            return self._take(count)
        self._check_room(count)
        blob = Blob(self.file.tell(), count)
        self.file.seek(count, 1)
        return blob

    # The stack

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("its instructions do not fit together (mark)")
        return value

    def _pop_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        raise ValueError("its instructions do not fit together (mark)")

    def _top(self, kind: type) -> Any:
        value = self.stack[-1]
        if not isinstance(value, kind):
            raise TypeError(kind.__name__)
        return value

    # Values

    def _global(self, module: Any, name: Any) -> None:
        if (module, name) not in self.functions:
            raise ValueError(f"it asks for {module}.{name}; only plain arrays are read, so save the state dict alone")
        self.stack.append(Global(module, name))

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise TypeError("call")
        self._charge(arguments)
        self.stack.append(self.functions[function.module, function.name](*arguments))

    def _build(self) -> None:
        state = self._pop()
        target = self.stack[-1]
        if isinstance(target, dict):  # an OrderedDict's attributes, such as torch's _metadata
            return
        if self.build_object is None or not isinstance(state, tuple):
            raise TypeError("build")
        self._charge(state)
        self.build_object(target, state)

    def _charge(self, arguments: tuple[Any, ...]) -> None:
        """Count what a call may copy: a list that stands in the file once can be an argument a million times."""
        self.budget -= sum(len(one) for one in (arguments, *arguments) if isinstance(one, (str, bytes, list, tuple)))
        if self.budget < 0:
            raise ValueError("it unfolds to far more than its size")

    def _set_items(self, pairs: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(pairs[::2], pairs[1::2]):
            target[_plain_key(key)] = value

    def _persistent(self, key: Any) -> None:
        if self.persistent is None:
            raise ValueError("it refers to data outside itself")
        self.stack.append(self.persistent(key))

    def _remember(self, at: int) -> None:
        self.memo[at] = self.stack[-1]

    def _append(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def _add(self, values: list[Any]) -> None:
        self._top(set).update(_plain_key(value) for value in values)

    def _tuple(self, count: int) -> None:
        self.stack.append(tuple([self._pop() for _ in range(count)][::-1]))

    def _long(self, count: int) -> int:
        if count > _MOST_DIGITS:
            raise ValueError("it holds an impossibly large number")
        return int.from_bytes(self._take(count), "little", signed=True)


def _plain_key(key: Any) -> Hashable:
    # A tuple of shared tuples takes exponential time to hash, and chosen large numbers all collide.
    if key is None or isinstance(key, (str, bytes)) or (isinstance(key, int) and abs(key) < 2**31):
        return key
    raise TypeError("key")


def _new(reader: PickleReader, arguments: Any) -> None:
    reader._call(reader._pop(), arguments)


def _new_keywords(reader: PickleReader) -> None:
    keywords, arguments = reader._pop(), reader._pop()
    if keywords:
        raise TypeError("keywords")
    _new(reader, arguments)


def _reduce(reader: PickleReader) -> None:
    _new(reader, reader._pop())


def _push(make: Callable[[PickleReader], Any]) -> Callable[[PickleReader], None]:
    def step(reader: PickleReader) -> None:
        reader.stack.append(make(reader))

    return step


def _stack_global(reader: PickleReader) -> None:
    name, module = reader._pop(), reader._pop()
    reader._global(module, name)


# One entry per instruction of pickle protocols 2 to 5; the standard library's pickletools describes each.
# What only protocols 0 and 1 write is not understood: neither torch nor Paddle uses them.
_STEPS: dict[bytes, Callable[[PickleReader], Any]] = {
    pickle.PROTO: lambda r: r._take(1),
    pickle.FRAME: lambda r: r._check_room(r._number("<Q")),
    pickle.MARK: lambda r: r.stack.append(_MARK),
    pickle.POP: lambda r: r.stack.pop(),
    pickle.POP_MARK: lambda r: r._pop_mark(),
    pickle.NONE: _push(lambda r: None),
    pickle.NEWTRUE: _push(lambda r: True),
    pickle.NEWFALSE: _push(lambda r: False),
    pickle.BININT: _push(lambda r: r._number("<i")),
    pickle.BININT1: _push(lambda r: r._number("<B")),
    pickle.BININT2: _push(lambda r: r._number("<H")),
    pickle.LONG1: _push(lambda r: r._long(r._number("<B"))),
    pickle.LONG4: _push(lambda r: r._long(r._number("<i"))),
    pickle.BINFLOAT: _push(lambda r: r._number(">d")),
    pickle.BINSTRING: _push(lambda r: r._bytes(r._number("<i"))),
    pickle.SHORT_BINSTRING: _push(lambda r: r._take(r._number("<B")).decode("latin1")),
    pickle.SHORT_BINUNICODE: _push(lambda r: r._take(r._number("<B")).decode("utf-8", "surrogatepass")),
    pickle.BINUNICODE: _push(lambda r: r._take(r._number("<I")).decode("utf-8", "surrogatepass")),
    pickle.BINUNICODE8: _push(lambda r: r._take(r._number("<Q")).decode("utf-8", "surrogatepass")),
    pickle.SHORT_BINBYTES: _push(lambda r: r._bytes(r._number("<B"))),
    pickle.BINBYTES: _push(lambda r: r._bytes(r._number("<I"))),
    pickle.BINBYTES8: _push(lambda r: r._bytes(r._number("<Q"))),
    pickle.BYTEARRAY8: _push(lambda r: r._bytes(r._number("<Q"))),
    pickle.EMPTY_TUPLE: _push(lambda r: ()),
    pickle.TUPLE1: lambda r: r._tuple(1),
    pickle.TUPLE2: lambda r: r._tuple(2),
    pickle.TUPLE3: lambda r: r._tuple(3),
    pickle.TUPLE: _push(lambda r: tuple(r._pop_mark())),
    pickle.EMPTY_LIST: _push(lambda r: []),
    pickle.APPEND: lambda r: r._append([r._pop()]),
    pickle.APPENDS: lambda r: r._append(r._pop_mark()),
    pickle.EMPTY_DICT: _push(lambda r: {}),
    pickle.SETITEM: lambda r: r._set_items([r._pop(), r._pop()][::-1]),
    pickle.SETITEMS: lambda r: r._set_items(r._pop_mark()),
    pickle.EMPTY_SET: _push(lambda r: set()),
    pickle.ADDITEMS: lambda r: r._add(r._pop_mark()),
    pickle.FROZENSET: _push(lambda r: frozenset(_plain_key(value) for value in r._pop_mark())),
    pickle.BINGET: _push(lambda r: r.memo[r._number("<B")]),
    pickle.LONG_BINGET: _push(lambda r: r.memo[r._number("<I")]),
    pickle.BINPUT: lambda r: r._remember(r._number("<B")),
    pickle.LONG_BINPUT: lambda r: r._remember(r._number("<I")),
    pickle.MEMOIZE: lambda r: r._remember(len(r.memo)),
    pickle.GLOBAL: lambda r: r._global(r._line().decode(), r._line().decode()),
    pickle.STACK_GLOBAL: _stack_global,
    pickle.REDUCE: _reduce,
    pickle.NEWOBJ: _reduce,
    pickle.NEWOBJ_EX: _new_keywords,
    pickle.BUILD: lambda r: r._build(),
    pickle.BINPERSID: lambda r: r._persistent(r._pop()),
}


def read_blob(path: Path, blob: Blob | bytes | str) -> bytes:
    """The bytes of a string that may have been left in the file."""
    if isinstance(blob, str):  # a Python 2 string
        return blob.encode("latin1")
    if isinstance(blob, bytes):
        return blob
    with open(path, "rb") as file:
        file.seek(blob.offset)
        return file.read(blob.length)
