"""Generations: when they begin and end, one tick before and after; and their bytes."""

import json
import math
import re
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    computed_field,
    field_serializer,
    field_validator,
)
from pydantic.alias_generators import to_camel

from fastapi_ideal_auth import (
    ConfigurationError,
    CookieTooLarge,
    InvalidCookie,
    SessionUser,
    TokenResponse,
)
from fastapi_ideal_auth.generation import (
    Codec,
    Generation,
    Lifetimes,
    ResourceToken,
    begin,
    cookie_max_age,
    label,
    party,
    renewed,
    subject,
    touched,
)
from fastapi_ideal_auth.refresh import Token, buffer_of, freshness
from fastapi_ideal_auth.seal import b64encode

from .support import User

NOW = 1_800_000_000
HOUR = 3_600
LIFETIMES = Lifetimes(max_age=100, remember_max_age=1_000)
BOUNDED = Lifetimes(max_age=100, remember_max_age=1_000, absolute_max_age=250)
MODES = (None, True, False)
ADA = User(id="1", access_token="access", refresh_token="refresh", id_token="id", expires_at=5)


def of(user: Any = ADA, **changes: Any) -> Generation[Any]:
    made = begin(user, now=NOW, remember=None, lifetimes=LIFETIMES)
    return made._replace(sid=b"a session of 16 ")._replace(**changes)


# -- when a session begins and ends ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("remember", "lifetimes", "expires_at", "deadline"),
    [
        (None, LIFETIMES, NOW + 100, None),
        (True, LIFETIMES, NOW + 1_000, None),
        (False, LIFETIMES, NOW + 100, None),
        (None, BOUNDED, NOW + 100, NOW + 250),
        (True, BOUNDED, NOW + 250, NOW + 250),
        (False, BOUNDED, NOW + 100, NOW + 250),
        (None, Lifetimes(100, 1_000, 100), NOW + 100, NOW + 100),
        (None, Lifetimes(100, 1_000, 99), NOW + 99, NOW + 99),
    ],
)
def test_a_session_begins(
    remember: bool | None, lifetimes: Lifetimes, expires_at: int, deadline: int | None
) -> None:
    made = begin(ADA, now=NOW + 0.9, remember=remember, lifetimes=lifetimes)
    assert made == Generation(made.sid, 1, ADA, NOW, expires_at, deadline, remember, NOW)


def test_no_two_sessions_share_an_id() -> None:
    made = {begin(ADA, now=NOW, remember=None, lifetimes=LIFETIMES).sid for _ in range(1_000)}
    assert len(made) == 1_000
    assert {len(sid) for sid in made} == {16}


@pytest.mark.parametrize("remember", MODES)
@pytest.mark.parametrize("lifetimes", [LIFETIMES, BOUNDED])
@pytest.mark.parametrize("later", [0, 1, 99, 149, 150, 151, 249, 250])
def test_a_refresh_begins_a_period_and_keeps_the_rest(
    remember: bool | None, lifetimes: Lifetimes, later: int
) -> None:
    old = begin(ADA, now=NOW, remember=remember, lifetimes=lifetimes)
    new = renewed(old, TokenResponse("new"), now=NOW + later, lifetimes=lifetimes)
    kept = ("sid", "issued_at", "deadline", "remember")
    assert [getattr(new, name) for name in kept] == [getattr(old, name) for name in kept]
    assert (new.gen, new.token_at) == (2, NOW + later)
    period = 1_000 if remember else 100
    end = NOW + later + period
    assert new.expires_at == (end if old.deadline is None else min(end, old.deadline))
    assert new.expires_at >= old.expires_at


def test_a_refresh_never_shortens_a_session() -> None:
    # The settings were changed since it began.
    old = of(expires_at=NOW + 10 * HOUR)
    new = renewed(old, TokenResponse("new"), now=NOW, lifetimes=LIFETIMES)
    assert new.expires_at == NOW + 10 * HOUR


@pytest.mark.parametrize(
    ("response", "tokens"),
    [
        (TokenResponse("new"), ("new", "refresh", None, "id")),
        (TokenResponse("new", refresh_token="next"), ("new", "next", None, "id")),
        (TokenResponse("new", expires_in=60), ("new", "refresh", NOW + 60, "id")),
        (TokenResponse("new", expires_in=0), ("new", "refresh", NOW, "id")),
        (TokenResponse("new", id_token="newer"), ("new", "refresh", None, "newer")),
    ],
)
def test_a_refresh_takes_what_the_answer_has(
    response: TokenResponse, tokens: tuple[object, ...]
) -> None:
    user = renewed(of(), response, now=NOW + 0.9, lifetimes=LIFETIMES).user
    assert (user.access_token, user.refresh_token, user.expires_at, user.id_token) == tokens
    assert (user.id, user.email, user.name) == (ADA.id, ADA.email, ADA.name)
    assert ADA.access_token == "access"


@pytest.mark.parametrize(
    ("remember", "lifetimes", "later", "expires_at"),
    [
        # more than half of the period is left, exactly half, less
        (None, LIFETIMES, 0, None),
        (None, LIFETIMES, 49, None),
        (None, LIFETIMES, 50, NOW + 150),
        (None, LIFETIMES, 51, NOW + 151),
        (None, LIFETIMES, 99, NOW + 199),
        (False, LIFETIMES, 49, None),
        (False, LIFETIMES, 50, NOW + 150),
        (True, LIFETIMES, 499, None),
        (True, LIFETIMES, 500, NOW + 1_500),
        # up to the deadline, and not once it is reached
        (None, BOUNDED, 50, NOW + 150),
        (True, BOUNDED, 0, None),
        (True, BOUNDED, 249, None),
    ],
)
def test_a_touch_begins_a_period_in_the_second_half(
    remember: bool | None, lifetimes: Lifetimes, later: int, expires_at: int | None
) -> None:
    old = begin(ADA, now=NOW, remember=remember, lifetimes=lifetimes)
    for now in (NOW + later, NOW + later + 0.99):
        new = touched(old, now=now, lifetimes=lifetimes)
        assert new == (None if expires_at is None else old._replace(expires_at=expires_at))


def test_a_touch_stops_at_the_deadline() -> None:
    old = begin(ADA, now=NOW, remember=None, lifetimes=BOUNDED)
    one = touched(old, now=NOW + 90, lifetimes=BOUNDED)
    assert one is not None
    two = touched(one, now=NOW + 170, lifetimes=BOUNDED)
    assert two is not None
    assert two.expires_at == two.deadline == NOW + 250
    assert touched(two, now=NOW + 249, lifetimes=BOUNDED) is None


@pytest.mark.parametrize(
    ("remember", "now", "seconds"),
    [
        (None, NOW, 100),
        (None, NOW + 0.9, 100),
        (None, NOW + 1, 99),
        (None, NOW + 99, 1),
        (None, NOW + 100, 0),
        (None, NOW + 101, 0),
        (True, NOW, 1_000),
        (True, NOW + 999, 1),
        (False, NOW, None),
        (False, NOW + 99, None),
        (False, NOW + 1_000, None),
    ],
)
def test_max_age_is_what_is_left(remember: bool | None, now: float, seconds: int | None) -> None:
    made = begin(ADA, now=NOW, remember=remember, lifetimes=LIFETIMES)
    assert cookie_max_age(made, now=now) == seconds


def test_a_browser_session_has_no_max_age_after_a_refresh_or_a_touch_either() -> None:
    made = begin(ADA, now=NOW, remember=False, lifetimes=LIFETIMES)
    new = renewed(made, TokenResponse("new"), now=NOW + 60, lifetimes=LIFETIMES)
    longer = touched(new, now=NOW + 130, lifetimes=LIFETIMES)
    assert longer is not None
    assert cookie_max_age(longer, now=NOW + 140) is None
    assert Codec(User).unpack(Codec(User).pack(longer)).remember is False


@pytest.mark.parametrize("absolute", [None, 10**10])
def test_a_lifetime_of_centuries_ends_where_the_format_does(absolute: int | None) -> None:
    # Seconds have 32 bits: until the year 2106.
    forever = Lifetimes(10**10, 10**11, absolute)
    codec = Codec(User)
    for remember in MODES:
        made = begin(ADA, now=NOW, remember=remember, lifetimes=forever)
        new = renewed(made, TokenResponse("new"), now=NOW + 1, lifetimes=forever)
        for each in (made, new):
            assert each.expires_at == 2**32 - 1
            assert codec.unpack(codec.pack(each)) == each


# -- a refresh token that ends --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refresh_expires_in", "token_expires_at", "expires_at"),
    [
        (None, NOW + 60, NOW + 100),
        (70, NOW + 60, NOW + 70),
        (70, NOW + 80, NOW + 80),  # the access token outlives it
        (70, None, NOW + 70),
        (200, NOW + 60, NOW + 100),
    ],
)
def test_a_session_does_not_outlive_its_refresh_token(
    refresh_expires_in: int | None, token_expires_at: int | None, expires_at: int
) -> None:
    user = ADA.model_copy(update={"expires_at": token_expires_at})
    made = begin(
        user,
        now=NOW,
        remember=None,
        lifetimes=LIFETIMES,
        refresh_expires_in=refresh_expires_in,
    )
    assert made.expires_at == expires_at


@pytest.mark.parametrize(
    ("response", "refresh_until"),
    [
        (TokenResponse("new", refresh_token="next", refresh_expires_in=90), NOW + 140),
        (TokenResponse("new", refresh_expires_in=90), NOW + 140),
        (TokenResponse("new"), NOW + 70),  # the same one, of which nothing new is known
        (TokenResponse("new", refresh_token="next"), None),  # another, of which nothing is
    ],
)
def test_a_refresh_knows_when_the_next_refresh_token_ends(
    response: TokenResponse, refresh_until: int | None
) -> None:
    old = begin(ADA, now=NOW, remember=None, lifetimes=LIFETIMES, refresh_expires_in=70)
    new = renewed(old, response, now=NOW + 50, lifetimes=LIFETIMES)
    assert new.refresh_until == refresh_until
    assert new.expires_at == min(NOW + 150, refresh_until or NOW + 150)


def test_a_touch_stops_where_the_refresh_token_does() -> None:
    old = begin(ADA, now=NOW, remember=None, lifetimes=LIFETIMES, refresh_expires_in=120)
    new = touched(old, now=NOW + 60, lifetimes=LIFETIMES)
    assert new is not None
    assert new.expires_at == NOW + 120


def test_the_sizes_tell_of_further_resources_too() -> None:
    held = ResourceToken("https://mail.example", "a" * 400, None, NOW)
    assert CODEC.sizes(of(resources=(held,)))["access_token for https://mail.example"] > 300
    with pytest.raises(CookieTooLarge):
        CODEC.pack(of(resources=(held._replace(access_token="." * 70_000),)))


# -- whom the provider signed in ------------------------------------------------------------------


def id_token(**claims: Any) -> str:
    return f"e30.{b64encode(json.dumps(claims).encode())}.c2ln"


def test_a_subject_is_the_issuers_own() -> None:
    one = subject(id_token(iss="https://a.example", sub="1", sid="s"))
    assert one == party("https://a.example", "sub", "1") + party("https://a.example", "sid", "s")
    assert subject(id_token(iss="https://b.example", sub="1", sid="s"))[:16] != one[:16]
    assert subject(id_token(iss="https://a.example", sub="s", sid="1"))[:16] != one[16:]


def test_a_session_without_a_sid_has_none() -> None:
    assert subject(id_token(iss="https://a.example", sub="1"))[16:] == bytes(16)


@pytest.mark.parametrize(
    "token",
    [None, "", "opaque", "a.b", "a.b.c.d.e", "e30.W10.c2ln", "e30.bnVsbA.c2ln", id_token(sub="1")],
)
def test_what_is_no_id_token_names_nobody(token: str | None) -> None:
    assert subject(token) == b""


# -- what a generation shows ----------------------------------------------------------------------


def test_no_repr_shows_a_token_or_the_id_of_the_session() -> None:
    made = begin(ADA, now=NOW, remember=None, lifetimes=LIFETIMES)
    for shown in (repr(made), str(made), f"{made}", f"{[made]!r}"):
        for secret in ("access", "refresh", "ada@", made.sid.hex(), repr(made.sid)[2:-1]):
            assert secret not in shown
        assert re.search(r"<generation 1 of session [0-9a-f]{12}>", shown)


def test_a_label_is_the_same_for_a_session_and_different_for_each() -> None:
    sids = [bytes([n]) * 16 for n in range(256)]
    assert len({label(sid) for sid in sids}) == 256
    assert label(sids[0]) == label(bytes(16))
    assert not any(label(sid) in sid.hex() for sid in sids)


# -- bytes ----------------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    street_name: str
    house_number: int | None = None
    moved_in_at: date | None = None


class Rich(SessionUser):
    """A model with about everything a session may hold."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    display_name: str
    home_place: Place
    all_places: tuple[Place, ...] = ()
    seen_at: AwareDatetime
    favourite_colour: Colour = Colour.RED
    by_colour: Annotated[dict[Colour, int], Field(default_factory=dict)]
    account_balance: Decimal = Decimal(0)
    session_time: timedelta = timedelta(0)
    unique_number: UUID | None = None
    plain_ratio: float = 0.0
    role_set: frozenset[str] = frozenset()
    one_or_other: int | str | None = None
    odd_name: Annotated[str, Field(validation_alias=AliasChoices("on", "ON"))] = "odd"
    out_name: Annotated[str, Field(serialization_alias="out")] = "out"
    not_stored: Annotated[tuple[str, ...], Field(exclude=True)] = ("default",)

    @computed_field
    @property
    def shouted(self) -> str:
        return self.display_name.upper()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
TOKEN = st.one_of(
    st.just(""), TEXT, st.from_regex(r"[\w-]{4,20}(\.[\w-]{4,20}){2}", fullmatch=True)
)
SECONDS = st.integers(0, 2**32 - 1)


def made_of(model: Callable[..., Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """By field name; ``st.builds`` would look at the signature, which has the aliases."""
    return st.fixed_dictionaries(fields).map(lambda given: model(**given))


PLACES = made_of(
    Place,
    street_name=TEXT,
    house_number=st.none() | st.integers(),
    moved_in_at=st.none() | st.dates(),
)
RICH = made_of(
    Rich,
    id=TEXT,
    access_token=TOKEN,
    refresh_token=st.none() | TOKEN,
    id_token=st.none() | TOKEN,
    expires_at=st.none() | SECONDS,
    display_name=TEXT,
    home_place=PLACES,
    all_places=st.lists(PLACES, max_size=2).map(tuple),
    seen_at=st.datetimes(timezones=st.just(UTC)),
    favourite_colour=st.sampled_from(Colour),
    by_colour=st.dictionaries(st.sampled_from(Colour), st.integers(-9, 9)),
    account_balance=st.decimals(allow_nan=False, allow_infinity=False),
    session_time=st.timedeltas(timedelta(-10), timedelta(1000)),
    unique_number=st.none() | st.uuids(),
    plain_ratio=st.floats(allow_nan=False, allow_infinity=False),
    role_set=st.frozensets(TEXT, max_size=3),
    one_or_other=st.none() | st.integers() | TEXT,
    odd_name=TEXT,
    out_name=TEXT,
)


RESOURCES = made_of(
    ResourceToken,
    resource=st.from_regex(r"https://[a-z]{1,9}\.example", fullmatch=True),
    access_token=TOKEN,
    expires_at=st.none() | st.integers(1, 2**32 - 1),
    token_at=SECONDS,
)


def generations(users: st.SearchStrategy[Any]) -> st.SearchStrategy[Generation[Any]]:
    return made_of(
        Generation,
        sid=st.binary(min_size=16, max_size=16),
        gen=st.integers(1, 2**32 - 1),
        user=users,
        issued_at=SECONDS,
        expires_at=SECONDS,
        deadline=st.none() | st.integers(1, 2**32 - 1),
        remember=st.sampled_from(MODES),
        token_at=SECONDS,
        refresh_until=st.none() | SECONDS,
        subject=st.just(b"") | st.binary(min_size=32, max_size=32),
        resources=st.lists(RESOURCES, max_size=3).map(tuple),
    )


RICH_CODEC, CODEC = Codec(Rich), Codec(User)


@given(generations(RICH))
def test_a_generation_comes_back_from_its_bytes(made: Generation[Rich]) -> None:
    RICH_CODEC.check(made.user)
    back = RICH_CODEC.unpack(RICH_CODEC.pack(made))
    assert back == made
    assert type(back.user) is Rich
    tokens = ("access_token", "refresh_token", "id_token")
    assert [getattr(back.user, name) for name in tokens] == [
        getattr(made.user, name) for name in tokens
    ]


def test_a_field_that_is_not_stored_comes_back_as_its_default() -> None:
    user = Rich(
        id="1",
        access_token="t",
        display_name="Ada",
        home_place=Place(street_name="s"),
        seen_at=datetime(2030, 1, 1, tzinfo=UTC),
        not_stored=("of this request",),
    )
    RICH_CODEC.check(user)
    packed = RICH_CODEC.pack(of(user))
    assert b"of this request" not in packed
    assert RICH_CODEC.unpack(packed).user.not_stored == ("default",)


def test_the_head_takes_43_bytes_and_the_tokens_are_not_in_the_json() -> None:
    packed = CODEC.pack(of())
    assert packed[43:] == (
        b'\0access\0refresh\0id{"id":"1","expires_at":5,"email":"ada@example.test","name":"Ada"}'
    )


def test_tokens_of_no_length_and_absent_tokens_differ() -> None:
    for token in (None, ""):
        user = ADA.model_copy(update={"refresh_token": token, "id_token": token})
        back = CODEC.unpack(CODEC.pack(of(user))).user
        assert (back.refresh_token, back.id_token) == (token, token)


@pytest.mark.parametrize(
    "token", ['"', "\\", '","id":"2', "\0", "\x7f", "é✓🔑", '\\"', "\u2028", "a" * 60_000]
)
def test_no_token_breaks_out_of_its_place(token: str) -> None:
    user = User(id="1", access_token=token, refresh_token=token, id_token=token)
    back = CODEC.unpack(CODEC.pack(of(user))).user
    assert back == user
    assert (back.id, back.access_token, back.refresh_token) == ("1", token, token)


def test_a_token_over_64_kib_is_too_large() -> None:
    for name in ("access_token", "refresh_token", "id_token"):
        fits = ADA.model_copy(update={name: "!" * 65_534})
        assert CODEC.unpack(CODEC.pack(of(fits))).user == fits
        with pytest.raises(CookieTooLarge, match="64 KiB") as caught:
            CODEC.pack(of(ADA.model_copy(update={name: "!" * 65_535})))
        assert next(iter(caught.value.sizes)) == name
        assert "!!!" not in str(caught.value)


def is_refused(attempt: Callable[[], object]) -> bool:
    with pytest.raises(InvalidCookie) as caught:
        attempt()
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None  # it would carry its input, which is the session
    assert str(error) == "the session cookie is not valid"
    return True


def reads(codec: Codec[Any], data: bytes) -> bool:
    try:
        return isinstance(codec.unpack(data).user, codec.model)
    except InvalidCookie:
        return False


@given(st.binary(max_size=200))
@example(b"")
@example(bytes(43))
@example(bytes(16) + b"\xff" * 60)
def test_arbitrary_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    assert is_refused(lambda: CODEC.unpack(data))


@given(generations(RICH), st.data())
def test_damaged_bytes_are_refused_or_read_as_another_session(
    made: Generation[Rich], data: st.DataObject
) -> None:
    packed = bytearray(RICH_CODEC.pack(made))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(packed)) | st.just(len(packed)))
    assert reads(RICH_CODEC, bytes(packed[:end])) or is_refused(
        lambda: RICH_CODEC.unpack(bytes(packed[:end]))
    )


@pytest.mark.parametrize("flags", [f for f in range(256) if f & 0xE0 or f & 0x0C == 0x0C])
def test_unknown_flags_are_refused(flags: int) -> None:
    assert is_refused(lambda: CODEC.unpack(bytes([flags]) + CODEC.pack(of())[1:]))


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b"null",
        b'{"id":"1"',
        b'{"id":"1"}x',
        b'{"id":"1","email":1}',
        b'{"email":"a"}',
        b'{"id":"\xff"}',
        b'{"id":"\\ud800"}',
        b'{"id":' + b"[" * 10_000,
        b'{"id":"1","expires_at":' + b"9" * 10_000 + b"}",
        b'{"id":"1","expires_at":1e999}',
        b'{"id":"1","expires_at":NaN}',
    ],
    ids=lambda fields: repr(fields[:30]),
)
def test_fields_that_are_none_are_refused(fields: bytes) -> None:
    head = CODEC.pack(of()).partition(b"{")[0]
    assert is_refused(lambda: CODEC.unpack(head + fields))


class Other(SessionUser):
    email: int
    team: str


def test_the_bytes_of_another_model_are_refused() -> None:
    other = Other(id="1", access_token="t", email=5, team="t")
    assert is_refused(lambda: CODEC.unpack(Codec(Other).pack(of(other))))
    assert is_refused(lambda: Codec(Other).unpack(CODEC.pack(of())))
    assert is_refused(lambda: RICH_CODEC.unpack(CODEC.pack(of())))


class Sparse(SessionUser):
    email: str


def test_a_model_that_lost_a_field_still_reads_its_older_sessions() -> None:
    assert Codec(Sparse).unpack(CODEC.pack(of())).user.email == ADA.email


@given(generations(RICH))
def test_sizes_are_of_each_field_and_the_largest_first(made: Generation[Rich]) -> None:
    made = made._replace(refresh_until=None, subject=b"", resources=())  # few have them
    sizes = RICH_CODEC.sizes(made)
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)
    assert "not_stored" not in sizes
    assert "shouted" not in sizes
    assert {"id", "display_name", "home_place", "odd_name", "out_name"} <= set(sizes)
    # With the names, the signs between them and the head they make up the whole.
    names = [name for name in sizes if name not in ("access_token", "refresh_token", "id_token")]
    signs = len("{}") + sum(len(f'"{name}":,') for name in names) - 1
    empty = sum(
        not token for token in (made.user.access_token, made.user.refresh_token, made.user.id_token)
    )
    assert sum(sizes.values()) + signs + 43 + empty == len(RICH_CODEC.pack(made))


# -- what does not round-trip ---------------------------------------------------------------------


class WithSecret(SessionUser):
    pin: SecretStr = SecretStr("none")


class Rounded(SessionUser):
    price: float = 0.0
    when: datetime = datetime(2030, 1, 1, tzinfo=UTC)

    @field_serializer("price")
    def _short(self, price: float) -> str:
        return f"{price:.1f}"

    @field_serializer("when")
    def _date_only(self, when: datetime) -> str:
        return when.date().isoformat() + "T00:00:00Z"


class WithBytes(SessionUser):
    blob: bytes = b""
    fine: str = ""


class Anything(SessionUser):
    thing: Any = None
    fine: str = ""


class Shape(BaseModel):
    name: str = "shape"


class Circle(Shape):
    radius: int = 1


class WithShape(SessionUser):
    shape: Shape = Shape()


class WithFloat(SessionUser):
    ratio: float = 0.0


class Told(SessionUser):
    told: Annotated[str, PlainSerializer(lambda value: None)] = ""


class Grumpy(SessionUser):
    shy: str = ""

    @field_validator("shy")
    @classmethod
    def _not_twice(cls, value: str) -> str:
        if value.startswith("seen "):
            raise ValueError("seen already")
        return f"seen {value}"


def fields(model: type[SessionUser], **given: Any) -> SessionUser:
    return model(id="1", access_token="token-mark", **given)


@pytest.mark.parametrize(
    ("user", "names"),
    [
        (fields(WithSecret, pin=SecretStr("1234")), "pin"),
        (fields(Rounded, price=1.23), "price"),
        (fields(Rounded, price=1.5, when=datetime(2030, 1, 1, 12, tzinfo=UTC)), "when"),
        (
            fields(Rounded, price=1.23, when=datetime(2030, 1, 1, 12, tzinfo=UTC)),
            "price, when",
        ),
        (fields(WithShape, shape=Circle(radius=2)), "shape"),
        (fields(Anything, thing=(1, 2)), "thing"),
        (fields(Anything, thing={1: 2}), "thing"),
        (fields(Anything, thing=datetime(2030, 1, 1, tzinfo=UTC)), "thing"),
        (fields(Anything, thing=object()), "thing"),
        (fields(WithBytes, blob=b"\xff\xfe"), "blob"),
        (fields(WithFloat, ratio=math.inf), "ratio"),
        (fields(WithFloat, ratio=math.nan), "ratio"),
        (fields(WithBytes, fine="\ud800"), "fine"),
        (fields(Told, told="something"), "told"),
        (fields(Grumpy, shy="value"), "shy"),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
def test_a_user_that_would_come_back_changed_is_refused_by_field(
    user: SessionUser, names: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Codec(type(user)).check(user)
    told = str(caught.value)
    assert type(user).__name__ in told
    assert re.search(rf"in: {names};", told)
    assert "token-mark" not in told
    assert "1234" not in told
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("name", ["access_token", "refresh_token", "id_token"])
def test_a_token_that_json_cannot_hold_is_refused_and_not_shown(name: str) -> None:
    broken = ADA.model_copy(update={name: "\ud800-mark"})
    with pytest.raises(ConfigurationError, match="this User cannot be read back") as caught:
        CODEC.check(broken)
    assert "mark" not in str(caught.value)


@pytest.mark.parametrize(
    "user",
    [
        ADA,
        fields(WithBytes, blob=b"text"),
        fields(Rounded, price=1.5),
        fields(Anything, thing={"a": [1, None, "b"]}),
        fields(WithShape, shape=Shape(name="x")),
        fields(WithFloat, ratio=0.1),
    ],
    ids=lambda user: type(user).__name__,
)
def test_a_user_that_comes_back_as_it_went_in_passes(user: SessionUser) -> None:
    Codec(type(user)).check(user)


def test_a_user_of_another_model_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"takes a User, .* got Other"):
        CODEC.check(Other(id="1", access_token="t", email=5, team="t"))  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigurationError, match="got dict"):
        CODEC.check({"id": "1"})  # type: ignore[arg-type]  # on purpose


class Frozen(SessionUser):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    kind: ClassVar[str] = "frozen"
    at: datetime


def test_a_frozen_strict_and_closed_model_is_refreshed_and_read_back() -> None:
    codec = Codec(Frozen)
    user = Frozen(id="1", access_token="t", at=datetime(2030, 1, 1, tzinfo=UTC))
    codec.check(user)
    new = renewed(of(user), TokenResponse("new"), now=NOW, lifetimes=LIFETIMES)
    back = codec.unpack(codec.pack(new))
    assert back == new
    assert back.user.access_token == "new"
    with pytest.raises(ValidationError):
        back.user.at = datetime(2031, 1, 1, tzinfo=UTC)  # type: ignore[misc]  # on purpose


def test_the_head_is_what_the_comment_says() -> None:
    packed = CODEC.pack(of(gen=7, deadline=NOW + 9, remember=True))
    assert packed[0] == 0x01 | 0x02 | 0x04
    assert packed[1:17] == b"a session of 16 "
    assert struct.unpack(">5I3H", packed[17:43]) == (7, NOW, NOW + 100, NOW + 9, NOW, 7, 8, 3)


# -- how fresh ------------------------------------------------------------------------------------

NO_JITTER, MOST_JITTER = bytes(16), b"\xff" + bytes(15)


def at(now: float, *, lifetime: int = HOUR, sid: bytes = NO_JITTER, buffer: float = 60) -> Token:
    return freshness(
        expires_at=NOW + lifetime, token_at=NOW, sid=sid, refresh_buffer=buffer, now=now
    )


@pytest.mark.parametrize(
    ("lifetime", "buffer", "effective"),
    [
        (HOUR, 60, 60),
        (240, 60, 60),
        (239, 60, 59.75),
        (241, 60, 60),
        (120, 60, 30),
        (30, 60, 7.5),
        (4, 60, 1),
        (1, 60, 0.25),
        (HOUR, 0, 0),
        (HOUR, 10_000, 900),
        (HOUR, 0.5, 0.5),
    ],
)
def test_a_token_is_due_inside_the_buffer_and_not_a_tick_before(
    lifetime: int, buffer: float, effective: float
) -> None:
    end, tick = NOW + lifetime, 1e-3
    assert at(end - effective - tick, lifetime=lifetime, buffer=buffer) is Token.FRESH
    if effective:
        assert at(end - effective, lifetime=lifetime, buffer=buffer) is Token.DUE
        assert at(end - tick, lifetime=lifetime, buffer=buffer) is Token.DUE
    assert at(end, lifetime=lifetime, buffer=buffer) is Token.EXPIRED
    assert at(end + tick, lifetime=lifetime, buffer=buffer) is Token.EXPIRED
    assert at(NOW, lifetime=lifetime, buffer=buffer) is Token.FRESH


def test_the_jitter_is_a_twentieth_at_most_and_only_ever_later() -> None:
    end = NOW + HOUR
    assert at(end - 60, sid=NO_JITTER) is Token.DUE
    assert at(end - 60, sid=MOST_JITTER) is Token.FRESH
    assert at(end - 57.001, sid=MOST_JITTER) is Token.FRESH
    assert at(end - 57, sid=MOST_JITTER) is Token.DUE


@given(
    st.integers(0, 10**6), st.binary(min_size=16, max_size=16), st.floats(0, 10**6), st.floats(0, 2)
)
def test_the_buffer_keeps_its_bounds(
    lifetime: int, sid: bytes, buffer: float, share: float
) -> None:
    got = buffer_of(expires_at=NOW + lifetime, token_at=NOW, sid=sid, refresh_buffer=buffer)
    full = min(buffer, lifetime / 4)
    assert full * 0.95 - 1e-9 <= got <= full
    now = NOW + lifetime * share
    left = NOW + lifetime - now
    expected = Token.EXPIRED if left <= 0 else Token.DUE if left <= got else Token.FRESH
    assert at(now, lifetime=lifetime, sid=sid, buffer=buffer) is expected


def test_sessions_begun_together_are_not_due_together() -> None:
    buffers = {
        buffer_of(expires_at=NOW + HOUR, token_at=NOW, sid=bytes([n]) * 16, refresh_buffer=60)
        for n in range(256)
    }
    assert len(buffers) == 256
    assert (min(buffers), max(buffers)) == (57, 60)


def test_an_unknown_expiry_is_never_due() -> None:
    for now in (0, NOW, 10**12):
        told = freshness(expires_at=None, token_at=NOW, sid=NO_JITTER, refresh_buffer=60, now=now)
        assert told is Token.FRESH


def test_a_token_that_came_expired_is_expired() -> None:
    for lifetime in (0, -1, -HOUR):
        assert at(NOW, lifetime=lifetime) is Token.EXPIRED
