"""Events out: to the application's hook and to OpenTelemetry, where its API is installed.

Without an SDK the API does nothing; without the API this module does nothing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, Final

from .errors import ConfigurationError
from .events import Event, EventKind

log = logging.getLogger("fastapi_ideal_auth")

OnEvent = Callable[[Event], object]

SCOPE: Final = "fastapi_ideal_auth"
EVENTS: Final = "fastapi_ideal_auth.session.events"
DURATION: Final = "fastapi_ideal_auth.refresh.duration"


class Telemetry:
    """Counts every event, times refreshes, and marks both on the span at hand."""

    def __init__(self, on_event: OnEvent | None) -> None:
        """Raises `ConfigurationError` for a hook that could not be called, or not from here."""
        if on_event is not None and not _is_plain(on_event):
            raise ConfigurationError(
                "on_event is a plain function of one Event: nobody would await an async one"
            )
        self._on_event = on_event
        self._trace: Any = None
        self._events: Any = None
        self._duration: Any = None
        try:
            from opentelemetry import metrics, trace
        except ImportError:  # FastAPI brings it from 0.160 on
            return
        meter = metrics.get_meter(SCOPE)
        self._trace = trace
        self._events = meter.create_counter(
            EVENTS, unit="{event}", description="What happened to sessions, by kind"
        )
        self._duration = meter.create_histogram(
            DURATION, unit="s", description="From asking the provider to the publish"
        )

    def __call__(self, event: Event) -> None:
        # Whatever listens may be broken, and must not lose a token for that. The errors' words
        # may be anything.
        if self._trace is not None:
            try:
                self._measure(event)
            except Exception as error:
                log.error("OpenTelemetry raised %s", type(error).__name__)
        if self._on_event is not None:
            try:
                answer = self._on_event(event)
            except Exception as error:
                log.error("on_event raised %s", type(error).__name__)
            else:
                _dropped(answer)

    def _measure(self, event: Event) -> None:
        kind = event.kind.value
        self._events.add(1, {"event": kind})
        if event.kind is EventKind.REFRESHED and event.seconds is not None:
            self._duration.record(event.seconds)
        attributes: dict[str, str | int | float] = {"session": event.session}
        if event.generation is not None:
            attributes["generation"] = event.generation
        if event.seconds is not None:
            attributes["seconds"] = event.seconds
        self._trace.get_current_span().add_event(f"{SCOPE}.{kind}", attributes)


def _is_plain(hook: object) -> bool:
    call = getattr(type(hook), "__call__", None)  # noqa: B004 - of a class, to see if it is async
    return callable(hook) and not any(map(inspect.iscoroutinefunction, (hook, call)))


def _dropped(answer: object) -> None:
    if inspect.iscoroutine(answer):  # of a lambda around an async function, say
        answer.close()
        log.error("on_event returned a coroutine, which nobody awaits")
