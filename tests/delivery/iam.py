"""Evaluate IAM policies: what the tests of the bootstrap roles ask instead of a real account.

Covers what our policies use: Allow and Deny, wildcards, and the condition operators listed below. An
operator it does not know raises, so that a policy cannot pass by being misunderstood.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from cfnlint.data import AdditionalSpecs
from cfnlint.helpers import load_resource

Statement = Mapping[str, Any]
Context = Mapping[str, str | list[str]]


def allowed(statements: Iterable[Statement], action: str, resource: str, **context: str | list[str]) -> bool:
    """Tell whether identity policies allow the call: some Allow matches and no Deny does."""
    return verdict(statements, action, resource, context)[0]


def verdict(
    statements: Iterable[Statement], action: str, resource: str, context: Context
) -> tuple[bool, str]:
    """Tell whether identity policies allow the call, and by which statement; by none, if it is not named."""
    matching = [s for s in statements if _matches(s, action, resource, context)]
    deciding = [s for s in matching if s["Effect"] == "Deny"] or matching
    return any(s["Effect"] == "Allow" for s in deciding), deciding[0].get("Sid", "") if deciding else ""


def trusts(policy: Mapping[str, Any], claims: Mapping[str, str]) -> bool:
    """Tell whether a trust policy lets a GitHub token with these claims assume the role."""
    context = {f"token.actions.githubusercontent.com:{name}": value for name, value in claims.items()}
    effects = {
        s["Effect"]
        for s in policy["Statement"]
        if "sts:AssumeRoleWithWebIdentity" in _listed(s["Action"])
        and "token.actions.githubusercontent.com" in s["Principal"].get("Federated", "")
        and _conditions_hold(s.get("Condition", {}), context)
    }
    return effects == {"Allow"}


# AWS's Service Authorization Reference: calls, what they are made on, and what IAM is told of that. cfn-lint
# carries a copy. https://docs.aws.amazon.com/service-authorization/latest/reference/service-reference.html
_REFERENCE: dict[str, Any] = load_resource(AdditionalSpecs, "Policies.json")


def taken(call: str) -> dict[str, dict[str, Any]]:
    """Return what a call may be made on: by kind, `ARNFormats` and `ConditionKeys`. Nothing: only on `*`.

    Raises `KeyError` for a call that AWS does not know.
    """
    service, _, name = call.partition(":")
    known = _REFERENCE[service]
    kinds = {kind.lower(): found for kind, found in known.get("Resources", {}).items()}
    return {kind: kinds[kind.lower()] for kind in known["Actions"][name.lower()].get("Resources", [])}


def formats(service: str) -> list[str]:
    """Return the formats of all ARNs of a service."""
    kinds = _REFERENCE[service].get("Resources", {}).values()
    return [text for kind in kinds for text in kind["ARNFormats"]]


def is_of_format(arn: str, text: str) -> bool:
    """Tell whether an ARN has a format of the reference, of which some parts are regular expressions."""
    parts = {"Partition": "aws", "Region": "[a-z0-9-]*", "Account": r"\d{12}"}
    return bool(re.fullmatch(re.sub(r"\$\{(\w+)\}", lambda found: parts.get(found[1], ".*"), text), arn))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def like(pattern: str, value: str) -> bool:
    """Tell whether a pattern with * and ? covers the value."""
    regex = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    return re.fullmatch(regex, value, re.DOTALL) is not None


def arn_like(pattern: str, value: str) -> bool:
    """Tell whether a pattern covers an ARN: part by part, and no wildcard reaches into the next part.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html#Conditions_ARN
    """
    patterns, parts = pattern.split(":", 5), value.split(":", 5)
    return len(patterns) == len(parts) == 6 and all(map(like, patterns, parts))


def _matches(statement: Statement, action: str, resource: str, context: Context) -> bool:
    return (
        any(like(p.lower(), action.lower()) for p in _listed(statement["Action"]))
        and any(like(p, resource) for p in _listed(statement.get("Resource", "*")))
        and _conditions_hold(statement.get("Condition", {}), context)
    )


def _conditions_hold(conditions: Mapping[str, Mapping[str, Any]], context: Context) -> bool:
    return all(
        _holds(operator, _listed(wanted), context.get(key))
        for operator, keys in conditions.items()
        for key, wanted in keys.items()
    )


def _holds(operator: str, wanted: list[str], value: str | list[str] | None) -> bool:
    """Tell whether a condition holds for the request's value, or for its values.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
    """
    if operator == "Null":
        return (value is None) == (wanted == ["true"])
    if operator.endswith("IfExists"):
        return value is None or _holds(operator.removesuffix("IfExists"), wanted, value)
    if operator.startswith("ForAllValues:"):  # holds for a request that has no value
        return all(_holds(operator.removeprefix("ForAllValues:"), wanted, v) for v in _listed(value or []))
    if operator.startswith("ForAnyValue:"):
        return any(_holds(operator.removeprefix("ForAnyValue:"), wanted, v) for v in _listed(value or []))
    if operator in ("StringNotLike", "StringNotEquals", "ArnNotLike"):  # hold for a request that has no value
        return not _holds(operator.replace("Not", ""), wanted, value)
    assert not isinstance(value, list), f"{operator} on several values"
    if operator in ("StringEquals", "Bool"):
        return value in wanted
    if operator == "StringLike":
        return value is not None and any(like(w, value) for w in wanted)
    if operator in ("ArnLike", "ArnEquals"):  # alike
        return value is not None and any(arn_like(w, value) for w in wanted)
    raise NotImplementedError(operator)
