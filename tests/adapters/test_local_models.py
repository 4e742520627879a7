"""Model folders of the local provider: what can be run is run exactly, the rest is refused in a sentence."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embedmill.adapters.providers.local import LocalProvider
from embedmill.adapters.providers.models import find_model
from embedmill.adapters.providers.onnx_graph import mpnet_buckets
from embedmill.adapters.providers.safetensors import read_tensors
from embedmill.adapters.providers.sentence_model import read_sentence_model
from embedmill.errors import ConfigurationError
from embedmill.ports import ProviderSpec, Purpose

DATA = Path(__file__).parent / "data"
TEXTS: list[str] = json.loads((DATA / "local_texts.json").read_text())
ARCHITECTURES = ["bert", "distilbert", "roberta", "mpnet"]


def embed(
    model: str | Path, purpose: Purpose = Purpose.DOCUMENT, *, dimensions: int = 16
) -> NDArray[np.float32]:
    async def once() -> NDArray[np.float32]:
        provider = LocalProvider(ProviderSpec("local", str(model), dimensions), threads=1)
        try:
            await provider.load(purpose)
            return (await provider.embed(TEXTS, purpose)).vectors
        finally:
            await provider.aclose()

    return asyncio.run(once())


def reference(name: str) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = np.load(DATA / f"tiny-{name}" / "reference.npy")
    return vectors


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A copy of the tiny BERT, to be spoilt."""
    return shutil.copytree(DATA / "tiny-bert", tmp_path / "bert")


def rewrite(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def stored_arrays(folder: Path) -> dict[str, NDArray[np.float32]]:
    return {
        name: np.frombuffer(
            tensor.path.read_bytes()[tensor.offset : tensor.offset + tensor.size], np.float32
        ).reshape(tensor.shape)
        for name, tensor in read_tensors(folder).items()
    }


def as_bfloat16(array: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = array.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path: Path, arrays: dict[str, NDArray[np.float32]], dtype: str = "F32") -> None:
    convert = {"F32": np.asarray, "F16": lambda array: array.astype(np.float16), "BF16": as_bfloat16}[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, array in arrays.items():
        raw = convert(array).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": array.shape,
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + body)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_folders_vectors_are_those_of_sentence_transformers(name: str, purpose: Purpose) -> None:
    np.testing.assert_allclose(embed(DATA / f"tiny-{name}", purpose), reference(name), atol=2e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("F16", 5e-3), ("BF16", 4e-2)])
@pytest.mark.parametrize("purpose", list(Purpose))
def test_weights_of_half_precision_are_read(
    bert: Path, dtype: str, tolerance: float, purpose: Purpose
) -> None:
    arrays = stored_arrays(bert)
    write_safetensors(bert / "model.safetensors", arrays, dtype)
    halved = embed(bert, purpose)
    np.testing.assert_allclose(halved, reference("bert"), atol=tolerance)
    assert np.abs(halved - reference("bert")).max() > 1e-6, "the weights were not halved"


def test_weights_in_shards_behind_a_heads_prefix_with_tensorflow_names_are_found(bert: Path) -> None:
    arrays = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): a
        for name, a in stored_arrays(bert).items()
    }
    (bert / "model.safetensors").unlink()
    names = sorted(arrays)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, members in shards.items():
        write_safetensors(bert / shard, {name: arrays[name] for name in members})
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    (bert / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    np.testing.assert_allclose(embed(bert), reference("bert"), atol=2e-6)


def test_a_model_in_the_hubs_cache_is_taken_without_a_network(tmp_path: Path) -> None:
    """The cache holds links into a folder of blobs, which ONNX Runtime would refuse to follow."""
    repository = tmp_path / "hub" / "models--someone--tiny"
    snapshot = repository / "snapshots" / "0123abcd"
    for source in (path for path in (DATA / "tiny-bert").rglob("*") if path.is_file()):
        blob = repository / "blobs" / hashlib.sha256(source.read_bytes()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, blob)
        link = snapshot / source.relative_to(DATA / "tiny-bert")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    found = find_model("someone/tiny", tmp_path)
    assert found.folder == snapshot
    np.testing.assert_allclose(embed(found.folder), reference("bert"), atol=2e-6)


def test_the_folders_own_prompts_are_put_before_the_texts(bert: Path) -> None:
    rewrite(
        bert / "config_sentence_transformers.json",
        lambda c: c.update(prompts={"query": "a ", "passage": "of "}),
    )
    plain, (query, document) = (
        embed(DATA / "tiny-bert"),
        (embed(bert, purpose) for purpose in reversed(Purpose)),
    )
    assert not np.allclose(query, plain, atol=1e-3)
    assert not np.allclose(document, plain, atol=1e-3)
    assert not np.allclose(document, query, atol=1e-3)


def test_lower_case_is_made_where_the_model_wants_it(bert: Path) -> None:
    cased = bert / "tokenizer.json"
    rewrite(cased, lambda content: content["normalizer"].update(lowercase=False))  # type: ignore[attr-defined]
    assert not np.allclose(embed(bert), reference("bert"), atol=1e-3)
    (bert / "sentence_bert_config.json").write_text('{"max_seq_length": 48, "do_lower_case": true}')
    plain_ascii = [number for number, text in enumerate(TEXTS) if text.isascii() and "[" not in text]
    np.testing.assert_allclose(embed(bert)[plain_ascii], reference("bert")[plain_ascii], atol=2e-6)


def test_an_older_pooling_file_with_flags_means_the_same(bert: Path) -> None:
    flags = {
        "word_embedding_dimension": 16,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
    }
    (bert / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    assert read_sentence_model(bert).pooling == "cls"


def test_a_sequence_length_beyond_the_position_table_is_cut_to_it(bert: Path) -> None:
    (bert / "sentence_bert_config.json").write_text('{"max_seq_length": 4096}')
    assert read_sentence_model(bert).max_tokens == 50
    assert embed(bert).shape == (len(TEXTS), 16)


def test_a_config_that_promises_more_positions_than_the_weights_have_is_refused(bert: Path) -> None:
    (bert / "sentence_bert_config.json").write_text('{"max_seq_length": 512}')
    rewrite(bert / "config.json", lambda config: config.update(max_position_embeddings=512))
    with pytest.raises(ConfigurationError, match=r"does not fit its config\.json"):
        embed(bert)


CONFIG, MODULES, POOLING = "config.json", "modules.json", "1_Pooling/config.json"


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        (CONFIG, lambda c: c.update(model_type="modernbert"), "architecture is 'modernbert'"),
        (CONFIG, lambda c: c.update(hidden_act="swish"), "activation is 'swish'"),
        (CONFIG, lambda c: c.update(is_decoder=True), "decoder"),
        (CONFIG, lambda c: c.update(position_embedding_type="relative_key"), "relative positions"),
        (CONFIG, lambda c: c.update(num_attention_heads=3), "impossible sizes"),
        (CONFIG, lambda c: c.update(num_attention_heads="many"), "cannot be read"),
        (CONFIG, lambda c: c.update(num_hidden_layers=3), "lack encoder.layer.2."),
        (MODULES, lambda c: c.append({"type": "x.Dense", "path": "3_Dense"}), "made of .*Dense"),
        (MODULES, lambda c: c.pop(), None),
        (POOLING, lambda c: c.update(pooling_mode="lasttoken"), "pools by lasttoken"),
        (POOLING, lambda c: c.update(pooling_mode=["cls", "mean"]), "pools by cls and mean"),
    ],
)
def test_a_model_that_cannot_be_run_exactly_is_refused_with_the_reason(
    bert: Path, file: str, change: Callable[[dict[str, object]], object], sentence: str | None
) -> None:
    rewrite(bert / file, change)
    if sentence is None:  # without its Normalize module it is another model, but a good one
        assert not np.allclose(np.linalg.norm(embed(bert), axis=1), 1, atol=1e-3)
        return
    with pytest.raises(ConfigurationError, match=sentence):
        embed(bert)


@pytest.mark.parametrize("file", [CONFIG, MODULES, POOLING, "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe rubbish", b"{}"])
def test_a_missing_or_spoilt_file_is_named(bert: Path, file: str, content: bytes | None) -> None:
    (bert / file).unlink()
    if content is not None:
        (bert / file).write_bytes(content)
    if (file, content) == (POOLING, b"{}"):  # as in sentence-transformers: nothing said means the mean
        assert read_sentence_model(bert).pooling == "mean"
        return
    with pytest.raises(
        ConfigurationError, match=file.rpartition("/")[2].replace(".", r"\.") + "|architecture"
    ):
        embed(bert)


def test_a_tokenizer_of_another_model_is_refused(bert: Path) -> None:
    shutil.copy(find_model("all-MiniLM-L6-v2").folder / "tokenizer.json", bert)
    with pytest.raises(ConfigurationError, match="not of the same model"):
        embed(bert)


@pytest.mark.parametrize("kept", [7, 8, 500, 5_000, -1])
def test_weights_that_end_too_early_are_refused(bert: Path, kept: int) -> None:
    weights = bert / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ConfigurationError, match="not a whole safetensors file"):
        embed(bert)


def test_mpnets_buckets_grow_with_the_distance_and_tell_before_from_behind() -> None:
    buckets = mpnet_buckets(200)
    assert buckets[0].tolist()[:9] == [0, 17, 18, 19, 20, 21, 22, 23, 24]
    assert [buckets[distance, 0] for distance in (7, 8, 15, 16, 32, 64, 127, 199)] == [
        7,
        8,
        9,
        10,
        12,
        14,
        15,
        15,
    ]
