"""The session's fields, and which of them never leave the server.

Knows nothing of cookies, stores or time; a user is a plain value.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from .bearer import BearerAuth
from .errors import ConfigurationError

TOKENS: Final = ("access_token", "refresh_token", "id_token")
"""The fields that are plain attributes to the programmer and invisible to everything else."""


class SessionUser(BaseModel):
    """Who is signed in. Subclass it: the fields of the subclass are the session's fields.

    A field declared with ``exclude=True`` is not stored and comes back as its default.
    The three tokens never show in ``repr``, ``model_dump``, ``model_dump_json``, a response
    or an OpenAPI document.
    """

    # A ValidationError shows its input unless told otherwise, and the input holds tokens.
    model_config = ConfigDict(hide_input_in_errors=True)

    id: str = Field(coerce_numbers_to_str=True)
    """The user's identifier (OpenID Connect ``sub``); an int is normalised to str."""

    access_token: str = Field(exclude=True, repr=False)
    """RFC 6749 §1.4. Send it to the API, and to nobody else."""

    refresh_token: str | None = Field(default=None, exclude=True, repr=False)
    """RFC 6749 §1.5. ``None``: the session cannot be refreshed."""

    expires_at: int | None = None
    """Unix seconds when the access token expires. ``None``: unknown, never refreshed ahead."""

    id_token: str | None = Field(default=None, exclude=True, repr=False)
    """OpenID Connect Core §2. ``None``: the server gave none."""

    def bearer(self, *hosts: str) -> BearerAuth:
        """``auth=`` for an ``httpx`` or ``httpx2`` client: the access token, for these hosts alone.

        ``api.example``, or with a port ``api.example:8443``. Raises `ConfigurationError` for what
        is no host.
        """
        return BearerAuth(self.access_token, hosts)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name in TOKENS:
            field = cls.model_fields.get(name)
            if field is None or not field.exclude or field.repr:
                raise ConfigurationError(
                    f"{cls.__name__}.{name} would show the token: leave the field as SessionUser "
                    f"declares it, or declare it with Field(exclude=True, repr=False)"
                )
        if not cls.model_config.get("hide_input_in_errors"):
            raise ConfigurationError(
                f"{cls.__name__} turns hide_input_in_errors off: validation errors would show "
                f"tokens; leave it on"
            )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # Serialization mode leaves excluded fields out by itself; a model that is also used as
        # a request body would show them.
        schema = handler(core_schema)
        target = handler.resolve_ref_schema(schema)
        names = {cls.model_fields[name].alias or name for name in TOKENS} | set(TOKENS)
        for name in names:
            target.get("properties", {}).pop(name, None)
        if "required" in target:
            target["required"] = [name for name in target["required"] if name not in names]
        return schema
