"""The steps of the first hour: what a user would type, and what must be true after it.

Each docstring says what the step shows on AWS and what the emulator cannot show; docs/proven.md has it.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
from botocore.exceptions import ClientError
from scripts import restore as restoring
from scripts.aws import messages_in
from scripts.cli import CliError, one_line
from scripts.delivery.artifact import ROOT
from scripts.delivery.data import Data
from scripts.first_hour.callers import Callers
from scripts.first_hour.left import Left
from scripts.first_hour.run import Step
from scripts.first_hour.stage import BOOTSTRAP, NAME, PARAMETERS, STAGE, Stage, expect, until

from app.orders.models import OrderStatus

EDGE_PARAMETERS = ("Mode=block", "RequestsPerFiveMinutes=20000")  # the callers of a switch have one address
# It fails late, when the functions' new versions are published: the network of the tasks does not exist.
BROKEN = (
    *("BothRuntimes=true", "VpcId=vpc-00000000"),
    *("PublicSubnetIds=subnet-00000000,subnet-00000001", "PrivateSubnetIds=subnet-00000000,subnet-00000001"),
)
CHANGED_VERSION = "9.9.9"
# Nobody's: no account of GitHub begins with a hyphen or has the number 0, so no token fits these roles.
NOBODY = ("Repository=-nobody-/nothing", "OwnerId=0", "RepositoryId=0")
_RECEIPT_SECONDS = 180
_EDGE_SECONDS = 300
_RESTORE_SECONDS = 3600
_DRAIN_SECONDS = 5  # `make switch` waits a minute; these callers' requests take no second


def bootstrap(stage: Stage) -> str:
    """IAM accepts the roles, their policies and the boundary; the stores are made.

    Not shown on the emulator: what IAM rejects; that GitHub's token gets a role, as only a workflow shows.
    """
    stage.copy_sources()
    providers = stage.client("iam").list_open_id_connect_providers()["OpenIDConnectProviderList"]
    known = [p["Arn"] for p in providers if p["Arn"].endswith("/token.actions.githubusercontent.com")]
    given = [*NOBODY, *(f"OidcProviderArn={arn}" for arn in known)]
    stage.delivery("bootstrap", "--parameters", " ".join(given))
    return "with the account's own OIDC provider" if known else "with an OIDC provider"


def package(stage: Stage) -> str:
    """The image is built and pushed once, named by its digest, and not again while the sources are the same.

    Not shown on the emulator: that ECR rejects a tag that exists, and its scan.
    """
    given = ("--parameters", " ".join(PARAMETERS))
    stage.delivery("package", *given)
    said = stage.delivery("package", *given)
    expect("nothing to build" in said, "the second package built again")
    stage.facts["artifact"] = name = _artifact(said)
    key = name.partition("@")[0]
    made = stage.stack(BOOTSTRAP).outputs()
    s3, bucket = stage.client("s3"), made["ArtifactBucketName"]
    keys = [each["Key"] for each in s3.list_objects_v2(Bucket=bucket, Prefix=f"artifacts/{key}/")["Contents"]]
    texts = [s3.get_object(Bucket=bucket, Key=each)["Body"].read().decode() for each in keys]
    images = {image for text in texts for image in re.findall(r"(?m)^ +ImageUri: (\w\S+)$", text)}
    digest = re.escape(made["ImageRepositoryUri"]) + r"@sha256:[0-9a-f]{64}"
    expect(len(images) == 1, f"every function and the task run one image, not {sorted(images)}")
    expect(re.fullmatch(digest, *images), f"{images} is not named by its digest")
    repository = made["ImageRepositoryUri"].partition("/")[2]
    pushed = stage.client("ecr").describe_images(repositoryName=repository)["imageDetails"]
    tags = [tag for image in pushed for tag in image.get("imageTags", [])]
    expect(key in tags, f"no image is tagged {key}: {tags}")
    return f"artifact {key}"


def _artifact(said: str) -> str:
    return re.findall(r"^ARTIFACT=(\S+)$", said, re.MULTILINE)[-1]


def fail_first(stage: Stage) -> str:
    """A first deployment that fails is rolled back and leaves no key, which would cost.

    Not shown on the emulator: what CloudFormation cannot delete then.
    """
    why = _deploy_broken(stage, stage.facts["artifact"])
    expect(stage.stack(NAME).status() == "ROLLBACK_COMPLETE", f"{NAME} is {stage.stack(NAME).status()}")
    found = stage.leftovers.found("table", "bucket", "queue", "bus", "archive", "key")
    left = [each for each in found if BOOTSTRAP not in each.name]
    expect(not any(each.what == "key" for each in left), f"left: {', '.join(map(str, left))}")
    return f"failed with: {why}; left: {', '.join(each.what for each in left) or 'nothing'}"


def _deploy_broken(stage: Stage, artifact: str) -> str:
    given = " ".join((*PARAMETERS, *BROKEN))
    words = ("deploy", "--stage", STAGE, "--artifact", artifact, "--parameters", given)
    why = stage.fail("-m", "scripts.delivery", *words)
    expect("vpc" in why.lower() or "subnet" in why.lower(), f"failed, but for another reason: {why}")
    return why


def deploy(stage: Stage) -> str:
    """Every service accepts its resources, from the execution role and within the boundary; the API answers.

    Not shown on the emulator: quotas, what services reject, IAM's rights of the deployment, TLS, X-Ray.
    """
    stage.deploy(stage.facts["artifact"])
    stage.smoke()
    expect("nothing to do" in stage.deploy(stage.facts["artifact"]), "a second deployment found work")
    tables = stage.kinds("table")
    expect(len(tables) == 1, f"one table is the stack's; there are {tables}")
    return stage.url


def scenario(stage: Stage) -> str:
    """Orders and products are created, read and listed; orders change, conditions hold, a file is uploaded.

    Not shown on the emulator: encryption by KMS behind DynamoDB and S3, the HTTP API's own limits.
    """
    with stage.api() as api:
        body = {"customer": "John Doe", "product": "Widget", "quantity": 5}
        key = {"idempotency-key": f"scenario-{time.time_ns()}"}
        placed = _asked(api, 201, "POST", "/orders", json=body, headers=key)
        again = _asked(api, 201, "POST", "/orders", json=body, headers=key)
        expect(again.json() == placed.json(), "the same Idempotency-Key made another order")
        order = placed.json()
        one = f"/orders/{order['id']}"
        read = _asked(api, 200, "GET", one)
        expect(read.json() == order, "GET is not the order that was placed")
        _asked(api, 304, "GET", one, headers={"if-none-match": read.headers["etag"]})
        ship = {"status": OrderStatus.SHIPPED.value}
        changed = _asked(api, 200, "PUT", f"{one}/status", json=ship, headers={"if-match": '"1"'})
        _asked(api, 412, "PUT", f"{one}/status", json=ship, headers={"if-match": '"1"'})
        _asked(api, 409, "PUT", f"{one}/status", json={"status": OrderStatus.PENDING.value})
        listed = [{}, {"customer": "John Doe"}, {"status": OrderStatus.SHIPPED.value}]
        for query in listed:
            until(
                30,
                lambda query=query: changed.json() in api.get("/orders", params=query).json()["items"],
                f"GET /orders {query} lists the order",
            )
        _asked(api, 400, "GET", "/orders", params={"cursor": "garbage"})
        _asked(api, 404, "GET", "/orders/unknown")
        _attach(api, one)
        product = _add_product(api)
        stage.facts |= {"order": order["id"], "product": product, "moment": datetime.now(UTC).isoformat()}
    return f"order {order['id']}"


def _add_product(api: httpx.Client) -> str:
    """Add a product, read it and find it in the list; return its id."""
    body = {"name": "Widget", "price_cents": 1999, "category": "tools"}
    added = _asked(api, 201, "POST", "/products", json=body).json()
    expect(_asked(api, 200, "GET", f"/products/{added['id']}").json() == added, "GET is another product")
    until(
        30,
        lambda: added in api.get("/products", params={"category": "tools"}).json()["items"],
        "GET /products lists the product",
    )
    return str(added["id"])


def _asked(api: httpx.Client, status: int, method: str, path: str, **more: Any) -> httpx.Response:
    answer = api.request(method, path, **more)
    expect(
        answer.status_code == status,
        f"{method} {path} is {answer.status_code}, not {status}: {answer.text[:200]}",
    )
    return answer


def _attach(api: httpx.Client, order: str) -> str:
    """Upload a file by the presigned form, and fetch it again; return the address of the form."""
    path, content = f"{order}/attachments", b"a note of the first hour"
    offered = {"name": "note.txt", "content_type": "text/plain"}
    offer = _asked(api, 200, "POST", path, json=offered).json()
    with httpx.Client(timeout=60) as web:
        for changes, wanted in (({"Content-Type": "text/html"}, 403), ({}, 204)):
            files = {"file": ("note.txt", content)}
            sent = web.post(offer["url"], data=offer["fields"] | changes, files=files)
            expect(
                sent.status_code == wanted,
                f"S3 answers the form {sent.status_code}, not {wanted}: {sent.text[:300]}",
            )
        (item,) = _asked(api, 200, "GET", path).json()["items"]
        expect(web.get(item["url"]).content == content, "the attachment is not what was uploaded")
    return str(offer["url"])


def receipt(stage: Stage) -> str:
    """An order's receipt is there: by stream, relay, bus, rule, encrypted queue, function and bucket.

    Not shown on the emulator: that the key's policy lets EventBridge write to the encrypted queue.
    """
    started = time.monotonic()
    with stage.api() as api:
        placed = _asked(api, 201, "POST", "/orders", json={"customer": "A", "product": "B", "quantity": 1})
        order = placed.json()["id"]

        def address() -> str:
            answer = api.get(f"/orders/{order}/receipt")
            expect(answer.status_code in (303, 404), f"the receipt is {answer.status_code}")
            return str(answer.headers.get("location", ""))

        try:
            found = until(_RECEIPT_SECONDS, address, "the receipt is there")
        except CliError as error:
            raise CliError(f"{error}; {_where_events_are(stage)}") from error
        seconds = time.monotonic() - started
        expect(order in httpx.get(found, timeout=60).text, "the receipt is another order's")
    return f"after {seconds:.1f} s"


def _where_events_are(stage: Stage) -> str:
    """Tell how far events came: what the rules could not deliver, and what lies in each queue."""
    sqs, cloudwatch = stage.client("sqs"), stage.client("cloudwatch")
    said = [f"{url.rsplit('/', 1)[1]}: {messages_in(sqs, url)}" for url in stage.kinds("queue")]
    (bus,) = stage.kinds("bus")
    now, failed = time.time(), 0.0
    for rule in stage.client("events").list_rules(EventBusName=bus)["Rules"]:
        points = cloudwatch.get_metric_statistics(
            Namespace="AWS/Events", MetricName="FailedInvocations", Period=3600, Statistics=["Sum"],
            StartTime=now - 3600, EndTime=now,
            Dimensions=[{"Name": "EventBusName", "Value": bus}, {"Name": "RuleName", "Value": rule["Name"]}],
        )["Datapoints"]  # fmt: skip
        failed += sum(point["Sum"] for point in points)
    return ", ".join([*said, f"the rules' FailedInvocations: {failed:.0f}"])


def retry(stage: Stage) -> str:
    """An update with changed code fails late and is rolled back; then the same artifact is deployed.

    Not shown on the emulator: by what Lambda itself tells that a function has not changed.
    """
    before = stage.version()
    for path in (stage.sources / "pyproject.toml", *(stage.sources / "src").glob("*/__init__.py")):
        path.write_text(path.read_text().replace(f'"{before}"', f'"{CHANGED_VERSION}"'))
    stage.facts["changed"] = changed = _artifact(
        stage.delivery("package", "--parameters", " ".join(PARAMETERS))
    )
    why = _deploy_broken(stage, changed)
    status = stage.stack(NAME).status()
    expect(status == "UPDATE_ROLLBACK_COMPLETE", f"{NAME} is {status}")
    expect(stage.version() == before, "what ran before does not run again")
    with stage.api() as api:
        _asked(api, 200, "GET", f"/orders/{stage.facts['order']}")
    stage.smoke()
    stage.deploy(changed)
    expect(stage.version() == CHANGED_VERSION, f"version {stage.version()} answers")
    stage.smoke()
    return f"failed with: {why}"


def rollback(stage: Stage) -> str:
    """`make rollback` brings back the code and the parameters of the deployment before.

    Not shown on the emulator: CodeDeploy, which moves the alias, and its alarms.
    """
    before = stage.version()
    stage.delivery("rollback")
    after = stage.version()
    expect(after != before, f"version {before} answers still")
    stage.smoke()
    return f"{before} -> {after}"


def edge(stage: Stage) -> str:
    """CloudFront, the web ACL, the origin secret and the console come up; the origin answers nobody else.

    Not shown on the emulator: that the firewall rejects anything; TLS, caching, compression; that a browser
    may upload from the console.
    """
    stage.delivery("deploy-cdn", "--parameters", " ".join(EDGE_PARAMETERS))
    made = stage.stack(f"{NAME}-edge").outputs()
    _behind_the_cdn(stage, made)
    with stage.edge() as edge:
        until(_EDGE_SECONDS, lambda: edge.get("/").status_code == 200, "the CDN answers")
        found = _asked(edge, 200, "GET", f"/orders/{stage.facts['order']}")
        tag = {"if-none-match": found.headers["etag"]}
        _asked(edge, 304, "GET", f"/orders/{stage.facts['order']}", headers=tag)
        _expect_closed(stage, "lambda")
        moved = _asked(edge, 308, "GET", "/console")
        expect(moved.headers["location"] == "/console/", f"/console leads to {moved.headers['location']}")
        page = _asked(edge, 200, "GET", "/console/")
        links = [link for link in re.findall(r'(?:src|href)="([^"#:]+)"', page.text) if link != ".."]
        expect({"app.js", "style.css"} <= set(links), f"the console links {links}")
        for link in links:
            if not link.startswith((".", "/")):
                _asked(edge, 200, "GET", urljoin("/console/", link))
        order = _asked(edge, 201, "POST", "/orders", json={"customer": "A", "product": "B", "quantity": 1})
        form = _attach(edge, f"/orders/{order.json()['id']}")
        if not stage.target.local:
            _only_on_aws(edge, made, form, page.headers["content-security-policy"])
    return made["EdgeUrl"]


def _behind_the_cdn(stage: Stage, edge: Mapping[str, str]) -> None:
    given = (f"OriginSecretArn={edge['OriginSecretArn']}", f"CorsOrigins={edge['EdgeUrl']}")
    stage.deploy(stage.facts["artifact"], *given)


def _expect_closed(stage: Stage, runtime: str) -> None:
    """Call a runtime past the CDN; it must reject the call. Raises CliError."""
    address = stage.outputs[{"lambda": "LambdaApiUrl", "fargate": "FargateApiUrl"}[runtime]]
    answer = httpx.get(f"{address}/orders", timeout=60)
    rejected = f"{runtime} answers others than the CDN {answer.status_code}, not 403: {answer.text[:200]}"
    expect(answer.status_code == 403, rejected)


def _only_on_aws(edge: httpx.Client, made: Mapping[str, str], form: str, policy: str) -> None:
    """Check the firewall, and that a browser may upload from the console."""
    attack = {"customer": "${jndi:ldap://127.0.0.1/a}"}  # AWSManagedRulesKnownBadInputsRuleSet: Log4JRCE
    until(_EDGE_SECONDS, lambda: edge.get("/orders", params=attack).status_code == 403, "the web ACL rejects")
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(form))
    allowed = re.split(r"[;\s]+", policy)
    expect(origin in allowed, f"the console's policy does not let it send to {origin}: {policy}")
    asked = {"origin": made["EdgeUrl"], "access-control-request-method": "POST"}
    preflight = httpx.options(form, headers=asked, timeout=60)
    uploads = preflight.headers.get("access-control-allow-origin")
    expect(uploads == made["EdgeUrl"], f"S3 lets {uploads} upload, not {made['EdgeUrl']}")


def switch(stage: Stage) -> str:
    """The runtime is switched to Fargate and back under callers, and no request fails or is answered wrong.

    Not shown on the emulator: how long a distribution, tasks and a load balancer take; edge locations that
    disagree for that time.
    """
    words = ["--stack", NAME, "--drain-seconds", str(_DRAIN_SECONDS)]
    words += ["--front", stage.target.endpoint] if stage.target.local else []
    stage.run("-m", "scripts.switch", "lambda", *words)  # takes up one that was interrupted
    planned = stage.run("-m", "scripts.switch", "fargate", "--plan", *words).strip()
    expect(
        planned
        == "deploy-new -> health-check -> shift-traffic -> verify -> drain -> detach-old -> remove-old",
        f"planned: {planned}",
    )
    said = stage.run("-m", "scripts.switch", "lambda", *words)
    expect(said.startswith("lambda serves already, and alone."), "a switch to what serves does something")
    switches = []
    with Callers(stage.edge, stage.client("dynamodb")) as callers:
        for to, from_ in (("fargate", "lambda"), ("lambda", "fargate")):
            time.sleep(2)
            started = time.monotonic()
            steps = stage.run("-m", "scripts.switch", to, *words)
            seconds = round(time.monotonic() - started, 1)
            switches.append({"to": to, "seconds": seconds, "steps": steps.splitlines()})
            _expect_closed(stage, to)
            urls = {name for name in ("LambdaApiUrl", "FargateApiUrl") if name in stage.outputs}
            expect(urls == {f"{to.capitalize()}ApiUrl"}, f"{from_} stands beside {to}: {urls}")
        time.sleep(2)
    found = {"switches": switches, **callers.report()}
    (ROOT / "reports").mkdir(exist_ok=True)
    (ROOT / "reports/switch.json").write_text(json.dumps(found, indent=2) + "\n")
    expect(
        not found["failed_or_wrong"], f"{found['failed_or_wrong']} failed or wrong: {found['first_wrong']}"
    )
    expect(len(callers.orders) > 20, f"only {len(callers.orders)} orders were placed")
    expect(set(callers.answered_by) == {"lambda", "fargate"}, f"answered by {set(callers.answered_by)}")
    with stage.edge() as api:  # what one runtime stored, the other returns
        for order in callers.orders[:: max(1, len(callers.orders) // 20)]:
            expect(_asked(api, 200, "GET", f"/orders/{order['id']}").json() == order, "an order is another")
    there, back = (each["seconds"] for each in switches)
    return f"{found['requests']} requests, none failed; to fargate {there} s, back {back} s"


def restore(stage: Stage) -> str:
    """The table as it was after the scenario is restored beside the live one; what was deleted comes back.

    Not shown on the emulator: that the moment is the one asked for (there it is always now), and the minutes
    that a restore takes.
    """
    table = stage.outputs["OrdersTableName"]
    gone = {f"/{kind}s/{stage.facts[kind]}": f"{kind}#{stage.facts[kind]}" for kind in ("order", "product")}
    moment = datetime.fromisoformat(stage.facts["moment"])
    dynamodb = stage.client("dynamodb")
    started = time.monotonic()

    def say(text: str) -> None:
        stage.say(f"    {text}")
        expect(time.monotonic() - started < _RESTORE_SECONDS, f"not restored within {_RESTORE_SECONDS} s")

    until(900, lambda: _restorable(dynamodb, table, moment), f"{table} can be restored to {moment}")
    with restoring.table_at(table, moment, say) as then:
        for key in gone.values():
            dynamodb.delete_item(TableName=table, Key={"pk": {"S": key}})
        with stage.front() as api:
            for path in gone:
                _asked(api, 404, "GET", path)
            outcome = restoring.put_back(table, then, write=True, overwrite=False, say=say)
            expect(outcome.written == len(gone), f"{outcome.written} items were put back, not {len(gone)}")
            for path in gone:
                _asked(api, 200, "GET", path)
    return f"put back after {time.monotonic() - started:.0f} s"


def _restorable(dynamodb: Any, table: str, moment: datetime) -> bool:
    found = dynamodb.describe_continuous_backups(TableName=table)["ContinuousBackupsDescription"]
    latest = found["PointInTimeRecoveryDescription"].get("LatestRestorableDateTime")
    return latest is None or latest >= moment


def destroy(stage: Stage) -> str:
    """`make destroy DATA=delete` removes the stage with its data and its CDN; then the bootstrap goes.

    Not shown on the emulator: for how long EventBridge says that a bus has rules, and what CloudFront takes
    to disable a distribution.
    """
    for each in stage.stacks():
        stage.stack(each.name, each.region).wait()
    stage.copy_sources()
    failed = _errors(lambda: stage.delivery("destroy", "--yes", "--data"))
    # The bootstrap goes last: CloudFormation acts as its role.
    stacks = sorted(stage.stacks(), key=lambda each: (each.name == BOOTSTRAP, each.name))
    failed += [f"`make destroy` left {each}" for each in stacks if each.name != BOOTSTRAP]
    for each in stacks:
        failed += _errors(lambda each=each: _remove_stack(stage, each))
    made = [each for each in stage.leftovers.found() if failed or _made_by_others(each)]
    failed += _errors(lambda: stage.leftovers.remove(made, stage.say))
    shutil.rmtree(stage.sources, ignore_errors=True)
    expect(not failed, "; ".join(failed))
    return ""


def _errors(remove: Callable[[], Any]) -> list[str]:
    """Remove something; return the error, for the rest is to go all the same."""
    try:
        remove()
    except (CliError, ClientError) as error:
        return [one_line(error)]
    return []


def _remove_stack(stage: Stage, left: Left) -> None:
    """Delete a stack, for which its buckets must be empty; what it retains is left."""
    stack = stage.stack(left.name, left.region)
    for each in stack.resources():
        if each["ResourceType"] == "AWS::S3::Bucket" and each.get("PhysicalResourceId"):
            Data(stage.client, stage.say).empty(each["PhysicalResourceId"])
    stack.delete()


def _made_by_others(left: Left) -> bool:
    """Tell whether the bootstrap, an interrupted restore or AWS itself made it.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Container-Insights-reference.html
    """
    return (
        BOOTSTRAP in left.name or "-at-" in left.name or left.name.startswith("/aws/ecs/containerinsights/")
    )


def nothing_left(stage: Stage) -> str:
    """Every service is asked for what has the stage's name or tags: nothing that costs is there.

    Not shown on the emulator: what AWS makes on its own, and how long it lists what is gone.
    """
    seconds, pause_seconds = (2.0, 0.2) if stage.target.local else (600.0, 15.0)
    left = stage.leftovers.wait_until_gone(seconds, pause_seconds)
    if left:
        stage.leftovers.remove(left, stage.say)
        still = stage.leftovers.wait_until_gone(seconds, pause_seconds)
        there = f"; there still: {', '.join(map(str, still))}" if still else "; removed now"
        raise CliError(f"left: {', '.join(map(str, left))}{there}")
    return f"{len(stage.leftovers.pending_keys())} keys go in some days, and cost nothing till then"


STEPS = (
    Step(bootstrap, 3),
    Step(package, 6, ("bootstrap",)),
    Step(fail_first, 8, ("package",), optional=True),
    Step(deploy, 10, ("package",)),
    Step(scenario, 1, ("deploy",)),
    Step(receipt, 1, ("deploy",)),
    Step(retry, 15, ("scenario",)),
    Step(rollback, 6, ("retry",)),
    Step(edge, 20, ("scenario",), optional=True),
    Step(switch, 60, ("edge",), optional=True),
    Step(restore, 25, ("scenario",), optional=True),
    Step(destroy, 30, removes=True),
    Step(nothing_left, 2, removes=True),
)
