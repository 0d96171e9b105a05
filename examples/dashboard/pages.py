"""Fills the HTML templates, escaping every value that is not yet `Markup`; knows no route."""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template

HERE = Path(__file__).parent
STATIC = HERE / "static"


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def fill(template: str, **values: object) -> str:
    """The file ``templates/<template>.html`` with its ``$names`` replaced; a missing one raises."""
    text = (HERE / "templates" / f"{template}.html").read_text(encoding="utf-8")
    return Template(text).substitute({name: _safe(value) for name, value in values.items()})


def _safe(value: object) -> str:
    return value if isinstance(value, Markup) else escape(str(value))
