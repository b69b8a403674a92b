"""The connections to the service. They are made anew when the certificate's files are exchanged, which gRPC for
Python leaves to its users.
"""

import contextlib
import pathlib
import threading
import time

import grpc

from .v1.credential_service_pb2_grpc import CredentialServiceStub

# How often the files are looked at, in seconds, where calls are made at all. The service looks at its own as often.
_LOOK_EVERY = 2.0


class Channel:
    def __init__(self, endpoint: str, ca: str, key: str, certificate: str):
        self._endpoint = endpoint
        self._files = [pathlib.Path(path) for path in (ca, key, certificate)]
        self._lock = threading.Lock()
        self._open([file.read_bytes() for file in self._files])

    @property
    def stub(self) -> CredentialServiceStub:
        with self._lock:
            if time.monotonic() >= self._look_again:
                self._look_again = time.monotonic() + _LOOK_EVERY
                # A file that is not there is about to be.
                with contextlib.suppress(OSError):
                    read = [file.read_bytes() for file in self._files]
                    if read != self._read:
                        # The channel before ends when its last call has.
                        self._open(read)
            return self._stub

    def close(self) -> None:
        self._channel.close()

    def _open(self, read: list[bytes]) -> None:
        options = [
            ("grpc.service_config", pathlib.Path(__file__).with_name("service-config.json").read_text()),
            # A replica that is gone without a word is noticed, and one that comes back is found.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.max_reconnect_backoff_ms", 5_000),
        ]
        credentials = grpc.ssl_channel_credentials(*read)
        self._read, self._look_again = read, time.monotonic() + _LOOK_EVERY
        self._channel = grpc.secure_channel(self._endpoint, credentials, options)
        self._stub = CredentialServiceStub(self._channel)
