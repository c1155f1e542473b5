"""Finding a workflow from any of its ids: records and joins name their relatives, which are read level by level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dispatcher import states
from dispatcher.backends.base import TaskRecord
from dispatcher.backends.joins import Join
from dispatcher.backends.meta import ResultMeta
from dispatcher.canvas import plan
from dispatcher.execution.workflow import member_of
from dispatcher.result import AsyncResult, result_from_tuple
from dispatcher.result_families import members_of
from dispatcher.result_reading import value_of
from dispatcher.result_sets import saved_id
from dispatcher.serialization import json_decode
from dispatcher.workflow_state import Line, Node, Workflow

#: The first part of the token of a record that was written because something else failed.
_AFTER = "after "
#: How many places of a group are looked at together.
_PAGE = 100


class Lineage:
    """What has been found of a workflow.

    ``before`` says what a task or group follows in its canvas, ``parents`` by which task it was sent.
    """

    def __init__(self, app: Any, limit: int) -> None:
        self._app, self._limit = app, limit
        self._names: dict[str, str | None] = {}
        self._found: dict[str, tuple[TaskRecord, ResultMeta]] = {}
        self._members: dict[str, list[str]] = {}
        self._sizes: dict[str, int] = {}
        self._before: dict[str, str] = {}
        self._parents: dict[str, str] = {}
        self._seen: set[str] = set()
        self._to_read: dict[str, None] = {}
        self._perhaps_groups: dict[str, None] = {}
        self._ends: dict[str, str] = {}
        self._asked_groups: set[str] = set()
        self._guessed: dict[str, tuple[str, int]] = {}
        self.complete = True

    # -- reading

    def explore(self, start: Any) -> None:
        """Find all relatives of a result or an id; each level is a batched read of records, and one of joins."""
        if isinstance(start, str):
            self._look(start)
            self._look_for_group(start, known=True)
            self._probe(start)
        else:
            self._note(start)
        while self._to_read or self._perhaps_groups:
            ids, self._to_read = list(self._to_read), {}
            groups, self._perhaps_groups = list(self._perhaps_groups), {}
            left = self._limit - len(self._found)
            if len(ids) > left:
                ids, self.complete = ids[: max(0, left)], False
            backend = self._app.backend
            joins = backend.read_joins(groups) if groups else {}
            records = backend.read([*ids, *map(saved_id, groups)])
            for join in joins.values():
                self._learn_join(join)
            for group_id in groups:
                if saved := records.get(saved_id(group_id)):
                    self._note(result_from_tuple(self._app.read_meta(saved).complete().result, self._app))
                elif group_id in self._asked_groups and group_id not in joins and group_id not in records:
                    self._guess(group_id, 0)
            for task_id in ids:
                if task_id in records:
                    self._learn(records[task_id])
                    if task_id in self._guessed:
                        self._learn_guess(task_id)

    def _look(self, task_id: str | None) -> None:
        if task_id and task_id not in self._seen:
            self._seen.add(task_id)
            self._to_read[task_id] = None

    def _look_for_group(self, group_id: str | None, known: bool = False) -> None:
        """Look for what is kept of a group; where it is ``known`` to be one, or asked for, for its members, too."""
        if group_id and known:
            self._asked_groups.add(group_id)
        if group_id and saved_id(group_id) not in self._seen:
            self._seen.add(saved_id(group_id))
            self._perhaps_groups[group_id] = None

    def _probe(self, last: str) -> None:
        """Look for the first step of a canvas whose last step may not have run: its id is derived."""
        first = plan.derived_id(last, "step/0")
        self._ends[first] = last
        self._look(first)
        self._look_for_group(first)

    def _guess(self, group_id: str, start: int) -> None:
        """Look for members of a group that nothing follows, by their places: a page, and another if all are there."""
        for index in range(start, start + _PAGE):
            leaf = plan.leaf_id(group_id, index)
            self._guessed[leaf] = group_id, index
            if leaf in self._found:
                self._learn_guess(leaf)
            self._look(leaf)

    def _learn_guess(self, leaf: str) -> None:
        group_id, index = self._guessed[leaf]
        members = self._members.setdefault(group_id, [])
        members.append(leaf)
        members.sort(key=lambda each: self._guessed[each][1])
        self._probe(leaf)
        if (index + 1) % _PAGE == 0:
            self._guess(group_id, index + 1)

    def _note(self, result: Any) -> None:
        """Take in a result, its members and what it says came before."""
        while result is not None:
            if hasattr(result, "results"):
                if not _is_in_line(result):
                    self._note_group(result.id, [each.id for each in _in_line(result)])
                    self._look_for_group(result.id)
                for each in result.results:
                    self._note(each)
            else:
                self._name(result.id, result.task_name)
                if result._final is not None:
                    self._found.setdefault(result.id, result._final)
                self._look(result.id)
            if result.parent is not None:
                for each in map(_first, _in_line(result)) if _is_in_line(result) else [result]:
                    self._before.setdefault(each.id, result.parent.id)
            result = result.parent

    def _note_group(self, group_id: str, members: list[str]) -> None:
        # Leaves come from joins; results that have groups in groups say more.
        if len(members) <= len(self._members.get(group_id, members)):
            self._members[group_id] = members

    def _name(self, task_id: str, name: str | None) -> None:
        self._names[task_id] = self._names.get(task_id) or name

    # -- what records and joins say

    def _learn(self, record: TaskRecord) -> None:
        record, meta = AsyncResult(record.id, app=self._app)._keep(record)
        self._found[record.id] = record, meta
        self._name(record.id, meta.name)
        if meta.header is not None:
            self._before[record.id] = meta.header
        if meta.parent_id is not None:
            self._parents.setdefault(record.id, meta.parent_id)
        for relative in (meta.parent_id, meta.header, _cause(record)):
            self._look(relative)
            self._look_for_group(relative)
        self._look(meta.root_id)
        self._look_for_group(meta.group_id, known=True)
        self._learn_ahead(record.id, meta.ahead or ())
        for child in meta.children or ():
            self._learn_child(record.id, result_from_tuple(child, self._app))
        if record.status == states.SUCCESS:
            for index in range(meta.links or 0):
                linked = plan.derived_id(record.id, f"link/{index}")
                self._name(linked, None)
                self._parents.setdefault(linked, record.id)
                self._look(linked)

    def _learn_ahead(self, before: str, steps: Iterable[Any]) -> None:
        for step_id, name, size in steps:
            self._before.setdefault(step_id, before)
            if name is None:
                self._sizes[step_id] = size
                self._look_for_group(step_id)
            else:
                self._name(step_id, name)
                self._look(step_id)
            before = step_id

    def _learn_child(self, task_id: str, child: Any) -> None:
        self._note(child)
        child = _first(child)
        for each in _in_line(child) if _is_in_line(child) else [child]:
            self._parents.setdefault(_first(each).id, task_id)

    def _learn_join(self, join: Join) -> None:
        body: Mapping[str, Any] = json_decode(join.body)
        own = {int(index): each for index, each in body.get("ids", {}).items()}
        leaves = plan.ids_of_header(plan.Header(join.id, join.size, own), 0, self._limit)
        self._note_group(join.id, leaves)
        self._sizes[join.id] = join.size
        self.complete = self.complete and len(leaves) == join.size
        for leaf in leaves:
            self._name(leaf, None)
            self._look(leaf)
            self._probe(leaf)
        if body.get("parent"):
            self._parents.setdefault(join.id, body["parent"])
            self._look(body["parent"])
        self._look(body.get("root"))
        place = member_of(body.get("place"))
        if place is not None:
            self._look_for_group(place.id)
        if not body["then"]:  # what a member added to its chord
            return
        result = self._app.result_of_steps(body["then"], None, place)
        self._note(result)
        first = _first(result)
        for each in _in_line(first) if _is_in_line(first) else [first]:
            self._before[each.id] = join.id

    # -- the tree

    def tree(self, asked: str) -> Workflow:
        """Return what was found as a tree."""
        groups = dict.fromkeys([*self._members, *self._sizes])
        if asked not in groups:
            self._name(asked, None)
        known = dict.fromkeys([*groups, *self._names, *self._found])
        self._tie_ends(known)
        heads, contained = self._heads(known)
        followers: dict[str, list[str]] = {}
        firsts = []
        for node_id in known:
            if node_id in contained:
                continue
            before = self._predecessor(node_id, known)
            if before is None:
                firsts.append(node_id)
            else:
                followers.setdefault(before, []).append(node_id)
        builder = _Builder(self._found, self._names, self._sizes, self._before, heads, followers)
        # Those that come before each other would be left out: each is a start as good as any.
        lines = [builder.line(first) for first in (*firsts, *known)]
        return Workflow(asked, tuple(line for line in lines if line), self.complete)

    def _tie_ends(self, known: Mapping[str, Any]) -> None:
        """Let the last step of a canvas follow the last that is known of those before it."""
        after = {before: each for each, before in self._before.items()}
        for first, last in self._ends.items():
            if first not in known or last not in known or last in self._before:
                continue
            tail, passed = first, {last}
            while tail in after and tail not in passed:
                passed.add(tail)
                tail = after[tail]
            if tail not in passed:
                self._before[last] = tail

    def _predecessor(self, node_id: str, known: Mapping[str, Any]) -> str | None:
        relatives = (self._before.get(node_id), self._parents.get(node_id))
        return next((each for each in relatives if each in known and each != node_id), None)

    def _heads(self, known: Mapping[str, Any]) -> tuple[dict[str, list[str]], dict[str, str]]:
        """Return the first steps of every group's members, and which group each of them is in.

        A join knows the last steps only, those of groups in the group in line with the others: small groups come first.
        """
        heads: dict[str, list[str]] = {}
        contained: dict[str, str] = {}
        for group_id in sorted(self._members, key=lambda each: len(self._members[each])):
            found: dict[str, None] = {}
            for member in self._members[group_id]:
                head = self._head(member, group_id, known)
                while contained.get(head, group_id) != group_id:
                    head = self._head(contained[head], group_id, known)
                found[head] = None
                contained[head] = group_id
            heads[group_id] = list(found)
        return heads, contained

    def _head(self, node_id: str, group_id: str, known: Mapping[str, Any]) -> str:
        """Return the first step of the chain in a group that a step belongs to."""
        ends = {group_id, self._before.get(group_id), self._parents.get(group_id)}
        passed = {node_id}
        while (before := self._before.get(node_id)) in known and before not in ends and before not in passed:
            assert before is not None
            node_id = before
            passed.add(node_id)
        return node_id


class _Builder:
    """Makes nodes, each once."""

    def __init__(
        self,
        found: Mapping[str, tuple[TaskRecord, ResultMeta]],
        names: Mapping[str, str | None],
        sizes: Mapping[str, int],
        before: Mapping[str, str],
        heads: Mapping[str, list[str]],
        followers: Mapping[str, list[str]],
    ) -> None:
        self._found, self._names, self._sizes, self._before = found, names, sizes, before
        self._heads, self._followers = heads, followers
        self._made: set[str] = set()

    def line(self, first: str) -> Line:
        """Return what follows one another from here on; empty if that was made before."""
        nodes = []
        node_id: str | None = first
        while node_id is not None and node_id not in self._made:
            self._made.add(node_id)
            following = [each for each in self._followers.get(node_id, ()) if each not in self._made]
            steps = [each for each in following if self._before.get(each) == node_id]
            ahead = steps[0] if len(steps) == 1 else following[0] if len(following) == 1 else None
            branches = self._lines(each for each in following if each != ahead)
            is_group = node_id in self._heads or node_id in self._sizes
            nodes.append(self._group(node_id, branches) if is_group else self._task(node_id, branches))
            node_id = ahead
        return tuple(nodes)

    def _lines(self, firsts: Iterable[str]) -> tuple[Line, ...]:
        return tuple(line for line in map(self.line, firsts) if line)

    def _task(self, task_id: str, branches: tuple[Line, ...]) -> Node:
        record, meta = self._found.get(task_id) or (TaskRecord(task_id, states.PENDING), ResultMeta())
        failed = record.final and record.status in states.EXCEPTION_STATES and meta.payload is None
        value = value_of(record, meta) if failed else None
        return Node(
            task_id, meta.name or self._names.get(task_id), record.status, record.final,
            error=value if isinstance(value, BaseException) else None, date_done=meta.date_done,
            repeats=_cause(record) is not None, branches=branches,
        )  # fmt: skip

    def _group(self, group_id: str, branches: tuple[Line, ...]) -> Node:
        members = self._lines(self._heads.get(group_id, ()))
        ends = [line[-1] for line in members]
        size = self._sizes.get(group_id, sum(1 if end.size is None else end.size for end in ends))
        finished = all(end.finished for end in ends) and bool(members or not size)
        return Node(group_id, None, _state_of(ends, finished), finished, size=size, members=members, branches=branches)


def _is_in_line(result: Any) -> bool:
    """Say whether a result is of a group in a group, whose members are in line with others: it has a member's id."""
    return hasattr(result, "results") and any(each.id == result.id for each in members_of(result))


def _in_line(group: Any) -> list[Any]:
    """Return a group's members with those of groups in line."""
    return [leaf for each in group.results for leaf in (_in_line(each) if _is_in_line(each) else [each])]


def _first(result: Any) -> Any:
    """Return the first of a result and what came before it."""
    while result.parent is not None:
        result = result.parent
    return result


def _state_of(ends: list[Node], finished: bool) -> str:
    """Return the state of a group by those of its members."""
    if any(end.finished and end.state != states.SUCCESS for end in ends):
        return states.FAILURE
    if finished:
        return states.SUCCESS
    return states.STARTED if any(end.state != states.PENDING for end in ends) else states.PENDING


def _cause(record: TaskRecord) -> str | None:
    """Return the id of the task or group because of whose failure a record was written."""
    return record.token.removeprefix(_AFTER) if record.token.startswith(_AFTER) else None


def read_workflow(app: Any, start: Any, limit: int) -> Workflow:
    """Find the workflow of a result or an id and return its state."""
    if start is None:
        raise ValueError("workflow() needs the id of a task or a group, or a result, not None")
    lineage = Lineage(app, limit)
    lineage.explore(start)
    return lineage.tree(start if isinstance(start, str) else start.id)
