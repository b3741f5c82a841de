"""HTML pages under test: what they load and say."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Checker(HTMLParser):
    """Checks that tags are closed in order; records the text and what is loaded from where."""

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "src" or (name.endswith("href") and tag not in ("a", "use")):
                self.loaded.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(page):
    """Parse a page; return its checker and its text."""
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker, " ".join(" ".join(checker.words).split())
