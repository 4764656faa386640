"""Every alarm fires on a bad series and stays quiet on a good one, and leads to its runbook.

The alarms are taken from the templates and evaluated as CloudWatch would (see `cloudwatch.py`): a wrong
metric name, dimension, statistic, expression, threshold or number of periods makes one of these fail.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
import pytest
import yaml
from tests.builders import AN_ORDER, METRICS, a_message, a_record, a_settings, an_app, an_envelope, an_order
from tests.template.cloudwatch import Key, Metrics, Samples, composite_state, key, state
from tests.template.templates import (
    ALL_TEMPLATES,
    ROOT,
    Evaluator,
    mentions,
    of_type,
    stack_documents,
    template,
    whole_templates,
)
from tests.transports import LambdaTransport, ServerTransport
from tests.unit.test_json_client import client_of, rejects, serving

from app.core.events.relay import relay
from app.core.http import middleware
from app.core.memory import FixedCursorKey, MemoryEventPublisher
from app.core.telemetry import Telemetry, metric_definition
from app.entrypoints.lambda_relay import event_reader
from app.orders.memory import MemoryDocumentStore, MemoryOrderRepository
from app.orders.receipts import write_receipt
from app.orders.service import OrderService

MONITORING = "monitoring/template.yaml"
UNKNOWN = "/orders/0199a6f5-1c00-7000-8000-000000000001"
MODES = {"lambda": {"lambda"}, "fargate": {"fargate"}, "both": {"lambda", "fargate"}}
RUNBOOKS = "https://git.example.com/acme/orders/blob/main/docs/runbooks.md"
DEPLOYMENTS = ("LambdaStack.", "FargateStack.")  # the stacks with alarms that roll one back
ALARMS = ("AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm")


def named(value: Any, **names: str) -> Any:
    """Return `value` with what only a deployment knows under its name in the template, or that of `names`."""
    match value:
        case {"Ref": name}:
            return names.get(name, name)
        case {"Fn::GetAtt": [name, attribute]}:
            return names.get(f"{name}.{attribute}", f"{name}.{attribute}")
        case {"Fn::Sub": [text, more]}:
            return named({"Fn::Sub": text}, **names, **named(more, **names))
        case {"Fn::Sub": str() as text}:
            return re.sub(r"\$\{([\w:.]+)\}", lambda found: names.get(found[1], found[1]), text)
        case dict():
            return {name: named(item, **names) for name, item in value.items()}
        case list():
            return [named(item, **names) for item in value]
    return value


@cache
def stack_resources(mode: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the resources of each stack that the root makes for the entry points that exist."""
    given = {
        "AWS::StackName": "orders-test",
        "RunbookUrl": RUNBOOKS,
        "Runtime": "fargate" if mode == "fargate" else "lambda",
        "BothRuntimes": str(mode == "both").lower(),
    }
    found = {}
    for _, document, evaluator in stack_documents("template.yaml", given):
        name = evaluator.resolved({"Ref": "AWS::StackName"})
        found[name.split("-")[-2]] = document["Resources"]
    return found


def monitoring(mode: str) -> dict[str, dict[str, Any]]:
    return stack_resources(mode)["MonitoringStack"]


@cache
def alarms(mode: str) -> dict[str, dict[str, Any]]:
    """Return the properties of every alarm by stack and name, or by a name that no other has."""
    found = {}
    for stack, resources in stack_resources(mode).items():
        prefix = "" if stack in ("MonitoringStack", "RelayStack") else f"{stack}."
        own = of_type(resources, *ALARMS)
        names = {name: prefix + name for name in own}
        found |= {names[name]: named(alarm["Properties"], **names) for name, alarm in own.items()}
    return found


@cache
def backup_alarms() -> dict[str, dict[str, Any]]:
    """Return the properties of the alarms on backups; test_backup.py has their series."""
    [(_, document, _)] = stack_documents("backup/template.yaml", {"RunbookUrl": RUNBOOKS})
    found = of_type(document["Resources"], *ALARMS)
    return {name: named(alarm["Properties"]) for name, alarm in found.items()}


def test_no_template_has_alarms_that_are_not_looked_at() -> None:
    having = {path for path in whole_templates() if of_type(template(path)["Resources"], *ALARMS)}
    assert having <= {"backup/template.yaml", *ALL_TEMPLATES}


def state_of(mode: str, name: str, series: Mapping[Key, Samples]) -> str:
    """Return the state of an alarm."""
    alarm = alarms(mode)[name]
    if "AlarmRule" in alarm:
        return composite_state(alarm, lambda part: state_of(mode, part, series))
    return state(alarm, Metrics(series))


def ours(name: str) -> Key:
    return key("Orders", name, service="orders-test")


def function(name: str, of: str) -> Key:
    return key("AWS/Lambda", name, FunctionName=of)


def queue(name: str, of: str) -> Key:
    return key("AWS/SQS", name, QueueName=of)


def balancer(name: str) -> Key:
    return key("AWS/ApplicationELB", name, LoadBalancer="orders-test-LoadBalancerName")


def gateway(name: str) -> Key:
    return key("AWS/ApiGateway", name, ApiId="HttpApiId")


def each_minute(*values: float) -> Samples:
    """One sample a minute."""
    return [[value] for value in values]


# What no stack has yet is named after the parameter that hands it on.
FUNCTION = "orders-test-ApiFunctionName"
TASKS = {"ClusterName": "orders-test-ClusterName", "ServiceName": "orders-test-ServiceOfTasksName"}
NOTHING: Samples = [[]] * 5


@dataclass
class Case:
    """The series on which an alarm fires, and those on which it does not."""

    bad: list[dict[Key, Samples]]
    good: list[dict[Key, Samples]]


def errors(*counts: int, of: int = 100) -> dict[Key, Samples]:
    """As the application counts: one sample for each request."""
    return {
        ours("Requests"): [[1.0] * of] * len(counts),
        ours("ServerErrors"): [[1.0] * count + [0.0] * (of - count) for count in counts],
    }


def latencies(*minutes: list[float]) -> dict[Key, Samples]:
    return {ours("Latency"): list(minutes)}


def relaying(placed: list[float], relayed: list[float] | None = None) -> dict[Key, Samples]:
    """Orders placed and events relayed in each minute; without these, a relay that is never invoked."""
    series = {ours("OrdersPlaced"): [[1.0] * int(count) for count in placed]}
    if relayed is not None:
        series[ours("EventsRelayed")] = [[1.0] * int(count) for count in relayed]
    return series


def single(name: Key, *, bad: list[Samples], good: list[Samples]) -> Case:
    return Case([{name: series} for series in bad], [{name: series} for series in good])


def dead_letters(name: str) -> Case:
    return single(
        queue("ApproximateNumberOfMessagesVisible", name),
        bad=[each_minute(0, 1), each_minute(7)],
        good=[each_minute(3, 0), NOTHING],
    )


def failures(records: Key, of: str) -> Case:
    invocations = function("Errors", of)
    return Case(
        bad=[
            {records: each_minute(0, 1, 0, 0, 2)},
            {invocations: each_minute(1, 0, 0, 1, 0)},
            {records: [[1.0], [], [], [], []], invocations: each_minute(0, 0, 0, 1, 0)},
        ],
        good=[
            {},
            {records: [[], [], [1.0], [], []], invocations: each_minute(0, 0, 0, 0, 0)},
            {records: each_minute(9, 9, 0, 0, 0, 0, 0)},
        ],
    )


def deployment(name: Key, threshold: int) -> Case:
    return single(
        name,
        bad=[each_minute(threshold)],
        good=[each_minute(threshold - 1), each_minute(threshold, 0), NOTHING],
    )


@cache
def version_name() -> str:
    """Name the attribute that is the number of the API function's version."""
    (version,) = of_type(stack_resources("lambda")["LambdaStack"], "AWS::Lambda::Version")
    return f"{version}.Version"


def failed_calls(version: str) -> Key:
    """Invocations of a version by the alias that failed, as Lambda counts them.

    https://github.com/aws/serverless-application-model/blob/master/docs/safe_lambda_deployments.rst
    """
    return key(
        "AWS/Lambda",
        "Errors",
        FunctionName="ApiFunction",
        Resource="ApiFunction:live",
        ExecutedVersion=version,
    )


def version_errors(version: str) -> Key:
    """Answers of a version with 5xx, as the application counts them."""
    return key("Orders", "VersionErrors", service="orders-test", function_version=version)


def alarms_of_version(version: str) -> dict[str, dict[str, Any]]:
    """Return what CodeDeploy watches while this version takes over."""
    found = stack_resources("lambda")["LambdaStack"]
    watched = found["ApiFunctionDeploymentGroup"]["Properties"]["AlarmConfiguration"]["Alarms"]
    names = {version_name(): version}
    return {name: named(found[name]["Properties"], **names) for name in mentions(watched, "Ref")}


def states_of_version(version: str, series: Mapping[Key, Samples]) -> set[str]:
    return {state(alarm, Metrics(series)) for alarm in alarms_of_version(version).values()}


class TestDeployment:
    """CodeDeploy stops a deployment while an alarm is on, also one that was on before it began.

    https://docs.aws.amazon.com/codedeploy/latest/userguide/monitoring-create-alarms.html
    """

    def incident(self, version: str) -> dict[Key, Samples]:
        """Everything that there is to see of an API whose version fails."""
        many = each_minute(*[500.0] * 10)
        return {
            failed_calls(version): many,
            version_errors(version): many,
            function("Errors", "ApiFunction"): many,
            key("AWS/Lambda", "Errors", FunctionName="ApiFunction", Resource="ApiFunction:live"): many,
            key("AWS/ApiGateway", "5xx", ApiId="HttpApi"): many,
            ours("ServerErrors"): many,
        }

    def test_the_one_that_ends_an_incident_is_not_stopped_by_it(self) -> None:
        assert states_of_version("8", self.incident("8")) == {"ALARM"}
        assert states_of_version("9", self.incident("8")) == {"OK"}

    @pytest.mark.parametrize("signal", [failed_calls, version_errors])
    def test_a_new_version_that_fails_is_stopped(self, signal: Callable[[str], Key]) -> None:
        well = {signal("8"): each_minute(0, 0, 0)}
        assert "ALARM" in states_of_version("9", {**well, signal("9"): each_minute(0, 0, 5)})

    def test_each_version_has_alarms_of_its_own(self) -> None:
        """One that is updated keeps its state, and would stop the new version for the old one's errors.

        A new one begins as INSUFFICIENT_DATA, which stops nothing.
        https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html
        """
        names = {alarm["AlarmName"] for version in "89" for alarm in alarms_of_version(version).values()}
        assert len(names) == 4


FAST, SLOW = [1900.0] * 99 + [9000.0], [200.0] * 97 + [2100.0] * 3

# SLOs: for each entry point, its requests and bad ones a minute over six hours.
Traffic = Callable[[list[float], list[float]], dict[Key, Samples]]


def through_gateway(requests: list[float], bad: list[float]) -> dict[Key, Samples]:
    return {gateway("Count"): each_minute(*requests), gateway("5xx"): each_minute(*bad)}


def through_tasks(requests: list[float], bad: list[float]) -> dict[Key, Samples]:
    return {
        balancer("RequestCount"): each_minute(*requests),
        balancer("HTTPCode_Target_5XX_Count"): [[count] if count else [] for count in bad],
    }


def lost_by_balancer(requests: list[float], bad: list[float]) -> dict[Key, Samples]:
    """No healthy task: the load balancer answers 503, and does not count those as requests."""
    return {
        balancer("RequestCount"): [[count] if count else [] for count in requests],
        balancer("HTTPCode_ELB_5XX_Count"): [[count] if count else [] for count in bad],
    }


def slow_at_gateway(requests: list[float], bad: list[float]) -> dict[Key, Samples]:
    mixed = [[2001.0] * int(b) + [2000.0] * int(n - b) for n, b in zip(requests, bad, strict=True)]
    return {gateway("Count"): [[1.0] * int(n) for n in requests], gateway("Latency"): mixed}


def slow_tasks(requests: list[float], bad: list[float]) -> dict[Key, Samples]:
    mixed = [[2.001] * int(b) + [2.0] * int(n - b) for n, b in zip(requests, bad, strict=True)]
    return {
        balancer("RequestCount"): [[1.0] * int(n) for n in requests],
        balancer("TargetResponseTime"): mixed,
    }


BUSY = [100.0] * 360


def burns(mode: str, kind: str, fast: bool, window: str = "") -> Case:
    """Series through each entry point for an SLO's alarm, or for its part that watches the `window`."""
    entry_points = {
        ("lambda", "availability"): [through_gateway],
        ("fargate", "availability"): [through_tasks, lost_by_balancer],
        ("lambda", "latency"): [slow_at_gateway],
        ("fargate", "latency"): [slow_tasks],
    }
    traffics = [traffic for name in sorted(MODES[mode]) for traffic in entry_points[name, kind]]
    allowed = 0.1 if kind == "availability" else 1  # bad ones of a hundred that just meet the SLO
    long, short, rate = (60, 5, 14.4) if fast else (360, 30, 6)

    def bad(share: float, minutes: int, calm: int = 0) -> list[dict[Key, Samples]]:
        burnt = [0.0] * (360 - minutes - calm) + [allowed * share] * minutes + [0.0] * calm
        return [traffic(BUSY, burnt) for traffic in traffics]

    fires = bad(rate * 1.2, long)
    if "fargate" in MODES[mode] and kind == "availability":  # nothing answers but the load balancer
        fires.append(
            lost_by_balancer([100.0] * (360 - long) + [0.0] * long, [0.0] * (360 - long) + [100.0] * long)
        )
    blip = bad(60, 2 if fast else 12)  # much, but for a moment: only the short window is bad
    over = bad(60, long - short, short)  # much, but no more: only the long window is bad
    begun = bad(rate * 1.5, long // 2)  # too much for half of the long window, and so not for all of it
    moment = bad(rate * 2, short * 2 // 5)  # the same of the short window
    quiet_night = [
        traffic([0.0] * 357 + [1.0, 0.0, 0.0], [0.0] * 357 + [1.0, 0.0, 0.0]) for traffic in traffics
    ]
    quiet = [{}, *bad(0, 0), *bad(rate * 0.9, long), *quiet_night]
    match window:
        case "Long":
            return Case(fires + over, quiet + blip + begun)
        case "Short":
            return Case(fires + blip + begun, quiet + over + moment)
    return Case(fires, quiet + blip + over + begun)


def slos(mode: str) -> dict[str, Case]:
    return {
        f"{kind.capitalize()}Stack.{speed}Burn{window}Alarm": burns(mode, kind, speed == "Fast", window)
        for kind in ("availability", "latency")
        for speed in ("Fast", "Slow")
        for window in ("", "Long", "Short")
    }


def consumers() -> dict[str, Case]:
    """Series for the alarms of every consumer."""
    found: dict[str, Case] = {}
    for stack, resource in of_type(template()["Resources"], "AWS::CloudFormation::Stack").items():
        if resource["Properties"]["TemplateURL"] == "lambda/consumer.yaml":
            name = resource["Properties"]["Parameters"]["Name"]
            failed = key("Orders", "ConsumerFailures", service="orders-test", location=name)
            found[f"{stack}.AgeAlarm"] = single(
                queue("ApproximateAgeOfOldestMessage", "Queue.QueueName"),
                bad=[each_minute(310, 10, 320, 10, 330)],
                good=[each_minute(310, 320, 10, 10, 10), each_minute(*[300] * 5), NOTHING],
            )
            found[f"{stack}.FailuresAlarm"] = failures(failed, "ConsumerFunction")
            found[f"{stack}.DeadLettersAlarm"] = dead_letters("DeadLetterQueue.QueueName")
    return found


@cache
def cases(mode: str) -> dict[str, Case]:
    """Series for every alarm. An alarm that is not here fails `test_every_alarm_has_its_series`."""
    found = {
        "ServerErrorsAlarm": Case(
            bad=[errors(5, 5, 0, 0, 5), errors(50, 50, 50)],
            good=[errors(5, 5, 4, 4, 4), errors(1, 1, 1, 1, 1, of=3), {}],
        ),
        "LatencyAlarm": Case(
            bad=[latencies(SLOW, FAST, SLOW, FAST, SLOW)],
            good=[
                latencies(*[FAST] * 5),
                latencies(*[[9000.0]] * 5),
                latencies(*[SLOW] * 3, *[FAST] * 3),
                {},
            ],
        ),
        "ThrottlesAlarm": single(
            ours("Throttles"),
            bad=[[[1.0] * 10, [4.0, 6.0], [], [50.0], []]],
            good=[[[50.0], [50.0], [], [], []], [[9.0]] * 5, NOTHING],
        ),
        "RelayAgeAlarm": single(
            function("IteratorAge", "RelayFunction"),
            bad=[each_minute(70e3, 80e3, 90e3)],
            good=[each_minute(70e3, 80e3, 90e3, 2e3), each_minute(60e3, 60e3, 60e3), NOTHING],
        ),
        "RelayStalledAlarm": Case(
            bad=[
                relaying(placed=[0] * 50 + [1, 0, 0, 0, 0] + [0, 0, 2, 0, 0]),
                relaying(placed=[1] + [0] * 50 + [1] + [0] * 8),
                relaying(placed=[20] * 60, relayed=[20] * 50 + [0] * 10),
            ],
            good=[
                {},
                relaying(placed=[20] * 60, relayed=[20] * 60),
                relaying(placed=[0] * 54 + [1, 0, 0, 0, 0, 0], relayed=[0] * 55 + [1, 0, 0, 0, 0]),
                relaying(placed=[0] * 60, relayed=[0, 3] * 30),
                relaying(placed=[20] * 65, relayed=[0] * 5 + [20] * 60),
            ],
        ),
        "RelayFailuresAlarm": failures(ours("RelayFailures"), "RelayFunction"),
        "RelayDeadLettersAlarm": dead_letters("orders-test-DeadLetterQueueName"),
        **consumers(),
        **slos(mode),
    }
    if "lambda" in MODES[mode]:
        found |= {
            "FunctionThrottlesAlarm": single(
                function("Throttles", FUNCTION),
                bad=[each_minute(0, 3, 0, 0, 1)],
                good=[each_minute(0, 0, 0, 0, 7), NOTHING],
            ),
            "FunctionErrorsAlarm": single(
                function("Errors", FUNCTION),
                bad=[each_minute(0, 1, 0, 0, 1)],
                good=[each_minute(0, 9, 0, 0, 0), NOTHING],
            ),
            "FunctionConcurrencyAlarm": single(
                function("ConcurrentExecutions", FUNCTION),
                bad=[each_minute(800, 810, 900)],
                good=[each_minute(900, 799, 900), NOTHING],
            ),
            "LambdaStack.ApiErrorsAlarm": deployment(failed_calls(version_name()), 3),
            "LambdaStack.ApiServerErrorsAlarm": deployment(version_errors(version_name()), 5),
        }
    if "fargate" in MODES[mode]:
        targets = key(
            "AWS/ApplicationELB",
            "UnHealthyHostCount",
            LoadBalancer="orders-test-LoadBalancerName",
            TargetGroup="orders-test-TargetGroupName",
        )
        # Those of a deployment are named in the stack of the load balancer itself.
        itself = {"LoadBalancer": "LoadBalancer.LoadBalancerFullName"}
        answered = key(
            "AWS/ApplicationELB",
            "HTTPCode_Target_5XX_Count",
            TargetGroup="TargetGroup.TargetGroupFullName",
            **itself,
        )
        broken, no_task_yet, silent = (
            key("AWS/ApplicationELB", f"HTTPCode_ELB_{status}_Count", **itself) for status in (502, 503, 504)
        )
        found |= {
            "UnhealthyTargetsAlarm": single(
                targets,
                bad=[each_minute(0, 1, 1, 0, 1), [[0.0], [0.0], [], [], []]],  # no task at all tells nothing
                good=[each_minute(0, 1, 1, 0, 0), each_minute(0, 0, 0, 0, 0)],
            ),
            "TaskProcessorAlarm": single(
                key(
                    "AWS/ECS",
                    "CPUUtilization",
                    ClusterName="orders-test-ClusterName",
                    ServiceName="orders-test-ServiceOfTasksName",
                ),
                bad=[each_minute(*[90] * 10)],
                good=[each_minute(*[90] * 9, 60), each_minute(*[85] * 10), NOTHING],
            ),
            "RejectedRequestsAlarm": single(
                ours("RejectedRequests"),
                bad=[[[1.0] * 10, [], [1.0] * 30, [], [1.0] * 10]],
                good=[[[1.0] * 500, [1.0] * 500, [], [], []], [[1.0] * 9] * 5, NOTHING],
            ),
            "TaskRestartsAlarm": single(
                key("AWS/Events", "Invocations", RuleName="TaskStopsRule"),
                bad=[[[], [1.0], [], [1.0], []]],
                good=[[[], [], [1.0], [], []], [[1.0], [1.0], [], [], [], [], []], NOTHING],
            ),
            "FargateStack.ServerErrorsAlarm": Case(
                bad=[
                    {answered: each_minute(5)},
                    {broken: each_minute(5)},
                    {silent: each_minute(3), broken: each_minute(2)},
                ],
                good=[
                    {answered: each_minute(4)},
                    {answered: each_minute(2), broken: each_minute(1), silent: each_minute(1)},
                    {answered: each_minute(5, 0), broken: each_minute(9, 0)},
                    {no_task_yet: each_minute(100), answered: NOTHING},
                    {},
                ],
            ),
        }
    return found


EVERY = [(mode, name) for mode in MODES for name in sorted(cases(mode))]


@pytest.mark.parametrize("mode", MODES)
def test_every_alarm_has_its_series(mode: str) -> None:
    assert cases(mode).keys() == alarms(mode).keys()


@pytest.mark.parametrize(("mode", "name"), EVERY)
def test_fires_on_a_bad_series(mode: str, name: str) -> None:
    assert cases(mode)[name].bad
    for series in cases(mode)[name].bad:
        assert state_of(mode, name, series) == "ALARM"


@pytest.mark.parametrize(("mode", "name"), EVERY)
def test_stays_quiet_on_a_good_series(mode: str, name: str) -> None:
    assert cases(mode)[name].good
    for series in cases(mode)[name].good:
        assert state_of(mode, name, series) == "OK"


class Store(MemoryOrderRepository):
    """A database that breaks or dawdles as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0.0  # what `perf_counter` shows
        self.slow_seconds = 0.0
        self.broken = False

    async def get(self, order_id: str) -> Any:
        self.clock += self.slow_seconds
        if self.broken:
            raise RuntimeError
        return await super().get(order_id)


class TestOwnLines:
    """Alarms are fed with what we write, as CloudWatch reads it: no name or dimension is typed twice."""

    @pytest.fixture
    def telemetry(self) -> Telemetry:
        return Telemetry(a_settings(service_name="orders-test"))

    @pytest.fixture
    def state_now(self, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
        """Return the state of an alarm in a stack that writes, minute by minute, what was just written."""
        return lambda alarm: state_of("both", alarm, extracted(capsys.readouterr().out))

    @pytest.fixture
    def store(self, monkeypatch: pytest.MonkeyPatch) -> Store:
        store = Store()
        monkeypatch.setattr(time, "perf_counter", lambda: store.clock)
        return store

    @pytest.fixture(params=["lambda", "fargate"])
    def runtime(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def log_level(self) -> str:
        return "INFO"

    @pytest.fixture
    def client(self, runtime: str, log_level: str, store: Store, loop: Any) -> Iterator[httpx.Client]:
        service = OrderService(store, MemoryDocumentStore(), FixedCursorKey())
        settings = a_settings(service_name="orders-test", runtime=runtime, log_level=log_level)
        app = an_app(service, settings)
        transport = LambdaTransport(app) if runtime == "lambda" else ServerTransport(app, loop)
        with httpx.Client(transport=transport, base_url="http://api.test") as client:
            yield client

    @pytest.mark.parametrize("log_level", template()["Parameters"]["LogLevel"]["AllowedValues"])
    def test_server_errors(self, client: httpx.Client, store: Store, state_now: Callable[[str], str]) -> None:
        """Whatever the log's level: were good requests not counted, the few bad ones would look like all."""
        for good, bad, expected in ((480, 20, "OK"), (20, 20, "ALARM")):
            for store.broken, count in ((False, good), (True, bad)):
                for _ in range(count):
                    client.get(UNKNOWN)
            assert state_now("ServerErrorsAlarm") == expected

    def test_errors_of_a_version(
        self, client: httpx.Client, runtime: str, store: Store, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """On Lambda, whose platform tells the version; ECS watches its tasks at the load balancer."""
        for store.broken, count in ((False, 100), (True, 4), (True, 1)):
            for _ in range(count):
                client.get(UNKNOWN)
            if not store.broken:  # what is well costs no metric
                assert "VersionErrors" not in capsys.readouterr().out
        series = extracted(capsys.readouterr().out)
        assert states_of_version("7", series) == ({"ALARM", "OK"} if runtime == "lambda" else {"OK"})
        assert states_of_version("8", series) == {"OK"}

    def test_latency(self, client: httpx.Client, store: Store, state_now: Callable[[str], str]) -> None:
        for store.slow_seconds, expected in ((1.9, "OK"), (2.1, "ALARM")):
            for _ in range(20):
                client.get(UNKNOWN)
            assert state_now("LatencyAlarm") == expected

    async def test_throttles(self, telemetry: Telemetry, state_now: Callable[[str], str]) -> None:
        for calls, expected in ((3, "OK"), (4, "ALARM")):
            for _ in range(calls):
                async with serving(*[rejects("ThrottlingException")] * 3) as server:  # and then it answers
                    with telemetry.log_operation("api", "request", "r"):
                        await client_of(server).call("GetItem", {})
            assert state_now("ThrottlesAlarm") == expected

    def test_rejected_requests(
        self, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, state_now: Callable[[str], str]
    ) -> None:
        for places, count, expected in ((0, 9, "OK"), (1, 20, "OK"), (0, 10, "ALARM")):
            monkeypatch.setattr(middleware, "MAX_IN_FLIGHT", places)
            for _ in range(count):
                client.get(UNKNOWN)
            assert state_now("RejectedRequestsAlarm") == expected

    def test_relay(self, telemetry: Telemetry, state_now: Callable[[str], str]) -> None:
        order = a_record(an_order())
        relay({"Records": [order]}, event_reader(), MemoryEventPublisher(), telemetry)
        assert state_now("RelayFailuresAlarm") == "OK"
        broken = order | {"dynamodb": order["dynamodb"] | {"NewImage": {"pk": {"S": "order#1"}}}}
        relay({"Records": [broken]}, event_reader(), MemoryEventPublisher(), telemetry)
        assert state_now("RelayFailuresAlarm") == "ALARM"

    def test_relay_stalled(
        self, telemetry: Telemetry, client: httpx.Client, capsys: pytest.CaptureFixture[str]
    ) -> None:
        client.post("/orders", json=AN_ORDER)
        placed = capsys.readouterr().out
        assert state_of("both", "RelayStalledAlarm", extracted(placed, minutes=10)) == "ALARM"
        relay({"Records": [a_record(an_order())]}, event_reader(), MemoryEventPublisher(), telemetry)
        relayed = placed + capsys.readouterr().out
        assert state_of("both", "RelayStalledAlarm", extracted(relayed, minutes=10)) == "OK"

    def test_a_consumer(self, telemetry: Telemetry, state_now: Callable[[str], str]) -> None:
        event = event_reader().to_event(a_record(an_order()))
        assert event is not None
        for body, expected in ((an_envelope(event), "OK"), ("not an event", "ALARM")):
            write_receipt.consume({"Records": [a_message(body)]}, telemetry, MemoryDocumentStore())
            assert state_now("ReceiptsConsumer.FailuresAlarm") == expected


def extracted(output: str, minutes: int = 5) -> dict[Key, Samples]:
    """The metrics that CloudWatch makes of our lines, were they written again every minute."""
    values: dict[Key, list[float]] = {}
    for line in map(json.loads, output.splitlines()):
        for directive in line.get("_aws", {"CloudWatchMetrics": []})["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                for metric in directive["Metrics"]:
                    dimensions = {name: line[name] for name in names}
                    name = key(directive["Namespace"], metric["Name"], **dimensions)
                    values.setdefault(name, []).append(line[metric["Name"]])
    return {name: [value] * minutes for name, value in values.items()}


class TestRunbooks:
    def sections(self) -> set[str]:
        text = (ROOT / "docs/runbooks.md").read_text()
        return {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", text, re.MULTILINE)}

    def test_every_alarm_leads_to_its_section_and_every_section_has_an_alarm(self) -> None:
        every = [alarm for mode in MODES for alarm in alarms(mode).values()] + [*backup_alarms().values()]
        descriptions = [alarm["AlarmDescription"] for alarm in every]
        links = [
            re.search(f" {re.escape(RUNBOOKS)}#([a-z0-9-]+)$", description) for description in descriptions
        ]
        assert all(links), [
            description for description, link in zip(descriptions, links, strict=True) if not link
        ]
        assert {link[1] for link in links if link} == self.sections()

    def test_every_section_names_its_alarms(self) -> None:
        text = (ROOT / "docs/runbooks.md").read_text()
        sections = {part.split("\n")[0].lower().replace(" ", "-"): part for part in text.split("\n## ")[1:]}
        for name, alarm in (alarms("both") | backup_alarms()).items():
            if not name.startswith(DEPLOYMENTS) and not name.endswith(("LongAlarm", "ShortAlarm")):
                assert f"`{name}`" in sections[alarm["AlarmDescription"].rpartition("#")[2]], name

    def test_places_are_as_many_as_it_says(self) -> None:
        text = (ROOT / "docs/runbooks.md").read_text()
        assert f"serves {middleware.MAX_IN_FLIGHT} requests at a time" in text
        assert f"waits for the bodies of {middleware.MAX_ARRIVING} more" in text
        assert f"One caller may have {middleware.MAX_OF_ONE_CALLER} of these" in text

    def test_commands_name_the_alarms_of_a_version(self) -> None:
        text = (ROOT / "docs/runbooks.md").read_text()
        (kinds, name) = re.findall(r'for KIND in ([\w ]+); do .* --alarm-name "(.*?)" ', text)[0]
        named = {
            name.replace("$STACK", "orders-test").replace("$VERSION", "9").replace("$KIND", kind)
            for kind in kinds.split()
        }
        assert named == {alarm["AlarmName"] for alarm in alarms_of_version("9").values()}

    def test_links_between_sections_lead_somewhere(self) -> None:
        text = (ROOT / "docs/runbooks.md").read_text()
        assert set(re.findall(r"\]\(#([a-z-]+)\)", text)) <= self.sections()


def test_the_link_to_the_runbooks_can_be_set() -> None:
    allowed = re.compile(template()["Parameters"]["RunbookUrl"]["AllowedPattern"])
    assert allowed.fullmatch(RUNBOOKS)
    assert allowed.fullmatch(template()["Parameters"]["RunbookUrl"]["Default"])


def test_the_pipeline_says_where_the_runbooks_are() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/deploy.yml").read_text())["jobs"]
    for stage in ("dev", "prod"):
        (parameters,) = (
            step["env"]["PARAMETERS"]
            for step in jobs[stage]["steps"]
            if "make deploy " in step.get("run", "")
        )
        page = "${{ github.server_url }}/${{ github.repository }}/blob/main/docs/runbooks.md"
        assert parameters.startswith(f"RunbookUrl={page} "), "first, so that the stage's own count"


@pytest.mark.parametrize("mode", MODES)
def test_every_alarm_tells_somebody_unless_it_is_part_of_another(mode: str) -> None:
    parts = " ".join(alarm.get("AlarmRule", "") for alarm in alarms(mode).values())
    for name, alarm in alarms(mode).items():
        if name.startswith(DEPLOYMENTS):  # a deployment is what these tell
            continue
        told = [[]] if f'"{name}"' in parts else [["AlarmTopic"], ["AlarmTopicArn"]]
        assert alarm.get("AlarmActions", []) == alarm.get("OKActions", []), name
        assert alarm.get("AlarmActions", []) in told, name


def test_mail_is_sent_only_to_an_address() -> None:
    assert "AlarmSubscription" not in monitoring("both")
    made = dict.fromkeys(("LogEvents", "HttpApiId", "LoadBalancerName"), "")
    evaluator = Evaluator(template(MONITORING), **made, AlarmEmail="on-call@example.com")
    assert "AlarmSubscription" in evaluator.resources()


class TestDashboard:
    @pytest.mark.parametrize("mode", MODES)
    def test_shows_the_entry_points_that_exist(self, mode: str) -> None:
        body = named(monitoring(mode)["Dashboard"]["Properties"]["DashboardBody"])
        titles = {widget["properties"].get("title") for widget in json.loads(body)["widgets"]}
        assert titles >= {"Requests and errors", "Orders", "From the table to the bus", "Errors"}
        assert ({"HTTP API", "API function"} <= titles) == ("lambda" in MODES[mode])
        assert ({"Load balancer", "Tasks"} <= titles) == ("fargate" in MODES[mode])
        assert "${" not in body

    def test_shows_metrics_that_we_write(self) -> None:
        body = json.loads(named(monitoring("both")["Dashboard"]["Properties"]["DashboardBody"]))
        shown: set[str] = set()
        for metrics in mentions(body, "metrics"):
            namespace = name = ""
            for metric in metrics:
                if isinstance(metric[0], str) and metric[0] != "...":
                    namespace = namespace if metric[0] == "." else metric[0]
                    name = name if metric[1] == "." else metric[1]
                    shown |= {name} if namespace == "Orders" else set()
        for expression in mentions(body, "expression"):
            # All that have these dimensions, of any consumer.
            if found := re.match(r"SEARCH\('{Orders,([\w,]+)} service=\"orders-test\"', ", expression):
                dimensions = tuple(found[1].split(","))
                shown |= {name for name in METRICS if dimensions in metric_definition(name)[1]}
        # IteratorAge shows the lag, with what waits still; a deployment alone looks at its version's errors.
        assert shown == METRICS - {"RelayLag", "VersionErrors"}


# What Logs Insights knows, and what CloudWatch and ECS write.
OF_OTHERS = {"@timestamp", "detail", "record", "type"}
WORDS = {
    *("filter", "fields", "sort", "stats", "limit", "by", "as", "asc", "desc", "and", "or"),
    *("count", "sum", "latest", "pct", "x", "request", "ERROR", "platform", "report", "success"),
    *("times", "last", "example", "requests", "errors", "p50", "p99", "cold"),
}


def test_queries_ask_for_fields_that_lines_have() -> None:
    written = set()
    for path in ROOT.glob("src/app/**/*.py"):
        source = path.read_text()
        written |= set(re.findall(r'"(\w+)"', source)) | set(re.findall(r"(\w+)=", source))
    for name, query in of_type(monitoring("both"), "AWS::Logs::QueryDefinition").items():
        text = re.sub(r"#.*", "", query["Properties"]["QueryString"])
        asked = set(re.findall(r"@?[a-zA-Z_]\w*", re.sub(r"(detail|record)\.[\w.]+", "", text)))
        assert asked <= written | WORDS | OF_OTHERS, f"{name}: {asked - written - WORDS - OF_OTHERS}"
