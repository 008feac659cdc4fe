"""Read pickles as data: an interpreter that makes plain values and calls nothing else.

The unpickler of Python imports and calls what a file names. This one knows the few constructors of
a torch checkpoint, which make plain values; any other name is refused. Opcodes are those of pickle
protocol 2, torch.save's.
"""

from __future__ import annotations

import io
import pickletools
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: Largest pickle that is read, in bytes. One of a published checkpoint has 70 kB. A byte can make a
#: value of 64.
MAX_PICKLE_BYTES = 4 << 20
#: Larger integers can have the same hash as others, which would make a dict slow.
_MAX_KEY = 1 << 60
_MARK = object()


class PickleError(ValueError):
    """A pickle that is damaged, or that holds something else than plain data."""


@dataclass(frozen=True)
class Constructor:
    """A function that a pickle may call, or whose name it may hold. `name`: as in the pickle."""

    name: str
    call: Callable[..., Any]


def read_pickle(
    stream: io.BytesIO,
    constructors: Mapping[str, Callable[..., Any]],
    persistent: Callable[[Any], Any],
) -> Any:
    """Return the value of the pickle at the stream's position, and leave the stream after it.

    `constructors`: what the pickle may call, by "module name". `persistent` returns the value of a
    persistent id. An instance is a Namespace; its class must be one of "argparse Namespace". Raise
    PickleError.
    """
    return _Interpreter(constructors, persistent).run(stream)


class _Interpreter:
    def __init__(
        self, constructors: Mapping[str, Callable[..., Any]], persistent: Callable[[Any], Any]
    ) -> None:
        self._constructors = constructors
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, stream: io.BytesIO) -> Any:
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "STOP":
                    return self._pop()
                self._do(opcode.name, argument)
        except PickleError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, OverflowError) as exc:
            raise PickleError(f"is damaged ({exc or type(exc).__name__})") from exc
        raise PickleError("is damaged: it has no end")

    def _do(self, name: str, argument: Any) -> None:
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self._stack.append(_MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self._stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT" | "BINUNICODE":
                self._stack.append(argument)
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                self._stack.append({"TUPLE": (), "LIST": [], "DICT": {}}[name[6:]])
            case "TUPLE":
                self._stack.append(tuple(self._pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self._pop() for _ in range(int(name[-1]))]
                self._stack.append(tuple(reversed(items)))
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                self._stack.append(self._memo[argument])
            case _:
                self._build(name, argument)

    def _build(self, name: str, argument: Any) -> None:
        """Do an opcode that changes or makes a compound value."""
        match name:
            case "APPEND":
                item = self._pop()
                self._top(list).append(item)
            case "APPENDS":
                items = self._pop_to_mark()
                self._top(list).extend(items)
            case "SETITEM":
                value, key = self._pop(), self._pop()
                _set(self._top(dict), [key, value])
            case "SETITEMS":
                items = self._pop_to_mark()
                _set(self._top(dict), items)
            case "GLOBAL":
                self._stack.append(self._constructor(argument))
            case "REDUCE":
                arguments, constructor = self._pop(), self._pop()
                self._stack.append(_call(constructor, arguments))
            case "NEWOBJ":
                arguments, constructor = self._pop(), self._pop()
                self._stack.append(_instance(constructor, arguments))
            case "BUILD":
                self._set_attributes(self._pop())
            case "BINPERSID":
                self._stack.append(self._persistent(self._pop()))
            case _:
                raise PickleError(f"uses {name}, which no checkpoint of torch.save has")

    def _set_attributes(self, state: Any) -> None:
        """Set the attributes of a namespace. Those of a dict (torch's `_metadata`) are dropped."""
        instance = self._stack[-1]
        if isinstance(instance, dict):
            return
        if not isinstance(instance, Namespace) or not isinstance(state, dict):
            raise PickleError("sets attributes of something else than a namespace")
        if not all(isinstance(name, str) for name in state):
            raise PickleError("sets attributes whose names are not text")
        vars(instance).update(state)

    def _constructor(self, name: str) -> Constructor:
        if name not in self._constructors:
            raise PickleError(
                f"asks for {_shown(name)}, which a checkpoint does not need; nothing was run"
            )
        return Constructor(name, self._constructors[name])

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise PickleError("is damaged: a value is missing")
        return value

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _top(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise PickleError(f"is damaged: expected a {kind.__name__}")
        return self._stack[-1]


def _set(target: dict[Any, Any], items: list[Any]) -> None:
    """Set items, given as key, value, key, value. Keys are text or small numbers: quick to hash."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        is_number = isinstance(key, int) and abs(key) < _MAX_KEY
        if not (is_number or isinstance(key, str)):
            raise PickleError(f"has a key that is neither text nor a number: {type(key).__name__}")
        target[key] = value


def _instance(constructor: Any, arguments: Any) -> Namespace:
    if not isinstance(constructor, Constructor):
        raise PickleError("is damaged: it makes an instance of something that is not a type")
    if constructor.name != "argparse Namespace" or arguments != ():
        raise PickleError(f"makes an instance of {_shown(constructor.name)}")
    return Namespace()


def _call(constructor: Any, arguments: Any) -> Any:
    if not isinstance(constructor, Constructor) or not isinstance(arguments, tuple):
        raise PickleError("is damaged: it calls something that is not a function")
    return constructor.call(*arguments)


def _shown(name: str) -> str:
    """Return a name of the pickle for a message: at most 80 printable characters."""
    return repr(name[:80].replace(" ", ".", 1))[1:-1]
