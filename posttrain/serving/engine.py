"""Continuous batching: a thread that owns a model, and gives every answer in progress one token at each step."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from posttrain.errors import PosttrainError
from posttrain.pipeline.plain_lora import PlainLora

from .decoder import BASE, Decoder
from .sampling import Draws, Sampling, pick

_log = logging.getLogger("posttrain.serving")
Reason = Literal["stop", "length", "timeout", "error"]
Deliver = Callable[[list[int], Reason | None], None]  # new tokens; why it ended, with the last of them


class Overloaded(PosttrainError):
    """The queue is full."""


class NoSuchAdapter(PosttrainError):
    """It was removed."""


@dataclass(frozen=True)
class Limits:
    """What one engine takes on."""

    rows: int = 32  # answers in progress
    waiting: int = 256
    cache_tokens: int = 32_768  # rows times the longest of them: bounds the key-value cache
    answer_tokens: int = (
        1024  # of a request that does not say; room is kept for as many as an answer may have
    )
    prompt_tokens: int = 512  # of prompts read in one step, so that answers in progress do not wait long
    seconds: float = 600.0  # from asked to answered

    def longest(self, context: int) -> int:
        """Tokens of one prompt and its answer."""
        return min(context, self.cache_tokens)


@dataclass(eq=False)
class Ticket:
    """An answer that was asked for. Its tokens come to `deliver`, on the engine's thread; never a stop token."""

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling
    adapter: str
    deliver: Deliver
    until: float
    cancelled: bool = False  # set it, and nothing more is delivered
    length: int = 0  # tokens in the cache
    made: int = 0
    last: int = -1
    draws: Draws = field(init=False)

    def __post_init__(self) -> None:
        self.draws = Draws(self.sampling.seed)

    @property
    def longest(self) -> int:
        return len(self.prompt) + self.max_tokens

    def cancel(self) -> None:
        self.cancelled = True


class Engine:
    """Answers on one model, each row with its own adapter.

    stop_ids: tokens that end an answer. Loading and removing adapters happens between two steps; a removed one stays
    until the answers that use it are given.
    """

    def __init__(self, model: Any, stop_ids: Sequence[int], limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._stops = frozenset(stop_ids)
        self._decoder = Decoder(model, self.limits.cache_tokens)
        self._decoder.prove()
        config = model.config.get_text_config()
        self.context = int(getattr(config, "max_position_embeddings", self.limits.cache_tokens))
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._work: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._ready: set[str] = set()
        self._retired: set[str] = set()
        self._closed = False
        self._rows: list[Ticket] = []  # answers in progress, by slot
        self._reading: list[Ticket] = []  # the slots behind: prompts that are not read to their end
        self._thread = threading.Thread(target=self._run, name="posttrain-engine", daemon=True)
        self._thread.start()

    # --- asked from any thread ---

    def submit(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        sampling: Sampling,
        adapter: str | None,
        deliver: Deliver,
    ) -> Ticket:
        """Ask for an answer. Raises Overloaded when too many wait already, NoSuchAdapter when that one was removed."""
        assert len(prompt) > 0 and max_tokens > 0 and len(prompt) + max_tokens <= self.longest
        until = time.monotonic() + self.limits.seconds
        ticket = Ticket(prompt, max_tokens, sampling, adapter or BASE, deliver, until)
        with self._changed:
            if self._closed:
                raise Overloaded("The engine is shutting down.")
            if adapter is not None and adapter not in self._ready:
                raise NoSuchAdapter("The adapter was unloaded.")
            if len(self._waiting) >= self.limits.waiting:
                self._waiting = deque(one for one in self._waiting if not one.cancelled)
            if len(self._waiting) >= self.limits.waiting:
                raise Overloaded(f"{len(self._waiting)} requests are waiting already; try again later.")
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    @property
    def longest(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.limits.longest(self.context)

    @property
    def load(self) -> tuple[int, int]:
        """(answers in progress, requests waiting)."""
        return len(self._rows) + len(self._reading), len(self._waiting)

    def add(self, lora: PlainLora) -> str:
        """Make an adapter ready. Returns the name to ask for it by."""
        name = f"adapter{next(self._numbers)}"

        self._do(lambda: self._decoder.add(name, lora)).result()
        with self._changed:
            self._ready.add(name)
        return name

    def remove(self, name: str) -> None:
        """Free an adapter once the answers that use it are given; nobody may ask for it any more."""
        with (
            self._changed
        ):  # a layer that does not know a row's adapter would answer as the base, without an error
            self._ready.discard(name)
            self._retired.add(name)
            self._changed.notify()

    def close(self) -> None:
        """End the thread; what is not answered yet ends with "error"."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _do(self, work: Callable[[], Any]) -> Future[Any]:
        """Run on the engine's thread, between two steps."""
        done: Future[Any] = Future()
        with self._changed:
            self._work.append((work, done))
            self._changed.notify()
        return done

    # --- on the engine's thread ---

    def _run(self) -> None:
        while self._wait():
            try:
                self._step()
            except Exception:  # out of memory, for example: these answers are lost, the next ones need not be
                _log.exception("A step of the engine failed; the answers in progress end here.")
                self._drop_all()
        self._drop_all()

    def _wait(self) -> bool:
        """Sleep until there is something to do; False when closed."""
        with self._changed:
            while not (
                self._closed or self._waiting or self._work or self._rows or self._reading or self._retired
            ):
                self._changed.wait()
            return not self._closed

    def _step(self) -> None:
        self._do_work()
        self._let_go()
        if not self._reading:
            self._admit()
        if self._reading:
            self._read_prompts()
        if self._rows:
            self._decode()

    def _do_work(self) -> None:
        while self._work:
            work, done = self._work.popleft()
            try:
                done.set_result(work())
            except Exception as error:
                done.set_exception(error)
        with self._changed:
            free = self._retired - {
                ticket.adapter for ticket in (*self._waiting, *self._rows, *self._reading)
            }
            self._retired -= free
        for name in free:
            self._decoder.remove(name)

    def _let_go(self) -> None:
        """Free the slots of clients who went, and end what took too long."""
        now = time.monotonic()
        with self._changed:
            late = [one for one in self._waiting if now > one.until and not one.cancelled]
            self._waiting = deque(one for one in self._waiting if not one.cancelled and now <= one.until)
        for ticket in late:
            _deliver(ticket, [], "timeout")
        for ticket in [*self._rows, *self._reading]:
            if now > ticket.until and not ticket.cancelled:
                _deliver(ticket, [], "timeout")
                ticket.cancelled = True
            if ticket.cancelled:
                self._free(ticket)

    def _free(self, ticket: Ticket) -> None:
        """Give the slot away; the rows stay neighbours, and so do the prompts being read behind them."""
        if ticket in self._reading:
            gap, last = len(self._rows) + self._reading.index(ticket), self._reading.pop()
            if last is not ticket:
                self._move(last, gap, len(self._rows) + len(self._reading))
                self._reading[gap - len(self._rows)] = last
            return
        gap, last = self._rows.index(ticket), self._rows.pop()
        if last is not ticket:
            self._move(last, gap, len(self._rows))
            self._rows[gap] = last
        if self._reading:  # the last of them fills the slot between
            self._move(self._reading[-1], len(self._rows), len(self._rows) + len(self._reading))
            self._reading.insert(0, self._reading.pop())

    def _move(self, ticket: Ticket, target: int, source: int) -> None:
        self._decoder.move(source, target, ticket.length)

    def _admit(self) -> None:
        """Take requests in their order, as long as there is room for their prompts and, later, their answers."""
        with self._changed:
            while self._waiting and len(self._rows) + len(self._reading) < self.limits.rows:
                new = self._waiting[0]
                together = [*self._reading, new]
                longest = max(one.longest for one in (*self._rows, *together))
                if (len(self._rows) + len(together)) * longest > self.limits.cache_tokens and (
                    self._rows or self._reading
                ):
                    break
                widest = max(len(one.prompt) for one in together)
                if self._reading and len(together) * widest > self.limits.prompt_tokens:
                    break
                self._reading.append(self._waiting.popleft())
        if self._reading:
            rows = [*self._rows, *self._reading]
            room = max(one.longest for one in rows)
            self._decoder.reserve(len(rows), room)
            for slot, one in enumerate(self._reading, len(self._rows)):
                one.length = self._decoder.recall(slot, one.prompt, one.adapter)
            # Rows are read side by side: behind the one that is known furthest there is room for the longest rest.
            for most in sorted({0, *(one.length for one in self._reading)}, reverse=True):
                known = [min(one.length, most) for one in self._reading]
                rest = [len(one.prompt) - length for one, length in zip(self._reading, known, strict=True)]
                if max(known) + max(rest) <= room:
                    break
            for one, length in zip(self._reading, known, strict=True):
                one.length = length

    def _read_prompts(self) -> None:
        """The next tokens of the prompts at hand; those read to their end get their first token."""
        most = max(1, self.limits.prompt_tokens // len(self._reading))
        pieces = [one.prompt[one.length : one.length + most] for one in self._reading]
        logits = self._decoder.logits(
            len(self._rows),
            pieces,
            [one.length for one in self._reading],
            [one.adapter for one in self._reading],
        )
        for ticket, piece in zip(self._reading, pieces, strict=True):
            ticket.length += len(piece)
        if all(one.length == len(one.prompt) for one in self._reading):
            read, self._reading = self._reading, []
            self._rows += read
            self._take(read, logits)

    def _decode(self) -> None:
        rows = list(self._rows)
        logits = self._decoder.logits(
            0, [[one.last] for one in rows], [one.length for one in rows], [one.adapter for one in rows]
        )
        for ticket in rows:
            ticket.length += 1
        self._take(rows, logits)

    def _take(self, tickets: Sequence[Ticket], logits: Any) -> None:
        tokens = pick(logits, [one.sampling for one in tickets], [one.draws for one in tickets])
        for ticket, token in zip(tickets, tokens, strict=True):
            ticket.last, ticket.made = token, ticket.made + 1
            stopped = token in self._stops
            reason: Reason | None = (
                "stop" if stopped else "length" if ticket.made == ticket.max_tokens else None
            )
            _deliver(ticket, [] if stopped else [token], reason)
            if reason or ticket.cancelled:
                self._free(ticket)

    def _drop_all(self) -> None:
        with self._changed:
            lost = [*self._rows, *self._reading, *(self._waiting if self._closed else ())]
            self._rows, self._reading = [], []
            if self._closed:
                self._waiting.clear()
                for _, done in self._work:
                    done.cancel()
        self._decoder.reset()
        for ticket in lost:
            _deliver(ticket, [], "error")


def _deliver(ticket: Ticket, tokens: list[int], reason: Reason | None) -> None:
    if ticket.cancelled:
        return
    try:
        ticket.deliver(tokens, reason)
    except Exception:  # who asked is gone; the others are not
        ticket.cancelled = True
