"""An OpenID provider of the tests' own: strict about its client, and as wrong as it is told to be.

It signs with joserfc, and shares no code with the package.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, quote, unquote_plus, urlsplit

from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from fastapi_ideal_auth.testing import Clock

ISSUER = "https://op.example"
CLIENT_ID = "app"
CLIENT_SECRET = "the client's secret, planted"
CALLBACK = "https://testserver/callback"


@functools.cache
def key(kty: str, kid: str, crv: str = "") -> Key:
    """One key a name: making an RSA key takes a tenth of a second."""
    parameters: Any = {"kid": kid}
    if kty == "RSA":
        return RSAKey.generate_key(2048, parameters)
    if kty == "EC":
        return ECKey.generate_key(crv or "P-256", parameters)  # type: ignore[arg-type]  # joserfc takes a literal; any curve will do here
    return OKPKey.generate_key(crv or "Ed25519", parameters)  # type: ignore[arg-type]  # joserfc takes a literal; any curve will do here


class Lax(jws.JWSRegistry):
    """Any algorithm and any header: a forger is not choosy."""

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]

    def check_header(self, header: Any) -> None:
        pass


def signed(claims: Mapping[str, Any], by: Key, alg: str, **header: Any) -> str:
    protected = {"alg": alg, **header}
    return jws.serialize_compact(protected, json.dumps(dict(claims)), by, registry=Lax())


def opened(token: str, by: Key) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, verified."""
    made = jws.deserialize_compact(token, by, registry=Lax())
    return made.protected, json.loads(made.payload or b"")


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def half_hash(token: str, name: str = "sha256") -> str:
    digest = hashlib.new(name, token.encode()).digest()
    return b64(digest[: len(digest) // 2])


def public(*keys: Key) -> dict[str, Any]:
    return {"keys": [{**k.as_dict(private=False), "use": "sig"} for k in keys]}


class OpenIDServer:
    """The provider. ``transport()`` puts it on a wire; the attributes make it misbehave."""

    def __init__(self, clock: Clock | None = None, *, issuer: str = ISSUER) -> None:
        self.clock = clock or Clock()
        self.issuer = issuer
        self.key: Key = key("RSA", "rsa-1")
        self.alg = "RS256"
        self.published: list[Key] = [self.key]
        self.metadata: dict[str, Any] = {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "userinfo_endpoint": f"{issuer}/userinfo",
            "revocation_endpoint": f"{issuer}/revoke",
            "jwks_uri": f"{issuer}/jwks",
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "EdDSA"],
            "scopes_supported": ["openid", "email", "profile", "offline_access"],
        }
        self.userinfo: dict[str, Any] = {
            "sub": "ada",
            "email": "ada@example.test",
            "name": "Ada Lovelace",
        }
        self.in_id_token: dict[str, Any] = {"auth_time": int(self.clock()) - 5}
        self.forge: Callable[[dict[str, Any]], str] | None = None
        """Makes the ID token of the claims that it would have."""

        self.faults: dict[str, Callable[[Any], Any]] = {}
        """Answers in a path's place; what it raises is the wire's."""

        self.withheld: set[str] = set()
        """What the answer of the token endpoint leaves out."""

        self.requests: list[Any] = []
        self.client_public: Key | None = None
        self.dpop_nonce: str | None = None
        self.bound: set[str] = set()
        self.delay = 0.0
        self.pushed: dict[str, dict[str, list[str]]] = {}
        self.codes: dict[str, dict[str, list[str]]] = {}
        self.refresh_tokens: dict[str, str] = {}
        self.revoked: list[str] = []
        self.jtis: set[str] = set()
        self.library: Any = None

    def transport(self, library: Any) -> Any:
        self.library = library
        return library.MockTransport(self)

    def client(self, library: Any) -> Any:
        return library.AsyncClient(transport=self.transport(library))

    def paths(self) -> list[str]:
        return [request.url.path for request in self.requests]

    def asked_for(self, path: str) -> list[Any]:
        return [request for request in self.requests if request.url.path == path]

    def form(self, path: str = "/token") -> dict[str, list[str]]:
        """What the last request there carried."""
        return parse_qs(self.asked_for(path)[-1].content.decode())

    # -- the browser's part -----------------------------------------------------------------------

    def approve(self, location: str, **changed: str) -> str:
        """What a person who says yes brings back: a path and query of the app."""
        query = parse_qs(urlsplit(location).query)
        if "request_uri" in query:
            assert query.keys() == {"request_uri", "client_id"}
            query = self.pushed.pop(query["request_uri"][0])
        elif self.metadata.get("require_pushed_authorization_requests"):
            raise AssertionError("the request was not pushed")
        assert query["client_id"] == [CLIENT_ID]
        code = secrets.token_urlsafe(8)
        self.codes[code] = query
        back = {"code": code, "state": query["state"][0]}
        if self.metadata.get("authorization_response_iss_parameter_supported"):
            back["iss"] = self.issuer
        parts = urlsplit(query["redirect_uri"][0])
        return f"{parts.path}?" + "&".join(
            f"{name}={quote(value, safe='')}" for name, value in {**back, **changed}.items()
        )

    # -- the wire ---------------------------------------------------------------------------------

    async def __call__(self, request: Any) -> Any:
        self.requests.append(request)
        await asyncio.sleep(self.delay)
        path = request.url.path
        if path in self.faults:
            return self.faults[path](request)
        answer = {
            "/.well-known/openid-configuration": lambda: self.json(self.metadata),
            "/jwks": lambda: self.json(public(*self.published)),
            "/token": lambda: self.token(request),
            "/par": lambda: self.push(request),
            "/userinfo": lambda: self.claims_of(request),
            "/revoke": lambda: self.revoke(request),
        }.get(path.removeprefix(urlsplit(self.issuer).path))
        return self.library.Response(404) if answer is None else answer()

    def json(self, body: Any, status: int = 200, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.dpop_nonce is not None:
            named["dpop-nonce"] = self.dpop_nonce
        return self.library.Response(status, json=body, headers=named)

    def refuse(self, code: str, status: int = 400) -> Any:
        return self.json({"error": code}, status)

    def push(self, request: Any) -> Any:
        form = parse_qs(request.content.decode())
        if not self.authenticates(request, form):
            return self.refuse("invalid_client", 401)
        wrong = self.wrong_proof(request)
        if wrong:
            return self.refuse(wrong)
        request_uri = f"urn:ietf:params:oauth:request_uri:{secrets.token_urlsafe(8)}"
        form.pop("client_secret", None)
        self.pushed[request_uri] = form
        return self.json({"request_uri": request_uri, "expires_in": 60}, 201)

    def token(self, request: Any) -> Any:
        form = parse_qs(request.content.decode())
        if not self.authenticates(request, form):
            return self.refuse("invalid_client", 401)
        wrong = self.wrong_proof(request)
        if wrong:
            return self.refuse(wrong)
        nonce = None
        if form["grant_type"] == ["authorization_code"]:
            asked = self.codes.pop(form["code"][0], None)
            if asked is None or not self.fits(asked, form):
                return self.refuse("invalid_grant")
            nonce = asked.get("nonce", [None])[0]
        elif self.refresh_tokens.pop(form["refresh_token"][0], None) is None:
            return self.refuse("invalid_grant")
        return self.json(self.tokens(nonce, bound="dpop" in request.headers))

    def fits(self, asked: dict[str, list[str]], form: dict[str, list[str]]) -> bool:
        challenge = b64(hashlib.sha256(form["code_verifier"][0].encode()).digest())
        return (
            asked["redirect_uri"] == form["redirect_uri"]
            and asked["code_challenge"] == [challenge]
            and asked["code_challenge_method"] == ["S256"]
        )

    def tokens(self, nonce: str | None = None, *, bound: bool = False) -> dict[str, Any]:
        access_token, refresh_token = f"at-{secrets.token_hex(8)}", f"rt-{secrets.token_hex(8)}"
        self.refresh_tokens[refresh_token] = "ada"
        answer = {
            "access_token": access_token,
            "refresh_token": refresh_token,
            "token_type": "DPoP" if bound else "Bearer",
            "expires_in": 300,
            "id_token": self.id_token(access_token, nonce),
        }
        return {name: value for name, value in answer.items() if name not in self.withheld}

    def id_token(self, access_token: str, nonce: str | None = None, **changed: Any) -> str:
        claims = self.id_claims(access_token, nonce)
        claims |= changed
        if self.forge is not None:
            return self.forge(claims)
        return signed(claims, self.key, self.alg, kid=self.key.kid)

    def id_claims(self, access_token: str, nonce: str | None = None) -> dict[str, Any]:
        now = int(self.clock())
        claims = {
            "iss": self.issuer,
            "sub": "ada",
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "at_hash": half_hash(access_token, "sha512" if self.alg == "EdDSA" else "sha256"),
            **self.in_id_token,
        }
        return claims if nonce is None else {**claims, "nonce": nonce}

    def logout_token(
        self, *, without: str = "", typ: str | None = "logout+jwt", **claims: Any
    ) -> str:
        now = int(self.clock())
        whole = {
            "iss": self.issuer,
            "sub": "ada",
            "sid": "op-session",
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 120,
            "jti": secrets.token_urlsafe(8),
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
            **claims,
        }
        for name in without.split():
            del whole[name]
        header = {} if typ is None else {"typ": typ}
        return signed(whole, self.key, self.alg, kid=self.key.kid, **header)

    def claims_of(self, request: Any) -> Any:
        scheme, _, token = request.headers["authorization"].partition(" ")
        if "dpop" in request.headers:
            assert scheme == "DPoP"
            wrong = self.wrong_proof(request, token)
            if wrong:
                challenge = f'DPoP error="{wrong}", algs="ES256"'
                return self.json({}, 401, www_authenticate=challenge)
        return self.json(self.userinfo)

    def revoke(self, request: Any) -> Any:
        form = parse_qs(request.content.decode())
        assert self.authenticates(request, form)
        self.revoked += form["token"]
        return self.library.Response(200)

    # -- who asks ---------------------------------------------------------------------------------

    def authenticates(self, request: Any, form: dict[str, list[str]]) -> bool:
        if "client_assertion" in form:
            assert form["client_assertion_type"] == [
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            ]
            assert self.client_public is not None
            _, claims = opened(form["client_assertion"][0], self.client_public)
            once = claims["jti"] not in self.jtis
            self.jtis.add(claims["jti"])
            return (
                once
                and claims["iss"] == claims["sub"] == CLIENT_ID
                and claims["aud"] == self.issuer
                and self.clock() < claims["exp"] <= self.clock() + 60
            )
        if "client_secret" in form:
            return (form["client_id"], form["client_secret"]) == ([CLIENT_ID], [CLIENT_SECRET])
        given = request.headers.get("authorization", "").removeprefix("Basic ")
        pair = base64.b64decode(given).decode().split(":")
        return [unquote_plus(part) for part in pair] == [CLIENT_ID, CLIENT_SECRET]

    def wrong_proof(self, request: Any, access_token: str | None = None) -> str | None:
        """RFC 9449 §4.3: what is wrong with the DPoP proof of a request that has one."""
        proof = request.headers.get("dpop")
        if proof is None:
            return "invalid_dpop_proof" if self.bound else None
        head = json.loads(base64.urlsafe_b64decode(proof.split(".")[0] + "=="))
        assert head["typ"] == "dpop+jwt"
        assert not {"d", "p", "q"} & head["jwk"].keys()
        by = {"EC": ECKey, "OKP": OKPKey}[head["jwk"]["kty"]].import_key(head["jwk"])  # type: ignore[attr-defined]  # both have it
        _, claims = opened(proof, by)
        assert claims["htm"] == request.method
        assert claims["htu"] == str(request.url).partition("?")[0]
        assert abs(claims["iat"] - self.clock()) < 30
        assert claims["jti"] not in self.jtis
        self.jtis.add(claims["jti"])
        self.bound.add(by.thumbprint())
        if access_token is not None:
            assert claims["ath"] == b64(hashlib.sha256(access_token.encode()).digest())
        return "use_dpop_nonce" if claims.get("nonce") != self.dpop_nonce else None


def hs256(claims: Mapping[str, Any], secret: bytes, **header: Any) -> str:
    """The classic: the public key, or the client's secret, as an HMAC's."""
    return signed(claims, OctKey(secret, secret), "HS256", **header)


def unsigned(claims: Mapping[str, Any], alg: str = "none") -> str:
    parts = (json.dumps({"alg": alg}).encode(), json.dumps(dict(claims)).encode())
    return ".".join(map(b64, parts)) + "."
