"""Another model as a judge, through an API as OpenAI's (`POST BASE/chat/completions`).

What it is asked is written here, in this project's own words. It sees two answers to a question, and gives each a score.
"""

import contextlib
import email.utils
import http.client
import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from minima.errors import NotReadyError, UsageError

TRIES = 8
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds after the first failure, doubled with each, and the most; a server that says how long to wait is heard."""
TIMEOUT = 120.0
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""Codes of HTTP after which the same request may work."""
_MOST_BYTES = 1 << 23
"""Of an answer."""
_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_PART = re.compile(
    r"(?:assistant|answer|response|model|助手|回答|模型)[\s_#]*(?P<whose>[12AB一二])(?![0-9A-Za-z.])"
    r"|^\s*(?P<item>[12])[.):：]\s"
    r"|(?P<scale>(?:/|out of)\s*10(?![\d.]))"
    r"|(?P<number>(?<!\d)-?\d+(?:\.\d+)*)"
    r"|(?P<word>[^\W\d_]+)",
    re.IGNORECASE,
)
_OF_SCORES = re.compile(
    "scores?|s|ratings?|points?|assistant|answer|response|model|and|for|is|vs|[分得评数助手回答模型和为的是打给]+",
    re.IGNORECASE,
)
"""Words that may stand before two scores; any other may say something else of the numbers."""
SYSTEM = (
    "You judge how well two assistants answered a user. Look at whether each answer is right, helpful, relevant and detailed "
    "enough, in the language of the question. Neither the order of the answers nor their length may sway you."
)
ASKED = (
    "Question:\n{question}\n\nAnswer of assistant 1:\n{first}\n\nAnswer of assistant 2:\n{second}\n\n"
    "Write on the first line two numbers only, the score of assistant 1 and the score of assistant 2, each from 1 to 10, with "
    "a blank between. Then say why."
)


class RefusedError(Exception):
    """The judge will not answer this request, whatever is done."""


@dataclass
class Judge:
    """A model behind an API.

    Attributes:
        base_url: what `/chat/completions` is appended to, such as https://api.openai.com/v1.
        model: its name there.
        key_variable: the environment variable that holds the key; empty for an API without one.
        wait: waits for some seconds.
        settings: what else a request says.
        requests, prompt_tokens, answer_tokens: what was used, as the server counts.
    """

    base_url: str
    model: str
    key_variable: str
    wait: Callable[[float], None] = time.sleep
    settings: dict[str, Any] = field(default_factory=lambda: {"temperature": 0})
    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def check(self) -> None:
        """Ask for one word, so that a wrong address, name or key is known before anything else is done.

        Raises:
            UsageError: one of them is wrong.
            NotReadyError: the API does not answer.
        """
        if self.key_variable and not self._key():
            raise UsageError(
                f"--judge_key_variable: {self.key_variable} is not set; in a pipeline set it from a Secret "
                f"(env: {{{self.key_variable}: {{secret: NAME, key: KEY}}}}); an API without a key needs an empty name"
            )
        if not re.fullmatch(r"[!-~]*", self._key()):
            # Not shown, nor by an error of the library that it is given to.
            raise UsageError(f"--judge_key_variable: {self.key_variable} holds a blank or another character that no key has")
        try:
            self.ask([{"role": "user", "content": "Say yes."}])
        except RefusedError as error:
            if "temperature" not in str(error):
                raise UsageError(f"--judge_model: {self.base_url} refuses {self.model!r}: {error}") from None
            self.settings = {}  # Some models decide it themselves.
            try:
                self.ask([{"role": "user", "content": "Say yes."}])
            except RefusedError as again:
                raise UsageError(f"--judge_model: {self.base_url} refuses {self.model!r}: {again}") from None

    def scores(self, question: str, first: str, second: str) -> tuple[float, float, str]:
        """The scores of two answers, 1 to 10, and all that the judge said.

        Raises:
            RefusedError: it will not judge these, or says no scores however often it is asked.
            UsageError, NotReadyError: as `check`.
        """
        said = ""
        for _ in range(3):
            said = self.ask(messages(question, first, second))
            if found := scores_in(said):
                return *found, said
        raise RefusedError(f"no two scores in what it says: {said[:200]!r}")

    def ask(self, asked: list[dict[str, str]]) -> str:
        """What the judge says.

        Raises:
            RefusedError: the request is refused.
            UsageError: the key is refused, or there is no such address.
            NotReadyError: it failed for reasons that may pass, TRIES times.
        """
        body = json.dumps({"model": self.model, "messages": asked, **self.settings}).encode()
        wait, why = FIRST_WAIT, ""
        for attempt in range(TRIES):
            if attempt:
                self.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            try:
                return self._answer(body)
            except urllib.error.HTTPError as error:
                why = self._without_key(f"{error.code} {_message(error)}")
                if 300 <= error.code < 400:
                    there = error.headers.get("Location")
                    raise UsageError(
                        f"--judge_base_url: {self.base_url} has moved to {there}; the key is not sent on"
                    ) from None
                if error.code in {401, 403}:
                    raise UsageError(f"--judge_key_variable: {self.base_url} refuses the key: {why}") from None
                if error.code == 404:
                    hint = "" if re.search(r"/v\d", self.base_url) else "; most such addresses end in /v1"
                    raise UsageError(
                        f"--judge_base_url: {self.base_url} has no such thing, or no {self.model!r}: {why}{hint}"
                    ) from None
                if error.code not in _PASSING:
                    raise RefusedError(why) from None
                wait = max(wait, min(_asked_to_wait(error.headers), LONGEST_WAIT))
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError) as error:
                # No connection, a time-out, an answer that ends too early, or that is not what it should be.
                why = self._without_key(f"{type(error).__name__}: {error}")
        raise NotReadyError(
            f"--judge_base_url: {self.base_url} failed {TRIES} times ({why}); run again, what it judged is kept"
        )

    def used(self) -> tuple[int, int, int]:
        """Requests, tokens read and tokens written."""
        return self.requests, self.prompt_tokens, self.answer_tokens

    def add(self, requests: int, prompt_tokens: int, answer_tokens: int) -> None:
        """Count what was used."""
        with self._lock:
            self.requests += requests
            self.prompt_tokens += prompt_tokens
            self.answer_tokens += answer_tokens

    def _key(self) -> str:
        return os.environ.get(self.key_variable, "").strip()  # Many a Secret ends in a line break.

    def _without_key(self, text: str) -> str:
        key = self.key_variable and self._key()
        return text.replace(key, "***") if key else text

    def _answer(self, body: bytes) -> str:
        headers = {"Content-Type": "application/json"}
        if self.key_variable:
            headers["Authorization"] = f"Bearer {self._key()}"
        parts = urlsplit(self.base_url)
        path = parts.path.rstrip("/").removesuffix("/chat/completions")
        request = urllib.request.Request(urlunsplit(parts._replace(path=f"{path}/chat/completions")), body, headers)
        with urllib.request.build_opener(_Here).open(request, timeout=TIMEOUT) as reply:
            found = json.loads(_read(reply))
        if "choices" not in found and "error" in found:
            raise ValueError(_stated(found["error"]))
        choice = found["choices"][0]
        said = choice["message"].get("content")
        used = found.get("usage")
        self.add(1, *(_count(used, name) for name in ("prompt_tokens", "completion_tokens")))
        if isinstance(said, list):  # Parts, as some servers have them.
            said = "".join(part["text"] for part in said if part.get("type") == "text")
        if refused := choice["message"].get("refusal"):
            raise RefusedError(f"it says: {refused}")
        if not said and choice.get("finish_reason") in {"content_filter", "length"}:
            raise RefusedError(f"it says nothing (finish_reason {choice['finish_reason']})")
        if not isinstance(said, str):
            raise TypeError(f"'content' is a {type(said).__name__}")
        return said


class _Here(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: the key would go along, and the question would not."""

    def redirect_request(self, *_: Any) -> None:
        """None: the code becomes an error."""


def _read(reply: Any) -> bytes:
    """All of an answer, which may come in small pieces: each in time is not enough."""
    end, found = time.monotonic() + TIMEOUT, b""
    while part := reply.read1(1 << 16):
        found += part
        if time.monotonic() > end or len(found) > _MOST_BYTES:
            raise TimeoutError(f"its answer has no end after {len(found)} bytes")
    return found


def _count(used: Any, name: str) -> int:
    value = used.get(name) if isinstance(used, dict) else 0
    return value if isinstance(value, int) else 0


def messages(question: str, first: str, second: str) -> list[dict[str, str]]:
    """What the judge is asked of two answers."""
    content = ASKED.format(question=question, first=first, second=second)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def scores_in(said: str) -> tuple[float, float] | None:
    """The two scores that a text begins with, alone or by whose they are, as in “Assistant 1: 8/10”.

    None where there are not two from 1 to 10, or where the numbers may be something else.
    """
    scores: list[float] = []
    whose: list[str] = []
    for line in _THOUGHT.sub("", said).strip().splitlines():
        for part in _PART.finditer(line):
            if part["number"]:
                if len(scores) == 2 or part["number"].count(".") > 1:
                    return None
                scores.append(float(part["number"]))
            elif len(scores) < 2 and (of := part["whose"] or part["item"]):
                whose.append("12"["12ab一二".index(of.lower()) % 2])
            elif len(scores) < 2 and part["word"] and not _OF_SCORES.fullmatch(part["word"]):
                return None
        if len(scores) == 2 or (scores and not whose):
            break
    if len(scores) != 2 or not all(1 <= score <= 10 for score in scores):
        return None
    first, second = scores
    if not whose or whose == ["1", "2"]:
        return first, second
    return (second, first) if whose == ["2", "1"] else None


def _message(error: urllib.error.HTTPError) -> str:
    """What the server says of an error, in a line."""
    try:
        text = error.read(2000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return error.reason
    with contextlib.suppress(ValueError, LookupError, TypeError):
        text = _stated(json.loads(text)["error"])
    return " ".join(text.split())[:300] or error.reason


def _stated(error: Any) -> str:
    """What an `error` of an answer says: a text, or an object with one."""
    return str(error["message"] if isinstance(error, Mapping) else error)


def _asked_to_wait(headers: Any) -> float:
    """Seconds of a `Retry-After`, which may be a date; 0 without one."""
    value = str(headers.get("Retry-After") or "")
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
