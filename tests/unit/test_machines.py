"""How machines meet and miss each other, over the loopback and without any training."""

from __future__ import annotations

import functools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import parse
from runner.cli.run import require_rendezvous
from runner.errors import Interrupted, MachineCannot, StageFailed, UsageError
from runner.execution.machines import link as links
from runner.execution.machines import meeting
from runner.execution.machines.contract import NoMachines, NoTurn
from runner.execution.machines.link import Gone, Link
from runner.execution.machines.meeting import First, Other, interface_of, parse_address
from runner.execution.machines.same import differences
from runner.plan.plan import Action, Step
from runner.recipe.load import load_recipe
from tests.small_recipe import write_recipe

DIGEST, OTHER_DIGEST = "ab" * 32, "cd" * 32
PLAN: dict[str, Any] = {
    "material": {
        "environment": DIGEST,
        "inputs": {"model": DIGEST, "tokens": DIGEST, "settings": {"learning_rate": 0.1}},
        "platform": {"threads": 2},
    },
    "spec": {"settings": {"learning_rate": 0.1}, "save_steps": 5},
}


def changed(**at: Any) -> dict[str, Any]:
    """PLAN with other values at paths, dots as double underscores."""
    plan: dict[str, Any] = json.loads(json.dumps(PLAN))
    for path, value in at.items():
        *above, last = path.split("__")
        place = plan
        for name in above:
            place = place[name]
        place[last] = value
    return plan


# --- comparing


def test_equal_plans_have_no_difference() -> None:
    assert differences(PLAN, changed()) == []


@pytest.mark.parametrize(
    ("here", "line"),
    [
        ({"material__inputs__model": OTHER_DIGEST}, "the base model: abababababab on the first "),
        ({"material__inputs__tokens": None}, "the prepared data: abababababab on the first machine,"
         " nothing here"),
        ({"material__environment": OTHER_DIGEST}, "the environment's lock: "),
        ({"material__platform__threads": 4}, "the platform: threads: 2 on the first machine, 4 "),
        ({"spec__save_steps": 7}, "train: save_steps: 5 on the first machine, 7 here"),
        ({"material__inputs__rows": "x" * 99}, "material.inputs.rows: nothing on the first"),
    ],
)  # fmt: skip
def test_a_difference_is_said_in_words(here: dict[str, Any], line: str) -> None:
    (found,) = differences(PLAN, changed(**here))
    assert found.startswith(line)


def test_a_setting_that_stands_twice_is_named_once() -> None:
    both = {
        "material__inputs__settings__learning_rate": 0.2,
        "spec__settings__learning_rate": 0.2,
    }
    found = differences(PLAN, changed(**both))
    assert found == ["train: learning_rate: 0.1 on the first machine, 0.2 here"]


@pytest.mark.parametrize("text", ["", "10.0.0.1", ":29400", "host:", "host:x", "host:-1", "host:²"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no address: write HOST:PORT, such as 192\."):
        parse_address(text)


def test_an_address_has_a_host_and_a_port(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_address("10.0.0.1:5") == ("10.0.0.1", 5)
    for words in (["run", "x.yaml", "--rendezvous", "10.0.0.1"], ["join", "x.yaml", "10.0.0.1"]):
        with pytest.raises(SystemExit):
            parse(words)
        assert "'10.0.0.1' is no address: write HOST:PORT, such as" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "warned"), [("127.0.0.1", True), ("localhost", True), ("10.0.0.1", False)]
)
def test_where_only_this_machine_could_come_it_is_warned(
    host: str, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(tmp_path / "x.yaml")
    recipe = load_recipe(tmp_path / "x.yaml", overrides=["train.nodes=2"])
    args = parse(["run", "x.yaml", "--rendezvous", f"{host}:29400"])
    require_rendezvous(args, recipe, [Step("train", Action.REUSE, "")])
    assert capsys.readouterr().err == ""
    require_rendezvous(args, recipe, [Step("train", Action.RUN, "")])
    said = capsys.readouterr().err
    assert (f"warning: {host} is a loopback address" in said) is warned


def test_the_interface_of_an_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.99") == ""


# --- meeting


class Scene:
    """A first machine and others in threads; what each of them said."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = ("127.0.0.1", int(probe.getsockname()[1]))
        self.said: list[str] = []
        self.ended = threading.Event()
        self._pool = ThreadPoolExecutor()
        self._others: list[Other] = []

    def first(self, machines: int = 2) -> First:
        return First(self.address, machines, "recipe join", self.said.append, self.poll)

    def other(self) -> Other:
        self._others.append(Other(self.address, self.said.append, self.poll))
        return self._others[-1]

    def beside(self, work: Callable[[], Any]) -> Future[Any]:
        return self._pool.submit(work)

    def poll(self) -> None:
        """What a user's Ctrl-C does, so that a failed test leaves no thread."""
        if self.ended.is_set():
            raise Interrupted(2)

    def met(self) -> tuple[First, Other]:
        first, other = self.first(), self.other()
        begun = self.beside(lambda: other.begin(PLAN, NoTurn()))
        first.begin(PLAN, NoTurn())
        begun.result(60)
        return first, other

    def close(self) -> None:
        self.ended.set()
        self._pool.shutdown()
        for other in self._others:
            other.end(Interrupted(2))


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(meeting, "TRY_AGAIN_SECONDS", 0.0)
    made = Scene()
    yield made
    made.close()


def test_all_learn_where_they_stand(scene: Scene) -> None:
    first = scene.first(3)
    begun = [scene.beside(functools.partial(scene.other().begin, PLAN, NoTurn())) for _ in range(2)]
    own = first.begin(PLAN, NoTurn())
    places = [own, *sorted((each.result(60) for each in begun), key=lambda each: each["machine"])]
    assert [place["machine"] for place in places] == [0, 1, 2]
    assert {place["port"] for place in places} == {own["port"]}
    assert all(place["address"] == "127.0.0.1" for place in places)
    assert all(place["own_address"] == "127.0.0.1" for place in places)
    first.end(None)


def test_one_that_came_too_early_waits_for_the_first(scene: Scene) -> None:
    other = scene.other()
    begun = scene.beside(lambda: other.begin(PLAN, NoTurn()))
    first = scene.first()
    first.begin(PLAN, NoTurn())
    assert begun.result(60)["machine"] == 1
    first.end(None)


def test_another_plan_is_refused_and_the_first_waits_on(scene: Scene) -> None:
    first = scene.first()
    waiting = scene.beside(lambda: first.begin(PLAN, NoTurn()))
    with pytest.raises(StageFailed, match="the base model: abababababab") as refused:
        scene.other().begin(changed(material__inputs__model=OTHER_DIGEST), NoTurn())
    assert refused.value.code == "E378"
    assert scene.other().begin(PLAN, NoTurn())["machine"] == 1
    waiting.result(60)
    assert any("does not train the same: the base model" in line for line in scene.said)
    first.end(None)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"\xff\n"])
def test_a_stranger_is_sent_away(scene: Scene, sent: bytes) -> None:
    first = scene.first()
    waiting = scene.beside(lambda: first.begin(PLAN, NoTurn()))
    with socket.create_connection(scene.address) as stranger:
        stranger.sendall(sent)
        stranger.shutdown(socket.SHUT_WR)
        while stranger.recv(4096):
            pass
    assert scene.other().begin(PLAN, NoTurn())["machine"] == 1
    waiting.result(60)
    first.end(None)


def test_a_message_without_an_end_is_not_gathered_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(links, "_LIMIT", 10)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x" * 20)
        with pytest.raises(Gone, match="does not speak"):
            Link(ours, "x").heard(60)


# --- missing each other


def test_one_that_is_gone_is_lost(scene: Scene) -> None:
    first, other = scene.met()
    assert other._link is not None
    other._link.close()
    with pytest.raises(StageFailed, match=r"machine 2 \(127.0.0.1\) was lost") as lost:
        poll_until_raised(first.poll)
    assert lost.value.code == "E377"
    assert "on every machine" in lost.value.hint
    first.end(lost.value)


def test_one_that_says_nothing_is_lost(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = scene.met()
    monkeypatch.setattr(links, "SILENCE_SECONDS", -1.0)
    with pytest.raises(StageFailed, match="it said nothing for"):
        first.poll()
    with pytest.raises(StageFailed, match=r"the first machine \(127.0.0.1\) was lost"):
        other.poll()
    first.end(None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (StageFailed("process 1 of 2 was killed"), "process 1 of 2 was killed"),
        (Interrupted(2), "it was interrupted"),
    ],
)
def test_one_that_fails_says_why(scene: Scene, error: Exception, words: str) -> None:
    first, other = scene.met()
    other.end(error)
    with pytest.raises(StageFailed, match=f"machine 2 .* has ended: {words}"):
        first.blame()
    first.end(error)


def test_the_others_hear_why_the_first_failed(scene: Scene) -> None:
    first, other = scene.met()
    first.end(StageFailed("the disk is full"))
    with pytest.raises(StageFailed, match=r"the first machine .* has ended: the disk is full"):
        poll_until_raised(other.poll)


def test_a_good_end_is_waited_for(scene: Scene) -> None:
    first, other = scene.met()
    ended = scene.beside(lambda: other.end(None))
    while not first._links[next(iter(first._links))]:
        first.poll()
    assert not ended.done()  # the first one is still writing
    first.end(None)
    ended.result(60)


def test_who_was_told_of_no_others_cannot_begin() -> None:
    with pytest.raises(UsageError) as refused:
        NoMachines().begin(PLAN, NoTurn())
    assert refused.value.code == "E952"


def test_an_address_of_nobody_cannot_be_waited_at() -> None:
    with pytest.raises(MachineCannot, match=r"cannot wait at 192.0.2.7:29400") as refused:
        First(("192.0.2.7", 29400), 2, "", print, lambda: None)
    assert refused.value.code == "E379"


def poll_until_raised(poll: Callable[[], None]) -> None:
    while True:
        poll()
