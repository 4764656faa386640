"""`make test-aws` when things go wrong: what is removed and reported, how it goes on, when it does not begin.

tests/cloud/test_first_hour.py does all of its steps with the real image and templates.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from localcloud.running import Emulator
from scripts.cli import CliError
from scripts.first_hour import __main__ as command
from scripts.first_hour import steps
from scripts.first_hour.callers import Callers
from scripts.first_hour.left import Left
from scripts.first_hour.run import Run, State, Step, report, table
from scripts.first_hour.stage import NAME, Stage, Target, until

from app.core.aws.json_client import ATTEMPT_SECONDS

pytestmark = pytest.mark.xdist_group("bootstrap")

ACCOUNT = "555555555555"


class Steps:
    """Steps that write down when they are done, and fail when told to."""

    def __init__(self, tmp_path: Path) -> None:
        self.path, self.done, self.faults = tmp_path / "state" / "state.json", [], {}
        self.steps = [
            self._step("deploy"),
            self._step("scenario", ("deploy",)),
            self._step("edge", ("deploy",), optional=True),
            self._step("switch", ("edge",), optional=True),
            self._step("destroy", removes=True),
            self._step("nothing_left", removes=True),
        ]

    def _step(self, name: str, needs: tuple[str, ...] = (), **more: Any) -> Step:
        def do(_: Any) -> str:
            self.done.append(name)
            if fault := self.faults.get(name):
                raise fault
            return f"noted {name}"

        do.__name__ = name
        do.__doc__ = f"Shows {name}.\n\nNot shown on the emulator: AWS's own {name}."
        return Step(do, 1, needs, **more)

    def run(self, *, clean: bool = False, **more: Any) -> int:
        self.done.clear()
        state = State.load(self.path) or State(self.path, "here")
        run = Run(self.steps, self, state, say=lambda _: None, **more)
        code = run.clean() if clean else run.go()
        self.outcomes = state.outcomes
        return code

    def result(self, name: str) -> str:
        return f"{self.outcomes[name].result} {self.outcomes[name].note}".strip()


@pytest.fixture
def rig(tmp_path: Path) -> Steps:
    return Steps(tmp_path)


class TestRun:
    def test_all_that_passes_is_removed_and_forgotten(self, rig: Steps) -> None:
        assert rig.run() == 0
        assert rig.done == ["deploy", "scenario", "edge", "switch", "destroy", "nothing_left"]
        assert not rig.path.exists()

    @pytest.mark.parametrize(
        ("fault", "noted"),
        [(CliError("CloudFront rejected"), "CloudFront rejected"), (KeyError("Items"), "KeyError: 'Items'")],
    )
    def test_after_a_failure_the_rest_goes_on_and_all_is_removed(
        self, rig: Steps, fault: Exception, noted: str
    ) -> None:
        rig.faults["edge"] = fault
        assert rig.run() == 1
        assert rig.done == ["deploy", "scenario", "edge", "destroy", "nothing_left"]
        assert rig.result("edge") == f"failed {noted}"
        assert rig.result("switch") == "not reached needs edge"
        assert rig.result("destroy") == "passed noted destroy"
        assert not rig.path.exists(), "the next run begins anew"

    def test_what_needs_a_step_that_failed_is_not_reached(self, rig: Steps) -> None:
        rig.faults["deploy"] = CliError("no quota")
        assert rig.run() == 1
        assert rig.done == ["deploy", "destroy", "nothing_left"]

    def test_ctrl_c_stops_and_removes(self, rig: Steps) -> None:
        rig.faults["scenario"] = KeyboardInterrupt()
        assert rig.run() == 130
        assert rig.done == ["deploy", "scenario", "destroy", "nothing_left"]
        assert rig.result("scenario") == "interrupted"
        assert rig.result("edge") == "not reached stopped at scenario"

    @pytest.mark.parametrize("fault", [CliError("no"), KeyboardInterrupt()])
    def test_kept_it_goes_on_where_it_stopped(self, rig: Steps, fault: BaseException) -> None:
        rig.faults["scenario"] = fault
        assert rig.run(keep=True) in (1, 130)
        assert rig.done == ["deploy", "scenario"], "nothing is removed"
        del rig.faults["scenario"]
        assert rig.run() == 0
        assert rig.done == ["scenario", "edge", "switch", "destroy", "nothing_left"]

    def test_kept_without_a_failure_it_is_removed(self, rig: Steps) -> None:
        assert rig.run(keep=True) == 0
        assert rig.done[-2:] == ["destroy", "nothing_left"]

    def test_killed_it_goes_on_where_it_stopped(self, rig: Steps) -> None:
        rig.faults["scenario"] = SystemExit()  # stands for a lost machine: nothing catches it
        with pytest.raises(SystemExit):
            rig.run()
        assert rig.done == ["deploy", "scenario"]
        rig.faults.clear()
        assert rig.run() == 0
        assert rig.done == ["scenario", "edge", "switch", "destroy", "nothing_left"]

    @pytest.mark.parametrize("fault", [CliError("the bus has rules"), KeyboardInterrupt()])
    def test_what_was_not_removed_is_removed_by_the_next(self, rig: Steps, fault: BaseException) -> None:
        rig.faults["destroy"] = fault
        code = rig.run()
        assert rig.done[-1] == ("nothing_left" if code == 1 else "destroy"), "it is looked for all the same"
        assert code in (1, 130)
        assert rig.path.exists()
        del rig.faults["destroy"]
        assert rig.run() in (0, 1)
        assert rig.done == ["destroy", "nothing_left"], "half of it is gone: no step can go on"
        assert not rig.path.exists()

    def test_clean_does_no_step(self, rig: Steps) -> None:
        rig.faults["scenario"] = CliError("no")
        rig.run(keep=True)
        rig.run(clean=True)
        assert rig.done == ["destroy", "nothing_left"]
        assert not rig.path.exists()

    def test_left_out_is_no_failure(self, rig: Steps) -> None:
        assert rig.run(skip=["edge"]) == 0
        assert rig.done == ["deploy", "scenario", "destroy", "nothing_left"]
        assert rig.result("switch") == "skipped needs edge"

    def test_after_its_hours_no_step_begins_but_those_that_remove(self, rig: Steps) -> None:
        assert rig.run(hours=-1) == 1
        assert rig.done == ["destroy", "nothing_left"]

    def test_the_report_has_every_step(self, rig: Steps) -> None:
        rig.faults["edge"] = CliError("a | b")
        rig.run()
        for local in (True, False):
            text = report(rig.steps, rig.outcomes, where="there", when="now", local=local)
            rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
            assert [row.split(" | ")[0] for row in rows] == [
                f"| {name}" for name in ("deploy", "scenario", "edge", "switch", "destroy", "nothing-left")
            ]
            assert len({row.count("|") for row in rows}) == 1
            assert ("AWS's own scenario." in text) == local
            assert "Shows scenario." in text
        assert re.search(r"edge +failed .* a \| b", table(rig.steps, rig.outcomes))


class TestCallers:
    """What they notice of an API that answers wrong."""

    def seen(
        self, fault: Callable[[str, str], httpx.Response | None], silent: bool = False
    ) -> dict[str, Any]:
        orders: dict[str, dict[str, Any]] = {}

        def answer(request: httpx.Request) -> httpx.Response:
            path = request.url.path
            if wrong := fault(request.method, path):
                return wrong
            if path == "/":
                return httpx.Response(200, json={"runtime": "lambda"})
            if request.method == "POST":
                key = request.headers["idempotency-key"]
                orders.setdefault(key, {"id": key, "status": "pending", **json.loads(request.content)})
                return httpx.Response(201, json=orders[key])
            order = orders[path.split("/")[2]]
            order |= {"status": "shipped"} if request.method == "PUT" else {}
            return httpx.Response(200, json=order)

        class Database:
            def list_tables(self, **_: Any) -> None:
                time.sleep(ATTEMPT_SECONDS if silent else 0)

        def visit() -> httpx.Client:
            return httpx.Client(transport=httpx.MockTransport(answer), base_url="http://api.test")

        with Callers(visit, Database()) as callers:
            time.sleep(ATTEMPT_SECONDS + 1)
        return callers.report()

    def test_an_answer_of_another_status_or_order(self) -> None:
        found = self.seen(lambda method, _: httpx.Response(500) if method == "PUT" else None)
        assert found["failed_or_wrong"] > 0
        assert "PUT /orders/" in found["first_wrong"][0]
        another = httpx.Response(200, json={"status": "lost"})
        found = self.seen(lambda method, path: another if method == "GET" and path != "/" else None)
        assert found["failed_or_wrong"] > 0

    @pytest.mark.parametrize("silent", [True, False])
    def test_a_rejection_is_excused_only_while_the_database_is_silent(self, silent: bool) -> None:
        rejection = httpx.Response(
            503, headers={"retry-after": "1"}, json={"type": "x:dependency-unavailable"}
        )
        found = self.seen(lambda method, _: rejection if method == "PUT" else None, silent)
        assert found["rejected_while_the_database_was_silent"] > 0 if silent else found["failed_or_wrong"] > 0
        assert found["first_wrong"] == []


class TestOnAws:
    """What the step `edge` asks of AWS only."""

    MADE = {"EdgeUrl": "https://d1.cloudfront.net"}
    FORM = "https://bucket.s3.us-east-1.amazonaws.com/"
    POLICY = (
        "default-src 'none'; connect-src 'self' https://bucket.s3.us-east-1.amazonaws.com; base-uri 'none'"
    )

    def check(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        firewall: int = 403,
        policy: str = POLICY,
        allowed: str = MADE["EdgeUrl"],
    ) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            return httpx.Response(firewall if b"jndi" in request.url.query else 200)

        def options(url: str, headers: dict[str, str], timeout: float) -> httpx.Response:
            assert (url, headers["origin"]) == (self.FORM, self.MADE["EdgeUrl"])
            return httpx.Response(200, headers={"access-control-allow-origin": allowed})

        monkeypatch.setattr(httpx, "options", options)
        monkeypatch.setattr(steps, "_EDGE_SECONDS", 0)
        with httpx.Client(transport=httpx.MockTransport(answer), base_url=self.MADE["EdgeUrl"]) as edge:
            steps._only_on_aws(edge, self.MADE, self.FORM, policy)

    def test_a_firewall_that_rejects_and_a_browser_that_may_upload(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.check(monkeypatch)

    @pytest.mark.parametrize(
        ("wrong", "why"),
        [
            ({"firewall": 200}, "the web ACL rejects"),
            # In us-east-1 links were once signed for the bucket's global name.
            ({"policy": POLICY.replace(".us-east-1", "")}, "does not let it send"),
            ({"allowed": "https://others.example"}, "S3 lets https://others.example upload"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], why: str
    ) -> None:
        with pytest.raises(CliError, match=why):
            self.check(monkeypatch, **wrong)

    def test_a_receipt_that_does_not_come_says_how_far_events_came(
        self, stage: Stage, a_stack: Callable[[str], None]
    ) -> None:
        """An encrypted queue into which EventBridge may not write loses every event without a word."""
        events = stage.client("events")
        events.create_event_bus(Name=f"{NAME}-bus")
        events.put_rule(
            Name=f"{NAME}-rule", EventBusName=f"{NAME}-bus", EventPattern='{"source": ["orders"]}'
        )
        url = stage.client("sqs").create_queue(QueueName=f"{NAME}-receipts-1")["QueueUrl"]
        stage.client("sqs").send_message(QueueUrl=url, MessageBody="stuck")
        said = steps._where_events_are(stage)
        assert said == f"{NAME}-receipts-1: 1, the rules' FailedInvocations: 0"
        events.delete_rule(Name=f"{NAME}-rule", EventBusName=f"{NAME}-bus")

    def test_names_that_spread_are_waited_for(self) -> None:
        answers = iter([httpx.ConnectError("no such name"), None, "there"])

        def look() -> str | None:
            found = next(answers)
            if isinstance(found, Exception):
                raise found
            return found

        assert until(30, look, "it answers") == "there"
        with pytest.raises(CliError, match=r"it answers: not within 0 s \(no such name\)"):
            until(0, lambda: (_ for _ in ()).throw(httpx.ConnectError("no such name")), "it answers")


@pytest.fixture
def target(bare_aws: Emulator) -> Target:
    session = boto3.Session(aws_access_key_id=ACCOUNT, aws_secret_access_key="test", region_name="us-east-1")

    class Session:
        def client(self, service: str, region_name: str | None = None) -> Any:
            return session.client(service, region_name=region_name, endpoint_url=bare_aws.endpoint)

    return Target(Session(), ACCOUNT, "us-east-1", bare_aws.endpoint, local=True)


@pytest.fixture
def stage(target: Target, tmp_path: Path) -> Stage:
    return Stage(target, {}, tmp_path, tmp_path / "log", lambda _: None, poll=0.05)


TEMPLATE = """
Resources:
  Table:
    Type: AWS::DynamoDB::Table
    DeletionPolicy: Retain
    Properties:
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{ AttributeName: pk, AttributeType: S }]
      KeySchema: [{ AttributeName: pk, KeyType: HASH }]
  Bucket: { Type: AWS::S3::Bucket }
  Key: { Type: AWS::KMS::Key, DeletionPolicy: Retain, Properties: { Description: data } }
"""


@pytest.fixture
def a_stack(stage: Stage) -> Iterator[Callable[[str], None]]:
    """Makes small stacks, and sees to it that none is left for other tests."""

    def make(name: str) -> None:
        template = TEMPLATE if name == NAME else TEMPLATE.partition("  Key:")[0]  # keys have no names
        stage.stack(name).apply("CREATE", template, {}, {"service": "orders", "stage": "testaws"})

    yield make
    stage.leftovers.remove(stage.leftovers.found(), lambda _: None)


class TestLeftovers:
    def test_the_stages_own_are_found_and_nobody_elses(
        self, stage: Stage, a_stack: Callable[[str], None]
    ) -> None:
        assert stage.leftovers.found() == []
        pending = len(stage.leftovers.pending_keys())
        a_stack(NAME)
        stage.client("sqs").create_queue(QueueName=f"{NAME}-Queue")
        stage.client("logs").create_log_group(logGroupName=f"/aws/ecs/containerinsights/{NAME}-Cluster/x")
        stage.client("logs").create_log_group(logGroupName=f"/{NAME}2/api")
        stage.client("ecr").create_repository(repositoryName="orders-bootstrap-testaws-images")
        found = stage.leftovers.found()
        kinds = ["bucket", "key", "log group", "queue", "repository", "stack", "table"]
        assert [each.what for each in found] == kinds, found
        stage.stack(NAME).delete()
        stage.leftovers.remove(stage.leftovers.found(), lambda _: None)
        assert stage.leftovers.found() == []
        assert len(stage.leftovers.pending_keys()) > pending
        assert stage.client("logs").describe_log_groups(logGroupNamePrefix=f"/{NAME}2")["logGroups"]

    def test_a_service_that_does_not_answer_is_not_nothing(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect = stage.leftovers._connect
        other = boto3.client("sqs", "us-east-1", endpoint_url="http://127.0.0.1:9/")
        monkeypatch.setattr(
            stage.leftovers,
            "_connect",
            lambda name, region=None: other if name == "sqs" else connect(name, region),
        )
        (found,) = stage.leftovers.found()
        assert found.what == "no answer of sqs:"
        with pytest.raises(CliError, match="no answer of sqs"):
            steps.nothing_left(stage)


class TestDestroy:
    def test_the_rest_goes_though_make_destroy_fails(
        self, stage: Stage, a_stack: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in (NAME, f"{NAME}-edge", "orders-bootstrap-testaws"):
            a_stack(name)
        table = stage.client("dynamodb").list_tables()["TableNames"][0]
        stage.client("dynamodb").restore_table_to_point_in_time(
            SourceTableName=table, TargetTableName=f"{table}-at-20260102T000000Z"
        )
        failing = CliError("the bus has rules")
        monkeypatch.setattr(Stage, "delivery", lambda *_: (_ for _ in ()).throw(failing))
        with pytest.raises(CliError, match="the bus has rules"):
            steps.destroy(stage)
        assert [each for each in stage.leftovers.found() if "bootstrap" not in each.name] == []
        assert steps.nothing_left(stage).startswith(f"{len(stage.leftovers.pending_keys())} keys")

    def test_what_it_leaves_is_named_and_removed(self, stage: Stage, a_stack: Callable[[str], None]) -> None:
        a_stack(NAME)
        stage.stack(NAME).delete()
        with pytest.raises(CliError, match=r"left: key .*, table orders-testaws-.*; removed now"):
            steps.nothing_left(stage)
        assert stage.leftovers.found() == []


class TestCommand:
    @pytest.fixture(autouse=True)
    def environ(self, bare_aws: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name, value in bare_aws.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCOUNT)
        monkeypatch.setattr(command, "check_machine", lambda: None)
        monkeypatch.setattr("builtins.input", lambda _: "")
        self.folder = tmp_path

    def main(self, *words: str) -> int:
        folders = ["--state", str(self.folder / "state.json"), "--reports", str(self.folder / "reports")]
        return command.main([*words, *folders])

    def rejected(self, capsys: pytest.CaptureFixture[str], *words: str) -> str:
        assert self.main(*words) == 2
        error = capsys.readouterr().err
        assert error.startswith("make test-aws: ")
        assert error.count("\n") == 1
        assert not (self.folder / "state.json").exists()
        return error

    def test_it_says_what_it_does_and_asks(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.main() == 2
        out = capsys.readouterr()
        for words in (NAME, "bootstrap", "edge", "switch", "restore"):
            assert words in out.out
        assert "nothing was done" in out.err

    def test_on_aws_it_says_what_that_costs_and_takes(self, target: Target) -> None:
        real = Target(
            target.session, ACCOUNT, "eu-central-1", "https://sts.eu-central-1.amazonaws.com", False
        )
        said = command.plan(real, ["switch", "restore"])
        assert f"account {ACCOUNT}, eu-central-1" in said
        cost = float(re.findall(r"cost (\d+\.\d\d) USD", said)[0])
        assert 0.3 < cost < 10
        assert command.cost_at_most(10) > command.cost_at_most(5) > 0
        assert re.search(r"about \d+ h \d+ min", said)
        assert "switch" not in said

    @pytest.mark.parametrize(
        ("missing", "why"),
        [
            ("AWS_REGION AWS_DEFAULT_REGION", "AWS_REGION"),
            ("AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY", "no credentials were found"),
        ],
    )
    def test_without_region_or_credentials_it_rejects(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, missing: str, why: str
    ) -> None:
        for name in missing.split():
            monkeypatch.delenv(name)
        assert why in self.rejected(capsys, "--yes")

    def test_a_step_that_cannot_be_left_out_is_rejected(self, capsys: pytest.CaptureFixture[str]) -> None:
        error = self.rejected(capsys, "--yes", "--skip", "edge deploy")
        assert "SKIP=deploy" in error
        assert "edge" in error

    def test_a_stack_that_no_run_of_this_made_is_left_alone(
        self, capsys: pytest.CaptureFixture[str], a_stack: Callable[[str], None], stage: Stage
    ) -> None:
        a_stack(NAME)
        assert f"there is {NAME} already" in self.rejected(capsys, "--yes")
        assert stage.stack(NAME).status() == "CREATE_COMPLETE"
        stage.stack(NAME).delete()

    def test_an_unfinished_run_in_another_account_comes_first(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        State(self.folder / "state.json", "111111111111 eu-west-1").save()
        assert self.main("--yes") == 2
        assert "111111111111 eu-west-1" in capsys.readouterr().err

    def test_clean_removes_what_a_lost_run_made(
        self, capsys: pytest.CaptureFixture[str], a_stack: Callable[[str], None], stage: Stage
    ) -> None:
        a_stack("orders-bootstrap-testaws")
        a_stack(f"{NAME}-edge")
        assert self.main("--clean", "--yes") == 0
        assert stage.leftovers.found() == []
        found = json.loads((self.folder / "reports" / "test-aws.json").read_text())["steps"]
        assert {name: each["result"] for name, each in found.items()} == {
            "destroy": "passed",
            "nothing-left": "passed",
        }
        assert "| deploy | not reached |" in (self.folder / "reports" / "test-aws.md").read_text()


def test_a_stack_of_the_stage_is_no_nested_one(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [NAME, f"{NAME}-edge", f"{NAME}-FargateStack-1A", f"{NAME}-FargateStack-1A-NetworkStack-2B"]
    found = [Left("stack", name) for name in names]
    monkeypatch.setattr(stage.leftovers, "found", lambda *_: found)
    assert [each.name for each in stage.stacks()] == names[:2]
