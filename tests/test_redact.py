"""Secrets are masked in every form and part in which a text may show them."""

from __future__ import annotations

import html
import json
from urllib.parse import quote

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlm_dspy
from rlm_dspy.redact import MASK, Redactor
from rlm_dspy.testing import action, scripted

KEY = "sk-canary-0123456789-abcdefghijk"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n-----END PRIVATE KEY-----\n"
ODD = "pa<ss&wo'rd\\\"§"


def redactor() -> Redactor:
    return Redactor({"OPENAI_API_KEY": KEY, "DEPLOY_PRIVATE_KEY": PEM, "DB_PASSWORD": ODD})


@pytest.mark.parametrize("form", [ODD, json.dumps(ODD), repr(ODD), quote(ODD), quote(ODD, safe="")])
def test_a_secret_is_masked_as_it_is_written(form: str) -> None:
    assert redactor().text(f"a {form} b").replace('"', "").replace("'", "") == f"a {MASK} b"


@pytest.mark.parametrize("text", [PEM, repr(PEM), json.dumps(PEM), *PEM.splitlines()[1:3]])
def test_a_secret_of_several_lines_is_masked_whole_and_line_by_line(text: str) -> None:
    shown = redactor().text(text)
    assert "MIIEvQ" not in shown
    assert "AQEFAA" not in shown


def test_masking_keeps_the_number_of_lines() -> None:
    text = f"one\n{PEM}two\n"
    assert redactor().text(text).count("\n") == text.count("\n")
    assert redactor().text("-----BEGIN PRIVATE KEY-----") == "-----BEGIN PRIVATE KEY-----"


@given(st.integers(12, len(KEY)), st.text(max_size=20), st.text(max_size=20))
def test_no_long_part_of_a_key_remains_where_a_text_was_cut(kept: int, before: str, after: str) -> None:
    for part in (KEY[:kept], KEY[-kept:]):
        shown = redactor().text(before + part + after)
        assert part not in shown
        assert part[:12] not in shown
        assert part[-12:] not in shown


def test_an_address_that_begins_like_a_secret_one_is_shown() -> None:
    known = Redactor({"DB_CONNECTION_STRING": "postgresql://alice:secret-word@db.example.com/main"})
    assert known.text("postgresql://localhost/test") == "postgresql://localhost/test"


def test_what_a_notebook_shows_has_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    lm, _ = scripted(action("print(context)"), action(f"SUBMIT(answer={KEY!r})"))
    with dspy.context(lm=lm):
        found = rlm_dspy.RLM("context, question -> answer")(context=f"x {KEY} y", question="q")
    shown = html.unescape(found._repr_html_() + found.run._repr_html_())
    assert KEY[:12] not in shown
    assert MASK in shown
    assert found.answer == KEY


def test_a_secret_that_is_not_unicode_is_masked_too() -> None:
    odd = "canary\udcff-0815-\ud800"
    assert Redactor({"ODD_TOKEN": odd}).text(f"a {odd} b") == f"a {MASK} b"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("RLM_DSPY_MCP_TOKENS", "ann:token-0123456789,bob:other-0123456789", "other-0123456789"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20bG9naW4tMDEyMzQ1Njc4OQ", "bG9naW4tMDEyMzQ1Njc4OQ"),
        ("SERVICE_AUTHORIZATION", "Bearer bearer-0123456789", "bearer-0123456789"),
        ("PGPASSWORD", "word-0123456789", "word-0123456789"),
        ("DB_PASS", "word-0123456789", "word-0123456789"),
        ("GROQ_API_KEYS", "gsk-0123456789", "gsk-0123456789"),
        ("AZURE_OPENAI_KEY", "az-0123456789", "az-0123456789"),
        ("MAPS_KEY", "AIzaSyA0123456789abcdefghij", "AIzaSyA0123456789abcdefghij"),
    ],
)
def test_the_name_of_a_variable_tells_that_it_is_secret(name: str, value: str, shown: str) -> None:
    assert Redactor({name: value}).text(f"a {shown} b") == f"a {MASK} b"


def test_a_key_of_a_table_is_no_secret() -> None:
    assert Redactor({"SORT_KEY": "customer_id"}).text("by customer_id") == "by customer_id"
