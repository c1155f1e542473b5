"""What values settings take: each type checks and converts one value, reads it from text, and names itself for people.

`Type.convert` takes what configuration code writes and returns what the rest of the package reads; it raises
`ValueError` with a phrase that continues "task_time_limit …". `Type.parse` turns the text of an environment variable
into something `convert` takes. `None` is handled by the option (`Option.nullable`), never here.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Collection, Mapping
from typing import Any, Final

from dispatcher import rates

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


def mismatch(expected: str, value: Any) -> ValueError:
    """Return the error of a value that is something else than expected."""
    return ValueError(f"must be {expected}, not {value!r}")


class Type:
    """Any value; the base of the types."""

    name: str = "any"

    def convert(self, value: Any) -> Any:
        """Return the value in the shape the package reads; raise `ValueError` if it cannot be meant."""
        return value

    def parse(self, text: str) -> Any:
        """Return the value an environment variable spells; structured values are JSON."""
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(f"must be JSON ({self.name}): {error}") from None


class Bool(Type):
    """`True` or `False`; 1 and 0 count."""

    name = "bool"

    def convert(self, value: Any) -> bool:
        """Return the truth value; text is refused, because ``"False"`` would be true."""
        if isinstance(value, bool) or (isinstance(value, int) and value in {0, 1}):
            return bool(value)
        raise mismatch("True or False", value)

    def parse(self, text: str) -> bool:
        """Read true/false, yes/no, on/off or 1/0 in any case."""
        word = text.strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
        raise mismatch("one of true, false, yes, no, on, off, 1, 0", text)


class Number(Type):
    """A finite number within bounds."""

    kind = "number"

    def __init__(self, least: float | None = None, most: float | None = None, *, above: float | None = None) -> None:
        self.least, self.most, self.above = least, most, above
        bounds = [
            *([f"≥ {least:g}"] if least is not None else []),
            *([f"> {above:g}"] if above is not None else []),
            *([f"≤ {most:,.15g}"] if most is not None else []),
        ]
        self.name = " ".join([self.kind, *([", ".join(bounds)] if bounds else [])])

    def number(self, value: Any) -> float:
        """Return the plain number a value stands for."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise mismatch(self.name, value)
        return value

    def convert(self, value: Any) -> float:
        """Return the number if it lies within the bounds."""
        number = self.number(value)
        too_small = (self.least is not None and number < self.least) or (
            self.above is not None and number <= self.above
        )
        if too_small or (self.most is not None and number > self.most):
            raise mismatch(self.name, value)
        return float(number)

    def parse(self, text: str) -> float:
        """Read a decimal number."""
        try:
            return float(text)
        except ValueError:
            raise mismatch(self.name, text) from None


class Int(Number):
    """A whole number within bounds."""

    kind = "int"

    def convert(self, value: Any) -> int:
        """Return the whole number; a float is taken if it has no fraction."""
        number = super().convert(value)
        if not number.is_integer():
            raise mismatch(self.name, value)
        return int(number)


class Seconds(Number):
    """A duration: seconds as a number or a `datetime.timedelta`; read as float seconds."""

    kind = "seconds"

    def number(self, value: Any) -> float:
        """Return the seconds of a number or timedelta."""
        return super().number(value.total_seconds() if isinstance(value, datetime.timedelta) else value)


class RateLimit(Type):
    """How often a task may start, in Celery's syntax; kept as written."""

    name = 'number or text such as "100/m"'

    def convert(self, value: Any) -> str | float:
        """Return the limit if it can be read."""
        rates.parse(value)
        limit: str | float = value
        return limit

    def parse(self, text: str) -> str:
        """Return the text as it is."""
        return text


class Text(Type):
    """Text that is not empty."""

    name = "str"

    def convert(self, value: Any) -> str:
        """Return the text."""
        if not isinstance(value, str) or not value.strip():
            raise mismatch("text that is not empty", value)
        return value

    def parse(self, text: str) -> str:
        """Return the text as it is."""
        return text


class Choice(Text):
    """One word of a few; other spellings and other people's words are known by table."""

    def __init__(
        self, *words: str, also: Mapping[str, str] | None = None, refused: Mapping[str, str] | None = None
    ) -> None:
        self.words, self.also, self.refused = words, dict(also or {}), dict(refused or {})
        self.name = ", ".join(f'"{word}"' for word in words)

    def convert(self, value: Any) -> str:
        """Return the word in its canonical spelling."""
        word = super().convert(value).strip()
        word = self.also.get(word.lower(), word)
        for spelling in (word, word.lower(), word.upper()):
            if spelling in self.words:
                return spelling
        if word in self.refused:
            raise ValueError(f"cannot be {value!r}: {self.refused[word]}")
        raise mismatch(f"one of {self.name}", value)


class OpenChoice(Choice):
    """One word of a few, or one that the user registers; what looks like a misspelt word is refused all the same."""

    def convert(self, value: Any) -> str:
        """Return the word in its canonical spelling."""
        import difflib

        word = Text.convert(self, value).strip()
        known = (*self.words, *self.also, *self.refused)
        if word.lower() not in known and not difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.75):
            return word
        return super().convert(word)


class Names(Type):
    """Several names; read as a tuple. One name alone is taken as a list of one."""

    name = "list of str"

    def __init__(self, element: Text | None = None) -> None:
        self.element = element or Text()
        if isinstance(element, Choice):
            self.name = f"list of {element.name}"

    def convert(self, value: Any) -> tuple[str, ...]:
        """Return the names, each checked, without duplicates, in their order."""
        if isinstance(value, str):
            value = [value]
        if isinstance(value, Mapping) or not isinstance(value, Collection):
            raise mismatch("a list of names", value)
        return tuple(dict.fromkeys(self.element.convert(each) for each in value))

    def parse(self, text: str) -> list[str]:
        """Read a JSON list, or names separated by commas."""
        if text.lstrip().startswith("["):
            return list(super().parse(text))
        return [part.strip() for part in text.split(",") if part.strip()]


class Url(Text):
    """The URL of a broker or backend; Celery's schemes that do not exist here are refused with the ones that do."""

    name = "URL"

    def __init__(self, example: str, foreign: Mapping[str, str]) -> None:
        self.example, self.foreign = example, foreign

    def convert(self, value: Any) -> str:
        """Return the URL; a list of one counts, a list of several (failover) does not."""
        urls = value if isinstance(value, list | tuple) else value.split(";") if isinstance(value, str) else [value]
        if len(urls) > 1 and all(isinstance(url, str) for url in urls):
            raise ValueError(
                f"names {len(urls)} URLs; failover lists are not available: give one, such as {self.example}"
            )
        url = super().convert(urls[0] if urls else value).strip()
        scheme = url.partition(":")[0]
        family = scheme.partition("+")[0].lower()
        if family in self.foreign:
            raise ValueError(f"cannot use {scheme}: {self.foreign[family]}; use one such as {self.example}")
        if "://" not in url:  # without the value: it may hold a password
            raise ValueError(f"must be a URL such as {self.example}")
        return url


class PayloadUrl(Text):
    """The place of large payloads: an S3 bucket with an optional prefix, or a directory; read as a URL."""

    name = "bucket or URL"

    def convert(self, value: Any) -> str:
        """Return the URL; a bucket's name alone stands for ``s3://`` and that name."""
        text = super().convert(value).strip()
        url = text if "://" in text else f"s3://{text}"
        scheme, _, rest = url.partition("://")
        absolute = rest.startswith("/")
        if (scheme, absolute) not in {("s3", False), ("file", True)} or not rest.strip("/"):
            raise mismatch("a bucket, bucket/prefix, s3://bucket/prefix or file:///directory", value)
        return url


class Zone(Text):
    """A time zone: an IANA name or a `datetime.tzinfo`; kept as given."""

    name = "str or tzinfo"

    def convert(self, value: Any) -> Any:
        """Return the zone; names must be known to this machine."""
        if isinstance(value, datetime.tzinfo):
            return value
        name = super().convert(value)
        if name.upper() != "UTC":
            import zoneinfo

            try:
                zoneinfo.ZoneInfo(name)
            except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
                raise mismatch(
                    "an IANA time zone known here (such as Europe/Paris; see the tzdata package)", value
                ) from None
        return name


class LogFormat(Choice):
    """A named log format, or a format string of `logging`."""

    def __init__(self) -> None:
        super().__init__("human", "json")
        self.name = f"{self.name}, or a logging format string"

    def convert(self, value: Any) -> str:
        """Return the name or the format string, told apart by its ``%(``."""
        if isinstance(value, str) and "%(" in value:
            return value
        return super().convert(value)


class LogLevel(Choice):
    """A level of `logging`, by name or number."""

    def __init__(self) -> None:
        super().__init__("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", also={"warn": "WARNING", "fatal": "CRITICAL"})

    def convert(self, value: Any) -> str:
        """Return the level's name."""
        levels = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}
        if isinstance(value, int) and not isinstance(value, bool) and value in levels:
            return levels[value]
        return super().convert(value)


class Concurrency(Int):
    """A number of tasks at once; Celery's ``"auto"`` means the default."""

    def convert(self, value: Any) -> Any:
        """Return the number, or `None` for ``"auto"``."""
        return None if value == "auto" else super().convert(value)

    def parse(self, text: str) -> Any:
        """Read a number or ``auto``."""
        return "auto" if text.strip().lower() == "auto" else super().parse(text)


class Expiry(Seconds):
    """A lifetime in seconds; 0 means for ever, like `None`."""

    def convert(self, value: Any) -> Any:
        """Return the seconds, or `None` for 0."""
        return super().convert(value) or None
