"""What the tests and the worker of clients/test share: clients by the environment that it gives, and what is asked
of its Salesforce.
"""

import json
import os
import random
import urllib.error
import urllib.request

from triseal import Client, ConnectedApp, Unauthorized

SALESFORCE = os.environ["SALESFORCE_URL"]
CERTIFICATES = os.environ["TRISEAL_CERTIFICATES"]
CUSTOMER = "demo"


APP = ConnectedApp("test", "app-secret")


def client(caller: str, endpoint: str = "", app: ConnectedApp = APP, **files: str) -> Client:
    """As a product makes one."""
    own = {"certificate": f"{CERTIFICATES}/{caller}.pem", "key": f"{CERTIFICATES}/{caller}.key", **files}
    endpoint = endpoint or random.choice(os.environ["TRISEAL_ENDPOINT"].split())
    return Client(endpoint, app, ca=f"{CERTIFICATES}/ca.pem", **own)


def limits(access_token: str, instance_url: str) -> dict:
    """A call to Salesforce's API, as a product makes it."""
    headers = {"authorization": f"Bearer {access_token}"}
    request = urllib.request.Request(f"{instance_url}/services/data/v62.0/limits", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 401:
            raise Unauthorized from None
        raise


def post(path: str, body: dict, base: str = SALESFORCE) -> dict:
    with urllib.request.urlopen(base + path, json.dumps(body).encode(), timeout=60) as answer:
        return json.loads(answer.read() or b"{}")


def consent(connection: str) -> dict:
    return post("/admin/connections", {"id": connection})


def expire(connection: str) -> None:
    post("/admin/expire", {"id": connection})


def faults(connection: str, *kinds: str, seconds: float = 0) -> None:
    post("/admin/faults", {"connection": connection, "faults": [{"kind": kind, "seconds": seconds} for kind in kinds]})


def seen(connection: str) -> dict:
    with urllib.request.urlopen(SALESFORCE + "/admin/report", timeout=30) as answer:
        return json.load(answer)["connections"][connection]


def kill_and_restart() -> None:
    post("/kill", {}, os.environ["CONTROL_URL"])


def drain_and_restart() -> None:
    post("/drain", {}, os.environ["CONTROL_URL"])


def mute() -> None:
    """What comes by TRISEAL_LINE is done from now on, and not answered."""
    post("/mute", {}, os.environ["CONTROL_URL"])


def unmute() -> None:
    post("/unmute", {}, os.environ["CONTROL_URL"])


def kill_a_replica() -> None:
    post("/kill-a-replica", {}, os.environ["CONTROL_URL"])
