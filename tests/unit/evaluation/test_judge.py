"""The judge behind an API, against a server that fails in every way that servers do; and what is made of its judgements."""

import contextlib
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from minima.errors import DataError, NotReadyError, UsageError
from minima.evaluation import judge, judged
from minima.evaluation.judge import Judge, RefusedError, scores_in

FIXTURES = Path(__file__).parents[2] / "fixtures" / "benchmarks"
KEY = "k-of-the-test"
Behaviour = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def reply(text: str) -> Behaviour:
    def act(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        used = {"prompt_tokens": 100, "completion_tokens": 10}
        send(handler, 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": used}))

    return act


def send(handler: BaseHTTPRequestHandler, code: int, body: str, length: int | None = None, **headers: str) -> None:
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body.encode()) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body.encode())


def fail(code: int, body: str = "", length: int | None = None, **headers: str) -> Behaviour:
    return lambda handler, request: send(handler, code, body, length, **headers)


def sleep(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    time.sleep(0.5)


def by_answer(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    """Likes an answer by the number after `worth`, 5 where none is."""
    content = request["messages"][-1]["content"]
    if content == "Say yes.":
        reply("Yes.")(handler, request)
        return
    parts = re.split(r"Answer of assistant \d:", content)[1:]
    worth = [int((re.findall(r"worth (\d+)", part) or ["5"])[0]) for part in parts]
    reply(f"{worth[0]} {worth[1]}\nBecause.")(handler, request)


class Server(ThreadingHTTPServer):
    """An API whose next answers are `script`, and then `usual`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Behaviour] = []
        self.usual: Behaviour = by_answer
        self.seen: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.paths: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append(request)
            self.server.keys.add(self.headers["Authorization"])
            self.server.paths.append(self.path)
            act = self.server.script.pop(0) if self.server.script else self.server.usual
        if not re.fullmatch(r"(http://judge\.invalid)?/v1/chat/completions(\?version=1)?", self.path):
            act = fail(404, "no such page")
        act(self, request)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def served() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with served() as made:
        yield made


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    return []


def made(server: Server, waits: list[float]) -> Judge:
    return Judge(server.url, "stern", "JUDGE_KEY", wait=waits.append)


def test_what_is_sent_and_counted(server: Server, waits: list[float]) -> None:
    one = made(server, waits)
    assert one.scores("Why?", "worth 3", "worth 8") == (3, 8, "3 8\nBecause.")
    (request,) = server.seen
    assert (request["model"], request["temperature"]) == ("stern", 0)
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    assert (
        "Question:\nWhy?\n\nAnswer of assistant 1:\nworth 3\n\nAnswer of assistant 2:\nworth 8\n"
        in request["messages"][1]["content"]
    )
    assert server.keys == {f"Bearer {KEY}"}
    assert (one.requests, one.prompt_tokens, one.answer_tokens) == (1, 100, 10)
    assert KEY not in repr(one)


@pytest.mark.parametrize(
    "behaviour",
    [
        fail(429),
        fail(500, "<html>oh</html>"),
        fail(503, '{"error": {"message": "overloaded"}}'),
        fail(200, "{"),
        fail(200, ""),
        fail(200, "{}"),
        fail(200, '{"choices": []}'),
        fail(200, '{"choices": [{"message": {"content": null}}]}'),
        fail(200, '{"choices": [{"message"', length=5000),
        fail(200, "[1]"),
        sleep,
    ],
    ids=["429", "500", "503", "half", "empty", "nothing", "no-choice", "null", "cut", "other", "time-out"],
)
def test_what_may_pass_is_tried_again(
    behaviour: Behaviour, server: Server, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "TIMEOUT", 0.2 if behaviour is sleep else 10)
    server.script = [behaviour] * 3
    assert made(server, waits).scores("Why?", "worth 3", "worth 8")[:2] == (3, 8)
    assert waits == [1, 2, 4]


def test_it_waits_as_long_as_it_is_told(server: Server, waits: list[float]) -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 20))
    server.script = [
        fail(429, Retry_After="7"),
        fail(429, Retry_After="9999"),
        fail(429, Retry_After=date),
        fail(429, Retry_After="?"),
    ]
    made(server, waits).check()
    assert waits[:2] == [7, 60]
    assert waits[2:] == [60, 60]


def test_it_gives_up_with_what_was_wrong(server: Server, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    server.usual = fail(503, '{"error": {"message": "over\\nloaded"}}')
    with pytest.raises(NotReadyError, match=r"/v1 failed 8 times \(503 over loaded\); run again, what it judged is kept"):
        made(server, waits).check()
    assert waits == [1, 2, 4, 8, 16, 32, 60]
    nobody = Judge("http://127.0.0.1:9/v1", "stern", "", wait=waits.append)
    with pytest.raises(NotReadyError, match=r"failed 8 times .*refused"):
        nobody.check()


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (fail(401, '{"error": {"message": "bad key"}}'), "--judge_key_variable: http.* refuses the key: 401 bad key"),
        (fail(403), "--judge_key_variable: .* refuses the key: 403 Forbidden"),
        (fail(404, '{"error": "no model"}'), "--judge_base_url: .* has no such thing, or no 'stern': 404 no model"),
        (fail(400, '{"error": {"message": "unknown model"}}'), "--judge_model: .* refuses 'stern': 400 unknown model"),
    ],
)
def test_what_is_wrong_for_good_is_said_at_once(
    behaviour: Behaviour, message: str, server: Server, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.usual = behaviour
    with pytest.raises(UsageError, match=message) as caught:
        made(server, waits).check()
    assert len(server.seen) == 1
    assert waits == []
    assert KEY not in str(caught.value)
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(UsageError, match=r"JUDGE_KEY is not set; .*\(env: \{JUDGE_KEY: \{secret: NAME, key: KEY\}\}\)"):
        made(server, waits).check()


def test_a_judge_that_decides_its_temperature(server: Server, waits: list[float]) -> None:
    server.script = [fail(400, '{"error": {"message": "Unsupported value: \'temperature\'"}}')]
    one = made(server, waits)
    one.check()
    one.scores("Why?", "a", "b")
    assert ["temperature" in request for request in server.seen] == [True, False, False]


def test_a_refusal_is_one_answer(server: Server, waits: list[float]) -> None:
    """An API that says that it will not is not asked, and paid, again and again; and one that says it in parts is heard."""
    used = {"prompt_tokens": 100, "completion_tokens": "many"}

    def message(**parts: Any) -> Behaviour:
        finish = parts.pop("finish_reason", "stop")
        return fail(200, json.dumps({"choices": [{"message": parts, "finish_reason": finish}], "usage": used}))

    one = made(server, waits)
    for answer, why in (
        (message(content=None, refusal="I cannot."), "it says: I cannot."),
        (message(content=None, finish_reason="content_filter"), r"it says nothing \(finish_reason content_filter\)"),
        (message(content="", finish_reason="length"), r"it says nothing \(finish_reason length\)"),
    ):
        server.script = [answer]
        with pytest.raises(RefusedError, match=why):
            one.scores("Why?", "a", "b")
    assert len(server.seen) == 3
    assert waits == []
    assert one.used() == (3, 300, 0)
    server.script = [
        fail(200, '{"error": {"message": "no room", "code": 502}}'),
        message(content=[{"type": "text", "text": "6 5"}]),
    ]
    assert one.scores("Why?", "a", "b")[:2] == (6, 5)
    assert waits == [1]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_the_key_goes_nowhere_else(code: int, server: Server, waits: list[float]) -> None:
    with served() as other:
        server.usual = fail(code, "", Location=f"{other.url}/chat/completions")
        with pytest.raises(UsageError, match=f"/v1 has moved to {other.url}.*; the key is not sent on"):
            made(server, waits).check()
        assert other.seen == []
    assert len(server.seen) == 1


@pytest.mark.parametrize("key", [f"{KEY}\n", f"  {KEY}\r\n", f"{KEY} \n x", f"Bearer {KEY}", f"{KEY}\x00", f"{KEY}ä", "\n"])
def test_a_key_as_secrets_have_it(
    key: str, server: Server, waits: list[float], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A line break at its end is nobody's; anything else that is no key is refused without being shown."""
    monkeypatch.setattr(judge.os, "environ", {"JUDGE_KEY": key})  # The real one takes no NUL.
    if key.strip() == KEY:
        made(server, waits).check()
        assert server.keys == {f"Bearer {KEY}"}
        return
    with pytest.raises(UsageError, match=r"JUDGE_KEY (is not set|holds a blank or another character)") as caught:
        made(server, waits).check()
    assert KEY not in str(caught.value) + "".join(capfd.readouterr())
    assert server.seen == []


@pytest.mark.parametrize("code", [400, 401, 404, 500])
def test_a_server_that_repeats_the_key(code: int, server: Server, waits: list[float]) -> None:
    server.usual = fail(code, json.dumps({"error": {"message": f"Bearer {KEY} is none of ours"}}))
    with pytest.raises((UsageError, NotReadyError), match=r"Bearer \*\*\* is none of ours") as caught:
        made(server, waits).check()
    assert KEY not in str(caught.value)


def test_the_address_as_people_have_it(server: Server, waits: list[float]) -> None:
    for url in (server.url, f"{server.url}/", f"{server.url}/chat/completions", f"{server.url}?version=1"):
        Judge(url, "stern", "JUDGE_KEY", wait=waits.append).check()
    with pytest.raises(UsageError, match=r"has no such thing.*404 no such page; most such addresses end in /v1"):
        Judge(server.url.removesuffix("/v1"), "stern", "JUDGE_KEY", wait=waits.append).check()


def test_an_answer_without_an_end(server: Server, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece comes in time, and never the last one; or there is no end of them."""

    def drops(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        send(handler, 200, " ", length=10**9)
        with contextlib.suppress(OSError):
            for _ in range(40):
                handler.wfile.write(b" ")
                time.sleep(0.02)

    def pours(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            send(handler, 200, " " * (1 << 20), length=10**9)

    monkeypatch.setattr(judge, "TIMEOUT", 0.2)
    monkeypatch.setattr(judge, "_MOST_BYTES", 1 << 18)
    server.script = [drops, pours]
    made(server, waits).check()
    assert waits == [1, 2]


def test_proxies_are_used(server: Server, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    monkeypatch.setenv("no_proxy", "127.0.0.2")
    Judge("http://judge.invalid/v1", "stern", "JUDGE_KEY", wait=waits.append).check()
    assert server.paths == ["http://judge.invalid/v1/chat/completions"]


@pytest.mark.parametrize(
    ("said", "scores"),
    [
        ("8 7", (8, 7)),
        ("\n 8.5, 10\nBoth are good", (8.5, 10)),
        ("Scores: 8 and 7.", (8, 7)),
        ("8 11", None),
        ("0 5", None),
        ("8", None),
        ("", None),
        ("Assistant one is better.\n8 7", None),
        ("8.5.1", None),
        # By whose they are, in a scale, marked up, in Chinese, after thinking aloud.
        ("Assistant 1: 8, Assistant 2: 7", (8, 7)),
        ("Assistant 2: 7\nAssistant 1: 8.5", (8.5, 7)),
        ("**Assistant A**: 8/10\n\n**Assistant B**: 10 / 10", (8, 10)),
        ("[[8]] [[7]]", (8, 7)),
        ("8/10 7/10", (8, 7)),
        ("8 7 (out of 10)", (8, 7)),
        ("1. 8\n2. 7", (8, 7)),
        ("助手1：8分，助手2：7分", (8, 7)),
        ("<think>3 4? No.</think>\n8 7", (8, 7)),
        ('{"assistant_1": 8, "assistant_2": 7}', (8, 7)),
        # What would be read wrong is not read.
        ("[[5]]", None),
        ("Score: 5", None),
        ("-8 7", None),
        ("8\n7 of the facts are wrong", None),
        ("Score 1: 8, Score 2: 7", None),
        ("Assistant 1: 8, Assistant 1: 7", None),
        ("Assistant 1 has 3 errors, Assistant 2 has 2.", None),
        ("I give 8 to the second and 7 to the first", None),
        ("8 7 6", None),
        ("8,5 7", None),
    ],
)
def test_scores_are_two_numbers_on_the_first_line(said: str, scores: tuple[float, float] | None) -> None:
    assert scores_in(said) == scores


def test_a_judge_without_scores(server: Server, waits: list[float]) -> None:
    server.script = [reply("Hard to say."), reply("6 5")]
    assert made(server, waits).scores("Why?", "a", "b")[:2] == (6, 5)
    server.usual = reply("Hard to say.")
    with pytest.raises(RefusedError, match="no two scores in what it says: 'Hard to say"):
        made(server, waits).scores("Why?", "a", "b")


QUESTIONS = [judged.Question(str(i), f"Question {i}?", "c", f"reference worth {worth}") for i, worth in enumerate((5, 5, 5, 7))]
ANSWERS = ["worth 8", "worth 2", "worth 5", "worth 6"]


def run(server: Server, waits: list[float], kept: judged.Kept | None = None) -> list[dict[str, Any]]:
    told: list[int] = []
    found = judged.judge(
        QUESTIONS, ANSWERS, made(server, waits), kept or judged.Kept([], lambda number, text: None), told.append
    )
    assert told == list(range(1, 9))
    return found


def test_both_orders_decide(server: Server, waits: list[float]) -> None:
    lines = run(server, waits)
    assert [line["ended"] for line in lines] == ["win", "loss", "even", "loss"]
    assert [[(part["own"], part["other"]) for part in line["rounds"]] for line in lines] == [
        [(8, 5)] * 2, [(2, 5)] * 2, [(5, 5)] * 2, [(6, 7)] * 2,
    ]  # fmt: skip
    asked = [request["messages"][1]["content"] for request in server.seen]
    assert sorted(part["prompt"][1]["content"] for line in lines for part in line["rounds"]) == sorted(asked)
    found = judged.summary(lines, made(server, waits), 2)
    assert (found["score"], found["win"], found["even"], found["loss"]) == (1.5 / 4, 1, 1, 2)
    assert found["stderr"] == pytest.approx(0.2393, abs=1e-4)  # Of 1, 0, 1/2 and 0.
    assert (found["own_mean"], found["other_mean"], found["without_reference"]) == (5.25, 5.5, 2)


def test_a_judge_that_likes_the_first_answer_decides_nothing(server: Server, waits: list[float]) -> None:
    server.usual = reply("9 2")
    assert {line["ended"] for line in run(server, waits)} == {"even"}


def test_what_the_judge_refuses_is_left_out(server: Server, waits: list[float]) -> None:
    def picky(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        refuse = "Question 1?" in request["messages"][1]["content"]
        (fail(400, '{"error": {"message": "content filter"}}') if refuse else by_answer)(handler, request)

    server.usual = picky
    lines = run(server, waits)
    assert [line["ended"] for line in lines] == ["win", "unjudged", "even", "loss"]
    assert lines[1]["rounds"][0]["refused"] == "400 content filter"
    found = judged.summary(lines, made(server, waits), 0)
    assert (found["items"], found["unjudged"], found["score"]) == (3, 1, 0.5)
    assert judged.summary(lines[:1], made(server, waits), 0)["stderr"] is None
    with pytest.raises(DataError, match="stern judged none of 1 questions; of the first it says: 400 content filter"):
        judged.summary(lines[1:2], made(server, waits), 0)


def test_the_next_run_goes_on(server: Server, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """What was judged before the server went away is not asked for again, and the end is the same."""
    monkeypatch.setattr(judged, "AT_ONCE", 1)
    monkeypatch.setattr(judged, "PART", 2)
    place: dict[int, str] = {}
    server.script = [by_answer] * 5
    server.usual = fail(500)
    with pytest.raises(NotReadyError, match="failed 8 times"):
        run(server, waits, judged.Kept([], place.__setitem__))
    assert [text.count('"own"') for text in place.values()] == [1, 1, 1, 1, 1]  # Beside each what was used.
    server.usual = by_answer
    server.seen.clear()
    one = made(server, waits)
    lines = judged.judge(QUESTIONS, ANSWERS, one, judged.Kept([*place.values()], place.__setitem__), lambda number: None)
    assert len(server.seen) == 3
    assert one.used() == (8, 800, 80)  # Of both runs: what was paid.
    assert lines == run(server, waits)


def test_a_kill_costs_no_judgement_that_was_paid(server: Server, waits: list[float]) -> None:
    """Each is written when it comes, also while the first request is slow: a stop does not wait for anything."""
    place: dict[int, str] = {}
    free = threading.Event()

    def slow(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        free.wait(10)
        by_answer(handler, request)

    server.script = [slow]
    seen: list[int] = []

    def write(number: int, text: str) -> None:
        place[number] = text
        if (count := sum(part.count('"own"') for part in place.values())) == 7:
            free.set()
        seen.append(count)

    run(server, waits, judged.Kept([], write))
    assert seen == list(range(1, 9))


def test_answers_are_written_once() -> None:
    asked: list[list[str]] = []
    place: dict[int, str] = {}

    def write(texts: list[str]) -> list[str]:
        asked.append(texts)
        return [f"to {text}" for text in texts]

    first = judged.answers(QUESTIONS[:2], write, "m", judged.Kept([], place.__setitem__))
    again = judged.answers(QUESTIONS, write, "m", judged.Kept([*place.values()], place.__setitem__))
    other = judged.answers(QUESTIONS[:1], write, "n", judged.Kept([*place.values()], place.__setitem__))
    assert asked == [["Question 0?", "Question 1?"], ["Question 2?", "Question 3?"], ["Question 0?"]]
    assert again[:2] == first
    assert other == first[:1]


def test_questions_as_people_have_them(tmp_path: Path) -> None:
    vicuna, left = judged.questions("vicuna", str(FIXTURES), 0)
    assert left == 1
    assert [(q.id, q.text, q.category, q.reference) for q in vicuna] == [
        ("1", "How do I keep bread fresh?", "generic", "In a bag, away from the sun."),
        ("2", "Write a line about the sea.", "writing", "The sea sleeps under the moon."),
    ]
    belle, left = judged.questions("belle", str(FIXTURES), 0)
    assert left == 1
    assert [(q.id, q.reference) for q in belle] == [("1", "Good morning."), ("3", "十二个月。")]
    assert len(judged.questions("belle", str(FIXTURES), 1)[0]) == 1
    with pytest.raises(NotReadyError, match=r"vicuna has no questions \(nothing is there\); put there .*question\.jsonl"):
        judged.questions("vicuna", str(tmp_path), 0)
    shutil.copytree(FIXTURES / "vicuna", tmp_path / "vicuna")
    shutil.copy(tmp_path / "vicuna/answer_other.jsonl", tmp_path / "vicuna/more.jsonl")
    with pytest.raises(
        DataError, match=r"more\.jsonl:1: 2 is there a second time; keep one file of questions, and one of answers"
    ):
        judged.questions("vicuna", str(tmp_path), 0)
    (tmp_path / "vicuna/more.jsonl").unlink()
    (tmp_path / "vicuna/answer_other.jsonl").unlink()
    with pytest.raises(NotReadyError, match=r"vicuna has no reference answers \(question\.jsonl is there\)"):
        judged.questions("vicuna", str(tmp_path), 0)
    (tmp_path / "vicuna/question.jsonl").write_text('{"question_id": 4, "category": "c"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"question\.jsonl:1: 4 has no text"):
        judged.questions("vicuna", str(tmp_path), 0)


def test_questions_as_the_repositories_have_them(tmp_path: Path) -> None:
    """The tutorial links BiLLa's eval_codes: both benchmarks in one folder, with prompts and judgements beside them."""
    for name, language in (("vicuna", "en"), ("belle", "zh")):
        table = tmp_path / name / "eval_codes/table"
        for folder in (table, table / "answer", table / "review"):
            folder.mkdir(parents=True, exist_ok=True)
        asked = {"question_id": 1, "text": "二加二？" if language == "zh" else "2 + 2?", "category": "math"}
        (table / ("question_zh.jsonl" if language == "zh" else "question.jsonl")).write_text(json.dumps(asked) + "\n")
        for file in ("prompt.jsonl", "reviewer.jsonl"):
            (table / file).write_text('{"prompt_id": 1, "system_prompt": "s"}\n')
        for other in ("en", "zh"):
            answer = {"question_id": 1, "text": f"4 ({other})", "answer_id": "a", "model_id": "chatglm", "metadata": {}}
            (table / f"answer/answer_{other}_chatglm.jsonl").write_text(json.dumps(answer) + "\n")
        review = {"review_id": "r", "question_id": 1, "text": "8 7", "score": [8, 7]}
        (table / f"review/review_{language}_billa_chatglm.jsonl").write_text(json.dumps(review) + "\n")
        ((one,), left) = judged.questions(name, str(tmp_path), 0)
        assert (one.text, one.reference, left) == (asked["text"], f"4 ({language})", 0)
        shutil.copy(table / f"answer/answer_{language}_chatglm.jsonl", table / f"answer/answer_{language}_billa.jsonl")
        with pytest.raises(DataError, match="is there a second time; keep one file of questions, and one of answers"):
            judged.questions(name, str(tmp_path), 0)
