"""Names for parts: ``name`` or ``name(option=value, ...)``, in Python, YAML and the shell alike."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

import numpy as np

from hasten.core.errors import UserError, nearest

Part = TypeVar("Part")
Class = TypeVar("Class", bound=type)


class Registry(Generic[Part]):
    """Parts of one kind by name; importing a part's file is what registers it.

    A part is a frozen keyword-only dataclass: its fields are its options. ``folder`` is the package
    whose import registers all parts that come with hasten; it is imported at the first look-up.
    """

    def __init__(self, kind: str, folder: str | None = None) -> None:
        self.kind = kind
        self._folder = folder
        self._known: dict[str, type] = {}

    @property
    def _classes(self) -> dict[str, type]:
        if self._folder is not None:
            folder, self._folder = self._folder, None
            importlib.import_module(folder)
        return self._known

    def add(self, name: str) -> Callable[[Class], Class]:
        """Class decorator that registers a part under ``name``; refuses a name twice."""

        def register(cls: Class) -> Class:
            if name in self._known:
                raise ValueError(f"two {self.kind}s are named {name!r}")
            self._known[name] = cls
            cls.part_name = name  # type: ignore[attr-defined]
            return cls

        return register

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __getitem__(self, name: str) -> type:
        if name not in self._classes:
            raise UserError(f"{self.kind} {name!r} is unknown. {nearest(name, self._classes)}")
        return self._classes[name]

    def parse(self, text: str | Part) -> Part:
        """The part that ``text`` names, or ``text`` itself when it is a part already.

        Raises:
            UserError: unknown name or option, or an option value the part refuses.
        """
        if not isinstance(text, str):
            if not isinstance(text, tuple(self._classes.values())):
                raise UserError(f"{self.kind} is {text!r}; it takes a name, or a part made by one.")
            return text
        name, options = self._split(text)
        return self.make(name, options)

    def make(self, name: str, options: Mapping[str, object]) -> Part:
        """The part ``name`` with ``options``; unknown options raise with the nearest name."""
        cls = self[name]
        allowed = [field.name for field in dataclasses.fields(cls) if field.init]
        for option in options:
            if option not in allowed:
                has = nearest(option, allowed) if allowed else "It has no options."
                raise UserError(f"{self.kind} {name!r} has no option {option!r}. {has}")
        needed = [field.name for field in dataclasses.fields(cls) if _required(field)]
        lacking = [option for option in needed if option not in options]
        if lacking:
            form = ", ".join(f"{option}=..." for option in needed)
            raise UserError(
                f"{self.kind} {name!r} lacks option {lacking[0]!r}; write it as {name}({form})."
            )
        try:
            return cls(**options)
        except TypeError as error:
            raise UserError(f"{self.kind} {name!r}: {error}") from error

    def text(self, part: Part) -> str:
        """The shortest text that :meth:`parse` turns back into ``part``."""
        options = [
            f"{field.name}={_plain(getattr(part, field.name))!r}"
            for field in dataclasses.fields(part)  # type: ignore[arg-type]
            if field.init and getattr(part, field.name) != _default(field)
        ]
        name: str = part.part_name  # type: ignore[attr-defined]
        return f"{name}({', '.join(options)})" if options else name

    def words(self, part: Part) -> str:
        """``part`` in text for people: its title, and options that are not as they are by default,
        as in "DPM-Solver++ (order 3)"."""
        names = [field.name for field in dataclasses.fields(part) if field.init]  # type: ignore[arg-type]
        mine = {name: _plain(getattr(part, name)) for name in names}
        usual = {field.name: _default(field) for field in dataclasses.fields(part)}  # type: ignore[arg-type]
        options = [
            _option(option.replace("_", " "), value)
            for option, value in mine.items()
            if value != usual[option] and isinstance(value, (bool, int, float, str))
        ]
        name: str = getattr(part, "title", "") or part.part_name  # type: ignore[attr-defined]
        return f"{name} ({', '.join(options)})" if options else name

    def canonical(self, text: str | Part) -> str:
        """``text`` with its options in order and the default ones left out."""
        return self.text(self.parse(text))

    def _split(self, text: str) -> tuple[str, dict[str, object]]:
        name, bracket, rest = text.strip().partition("(")
        name = name.strip()
        if not bracket:
            return name, {}
        self[name]
        try:
            call = ast.parse(f"part({rest}", mode="eval").body
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                raise ValueError("options stand in one pair of brackets")
            if call.args or any(word.arg is None for word in call.keywords):
                raise ValueError("options are written option=value")
            pairs = [(str(word.arg), ast.literal_eval(word.value)) for word in call.keywords]
            if len(dict(pairs)) < len(pairs):
                raise ValueError("an option stands twice")
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
            raise UserError(
                f"{self.kind} {text!r} cannot be read; write it as '{name}(option=value)'."
            ) from error
        return name, dict(pairs)


def _option(name: str, value: object) -> str:
    if isinstance(value, bool):
        return name if value else f"without {name}"
    return f"{name} {value.rpartition('/')[2] if isinstance(value, str) else value}"


def _plain(value: object) -> object:
    """``value`` with Python's own numbers in the place of NumPy's."""
    if isinstance(value, tuple):
        return tuple(_plain(entry) for entry in value)
    return value.item() if isinstance(value, np.generic) else value


def _required(field: dataclasses.Field[object]) -> bool:
    missing = dataclasses.MISSING
    return field.init and field.default is missing and field.default_factory is missing


def _default(field: dataclasses.Field[object]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
