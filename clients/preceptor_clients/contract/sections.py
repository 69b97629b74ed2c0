"""Tables of our TOML files: frozen models that refuse an unknown key with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """One table of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, given: Any) -> Any:
        if isinstance(given, dict):
            for key in cast("dict[str, Any]", given):
                if key not in cls.model_fields:
                    raise ValueError(f"{key}: is unknown here; {nearest(key, cls.model_fields)}")
        return cast("Any", given)


def nearest(key: str, known: Iterable[str]) -> str:
    """The known name that `key` was probably meant to be, or all of them, as words of an error."""
    names = list(known)
    near = difflib.get_close_matches(key, names, n=1)
    return f"did you mean `{near[0]}`?" if near else f"there are {', '.join(names)}"
