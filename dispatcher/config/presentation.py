"""Settings for people's eyes: secrets masked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MASK: Final = "********"
_SECRET_NAME: Final = re.compile(
    r"password|passwd|secret|token|credential|access_key|signing_keys|security_key", re.IGNORECASE
)
# Greedy up to the last "@": a password may contain any character, so rather too much is masked than too little.
_URL_PASSWORD: Final = re.compile(r"(://[^:/@\s]*:)\S*@")
_URL_PARAMETER: Final = re.compile(r"([?&][^=&]*(?:password|secret|token)[^=&]*=)[^&\s]*", re.IGNORECASE)


def censor(name: str, value: Any) -> Any:
    """Return a value with everything masked that its name or a URL in it gives away as secret."""
    if value and _SECRET_NAME.search(name):
        return MASK
    if isinstance(value, str):
        return censor_text(value)
    if isinstance(value, Mapping):
        return {key: censor(str(key), each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(censor("", each) for each in value)
    return value


def censor_text(text: str) -> str:
    """Return a text with the passwords of its URLs masked."""
    return _URL_PARAMETER.sub(rf"\1{MASK}", _URL_PASSWORD.sub(rf"\1{MASK}@", text))
