"""A user name and a password in the address of a server reach it, and nothing else."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import dspy
import pytest

from rlm_dspy.errors import ConfigurationError
from rlm_dspy.lms import lm
from rlm_dspy.redact import Redactor
from servers.openai import OpenAIServer, error
from servers.wire import Fault

PASSWORD = "canary:pass/word"
QUOTED = "canary%3Apass%2Fword"
BASIC = "Basic " + b64encode(f"alice:{PASSWORD}".encode()).decode()


class BasicServer(OpenAIServer):
    """Demands a Basic header instead of a key."""

    def answer(self, handler: Any, path: str, body: Any) -> None:
        """Serve one request."""
        if handler.headers.get("Authorization") == BASIC:
            handler.headers.replace_header("Authorization", f"Bearer {self.key}")
        super().answer(handler, path, body)


def made(server: OpenAIServer, **options: Any) -> dspy.LM:
    address = server.url.replace("://", f"://alice:{QUOTED}@") + "/v1"
    return lm("openai/m", api_base=address, cache=False, num_retries=0, **options)


@pytest.mark.parametrize("options", [{}, {"api_key": "sk-some-key-0815"}], ids=["no key", "a key"])
def test_the_credentials_of_an_address_are_sent(options: dict[str, Any]) -> None:
    with BasicServer(models=("m",)) as server:
        assert made(server, **options)("hi") == ["hello"]
        assert server.posts[0].headers["Authorization"] == BASIC
        assert server.posts[0].headers["Host"] == server.url.removeprefix("http://")


def test_a_header_of_the_user_goes_before_the_credentials_of_the_address() -> None:
    with OpenAIServer(models=("m",), key="the-own-key") as server:
        assert made(server, headers={"Authorization": "Bearer the-own-key"})("hi") == ["hello"]


@pytest.mark.parametrize("echoed", [PASSWORD, QUOTED, BASIC.split()[1]])
def test_an_error_shows_no_password_in_any_form(echoed: str) -> None:
    fault = Fault(401, error(f"wrong: {echoed}", "x"))
    with BasicServer(fault, models=("m",)) as server, pytest.raises(dspy.LMAuthError) as caught:
        made(server)("hi")
    assert "wrong: ********" in str(caught.value)
    assert "Check the user name and password in the address (api_base)." in str(caught.value)


def test_what_could_not_be_sent_is_not_said_to_be_answered() -> None:
    with OpenAIServer(models=("m",), key="none") as server:
        with pytest.raises(dspy.LMError, match="could not be asked") as caught:
            lm("openai/m", api_base=server.url, headers={"X-Name": "€"}, cache=False)("hi")
        assert not server.posts
    assert "answered" not in str(caught.value)


def test_passwords_in_addresses_of_the_environment_are_masked() -> None:
    redactor = Redactor({"HTTPS_PROXY": f"http://alice:{QUOTED}@proxy:3128", "ODD": "http://[bad", "PATH": "/bin"})
    assert redactor.text(f"{PASSWORD} and {QUOTED}") == "******** and ********"


def test_an_address_of_ollama_with_a_password_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", f"http://alice:{QUOTED}@127.0.0.1:9")
    with pytest.raises(ConfigurationError, match="Ask the server as openai/MODEL") as caught:
        lm("ollama_chat/qwen3:8b")
    assert "canary" not in str(caught.value)
