"""Requests to an OpenAI-compatible server, sent again where a failure may pass.

What may pass (a full queue, a restart, a cut answer) is tried again with growing pauses; what will not (a
wrong key, an unknown model) ends the command. The key comes from the environment and is never stored.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from socket import socket
from threading import Event, Lock
from typing import Any, TypeVar
from urllib import request
from urllib.error import HTTPError
from urllib.parse import urlsplit

from reckoner.config.schema import EndpointConfig
from reckoner.errors import InputError, Stopped

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two tries: twice as long each time, less a random part, or as the server asks."""

PASSING = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
"""HTTP codes that another try may not meet again."""

LARGEST_ANSWER = 50_000_000
"""Bytes that are read of one answer."""

SECRET = 8
"""Characters from which on a key is masked in answers; a shorter one, as `EMPTY`, is a word and no secret."""

T = TypeVar("T")


class Passing(Exception):
    """A failure that may pass; `pause` is how long the server asks to wait, in seconds."""

    def __init__(self, why: str, pause: float = 0.0) -> None:
        super().__init__(why)
        self.pause = pause


class _NoRedirect(request.HTTPRedirectHandler):
    """A redirected request would take the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Reads(io.RawIOBase):
    """Reads of an answer that end together at one time limit, however slowly its bytes come."""

    def __init__(self, connection: socket, file: io.BufferedReader) -> None:
        self.connection, self.file = connection, file
        self.deadline = time.monotonic() + (connection.gettimeout() or 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.connection.settimeout(left)
        return self.file.raw.readinto(buffer)

    def close(self) -> None:
        self.file.close()
        super().close()


class _Answer(HTTPResponse):
    """An answer whose head and body together take at most the timeout of its connection."""

    def __init__(self, sock: socket, *args: Any, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp = io.BufferedReader(_Reads(sock, self.fp))

    def begin(self) -> None:
        try:
            super().begin()
        except (OSError, HTTPException):
            self.close()
            raise


class _Plain(HTTPConnection):
    response_class = _Answer


class _Secure(HTTPSConnection):
    response_class = _Answer


class _PlainHandler(request.HTTPHandler):
    def http_open(self, sent: request.Request) -> HTTPResponse:
        return self.do_open(_Plain, sent)


class _SecureHandler(request.HTTPSHandler):
    def https_open(self, sent: request.Request) -> HTTPResponse:
        return self.do_open(_Secure, sent)


class Caller:
    """Sends requests below `endpoint.url`, at most `endpoint.requests_per_minute`, and again what may pass.

    The key comes from the environment. Raises `InputError` for an address that is none and for a key that is
    not there.
    """

    def __init__(self, settings: EndpointConfig, sleep: Callable[[float], None] = time.sleep) -> None:
        address = urlsplit(settings.url)
        if address.scheme not in ("http", "https") or not address.hostname or address.query:
            raise InputError(f"endpoint.url={settings.url} is no address. Write http://HOST:PORT/v1")
        self.key = os.environ.get(settings.key_env, "") if settings.key_env else ""
        if settings.key_env and not self.key:
            raise InputError(
                f"endpoint.key_env={settings.key_env}: no such variable in the environment. Export it"
            )
        self.settings, self.url, self.sleep = settings, settings.url.rstrip("/"), sleep
        self.opener = request.build_opener(_NoRedirect, _PlainHandler, _SecureHandler)
        self.next_slot, self.lock, self.failed, self.retried = 0.0, Lock(), Event(), 0

    def send(self, url: str, fields: Mapping[str, Any], read: Callable[[Any], T], what: str) -> T:
        """What `read` makes of the answer to one request, which asks for `what`.

        Raises `Stopped` where the server keeps failing, and `InputError` where it refuses. Once `failed` is
        set, nothing is tried again.
        """
        body = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
        for tried in range(self.settings.max_retries + 1):
            self._wait_for_slot()
            try:
                return read(self._post(url, body))
            except Passing as failure:
                why, self.retried = failure, self.retried + 1
                longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2**tried)
                if self.failed.is_set():
                    break
                if tried < self.settings.max_retries:
                    self.sleep(max(failure.pause, longest * random.uniform(0.5, 1)))
        raise Stopped(
            f"{url}: {why}, {tried + 1} times for {what}. "
            "Answers so far are kept; the same command goes on from there"
        )

    def _wait_for_slot(self) -> None:
        if not self.settings.requests_per_minute:
            return
        with self.lock:
            now = time.monotonic()
            slot = max(now, self.next_slot)
            self.next_slot = slot + 60 / self.settings.requests_per_minute
        self.sleep(slot - now)

    def _post(self, url: str, body: bytes) -> Any:
        """The JSON that the server answers with; raises `Passing`, or `InputError` where it refuses."""
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        sent = request.Request(url, body, headers)
        try:
            with self.opener.open(sent, timeout=self.settings.timeout) as answer:
                return self._without_key(json.loads(answer.read(LARGEST_ANSWER)))
        except HTTPError as error:
            with error:
                if error.code in PASSING:
                    raise Passing(f"HTTP {error.code}", _retry_after(error.headers)) from error
                raise InputError(f"{url} refuses with HTTP {error.code}: {self._reason(error)}") from error
        except (OSError, HTTPException) as error:
            raise Passing(f"no answer ({type(error).__name__}: {error})"[:200]) from error
        except (ValueError, RecursionError) as error:  # the second by an answer of many thousand levels
            raise Passing("an answer that is not JSON") from error

    def _reason(self, error: HTTPError) -> str:
        """What the server says of its refusal, or where it redirects to; without the key."""
        try:
            said = " ".join(error.read(2000).decode("utf-8", "replace").split())[:300]
        except (OSError, HTTPException):
            said = ""
        if 300 <= error.code < 400 and (target := error.headers.get("Location")):
            leads = f"it leads to {target[:200]}. Set endpoint.url to the server itself"
            said = "; ".join(filter(None, (said, leads)))
        return said.replace(self.key, "***") if self.key else said

    def _without_key(self, answer: Any) -> Any:
        """An answer in which the key is masked, since what it says goes into files."""
        if len(self.key) < SECRET:
            return answer
        written = json.dumps(answer, ensure_ascii=False)
        key = json.dumps(self.key, ensure_ascii=False)[1:-1]
        return json.loads(written.replace(key, "***")) if key in written else answer


def first_choice(answer: Any) -> dict[str, Any]:
    """What an answer chose first; raises `Passing` where it has no choices."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise Passing("an answer without choices, as no OpenAI-compatible server writes it")
    return choice


def _retry_after(headers: Message) -> float:
    """Seconds that the server asks to wait: a number, or the time until an HTTP date (RFC 9110)."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", text):
        seconds = float(text)
    else:
        try:
            until = parsedate_to_datetime(text)
        except ValueError:
            return 0.0
        seconds = (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), 10 * LONGEST_PAUSE)
