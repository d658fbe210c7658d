"""Answers prompts of many tasks in one batch, in a thread of its own; bundles can be reloaded.

Requests join the batch and leave it at the borders of steps. A step is one forward pass over all
rows, each with its own task.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hydraopt.errors import HydraoptError, TaskNotFoundError, UsageError, explain
from hydraopt.model import RowCache, contiguous_head, ends_of
from hydraopt.serve.attached import Attached, attach
from hydraopt.serve.bundles import named_bundles
from hydraopt.serve.jobs import (
    Answer,
    ClosedError,
    GenerationJob,
    Limits,
    Piece,
    QueueFullError,
    Reason,
)
from hydraopt.serve.rows import BatchRow, Decoder, Sampler, StopWatch, fail

Make = Callable[[Any], Attached]
"""Function from the model to its attached tasks."""

# Prompts are read between two steps; more padded tokens than this at a time would make the answers
# under way wait noticeably. A longer prompt goes alone.
_PROMPT_TOKENS = 2048


class ModelEngine:
    """Model, the tasks attached to it, and the waiting requests.

    The model and ``attached`` belong to the engine's thread from :meth:`start` to :meth:`stop`.
    Another attachment may take its place at the border of a step: then both are on the model, each
    with the rows of its own requests, until the last request of the old one is answered.
    """

    def __init__(
        self, model: Any, tokenizer: Any, attached: Attached, limits: Limits | None = None
    ) -> None:
        self.tokenizer, self.limits = tokenizer, limits or Limits()
        self._model, self._attached = model, attached
        self._retired: list[Attached] = []
        self._changes: deque[tuple[Make, Future[None]]] = deque()
        self._until = float("inf")
        self._rows: list[BatchRow] = []
        self._batch = RowCache(model)
        self._waiting: deque[Answer] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="hydraopt-engine", daemon=True)
        self._ends = ends_of(model, tokenizer)
        self._memory = attached.memory()
        self._decodes = 0
        self.steps = 0

    # --- from any thread ----------------------------------------------------------------------

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of tasks that may be requested, besides None for the base."""
        return self._attached.tasks

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def submit(self, job: GenerationJob, deliver: Callable[[Piece], None]) -> Answer:
        """Take a job on; ``deliver`` gets its pieces, the last with a reason.

        job: within the limits of tokens, which the caller checks.
        Raises QueueFullError, ClosedError, TaskNotFoundError.
        """
        answer = Answer(job, deliver, time.monotonic() + self.limits.seconds)
        with self._changed:
            if self._closed or not self.alive:
                raise ClosedError(explain("the server is shutting down"))
            if job.task is not None and job.task not in self.tasks:
                raise TaskNotFoundError(explain("no such task", got=repr(job.task)))
            answer.attached = self._attached
            if len(self._waiting) >= self.limits.queue:
                raise QueueFullError(
                    explain(
                        "too many requests are waiting",
                        got=len(self._waiting),
                        expected=f"fewer than {self.limits.queue}",
                        do="Try again later",
                    )
                )
            self._waiting.append(answer)
            self._changed.notify()
        return answer

    def replace(self, make: Make) -> None:
        """Answer the requests to come with what ``make`` attaches to the model.

        It is called in the engine's thread, between two steps, and every task writes a token. What
        it raises, and UsageError for a task that cannot be answered with, is raised here; then all
        is as before. Raises ClosedError.
        """
        done: Future[None] = Future()
        with self._changed:
            if self._closed or not self.alive:
                raise ClosedError(explain("the server is shutting down"))
            self._changes.append((make, done))
            self._changed.notify()
        done.result()

    def hurry(self, seconds: float) -> None:
        """End unanswered requests after that time, with the reason "closing"."""
        self._until = time.monotonic() + seconds

    def stop(self, seconds: float | None = None) -> bool:
        """Take no more, finish what there is, and end the thread. False if time ran out first."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """True while the thread is running."""
        return self._thread.is_alive()

    def load(self) -> dict[str, int]:
        """Return request and step counts and the bytes of the bundles, as of the last step."""
        memory = self._memory
        return {
            "waiting": len(self._waiting),
            "running": len(self._rows),
            "shared_bytes": memory.shared,
            "cached_bytes": memory.cached,
            "active_bytes": memory.active,
            "decodes": self._decodes,
            "steps": self.steps,
        }

    # --- in the engine's thread ---------------------------------------------------------------

    def _run(self) -> None:
        # Nothing here needs a gradient, and the output layer wants its input in one piece.
        with torch.inference_mode(), contiguous_head(self._model):
            while self._wait():
                try:
                    self._change()
                    self._admit()
                    self._step()
                except Exception as error:  # one batch's failure must not end the server
                    fail(self._rows, error, "a step failed")
                    self._rows, self._batch = [], RowCache(self._model)
        with self._changed:
            for _, done in self._changes:
                done.set_exception(ClosedError(explain("the server is shutting down")))

    def _wait(self) -> bool:
        """Wait for something to do; False if nothing will come any more."""
        with self._changed:
            while not (self._rows or self._waiting or self._changes):
                if self._closed:
                    return False
                self._changed.wait()
        return True

    def _admit(self) -> None:
        """Read the prompts of as many waiting requests as there is room for."""
        if chosen := self._next():
            self._read(chosen)

    def _read(self, chosen: Sequence[Answer]) -> None:
        """Read the requests' prompts together; if that fails, read each by itself.

        A task that cannot be read then fails only its own requests.
        """
        new = [
            BatchRow(x, Sampler(x.job), Decoder(self.tokenizer), StopWatch(x.job.stop))
            for x in chosen
        ]
        batch = RowCache(self._model)
        try:
            self._select(chosen)
            logits = batch.start([x.job.prompt for x in chosen])
            self._batch.join(batch)
        except Exception as error:
            if len(chosen) == 1:
                fail(new, error, f"no answer of {chosen[0].job.task!r}")
            else:
                for answer in chosen:
                    self._read([answer])
            return
        self._rows += new
        self._take(new, logits)
        self._drop()

    def _next(self) -> list[Answer]:
        """Drop waiting requests whose time is over, and return those whose turn it is."""
        chosen: list[Answer] = []
        longest = 0
        with self._changed:
            reasons = [(x, self._over(x)) for x in self._waiting]
            self._waiting = deque(x for x, reason in reasons if reason is None)
            while self._waiting and len(self._rows) + len(chosen) < self.limits.rows:
                longest = max(longest, len(self._waiting[0].job.prompt))
                if chosen and longest * (len(chosen) + 1) > _PROMPT_TOKENS:
                    break
                chosen.append(self._waiting.popleft())
        for answer, reason in reasons:
            if reason is not None:
                answer.deliver(Piece("", 0, reason))
        return chosen

    def _step(self) -> None:
        """Generate one token for each row."""
        for row in self._rows:
            row.reason = row.reason or self._over(row.answer)
            if row.reason is not None:
                row.answer.deliver(Piece("", row.tokens, row.reason))
        self._drop()
        self._select_rows()
        if self._rows:
            self._take(self._rows, self._batch.step([row.last for row in self._rows]))
            self._drop()
        self.steps += 1
        self._let_go()
        self._memory, self._decodes = self._attached.memory(), self._attached.stats.decodes

    def _change(self) -> None:
        """Replace the attached tasks by others, as far as possible."""
        while self._changes:
            make, done = self._changes.popleft()
            new = None
            try:
                new = make(self._model)
                self._try(new)
            except BaseException as error:  # goes to who asked
                if new is not None:
                    new.detach()
                done.set_exception(error)
                continue
            with self._changed:
                self._retired.append(self._attached)
                self._attached = new
            self._let_go()
            done.set_result(None)

    def _let_go(self) -> None:
        """Detach what no request needs any more."""
        if not self._retired:
            return
        with self._changed:
            answers = [*self._waiting, *(row.answer for row in self._rows)]
        for old in [x for x in self._retired if all(x is not a.attached for a in answers)]:
            self._retired.remove(old)
            old.detach()

    def try_all(self) -> None:
        """Run a prompt and a token with each task; raise UsageError for a task that cannot answer.

        Call it before :meth:`start`.
        """
        self._try(self._attached)

    def _try(self, attached: Attached) -> None:
        for other in (self._attached, *self._retired):
            other.set_task(None)
        for task in (None, *attached.tasks):
            try:
                attached.set_task(task)
                batch = RowCache(self._model)
                with torch.inference_mode(), contiguous_head(self._model):
                    batch.start([(0, 0)])
                    batch.step([0])
            except HydraoptError as error:
                raise UsageError(f"task {task!r} cannot be served: {error}") from error
            except Exception as error:
                raise UsageError(
                    explain(
                        "the base model cannot be served"
                        if task is None
                        else f"task {task!r} cannot be served",
                        got=f"{type(error).__name__}: {error}",
                        expected="a causal model of transformers with keys and values as its cache",
                    )
                ) from error
        attached.set_task(None)

    def _select(self, answers: Sequence[Answer]) -> None:
        """Select each answer's task for its row; earlier attachments add nothing to other rows."""
        for attached in (self._attached, *self._retired):
            names = tuple(x.job.task if x.attached is attached else None for x in answers)
            if attached.active != names and (any(names) or any(attached.active)):
                attached.set_tasks(names)

    def _select_rows(self) -> None:
        """Select the tasks of all rows; end the rows whose tasks can no longer be read."""
        if not self._rows:
            return
        try:
            self._select([row.answer for row in self._rows])
        except HydraoptError:
            for row in self._rows:
                try:
                    self._select([row.answer])
                except HydraoptError as error:
                    fail([row], error, "a task cannot be read any more")
            self._drop()
            if self._rows:
                self._select([row.answer for row in self._rows])

    def _take(self, rows: Sequence[BatchRow], logits: Tensor) -> None:
        """Give each row its next token of the logits (N, vocabulary), and its reader the text."""
        for row, own in zip(rows, logits, strict=True):
            try:
                row.take(own, self._ends)
            except Exception as error:  # of this row alone
                fail([row], error, "no token could be drawn")

    def _drop(self) -> None:
        """Take out the rows that have ended."""
        going = [i for i, row in enumerate(self._rows) if row.reason is None]
        if len(going) < len(self._rows):
            self._rows = [self._rows[i] for i in going]
            self._batch.keep(going)

    def _over(self, answer: Answer) -> Reason | None:
        if answer.cancelled:
            return "cancelled"
        now = time.monotonic()
        return "time" if now > answer.deadline else "closing" if now > self._until else None


class ReloadError(HydraoptError):
    """Error of new files that were refused; the old ones stay in service. Names no folder."""


def check_names(base_name: str, tasks: Sequence[str]) -> None:
    """Raise UsageError if a task has the base's name."""
    if base_name in tasks:
        raise UsageError(
            explain(
                "a task has the name of the base model",
                got=base_name,
                do="Give the base another name with --name",
            )
        )


class Reload:
    """Call it, from any thread, to serve what the files hold now.

    Requests that came before are answered with the old tasks, those that come after with the new.
    """

    def __init__(
        self, engine: ModelEngine, base_name: str, bundles: Sequence[str], cache_bytes: int | None
    ) -> None:
        self._engine, self._base_name = engine, base_name
        self._bundles, self._cache_bytes = tuple(bundles), cache_bytes
        self._one = threading.Lock()

    def __call__(self) -> tuple[str, ...]:
        """Reload, and return the tasks served now.

        Raises ReloadError; ClosedError at the server's end.
        """
        with self._one:
            try:
                opened = named_bundles(list(self._bundles))
                self._engine.replace(lambda model: self._attached(model, opened))
            except (HydraoptError, OSError, MemoryError, RuntimeError) as error:
                # RuntimeError: both attachments are held, for which a GPU may have no memory.
                if isinstance(error, ClosedError):
                    raise
                raise ReloadError(
                    explain(
                        "the bundles were not loaded again, and those from before stay in service",
                        got=self._without_folders(str(error).rstrip(".")),
                    )
                ) from error
            return self._engine.tasks

    def _attached(self, model: object, opened: object) -> Attached:
        fresh = attach(model, opened, cache_bytes=self._cache_bytes)  # type: ignore[arg-type]
        try:
            check_names(self._base_name, fresh.tasks)
        except UsageError:
            fresh.detach()
            raise
        return fresh

    def _without_folders(self, text: str) -> str:
        """Return the text without local folders, which clients must not learn."""
        for path in map(Path, self._bundles):
            for name in (str(path), str(path.absolute()), os.path.realpath(path)):
                text = text.replace(name, path.name)
        return text
