"""A small, strict OAuth 2.0 authorization server in memory, for the demo and for tests.

It decides who is signed in and which token is good; it knows nothing of cookies, of sessions or
of the plugin. It speaks the authorization code grant with PKCE (RFC 7636, S256 only) and the
refresh token grant with single-use tokens: presenting a spent one ends its whole family, the
newest tokens included (RFC 9700 §4.14.2). Nobody is asked for a password, so keep it on loopback.

One process, one event loop. Each method of `AuthorizationServer` runs from its first line to its
last with no ``await``, and every handler that calls one is ``async def``; so each is atomic and
no lock is needed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles

from examples.dashboard.pages import STATIC, Markup, fill

CODE_LIFETIME = 60  # seconds; RFC 6749 §4.1.2 allows ten minutes, a redirect needs one second
EVENTS_KEPT = 200
LONGEST_NAME = 60  # characters
PKCE_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")  # an unpadded SHA-256 (RFC 7636 §4.2)
PKCE_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")  # RFC 7636 §4.1
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}  # RFC 6749 §5.1
FORM_TYPE = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Client:
    """A registered application. ``client_secret=None`` makes it a public client."""

    client_id: str
    redirect_uris: tuple[str, ...]
    client_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who can sign in; the fields are the claims of ``/userinfo``."""

    sub: str
    name: str
    email: str


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A checked request for a code (RFC 6749 §4.1.1). ``state=None``: none was sent."""

    client_id: str
    redirect_uri: str
    code_challenge: str
    scope: str
    state: str | None


@dataclass(frozen=True, slots=True)
class Code:
    """An authorization code. ``family=None`` until it has been exchanged."""

    request: AuthorizationRequest
    sub: str
    expires_at: float
    family: str | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """One sign-in. Of its refresh tokens only the one of this generation is good."""

    client_id: str
    sub: str
    scope: str
    generation: int = 0


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """What a refresh token stands for; spent when its family has moved on."""

    family: str
    generation: int


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What an access token stands for; ``expires_at`` in Unix seconds."""

    family: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the log that ``/events`` shows; holds no token."""

    number: int
    at: float
    kind: str
    family: str
    generation: int


PEOPLE = (
    Person("noor", "Noor Haddad", "noor@demo.example"),
    Person("tomas", "Tomás Rivera", "tomas@demo.example"),
    Person("mei", "Mei Tanaka", "mei@demo.example"),
)


class OAuthError(Exception):
    """A refusal as RFC 6749 §5.2 words it; ``error`` is one of its codes."""

    def __init__(
        self,
        error: str,
        description: str,
        *,
        status: int = 400,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description
        self.status = status
        self.headers = {**NO_STORE, **(headers or {})}


class UntrustedRequestError(Exception):
    """Client or redirect URI is unknown: nobody may be sent there (RFC 6749 §4.1.2.1)."""


class AuthorizationServer:
    """The state, and every rule that changes it. Times are Unix seconds from ``clock``."""

    def __init__(
        self, clients: Iterable[Client], *, access_token_ttl: int, clock: Callable[[], float]
    ) -> None:
        self.clients = {client.client_id: client for client in clients}
        self.access_token_ttl = access_token_ttl
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self.people = {person.sub: person for person in PEOPLE}
        self._clock = clock
        self._codes: dict[str, Code] = {}
        self._families: dict[str, Family] = {}
        self._refresh_tokens: dict[str, RefreshToken] = {}
        self._access_tokens: dict[str, AccessToken] = {}
        self._counts: Counter[str] = Counter()

    # -- signing in ------------------------------------------------------------------------

    def add_person(self, name: str) -> Person:
        """The person with this name, who is made up on the spot when new."""
        for person in self.people.values():
            if person.name.casefold() == name.casefold():
                return person
        sub = f"guest-{len(self.people) - len(PEOPLE) + 1}"
        return self.people.setdefault(sub, Person(sub, name, f"{sub}@demo.example"))

    def authorize(self, request: AuthorizationRequest, sub: str) -> str:
        """A code for this person at this client."""
        code = secrets.token_urlsafe(32)
        self._codes[code] = Code(request, sub, self._clock() + CODE_LIFETIME)
        return code

    def new_session(self, sub: str, client_id: str | None = None) -> dict[str, Any]:
        """A token response with no browser involved; the first client unless one is named."""
        self.people.setdefault(sub, Person(sub, sub.title(), f"{sub}@demo.example"))
        return self._new_family(client_id or next(iter(self.clients)), sub, "profile email")[1]

    # -- the token endpoint ----------------------------------------------------------------

    def authenticate(self, authorization: str | None, form: Mapping[str, str]) -> Client:
        """The client that asks (RFC 6749 §2.3): by Basic, in the body, or public."""
        client_id, secret = _credentials(authorization, form)
        client = self.clients.get(client_id)
        if client is None or not _secret_matches(client, secret):
            raise _invalid_client()
        return client

    def token(self, authorization: str | None, form: Mapping[str, str]) -> dict[str, Any]:
        """Answers one call of the token endpoint."""
        grant_type = _required(form, "grant_type")
        if grant_type not in ("authorization_code", "refresh_token"):
            raise OAuthError("unsupported_grant_type", "authorization_code or refresh_token")
        self._counts[grant_type] += 1
        client = self.authenticate(authorization, form)
        if grant_type == "refresh_token":
            return self._refresh(client, form)
        return self._exchange(client, form)

    def _exchange(self, client: Client, form: Mapping[str, str]) -> dict[str, Any]:
        presented = _required(form, "code")
        code = self._codes.get(presented)
        if code is None or code.request.client_id != client.client_id:
            raise OAuthError("invalid_grant", "the code is not known")
        if code.family is not None:
            # RFC 6749 §4.1.2: what was issued for a code that is used twice should be revoked.
            self._end(code.family, "code_replayed")
            raise OAuthError("invalid_grant", "the code was used before")
        if code.expires_at <= self._clock():
            raise OAuthError("invalid_grant", "the code has expired")
        if form.get("redirect_uri") != code.request.redirect_uri:
            raise OAuthError("invalid_grant", "redirect_uri differs from the authorization's")
        _check_verifier(_required(form, "code_verifier"), code.request.code_challenge)
        family, answer = self._new_family(client.client_id, code.sub, code.request.scope)
        self._codes[presented] = replace(code, family=family)
        return answer

    def _refresh(self, client: Client, form: Mapping[str, str]) -> dict[str, Any]:
        token = self._refresh_tokens.get(_required(form, "refresh_token"))
        family = self._families.get(token.family) if token else None
        if token is None or family is None or family.client_id != client.client_id:
            raise OAuthError("invalid_grant", "the refresh token is not known")
        if token.generation != family.generation:
            self._counts["reuse_detected"] += 1
            self._end(token.family, "reuse_detected")
            raise OAuthError("invalid_grant", "the refresh token was used before")
        if not set(form.get("scope", "").split()) <= set(family.scope.split()):
            raise OAuthError("invalid_scope", "more than was granted")
        self._families[token.family] = replace(family, generation=family.generation + 1)
        self._counts["refreshes"] += 1
        self._log("refreshed", token.family)
        return self._issue(token.family)

    # -- what tokens are good for ----------------------------------------------------------

    def userinfo(self, access_token: str) -> Person:
        """The person behind a live access token."""
        token = self._access_tokens.get(access_token)
        family = self._families.get(token.family) if token else None
        if token is None or family is None or token.expires_at <= self._clock():
            raise _bearer_error("invalid_token", "expired, revoked or not known")
        return self.people[family.sub]

    def revoke(self, client: Client, presented: str) -> None:
        """Ends what a token stands for; a token that is not known is fine (RFC 7009 §2.2).

        A refresh token takes its family along, an access token goes alone.
        """
        token = self._refresh_tokens.get(presented) or self._access_tokens.get(presented)
        family = self._families.get(token.family) if token else None
        if token is None or family is None:
            return
        if family.client_id != client.client_id:
            raise OAuthError("invalid_grant", "the token belongs to another client")
        if isinstance(token, RefreshToken):
            self._end(token.family, "revoked")
        else:
            del self._access_tokens[presented]

    # -- what is shown to people -----------------------------------------------------------

    def stats(self, access_token: str | None = None) -> dict[str, Any]:
        """Counts since the start; ``family`` is that of the access token, be it expired."""
        token = self._access_tokens.get(access_token or "")
        family = self._families.get(token.family) if token else None
        return {
            "now": self._clock(),
            "access_token_ttl": self.access_token_ttl,
            "token_calls": {
                grant: self._counts[grant] for grant in ("authorization_code", "refresh_token")
            },
            "refreshes": self._counts["refreshes"],
            "reuse_detected": self._counts["reuse_detected"],
            "live_families": len(self._families),
            "family": {"refreshes": family.generation} if family else None,
        }

    # -- the bookkeeping -------------------------------------------------------------------

    def _new_family(self, client_id: str, sub: str, scope: str) -> tuple[str, dict[str, Any]]:
        family = secrets.token_hex(4)
        self._families[family] = Family(client_id, sub, scope)
        self._log("signed_in", family)
        return family, self._issue(family)

    def _issue(self, family_id: str) -> dict[str, Any]:
        family = self._families[family_id]
        access_token, refresh_token = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        expires_at = self._clock() + self.access_token_ttl
        self._access_tokens[access_token] = AccessToken(family_id, expires_at)
        self._refresh_tokens[refresh_token] = RefreshToken(family_id, family.generation)
        return {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": self.access_token_ttl,
            "refresh_token": refresh_token,
            "scope": family.scope,
        }

    def _end(self, family: str, why: str) -> None:
        if family in self._families:
            self._log(why, family)
            del self._families[family]

    def _log(self, kind: str, family: str) -> None:
        number = self.events[-1].number + 1 if self.events else 1
        generation = self._families[family].generation
        self.events.append(Event(number, self._clock(), kind, family, generation))


# -- plain checks --------------------------------------------------------------------------


def _required(form: Mapping[str, str], name: str) -> str:
    value = form.get(name, "")
    if not value:
        raise OAuthError("invalid_request", f"{name} is missing")
    return value


def _once(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Parameters by name; none may come twice (RFC 6749 §3.1, §3.2)."""
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name in parameters:
            raise OAuthError("invalid_request", "a parameter is repeated")
        parameters[name] = value
    return parameters


def _credentials(authorization: str | None, form: Mapping[str, str]) -> tuple[str, str | None]:
    """Client id and secret, from one place only (RFC 6749 §2.3: not by two methods at once)."""
    if authorization is None:
        return _required(form, "client_id"), form.get("client_secret")
    client_id, secret = _basic(authorization)
    if "client_secret" in form or form.get("client_id", client_id) != client_id:
        raise OAuthError("invalid_request", "two ways to authenticate at once")
    return client_id, secret


def _basic(authorization: str) -> tuple[str, str]:
    """Both halves are form-encoded before they are joined (RFC 6749 §2.3.1)."""
    scheme, _, value = authorization.partition(" ")
    try:
        joined = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise _invalid_client() from None
    client_id, colon, secret = joined.partition(":")
    if scheme.lower() != "basic" or not colon:
        raise _invalid_client()
    return unquote_plus(client_id), unquote_plus(secret)


def _secret_matches(client: Client, presented: str | None) -> bool:
    if client.client_secret is None or presented is None:
        return client.client_secret is presented
    return hmac.compare_digest(client.client_secret.encode(), presented.encode())


def _check_verifier(verifier: str, challenge: str) -> None:
    if not PKCE_VERIFIER.fullmatch(verifier):
        raise OAuthError("invalid_request", "code_verifier is malformed")
    digest = hashlib.sha256(verifier.encode()).digest()
    made = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    if not hmac.compare_digest(made, challenge):
        raise OAuthError("invalid_grant", "code_verifier does not fit")


def _invalid_client() -> OAuthError:
    headers = {"WWW-Authenticate": 'Basic realm="token", charset="UTF-8"'}
    return OAuthError("invalid_client", "the client is not known", status=401, headers=headers)


def _bearer_error(error: str, description: str) -> OAuthError:
    """RFC 6750 §3: the code is repeated in the header."""
    headers = {"WWW-Authenticate": f'Bearer error="{error}"'}
    return OAuthError(error, description, status=401, headers=headers)


def _check_target(clients: Mapping[str, Client], query: Mapping[str, str]) -> None:
    """Before anybody may be redirected: a known client, and its redirect URI to the letter."""
    client = clients.get(query.get("client_id", ""))
    if client is None:
        raise UntrustedRequestError("This application is not registered here.")
    if query.get("redirect_uri") not in client.redirect_uris:
        raise UntrustedRequestError("The address to return to is not registered for it.")


def _checked(query: Mapping[str, str]) -> AuthorizationRequest:
    """The rest of the request; what is wrong here is reported to the client by redirect."""
    if _required(query, "response_type") != "code":
        raise OAuthError("unsupported_response_type", "only code")
    challenge = _required(query, "code_challenge")
    if query.get("code_challenge_method") != "S256":
        raise OAuthError("invalid_request", "code_challenge_method must be S256")
    if not PKCE_CHALLENGE.fullmatch(challenge):
        raise OAuthError("invalid_request", "code_challenge is malformed")
    return AuthorizationRequest(
        client_id=query["client_id"],
        redirect_uri=query["redirect_uri"],
        code_challenge=challenge,
        scope=query.get("scope") or "profile email",
        state=query.get("state"),
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


# -- the routes ----------------------------------------------------------------------------

router = APIRouter()


def _server(request: Request) -> AuthorizationServer:
    server: AuthorizationServer = request.app.state.server
    return server


async def _form(request: Request) -> dict[str, str]:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != FORM_TYPE:
        raise OAuthError("invalid_request", f"the body must be {FORM_TYPE}")
    try:
        return _once(parse_qsl((await request.body()).decode(), keep_blank_values=True))
    except UnicodeDecodeError:
        raise OAuthError("invalid_request", "the body must be UTF-8") from None


@router.post("/token")
async def token(request: Request) -> Response:
    form = await _form(request)
    answer = _server(request).token(request.headers.get("authorization"), form)
    return JSONResponse(answer, headers=NO_STORE)


@router.post("/revoke")
async def revoke(request: Request) -> Response:
    form = await _form(request)
    server = _server(request)
    client = server.authenticate(request.headers.get("authorization"), form)
    server.revoke(client, _required(form, "token"))
    return Response(headers=NO_STORE)


@router.api_route("/userinfo", methods=["GET", "POST"])
async def userinfo(request: Request) -> Response:
    access_token = _bearer(request)
    if access_token is None:
        # RFC 6750 §3.1: a request with no token gets the challenge and no error code.
        return Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})
    return JSONResponse(asdict(_server(request).userinfo(access_token)), headers=NO_STORE)


@router.get("/stats")
async def stats(request: Request) -> Response:
    return JSONResponse(_server(request).stats(_bearer(request)), headers=NO_STORE)


@router.get("/events")
async def events(request: Request) -> Response:
    return JSONResponse([asdict(event) for event in _server(request).events], headers=NO_STORE)


def _bearer(request: Request) -> str | None:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else None


@router.get("/authorize")
async def authorize(request: Request) -> Response:
    """Shows the sign-in page, or says why not."""
    query = _once(request.query_params.multi_items())
    checked = _check(request, query)
    return _sign_in_page(checked, query) if isinstance(checked, AuthorizationRequest) else checked


@router.post("/authorize")
async def sign_in(request: Request) -> Response:
    """Somebody was picked, or typed a name; the request travels in the form and is checked again.

    There is no session here that another site could ride on: whoever posts says who they are.
    """
    form = await _form(request)
    checked = _check(request, form)
    if not isinstance(checked, AuthorizationRequest):
        return checked
    server = _server(request)
    person = _chosen(server, form)
    if person is None:
        return _sign_in_page(checked, form, problem=f"A name has 1 to {LONGEST_NAME} characters.")
    return _redirect(
        checked.redirect_uri, checked.state, code=server.authorize(checked, person.sub)
    )


def _chosen(server: AuthorizationServer, form: Mapping[str, str]) -> Person | None:
    if "person" in form:
        return server.people.get(form["person"])
    name = " ".join(form.get("name", "").split())
    return server.add_person(name) if 1 <= len(name) <= LONGEST_NAME else None


def _check(request: Request, query: Mapping[str, str]) -> AuthorizationRequest | Response:
    _check_target(_server(request).clients, query)
    try:
        return _checked(query)
    except OAuthError as error:
        return _redirect(
            query["redirect_uri"],
            query.get("state"),
            error=error.error,
            error_description=error.description,
        )


def _redirect(redirect_uri: str, state: str | None, **answer: str) -> Response:
    """Back to the client, its own query kept, ``state`` as it came (RFC 6749 §4.1.2)."""
    if state is not None:
        answer["state"] = state
    joint = "&" if urlsplit(redirect_uri).query else "?"
    return RedirectResponse(f"{redirect_uri}{joint}{urlencode(answer)}", 303, headers=NO_STORE)


# -- the pages -----------------------------------------------------------------------------

REQUEST_FIELDS = (
    "response_type",
    "client_id",
    "redirect_uri",
    "scope",
    "state",
    "code_challenge",
    "code_challenge_method",
)


def _sign_in_page(
    checked: AuthorizationRequest, query: Mapping[str, str], *, problem: str = ""
) -> Response:
    hidden = [_hidden(name, query[name]) for name in REQUEST_FIELDS if name in query]
    html = fill(
        "sign_in",
        client=checked.client_id,
        request=Markup("\n".join(hidden)),
        people=Markup("\n".join(_person_button(person) for person in PEOPLE)),
        problem=problem,
        longest=LONGEST_NAME,
    )
    # Chromium holds a form's redirects against form-action too, so the client must be named.
    return _page(html, 400 if problem else 200, may_post_to=_origin(checked.redirect_uri))


def _hidden(name: str, value: str) -> str:
    return fill("hidden", name=name, value=value)


def _person_button(person: Person) -> str:
    return fill(
        "person", sub=person.sub, name=person.name, email=person.email, initial=person.name[0]
    )


def _page(html: str, status: int, *, may_post_to: str = "") -> Response:
    policy = (
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
        f"frame-ancestors 'none'; form-action 'self' {may_post_to}"
    )
    headers = {
        **NO_STORE,
        "Content-Security-Policy": policy.strip(),
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(html, status, headers=headers)


async def _answer_oauth_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OAuthError)
    body = {"error": error.error, "error_description": error.description}
    return JSONResponse(body, error.status, headers=error.headers)


async def _answer_untrusted(request: Request, error: Exception) -> Response:
    return _page(fill("refused", reason=error), 400)


def create_app(
    *,
    clients: Iterable[Client],
    access_token_ttl: int = 15,
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """The server as an application; its state is ``app.state.server``, new with each call.

    ``access_token_ttl``: seconds an access token lives.
    """
    app = FastAPI(title="Demo authorization server", openapi_url=None)
    app.state.server = AuthorizationServer(clients, access_token_ttl=access_token_ttl, clock=clock)
    app.add_exception_handler(OAuthError, _answer_oauth_error)
    app.add_exception_handler(UntrustedRequestError, _answer_untrusted)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.include_router(router)
    return app
