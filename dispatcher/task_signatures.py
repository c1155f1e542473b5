"""The part of a task that makes signatures of it, and the one that puts another task in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dispatcher.canvas.mapped import chunks, xmap, xstarmap
from dispatcher.canvas.signature import Signature
from dispatcher.exceptions import BackendError, OperationalError, Reject, Replaced, UnsupportedOption
from dispatcher.request import Context

if TYPE_CHECKING:
    from dispatcher.task_options import TaskOwner


class Signatures:
    """What `Task` has for canvases."""

    name: str
    _app: TaskOwner | None

    if TYPE_CHECKING:

        @property
        def request(self) -> Context:
            """What is known of the message that is being run."""
            ...

        @property
        def _owner(self) -> TaskOwner: ...

        def add_trail(self, result: Any) -> Any:
            """Note a result as a child of the running task."""
            ...

    def signature(self, args: Sequence[Any] | None = None, *more: Any, **options: Any) -> Signature:
        """Return a call to this task as a value."""
        options.setdefault("app", self._app)
        return Signature(self, args, *more, **options)

    subtask = signature

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a call with these arguments; those given later come before them."""
        return Signature.of(self, args, kwargs, self._app)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a call with exactly these arguments."""
        return Signature.of(self, args, kwargs, self._app, immutable=True)

    def signature_from_request(
        self,
        request: Context | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        **options: Any,
    ) -> Signature:
        """Return a call that would run this request again."""
        request = request if request is not None else self.request
        carried = {name: value for name, value in request.as_execution_options().items() if value is not None}
        if queue is not None:
            carried["queue"] = queue
        return self.signature(
            request.args if args is None else args,
            request.kwargs if kwargs is None else kwargs,
            **{**carried, **options},
        )

    def replace(self, sig: Any) -> Any:
        """Run a signature in place of this task; raises, so nothing after it runs.

        What waits for this task, callbacks, the next step of its chain, its group, waits for the replacement, whose
        result is this task's. A group's result is the list of its members'. Where the replacement cannot be sent, the
        task goes back to its queue and runs again.
        """
        request = self.request
        if request.called_directly:
            raise RuntimeError("replace() works in a task that a worker runs, not in one that is called as a function")
        if request.is_eager:
            raise Replaced("Replaced by new task", self._owner.run_replacement(request, sig))
        if request.get("_added"):
            raise RuntimeError("a run that replaces its task cannot add to its chord: let the replacement do that")
        self.on_replace(sig)
        try:
            self._owner.replace_running(request, sig)
        except (OperationalError, BackendError) as error:
            raise Reject(f"the replacement cannot be sent: {error}", requeue=True) from error
        raise Replaced("Replaced by new task")

    def on_replace(self, sig: Any) -> None:
        """Called in the worker before a signature is sent in place of this task."""

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """Have the chord that this task is a member of wait for another call, or canvas; return its result.

        It is sent when this run has succeeded, and only then; its results come behind this task's in what the body
        gets. Raises `ValueError` where the task does not end a member of a chord, and what sending it would where
        that can be known before.
        """
        request = self.request
        if lazy:
            raise UnsupportedOption(
                "add_to_chord(lazy=True) cannot work: the body would wait for ever if the call is never sent; leave "
                "lazy out, and the call is sent when this task has succeeded"
            )
        if request.chain or not (request.chord and request.chord.get("n")):
            raise ValueError("add_to_chord() works in a task that ends a member of a chord; this one does not")
        return self.add_trail(self._owner.add_to_chord(request, sig))

    def chunks(self, it: Any, n: int) -> chunks:
        """Return the calls with the arguments in each item, ``n`` to a message."""
        return chunks(self, it, n, app=self._app)

    def map(self, it: Any) -> xmap:
        """Return one message that calls this task with each item."""
        return xmap(self, it, app=self._app)

    def starmap(self, it: Any) -> xstarmap:
        """Return one message that calls this task with the arguments in each item."""
        return xstarmap(self, it, app=self._app)
