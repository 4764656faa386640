"""What the patches share: how to replace a function, and how to add a resource type."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from typing import Any

from ministack.core.responses import get_account_id, get_region
from ministack.services.cloudformation import provisioners

HANDLERS = provisioners._RESOURCE_HANDLERS
PORT = os.environ["GATEWAY_PORT"]
Properties = dict[str, Any]


def replace(module: Any, name: str) -> Callable[[Any], Any]:
    """Put the decorated function in the place of `module.name`; its first argument is the original."""

    def decorate(function: Any) -> Any:
        setattr(module, name, functools.partial(function, getattr(module, name)))
        return function

    return decorate


def replace_handler(resource_type: str, *actions: str) -> Callable[[Any], Any]:
    """Put the decorated function in the place of a type's handlers; its first argument is the original."""

    def decorate(function: Any) -> Any:
        handlers = HANDLERS[resource_type]
        for action in actions:
            handlers[action] = functools.partial(function, handlers[action])
        return function

    return decorate


def add_type(
    name: str, create: Any, delete: Any = lambda physical_id, props: None, update: Any = None
) -> None:
    """Add a resource type. Without `update`, every change makes a new resource."""
    HANDLERS[name] = {"create": create, "delete": delete}
    if update:
        HANDLERS[name] |= {"update": update, "update_with_logical_id": True}


def result(response: Any) -> Any:
    """Return the JSON (or text) of a service's response; an error fails the resource, as it should."""
    status, _headers, body = response
    text = body.decode() if isinstance(body, bytes) else body
    if status >= 400:
        raise ValueError(text)
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text


def arn(service: str, resource: str) -> str:
    """Return an ARN in the request's region and account."""
    return f"arn:aws:{service}:{get_region()}:{get_account_id()}:{resource}"
