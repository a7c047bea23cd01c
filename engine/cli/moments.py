"""Times as they are typed: of ISO 8601, or how long ago."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

import click

_AGO = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Moment(click.ParamType):
    """A time: of ISO 8601, or how long ago (`30m`, `2h`). Milliseconds since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """As said; without an offset from UTC it is local time."""
        if isinstance(value, int):
            return value
        if ago := _AGO.fullmatch(value):
            return int((time.time() - int(ago[1]) * _SECONDS[ago[2]]) * 1000)
        try:
            return int(datetime.fromisoformat(value).timestamp() * 1000)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is no time; write for example 2026-11-24T09:30, or 30m for half an hour ago", param, ctx
            )


MOMENT = Moment()


def iso(milliseconds: int, precision: str = "seconds") -> str:
    """A time as ISO 8601 has it, in UTC."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC).replace(tzinfo=None).isoformat(timespec=precision)}Z"
