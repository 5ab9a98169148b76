import base64
import hashlib
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.storage.blob import BlobClient, ContainerClient
from azure.storage.queue import QueueClient
from hypothesis import given, settings
from hypothesis import strategies as st

from defender_adx_pipeline.local.ingest_endpoint import FAILED, READY
from defender_adx_pipeline.local.state import utcnow
from defender_adx_pipeline.local.storage_store import ACCOUNT, StorageStore
from defender_adx_pipeline.local.tenant import LocalTenant


@pytest.fixture(scope="module")
def tenant(open_tenant) -> Iterator[LocalTenant]:
    with open_tenant(scale=0) as opened:
        opened.worker.stop()
        yield opened


def sas(tenant: LocalTenant, resource: str, permissions: str, hours: float = 1.0) -> str:
    return tenant.storage.sas(resource, permissions, utcnow() + timedelta(hours=hours))


def container(tenant: LocalTenant, permissions: str = "racwdl", hours: float = 1.0) -> ContainerClient:
    name = "tempstorage0"
    url = f"{tenant.url('storage')}/{ACCOUNT}/{name}?{sas(tenant, name, permissions, hours)}"
    return ContainerClient.from_container_url(url, retry_total=0)


def queue(tenant: LocalTenant, permissions: str = "raup", name: str = FAILED) -> QueueClient:
    return QueueClient.from_queue_url(
        f"{tenant.url('storage')}/{ACCOUNT}/{name}?{sas(tenant, name, permissions)}", retry_total=0
    )


def test_a_blob_comes_back_as_it_was_sent(tenant):
    data = os.urandom(300_000)
    with container(tenant) as client:
        blob = client.upload_blob("folder/é %2F.json.gz", data)
        properties = blob.get_blob_properties()
        assert (properties.size, properties.blob_type) == (len(data), "BlockBlob")
        assert properties.content_settings.content_md5 == bytearray(hashlib.md5(data, usedforsecurity=False).digest())
        assert blob.download_blob().readall() == data
        assert blob.download_blob(offset=1_000, length=500).readall() == data[1_000:1_500]
        assert [item.name for item in client.list_blobs(name_starts_with="folder/")] == ["folder/é %2F.json.gz"]
        blob.delete_blob()
        with pytest.raises(ResourceNotFoundError):
            blob.get_blob_properties()


def test_a_blob_of_many_blocks_is_put_together_in_order(tenant):
    data = os.urandom(1_000_000)
    with container(tenant) as client:
        blob = BlobClient.from_blob_url(
            client.get_blob_client("large").url, max_single_put_size=100_000, max_block_size=150_000
        )
        with blob:
            blob.upload_blob(data, max_concurrency=3)
            assert blob.download_blob().readall() == data


def test_an_empty_blob_is_a_blob(tenant):
    with container(tenant) as client:
        blob = client.upload_blob("empty", b"")
        assert blob.get_blob_properties().size == 0
        assert blob.download_blob().readall() == b""


def test_a_name_is_taken_unless_overwriting_is_meant(tenant):
    with container(tenant) as client:
        client.upload_blob("taken", b"first")
        with pytest.raises(ResourceExistsError) as caught:
            client.upload_blob("taken", b"second")
        assert caught.value.error_code == "BlobAlreadyExists"
        client.upload_blob("taken", b"third", overwrite=True)
        assert client.download_blob("taken").readall() == b"third"


def test_a_signature_that_is_wrong_expired_or_too_weak_is_refused(tenant):
    with container(tenant, hours=-0.1) as expired, pytest.raises(ClientAuthenticationError) as caught:
        expired.upload_blob("x", b"x")
    assert (caught.value.status_code, caught.value.error_code) == (403, "AuthenticationFailed")
    with container(tenant, "r") as weak, pytest.raises(HttpResponseError) as denied:
        weak.upload_blob("x", b"x")
    assert (denied.value.status_code, denied.value.error_code) == (403, "AuthorizationPermissionMismatch")
    forged = f"{tenant.url('storage')}/{ACCOUNT}/tempstorage1?{sas(tenant, 'tempstorage0', 'racwdl')}"
    with ContainerClient.from_container_url(forged, retry_total=0) as other, pytest.raises(ClientAuthenticationError):
        other.upload_blob("x", b"x")
    bare = f"{tenant.url('storage')}/{ACCOUNT}/tempstorage0"
    with ContainerClient.from_container_url(bare, retry_total=0) as none, pytest.raises(ClientAuthenticationError):
        none.upload_blob("x", b"x")


def test_a_container_or_queue_that_is_not_there_is_not_found(tenant):
    url = f"{tenant.url('storage')}/{ACCOUNT}/nowhere?{sas(tenant, 'nowhere', 'racwdl')}"
    with (
        ContainerClient.from_container_url(url, retry_total=0) as client,
        pytest.raises(ResourceNotFoundError) as caught,
    ):
        client.upload_blob("x", b"x")
    assert caught.value.error_code == "ContainerNotFound"
    with queue(tenant, name="nowhere") as missing, pytest.raises(ResourceNotFoundError):
        missing.send_message("x")


def test_messages_are_taken_in_order_hidden_and_deleted(tenant):
    with queue(tenant) as client:
        client.clear_messages()
        for text in ("one", "two & <three>"):
            client.send_message(text)
        assert [message.content for message in client.peek_messages(5)] == ["one", "two & <three>"]
        taken = list(client.receive_messages(messages_per_page=5, visibility_timeout=60))
        assert [(message.content, message.dequeue_count) for message in taken] == [("one", 1), ("two & <three>", 1)]
        assert list(client.receive_messages()) == []
        assert client.get_queue_properties().approximate_message_count == 2
        for message in taken:
            client.delete_message(message)
        assert client.get_queue_properties().approximate_message_count == 0


def test_a_message_that_was_not_deleted_comes_again_and_its_old_receipt_is_dead(tenant):
    with queue(tenant) as client:
        client.clear_messages()
        client.send_message("again")
        first = next(iter(client.receive_messages(visibility_timeout=1)))
        tenant.storage.release_messages()
        second = next(iter(client.receive_messages(visibility_timeout=60)))
        assert (second.id, second.dequeue_count) == (first.id, 2)
        with pytest.raises(ResourceNotFoundError):
            client.delete_message(first)
        client.delete_message(second)


def test_a_message_above_64_kib_is_refused(tenant):
    with queue(tenant) as client:
        client.send_message("x" * 65_536)
        with pytest.raises(HttpResponseError) as caught:
            client.send_message("x" * 65_537)
    assert (caught.value.status_code, caught.value.error_code) == (413, "RequestBodyTooLarge")


def test_queues_and_blobs_survive_a_restart(tmp_path: Path):
    store = StorageStore(tmp_path)
    store.create_container("c")
    store.create_queue("q")
    spooled = store.spool()
    spooled.write_bytes(b"data")
    assert store.commit("c", "b", spooled, overwrite=False) is not None
    store.put_message("q", "text")
    signature = store.sas("c", "r", utcnow() + timedelta(hours=1))
    assert [message.text for message in store.messages("q", 5, hide=600)] == ["text"]
    store.close()
    again = StorageStore(tmp_path)
    again.check_sas("c", signature, "r")
    blob = again.blob("c", "b")
    assert blob is not None
    assert blob.md5 == base64.b64encode(hashlib.md5(b"data", usedforsecurity=False).digest()).decode()
    assert again.path("c", "b").read_bytes() == b"data"
    assert again.messages("q", 5, hide=None) == []
    again.release_messages()
    assert [message.text for message in again.messages("q", 5, hide=None)] == ["text"]
    again.close()


@settings(deadline=None, max_examples=25)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=60))
def test_no_blob_name_leads_out_of_its_folder(tmp_path_factory, name):
    store = StorageStore(tmp_path_factory.mktemp("names"))
    store.create_container("c")
    assert store.path("c", name).resolve().is_relative_to(store.path("c", "x").parent.resolve())
    store.close()


def test_the_ready_queues_are_those_that_clients_are_told_of(tenant):
    assert all(tenant.storage.has_queue(name) for name in READY)
