"""API Gateway: an HTTP API from an OpenAPI document, at an address that clients reach."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ministack.services import apigateway

from localcloud.patches import patch
from localcloud.patches.tools import PORT, Properties, replace_handler, result

_ANY = "x-amazon-apigateway-any-method"
_METHODS = {"get", "put", "post", "delete", "options", "head", "patch", _ANY}


@patch
def openapi_bodies() -> None:
    """AWS does: import the OpenAPI document, which SAM writes for every HTTP API. https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-open-api.html
    The emulator does: ignore `Body`, so the API has no routes.
    Reported as: https://github.com/ministackorg/ministack/issues/928, which was done for REST APIs only.
    """

    @replace_handler("AWS::ApiGatewayV2::Api", "create")
    def create(original: Any, logical_id: str, props: Properties, stack: str) -> Any:
        body = props.get("Body")
        if isinstance(body, dict):
            props = {"Name": (body.get("info") or {}).get("title"), **props}
        api_id, attributes = original(logical_id, props, stack)
        if body:
            _import_body(api_id, body)
        return api_id, attributes

    @replace_handler("AWS::ApiGatewayV2::Api", "update")
    def update(original: Any, physical_id: str, old: Properties, new: Properties, *rest: Any) -> Any:
        api_id, attributes = original(physical_id, old, new, *rest)
        if new.get("Body"):
            _import_body(api_id, new["Body"])
        return api_id, attributes


def _import_body(api_id: str, body: Any) -> None:
    body = json.loads(body) if isinstance(body, str) else body
    for store in (apigateway._routes, apigateway._integrations, apigateway._authorizers):
        store[api_id] = {}
    authorizers = dict(_add_authorizers(api_id, body))
    for path, item in (body.get("paths") or {}).items():
        for method, operation in (item or {}).items():
            if method.lower() in _METHODS and isinstance(operation, dict):
                _add_route(api_id, path, method.lower(), operation, authorizers)
    if body.get("x-amazon-apigateway-cors"):
        apigateway._apis[api_id]["corsConfiguration"] = body["x-amazon-apigateway-cors"]


def _add_authorizers(api_id: str, body: Properties) -> Iterator[tuple[str, str]]:
    """Create an authorizer for each JWT scheme, and yield its name and its id."""
    for name, scheme in ((body.get("components") or {}).get("securitySchemes") or {}).items():
        authorizer = scheme.get("x-amazon-apigateway-authorizer") or {}
        if str(authorizer.get("type", "")).lower() != "jwt":
            continue
        source = authorizer.get("identitySource") or "$request.header.Authorization"
        request = {
            "name": name,
            "authorizerType": "JWT",
            "identitySource": [source] if isinstance(source, str) else source,
            "jwtConfiguration": {
                "issuer": authorizer["jwtConfiguration"]["issuer"],
                "audience": authorizer["jwtConfiguration"].get("audience", []),
            },
        }
        yield name, result(apigateway._create_authorizer(api_id, request))["authorizerId"]


def _add_route(
    api_id: str, path: str, method: str, operation: Properties, authorizers: dict[str, str]
) -> None:
    integration = operation.get("x-amazon-apigateway-integration") or {}
    request = {
        "integrationType": integration.get("type", "aws_proxy").upper(),
        "integrationUri": integration.get("uri", ""),
        "integrationMethod": integration.get("httpMethod", "POST"),
        "payloadFormatVersion": integration.get("payloadFormatVersion", "2.0"),
        "timeoutInMillis": int(integration.get("timeoutInMillis", 30000)),
    }
    integration_id = result(apigateway._create_integration(api_id, request))["integrationId"]
    verb = "ANY" if method == _ANY else method.upper()
    route = {
        "routeKey": "$default" if path.strip("/") == "$default" else f"{verb} {path}",
        "target": f"integrations/{integration_id}",
        **_authorization(operation, authorizers),
    }
    result(apigateway._create_route(api_id, route))


def _authorization(operation: Properties, authorizers: dict[str, str]) -> Properties:
    found: Properties = {}
    for requirement in operation.get("security") or []:
        for name, scopes in requirement.items():
            if name in authorizers:
                found |= {"authorizationType": "JWT", "authorizerId": authorizers[name]}
                found |= {"authorizationScopes": scopes} if scopes else {}
            elif name == "AWS_IAM":
                found["authorizationType"] = "AWS_IAM"
    return found


@patch
def api_endpoints() -> None:
    """AWS does: answer at a host name of the API's, with TLS. https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-publish.html
    The emulator does: answer at a host name that not every client resolves, or at a path.
    Reported as: not reported.
    """

    @replace_handler("AWS::ApiGatewayV2::Api", "create", "update")
    def handle(original: Any, *args: Any) -> Any:
        api_id, attributes = original(*args)
        # The stage is $default, encoded, because a shell would take that for a variable of its own.
        address = f"http://127.0.0.1:{PORT}/_aws/execute-api/{api_id}/%24default"
        apigateway._apis[api_id]["apiEndpoint"] = address
        return api_id, {**attributes, "ApiEndpoint": address}
