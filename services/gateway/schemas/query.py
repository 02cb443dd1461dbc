"""Values of query parameters, as strict as those of bodies: each has one spelling."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

_FLAGS: Final = {"true": True, "false": False}
_WHOLE: Final = re.compile("-?[0-9]{1,18}")


def _flag(value: Any) -> Any:
    if isinstance(value, str) and value in _FLAGS:
        return _FLAGS[value]
    raise PydanticCustomError("flag", "Input should be 'true' or 'false'")


def _whole(value: Any) -> Any:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    raise PydanticCustomError("whole_number", "Input should be a whole number, in up to 18 digits")


Flag = Annotated[bool, BeforeValidator(_flag)]
WHOLE: Final = BeforeValidator(_whole)  # behind the bounds of an int, or the document would lose them
