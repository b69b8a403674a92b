"""One of the four languages of `clients/test mixed`: workers of three products on shared connections. Prints what
came of it.
"""

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

from support import CUSTOMER, client, limits

END = time.monotonic() + float(os.environ["SECONDS"])


def work(made):
    calls, failures = 0, []
    while time.monotonic() < END:
        name = f"shared.connection-{random.randrange(int(os.environ['CONNECTIONS']))}"
        try:
            made.call_with_token(CUSTOMER, name, limits)
            calls += 1
        except Exception as error:
            failures.append(repr(error))
        time.sleep(random.uniform(0, 0.2))
    return calls, failures


clients = [client(caller) for caller in os.environ["CALLERS"].split()]
workers = [made for made in clients for _ in range(int(os.environ["WORKERS"]))]
with ThreadPoolExecutor(len(workers)) as pool:
    done = list(pool.map(work, workers))
print(json.dumps({"calls": sum(calls for calls, _ in done), "failures": [why for _, found in done for why in found]}))
