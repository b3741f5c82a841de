"""Clients of Amazon's services, which find keys the way its own tools do, and whose errors name the object.

cloud-files takes keys from the environment only together with a session token, which permanent keys do not have. Here
the keys are those of cloud-volume's secrets; where there are none, boto3 finds them (environment, profile, web identity
or the machine's role) and renews the temporary ones.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import NoCredentialsError
from cloudfiles import connectionpools
from cloudfiles.interfaces import S3Interface
from cloudfiles.secrets import secretpath
from tenacity import retry_if_exception

from ...errors import UserError

_DEFAULT_REGION = "us-east-1"


def aws_credentials(
    bucket: str = "", service: str = "aws", skip_files: bool = False
) -> dict[str, str]:
    """Return the keys of cloud-volume's secrets and the region; only the region if boto3 is to find keys.

    Replaces the function of cloud-files with these arguments.
    """
    service = "aws" if service == "s3" else service
    names = (f"{bucket}-{service}-secret.json", f"{service}-secret.json")
    for path in map(secretpath, names):
        if not skip_files and os.path.exists(path):
            return _read_secret(Path(path))
    return {"AWS_DEFAULT_REGION": boto3.Session().region_name or _DEFAULT_REGION}


def _check_credentials() -> None:
    """Raise NoCredentialsError if boto3 finds no keys; it looks for them again at the next call."""
    if boto3.DEFAULT_SESSION is None:
        boto3.setup_default_session()
    if boto3.DEFAULT_SESSION.get_credentials() is None:
        raise NoCredentialsError


def sqs_client() -> Any:
    """Return a client of SQS. Raises NoCredentialsError if there are no keys."""
    keys = aws_credentials()
    if "AWS_ACCESS_KEY_ID" not in keys:
        _check_credentials()
    return boto3.client(
        "sqs",
        aws_access_key_id=keys.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=keys.get("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=keys.get("AWS_SESSION_TOKEN"),
        region_name=keys.get("AWS_DEFAULT_REGION", _DEFAULT_REGION),
    )


def _read_secret(path: Path) -> dict[str, str]:
    try:
        secret = json.loads(path.read_bytes())
        if not isinstance(secret, dict):
            raise ValueError("it holds no names")
    except ValueError as err:
        raise UserError(
            f"{path} is not a JSON file of AWS keys: {err}; correct or delete it"
        ) from err
    return secret


def _connect(
    pool: Any,
    secrets: Any = None,
    endpoint: str | None = None,
    no_sign_request: bool = False,
) -> Any:
    """Return a client of S3 whose errors name the object.

    Raises NoCredentialsError if there are no keys yet: a client without keys would be kept and never find any.
    """
    if not no_sign_request and "AWS_ACCESS_KEY_ID" not in (secrets or pool.credentials):
        _check_credentials()
    client = _create_connection(pool, secrets, endpoint, no_sign_request)
    client.meta.events.register("after-call.s3", _name_object)
    return client


def _may_pass(err: BaseException) -> bool:
    """Return whether another attempt at a request may succeed."""
    response = getattr(err, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return not 400 <= status < 500 or status in (408, 429)


def _name_object(http_response: Any, parsed: dict[str, Any], **_: Any) -> None:
    error = parsed.get("Error")
    if error is not None:
        url = http_response.url.partition("?")[0]
        error["Message"] = f"{error.get('Message', 'no reason given')} ({url})"


connectionpools.aws_credentials = aws_credentials
_create_connection = connectionpools.S3ConnectionPool._create_connection
connectionpools.S3ConnectionPool._create_connection = _connect
for _method in vars(S3Interface).values():
    if hasattr(
        _method, "retry"
    ):  # by tenacity: seven attempts, also at what is forbidden or does not exist
        _method.retry.retry = retry_if_exception(_may_pass)
