"""The record where workers meet: its bytes, what it says, what no order of changes can break."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastapi_ideal_auth.record import (
    GRACE,
    LONGEST_COOL_OFF,
    LONGEST_LEASE,
    Record,
    Says,
    acknowledged,
    ended,
    extended,
    is_replay,
    key_of,
    leased,
    published,
    rejected,
    released,
    says,
)

NOW = 1_800_000_000.0
END = int(NOW) + 1_000

# -- bytes ----------------------------------------------------------------------------------------

TIMES = st.floats(0, 1e11)
WHEN = st.integers(0, 10**11)
NUMBERS = st.integers(0, 2**32)
RECORDS = st.builds(
    Record,
    expires_at=WHEN,
    gen=NUMBERS,
    sealed=st.none() | st.binary(max_size=50),
    lease=st.none() | st.text(max_size=20),
    lease_until=TIMES,
    rejected=st.none() | NUMBERS,
    ended=st.booleans(),
    retry_at=TIMES,
    seen=NUMBERS,
    seen_at=TIMES,
)


@given(RECORDS)
@example(Record(expires_at=0))
@example(Record(expires_at=1, sealed=b""))
@example(Record(expires_at=1, sealed=b"\n\n\0\xff", lease="\n\ud800"))
def test_a_record_comes_back_from_its_bytes(record: Record) -> None:
    assert Record.from_bytes(record.to_bytes()) == record


def test_the_bytes_are_a_line_of_json_and_the_seal_as_it_is() -> None:
    record = Record(END, 3, b"\0\n\xff", "me", NOW, 2, False, NOW + 5, 1, NOW - 5)
    line, _, sealed = record.to_bytes().partition(b"\n")
    assert sealed == b"\0\n\xff"
    assert json.loads(line) == [END, 3, True, "me", NOW, 2, False, NOW + 5, 1, NOW - 5]


LINE: list[Any] = [END, 3, True, "me", NOW, 2, False, NOW, 1, NOW]


def line(at: int, value: object) -> bytes:
    changed = [*LINE[:at], value, *LINE[at + 1 :]]
    return json.dumps(changed).encode() + b"\nsealed"


def test_the_line_of_the_next_tests_is_a_good_one() -> None:
    assert Record.from_bytes(line(0, END)).sealed == b"sealed"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"[]",
        b"[]\n",
        b"{}\n",
        b"5\n",
        b"null\n",
        b"true\n",
        b'"0123456789"\n',
        b'{"0":0,"1":1,"2":2,"3":3,"4":4,"5":5,"6":6,"7":7,"8":8,"9":9}\n',
        b"[1,2,3,4,5,6,7,8,9]\n",
        b"[1,2,3,4,5,6,7,8,9,10,11]\n",
        b"[" * 100_000 + b"\n",
        b"9" * 10_000 + b"\n",
        b"\xff\xfe\n",
        b"[\n",
        json.dumps(LINE).encode(),
        *(
            line(at, value)
            for at in range(10)
            for value in ("x", [], {})
            if (at, value) != (3, "x")
        ),
        *(line(at, None) for at in (0, 1, 2, 4, 6, 7, 8, 9)),
        *(line(at, 1.5) for at in (0, 1, 2, 3, 5, 6, 8)),
        *(line(at, True) for at in (0, 1, 3, 4, 5, 7, 8, 9)),
        *(line(at, 1) for at in (2, 3, 6)),
    ],
    ids=lambda data: repr(data[:60]),
)
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # a JSON error is one too
        Record.from_bytes(data)
    assert "sealed" not in str(caught.value)


@given(st.binary())
def test_arbitrary_bytes_raise_valueerror_and_nothing_else(data: bytes) -> None:
    for given_ in (data, data + b"\n", b"[" + data + b"]\n"):
        with pytest.raises(ValueError):  # noqa: PT011  # a JSON error is one too
            Record.from_bytes(given_)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)


@given(JSON | st.lists(JSON, min_size=10, max_size=10))
def test_json_of_any_shape_raises_valueerror_or_reads_as_a_record(value: object) -> None:
    try:
        record = Record.from_bytes(json.dumps(value).encode() + b"\nsealed")
    except ValueError:
        return
    assert Record.from_bytes(record.to_bytes()) == record


@given(RECORDS, st.data())
def test_damaged_bytes_raise_valueerror_or_read_as_another_record(
    record: Record, data: st.DataObject
) -> None:
    damaged = bytearray(record.to_bytes())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert isinstance(Record.from_bytes(bytes(damaged)), Record)
    except ValueError:
        return


@given(st.binary(min_size=16, max_size=16))
def test_the_name_of_a_record_reveals_no_session(sid: bytes) -> None:
    key = key_of(sid)
    assert len(key) == 64
    assert sid.hex() not in key
    assert key != key_of(bytes([sid[0] ^ 1]) + sid[1:])
    assert key == key_of(bytes(sid))


# -- what it says ---------------------------------------------------------------------------------


def record(**changes: Any) -> Record:
    return replace(Record(expires_at=END, gen=3, sealed=b"sealed"), **changes)


HELD = {"lease": "you", "lease_until": NOW + 10}
SEEN = {"seen": 3, "seen_at": NOW - GRACE - 1}

# For a cookie of generation 3, asked for by "me", just arrived, leniently, unless said.
SAYS: list[tuple[str, Record | None, dict[str, Any], Says]] = [
    ("nothing is known", None, {}, Says.YOURS),
    ("nothing is known, strictly", None, {"strict": True}, Says.YOURS),
    ("it is the newest", record(), {}, Says.YOURS),
    ("it is newer than the record", record(), {"gen": 4}, Says.YOURS),
    ("it is older", record(), {"gen": 2}, Says.NEWER),
    ("it is much older", record(gen=100), {}, Says.NEWER),
    # an ended session stays ended, whatever else is there
    ("ended", record(ended=True), {}, Says.ENDED),
    ("ended, older", record(ended=True), {"gen": 1}, Says.ENDED),
    ("ended, newer", record(ended=True), {"gen": 9}, Says.ENDED),
    ("ended and rejected", record(ended=True, rejected=3), {}, Says.ENDED),
    ("ended, a replay", record(ended=True, **SEEN), {"presented": 1, "strict": True}, Says.ENDED),
    # a rejection
    ("rejected", record(rejected=3), {}, Says.REJECTED),
    ("rejected later", record(rejected=4), {}, Says.REJECTED),
    ("rejected before", record(rejected=2), {}, Says.YOURS),
    ("an older one rejected, this is older yet", record(rejected=2), {"gen": 1}, Says.NEWER),
    ("rejected, and older than the newest", record(rejected=3), {"gen": 2}, Says.REJECTED),
    ("rejected while held", record(rejected=3, **HELD), {}, Says.REJECTED),
    ("rejected while cooling off", record(rejected=3, retry_at=NOW + 9), {}, Says.REJECTED),
    # a lease, one tick before and after
    ("held", record(**HELD), {}, Says.WAIT),
    ("held for a tick", record(lease="you", lease_until=NOW + 0.001), {}, Says.WAIT),
    ("held until now", record(lease="you", lease_until=NOW), {}, Says.YOURS),
    ("held by me", record(lease="me", lease_until=NOW + 10), {}, Says.YOURS),
    ("lapsed of me", record(lease="me", lease_until=NOW - 10), {}, Says.YOURS),
    ("held, and older", record(**HELD), {"gen": 2}, Says.NEWER),
    ("held while cooling off", record(retry_at=NOW + 9, **HELD), {}, Says.WAIT),
    ("lapsed while cooling off", record(lease="you", retry_at=NOW + 9), {}, Says.LATER),
    # what a clock wrote that has been set back since is not waited for
    ("held for long", record(lease="you", lease_until=NOW + LONGEST_LEASE), {}, Says.WAIT),
    ("held for too long", record(lease="you", lease_until=NOW + LONGEST_LEASE + 1), {}, Says.YOURS),
    ("a long cool-off", record(retry_at=NOW + LONGEST_COOL_OFF), {}, Says.LATER),
    ("too long a cool-off", record(retry_at=NOW + LONGEST_COOL_OFF + 1), {}, Says.YOURS),
    # a cool-off
    ("cooling off", record(retry_at=NOW + 0.001), {}, Says.LATER),
    ("cooled off", record(retry_at=NOW), {}, Says.YOURS),
    ("cooling off, and older", record(retry_at=NOW + 9), {"gen": 2}, Says.NEWER),
    # a replay, one tick before and after the grace
    ("a replay, leniently", record(**SEEN), {"presented": 2}, Says.YOURS),
    ("a replay", record(**SEEN), {"presented": 2, "strict": True}, Says.REPLAYED),
    (
        "a replay of an older",
        record(**SEEN),
        {"gen": 2, "presented": 2, "strict": True},
        Says.REPLAYED,
    ),
    (
        "a replay while held",
        record(**SEEN, **HELD),
        {"presented": 2, "strict": True},
        Says.REPLAYED,
    ),
    (
        "a replay, rejected",
        record(rejected=3, **SEEN),
        {"presented": 2, "strict": True},
        Says.REPLAYED,
    ),
    ("the newest, seen long ago", record(**SEEN), {"presented": 3, "strict": True}, Says.YOURS),
    ("newer than seen", record(**SEEN), {"presented": 4, "strict": True}, Says.YOURS),
    (
        "at the end of the grace",
        record(seen=3, seen_at=NOW - GRACE),
        {"presented": 2, "strict": True},
        Says.YOURS,
    ),
    (
        "a tick after it",
        record(seen=3, seen_at=NOW - GRACE - 0.001),
        {"presented": 2, "strict": True},
        Says.REPLAYED,
    ),
    (
        "arrived in the grace, judged after a long wait",
        record(seen=3, seen_at=NOW),
        {"presented": 2, "strict": True, "at": NOW + GRACE, "now": NOW + 10 * GRACE},
        Says.YOURS,
    ),
    (
        "arrived before it was seen",
        record(seen=3, seen_at=NOW + 99),
        {"presented": 2, "strict": True},
        Says.YOURS,
    ),
]


@pytest.mark.parametrize(
    ("record", "asked", "meaning"), [row[1:] for row in SAYS], ids=[row[0] for row in SAYS]
)
def test_what_a_record_says(record: Record | None, asked: dict[str, Any], meaning: Says) -> None:
    asked = {"gen": 3, "owner": "me", "at": NOW, "now": NOW, "strict": False, **asked}
    asked.setdefault("presented", asked["gen"])
    assert says(record, **asked) is meaning
    taken = leased(record, until=NOW + 30, expires_at=END, **asked)
    if meaning is Says.YOURS:
        assert (taken.lease, taken.lease_until, taken.retry_at) == ("me", NOW + 30, 0)
    else:
        assert record is not None
        assert replace(taken, seen=record.seen, seen_at=record.seen_at) == record


@pytest.mark.parametrize("meaning", Says)
def test_the_table_has_every_meaning(meaning: Says) -> None:
    assert meaning in {row[3] for row in SAYS}


@pytest.mark.parametrize(
    ("presented", "later", "replay"),
    [
        (2, GRACE + 0.001, True),
        (2, GRACE, False),
        (2, 0, False),
        (2, -GRACE * 9, False),
        (3, GRACE * 9, False),
        (4, GRACE * 9, False),
        (0, GRACE * 9, True),
    ],
)
def test_a_replay_is_older_than_what_was_seen_a_grace_ago(
    presented: int, later: float, replay: bool
) -> None:
    assert is_replay(record(seen=3, seen_at=NOW), presented=presented, at=NOW + later) is replay


# -- single changes -------------------------------------------------------------------------------


def take(before: Record | None, **asked: Any) -> Record:
    settings_ = {"gen": 3, "presented": 3, "owner": "me", "at": NOW, "now": NOW, "until": NOW + 30}
    return leased(before, **{**settings_, "expires_at": END, "strict": False, **asked})


@pytest.mark.parametrize(
    "change",
    [
        lambda before: take(before, owner="me"),
        lambda before: take(before, strict=True, presented=2, at=NOW - 1),
        lambda before: acknowledged(before, gen=2, at=NOW),
        lambda before: acknowledged(before, gen=4, at=NOW),
        lambda before: released(before, owner="me", retry_at=NOW + 9),
        lambda before: extended(before, expires_at=END),
        lambda before: extended(before, expires_at=END - 1),
        lambda before: published(before, owner="me", gen=3, sealed=b"x", expires_at=END + 9),
        lambda before: published(before, owner="me", gen=2, sealed=b"x", expires_at=END + 9),
        lambda before: rejected(before, owner="me", gen=2, expires_at=END + 9),
    ],
)
def test_a_change_that_changes_nothing_returns_what_was_there(
    change: Callable[[Record], Record | None],
) -> None:
    # Which is how a store knows that there is nothing to write.
    held = record(**HELD, seen=3, seen_at=NOW)
    assert change(held) is held


@pytest.mark.parametrize(
    "change",
    [
        lambda: acknowledged(None, gen=1, at=NOW),
        lambda: released(None, owner="me", retry_at=NOW),
        lambda: extended(None, expires_at=END),
    ],
)
def test_some_changes_make_no_record(change: Callable[[], Record | None]) -> None:
    assert change() is None


def test_a_refresh_from_lease_to_publish() -> None:
    held = take(None)
    assert held == Record(END, lease="me", lease_until=NOW + 30, seen=3, seen_at=NOW)
    done = published(held, owner="me", gen=4, sealed=b"four", expires_at=END + 5)
    assert done == Record(END + 5, gen=4, sealed=b"four", seen=3, seen_at=NOW)


def test_a_failure_gives_the_lease_back_and_cools_off() -> None:
    failed = released(take(record()), owner="me", retry_at=NOW + 5)
    assert failed == record(retry_at=NOW + 5, seen=3, seen_at=NOW)


def test_a_lease_that_was_taken_over_is_not_given_back() -> None:
    held = record(**HELD)
    assert released(held, owner="me", retry_at=NOW + 5) is held


def test_a_late_publish_counts_and_leaves_the_lease_of_another() -> None:
    done = published(record(**HELD), owner="me", gen=4, sealed=b"four", expires_at=END)
    assert done == record(gen=4, sealed=b"four", **HELD)


def test_a_publish_overrides_a_rejection_and_a_cool_off() -> None:
    dead = record(rejected=3, retry_at=NOW + 9)
    done = published(dead, owner="me", gen=4, sealed=b"four", expires_at=END)
    assert done == record(gen=4, sealed=b"four")


def test_a_rejection_of_an_older_generation_is_not_believed() -> None:
    held = record(lease="me", lease_until=NOW + 9)
    assert rejected(held, owner="me", gen=2, expires_at=END) == record()
    assert rejected(held, owner="me", gen=3, expires_at=END) == record(rejected=3)


def test_a_rejection_never_falls() -> None:
    dead = record(rejected=5)
    assert rejected(dead, owner="me", gen=4, expires_at=END).rejected == 5


def test_a_tombstone_keeps_no_tokens_and_no_lease() -> None:
    gone = ended(record(**HELD, rejected=3, seen=2, seen_at=NOW, retry_at=NOW), expires_at=END + 5)
    assert gone == Record(END + 5, gen=3, ended=True, seen=2, seen_at=NOW)
    assert ended(None, expires_at=END) == Record(END, ended=True)


def test_a_publish_on_a_tombstone_writes_nothing() -> None:
    gone = ended(record(), expires_at=END)
    assert published(gone, owner="me", gen=9, sealed=b"nine", expires_at=END + 9) is gone


def test_strictly_the_first_presentation_of_the_newest_counts_while_it_waits() -> None:
    for waiting in (record(**HELD), record(retry_at=NOW + 9)):
        assert take(waiting, strict=True) == replace(waiting, seen=3, seen_at=NOW)
        assert take(waiting, strict=False) is waiting


# -- any order of changes -------------------------------------------------------------------------

OWNERS = st.sampled_from(["a", "b", "c"])
GENS = st.integers(1, 6)
STEPS = st.fixed_dictionaries(
    {
        "change": st.sampled_from(
            ["lease", "lease", "publish", "publish", "reject", "release", "acknowledge", "extend"]
        )
        | st.sampled_from(["lease", "publish", "end"]),
        "owner": OWNERS,
        "gen": GENS,
        "presented": GENS,
        "strict": st.booleans(),
        "later": st.sampled_from([0.0, 1.0, 9.0, 11.0, 70.0]),
        "arrived": st.sampled_from([0.0, 1.0, 20.0]),
        "end": st.integers(-100, 100),
    }
)


def changed(before: Record | None, step: dict[str, Any], now: float) -> Record | None:
    owner, gen, end = step["owner"], step["gen"], END + step["end"]
    at = now - step["arrived"]
    match step["change"]:
        case "lease":
            return leased(
                before,
                gen=gen,
                presented=min(gen, step["presented"]),
                owner=owner,
                at=at,
                now=now,
                until=now + 10,
                expires_at=end,
                strict=step["strict"],
            )
        case "publish":
            return published(before, owner=owner, gen=gen, sealed=b"%d" % gen, expires_at=end)
        case "reject":
            return rejected(before, owner=owner, gen=gen, expires_at=end)
        case "release":
            return released(before, owner=owner, retry_at=now + 5)
        case "acknowledge":
            return acknowledged(before, gen=gen, at=at)
        case "extend":
            return extended(before, expires_at=end)
        case _:
            return ended(before, expires_at=end)


def holder(record: Record, now: float) -> str | None:
    return record.lease if record.lease_until > now else None


@settings(max_examples=300)
@given(st.lists(STEPS, max_size=30))
def test_no_order_of_changes_breaks_what_is_promised(steps: list[dict[str, Any]]) -> None:
    before: Record | None = None
    now = NOW
    for step in steps:
        now += step["later"]
        after = changed(before, step, now)
        if before is None:
            before = after
            continue
        assert after is not None
        _holds(before, after, step, now)
        before = Record.from_bytes(after.to_bytes())
        assert before == after


def _holds(before: Record, after: Record, step: dict[str, Any], now: float) -> None:
    change, owner, gen = step["change"], step["owner"], step["gen"]
    # Nothing falls.
    assert after.gen >= before.gen
    assert after.seen >= before.seen
    assert after.expires_at >= before.expires_at
    assert after.ended or not before.ended
    # What belongs together changes together.
    assert (after.sealed is None) is (after.gen == 0 or after.ended)
    assert after.sealed in (None, b"%d" % after.gen)
    if after.seen == before.seen:
        assert after.seen_at == before.seen_at
    # Only a publish revives what was rejected.
    if before.rejected is not None and not after.ended and after.gen == before.gen:
        assert after.rejected is not None
        assert after.rejected >= before.rejected
    if change == "publish" and not before.ended and gen > before.gen:
        assert (after.gen, after.rejected, after.retry_at) == (gen, None, 0)
    # While one holds the lease nobody else gets it, and only its holder gives it back.
    held = holder(before, now)
    if held is not None and owner != held and change != "end":
        assert (after.lease, after.lease_until) == (before.lease, before.lease_until)
    if holder(after, now) is not None:
        for other in {"a", "b", "c"} - {after.lease}:
            for each in range(1, 8):
                told = says(
                    after, gen=each, presented=each, owner=other, at=now, now=now, strict=False
                )
                assert told is not Says.YOURS
    # An ended session has nothing left to give, and nobody may ask for it.
    if after.ended:
        assert (after.sealed, after.lease, after.rejected) == (None, None, None)
