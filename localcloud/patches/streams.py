"""DynamoDB streams: how their mappings to functions retry, and that their records outlive a restart."""

from __future__ import annotations

import time
from typing import Any

from ministack.core.concurrency import spawn_background
from ministack.services import dynamodb, lambda_svc

from localcloud.patches import patch
from localcloud.patches.tools import replace

_RETRY_SECONDS = 0.2  # AWS waits longer and longer; tests should not
Mapping = dict[str, Any]
Records = list[dict[str, Any]]


@patch
def stream_mappings() -> None:
    """AWS does: take partial failures, bisect a batch, count retries, and send what it gives up to a queue. https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-params.html
    The emulator does: know success and failure of a whole batch only, on the thread that polls the queues.
    Reported as: not reported (https://github.com/ministackorg/ministack/issues/287 was the same for queues).
    Here ParallelizationFactor and the batching window are ignored too.
    """
    lambda_svc._poll_dynamodb_streams = _Poller().poll


class _Poller:
    """Polls every mapping of a table's stream."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._attempts: dict[str, int] = {}
        self._sizes: dict[str, int] = {}  # after a bisection, until the batch is through

    def poll(self) -> bool:
        """Start a batch for each mapping that has records, and return whether there was one."""
        started = False
        for account, region, mapping in lambda_svc._iter_all_esms():
            tokens = lambda_svc._request_account_id.set(account), lambda_svc._request_region.set(region)
            try:
                started = self._start(mapping) or started
            finally:
                lambda_svc._request_account_id.reset(tokens[0])
                lambda_svc._request_region.reset(tokens[1])
        return started

    def _start(self, mapping: Mapping) -> bool:
        source, name = mapping.get("EventSourceArn", ""), mapping["UUID"]
        if ":dynamodb:" not in source or not mapping.get("Enabled", True) or name in self._running:
            return False
        table = source.split("/stream/")[0].split("/")[-1]
        function, _ = lambda_svc._get_func_record_for_qualifier(
            mapping["FunctionName"], mapping.get("Qualifier")
        )
        if function is None or (dynamodb._tables.get(table) or {}).get("LatestStreamArn") != source:
            return False
        if lambda_svc._esm_backoff_until.get(name, 0) > time.time():
            return False
        positions = lambda_svc._dynamodb_stream_positions
        lambda_svc._init_stream_position(name, source, mapping.get("StartingPosition", "LATEST"))
        position = max(positions[name], dynamodb.stream_start_position(table))
        size = self._sizes.get(name, mapping.get("BatchSize", 100))
        batch = dynamodb.stream_records_since(table, position, size)
        if not batch:
            return False
        self._running.add(name)

        def run() -> None:
            try:
                positions[name] = position + self._process(mapping, function, batch)
            finally:
                self._running.discard(name)
                lambda_svc._esm_wake.set()

        spawn_background(run, thread_name="localcloud-stream")
        return True

    def _process(self, mapping: Mapping, function: dict[str, Any], batch: Records) -> int:
        """Invoke the function with one batch, and return how many of its records are done."""
        wanted = lambda_svc._apply_filter_criteria(batch, mapping)
        if not wanted:
            return len(batch)
        result = lambda_svc._execute_function(function, {"Records": wanted})
        done = _first_failure(mapping, batch, result)
        if done == len(batch):
            mapping["LastProcessingResult"] = f"OK - {len(wanted)} records"
            return self._finish(mapping["UUID"], done)
        mapping["LastProcessingResult"] = "FAILED"
        if done:
            self._attempts.pop(mapping["UUID"], None)
            return done
        return self._retry(mapping, function, batch, result)

    def _retry(self, mapping: Mapping, function: dict[str, Any], batch: Records, result: Any) -> int:
        """Bisect the batch, or have it tried again, or give it up."""
        name = mapping["UUID"]
        if len(batch) > 1 and mapping.get("BisectBatchOnFunctionError"):
            self._sizes[name] = len(batch) // 2
            return 0
        self._attempts[name] = self._attempts.get(name, 0) + 1
        condition = _discard_condition(mapping, batch, self._attempts[name])
        if not condition:
            lambda_svc._esm_backoff_until[name] = time.time() + _RETRY_SECONDS
            return 0
        lambda_svc._send_ddb_stream_failure_record(
            mapping, function, batch, mapping["EventSourceArn"], result, condition
        )
        return self._finish(name, len(batch))

    def _finish(self, name: str, done: int) -> int:
        self._attempts.pop(name, None)
        self._sizes.pop(name, None)
        return done


def _first_failure(mapping: Mapping, batch: Records, result: dict[str, Any]) -> int:
    """Return the index of the first record that failed, or the batch's length."""
    if result.get("error"):
        return 0
    body = result.get("body")
    failures = body.get("batchItemFailures") if isinstance(body, dict) else None
    if not failures or "ReportBatchItemFailures" not in mapping.get("FunctionResponseTypes", []):
        return len(batch)
    failed = {failure.get("itemIdentifier") for failure in failures}
    for index, record in enumerate(batch):
        if record["dynamodb"]["SequenceNumber"] in failed:
            return index
    return 0  # an identifier that is not in the batch fails all of it


def _discard_condition(mapping: Mapping, batch: Records, attempts: int) -> str:
    """Return why the batch is discarded, as Lambda names it, or nothing."""
    limit = int(mapping.get("MaximumRetryAttempts", -1))
    if 0 <= limit < attempts:
        return "RetryAttemptsExhausted"
    seconds = int(mapping.get("MaximumRecordAgeInSeconds") or -1)
    oldest = batch[0]["dynamodb"]["ApproximateCreationDateTime"]
    return "MaxRecordAgeExceeded" if 0 < seconds < time.time() - float(oldest) else ""


@patch
def records_survive_a_restart() -> None:
    """AWS does: keep a stream's records for 24 hours, for every reader. https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Streams.html
    The emulator does: save the reader's position and not the records, so new records are skipped.
    Reported as: not reported.
    """

    @replace(dynamodb, "get_state")
    def get_state(original: Any) -> Any:
        saved = original()
        saved["localcloud_streams"] = [
            [*key, dynamodb._stream_trimmed.get_scoped(*key, 0), list(records)]
            for key, records in dynamodb._stream_records.all_items()
        ]
        saved["localcloud_sequence"] = dynamodb._stream_seq_counter
        return saved

    @replace(dynamodb, "load_persisted_state")
    def load_persisted_state(original: Any, saved: Any) -> None:
        original(saved)
        for account, region, table, trimmed, records in saved.get("localcloud_streams", []):
            dynamodb._stream_records.set_scoped(account, region, table, records)
            dynamodb._stream_trimmed.set_scoped(account, region, table, trimmed)
        dynamodb._stream_seq_counter = saved.get("localcloud_sequence", 0)
