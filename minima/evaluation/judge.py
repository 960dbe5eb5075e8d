"""Another model as a judge, through an API as OpenAI's (`POST BASE/chat/completions`).

What it is asked is written here, in this project's own words. It sees two answers to a question, and gives each a score.
"""

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

from minima.errors import NotReadyError, UsageError

TRIES = 8
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds after the first failure, doubled with each, and the most; a server that says how long to wait is heard."""
TIMEOUT = 120.0
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""Codes of HTTP after which the same request may work."""
_SCORES = re.compile(r"^\D*(\d+(?:\.\d+)?)[^\d.]+(\d+(?:\.\d+)?)")
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
        if self.key_variable and not os.environ.get(self.key_variable):
            raise UsageError(
                f"--judge_key_variable: {self.key_variable} is not set; in a pipeline set it from a Secret "
                f"(env: {{{self.key_variable}: {{secret: NAME, key: KEY}}}}); an API without a key needs an empty name"
            )
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
                why = f"{error.code} {_message(error)}"
                if error.code in {401, 403}:
                    raise UsageError(f"--judge_key_variable: {self.base_url} refuses the key: {why}") from None
                if error.code == 404:
                    raise UsageError(
                        f"--judge_base_url: {self.base_url} has no such thing, or no {self.model!r}: {why}"
                    ) from None
                if error.code not in _PASSING:
                    raise RefusedError(why) from None
                wait = max(wait, min(_asked_to_wait(error.headers), LONGEST_WAIT))
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
                # No connection, a time-out, an answer that ends too early, or that is not what it should be.
                why = f"{type(error).__name__}: {error}"
        raise NotReadyError(
            f"--judge_base_url: {self.base_url} failed {TRIES} times ({why}); run again, what it judged is kept"
        )

    def _answer(self, body: bytes) -> str:
        headers = {"Content-Type": "application/json"}
        if self.key_variable:
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable]}"
        request = urllib.request.Request(f"{self.base_url.rstrip('/')}/chat/completions", body, headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
            found = json.loads(reply.read())
        said = found["choices"][0]["message"]["content"]
        if not isinstance(said, str):
            raise TypeError(f"'content' is a {type(said).__name__}")
        used = found.get("usage") or {}
        with self._lock:
            self.requests += 1
            self.prompt_tokens += int(used.get("prompt_tokens") or 0)
            self.answer_tokens += int(used.get("completion_tokens") or 0)
        return said


def messages(question: str, first: str, second: str) -> list[dict[str, str]]:
    """What the judge is asked of two answers."""
    content = ASKED.format(question=question, first=first, second=second)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def scores_in(said: str) -> tuple[float, float] | None:
    """The two scores on the first line that is not empty; None where there are none from 1 to 10."""
    line = said.strip().partition("\n")[0]
    found = _SCORES.match(line)
    if not found or not all(1 <= float(part) <= 10 for part in found.groups()):
        return None
    return float(found[1]), float(found[2])


def _message(error: urllib.error.HTTPError) -> str:
    """What the server says of an error, in a line."""
    try:
        text = error.read(2000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return error.reason
    try:
        found = json.loads(text)
        text = str(found["error"]["message"] if isinstance(found["error"], Mapping) else found["error"])
    except (ValueError, LookupError, TypeError):
        pass
    return " ".join(text.split())[:300] or error.reason


def _asked_to_wait(headers: Any) -> float:
    """Seconds of a `Retry-After`, which may be a date; 0 without one."""
    value = str(headers.get("Retry-After") or "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
