"""Token counters: exact where the tokenizer is known, and honest where it is not."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embedmill.adapters.providers.models import find_model
from embedmill.adapters.tokenizers import load_token_counter
from embedmill.errors import ConfigurationError
from embedmill.ports import TokenCounter

DATA = Path(__file__).parent / "data"
TEXTS: list[str] = json.loads((DATA / "local_texts.json").read_text())


@pytest.mark.parametrize(
    ("tokenizer", "model", "provider", "name", "tokens"),
    [
        # Counts of tiktoken (cl100k_base, o200k_base) for this sentence; of BERT with its two special tokens.
        (None, "text-embedding-3-small", "openai", "cl100k_base", 10),
        (None, "text-embedding-3-large", "openai", "cl100k_base", 10),
        (None, "text-embedding-ada-002", "openai", "cl100k_base", 10),
        (None, "openai/text-embedding-3-small", "openai", "cl100k_base", 10),
        ("o200k_base", "anything", "openai", "o200k_base", 10),
        (None, "voyage-3-large", "openai", "voyage3_base", 10),
        (None, "voyage-3", "openai", "voyage3_base", 10),
        (None, "all-MiniLM-L6-v2", "local", "all-MiniLM-L6-v2", 12),
        (
            None,
            "sentence-transformers/all-MiniLM-L6-v2",
            "openai",
            "sentence-transformers/all-MiniLM-L6-v2",
            12,
        ),
        (None, "some-model-of-our-own", "openai", "cl100k_base (estimate)", 10),
        ("all-MiniLM-L6-v2", "some-model-of-our-own", "openai", "all-MiniLM-L6-v2", 12),
    ],
)
def test_each_model_is_counted_by_its_own_tokenizer(
    tokenizer: str | None, model: str, provider: str, name: str, tokens: int
) -> None:
    counter = load_token_counter(tokenizer, model, provider)
    assert isinstance(counter, TokenCounter)
    assert counter.name == name
    assert counter.count(["The quick brown fox jumps over the lazy dog."]) == [tokens]


@pytest.mark.parametrize("as_file", [True, False])
def test_a_tokenizer_can_be_named_by_its_file_or_its_folder(as_file: bool) -> None:
    path = DATA / "tiny-roberta" / ("tokenizer.json" if as_file else "")
    counter = load_token_counter(str(path), "whatever", "openai")
    assert counter.count(["", "the", "the of xyz"]) == [2, 3, 7]


def test_counts_include_what_would_be_cut_off_and_ignore_the_files_own_padding() -> None:
    counter = load_token_counter(None, "all-MiniLM-L6-v2", "local")
    assert counter.count(["", "word " * 5000]) == [2, 5002]


@pytest.mark.parametrize("tokenizer", ["cl100k_base", "all-MiniLM-L6-v2"])
def test_a_batch_is_counted_as_its_texts_are_alone_and_from_many_threads(tokenizer: str) -> None:
    counter = load_token_counter(tokenizer, "", "openai")
    alone = [counter.count([text])[0] for text in TEXTS]
    assert counter.count([]) == []
    assert counter.count(TEXTS * 20) == alone * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(counter.count, [TEXTS] * 16)) == [alone] * 16


@pytest.mark.parametrize("tokenizer", ["cl100k_base", "o200k_base", "voyage3_base", "all-MiniLM-L6-v2"])
@pytest.mark.parametrize(
    "text",
    [
        "\ud800",
        "half \udc00 a pair",
        "\x00",
        "<|endoftext|>",
        "[SEP]",
        "\n" * 200_000,
        "a" * 200_000,
        "🚀" * 5000,
    ],
    ids=ascii,
)
def test_hostile_text_is_counted_and_does_not_raise(tokenizer: str, text: str) -> None:
    (count,) = load_token_counter(tokenizer, "", "openai").count([text])
    assert 1 <= count <= len(text.encode("utf-8", "replace")) + 2


def test_lower_case_is_counted_where_the_model_lowers_its_texts(tmp_path: Path) -> None:
    tokenizer = json.loads((DATA / "tiny-bert" / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load_token_counter(str(tmp_path), "", "openai").count(["XYZ"]) == [3], "one unknown word"
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    assert load_token_counter(str(tmp_path), "", "openai").count(["XYZ"]) == [5]


@pytest.mark.parametrize("tokenizer", ["/nowhere/tokenizer.json", "./nothing", "missing.json"])
def test_a_path_that_leads_nowhere_is_refused(tokenizer: str) -> None:
    with pytest.raises(ConfigurationError, match="There is no tokenizer at"):
        load_token_counter(tokenizer, "", "openai")


def test_a_name_that_cannot_be_fetched_is_refused_with_the_names_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match=r"nobody/none.*Name an encoding \(cl100k_base"):
        load_token_counter("nobody/none", "", "openai", models_dir=tmp_path)


def test_a_spoilt_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json cannot be read"):
        load_token_counter(str(tmp_path / "tokenizer.json"), "", "openai")


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_counting_for_openai_leaves_the_slow_tables_unloaded_and_the_package_usable() -> None:
    """bpe_openai's own __init__ takes 1.2 s; its compiled part must be made once in a process, so both ways
    to it must share one module."""
    code = (
        "import sys; from embedmill.adapters.tokenizers import load_token_counter as load;"
        "n = load('cl100k_base', '', 'openai').count(['hello world']);"
        "print(n, 'bpe_openai.registry' in sys.modules, 'onnxruntime' in sys.modules);"
        "import bpe_openai; print(len(bpe_openai.get_encoding('cl100k_base').encode('hello world')))"
    )
    assert run_python(code).splitlines() == ["[2] False False", "2"]


@pytest.mark.parametrize(
    ("missing", "call", "extra"),
    [
        ("bpe_openai", "load_token_counter('cl100k_base', '', 'openai')", "embedmill[openai]"),
        ("onnxruntime", "OnnxEngine.load(read_sentence_model(Path(FOLDER)))", "embedmill[local]"),
    ],
)
def test_a_missing_extra_is_answered_with_what_to_install(missing: str, call: str, extra: str) -> None:
    code = f"""
import sys
from importlib.machinery import PathFinder
real = PathFinder.find_spec
hidden = lambda name: name.partition(".")[0] == {missing!r}
PathFinder.find_spec = lambda name, *rest: None if hidden(name) else real(name, *rest)
from pathlib import Path
from embedmill.adapters.tokenizers import load_token_counter
from embedmill.adapters.providers.onnx_engine import OnnxEngine
from embedmill.adapters.providers.sentence_model import read_sentence_model
from embedmill.errors import ConfigurationError
FOLDER = {str(find_model("all-MiniLM-L6-v2").folder)!r}
try:
    {call}
except ConfigurationError as error:
    print(error)
"""
    assert extra in run_python(code)
