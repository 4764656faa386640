"""Find the endpoints of DynamoDB and KMS by the settings that the SDKs read.

Region, partition, FIPS, dual stack and endpoint variables are decided here by rule, without the SDK.
Any other setting that an SDK honours raises `NeedsSdk`, and `main.py` uses the client over boto3.
Settings that contradict each other, or mean nothing, raise `ValueError`: no start is better than a
wrong endpoint.
`tests/contract/test_endpoints.py` compares every case with where boto3 sends the same call.

Source: https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

# Domains by what a region's name begins with, for IPv4 and for both address families. Where botocore's files
# disagree about the second (its endpoints.json has none) there is none here, and the SDK is asked.
# https://github.com/boto/botocore/blob/develop/botocore/data/partitions.json
_COMMERCIAL = ("amazonaws.com", "api.aws")
_DOMAINS = dict.fromkeys(("af", "ap", "ca", "eu", "il", "me", "mx", "sa", "us", "us-gov"), _COMMERCIAL) | {
    "cn": ("amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    "eu-isoe": ("cloud.adc-e.uk", ""),
    "eusc-de": ("amazonaws.eu", "api.amazonwebservices.eu"),
    "us-iso": ("c2s.ic.gov", "api.aws.ic.gov"),
    "us-isob": ("sc2s.sgov.gov", "api.aws.scloud"),
    "us-isof": ("csp.hci.ic.gov", ""),
}

# Of a profile, what changes nothing about these two services: keys are for the credentials chain, S3 is
# boto3's. Any other setting, a new one too, is left to the SDK.
_PLAIN_IN_PROFILE = frozenset(
    {
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
        "cli_auto_prompt",
        "cli_pager",
        "credential_process",
        "credential_source",
        "defaults_mode",
        "duration_seconds",
        "external_id",
        "login_session",
        "max_attempts",
        "mfa_serial",
        "output",
        "region",
        "retry_mode",
        "role_arn",
        "role_session_name",
        "s3",
        "source_profile",
        "sso_account_id",
        "sso_region",
        "sso_registration_scopes",
        "sso_role_name",
        "sso_session",
        "sso_start_url",
        "sts_regional_endpoints",
        "web_identity_token_file",
    }
)
# Attempts and time-outs are set in code, for boto3's clients too, and code goes before these.
# https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html#precedenceOfSettings
SET_IN_CODE = ("AWS_DEFAULTS_MODE", "AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE")
# Not looked at, for neither service's model has what they are about (a choice of checksums or signatures):
# AWS_REQUEST_CHECKSUM_CALCULATION, AWS_RESPONSE_CHECKSUM_VALIDATION, AWS_AUTH_SCHEME_PREFERENCE,
# AWS_SIGV4A_SIGNING_REGION_SET. Where only boto3 looks for credentials, only boto3 reads how:
# AWS_STS_REGIONAL_ENDPOINTS, AWS_EC2_METADATA_SERVICE_ENDPOINT.
_SDK_ONLY = ("AWS_CSM_ENABLED", "AWS_DATA_PATH", "AWS_ENDPOINT_DISCOVERY_ENABLED", "AWS_SDK_UA_APP_ID")
# The hosts that boto3 accepts, or S3 would be the first to reject one, long after the start. No blanks, no
# credentials and no query, which are mistakes.
_LABEL = "(?!-)[a-z0-9-]{1,63}(?<!-)"
_URL = rf"https?://({_LABEL}(\.{_LABEL})*\.?|\[[0-9a-f:.]+\])(:\d+)?(/[^\s?#]*)?"


class NeedsSdk(Exception):
    """Only the SDK honours a setting that is there. Its text names the setting."""


def endpoint_of(service: str, environ: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Find the address of "dynamodb" or "kms", and the region to sign for.

    Raises `NeedsSdk`, or `ValueError` naming what is wrong.
    """
    _check_bundles(environ)
    profile = _profile(environ) if has_profile(environ) else {}
    region = _region(environ) or profile.get("region", "")
    if not region:
        raise ValueError("AWS_REGION is not set, and no profile names a region")
    if settings := [name for name in _SDK_ONLY if environ.get(name, "").lower() not in ("", "false")]:
        raise NeedsSdk(", ".join(settings))
    if settings := sorted(profile.keys() - _PLAIN_IN_PROFILE):
        raise NeedsSdk(f"{', '.join(settings)} of the profile")
    fips, dual_stack = _flag(environ, "AWS_USE_FIPS_ENDPOINT"), _flag(environ, "AWS_USE_DUALSTACK_ENDPOINT")
    url = _configured(service, environ)
    if url and (fips or dual_stack):
        name = "AWS_USE_FIPS_ENDPOINT" if fips else "AWS_USE_DUALSTACK_ENDPOINT"
        raise ValueError(f"{name} and {url} contradict each other: an endpoint URL is used as it is")
    if not url:
        if service == "dynamodb" and environ.get("AWS_ACCOUNT_ID_ENDPOINT_MODE") != "disabled":
            for name in ("AWS_ACCOUNT_ID", "AWS_ACCOUNT_ID_ENDPOINT_MODE"):
                if environ.get(name):
                    raise NeedsSdk(name)
        url = _public(service, region, fips, dual_stack)
    if proxy := _proxy(urlsplit(url), environ):
        raise NeedsSdk(proxy)
    return url, region


def has_profile(environ: Mapping[str, str]) -> bool:
    """Whether there may be settings or keys in the files of the SDKs. In Lambda and ECS there are none."""
    return bool(
        environ.get("AWS_PROFILE")
        or environ.get("AWS_DEFAULT_PROFILE")
        or any(map(os.path.isfile, _files(environ)))
    )


def region_for_sdk(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the region to make clients of boto3 with: by itself it does not read AWS_REGION.

    Raises `ValueError` if AWS_DEFAULT_REGION is another.
    """
    _region(environ)
    return environ.get("AWS_REGION") or None


def is_of_aws(host: str) -> bool:
    """Whether a host is in one of AWS's own domains."""
    return host.endswith(tuple(f".{domain}" for domains in _DOMAINS.values() for domain in domains if domain))


def _region(environ: Mapping[str, str]) -> str:
    region, default = environ.get("AWS_REGION"), environ.get("AWS_DEFAULT_REGION")
    if region and default and region != default:  # the first counts for most SDKs, only the second for boto3
        raise ValueError(f"AWS_REGION is {region}, but AWS_DEFAULT_REGION is {default}: set them to the same")
    return region or default or ""


def _check_bundles(environ: Mapping[str, str]) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        file = environ.get(name)
        if file and not os.path.isfile(file):
            raise ValueError(f"{name}: {file} is no file")


def _flag(environ: Mapping[str, str], name: str) -> bool:
    """Read a switch. boto3 takes every other word for false, and so "1" would not be FIPS."""
    value = environ.get(name, "").lower()
    if value not in ("", "false", "true"):
        raise ValueError(f"{name} is neither true nor false: {value}")
    return value == "true"


def _configured(service: str, environ: Mapping[str, str]) -> str:
    if _flag(environ, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        return ""
    for name in (f"AWS_ENDPOINT_URL_{service.upper()}", "AWS_ENDPOINT_URL"):
        if url := environ.get(name):
            try:
                is_address = re.fullmatch(_URL, url, re.ASCII | re.IGNORECASE) and urlsplit(url).port != 0
            except ValueError:
                is_address = False
            if not is_address:
                raise ValueError(f"{name} is no address: it must be http(s)://host[:port][/path]")
            return url
    return ""


def _public(service: str, region: str, fips: bool, dual_stack: bool) -> str:
    area, side, number = (*region.rsplit("-", 2), "", "")[:3]
    domain = _DOMAINS.get(area, ("", ""))[dual_stack]
    if not (domain and side.isidentifier() and number.isdecimal() and region.isascii()):
        raise NeedsSdk(f"the region {region}")  # aws-global, local, or one that is newer than we are
    # https://docs.aws.amazon.com/general/latest/gr/ddb.html: GovCloud's endpoints are FIPS ones by themselves
    is_fips_already = service == "dynamodb" and area == "us-gov" and not dual_stack
    name = f"{service}-fips" if fips and not is_fips_already else service
    return f"https://{name}.{region}.{domain}"


def _proxy(url: SplitResult, environ: Mapping[str, str]) -> str:
    """Return which of HTTPS_PROXY and HTTP_PROXY names a proxy for `url`, or ""."""
    for name in (f"{url.scheme}_proxy", f"{url.scheme.upper()}_PROXY"):
        if name in environ:
            from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # as botocore

            spared = {"no": environ.get("no_proxy", environ.get("NO_PROXY", ""))}
            return name if environ[name] and not proxy_bypass_environment(url.netloc, spared) else ""
    return ""


def _files(environ: Mapping[str, str]) -> tuple[str, str]:
    return (
        os.path.expanduser(environ.get("AWS_CONFIG_FILE") or "~/.aws/config"),
        os.path.expanduser(environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"),
    )


def _profile(environ: Mapping[str, str]) -> dict[str, str]:
    """Read the profile's settings as botocore does: those of the credentials file go first."""
    from botocore.configloader import load_config, raw_config_parse
    from botocore.exceptions import BotoCoreError, ConfigNotFound

    config, credentials = _files(environ)
    profiles: dict[str, dict[str, str]] = {}
    for read in (lambda: load_config(config)["profiles"], lambda: raw_config_parse(credentials)):
        try:
            found: dict[str, dict[str, str]] = read()
        except ConfigNotFound:
            continue
        except BotoCoreError as malformed:
            raise ValueError(str(malformed)) from malformed
        for name, values in found.items():
            profiles.setdefault(name, {}).update(values)
    named = environ.get("AWS_DEFAULT_PROFILE") or environ.get("AWS_PROFILE")
    if named and named not in profiles:
        raise ValueError(f"AWS_PROFILE is {named}, but there is no such profile in {config} or {credentials}")
    return profiles.get(named or "default", {})
