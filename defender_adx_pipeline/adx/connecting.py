"""How long a connection to the cluster may take to come about.

Here: that one bound. A firewall that drops packets gives no answer, and azure-kusto-data 6.0.4 has one time-out for
connecting and for the answer, minutes long: Dagster would end the evaluation of a tick before the error came, and
`doctor` would seem to hang. Not here: what is asked (`client`), and what an error means (`errors`).
"""

from typing import Any

import requests
from azure.kusto.data import KustoClient
from azure.kusto.data.client import HTTPAdapterWithSocketOptions
from urllib3.connection import HTTPConnection

CONNECT_SECONDS = 10.0
"""For one address; a cluster that can be reached takes a tenth of a second."""


class _ConnectsInTime(HTTPAdapterWithSocketOptions):
    """The client's own adapter, with a time-out of its own for connecting."""

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        """As `requests` calls it, whose `timeout` is the client's, in seconds."""
        options["timeout"] = (CONNECT_SECONDS, options.get("timeout"))
        sent: requests.Response = super().send(request, *arguments, **options)
        return sent


def connect_in_time(client: KustoClient) -> None:
    """Have a client give up a connection that does not come about. Its public methods change retries only."""
    options = [*(HTTPConnection.default_socket_options or ()), *client.compose_socket_options()]
    adapter = _ConnectsInTime(  # type: ignore[no-untyped-call]
        socket_options=options,
        pool_maxsize=client._max_pool_size,  # noqa: SLF001 - the client has no public way to it
    )
    for scheme in ("http://", "https://"):
        client._session.mount(scheme, adapter)  # noqa: SLF001 - see above
