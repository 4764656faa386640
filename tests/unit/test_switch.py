"""The switch between runtimes: from every state, wherever it is stopped, requests always lead somewhere."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from scripts import switch
from scripts.cli import CliError
from scripts.stack import Stack
from scripts.switch import State, Step, other, plan
from tests.builders import a_certificate

RUNTIMES = ("lambda", "fargate")


def all_states() -> Iterator[State]:
    """Every state in which the CDN sends requests to a runtime that is deployed."""
    for standing in (frozenset({"lambda"}), frozenset({"fargate"}), frozenset(RUNTIMES)):
        for active in standing:
            for known in ({active}, set(RUNTIMES)):
                yield State(standing, active, frozenset(known))


def after(state: State, step: Step, to: str) -> State:
    """Do a step, and hold it to what must never happen."""
    match step:
        case Step.DEPLOY_NEW:
            state = replace(state, standing=frozenset(RUNTIMES))
        case Step.HEALTH_CHECK:
            assert to in state.standing, "asked nobody"
        case Step.SHIFT_TRAFFIC:
            state = replace(state, active=to, known=frozenset(state.standing))
        case Step.DETACH_OLD:
            assert state.active == to, "the active origin was forgotten"
            state = replace(state, known=frozenset({to}))
        case Step.REMOVE_OLD:
            assert state.active == to, "the serving runtime was removed"
            state = replace(state, standing=frozenset({to}))
    assert state.active in state.standing, f"{step}: requests lead nowhere"
    assert state.active in state.known, f"{step}: the CDN has no origin for it"
    return state


@pytest.mark.parametrize("to", RUNTIMES)
@pytest.mark.parametrize("start", list(all_states()))
class TestPlan:
    def test_it_ends_with_the_wanted_runtime_alone(self, start: State, to: str) -> None:
        state = start
        for step in plan(start, to):
            state = after(state, step, to)
        assert state == State(frozenset({to}), to, frozenset({to}))
        assert plan(state, to) == []

    def test_stopped_anywhere_it_goes_on_or_back(self, start: State, to: str) -> None:
        for done, then in itertools.product(range(len(plan(start, to))), RUNTIMES):
            state = start
            for step in plan(start, to)[:done]:
                state = after(state, step, to)
            for step in plan(state, then):
                state = after(state, step, then)
            assert state == State(frozenset({then}), then, frozenset({then}))

    def test_nothing_is_moved_unasked_and_nothing_removed_undrained(self, start: State, to: str) -> None:
        steps = plan(start, to)
        if Step.SHIFT_TRAFFIC in steps:
            assert steps[steps.index(Step.SHIFT_TRAFFIC) - 1] == Step.HEALTH_CHECK
        if Step.REMOVE_OLD in steps and start.active != to:
            assert steps.index(Step.SHIFT_TRAFFIC) < steps.index(Step.VERIFY) < steps.index(Step.DRAIN)
            assert steps.index(Step.DRAIN) < steps.index(Step.DETACH_OLD) < steps.index(Step.REMOVE_OLD)


class FakeTime:
    """Time that passes only by waiting."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    monkeypatch.setattr(switch.time, "sleep", clock.sleep)
    return clock


class TestHealthGate:
    def test_one_failure_begins_the_count_again(self, clock: FakeTime) -> None:
        answers = iter([True] * 9 + [False] + [True] * 10)
        asked = 0

        def answer() -> bool:
            nonlocal asked
            asked += 1
            return next(answers)

        assert switch.healthy(answer, 60, clock)
        assert asked == 20

    def test_a_runtime_that_never_answers_is_given_up(self, clock: FakeTime) -> None:
        assert not switch.healthy(lambda: False, 5, clock)
        assert 5 <= clock.now < 6

    def test_a_runtime_that_comes_and_goes_is_given_up(self, clock: FakeTime) -> None:
        flapping: Callable[[], bool] = itertools.cycle([True] * 9 + [False]).__next__
        assert not switch.healthy(flapping, 5, clock)


class FakeStack:
    """A stack whose changes happen at once, unless they are told to fail."""

    def __init__(self, parameters: dict[str, str], outputs: dict[str, str]) -> None:
        self.values, self._outputs = parameters, outputs
        self.changes: list[dict[str, str]] = []

    def change(self, **changes: str) -> None:
        self.changes.append(changes)
        self.values |= changes

    def parameters(self) -> dict[str, str]:
        return self.values

    def outputs(self) -> dict[str, str]:
        return self._outputs


class Answers(switch.Address):
    """An address that answers as it is told."""

    def __init__(self, answers: bool) -> None:
        super().__init__("https://front.test")
        self._answers = answers

    def serves(self, runtime: str) -> bool:
        return self._answers


class TestAddress:
    """A load balancer answers by its own address, with a certificate for the origin's name."""

    @pytest.fixture
    def port(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
        file = a_certificate(tmp_path, "origin.test")
        monkeypatch.setenv("SSL_CERT_FILE", str(file))

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.path in ("/", "/health/ready") and self.headers["X-Origin-Secret"] == "s"
                self.send_response(200 if known else 404)
                self.end_headers()
                self.wfile.write(b'{"runtime": "fargate"}')

            def log_message(self, *_: Any) -> None:
                pass

        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(file)
        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
            thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            yield server.server_port
            server.shutdown()
            thread.join()

    @pytest.mark.parametrize(
        ("name", "secret", "runtime", "serves"),
        [
            ("origin.test", "s", "fargate", True),
            ("origin.test", "s", "lambda", False),
            ("origin.test", "", "fargate", False),
            ("other.test", "s", "fargate", False),
            ("", "s", "fargate", False),
        ],
    )
    def test_serves(self, port: int, name: str, secret: str, runtime: str, serves: bool) -> None:
        address = switch.Address(f"https://127.0.0.1:{port}/", {"X-Origin-Secret": secret}, name)
        assert address.serves(runtime) is serves

    def test_what_does_not_answer_does_not_serve(self) -> None:
        assert not switch.Address("http://127.0.0.1:9").serves("lambda")


class TestRun:
    @pytest.fixture
    def orders(self) -> FakeStack:
        outputs = {"LambdaOriginDomain": "l.test", "FargateOriginDomain": "f.test"}
        return FakeStack({"Runtime": "lambda", "BothRuntimes": "false"}, outputs)

    @pytest.fixture
    def edge(self) -> FakeStack:
        origins = {"LambdaOriginDomain": "l.test", "FargateOriginDomain": ""}
        return FakeStack({"ActiveOrigin": "lambda", **origins}, {})

    def switch(
        self,
        orders: FakeStack,
        edge: FakeStack,
        monkeypatch: pytest.MonkeyPatch,
        *,
        asked: bool,
        watched: bool,
    ) -> switch.Switch:
        made = switch.Switch(orders, edge, Answers(watched), 0)  # type: ignore[arg-type]
        monkeypatch.setattr(made, "_direct", lambda _: Answers(asked))
        monkeypatch.setattr(switch, "_HEALTH_CHECK_SECONDS", 0)
        monkeypatch.setattr(switch, "_VERIFY_SECONDS", 0)
        return made

    def test_it_switches(
        self, orders: FakeStack, edge: FakeStack, clock: FakeTime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.switch(orders, edge, monkeypatch, asked=True, watched=True).run("fargate")
        assert orders.changes == [{"BothRuntimes": "true"}, {"Runtime": "fargate", "BothRuntimes": "false"}]
        assert edge.changes == [
            {"LambdaOriginDomain": "l.test", "FargateOriginDomain": "f.test"},  # its DNS record is made
            {"ActiveOrigin": "fargate"},
            {"LambdaOriginDomain": ""},
        ]

    def test_a_runtime_that_does_not_answer_gets_no_request(
        self, orders: FakeStack, edge: FakeStack, clock: FakeTime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(CliError, match="no traffic was shifted, lambda serves"):
            self.switch(orders, edge, monkeypatch, asked=False, watched=True).run("fargate")
        assert edge.changes == []
        assert orders.values == {"Runtime": "lambda", "BothRuntimes": "true"}

    def test_a_move_that_does_not_answer_is_taken_back(
        self, orders: FakeStack, edge: FakeStack, clock: FakeTime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(CliError, match="lambda serves again"):
            self.switch(orders, edge, monkeypatch, asked=True, watched=False).run("fargate")
        assert edge.values["ActiveOrigin"] == "lambda"
        assert orders.values["BothRuntimes"] == "true"

    def test_the_way_back_takes_the_new_runtime_away(
        self, orders: FakeStack, edge: FakeStack, clock: FakeTime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(CliError):
            self.switch(orders, edge, monkeypatch, asked=True, watched=False).run("fargate")
        self.switch(orders, edge, monkeypatch, asked=True, watched=True).run("lambda")
        assert orders.values == {"Runtime": "lambda", "BothRuntimes": "false"}
        assert edge.values == {
            "ActiveOrigin": "lambda",
            "LambdaOriginDomain": "l.test",
            "FargateOriginDomain": "",
        }


def test_there_are_two_sides() -> None:
    assert [other(runtime) for runtime in RUNTIMES] == ["fargate", "lambda"]


def test_without_an_edge_it_says_how_to_make_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Orders(Stack):
        def require(self) -> dict[str, str]:
            return {}

        def describe(self) -> None:
            return None

    monkeypatch.setattr(switch, "Stack", Orders)
    monkeypatch.setattr(switch, "session", lambda: boto3.Session(region_name="eu-central-1"))
    assert switch.main(["fargate"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("make switch: there is no orders-dev-edge, where requests are switched")
    assert said.endswith("`make deploy-cdn` makes it\n")


class TestChange:
    """What `make switch` does to a stack: other values of some parameters, and all else as it was."""

    @pytest.fixture
    def stub(self) -> Iterator[Stubber]:
        client = boto3.client(
            "cloudformation", "eu-central-1", aws_access_key_id="k", aws_secret_access_key="s"
        )
        with Stubber(client) as stub:
            yield stub
            stub.assert_no_pending_responses()

    def described(self, stub: Stubber, status: str) -> None:
        given = [
            {"ParameterKey": k, "ParameterValue": v} for k, v in (("Runtime", "lambda"), ("Stage", "dev"))
        ]
        found = {"StackName": "s", "CreationTime": 0, "StackStatus": status, "Parameters": given}
        stub.add_response("describe_stacks", {"Stacks": [found]}, {"StackName": "s"})

    def events(self, stub: Stubber, *events: dict[str, Any]) -> None:
        given = {"StackId": "s", "StackName": "s", "Timestamp": 0}
        stub.add_response(
            "describe_stack_events", {"StackEvents": [given | each for each in events]}, {"StackName": "s"}
        )

    def updated(self, stub: Stubber) -> None:
        """Expect the template and the other parameters to stay."""
        parameters = [
            {"ParameterKey": "Stage", "UsePreviousValue": True},
            {"ParameterKey": "Runtime", "ParameterValue": "fargate"},
        ]
        more = {"UsePreviousTemplate": True, "Capabilities": ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]}
        stub.add_response("update_stack", {}, {"StackName": "s", "Parameters": parameters, **more})

    def change(self, stub: Stubber, **changes: str) -> None:
        Stack(stub.client, "s", str, 0).change(**changes)

    def test_waits_until_it_is_complete(self, stub: Stubber) -> None:
        self.described(stub, "CREATE_COMPLETE")
        self.events(stub)
        self.updated(stub)
        for status in ("UPDATE_IN_PROGRESS", "UPDATE_COMPLETE"):
            self.described(stub, status)
            self.events(stub)
        self.change(stub, Runtime="fargate")

    def test_says_why_it_failed(self, stub: Stubber) -> None:
        failure = {"EventId": "1", "LogicalResourceId": "Service", "ResourceStatus": "UPDATE_FAILED"}
        failure |= {"ResourceStatusReason": "no quota"}
        self.described(stub, "CREATE_COMPLETE")
        self.events(stub)
        self.updated(stub)
        self.described(stub, "UPDATE_ROLLBACK_COMPLETE")
        for _ in range(2):
            self.events(stub, failure)
        with pytest.raises(CliError, match="s is UPDATE_ROLLBACK_COMPLETE: Service: no quota"):
            self.change(stub, Runtime="fargate")

    def test_nothing_to_change_is_no_failure(self, stub: Stubber) -> None:
        self.described(stub, "CREATE_COMPLETE")
        self.events(stub)
        stub.add_client_error("update_stack", "ValidationError", "No updates are to be performed.")
        self.change(stub, Runtime="lambda")

    def test_a_parameter_that_the_stack_lacks(self, stub: Stubber) -> None:
        self.described(stub, "CREATE_COMPLETE")
        with pytest.raises(CliError, match="stack s has no parameter BothRuntimes"):
            self.change(stub, BothRuntimes="true")
