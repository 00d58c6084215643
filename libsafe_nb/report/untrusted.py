"""
HTML and markdown of the notebook's author, or of whoever wrote the data that the author shows.

The wall is nh3 (the Ammonia sanitiser): a list of elements, attributes and style properties that may stay. Behind it
stands the page's content security policy, under which no script runs and nothing is loaded. What stays can neither
look like the report itself (no class, no id) nor lie above it (no positions, no margins).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any


def _words(listed: str) -> set[str]:
    return set(listed.split())


TAGS = _words(
    "a abbr b bdi bdo blockquote br caption cite code col colgroup dd del details dfn div dl dt em "
    "figcaption figure h1 h2 h3 h4 h5 h6 hr i img ins kbd li mark ol p pre q rp rt ruby s samp small "
    "span strong sub summary sup table tbody td tfoot th thead time tr tt u ul var"
)
GONE = _words(
    "script style template noscript noembed noframes iframe frame frameset object applet svg math head "
    "title canvas audio video textarea select xmp"
)
"""Elements whose content goes with them."""
ATTRIBUTES = {
    "*": {"dir", "lang", "title", "style", "align", "valign"},
    "a": {"href"},
    "col": {"span"},
    "details": {"open"},
    "img": {"src", "alt", "width", "height"},
    "ol": {"start"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan", "scope"},
}
STYLES = _words(
    "background-color border border-bottom border-collapse border-left border-right border-top color "
    "font-family font-style font-weight text-align text-decoration vertical-align white-space width"
)
_IMAGE = re.compile(r"data:image/(?:png|jpeg|gif|webp|svg\+xml)[;,]", re.IGNORECASE)
_ACTIVE = re.compile(
    r"<(script|iframe|svg|math|object|embed|form|video|audio|canvas|frameset)\b", re.IGNORECASE
)
_DEPTH = 400
"""Browsers stop nesting at 512, and a tree's cost grows with the square of its depth."""
_ELEMENT = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")
_FLAT = _words(
    "area base br col embed hr img input link meta param source track wbr p li dt dd tr td th tbody "
    "thead tfoot colgroup option rp rt"
)
"""Elements that hold nothing, or whose end tag may be left out: a list of a thousand open `<li>` is not deep."""


def sanitised(raw: str) -> tuple[str, list[str]]:
    """HTML that can do nothing but be read, and the names of the kinds of things that were taken out of it."""
    import nh3

    left = {found.lower() for found in _ACTIVE.findall(raw)}
    if _too_deep(raw):
        return "", [*sorted(left), "elements nested too deeply"]

    def allowed(element: str, attribute: str, value: str) -> str | None:
        image = _IMAGE.match(value.lstrip())
        if attribute == "src" and not image:
            left.add("outside image")
            return None
        return None if attribute == "href" and value.lstrip().lower().startswith("data:") else value

    clean = nh3.clean(
        raw,
        tags=TAGS,
        clean_content_tags=GONE,
        attributes=ATTRIBUTES,
        attribute_filter=allowed,
        url_schemes={"http", "https", "mailto", "data"},
        link_rel="noopener noreferrer nofollow",
        filter_style_properties=STYLES,
    )
    return clean, sorted(left)


def empty(clean: str) -> bool:
    """Whether sanitised HTML shows nothing."""
    return "<img src" not in clean and not re.sub(r"<[^>]*>", "", clean).strip()


def markdown(source: str, attachments: Mapping[str, Any]) -> tuple[str, list[str]]:
    """A markdown cell as HTML, sanitised; headings begin below the report's own, attachments become data URLs."""
    tokens = _parser().parse(source)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
        for child in token.children or ():
            if child.type == "image":
                child.attrs["src"] = _attached(str(child.attrs.get("src")), attachments)
    rendered = _parser().renderer.render(tokens, _parser().options, {})
    return sanitised(str(rendered))


@functools.cache
def _parser() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def _attached(source: str, attachments: Mapping[str, Any]) -> str:
    bundle = attachments.get(source.removeprefix("attachment:")) if source.startswith("attachment:") else None
    for kind, data in (bundle or {}).items():
        if kind.startswith("image/"):
            return f"data:{kind};base64,{''.join(data)}"
    return source


def _too_deep(raw: str) -> bool:
    """Whether elements are nested beyond what a browser shows, estimated from the tags as they are written."""
    depth = 0
    for end, name in _ELEMENT.findall(raw):
        if name.lower() not in _FLAT:
            depth = max(0, depth + (-1 if end else 1))
            if depth > _DEPTH:
                return True
    return False
