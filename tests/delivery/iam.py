"""Evaluate IAM policies: what the tests of the bootstrap roles ask instead of a real account.

Covers what our policies use: Allow and Deny, wildcards, and the condition operators listed below. An
operator it does not know raises, so that a policy cannot pass by being misunderstood.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Statement = Mapping[str, Any]


def allowed(statements: Iterable[Statement], action: str, resource: str, **context: str) -> bool:
    """Tell whether identity policies allow the call: some Allow matches and no Deny does."""
    effects = {s["Effect"] for s in statements if _matches(s, action, resource, context)}
    return "Allow" in effects and "Deny" not in effects


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


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def like(pattern: str, value: str) -> bool:
    """Tell whether a pattern with * and ? covers the value."""
    regex = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    return re.fullmatch(regex, value, re.DOTALL) is not None


def _matches(statement: Statement, action: str, resource: str, context: Mapping[str, str]) -> bool:
    return (
        any(like(p.lower(), action.lower()) for p in _listed(statement["Action"]))
        and any(like(p, resource) for p in _listed(statement.get("Resource", "*")))
        and _conditions_hold(statement.get("Condition", {}), context)
    )


def _conditions_hold(conditions: Mapping[str, Mapping[str, Any]], context: Mapping[str, str]) -> bool:
    return all(
        _holds(operator, _listed(wanted), context.get(key))
        for operator, keys in conditions.items()
        for key, wanted in keys.items()
    )


def _holds(operator: str, wanted: list[str], value: str | None) -> bool:
    if operator.endswith("IfExists"):
        return value is None or _holds(operator.removesuffix("IfExists"), wanted, value)
    if operator.startswith("ForAllValues:"):  # holds for a request that has no value
        return value is None or _holds(operator.removeprefix("ForAllValues:"), wanted, value)
    if operator in ("StringEquals", "ArnEquals", "Bool") and not (
        operator == "ArnEquals" and any("*" in w for w in wanted)
    ):
        return value in wanted
    if operator in ("StringLike", "ArnLike", "ArnEquals"):
        return value is not None and any(like(w, value) for w in wanted)
    raise NotImplementedError(operator)
