"""What is said to Salesforce's token endpoint, and how its answers are read. It knows nothing of triseal's protocol."""

import json
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlencode, urlsplit

from ._errors import SalesforceError
from .v1 import credential_pb2 as messages

# They say that there was no connection, so that nothing was sent.
_NO_CONNECTION = (ConnectionRefusedError, socket.gaierror, ssl.SSLCertVerificationError)
# Of one call to the token endpoint, in seconds: for each step of connecting, and for an answer, of which all has to be
# there after twice as long.
HTTP_TIMEOUT = 10.0
_MAX_ANSWER_OCTETS = 262_144
# Until the year 5138: a Timestamp ends with 9999.
_MILLISECONDS = re.compile("[0-9]{1,14}")


@dataclass(frozen=True)
class ConnectedApp:
    """The app in Salesforce that customers consent to."""

    client_id: str
    # Empty if the app does not require one.
    client_secret: str = field(default="", repr=False)

    def refresh(self, connection: messages.SalesforceOAuth) -> messages.SalesforceOAuth:
        """Asks for new tokens, once: each refresh token is good for one use, so nothing here may try again."""
        answer = self._post(connection.token_url, grant_type="refresh_token", refresh_token=connection.refresh_token)
        if not _text(answer, "access_token"):
            raise SalesforceError(200, "no access_token")
        return tokens(answer)

    def revoke(self, connection: messages.SalesforceOAuth) -> None:
        """Revokes the refresh token, and with it the connection."""
        url = connection.token_url.removesuffix("/token") + "/revoke"
        try:
            self._post(url, token=connection.refresh_token)
        except SalesforceError as error:
            # 400: it is dead already.
            if error.status != 400:
                raise

    def _post(self, url: str, **form: str) -> Mapping[str, Any]:
        if urlsplit(url).scheme not in ("https", "http"):
            raise SalesforceError(None, unsent=True)
        form["client_id"] = self.client_id
        if self.client_secret:
            form["client_secret"] = self.client_secret
        end = time.monotonic() + 2 * HTTP_TIMEOUT
        try:
            with _answer(url, urlencode(form).encode()) as answer:
                status, octets = answer.status, _read(answer, end)
        except urllib.error.URLError as error:
            raise SalesforceError(None, unsent=isinstance(error.reason, _NO_CONNECTION)) from None
        except (OSError, HTTPException):
            raise SalesforceError(None) from None
        said = _object(octets, status)
        if status != 200:
            raise SalesforceError(status, _text(said, "error"), _text(said, "error_description"))
        return said


def _answer(url: str, form: bytes) -> HTTPResponse | urllib.error.HTTPError:
    try:
        return _opener.open(url, form, HTTP_TIMEOUT)
    except urllib.error.HTTPError as refusal:
        return refusal


def _read(answer: HTTPResponse | urllib.error.HTTPError, end: float) -> bytes:
    octets = b""
    while len(octets) < _MAX_ANSWER_OCTETS and (part := answer.read1(65_536)):
        octets += part
        if time.monotonic() > end:
            raise TimeoutError
    return octets


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token goes where it was to go, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def _object(octets: bytes, status: int) -> Mapping[str, Any]:
    try:
        said = json.loads(octets or b"{}")
    except ValueError:
        said = None
    if isinstance(said, dict):
        return said
    if status == 200:
        raise SalesforceError(status, "no JSON object")
    return {}


def tokens(answer: Mapping[str, Any], token_url: str = "") -> messages.SalesforceOAuth:
    """The answer of Salesforce's token endpoint, as it is to be stored. What it does not say stays empty.

    Nothing but its access token is required: tokens must not be lost because something beside them is odd.
    """
    found = messages.SalesforceOAuth(
        access_token=_text(answer, "access_token"),
        refresh_token=_text(answer, "refresh_token"),
        instance_url=_text(answer, "instance_url"),
        token_url=token_url,
        identity_url=_text(answer, "id"),
        scopes=_text(answer, "scope").split(),
    )
    issued_at = str(answer.get("issued_at", ""))
    if _MILLISECONDS.fullmatch(issued_at):
        found.issue_time.FromMilliseconds(int(issued_at))
    return found


def token_url_of(answer: Mapping[str, Any]) -> str:
    """`https://HOST/id/…` → `https://HOST/services/oauth2/token`: production and sandboxes differ in the host."""
    scheme, host, *_ = urlsplit(_text(answer, "id"))
    if not host:
        raise ValueError("Salesforce's answer has no id: say its token URL")
    return f"{scheme}://{host}/services/oauth2/token"


def _text(answer: Mapping[str, Any], name: str) -> str:
    found = answer.get(name)
    return found if isinstance(found, str) else ""
