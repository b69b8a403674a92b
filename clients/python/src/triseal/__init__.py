"""A backend's side of triseal: store a Salesforce connection, call Salesforce with a living token, disconnect.

The protocol of refreshing is docs/REFRESH.md's; `Client.call_with_token` keeps its rules, so that no refresh token is
used twice. One client is made for a process and shared by its threads. Nothing here logs, and nothing here prints a
token.
"""

from ._client import Client
from ._errors import NeedsReauth, SalesforceError, TrisealError, Unauthorized
from ._salesforce import ConnectedApp

__all__ = ["Client", "ConnectedApp", "NeedsReauth", "SalesforceError", "TrisealError", "Unauthorized"]
