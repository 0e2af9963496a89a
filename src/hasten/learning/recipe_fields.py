"""The reference of recipe fields, made from the recipes' own definitions: docs/recipes.md."""

from __future__ import annotations

import inspect
import re
import textwrap
import typing
from collections.abc import Iterator

import pydantic
from pydantic.fields import FieldInfo

from hasten.core.settings import Settings
from hasten.learning.starts.recipe import VaeRecipe
from hasten.learning.students.recipe import StudentRecipe
from hasten.training.autoencoder import AutoencoderRecipe
from hasten.training.classifier import ClassifierRecipe
from hasten.training.recipe import Data, Document, Optimizer, Recipe, Times
from hasten.training.shipped import shipped_recipes
from hasten.training.text_encoder import TextEncoderRecipe
from hasten.training.text_to_image import TextToImageRecipe
from hasten.training.text_to_video import TextToVideoRecipe
from hasten.training.tiny_autoencoder import TinyAutoencoderRecipe

KINDS: dict[str, tuple[type[Document], str]] = {
    "A model": (Recipe, "`hasten train RECIPE`"),
    "A student": (StudentRecipe, "`hasten learn student MODEL --recipe RECIPE` or `learn prune`"),
    "A start by a VAE": (
        VaeRecipe,
        "`hasten learn start MODEL --kind vae --recipe RECIPE`; the fields of a model, and",
    ),
    "An autoencoder": (AutoencoderRecipe, "`hasten train RECIPE`"),
    "A text encoder": (TextEncoderRecipe, "`hasten train RECIPE`"),
    "A text-to-image model": (TextToImageRecipe, "`hasten train RECIPE`"),
    "A text-to-video model": (TextToVideoRecipe, "`hasten train RECIPE`"),
    "A small autoencoder": (TinyAutoencoderRecipe, "`hasten train RECIPE`"),
    "A classifier": (ClassifierRecipe, "`hasten train RECIPE`; its features are those of FD"),
}
PARTS: dict[str, type[Settings]] = {"data": Data, "optimizer": Optimizer, "times": Times}
HEAD = """# Recipes

A recipe is a YAML file. `hasten train NAME` takes a file, or the name of a recipe that ships with
hasten:
{shipped}.
Unknown or invalid fields are refused before anything starts.

This page is the output of `hasten train --fields`.
"""
ATTRIBUTE = re.compile(r"^    (\w+(?:, \w+)*): (.*?)(?=^    \w+(?:, \w+)*: |^\S|\Z)", re.M | re.S)


def reference() -> str:
    """The page, as Markdown: every field of every kind of recipe with its type and its default."""
    shipped = ", ".join(f"`{name}`" for name in shipped_recipes())
    lines = [HEAD.format(shipped="\n".join(textwrap.wrap(shipped, 100, break_on_hyphens=False)))]
    for title, (kind, command) in KINDS.items():
        lines += [f"## {title}", "", f"{_first_sentence(kind)} {command}:", "", *_table(kind), ""]
    for name, kind in PARTS.items():
        lines += [f"## `{name}`", "", _first_sentence(kind), "", *_table(kind), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(kind: type[Settings]) -> Iterator[str]:
    yield "| field | type | default | |"
    yield "|:--|:--|:--|:--|"
    words = descriptions(kind)
    others = Recipe.model_fields if kind is VaeRecipe else {}
    for name, field in kind.model_fields.items():
        if name in others and name != "network":
            continue
        text = words.get(name, "").replace("``", "`")
        cells = (f"`{name}`", _type(field), _default(field), text)
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def descriptions(kind: type[pydantic.BaseModel]) -> dict[str, str]:
    """What the docstrings of ``kind`` and its bases say of each field under "Attributes:"."""
    out: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        _, _, attributes = text.partition("Attributes:\n")
        for names, words in ATTRIBUTE.findall(attributes):
            out |= dict.fromkeys(names.split(", "), " ".join(words.split()))
    return out


def _first_sentence(kind: type[Settings]) -> str:
    text = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0]
    return " ".join(text.split())


def _type(field: FieldInfo) -> str:
    kind = field.annotation
    parts = [kind] if not typing.get_args(kind) else list(typing.get_args(kind))
    optional = type(None) in parts
    if typing.get_origin(kind) is typing.Literal:
        text = " or ".join(f"`{part}`" for part in parts)
    elif isinstance(kind, type) and issubclass(kind, Settings):
        text = f"see [`{kind.__name__.lower()}`](#{kind.__name__.lower()})"
    elif typing.get_origin(kind) is dict:
        text = "fields"
    elif typing.get_origin(kind) is tuple:
        text = f"list of {_word(parts[0])}" if Ellipsis in parts else f"{len(parts)} numbers"
    else:
        text = " or ".join(_word(part) for part in parts if part is not type(None))
    limits = ", ".join(_limits(field))
    return text + (f", {limits}" if limits else "") + (" or null" if optional else "")


def _word(kind: object) -> str:
    if typing.get_origin(kind) is typing.Annotated:
        return _word(typing.get_args(kind)[0])
    words = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}
    origin = typing.get_origin(kind) or kind
    return words.get(origin, "fields")  # type: ignore[call-overload]


def _limits(field: FieldInfo) -> Iterator[str]:
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    for limit in field.metadata:
        for name, words in signs.items():
            value = getattr(limit, name, None)
            if value is not None:
                yield f"{words} {value}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Settings):
        changed = value.model_dump(exclude_defaults=True)
        return "`" + (", ".join(f"{k}: {v}" for k, v in changed.items()) or "its own") + "`"
    if value is None or isinstance(value, bool):
        return f"`{'null' if value is None else str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple) else value}`" if value != "" else '`""`'
