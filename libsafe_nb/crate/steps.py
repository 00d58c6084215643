"""
The functions that a run called, as the steps of a workflow (Provenance Run Crate 0.5).

    executed.ipynb ── step ──▶ HowToStep, one a call ── workExample ──▶ SoftwareApplication (the function), a part of the workflow
    OrganizeAction (by libsafe-nb) ── object ──▶ ControlAction, one a call ── object ──▶ CreateAction (the called run)

A called run has for objects what it was given and read, and for results what it wrote and its evidence; the first files of
each, as its caller's record has them. What has no run (refused, still queued) is in the record alone, and so is what a replay
did not start. A call for which an earlier run was reused has that run for its object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from libsafe_nb import record
from libsafe_nb.crate.entities import Entity, Graph, evidence, file, named
from libsafe_nb.crate.profile import STATUS
from libsafe_nb.crate.words import as_json, as_moment, as_text
from libsafe_nb.record import entries, section


class Steps:
    """
    The calls of one record, put into `graph`.

    Attributes
    ----------
    steps, tools
        References for the workflow's `step` and `hasPart`.
    actions
        The called runs and what controlled them, each to be mentioned by the root.
    """

    def __init__(self, graph: Graph, body: Mapping[str, Any], agent: Entity) -> None:
        self.graph, self.record, self.agent = graph, body, agent
        self.steps: list[Entity] = []
        self.tools: list[Entity] = []
        self.actions: list[Entity] = []
        self._controls: list[Entity] = []
        for position, each in enumerate(entries(body, "calls"), 1):
            if each.get("run") and not each.get("stubbed"):
                self._add(each, as_text(each.get("number") or position))

    def organized(self, run: Entity, engine: Entity) -> list[Entity]:
        """What organized the called runs for the workflow's own; nothing where none was called."""
        if not self._controls:
            return []
        return [
            self.graph.add(
                record.urn(self.record.get("id"), "organize"),
                "OrganizeAction",
                name="Carrying out of the calls",
                description="The runner had the platform run what the function called, and recorded it.",
                startTime=as_moment(self.record.get("started")),
                endTime=as_moment(self.record.get("ended")),
                agent=self.agent,
                instrument=engine,
                object=self._controls,
                result=run,
            )
        ]

    def _add(self, call: Mapping[str, Any], number: str) -> None:
        name, tool = record.name_of(as_text(call.get("function"))), self._tool(call)
        if tool not in self.tools:
            self.tools.append(tool)
        step = self.graph.add(
            f"#step-{quote(number, safe='')}",
            "HowToStep",
            name=f"Call {number}: {name}",
            position=number,
            workExample=tool,
        )
        self.steps.append(step)
        action = self._action(call, number, tool)
        error = _error(call)
        control = self.graph.add(
            record.urn(self.record.get("id"), "control", number),
            "ControlAction",
            name=f"Call {number}: {name}",
            description="An earlier run of the same was reused."
            if call.get("reused")
            else "The function was called.",
            startTime=None if call.get("reused") else as_moment(call.get("started")),
            endTime=None if call.get("reused") else as_moment(call.get("ended")),
            agent=self.agent,
            instrument=step,
            object=action,
            actionStatus=STATUS[error is None],
            error=error,
        )
        self._controls.append(control)
        self.actions += [action, control]

    def _tool(self, call: Mapping[str, Any]) -> Entity:
        key, version = as_text(call.get("function")), as_text(call.get("version"))
        return self.graph.add(
            f"#function-{quote(f'{key}-{version}', safe='')}",
            "SoftwareApplication",
            name=record.name_of(key),
            identifier=key,
            description="A published function that was called.",
            url=named(as_text(call.get("sha256"))),
            version=version or "unknown",
        )

    def _action(self, call: Mapping[str, Any], number: str, tool: Entity) -> Entity:
        """The called run, as its own evidence tells it."""
        found = evidence(self.graph, as_text(call.get("evidence")))
        status, error = as_text(call.get("status")), _error(call)
        how = (
            f"reused by this run in place of a new one: {status}"
            if call.get("reused")
            else f"which this run called: {status}"
        )
        results = [
            *([found] if found else []),
            *self._files(call, "outputs", "A file that a called function wrote."),
        ]
        return self.graph.add(
            record.urn(call["run"]),
            "CreateAction" if results else "ActivateAction",
            name=f"Run of {as_text(call.get('function'))}",
            description=f"Job {as_text(call.get('job'))}, {how}.",
            startTime=as_moment(call.get("started")),
            endTime=as_moment(call.get("ended")),
            actionStatus=STATUS[error is None],
            error=error,
            agent=self.agent,
            instrument=tool,
            object=[
                *self._files(call, "inputs", "A file that a called function read."),
                *self._values(call, number),
            ],
            result=results,
        )

    def _files(self, call: Mapping[str, Any], name: str, description: str) -> list[Entity]:
        home = as_text(call.get("container"))
        return [file(self.graph, each, home, description) for each in entries(call, name)]

    def _values(self, call: Mapping[str, Any], number: str) -> list[Entity]:
        """Its parameters, without keys."""
        return [
            self.graph.add(
                f"#step-{quote(f'{number}-{name}', safe='')}",
                "PropertyValue",
                name=name,
                value=value if isinstance(value, (str, int, float)) else as_json(value),
            )
            for name, value in section(call, "params").items()
        ]


def _error(call: Mapping[str, Any]) -> str | None:
    """Why a call is no success, never empty; None of one that is."""
    status = as_text(call.get("status"))
    if status == "completed":
        return None
    return as_text(section(call, "error").get("message")) or f"It was {status}."
