"""The first machine waits at an address, every other one connects; both sides of it.

When all are here the first one asks each machine, itself included, to take its device: without
waiting, one after the other. Where one cannot, all give back what they took, everybody is told who
waits for whom, and after a pause of varied length it is tried again, first where it was busy. So
nobody holds a device while waiting for another one, and two trainings that need the same two
machines cannot block each other. Two machines of one training that have the same locks, by one
cache or store, would wait for each other for ever: one of them is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from runner.errors import Busy, Interrupted, MachineCannot, StageFailed, UsageError
from runner.execution.machines.contract import Turn
from runner.execution.machines.link import Gone, Link
from runner.execution.machines.same import differences
from runner.report.printable import escaped
from runner.system.folders import CACHE, STORE

EXAMPLE = "192.168.100.1:29400"
MAX_WORDS = 400  # characters of what another machine says
PROTOCOL = 3  # raise when machines say something else to each other
ANSWER_SECONDS = 30.0  # what a machine that connects gets to compare plans
TELL_SECONDS = 15.0  # what a machine whose training broke gets to say so
TRY_AGAIN_SECONDS = 1.0
TAKE_AGAIN_SECONDS = (0.5, 2.0)  # at least and at most; two that collide must not keep step
_LOOK = 0.1
_SIOCGIFADDR = 0x8915
LAST_PORT = (1 << 16) - 1
_DIGITS = 10  # of a port, zeros before it included: Python reads no number of thousands of them


def parse_address(text: str) -> tuple[str, int]:
    """Of `HOST:PORT`. Raises ValueError, which says what is meant."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()):
        message = f"{text!r} is no address: write HOST:PORT, such as {EXAMPLE}"
        raise ValueError(message)
    if len(port) > _DIGITS or not 0 < int(port) <= LAST_PORT:
        message = f"{text!r} has no port that there is: it goes from 1 to {LAST_PORT}"
        raise ValueError(message)
    return host, int(port)


class First:
    """The machine that waits for the others, numbers them, and writes what comes out."""

    def __init__(
        self,
        address: tuple[str, int],
        machines: int,
        how_to_join: str,
        say: Callable[[str], None],
        on_poll: Callable[[], None],
    ) -> None:
        """Listens from now on. Raises MachineCannot (E379) when it cannot."""
        self._host, self._machines = address[0], machines
        self._how, self._say, self._on_poll = how_to_join, say, on_poll
        self._links: dict[Link, bool] = {}  # and whether it is done
        self._tokens: dict[Link, str] = {}  # of their turns
        try:
            self._listening = socket.create_server(address, backlog=16)
        except (OSError, OverflowError) as error:
            raise MachineCannot(
                f"cannot wait at {address[0]}:{address[1]}: {error}",
                hint="give an address of this machine on the link to the others (ip -brief "
                "address), and a port that is free",
                code="E379",
            ) from None

    def begin(self, plan: Mapping[str, Any], turn: Turn) -> dict[str, Any]:
        """Wait for the others and for everybody's device, as Machines says."""
        plan = {**plan, "protocol": PROTOCOL}
        while True:
            self._gather(plan, turn)
            try:
                self._take_all(turn)
            except Gone:  # it was said who
                turn.give_back()
                self._release_all()
                continue
            return self._start()

    def _gather(self, plan: Mapping[str, Any], turn: Turn) -> None:
        self._say_who_is_missing(turn)
        while len(self._links) < self._machines - 1:
            before = len(self._links)
            self._admit(plan)
            self._drop_the_lost()
            if len(self._links) < before:
                self._say_who_is_missing(turn)
            elif len(self._links) > before:
                self._note_who_is_missing(turn)

    def _say_who_is_missing(self, turn: Turn) -> None:
        if missing := self._machines - 1 - len(self._links):
            self._say(f"waiting for {missing} more; on each: {self._how}")
        self._note_who_is_missing(turn)

    def _note_who_is_missing(self, turn: Turn) -> None:
        if missing := self._machines - 1 - len(self._links):
            turn.waits(f"{missing} more; on each: {self._how}")

    def _start(self) -> dict[str, Any]:
        """Tell the others to begin. Raises StageFailed when one cannot be told any more."""
        where = {"machines": self._machines, "address": self._host, "port": _free_port(self._host)}
        for number, link in enumerate(self._links, 1):
            try:
                link.send(begin={"machine": number, **where})
            except Gone as why:
                raise _lost(f"{link.name} was lost: {why}") from None
        return {"machine": 0, "own_address": self._host, **where}

    def poll(self) -> None:
        """Raise StageFailed when a machine has ended or is lost."""
        for link, done in list(self._links.items()):
            if not done:
                self._links[link] = _still_there(link)

    def blame(self) -> None:
        """Wait a little for a machine to say that it was the one that failed."""
        _listen_for_a_reason(self.poll)

    def end(self, error: BaseException | None) -> None:
        """Tell all, and wait for nobody."""
        for link in self._links:
            with contextlib.suppress(Gone):
                link.send(**_ending(error))
            link.close()
        self._listening.close()

    def _admit(self, plan: Mapping[str, Any]) -> None:
        """One machine more, if one comes and has the same plan."""
        self._listening.settimeout(_LOOK)
        self._on_poll()
        try:
            connection, address = self._listening.accept()
        except TimeoutError:
            return
        link = Link(connection, f"machine {len(self._links) + 2} ({address[0]})")
        try:
            link.send(plan=dict(plan))
            answer = _answer(link, self._on_poll)
        except Gone as why:
            self._say(f"{address[0]} came and went: {why}")
            link.close()
            return
        except BaseException:
            link.close()
            raise
        if answer.get("ready"):
            self._links[link] = False
            self._tokens[link] = str(answer.get("token", ""))
            self._say(f"{link.name} is here")
            return
        refused = [str(line) for line in answer.get("refused", [])] or ["it did not say why"]
        self._say(f"{address[0]} does not train the same: {'; '.join(refused)}")
        link.close()

    def _drop_the_lost(self) -> None:
        """Who goes before it begins may come again."""
        for link in list(self._links):
            try:
                _heard(link)
            except Gone as why:
                self._drop(link, why)

    def _drop(self, link: Link, why: Gone) -> None:
        self._say(f"{link.name} has gone: {why}")
        link.close()
        del self._links[link], self._tokens[link]

    def _take_all(self, turn: Turn) -> None:
        """Have every machine's device, this one's too.

        Raises Busy when one has to be waited for and this run was told not to wait; Gone when a
        machine left meanwhile.
        """
        order: list[Link | None] = [None, *self._links]  # None: this machine
        told = ""
        while busy := self._busy_one(order, turn):
            who, holder = busy
            if who is None:
                self._refuse_the_holder(turn, holder)
            words = f"{_name(who)} waits for {holder}"
            if not turn.wait:
                raise _is_busy(f"all machines are here, but {words}")
            if words != told:
                told = words
                self._tell(words, but=who)
                if who is not None:  # what is busy here is known
                    turn.waits(f"its turn: {words}")
            order.remove(who)
            order.insert(0, who)  # the others need not take theirs while this one is busy
            self._pause()
        self._look_for_leavers()

    def _busy_one(self, order: list[Link | None], turn: Turn) -> tuple[Link | None, str] | None:
        """The first machine of `order` that is busy, and with what; None: all have theirs now."""
        for who in order:
            if holder := turn.take() if who is None else self._ask(who, turn):
                turn.give_back()
                self._release_all()
                return who, holder
        return None

    def _ask(self, link: Link, turn: Turn) -> str:
        """Have another machine take its device; "" when it has, else who has it."""
        others = [turn.token, *(self._tokens[each] for each in self._links if each is not link)]
        with self._dropping(link):
            link.send(take=others)
            while True:
                self._on_poll()
                for message in _heard(link, _LOOK):
                    if "taken" in message:
                        return ""
                    if isinstance(message.get("busy"), str):
                        return _words(message["busy"]) or "its device"

    def _refuse_the_holder(self, turn: Turn, words: str) -> None:
        """Raises Gone when it is a machine that joined which has what this one needs."""
        for link in self._links:
            if turn.holder.token and turn.holder.token == self._tokens[link]:
                with self._dropping(link):
                    link.send(shared=words)
                    raise Gone(_same_locks(words).message)

    def _release_all(self) -> None:
        """Who has taken nothing has nothing to release."""
        for link in self._links:
            with contextlib.suppress(Gone):  # the next look says so
                link.send(release=True)

    def _tell(self, words: str, *, but: Link | None) -> None:
        """Who waits for what, to everybody who does not know it by himself."""
        if but is not None:
            self._say(words)
        for link in self._links:
            if link is not but:
                with contextlib.suppress(Gone):
                    link.send(waits=words)

    def _pause(self) -> None:
        """Raises Gone when a machine leaves meanwhile."""
        until = time.monotonic() + random.uniform(*TAKE_AGAIN_SECONDS)
        while True:
            self._on_poll()
            self._look_for_leavers()
            if time.monotonic() >= until:
                return
            time.sleep(_LOOK)

    def _look_for_leavers(self) -> None:
        for link in list(self._links):
            with self._dropping(link):
                _heard(link)

    @contextlib.contextmanager
    def _dropping(self, link: Link) -> Iterator[None]:
        try:
            yield
        except Gone as why:
            self._drop(link, why)
            raise Gone(f"{link.name} has gone") from None


class Other:
    """A machine that joins: it checks that it would train the same."""

    def __init__(
        self, address: tuple[str, int], say: Callable[[str], None], on_poll: Callable[[], None]
    ) -> None:
        self._address, self._say, self._on_poll = address, say, on_poll
        self._link: Link | None = None
        self._first_is_done = False

    def begin(self, plan: Mapping[str, Any], turn: Turn) -> dict[str, Any]:
        """Connect, compare, take the device when asked.

        Raises StageFailed (E378), Busy (E964), UsageError (E956).
        """
        plan = {**plan, "protocol": PROTOCOL}
        where = f"the training at {self._address[0]}:{self._address[1]}"
        self._say(f"waiting for {where}")
        while True:
            turn.waits(where)
            link = self._connected()
            try:
                return self._agree(link, plan, turn)
            except Gone as why:
                turn.give_back()
                link.close()
                self._say(f"the first machine went away ({why}); trying again")
                self._pause()
            except BaseException as error:
                turn.give_back()
                with contextlib.suppress(Gone):
                    link.send(**_ending(error))
                link.close()
                raise

    def poll(self) -> None:
        """Raise StageFailed when the first machine has ended or is lost."""
        if self._link is not None and not self._first_is_done:
            self._first_is_done = _still_there(self._link)

    def blame(self) -> None:
        """Wait a little for the first machine to say why."""
        _listen_for_a_reason(self.poll)

    def end(self, error: BaseException | None) -> None:
        """Tell the first machine; after a good end, wait until it has written everything."""
        if self._link is None:
            return
        try:
            if error is None and not self._first_is_done:
                # what has come is lost when one speaks to a connection that is closed there
                self._first_is_done = _still_there(self._link)
            with contextlib.suppress(Gone):
                self._link.send(**_ending(error))
            while error is None and not self._first_is_done:
                self._on_poll()
                self._first_is_done = _still_there(self._link, _LOOK)
        finally:
            self._link.close()

    def _connected(self) -> Link:
        while True:
            with contextlib.suppress(OSError):
                connection = socket.create_connection(self._address, timeout=5)
                return Link(connection, f"the first machine ({self._address[0]})")
            self._pause()

    def _pause(self) -> None:
        until = time.monotonic() + TRY_AGAIN_SECONDS
        self._on_poll()
        while time.monotonic() < until:
            time.sleep(_LOOK)
            self._on_poll()

    def _agree(self, link: Link, plan: Mapping[str, Any], turn: Turn) -> dict[str, Any]:
        first = _message(link, "plan", self._on_poll)
        if differing := differences(first, plan):
            link.send(refused=differing)
            link.close()  # it is told no more than that
            raise StageFailed(
                "this machine would not train the same: " + "\n  ".join(differing),
                hint="bring recipe, data and checkout here to those of the first machine, and "
                "run the same command again; the first machine waits",
                code="E378",
            )
        link.send(ready=True, token=turn.token)
        place = self._turn_comes(link, turn)
        self._link = link
        return {**place, "own_address": link.own_address}

    def _turn_comes(self, link: Link, turn: Turn) -> dict[str, Any]:
        """Do as the first machine says until it says begin; its words.

        Raises Gone, Busy, UsageError.
        """
        while True:
            self._on_poll()
            for message in _heard(link, _LOOK):
                if "take" in message:
                    _take(link, turn, message["take"])
                elif "shared" in message:
                    raise _same_locks(_words(message["shared"]))
                elif "release" in message:
                    turn.give_back()
                elif "waits" in message:
                    words = _words(message["waits"])
                    self._say(words)
                    turn.waits(f"its turn: {words}")
                elif isinstance(message.get("begin"), dict):
                    if not turn.taken:
                        raise Gone("it does not speak as a runner does")
                    return dict(message["begin"])


def interface_of(address: str) -> str:
    """Name of the network interface that has `address` (IPv4); "" when none has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, request)
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return ""


def network_env(address: str) -> dict[str, str]:
    """Variables that make gloo and NCCL use the interface with `address`; they decide no byte."""
    name = interface_of(address)
    return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name} if name else {}


def _answer(link: Link, on_poll: Callable[[], None]) -> dict[str, Any]:
    """The first message that comes. Raises Gone when none does in time."""
    until = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < until:
        on_poll()
        if found := _heard(link, _LOOK):
            return found[0]
    raise Gone("it did not answer")


def _message(link: Link, name: str, on_poll: Callable[[], None]) -> dict[str, Any]:
    """The next message of that name, however long it takes. Raises Gone."""
    while True:
        on_poll()
        for message in _heard(link, _LOOK):
            if isinstance(message.get(name), dict):
                return dict(message[name])


def _heard(link: Link, wait: float = 0.0) -> list[dict[str, Any]]:
    """As of Link; raises Gone for a machine that says it has ended, too."""
    messages = link.heard(wait)
    for message in messages:
        if "failed" in message:
            raise Gone(str(message["failed"]))
    return messages


def _take(link: Link, turn: Turn, others: Any) -> None:
    """Answer the first machine; `others` are the tokens of the turns of all but this one.

    Raises UsageError, Busy, Gone, and what the turn raises.
    """
    holder = turn.take()
    if holder and turn.holder.token and isinstance(others, list) and turn.holder.token in others:
        raise _same_locks(holder)
    if holder and not turn.wait:
        raise _is_busy(f"the training could begin, but this machine waits for {holder}")
    if holder:
        link.send(busy=holder)
    else:
        link.send(taken=True)


def _words(said: Any) -> str:
    """What another machine said, fit for a terminal."""
    return escaped(str(said))[:MAX_WORDS]


def _name(who: Link | None) -> str:
    return "the first machine" if who is None else who.name


def _same_locks(words: str) -> UsageError:
    """`words`: what both need, and who has it. A store of its own may lie in the same cache, which
    has the lock of the device."""
    variables = f"{CACHE}=FOLDER"
    if os.environ.get(STORE):
        variables += f" {STORE}=FOLDER"
    return UsageError(
        "two machines of this training have the same cache or store, so each would wait for the "
        f"other: {words}",
        hint=f"give the one that joins its own: put {variables} before the same command",
        code="E956",
    )


def _is_busy(message: str) -> Busy:
    return Busy(
        message,
        hint="wait until that run has ended, or stop it, then run the same command again; without "
        "--no-wait it is waited for",
        code="E964",
    )


def _still_there(link: Link, wait: float = 0.0) -> bool:
    """Has it said that it is done? Raises StageFailed when it has failed, or is lost."""
    try:
        messages = link.heard(wait)
    except Gone as why:
        raise _lost(f"{link.name} was lost: {why}") from None
    for message in messages:
        if "failed" in message:
            raise _lost(f"{link.name} has ended: {message['failed']}")
        if "done" in message:
            return True
    return False


def _lost(message: str) -> StageFailed:
    return StageFailed(
        message,
        hint="run the same command again on every machine: the training goes on from the last "
        "checkpoint of the first one",
        code="E377",
    )


def _listen_for_a_reason(poll: Callable[[], None]) -> None:
    until = time.monotonic() + TELL_SECONDS
    while time.monotonic() < until:
        poll()
        time.sleep(_LOOK)


def _ending(error: BaseException | None) -> dict[str, Any]:
    if error is None:
        return {"done": True}
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return {"failed": "it was interrupted"}
    return {"failed": str(getattr(error, "message", error))}


def _free_port(host: str) -> int:
    """For the processes of the training, which meet at a port of their own."""
    with socket.create_server((host, 0)) as probe:
        return int(probe.getsockname()[1])
