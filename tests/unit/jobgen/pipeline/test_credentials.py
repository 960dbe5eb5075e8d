"""What is taken for a credential in a pipeline's file, and what only looks like one."""

import pytest

from jobgen.pipeline.credentials import inside, literal, noted

PEM = "-----BEGIN {} KEY-----\nMIIB…"
# Made of parts: scanners of repositories would report whole ones.
LONG = "Ab1" * 12


@pytest.mark.parametrize(
    "name",
    [
        *(
            "HF_TOKEN",
            "WANDB_API_KEY",
            "PGPASSWORD",
            "MYPASSWORD",
            "MYSQL_PWD",
            "DB_PASS",
            "PASS",
            "PASSPHRASE",
            "SSH_PASSPHRASE",
        ),
        *("GITHUB_PAT", "ACCESSKEY", "AWS_ACCESS_KEY_ID_SECRET", "AWS_SECRET_ACCESS_KEY", "CLIENTSECRET", "GITHUBTOKEN"),
        *("password", "AZURE_CREDENTIALS", "TOKEN_HF", "PGPASSWORD_OLD"),
    ],
)
def test_a_name_of_a_credential(name: str) -> None:
    assert literal(name, "x")
    assert not literal(name, "")


@pytest.mark.parametrize(
    "value",
    [
        *(f"hf_{LONG}", f"ghp_{LONG}", f"gho_{LONG}", f"github_pat_{LONG}", f"glpat-{LONG}", f"xoxb-{LONG}", f"AIza{LONG}"),
        *(
            f"sk-{LONG}",
            f"sk-proj-{LONG}",
            "AKIA" + "A1" * 8,
            "ASIA" + "A1" * 8,
            f"Bearer {LONG}",
            f"authorization: Basic {LONG}==",
        ),
        *(PEM.format("PRIVATE"), PEM.format("RSA PRIVATE"), '{"type": "service_account", "private_key": "x"}', "eyJh.eyJi.c"),
        *(
            "http://user:password@proxy.example.com:3128",
            "postgres://u:p@db/x",
            "redis://:p@cache",
            f"https://ghp_{LONG}@github.com/x",
        ),
    ],
)
def test_a_value_that_is_a_credential(value: str) -> None:
    assert literal("A", value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "/etc/x") for name in ("TOKENIZERS_PARALLELISM", "HF_TOKEN_PATH", "SSL_CERT_FILE", "NCCL_IB_HCA", "MONKEY")),
        *(
            (name, "x")
            for name in ("PASS_THROUGH", "BYPASS", "COMPASS", "PATH", "PATTERN", "KEY_PATH", "KEYBOARD", "MAX_TOKENS")
        ),
        *((name, "1") for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "NCCL_IB_PKEY", "NCCL_DEBUG_SUBSYS")),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("PWD", "/workspace"),
        ("OPENAI_API_KEY", "EMPTY"),
        ("HTTPS_PROXY", "http://proxy.example.com:3128"),
        ("HTTPS_PROXY", "http://[fd00::1]:3128"),
        ("HTTPS_PROXY", "http://user:$(PROXY_PASSWORD)@proxy.example.com:3128"),
        ("A", "http://one.example.com:80/@x, user@example.com"),
        ("A", "/models/hf_llama_2_7b_converted_checkpoint"),
        ("A", "/opt/sk-learn-models-of-last-year"),
        ("A", "risk-averse-and-long-enough-text"),
        ("A", "Basic training"),
        ("A", PEM.format("PUBLIC")),
    ],
)
def test_what_only_looks_like_one(name: str, value: str) -> None:
    assert not literal(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vault.hashicorp.com/agent-inject-secret-config", "secret/data/config"),
        ("vault.hashicorp.com/agent-inject-token", "true"),
        ("eks.amazonaws.com/token-expiration", "86400"),
        ("eks.amazonaws.com/token", "86400"),
        ("example.com/secret", "registry"),
        ("example.com/api-key-file", "abc"),
        ("example.com/password", "$(PASSWORD)"),
    ],
)
def test_an_annotation_that_only_says_where_one_is(name: str, value: str) -> None:
    assert not noted(name, value)


@pytest.mark.parametrize("name", ["password", "example.com/db-password", "a/api-key", "a/access_token", "a/private-key"])
def test_an_annotation_that_is_one(name: str) -> None:
    assert noted(name, "hunter2")


@pytest.mark.parametrize(
    "words",
    [
        ["--token=abc"],
        ["--token", "abc"],
        ["-c", "export API_KEY=abc; run"],
        ["TOKEN='abc' run"],
        [f"hf_{LONG}"],
        ["x", "--db-password=a"],
    ],
)
def test_a_command_line_with_one(words: list[str]) -> None:
    assert list(inside({"args": words}, ()))
    assert list(inside({"args": [5, None, *words]}, ()))


@pytest.mark.parametrize(
    "words",
    [
        *(["--token=$(TOKEN)"], ["--token", "$TOKEN"], ["--token-file", "/run/token"], ["TOKEN=$(cat /run/token) run"]),
        *(["--max-tokens=5"], ["--tokenizer", "a"], ["--token", "--verbose"], ["echo", "token"], ["--key-file=/run/key"]),
    ],
)
def test_a_command_line_without_one(words: list[str]) -> None:
    assert not list(inside({"args": words}, ()))
