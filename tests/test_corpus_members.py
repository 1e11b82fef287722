"""Files inside files, and readers of third parties: their names, their limits, and what they may raise."""

import pytest

import documents
from rlm_dspy.corpus import read
from rlm_dspy.corpus.collecting import Collector, Limits


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RLM_DSPY_HOME", str(tmp_path / "home"))


def collected(files, **limits):
    collector = Collector(Limits(**limits), secrets=False)
    for name, data in files.items():
        collector.add(data, name, "/" + name)
    return collector.finish()[0]


def reasons(corpus):
    return {one.name: one.reason for one in corpus.skipped}


# Secrets


def test_the_folders_of_an_archive_tell_secrets_too():
    inside = {".kube/config": b"token", ".docker/config.json": b"{}", "home/.aws/sso/t.json": b"{}", "a.md": b"a"}
    corpus = collected({"z.zip": documents.packed(inside), "w.zip": documents.packed({"u\\.ssh\\config": b"x"})})
    assert corpus.names == ("z.zip/a.md",)
    secret = ["w.zip/u/.ssh/config", "z.zip/.docker/config.json", "z.zip/.kube/config", "z.zip/home/.aws/sso/t.json"]
    assert reasons(corpus) == dict.fromkeys(secret, "looks like a secret")


def test_any_folder_above_tells_a_secret(tmp_path):
    (tmp_path / ".aws" / "sso" / "cache").mkdir(parents=True)
    (tmp_path / ".aws" / "sso" / "cache" / "t.json").write_text("{}")
    (tmp_path / "a.md").write_text("a")
    corpus = read([tmp_path], hidden=True)
    assert corpus.names == ("a.md",)
    assert reasons(corpus) == {".aws/sso/cache/t.json": "looks like a secret"}
    assert len(read([tmp_path], hidden=True, secrets=True)) == 2
