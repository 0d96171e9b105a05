"""Bytes: what a session takes in a cookie, by the shape of its tokens, and in the store.

The tokens are made up, in the shapes that servers issue: real header and claim names, values of
the usual lengths, signatures of 2048-bit RSA.

    python -m benchmarks.sizes
"""

import base64
import json
import os
import random
import time
from collections.abc import Callable
from typing import Final

from benchmarks import peers
from benchmarks.fresh_path import cookie_of
from benchmarks.peers import SECRET, User
from fastapi_ideal_auth import IdealAuth, IronSealer, MemoryStore
from fastapi_ideal_auth.generation import begin, renewed
from fastapi_ideal_auth.oauth import TokenResponse
from fastapi_ideal_auth.record import leased, published

ID: Final = "0f8fad5b-d9cb-469f-a165-70867728950e"
_DICE: Final = random.Random(1)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _jwt(claims: dict[str, object], *, alg: str = "RS256", signature: int = 256) -> str:
    header = {"alg": alg, "typ": "JWT", "kid": "FJ86GcF3jTbNLOco4NvZkUCIUmfYCqoqtOQeMfbhNlE"}
    parts = [json.dumps(each, separators=(",", ":")).encode() for each in (header, claims)]
    return ".".join(map(_b64, (*parts, _DICE.randbytes(signature))))


def _opaque(size: int) -> str:
    return _b64(_DICE.randbytes(size))


def _plain_jwt() -> str:
    claims: dict[str, object] = {
        "iss": "https://op.example/",
        "sub": ID,
        "aud": "https://api.example",
        "iat": 1795630540,
        "exp": 1795634140,
        "scope": "openid profile email offline_access read:orders write:orders",
        "client_id": "dashboard",
        "jti": _opaque(16),
    }
    claims["permissions"] = "x" * 107
    return _jwt(claims)


def _keycloak() -> tuple[str, str]:
    shared: dict[str, object] = {
        "exp": 1795630840,
        "iat": 1795630540,
        "jti": f"onrtac:{ID}",
        "iss": "https://sso.example.com/realms/production",
        "sub": ID,
        "azp": "dashboard",
        "sid": ID,
    }
    roles = ["default-roles-production", "offline_access", "uma_authorization", "order-admin"]
    access = {
        **shared,
        "aud": ["orders", "account"],
        "typ": "Bearer",
        "acr": "1",
        "allowed-origins": ["https://app.example.com"],
        "realm_access": {"roles": roles},
        "resource_access": {
            "orders": {"roles": ["read", "write"]},
            "account": {"roles": ["manage-account", "manage-account-links", "view-profile"]},
        },
        "scope": "openid offline_access email profile",
        "email_verified": True,
        "name": "Ada Lovelace",
        "preferred_username": "ada@example.test",
        "given_name": "Ada",
        "family_name": "Lovelace",
        "email": "ada@example.test",
    }
    scope = "openid offline_access email profile roles web-origins acr basic"
    refresh = {**shared, "typ": "Offline", "aud": shared["iss"], "scope": scope}
    return _jwt(access), _jwt(refresh, alg="HS512", signature=64)


def _entra() -> tuple[str, str]:
    claims: dict[str, object] = {
        "aud": "00000003-0000-0000-c000-000000000000",
        "iss": f"https://sts.windows.net/{ID}/",
        "iat": 1795630540,
        "nbf": 1795630540,
        "exp": 1795634140,
        "acct": 0,
        "acr": "1",
        "aio": _opaque(100),
        "amr": ["pwd", "mfa"],
        "app_displayname": "Dashboard",
        "appid": ID,
        "appidacr": "1",
        "family_name": "Lovelace",
        "given_name": "Ada",
        "idtyp": "user",
        "ipaddr": "203.0.113.17",
        "name": "Ada Lovelace",
        "oid": ID,
        "platf": "5",
        "puid": "10032001F3A2B1C4",
        "rh": _opaque(60),
        "scp": "email Mail.Read openid profile User.Read",
        "sub": _opaque(32),
        "tenant_region_scope": "EU",
        "tid": ID,
        "unique_name": "ada@example.test",
        "upn": "ada@example.test",
        "uti": _opaque(16),
        "ver": "1.0",
        "wids": [ID],
        "xms_idrel": "1 24",
        "xms_st": {"sub": _opaque(32)},
        "xms_tcdt": 1500000000,
    }
    return _jwt(claims), f"1.{_opaque(750)}"


def shapes() -> dict[str, tuple[str, str]]:
    """Access and refresh token, by whose shape they have."""
    long = {"iss": "https://op.example/", "sub": ID, "groups": [str(n) * 35 for n in range(9)] * 6}
    return {
        "a JWT": (_plain_jwt(), _opaque(32)),
        "Keycloak": _keycloak(),
        "Entra ID": _entra(),
        "opaque": (_opaque(32), _opaque(32)),
        "a JWT of 3 KB": (_jwt({**long}), _opaque(32)),
    }


def _native(user: User) -> int:
    auth = IdealAuth(User, secret=SECRET, store=MemoryStore())
    return _total(cookie_of(auth, user))


def _iron(user: User) -> int:
    auth = IdealAuth(User, secret=SECRET, store=MemoryStore(), sealer=IronSealer(host_prefix=True))
    return _total(cookie_of(auth, user))


def _total(header: str) -> int:
    """Bytes of the values, without the names, of which each contender has its own."""
    return sum(len(pair.partition("=")[2]) for pair in header.split("; "))


def _of(make: Callable[[User], peers.Contender]) -> Callable[[User], int]:
    return lambda user: _total(make(user)[1])


CONTENDERS: Final[dict[str, Callable[[User], int]]] = {
    "fastapi_ideal_auth": _native,
    "Fernet": _of(peers.fernet),
    "Fe26.2": _iron,
    "JWE (dir, A256GCM)": _of(peers.joserfc_jwe),
    "auth0-fastapi": lambda user: sum(map(len, peers.auth0_cookies(user).values())),
}


def _record(user: User) -> int:
    """Bytes of a session's record in the store, once it was refreshed."""
    auth = IdealAuth(User, secret=SECRET, store=MemoryStore())
    now = time.time()
    generation = begin(user, now=now, remember=None, lifetimes=auth.lifetimes)
    answer = TokenResponse(user.access_token, refresh_token=user.refresh_token, expires_in=300)
    newer = renewed(generation, answer, now=now, lifetimes=auth.lifetimes)
    owner = os.urandom(8).hex()
    taken = leased(
        None,
        gen=1,
        presented=1,
        owner=owner,
        at=now,
        now=now,
        until=now + 30,
        expires_at=generation.expires_at,
        strict=False,
    )
    sealed = auth.ring.seal(auth.codec.pack(newer), purpose="record", binding=newer.sid)
    kept = published(taken, owner=owner, gen=newer.gen, sealed=sealed, expires_at=newer.expires_at)
    return len(kept.to_bytes())


def main() -> None:
    names = "".join(f" {name} |" for name in CONTENDERS)
    print("bytes of the cookie's value, and of the record in the store\n")
    print(f"| tokens | characters |{names} record |")
    print("|---|---:|" + "---:|" * (len(CONTENDERS) + 1))
    for name, (access, refresh) in shapes().items():
        user = User(id=ID, access_token=access, refresh_token=refresh, expires_at=1795634140)
        cells = ""
        for size in CONTENDERS.values():
            try:
                cells += f" {size(user):,} |"
            except ImportError as error:
                cells += f" no {error.name} |"
        print(f"| {name} | {len(access) + len(refresh):,} |{cells} {_record(user):,} |")
    print("\nFe26.2 is this library's `IronSealer`: what iron-session writes of the same session.")


if __name__ == "__main__":
    main()
