"""Read a pickle as plain data: its opcodes are followed, but nothing that it mentions is ever called or imported.

Python's unpickler calls whatever a file tells it to call, and torch's restricted unpickler does the same with a shorter
list. Here a global becomes a :class:`Name`, "call this with these arguments" becomes a :class:`Call`, and a global that
no weight file needs is refused. The results of the calls are built afterwards from checked arguments, see
:mod:`cada_plugin.checkpoints.pickled_values`.
"""

import pickletools
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from cada_plugin.errors import CheckpointError

# Our limits on the memory that a small file can take up. For comparison, a checkpoint of a thousand tensors has about
# 50,000 operations, 10,000 containers and 20,000 memorised values.
MAX_OPCODES, MAX_CONTAINERS = 10_000_000, 500_000
_SCALARS = (str, int, float, bool, bytes, type(None))


class PickleRefused(Exception):
    """The pickle contains what no weight file needs. The message completes the sentence "it wants to ..."."""


class Name(NamedTuple):
    """A global that the pickle mentions, such as ``collections.OrderedDict``. It is not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Call:
    """A call that the pickle contains, and the ``state`` and ``items`` that it sets on the result. It is not made."""

    function: Name
    args: tuple
    state: Any = None
    items: dict = field(default_factory=dict)


class Persistent(NamedTuple):
    """A reference to something outside of the pickle, which is a storage in torch files."""

    identity: Any


_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MAKERS = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_CONTAINERS = {*_MAKERS, "LIST", "DICT", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ", "MARK", "GLOBAL"}
_PUSH = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_MARK = object()


def read_pickle(file: IO[bytes], allowed: set[str]) -> Any:
    """The content of the next pickle of ``file`` as plain data, :class:`Name`, :class:`Call` and :class:`Persistent`.

    Args:
        file: positioned at the start of the pickle; afterwards it is positioned behind the pickle.
        allowed: full names of the globals that the pickle may mention, ``module.name``.

    Raises:
        PickleRefused: the pickle mentions another global, or uses an operation that weights do not need.
        CheckpointError: it exceeds ``MAX_OPCODES`` or ``MAX_CONTAINERS``.
        Exception: it is damaged. A pickle is a program for a stack machine, which can fail with any type of error.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    containers = 0
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if number > MAX_OPCODES:
            raise CheckpointError(f"its pickle has more than {MAX_OPCODES:,} operations, which no weights need")
        name = opcode.name
        containers += name in _CONTAINERS
        if containers > MAX_CONTAINERS or len(memo) > 2 * MAX_CONTAINERS:
            raise CheckpointError(
                f"its pickle makes more than {MAX_CONTAINERS:,} lists and dicts, which no weights need"
            )
        if name in _PUSH:
            stack.append(argument)
        elif name == "BYTEARRAY8":
            stack.append(bytes(argument))
        elif name in _LITERALS:
            stack.append(_LITERALS[name])
        elif name in _MAKERS:
            stack.append(_MAKERS[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(argument)])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            _tuple(stack, int(name[-1]))
        elif name == "TUPLE":
            stack.append(tuple(_to_mark(stack)))
        elif name == "LIST":
            stack.append(_to_mark(stack))
        elif name == "DICT":
            items = _to_mark(stack)
            stack.append({})
            _set_items(stack[-1], items)
        elif name == "APPEND":
            value = stack.pop()
            _extend(stack[-1], [value])
        elif name == "APPENDS":
            values = _to_mark(stack)
            _extend(stack[-1], values)
        elif name == "ADDITEMS":
            values = _to_mark(stack)
            if type(stack[-1]) is not set or not all(isinstance(value, _SCALARS) for value in values):
                raise PickleRefused("fill a set with more than numbers and texts")
            stack[-1].update(values)
        elif name == "SETITEM":
            items = [stack.pop(-2), stack.pop()]
            _set_items(stack[-1], items)
        elif name == "SETITEMS":
            items = _to_mark(stack)
            _set_items(stack[-1], items)
        elif name == "GLOBAL":
            stack.append(_name(*argument.split(" ", 1), allowed))
        elif name == "STACK_GLOBAL":
            stack.append(_name(stack.pop(-2), stack.pop(), allowed))
        elif name in ("REDUCE", "NEWOBJ"):
            function, args = stack.pop(-2), stack.pop()
            if not isinstance(function, Name) or not isinstance(args, tuple):
                raise PickleRefused("call something that is not a name")
            stack.append(Call(function, args))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], Call):
                raise PickleRefused(f"set the attributes of a {type(stack[-1]).__name__}")
            stack[-1].state = state
        elif name == "BINPERSID":
            stack.append(Persistent(stack.pop()))
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise PickleRefused(f"use the pickle operation {name}")
    raise EOFError("the pickle has no end")


def _name(module: object, name: object, allowed: set[str]) -> Name:
    if not isinstance(module, str) or not isinstance(name, str):
        raise PickleRefused("build something whose name is no text")
    if module == "__builtin__":  # Python 2's name, which pickle protocol 2 writes
        module = "builtins"
    found = Name(module, name)
    if str(found) not in allowed:
        raise PickleRefused(f"build {found}")
    return found


def _to_mark(stack: list) -> list:
    """Everything above the last mark; the mark goes as well."""
    position = len(stack) - 1
    while stack[position] is not _MARK:
        position -= 1
        if position < 0:
            raise ValueError("the pickle has no mark where it needs one")
    items = stack[position + 1 :]
    del stack[position:]
    return items


def _tuple(stack: list, length: int) -> None:
    items = tuple(stack[-length:])
    if len(items) < length or _MARK in items:
        raise ValueError("the pickle takes more from its stack than is there")
    stack[-length:] = [items]


def _extend(target: object, values: list) -> None:
    if type(target) is not list:
        raise PickleRefused(f"append to a {type(target).__name__}")
    target.extend(values)


def _set_items(target: object, items: list) -> None:
    content = target.items if isinstance(target, Call) else target
    if type(content) is not dict:
        raise PickleRefused(f"set items of a {type(target).__name__}")
    keys, values = items[::2], items[1::2]
    # tuples are refused too, because hashing one visits everything nested in it, at any depth
    if not all(isinstance(key, _SCALARS) for key in keys):
        raise PickleRefused("use dict keys that are neither numbers nor texts")
    content.update(zip(keys, values, strict=True))
