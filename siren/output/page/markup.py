"""HTML from Python, in which nothing can be forgotten to be escaped.

``tag`` makes elements. Whatever is not ``Markup`` is text: it is escaped, and control characters in
it become visible.
"""

from __future__ import annotations

import html
import os
from urllib.parse import quote

from siren.text import printable

_VOID = ("img", "input", "meta", "source")


class Markup(str):
    """Text that is HTML already."""


def escape(content) -> Markup:
    """``content`` as HTML: itself if it is ``Markup``, otherwise its text."""
    return content if isinstance(content, Markup) else Markup(html.escape(printable(str(content))))


def join(parts) -> Markup:
    """One piece of HTML of several; None is left out."""
    return Markup("".join(escape(part) for part in parts if part is not None))


def tag(name: str, /, *children, **attributes) -> Markup:
    """An element with its children and attributes, of which those that are None are left out.

    ``class_`` stands for class, and ``aria_label`` for aria-label. An attribute that is True has no
    value.
    """
    start = name
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            start += f" {key}"
        elif value is not None:
            start += f' {key}="{escape(str(value))}"'
    if name in _VOID:
        return Markup(f"<{start}>")
    return Markup(f"<{start}>{join(children)}</{name}>")


def link(*parts: str) -> str:
    """The relative URL of the file whose path has these ``parts``; they need not be Unicode."""
    return "/".join(quote(os.fsencode(part), safe="") for part in parts)
