"""What remembering the cookies that opened must not change: see `sealers.SEEN`."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from pydantic import Field, model_validator

from fastapi_ideal_auth import IdealAuth, InvalidCookie, MemoryStore, SessionUser, sealers
from fastapi_ideal_auth.cookies import Presented, read
from fastapi_ideal_auth.generation import begin

from .support import SECRET

NOW = 1_800_000_000
made: list[str] = []


class User(SessionUser):
    roles: list[str] = Field(default_factory=list[str])

    @model_validator(mode="after")
    def _note(self) -> User:
        made.append(self.id)
        return self


def auth(**options: Any) -> IdealAuth[User]:
    return IdealAuth(User, secret=SECRET, store=MemoryStore(), clock=lambda: NOW, **options)


def cookie(auth: IdealAuth[User], id: str = "1", max_age: int = 600) -> Presented:  # noqa: A002 - as the model has it
    user = User(id=id, access_token=f"at-{id}", refresh_token=f"rt-{id}", roles=["reader"])
    generation = begin(user, now=NOW, remember=None, lifetimes=auth.lifetimes)
    (line,) = auth.cookie_lines(generation, Presented(), now=NOW)
    return read(line.partition(";")[0], auth.cookies)


def opened(auth: IdealAuth[User], presented: Presented, now: float = NOW) -> User:
    generation = auth.opened(presented, now=now)
    assert generation is not None
    return generation.user


def test_a_cookie_is_decrypted_once_and_read_the_same_ever_after() -> None:
    app = auth()
    presented = cookie(app)
    first = app.opened(presented, now=NOW)
    with patch("fastapi_ideal_auth.seal.AESGCM", side_effect=AssertionError("again")):
        assert app.opened(presented, now=NOW) == first


def test_each_request_has_a_user_of_its_own() -> None:
    app = auth()
    presented = cookie(app)
    opened(app, presented).roles.append("admin")
    opened(app, presented).access_token = "changed"
    user = opened(app, presented)
    assert (user.roles, user.access_token) == (["reader"], "at-1")


def test_the_models_own_validators_see_each_request() -> None:
    app = auth()
    presented = cookie(app, id="seen")
    made.clear()
    for _ in range(3):
        opened(app, presented)
    assert made == ["seen"] * 3


def test_a_session_ends_though_its_cookie_is_remembered() -> None:
    app = auth(max_age=600)
    presented = cookie(app)
    opened(app, presented, now=NOW + 599)
    assert app.opened(presented, now=NOW + 600) is None


def test_what_opened_under_one_name_does_not_open_under_another() -> None:
    app = auth()
    presented = cookie(app)
    (format_,) = app._formats
    assert presented.bare is not None
    format_.open(presented.bare, name=app.cookie_name, now=NOW)
    with pytest.raises(InvalidCookie):
        format_.open(presented.bare, name="another", now=NOW)


def test_a_cookie_that_differs_in_one_character_is_opened_and_refused() -> None:
    app = auth()
    presented = cookie(app)
    assert presented.bare is not None
    opened(app, presented)
    for at in range(len(presented.bare)):
        other = "A" if presented.bare[at] != "A" else "B"
        forged = f"{presented.bare[:at]}{other}{presented.bare[at + 1 :]}"
        assert app.opened(Presented(forged, (), presented.names), now=NOW) is None


def test_what_does_not_open_is_not_remembered() -> None:
    app = auth()
    (format_,) = app._formats
    for number in range(9):
        assert app.opened(Presented(f"forged-{number}"), now=NOW) is None
    assert format_._seen == {}  # type: ignore[attr-defined]  # it is the native one


def test_no_more_are_remembered_than_the_bound() -> None:
    app = auth()
    (format_,) = app._formats
    with patch.object(sealers, "SEEN", 3):
        for number in range(10):
            assert opened(app, cookie(app, id=str(number))).id == str(number)
            assert len(format_._seen) <= 3  # type: ignore[attr-defined]  # it is the native one


def test_no_token_shows_in_what_is_remembered() -> None:
    app = auth()
    opened(app, cookie(app))
    (format_,) = app._formats
    written = repr(format_) + repr(list(format_._seen.values()))  # type: ignore[attr-defined]  # it is the native one
    assert "at-1" not in written
    assert "rt-1" not in written
