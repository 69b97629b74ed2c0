"""The version of the contract, and which versions work together.

`MAJOR.MINOR`. Parts with the same major number work together; a new minor number only adds optional
fields and routes. Our clients, services and gateway send it with every request and reply as
`Preceptor-Contract`, and `/v1/info` names it. A part that gets another major number refuses with
both versions in the message. A request or reply without the header is accepted: parts in other
languages need not send it.

Requests refuse unknown fields, so a newer caller may not use what an older receiver lacks: upgrade
the gateway first, then dispatchers, then experts and sources, then trainers.
"""

from __future__ import annotations

import re
from typing import Final

from preceptor_clients.contract.errors import IncompatibleVersion

CONTRACT: Final = "1.0"
HEADER: Final = "preceptor-contract"
_FORM: Final = re.compile(r"(\d{1,6})\.(\d{1,6})")


def check_contract(said: str | None, who: str) -> None:
    """Returns where a part that speaks the contract `said` works together with this one.

    Raises:
        IncompatibleVersion: its major number differs, or it is no version.
    """
    if said is None or said == CONTRACT:
        return
    form = _FORM.fullmatch(said.strip())
    if form is None:
        raise IncompatibleVersion(
            f"{who} speaks contract {said[:40]!r}, which is not MAJOR.MINOR", field=HEADER
        )
    ours = CONTRACT.partition(".")[0]
    if form[1] != ours:
        newer = "this side" if int(form[1]) > int(ours) else "that side"
        raise IncompatibleVersion(
            f"{who} speaks contract {said}, this side {CONTRACT}; versions with the same number "
            f"before the point work together: upgrade {newer}",
            field=HEADER,
        )
