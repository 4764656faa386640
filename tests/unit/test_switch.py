"""The switch between runtimes: from every state, wherever it is stopped, requests always lead somewhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError
from scripts import switch
from scripts.switch import State, Step, other, plan

SIDES = ("lambda", "fargate")


def all_states() -> Iterator[State]:
    """Every state in which the edge leads to a side that stands."""
    for standing in (frozenset({"lambda"}), frozenset({"fargate"}), frozenset(SIDES)):
        for active in standing:
            for known in ({active}, set(SIDES)):
                yield State(standing, active, frozenset(known))


def after(state: State, step: Step, to: str) -> State:
    """Do a step, and hold it to what must never happen."""
    match step:
        case Step.RAISE:
            state = replace(state, standing=frozenset(SIDES))
        case Step.ASK:
            assert to in state.standing, "asked nobody"
        case Step.MOVE:
            state = replace(state, active=to, known=frozenset(state.standing))
        case Step.FORGET:
            assert state.active == to, "the active origin was forgotten"
            state = replace(state, known=frozenset({to}))
        case Step.REMOVE:
            assert state.active == to, "the serving side was removed"
            state = replace(state, standing=frozenset({to}))
    assert state.active in state.standing, f"{step}: requests lead nowhere"
    assert state.active in state.known, f"{step}: the edge does not know where to"
    return state


@pytest.mark.parametrize("to", SIDES)
@pytest.mark.parametrize("start", list(all_states()))
class TestPlan:
    def test_it_ends_with_the_wanted_side_alone(self, start: State, to: str) -> None:
        state = start
        for step in plan(start, to):
            state = after(state, step, to)
        assert state == State(frozenset({to}), to, frozenset({to}))
        assert plan(state, to) == []

    def test_stopped_anywhere_it_goes_on_or_back(self, start: State, to: str) -> None:
        for done, then in itertools.product(range(len(plan(start, to))), SIDES):
            state = start
            for step in plan(start, to)[:done]:
                state = after(state, step, to)
            for step in plan(state, then):
                state = after(state, step, then)
            assert state == State(frozenset({then}), then, frozenset({then}))

    def test_nothing_is_moved_unasked_and_nothing_removed_undrained(self, start: State, to: str) -> None:
        steps = plan(start, to)
        if Step.MOVE in steps:
            assert steps[steps.index(Step.MOVE) - 1] == Step.ASK
        if Step.REMOVE in steps and start.active != to:
            assert steps.index(Step.MOVE) < steps.index(Step.WATCH) < steps.index(Step.DRAIN)
            assert steps.index(Step.DRAIN) < steps.index(Step.FORGET) < steps.index(Step.REMOVE)


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

    def test_a_side_that_never_answers_is_given_up(self, clock: FakeTime) -> None:
        assert not switch.healthy(lambda: False, 5, clock)
        assert 5 <= clock.now < 6

    def test_a_side_that_comes_and_goes_is_given_up(self, clock: FakeTime) -> None:
        flapping: Callable[[], bool] = itertools.cycle([True] * 9 + [False]).__next__
        assert not switch.healthy(flapping, 5, clock)


class FakeStack:
    """A stack whose changes happen at once, unless they are told to fail."""

    def __init__(self, parameters: dict[str, str], outputs: dict[str, str]) -> None:
        self.parameters = parameters
        self.outputs = outputs
        self.changes: list[dict[str, str]] = []

    def change(self, **changes: str) -> None:
        self.changes.append(changes)
        self.parameters |= changes


class Answers(switch.Address):
    """An address that answers as it is told."""

    def __init__(self, answers: bool) -> None:
        super().__init__("https://front.test")
        self._answers = answers

    def serves(self, runtime: str) -> bool:
        return self._answers


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
        monkeypatch.setattr(switch, "_ASK_SECONDS", 0)
        monkeypatch.setattr(switch, "_WATCH_SECONDS", 0)
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

    def test_a_side_that_does_not_answer_gets_no_request(
        self, orders: FakeStack, edge: FakeStack, clock: FakeTime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(switch.Stopped, match="nothing was moved, lambda serves"):
            self.switch(orders, edge, monkeypatch, asked=False, watched=True).run("fargate")
        assert edge.changes == []
        assert orders.parameters == {"Runtime": "lambda", "BothRuntimes": "true"}

    def test_a_move_that_does_not_answer_is_taken_back(
        self, orders: FakeStack, edge: FakeStack, clock: FakeTime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(switch.Stopped, match="lambda serves again"):
            self.switch(orders, edge, monkeypatch, asked=True, watched=False).run("fargate")
        assert edge.parameters["ActiveOrigin"] == "lambda"
        assert orders.parameters["BothRuntimes"] == "true"

    def test_the_way_back_takes_the_new_side_away(
        self, orders: FakeStack, edge: FakeStack, clock: FakeTime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(switch.Stopped):
            self.switch(orders, edge, monkeypatch, asked=True, watched=False).run("fargate")
        self.switch(orders, edge, monkeypatch, asked=True, watched=True).run("lambda")
        assert orders.parameters == {"Runtime": "lambda", "BothRuntimes": "false"}
        assert edge.parameters == {
            "ActiveOrigin": "lambda",
            "LambdaOriginDomain": "l.test",
            "FargateOriginDomain": "",
        }


def test_there_are_two_sides() -> None:
    assert [other(side) for side in SIDES] == ["fargate", "lambda"]


def test_without_an_edge_it_says_how_to_make_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stack:
        def __init__(self, name: str) -> None:
            if name.endswith("-edge"):
                missing = {"Code": "ValidationError", "Message": f"Stack with id {name} does not exist"}
                raise ClientError({"Error": missing}, "DescribeStacks")

    monkeypatch.setattr(switch, "Stack", Stack)
    monkeypatch.setattr(switch, "session", lambda: None)
    assert switch.main(["fargate"]) == 1
    said = capsys.readouterr().err
    assert (
        said
        == "make switch: there is no orders-dev-edge, where requests are switched: `make edge` makes it\n"
    )
