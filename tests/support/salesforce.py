#!/usr/bin/env python3
"""A Salesforce that can be kept in one hand: the token endpoint and one API, with refresh token rotation on, for tests of this repository.

It behaves as the real one where that matters to whoever shares a connection:

- an access token lives for --access-token-life seconds, and no answer says so: the API answers 401 when it is dead
- each refresh token is good for one use, and the answer has the next one
- a refresh token that is used a second time revokes the connection: every token of it is dead, until the customer consents again
- what is wrong with a refresh token is answered by 400 and {"error": "invalid_grant"}; but some of what is so answered is wrong with something else
- whoever asks for new tokens says which app it is: client_id=test and client_secret=app-secret

    tests/support/salesforce.py [--port N] [--access-token-life SECONDS]

prints `listening on http://127.0.0.1:PORT` and serves until its standard input ends, if that is a pipe, or it is killed. Python 3.8 or later,
the standard library, and nothing else.

    POST /services/oauth2/token      grant_type=refresh_token&refresh_token=…&client_id=…&client_secret=…   the token endpoint
    POST /services/oauth2/revoke     token=…                                          revokes the connection of a token
    GET  /services/data/v62.0/limits Authorization: Bearer …                          the API: 200, or 401 INVALID_SESSION_ID

For tests alone, and without authentication:

    POST /admin/connections          {"id": "…"}  a customer consents: the connection, new or anew. Answers as the token endpoint does
    POST /admin/faults               {"connection": "…", "faults": [{"kind": "…", "seconds": …}, …]}  what becomes of the next refreshes and
                                     revocations, one each. Of a refresh:
                                     slow (answered late), lost_before (not done, no answer), lost_after (done, no answer),
                                     cut (done, the answer breaks off), stalled (done, the answer stops for that long and breaks off),
                                     unavailable (503, not done), bad_gateway (502, done),
                                     odd (done, with fields of other types than usual), unstorable (done, with fields that triseal refuses),
                                     restricted (400 invalid_grant, though the token is good), busy (so, too, as if it were being used)
                                     Of a revocation: revoke_slow (answered late), revoke_unavailable (503, not done)
    POST /admin/expire               {"id": "…"}  the access tokens of a connection die now
    GET  /admin/report               {"connections": {ID: {"refreshes", "reuses", "deaths", "revoked", "consents", "calls", "refused"}}, "reuses": N}
                                     `reuses`: refresh tokens that were used twice. `deaths`: access tokens that the API has refused for
                                     their age, each counted once
"""

import argparse
import json
import os
import secrets
import stat
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

MAX_BODY_OCTETS = 65_536
MAX_FAULT_SECONDS = 60
APP = {"client_id": "test", "client_secret": "app-secret"}


class Connection:
    """One customer's consent, and the tokens that came of it."""

    def __init__(self, name):
        self.name = name
        self.revoked = False
        self.faults = []
        self.counts = {"refreshes": 0, "reuses": 0, "deaths": 0, "consents": 0, "calls": 0, "refused": 0}


class Salesforce:
    """All connections. Every method is atomic."""

    def __init__(self, url, access_token_life):
        self.url = url
        self.life = access_token_life
        self.lock = threading.Lock()
        self.connections = {}
        # Token -> (connection, consent), and for access tokens when it dies.
        self.refresh_tokens = {}
        self.access_tokens = {}
        self.used = set()
        self.dead = set()

    def consent(self, name):
        with self.lock:
            connection = self.connections.setdefault(name, Connection(name))
            connection.counts["consents"] += 1
            connection.revoked = False
            return self._issue(connection)

    def add_faults(self, name, faults):
        with self.lock:
            self.connections[name].faults.extend(faults)

    def expire(self, name):
        with self.lock:
            now = time.monotonic()
            for token, (connection, consent, dies) in self.access_tokens.items():
                if connection.name == name:
                    self.access_tokens[token] = (connection, consent, min(dies, now))

    def next_fault(self, token, revokes):
        """What becomes of a refresh or a revocation with this token, before anything is done: its kind, and seconds."""
        with self.lock:
            connection = self.refresh_tokens.get(token, (None, 0))[0]
            for fault in connection.faults if connection else []:
                if fault["kind"].startswith("revoke_") == revokes:
                    connection.faults.remove(fault)
                    return fault["kind"], min(float(fault.get("seconds", 0)), MAX_FAULT_SECONDS)
            return "none", 0

    def refresh(self, token):
        """Status and body of the token endpoint's answer."""
        with self.lock:
            connection, consent = self.refresh_tokens.get(token, (None, 0))
            if connection is None:
                return 400, {"error": "invalid_grant", "error_description": "expired access/refresh token"}
            if token in self.used:
                connection.counts["reuses"] += 1
                # Not if the customer has consented since: that consent has tokens of its own.
                connection.revoked = connection.revoked or consent == connection.counts["consents"]
                return 400, {"error": "invalid_grant", "error_description": "token reused"}
            if connection.revoked or consent != connection.counts["consents"]:
                return 400, {"error": "invalid_grant", "error_description": "expired access/refresh token"}
            self.used.add(token)
            connection.counts["refreshes"] += 1
            return 200, self._issue(connection)

    def revoke(self, token):
        with self.lock:
            held = self.refresh_tokens.get(token) or self.access_tokens.get(token)
            if held is None:
                return 400, {"error": "unsupported_token_type", "error_description": "this token is not known"}
            held[0].revoked = True
            return 200, {}

    def call(self, token):
        """Status and body of the API's answer."""
        with self.lock:
            connection, consent, dies = self.access_tokens.get(token, (None, 0, 0.0))
            invalid = [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}]
            if connection is None:
                return 401, invalid
            if connection.revoked or consent != connection.counts["consents"]:
                connection.counts["refused"] += 1
                return 401, invalid
            if time.monotonic() >= dies:
                connection.counts["refused"] += 1
                if token not in self.dead:
                    self.dead.add(token)
                    connection.counts["deaths"] += 1
                return 401, invalid
            connection.counts["calls"] += 1
            return 200, {"DailyApiRequests": {"Max": 15_000, "Remaining": 14_999}, "connection": connection.name}

    def report(self):
        with self.lock:
            connections = {
                name: dict(connection.counts, revoked=connection.revoked) for name, connection in self.connections.items()
            }
            return {"connections": connections, "reuses": sum(found["reuses"] for found in connections.values())}

    def _issue(self, connection):
        """New tokens. A refresh leaves the access tokens before it alone."""
        access, refresh = "00D!access." + secrets.token_urlsafe(24), "5Aep.refresh." + secrets.token_urlsafe(24)
        consent = connection.counts["consents"]
        self.access_tokens[access] = (connection, consent, time.monotonic() + self.life)
        self.refresh_tokens[refresh] = (connection, consent)
        # The fields of https://help.salesforce.com, "OAuth 2.0 Refresh Token Flow"; no expiry is among them.
        return {
            "access_token": access,
            "refresh_token": refresh,
            "signature": "c2lnbmF0dXJl",
            "scope": "api refresh_token",
            "instance_url": self.url,
            "id": self.url + "/id/00D000000000001AAA/005000000000001AAA",
            "token_type": "Bearer",
            "issued_at": str(int(time.time() * 1000)),
        }


NOT_DONE = {
    "unavailable": (503, {"error": "server_error", "error_description": "try again later"}),
    "restricted": (400, {"error": "invalid_grant", "error_description": "ip restricted"}),
    "busy": (400, {"error": "invalid_grant", "error_description": "token request is already being processed"}),
}
# What an answer may have in the place of what it usually has.
FIELDS = {
    "odd": {"issued_at": int(time.time() * 1000), "scope": None, "sfdc_community_id": []},
    "unstorable": {"issued_at": "9" * 5_000, "scope": "api " * 101, "instance_url": "gopher://acme"},
}


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    salesforce = None

    def do_GET(self):
        if self.path == "/services/data/v62.0/limits":
            scheme, _, token = self.headers.get("authorization", "").partition(" ")
            self.answer(*self.salesforce.call(token if scheme.lower() == "bearer" else ""))
        elif self.path == "/admin/report":
            self.answer(200, self.salesforce.report())
        else:
            self.answer(404, {})

    def do_POST(self):
        length = int(self.headers.get("content-length", "0"))
        if not 0 <= length <= MAX_BODY_OCTETS:
            self.close_connection = True
            self.answer(413, {})
            return
        body = self.rfile.read(length).decode()
        if self.path == "/services/oauth2/token":
            self.refresh({name: values[0] for name, values in parse_qs(body).items()})
        elif self.path == "/services/oauth2/revoke":
            self.revoke(parse_qs(body).get("token", [""])[0])
        elif self.path == "/admin/connections":
            self.answer(200, self.salesforce.consent(json.loads(body)["id"]))
        elif self.path == "/admin/faults":
            asked = json.loads(body)
            self.salesforce.add_faults(asked["connection"], asked["faults"])
            self.answer(200, {})
        elif self.path == "/admin/expire":
            self.salesforce.expire(json.loads(body)["id"])
            self.answer(200, {})
        else:
            self.answer(404, {})

    def refresh(self, form):
        if form.get("grant_type") != "refresh_token":
            self.answer(400, {"error": "unsupported_grant_type", "error_description": "grant type not supported"})
            return
        if form.get("client_id") != APP["client_id"]:
            self.answer(400, {"error": "invalid_client_id", "error_description": "client identifier invalid"})
            return
        if form.get("client_secret") != APP["client_secret"]:
            self.answer(400, {"error": "invalid_client", "error_description": "invalid client credentials"})
            return
        token = form.get("refresh_token", "")
        kind, seconds = self.salesforce.next_fault(token, revokes=False)
        if kind in NOT_DONE:
            self.answer(*NOT_DONE[kind])
            return
        if kind == "lost_before":
            self.hang_up(seconds)
            return
        status, said = self.salesforce.refresh(token)
        if kind == "lost_after":
            self.hang_up(seconds)
        elif kind in ("cut", "stalled"):
            self.answer(status, said, missing=40)
            self.hang_up(seconds)
        elif kind == "bad_gateway":
            self.answer(502, {})
        else:
            if kind == "slow":
                time.sleep(seconds)
            if status == 200:
                said.update(FIELDS.get(kind, {}))
            self.answer(status, said)

    def revoke(self, token):
        kind, seconds = self.salesforce.next_fault(token, revokes=True)
        if kind == "revoke_unavailable":
            self.answer(*NOT_DONE["unavailable"])
            return
        answer = self.salesforce.revoke(token)
        time.sleep(seconds)
        self.answer(*answer)

    def hang_up(self, seconds):
        """No answer, but the end of the connection."""
        time.sleep(seconds)
        self.close_connection = True

    def answer(self, status, body, missing=0):
        """The answer, or all of it but so many octets."""
        octets = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json;charset=UTF-8")
        self.send_header("content-length", str(len(octets)))
        self.end_headers()
        self.wfile.write(octets[: len(octets) - missing])

    def log_message(self, *_):
        """Nothing: requests hold tokens."""


class Server(ThreadingHTTPServer):
    """Many clients at once, some of which are killed."""

    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        """A client that is gone is no error of this one."""


def main():
    parser = argparse.ArgumentParser(description="A Salesforce for tests, with refresh token rotation on.")
    parser.add_argument("--port", type=int, default=0, help="0: one that nobody has")
    parser.add_argument("--access-token-life", type=float, default=7200.0, metavar="SECONDS")
    arguments = parser.parse_args()
    server = Server(("127.0.0.1", arguments.port), Handler)
    salesforce = Salesforce("http://127.0.0.1:%d" % server.server_address[1], arguments.access_token_life)
    Handler.salesforce = salesforce
    print("listening on " + salesforce.url, flush=True)
    # Whoever started it by a pipe and was killed takes it along.
    if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdin.read()
    else:
        server.serve_forever()


if __name__ == "__main__":
    main()
