"""What an address may be, and what of it is never repeated."""

import pytest

from vqpipe.errors import ConfigError
from vqpipe.storage import uris

SECRET = "canary-5Ecr3t"
SIGNED = (
    f"?sv=2024-11-04&sp=rl&sig={SECRET}",
    f"?SIG={SECRET}",
    f"?access_token={SECRET}",
    f"#access_token={SECRET}",
    f"?token={SECRET}",
    f"?X-Amz-Credential=AKIA&X-Amz-Signature={SECRET}",
    f"?AWSAccessKeyId=AKIA&Expires=1&Signature={SECRET}",
    f"?GoogleAccessId=me&Signature={SECRET}",
    f"?x-goog-signature={SECRET}",
    f"?SharedAccessSignature={SECRET}",
    f";AccountKey={SECRET}",
    f"?password={SECRET}",
)


@pytest.mark.fault(32)
@pytest.mark.parametrize("query", SIGNED)
@pytest.mark.parametrize(
    "start",
    [
        "s3://bucket/x",
        "gs://bucket/x",
        "gcs://bucket/{0..3}.tar",
        "az://container/x",
        "abfs://container@account.dfs.core.windows.net/x",
        "abfss://container@account.dfs.core.windows.net/x",
        "file:///x",
        "https://account.blob.core.windows.net/container/x",
        "az:/container/x",
        "/x",
    ],
)
def test_normalise_uri_signed_address_is_refused_without_repeating_it(start, query):
    with pytest.raises(ConfigError) as caught:
        uris.normalise_uri(start + query)
    assert SECRET not in str(caught.value)
    assert "credentials" in str(caught.value)


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    "uri",
    [
        f"abfs://container:{SECRET}@account.dfs.core.windows.net/x",
        f"az://{SECRET}@container/x",
        f"gs://user:{SECRET}@bucket/x",
        f"az://container/x?{SECRET}=1",
        f"gs://bucket/x#{SECRET}=1",
        f"user:{SECRET}@://x",
    ],
)
def test_normalise_uri_user_or_query_is_refused_without_repeating_it(uri):
    with pytest.raises(ConfigError) as caught:
        uris.normalise_uri(uri)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/q?.tar",
        "s3://bucket/q?versionId=1.tar",
        "s3://bucket/{000..127}.tar",
        "s3://bucket/day=3/part-?.tar",
        "s3://bucket/a#1",
        "gs://bucket/what?.tar",
        "abfs://container@account.dfs.core.windows.net/x",
    ],
)
def test_normalise_uri_names_and_patterns_are_taken_as_they_are(uri):
    assert uris.normalise_uri(uri) == uri


def test_normalise_uri_scheme_in_capitals_is_the_same(tmp_path):
    assert uris.normalise_uri("S3://bucket/a/") == "s3://bucket/a"
    assert uris.normalise_uri(f"FILE://{tmp_path}/a/") == f"{tmp_path}/a"


def test_normalise_uri_path_that_exists_is_taken_whatever_its_name(tmp_path):
    """Such names are what wget gives to what it fetches."""
    path = tmp_path / "photos?sig=1"
    path.mkdir()
    assert uris.normalise_uri(str(path)) == str(path)


@pytest.mark.parametrize("name", ["a?sig=1", "a#b=c", "a://b", "100%", "x;key=1"])
def test_split_uri_name_of_an_object_is_left_alone(name):
    assert uris.split_uri(f"s3://bucket/{name}") == ("s3", f"bucket/{name}")
    assert uris.split_uri(f"az://container/{name}") == ("az", f"container/{name}")
