"""The blob and queue endpoints of the local tenant, as far as the storage SDKs of azure-kusto-ingest go.

Here: the REST operations of Azure Storage on paths `/devstoreaccount1/...` (path style, as Azurite has it). Not here:
what is kept (`storage_store`).
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime as http_date
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from defender_adx_pipeline.local.storage_store import (
    ACCOUNT,
    MESSAGE_LIMIT,
    SasError,
    StorageStore,
    StoredBlob,
    StoredMessage,
)

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_XML = "application/xml"


class StorageFault(Exception):  # noqa: N818 - it is the service's answer, not an error of this program
    """An error in the words of Azure Storage."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def storage_routes(store: StorageStore) -> list[Route]:
    """Routes for containers, blobs, queues and messages of one account."""
    methods = ["GET", "HEAD", "PUT", "POST", "DELETE"]

    async def answer(request: Request) -> Response:
        try:
            response = await _dispatch(store, request)
        except StorageFault as fault:
            response = _error(request, fault)
        except SasError as error:
            status = 401 if error.code == "NoAuthenticationInformation" else 403
            response = _error(request, StorageFault(status, error.code, str(error)))
        response.headers["x-ms-version"] = request.headers.get("x-ms-version", "2025-07-05")
        response.headers["x-ms-request-id"] = "00000000-0000-0000-0000-000000000000"
        response.headers["Date"] = http_date(datetime.now(tz=UTC), usegmt=True)
        if client_id := request.headers.get("x-ms-client-request-id"):
            response.headers["x-ms-client-request-id"] = client_id
        return response

    return [Route(f"/{ACCOUNT}/{{rest:path}}", answer, methods=methods)]


async def _dispatch(store: StorageStore, request: Request) -> Response:
    # The raw path: a blob name may hold an escaped slash or percent sign.
    raw = request.scope["raw_path"].decode("ascii").split("?")[0]
    first, _, rest = raw.removeprefix(f"/{ACCOUNT}/").partition("/")
    resource, rest = unquote(first), unquote(rest)
    if store.has_queue(resource) or rest == "messages" or rest.startswith("messages/"):
        return await _queue(store, request, resource, rest)
    if not rest:
        return _container(store, request, resource)
    return await _blob(store, request, resource, rest)


# Blobs -----------------------------------------------------------------------------------------------------------


def _container(store: StorageStore, request: Request, container: str) -> Response:
    query = request.query_params
    _allow(store, request, container, "l" if request.method == "GET" else "c")
    if request.method == "PUT" and query.get("restype") == "container":
        if not store.create_container(container):
            raise StorageFault(409, "ContainerAlreadyExists", "The specified container already exists.")
        return Response(status_code=201)
    _need_container(store, container)
    if query.get("comp") == "list":
        return Response(_listing(store, container, query.get("prefix", "")), media_type=_XML)
    return Response(status_code=200)


async def _blob(store: StorageStore, request: Request, container: str, name: str) -> Response:
    operations: dict[str, tuple[str, Callable[..., Any]]] = {
        "PUT": ("wc", _put_blob),
        "GET": ("r", _get_blob),
        "HEAD": ("r", _head_blob),
        "DELETE": ("d", _delete_blob),
    }
    if request.method not in operations:
        raise StorageFault(405, "UnsupportedHttpVerb", "The resource doesn't support the specified HTTP verb.")
    permission, operation = operations[request.method]
    _allow(store, request, container, permission)
    _need_container(store, container)
    response: Response = await operation(store, request, container, name)
    return response


async def _put_blob(store: StorageStore, request: Request, container: str, name: str) -> Response:
    overwrite = request.headers.get("if-none-match") != "*"
    comp = request.query_params.get("comp")
    if not overwrite and comp is None and store.blob(container, name) is not None:
        raise _exists()
    spooled = await _spool(store, request)
    if comp == "block":
        store.put_block(container, name, request.query_params["blockid"], spooled)
        return Response(status_code=201, headers={"x-ms-request-server-encrypted": "true"})
    if comp == "blocklist":
        blob = _commit_blocks(store, container, name, spooled, overwrite=overwrite)
    elif comp is None and request.headers.get("x-ms-blob-type", "BlockBlob") == "BlockBlob":
        blob = store.commit(container, name, spooled, overwrite=overwrite)
    else:
        spooled.unlink()
        raise StorageFault(400, "UnsupportedHeader", "Only block blobs are kept here.")
    if blob is None:
        raise _exists()
    sent = request.headers.get("content-md5")
    if comp is None and sent and sent != blob.md5:
        store.delete_blob(container, name)
        raise StorageFault(400, "Md5Mismatch", "The MD5 value specified in the request did not match the body.")
    headers = {"ETag": blob.etag, "Last-Modified": http_date(blob.created, usegmt=True)}
    return Response(
        status_code=201, headers={**headers, "Content-MD5": blob.md5, "x-ms-request-server-encrypted": "true"}
    )


async def _spool(store: StorageStore, request: Request) -> Path:
    """The body in a file: it may be far larger than what should be in memory."""
    spooled = store.spool()
    with spooled.open("wb") as stream:
        async for chunk in request.stream():
            stream.write(chunk)
    return spooled


def _commit_blocks(
    store: StorageStore, container: str, name: str, spooled: Path, *, overwrite: bool
) -> StoredBlob | None:
    root = ET.fromstring(spooled.read_bytes())  # noqa: S314 - a loopback stand-in; expat refuses entity bombs
    spooled.unlink()
    try:
        return store.commit_blocks(container, name, [node.text or "" for node in root], overwrite=overwrite)
    except FileNotFoundError as error:
        raise StorageFault(400, "InvalidBlockList", "The specified block list is invalid.") from error


async def _get_blob(store: StorageStore, request: Request, container: str, name: str) -> Response:
    blob = _need_blob(store, container, name)
    path = store.path(container, name)
    wanted = _RANGE.fullmatch(request.headers.get("x-ms-range") or request.headers.get("range") or "")
    if not wanted:
        headers = {**_properties(blob), "Content-MD5": blob.md5}
        return FileResponse(path, headers=headers, media_type="application/octet-stream")
    first = int(wanted[1])
    last = min(int(wanted[2]) if wanted[2] else blob.size - 1, blob.size - 1)
    if first >= blob.size:
        raise StorageFault(416, "InvalidRange", "The range specified is invalid for the current size of the resource.")
    headers = {
        **_properties(blob),
        "Content-Length": str(last - first + 1),
        "Content-Range": f"bytes {first}-{last}/{blob.size}",
    }
    return StreamingResponse(
        _pieces(path, first, last), status_code=206, headers=headers, media_type="application/octet-stream"
    )


def _pieces(path: Path, first: int, last: int) -> Any:
    with path.open("rb") as stream:
        stream.seek(first)
        left = last - first + 1
        while left and (chunk := stream.read(min(left, 1 << 20))):
            left -= len(chunk)
            yield chunk


async def _head_blob(store: StorageStore, _: Request, container: str, name: str) -> Response:
    blob = _need_blob(store, container, name)
    response = Response(headers=_properties(blob), media_type="application/octet-stream")
    response.headers["Content-Length"] = str(blob.size)
    response.headers["Content-MD5"] = blob.md5
    return response


async def _delete_blob(store: StorageStore, _: Request, container: str, name: str) -> Response:
    _need_blob(store, container, name)
    store.delete_blob(container, name)
    return Response(status_code=202, headers={"x-ms-delete-type-permanent": "true"})


def _properties(blob: StoredBlob) -> dict[str, str]:
    return {
        "ETag": blob.etag,
        "Last-Modified": http_date(blob.created, usegmt=True),
        "x-ms-creation-time": http_date(blob.created, usegmt=True),
        "x-ms-blob-type": "BlockBlob",
        "x-ms-blob-content-md5": blob.md5,
        "x-ms-lease-state": "available",
        "x-ms-lease-status": "unlocked",
        "x-ms-server-encrypted": "true",
        "Accept-Ranges": "bytes",
    }


def _listing(store: StorageStore, container: str, prefix: str) -> str:
    items = "".join(
        f"<Blob><Name>{escape(blob.name)}</Name><Properties>"
        f"<Creation-Time>{http_date(blob.created, usegmt=True)}</Creation-Time>"
        f"<Last-Modified>{http_date(blob.created, usegmt=True)}</Last-Modified><Etag>{escape(blob.etag)}</Etag>"
        f"<Content-Length>{blob.size}</Content-Length><Content-MD5>{blob.md5}</Content-MD5>"
        "<BlobType>BlockBlob</BlobType></Properties></Blob>"
        for blob in store.blobs(container, prefix)
    )
    return (
        f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="{escape(container)}">'
        f"<Prefix>{escape(prefix)}</Prefix><Blobs>{items}</Blobs><NextMarker /></EnumerationResults>"
    )


# Queues ----------------------------------------------------------------------------------------------------------


async def _queue(store: StorageStore, request: Request, queue: str, rest: str) -> Response:
    permission = {"POST": "a", "GET": "rp", "HEAD": "r", "DELETE": "p", "PUT": "u"}[request.method]
    _allow(store, request, queue, permission)
    if not store.has_queue(queue):
        raise StorageFault(404, "QueueNotFound", "The specified queue does not exist.")
    if not rest:
        count = str(store.message_count(queue))
        return Response(status_code=200, headers={"x-ms-approximate-messages-count": count})
    message_id = rest.removeprefix("messages").strip("/")
    if request.method == "POST":
        return await _put_message(store, request, queue)
    if request.method == "GET":
        return _get_messages(store, request, queue)
    if request.method == "DELETE":
        return _delete_message(store, request, queue, message_id)
    raise StorageFault(405, "UnsupportedHttpVerb", "The resource doesn't support the specified HTTP verb.")


async def _put_message(store: StorageStore, request: Request, queue: str) -> Response:
    body = await request.body()
    try:
        node = ET.fromstring(body).find("MessageText")  # noqa: S314 - as above
    except ET.ParseError as error:
        raise StorageFault(400, "InvalidXmlDocument", "XML specified is not syntactically valid.") from error
    text = (node.text or "") if node is not None else ""
    if len(text.encode()) > MESSAGE_LIMIT:
        raise StorageFault(413, "RequestBodyTooLarge", "The request body is too large.")
    message = store.put_message(queue, text, hidden=float(request.query_params.get("visibilitytimeout", 0)))
    return Response(_message_list([message], text=False, receipt=True), status_code=201, media_type=_XML)


def _get_messages(store: StorageStore, request: Request, queue: str) -> Response:
    query = request.query_params
    count = int(query.get("numofmessages", 1))
    if not 1 <= count <= 32:
        raise StorageFault(400, "OutOfRangeQueryParameterValue", "numofmessages is from 1 to 32.")
    peek = query.get("peekonly", "").lower() == "true"
    messages = store.messages(queue, count, hide=None if peek else float(query.get("visibilitytimeout", 30)))
    return Response(_message_list(messages, text=True, receipt=not peek), media_type=_XML)


def _delete_message(store: StorageStore, request: Request, queue: str, message_id: str) -> Response:
    if not message_id:
        store.clear_messages(queue)
    elif not store.delete_message(queue, message_id, request.query_params.get("popreceipt", "")):
        raise StorageFault(404, "MessageNotFound", "The specified message does not exist.")
    return Response(status_code=204)


def _message_list(messages: list[StoredMessage], *, text: bool, receipt: bool) -> str:
    items = []
    for message in messages:
        fields = {
            "MessageId": message.id,
            "InsertionTime": http_date(message.inserted, usegmt=True),
            "ExpirationTime": http_date(message.expires, usegmt=True),
        }
        if receipt:
            fields["PopReceipt"] = message.receipt
            fields["TimeNextVisible"] = http_date(message.visible, usegmt=True)
        if text:
            fields["DequeueCount"] = str(message.dequeued)
            fields["MessageText"] = message.text
        inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
        items.append(f"<QueueMessage>{inner}</QueueMessage>")
    return f'<?xml version="1.0" encoding="utf-8"?><QueueMessagesList>{"".join(items)}</QueueMessagesList>'


# Common ----------------------------------------------------------------------------------------------------------


def _allow(store: StorageStore, request: Request, resource: str, permission: str) -> None:
    store.check_sas(resource, request.url.query, permission)


def _need_container(store: StorageStore, container: str) -> None:
    if not store.has_container(container):
        raise StorageFault(404, "ContainerNotFound", "The specified container does not exist.")


def _need_blob(store: StorageStore, container: str, name: str) -> StoredBlob:
    blob = store.blob(container, name)
    if blob is None:
        raise StorageFault(404, "BlobNotFound", "The specified blob does not exist.")
    return blob


def _exists() -> StorageFault:
    return StorageFault(409, "BlobAlreadyExists", "The specified blob already exists.")


def _error(request: Request, fault: StorageFault) -> Response:
    body = (
        ""
        if request.method == "HEAD"
        else (
            f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{fault.code}</Code>'
            f"<Message>{escape(fault.message)}</Message></Error>"
        )
    )
    return Response(body, status_code=fault.status, media_type=_XML, headers={"x-ms-error-code": fault.code})
