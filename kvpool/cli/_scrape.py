"""The metrics of a server, read over HTTP in the text format of Prometheus."""

from __future__ import annotations

import math
import re
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urlsplit, urlunsplit

from kvpool._escaping import printable
from kvpool.cli._keys import is_loopback
from kvpool.errors import KVPoolError

__all__ = ["Scrape", "ScrapeError", "Source", "metrics_url"]

_LINE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})?[ \t]+(\S+)(?:[ \t]+-?\d+)?")
_LABEL = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_MOST_BYTES = 16 << 20


class ScrapeError(KVPoolError):
    """The metrics of a server cannot be read; the text says where and why."""


class Scrape:
    """The metrics of a server at one moment.

    Parameters
    ----------
    text : str
        In the text format of Prometheus. Lines that are not in that format are passed over.
    seconds : float
        When it was read, on a clock that never goes back.

    Attributes
    ----------
    seconds
    """

    def __init__(self, text: str, seconds: float) -> None:
        self.seconds = seconds
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for name, labels, value in _samples(text):
            self._samples.setdefault(name, []).append((labels, value))

    def __contains__(self, name: str) -> bool:
        return name in self._samples

    def __iter__(self) -> Iterator[str]:
        return iter(self._samples)

    def total(self, name: str, /, **labels: str) -> float:
        """Return the sum of the samples that have these labels; 0 if there are none."""
        return math.fsum(value for own, value in self._samples.get(name, ()) if _has(own, labels))

    def by(self, name: str, label: str, /, **labels: str) -> dict[str, float]:
        """Return the sum of the samples that have some labels, for each value of another label."""
        values = dict.fromkeys(
            own.get(label, "") for own, _ in self._samples.get(name, ()) if _has(own, labels)
        )
        return {value: self.total(name, **labels, **{label: value}) for value in values}


def _has(own: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Return whether a sample has these labels; an empty text is that of a label it lacks."""
    return all(own.get(label, "") == wanted for label, wanted in labels.items())


def _samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for line in text.split("\n"):
        match = _LINE.fullmatch(line.strip())  # a comment never does
        if match is None:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        yield (
            match[1],
            {name: _unescaped(text) for name, text in _LABEL.findall(match[2] or "")},
            value,
        )


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], text)


def metrics_url(text: str) -> str:
    """Return the address of the metrics of a server.

    Raises
    ------
    ValueError
        The text is not the address of an HTTP server.

    Examples
    --------
    >>> metrics_url("127.0.0.1:8000"), metrics_url("https://host/kv/metrics")
    ('http://127.0.0.1:8000/metrics', 'https://host/kv/metrics')
    """
    parts = urlsplit(text if "://" in text else f"http://{text}")
    if parts.scheme not in {"http", "https"} or not parts.hostname or not _has_port(parts):
        raise ValueError(f"invalid address {text!r}; expected e.g. http://127.0.0.1:8000")
    path = parts.path if parts.path.strip("/") else "/metrics"
    return urlunsplit(parts._replace(path=path, fragment=""))


def _has_port(parts: SplitResult) -> bool:
    """Tell whether the port is one that there can be, or is left out."""
    try:
        return parts.port != 0
    except ValueError:
        return False


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which are errors then: the key is for the server that was named."""

    def redirect_request(self, *_: object) -> None:
        """Follow no redirect."""


class Source:
    """Where the metrics of a server come from.

    Parameters
    ----------
    url : str
        From `metrics_url`.
    key : str, optional
        Sent as a bearer token.
    timeout : float, default 5
        Seconds to wait for an answer.

    Attributes
    ----------
    url
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 5) -> None:
        self.url = url
        headers = {"Accept": "text/plain"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self._request = urllib.request.Request(url, headers=headers)
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if is_loopback(urlsplit(url).hostname or ""):
            handlers.append(urllib.request.ProxyHandler(proxies={}))
        self._opener = urllib.request.build_opener(*handlers)
        self._timeout = timeout

    def read(self) -> str:
        """Return the text of the metrics.

        Raises
        ------
        ScrapeError
            The server does not answer, or with something else than metrics.
        """
        try:
            with self._opener.open(self._request, timeout=self._timeout) as answer:
                content: bytes = answer.read(_MOST_BYTES + 1)
        except HTTPError as error:
            error.close()
            hint = "; pass the key of the server by --api-key-file" if error.code == 401 else ""
            raise self._error(f"HTTP {error.code} {error.reason}{hint}") from error
        except URLError as error:
            raise self._error(_reason(error.reason)) from error
        except (OSError, HTTPException) as error:
            raise self._error(_reason(error)) from error
        if len(content) > _MOST_BYTES:
            raise self._error(f"the answer has more than {_MOST_BYTES >> 20} MiB")
        text = content.decode("utf-8", "replace")
        if not any(name.startswith("kvpool_") for name, _, _ in _samples(text)):
            raise self._error("the answer has no metrics of kvpool")
        return text

    def _error(self, reason: str) -> ScrapeError:
        return ScrapeError(f"cannot read {self.url}: {printable(reason)}")


def _reason(error: object) -> str:
    """Return what the system says of an error, without its number."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
