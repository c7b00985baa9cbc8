"""A page taken apart, for tests of what is on it."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """A page's references, its ids, the cells of its tables, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == [], "unclosed elements"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "srcset", "data"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._open and {"td", "th"} & set(self._open) and self.rows:
            self.rows[-1][-1] += data


def check_self_contained(text: str) -> None:
    """Nothing on a page refers to anything outside it, and no id comes twice."""
    page = Page(text)
    inside = [r for r in page.references if r.startswith("#")]
    assert {reference[1:] for reference in inside} <= set(page.ids)
    others = [r for r in page.references if not r.startswith("#")]
    assert all(r.startswith("data:image/jpeg;base64,") for r in others)
    assert len(page.ids) == len(set(page.ids))
    for outside in ("http://", "https://", "@import", "<script", "<link"):
        assert outside not in text
    assert all(part.startswith("#") for part in text.split("url(")[1:])
