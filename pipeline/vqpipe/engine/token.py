"""The token that a Ray cluster asks for: what is the matter with this machine's."""

import os
from pathlib import Path

from ray._private.authentication.authentication_constants import TOKEN_INVALID_ERROR_MESSAGE

_TOKEN_AT_HOME = "~/.ray/auth_token"  # noqa: S105 (a path)
_GET_TOKEN = (
    "Set RAY_AUTH_TOKEN_PATH to a file that holds the cluster's token: it is in "
    f"{_TOKEN_AT_HOME} on the head, or in the secret that KubeRay names after the RayCluster"
)


def describe_refusal(address: str, said: str) -> str:
    """Returns what is the matter with the cluster's token, and what helps.

    Args:
        address: URL of the dashboard.
        said: Ray's words. It answers 401 where a token is missing and 403 where it is wrong, or
            finds before it asks that this machine has none.
    """
    where = _find_token()
    if TOKEN_INVALID_ERROR_MESSAGE in said:
        return (
            f"{address} does not accept this machine's Ray token, which comes from {where}: it is "
            f"another cluster's, or an old one. {_GET_TOKEN}"
        )
    if not said.startswith("Authentication required"):
        return (
            "RAY_AUTH_MODE is token on this machine, and no token can be read: "
            f"{said.partition('. ')[0]}. {_GET_TOKEN}; if the cluster asks for none, unset "
            "RAY_AUTH_MODE"
        )
    if where:
        return (
            f"{address} asks for a Ray token. This machine has one, from {where}, which is sent "
            "only if you say so: set RAY_AUTH_MODE=token"
        )
    return (
        f"{address} asks for a Ray token, and this machine has none: set RAY_AUTH_MODE=token. "
        f"{_GET_TOKEN}"
    )


def _find_token() -> str:
    """Returns where Ray takes this machine's token from, in its order; empty if there is none."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        if os.environ.get(name):
            return name
    return _TOKEN_AT_HOME if Path(_TOKEN_AT_HOME).expanduser().exists() else ""
