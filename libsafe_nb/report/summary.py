"""What the record says, section by section. Each gives HTML; an empty one has nothing to tell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from libsafe_nb.execution import CAUSES
from libsafe_nb.report import calls
from libsafe_nb.report.cells import Places
from libsafe_nb.report.markup import (
    ROWS,
    bounded_table,
    clip,
    code,
    dash,
    duration,
    facts,
    measure,
    moment,
    note,
    short,
    size,
    tag,
    text,
)

Body = Mapping[str, Any]

_WORDS = {
    "completed": ("✓", "Completed"),
    "failed": ("✗", "Failed"),
    "errored": ("!", "Could not be executed"),
    "timeout": ("◷", "Ran out of time"),
    "cancelled": ("■", "Cancelled"),
}


def status_words(body: Body) -> str:
    return _WORDS.get(str(body.get("status")), ("?", str(body.get("status"))))[1]


def title_of(body: Body) -> str:
    function = body.get("function") or {}
    return str(function.get("title") or function.get("name") or function.get("key") or "A function")


def outcome(body: Body, places: Places) -> str:
    """The head of the page: which function, how it ended, and why."""
    function = body.get("function") or {}
    status = str(body.get("status"))
    mark = _WORDS.get(status, ("?", ""))[0]
    version = (
        tag("span", "version ", text(function["version"]), class_="version")
        if function.get("version")
        else ""
    )
    badge = tag(
        "span", tag("span", text(mark), aria_hidden="true"), " ", text(status_words(body)), class_="badge"
    )
    return tag(
        "header",
        tag("p", "LIBSAFE Go function · report of a run", class_="kicker"),
        tag("h1", text(title_of(body)), version),
        tag("p", text(function["description"]), class_="description") if function.get("description") else "",
        tag("div", badge, tag("p", _sentence(body, places)), class_="verdict"),
        _raised(body),
        _glance(body),
        class_=f"outcome {status if status in _WORDS else 'errored'}",
    )


def _sentence(body: Body, places: Places) -> str:
    """How the run ended, in one sentence."""
    error = body.get("error") or {}
    where = error.get("cell_id")
    if body.get("status") == "completed":
        told = "it reported success" if body.get("job_result") else "it did not report a result of its own"
        return text(f"The function ran to its end; {told}.")
    if where:
        return f"It ended in {places.link(where)}: {text(_why(body))}."
    if body.get("status") == "failed" and body.get("job_result") is False:
        return "The notebook ran to its end, and the function itself reported failure."
    return text(f"{_why(body)[:1].upper()}{_why(body)[1:]}.")


def _why(body: Body) -> str:
    cause = str(body.get("cause") or "")
    return CAUSES.get(cause, cause or "no cause is recorded").replace("`", "")


def _raised(body: Body) -> str:
    error = body.get("error") or {}
    if not error:
        return ""
    message = str(error.get("message") or "")
    shown = clip(message, 2000)
    return tag("pre", tag("strong", text(error.get("type", "Error"))), ": ", text(shown), class_="raised")


def _glance(body: Body) -> str:
    """When, how long, where: the line under the outcome."""
    files = body.get("files") or ()
    counts = {
        word: sum(each.get("outcome") == word for each in files) for word in ("success", "failure", "skipped")
    }
    per_file = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
    return facts(
        [
            ("Started", moment(body.get("started"))),
            ("Ended", moment(body.get("ended")) or "not known"),
            ("Took", _took(body)),
            ("Container", text((body.get("container") or {}).get("id", "–"))),
            ("Job", text((body.get("job") or {}).get("id", "–"))),
            ("Files", text(per_file)),
        ]
    )


def _took(body: Body) -> str | None:
    if not body.get("started") or not body.get("ended"):
        return None
    began, ended = (datetime.fromisoformat(str(body[name])) for name in ("started", "ended"))
    return text(duration((ended - began).total_seconds()))


def about(body: Body) -> str:
    """The function, who asked for it, and what identifies the run."""
    function = body.get("function") or {}
    agent = body.get("agent") or {}
    trigger = body.get("trigger") or {}
    recovered = body.get("recovered") or {}
    again = f"{recovered.get('reason', '')} · recovered {str(recovered.get('at', ''))[:19]} on {recovered.get('host', '')}"
    return facts(
        [
            ("Author", text(function.get("author") or "")),
            ("Licence of the function", text(function.get("license") or "")),
            ("What it does to a file (PREMIS)", text(", ".join(function.get("effects") or ()))),
            ("Executed code", text(_same_code(function))),
            ("Asked for by", text(f"user {(agent.get('user') or {}).get('id')}" if agent else "")),
            ("Under", text(body.get("right") or "")),
            ("Trigger", text(_trigger(trigger))),
            ("Recovered", text(again if recovered else "")),
            ("Clock", text(body.get("clock") or "")),
            ("Licence of this record", text(body.get("license") or "")),
            ("Function key", code(function.get("key"))),
            ("Notebook", code(function.get("name"))),
            ("SHA-256 of the notebook", code(function.get("notebook_sha256"))),
            ("SHA-256 of its code", code(function.get("code_sha256"))),
            ("Run", code(body.get("id"))),
            ("Again, of", code(body.get("replay_of"))),
            ("Called by", text(_caller(body.get("parent") or {}))),
            ("Read what these runs wrote", calls.used(body)),
        ]
    )


def _caller(parent: Mapping[str, Any]) -> str:
    told = (("function", "function"), ("job", "job"), ("run", "run"))
    return " · ".join(f"{word} {parent[name]}" for name, word in told if parent.get(name))


def _trigger(trigger: Mapping[str, Any]) -> str:
    kind, number = trigger.get("type"), str(trigger.get("id") or "0")
    return f"{kind or 'trigger'} {number}" if kind or number != "0" else ""


def _same_code(function: Mapping[str, Any]) -> str:
    executed = function.get("executed_code_sha256")
    if not executed:
        return ""
    if executed == function.get("code_sha256"):
        return "✓ the same as the author's"
    count = len(function.get("substitutions") or ())
    return f"≠ not the author's: {executed}" + (
        f" ({count} substitutions, listed in record.json)" if count else ""
    )


def parameters(body: Body, node: Mapping[str, Any] | None) -> str:
    """What the function was called with: the platform's parameters, and those that became variables of the notebook."""
    payload = body.get("payload") or {}
    given = payload.get("function_params") or {}
    typed = ((node or {}).get("metadata", {}).get("papermill") or {}).get("parameters") or {}
    names = sorted({*given, *typed} - {"json_sample"})
    rows = [(code(name) or dash(), _value(given, name), _value(typed, name)) for name in names]
    shown = (
        bounded_table(["Name", "Given", "In the notebook"], rows)
        if rows
        else note("It was called without any.")
    )
    keys = ", ".join(
        f"{each.get('name')} (by way of the {each.get('via')})" for each in body.get("secrets") or ()
    )
    told = tag("p", "Keys it had, whose values are stored nowhere: ", text(keys), ".") if keys else ""
    whole = json.dumps(payload, ensure_ascii=False, indent=2, sort_keys=True)
    more = (
        tag("details", tag("summary", "The whole call"), tag("pre", text(clip(whole, 50_000))))
        if payload
        else ""
    )
    return shown + told + more


def _value(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return dash()
    told = json.dumps(values[name], ensure_ascii=False, sort_keys=True)
    return tag("code", text(clip(told, 2000)))


def files(body: Body) -> str:
    """Each file the run was given or touched, and what it wrote."""
    outcomes = {str(each.get("id")): each for each in body.get("files") or ()}
    read = {str(each.get("id")): each for each in body.get("inputs") or ()}
    changes = _changes(body)
    every = list(dict.fromkeys([*read, *outcomes]))
    rows = (_file(read.get(each, {}), outcomes.get(each, {}), changes.get(each, [])) for each in every)
    heads = ["File", "Outcome", "Read", "Size", "SHA-256", "Version", "Set on the platform"]
    shown = (
        bounded_table(heads, rows, len(every)) if every else note("It was given no files and touched none.")
    )
    return shown + _written(body)


def _file(read: Mapping[str, Any], outcome: Mapping[str, Any], changes: Sequence[str]) -> tuple[str, ...]:
    path = read.get("path") or outcome.get("path") or "?"
    number = read.get("id") or outcome.get("id")
    word = str(outcome.get("outcome") or "")
    details = clip("; ".join(str(each) for each in outcome.get("detail") or ()), 500)
    return (
        tag("span", text(path), class_="path") + tag("span", f"file {text(number)}", class_="id"),
        (pill(word) if word else dash()) + (tag("div", text(details), class_="detail") if details else ""),
        pill(str(read.get("read") or "none")),
        size(read.get("size")),
        short(read.get("sha256")),
        short(read.get("version_id"), 10),
        "<br>".join(changes) or dash(),
    )


def _changes(body: Body) -> dict[str, list[str]]:
    """By file: hashes, metadata, tags and deletions."""
    found: dict[str, list[str]] = {}
    for each in body.get("platform_writes") or ():
        kind = each.get("kind")
        if kind == "hash":
            told = f"{text(each.get('algorithm'))} {short(each.get('value'), 10)}"
        elif kind == "metadata":
            told = "metadata " + text(", ".join(map(str, each.get("iecodes") or ())))
        elif kind == "tag":
            told = text(f"tag {each.get('tag')} ({each.get('action')})")
        else:
            told = text(each.get("action") or kind)
        target = each.get("file_id") or (each.get("id") if each.get("target") == "file" else None)
        found.setdefault(str(target), []).append(told)
    return found


def _written(body: Body) -> str:
    outputs = body.get("outputs") or ()
    rows = (
        (
            tag("span", text(each.get("path")), class_="path"),
            size(each.get("size")),
            short(each.get("sha256")),
            short(each.get("version_id"), 10),
            text(each.get("format") or "") or dash(),
        )
        for each in outputs
    )
    heads = ["Written to the container", "Size", "SHA-256", "Version", "Format"]
    return bounded_table(heads, rows, len(outputs)) if outputs else ""


def pill(word: str) -> str:
    marks = {
        "success": "✓",
        "failure": "✗",
        "skipped": "–",
        "ERROR": "✗",
        "WARN": "!",
        "full": "●",
        "partial": "◐",
    }
    return tag(
        "span",
        text(f"{marks.get(word, '○')} {word}"),
        class_=f"pill p-{word.lower()}" if word.isalpha() else "pill",
    )


def said(messages: Sequence[Mapping[str, Any]], body: Body) -> str:
    """What the function told the job, in order."""
    if not messages:
        return ""
    paths = {str(each.get("id")): each.get("path") for each in body.get("inputs") or ()}
    rows = (
        (
            tag("time", text(str(each.get("at"))[11:23]), datetime=each.get("at"), title=each.get("at")),
            pill(str(each.get("type"))),
            text(paths.get(str(each.get("file_id"))) or each.get("file_id") or "") or dash(),
            tag("span", text(clip(str(each.get("message")), 2000)), class_="message"),
        )
        for each in messages
    )
    return bounded_table(["UTC", "Kind", "File", "Message"], rows, len(messages))


def surroundings(body: Body, environment: Mapping[str, Any] | None) -> str:
    """Python, the platform, and each installed package."""
    env = body.get("env") or {}
    if not env and not environment:
        return ""
    kernel = env.get("kernel") or {}
    runner = (body.get("agent") or {}).get("runner") or {}
    library = body.get("library") or {}
    variables = "\n".join(f"{name}={value}" for name, value in sorted((body.get("env_vars") or {}).items()))
    listed = facts(
        [
            ("Python", text(env.get("python") or "")),
            ("Platform", text(env.get("platform") or "")),
            (
                "Kernel",
                text(
                    " · ".join(str(kernel[name]) for name in ("name", "implementation") if kernel.get(name))
                ),
            ),
            ("Library", text(f"{library.get('library') or ''} {library.get('version') or ''}".strip())),
            ("Run by", text(", ".join(f"{name} {version}" for name, version in sorted(runner.items())))),
            (
                "Told by",
                text({"kernel": "the kernel itself"}.get(str(env.get("taken")), str(env.get("taken") or ""))),
            ),
            ("Variables", tag("code", text(variables), class_="lines") if variables else None),
            ("Image", code(env.get("image_digest"))),
            ("Digest", code(env.get("digest"))),
        ]
    )
    return listed + _packages((environment or {}).get("packages") or ())


def _packages(packages: Sequence[Mapping[str, Any]]) -> str:
    if not packages:
        return ""
    rows = "".join(
        tag("li", text(each.get("name")), " ", tag("span", text(each.get("version"))))
        for each in packages[:5000]
    )
    return tag("details", tag("summary", f"{len(packages):,} packages"), tag("ul", rows, class_="packages"))


def gaps(body: Body, places: Places) -> str:
    """What is not in the evidence, and why: taken out, cut, or never seen."""
    return "".join(
        tag("h3", heading) + tag("ul", *(tag("li", each) for each in items))
        for heading, items in (
            ("Keys that were replaced", list(_redactions(body, places))),
            ("Left out because it could not be searched for keys", list(_left_out(body, places))),
            ("Cut because it was too long", list(_truncated(body, places))),
            ("Never captured", [text(each) for each in body.get("not_captured") or ()]),
        )
        if items
    )


def _redactions(body: Body, places: Places) -> Iterator[str]:
    for each in (body.get("redactions") or ())[:ROWS]:
        where = f"{places.link(each['cell'])}, " if each.get("cell") else ""
        told = f"{each.get('where')}: {each.get('name')} as {each.get('form')}, {each.get('count')} times ({each.get('by')})"
        yield where + text(told)


def _left_out(body: Body, places: Places) -> Iterator[str]:
    for each in ((body.get("scan") or {}).get("left_out") or ())[:ROWS]:
        where = f"{places.link(each['cell'])}, " if each.get("cell") else ""
        yield where + text(f"{each.get('where')}: {each.get('reason')}")


def _truncated(body: Body, places: Places) -> Iterator[str]:
    for each in (body.get("truncated") or ())[:ROWS]:
        kept, gone = each.get("kept"), each.get("cut")
        if isinstance(kept, int) and isinstance(gone, int):
            told = f"{measure(kept)} of its outputs kept, {measure(gone)} cut"
        else:
            told = clip(json.dumps(each, ensure_ascii=False, sort_keys=True), 500)
        yield f"{places.link(each.get('cell_id'))}: {text(told)}"


def checking(body: Body) -> str:
    """How anybody can see that nothing was changed, without this program."""
    notebook = body.get("notebook") or {}
    rows = [
        ("SHA-256 of executed.ipynb", code(notebook.get("sha256"))),
        ("SHA-256 of messages.jsonl", code(body.get("messages_sha256"))),
        ("SHA-256 of environment.json", code((body.get("env") or {}).get("packages_sha256"))),
    ]
    return (
        tag("p", "In the folder of this page, on any computer with the usual tools:")
        + tag("pre", "sha256sum -c SHA256SUMS", class_="command")
        + tag(
            "p",
            "record.json is the record; this page was made from it and from what it names, and adds nothing.",
        )
        + facts(rows)
        + tag(
            "p",
            "The record is itself a link of the chain in ",
            tag("code", "provenance/chain/"),
            " of its container; ",
            tag("code", "libsafe-nb verify"),
            " follows it.",
        )
    )
