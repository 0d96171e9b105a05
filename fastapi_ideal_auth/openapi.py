"""Documents what protected routes answer. Works on the finished document, so that a dependency on
a router, an app or a sub-dependency counts as one on the route."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final

from fastapi import FastAPI
from starlette.routing import Mount

from .dependencies import OPTIONAL, PAGE, PROTECTED, SESSION

_DETAIL: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"detail": {"type": "string", "title": "Detail"}},
    "required": ["detail"],
}
_CONTENT: Final = {"application/json": {"schema": _DETAIL}}

RESPONSES: Final[dict[int, dict[str, Any]]] = {
    303: {
        "description": "Not signed in: on to the login page",
        "headers": {"Location": {"schema": {"type": "string"}}},
    },
    401: {"description": "Not signed in", "content": _CONTENT},
    403: {"description": "A request from another origin", "content": _CONTENT},
    503: {
        "description": "The session cannot be refreshed just now",
        "headers": {
            "Retry-After": {"description": "Seconds", "schema": {"type": "integer"}},
        },
        "content": _CONTENT,
    },
}

_ANSWERS: Final = {
    PROTECTED: (401, 403, 503),
    OPTIONAL: (403, 503),
    PAGE: (303, 403, 503),
    SESSION: (403, 503),
}
_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def attach(app: FastAPI, name: str) -> None:
    """Wrap ``app.openapi``, and that of the apps mounted in it, once."""
    for each in (app, *_mounted(app)):
        describe = each.openapi
        if name in getattr(describe, "documents", ()):
            continue
        each.__dict__["openapi"] = _documenting(describe, name)


def _mounted(app: FastAPI) -> Iterator[FastAPI]:
    for route in app.routes:
        inner = getattr(route, "app", None)
        if isinstance(route, Mount) and isinstance(inner, FastAPI):
            yield inner
            yield from _mounted(inner)


def _documenting(describe: Callable[[], dict[str, Any]], name: str) -> Callable[[], dict[str, Any]]:
    documented: list[dict[str, Any]] = []

    @functools.wraps(describe)
    def openapi() -> dict[str, Any]:
        schema = describe()
        if not documented or documented[0] is not schema:
            documented[:] = [schema]
            document(schema, name)
        return schema

    openapi.__dict__["documents"] = (name, *getattr(describe, "documents", ()))
    return openapi


def document(schema: dict[str, Any], name: str) -> None:
    """Give each operation behind the scheme ``name`` its responses, in place.

    To be called once a document: it puts one name in the place of those it reads.
    """
    kinds = {name + kind: kind for kind in _ANSWERS}
    for item in schema.get("paths", {}).values():
        for method in _METHODS:
            if method in item:
                _document_operation(item[method], name, kinds)
    schemes = schema.get("components", {}).get("securitySchemes", {})
    for key, kind in kinds.items():
        if kind != PROTECTED and key in schemes:
            schemes[name] = schemes.pop(key)


def _document_operation(operation: dict[str, Any], name: str, kinds: dict[str, str]) -> None:
    security: list[dict[str, Any]] = operation.get("security", [])
    found = {kinds[key] for need in security for key in need if key in kinds}
    if not found:
        return
    for status in sorted({status for kind in found for status in _ANSWERS[kind]}):
        operation.setdefault("responses", {}).setdefault(str(status), RESPONSES[status])
    operation["security"] = _merged(security, name, kinds, optional=found <= {OPTIONAL, SESSION})


def _merged(
    security: list[dict[str, Any]], name: str, kinds: dict[str, str], *, optional: bool
) -> list[dict[str, Any]]:
    merged: list[dict[str, Any]] = []
    for need in security:
        plain = {(name if key in kinds else key): scopes for key, scopes in need.items()}
        if plain not in merged:
            merged.append(plain)
    if optional and {} not in merged:
        merged.append({})  # OpenAPI 3.1: an empty requirement makes security optional
    return merged
