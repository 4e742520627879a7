"""Makes the reference vectors that tests/adapters/test_local*.py compare with, by sentence-transformers on
PyTorch, which the project itself does without. Run it once, in an environment of its own:

    pip install sentence-transformers==6.2.0 torch==2.13.0
    python tests/adapters/data/make_local_reference.py FOLDER_OF_ALL_MINILM_L6_V2

It writes local_texts.json and local_minilm.npy (vectors of all-MiniLM-L6-v2 for these texts), and, for each
architecture, a tiny random model in the format of sentence-transformers with reference.npy beside it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

HERE = Path(__file__).parent

PROSE = (
    "The harbour master keeps a ledger of every vessel that enters before the tide turns, and against each "
    "name he writes the draught, the cargo, and the hour at which the pilot came aboard. "
)
TEXTS = [
    "",
    " ",
    "a",
    "A",
    "!",
    "Hello, world.",
    "How do I reset my password?",
    "The quick brown fox jumps over the lazy dog.",
    "the quick brown fox jumps over the lazy dog",
    "Invoice 2024-0117: 3 × 49,90 € = 149,70 € (VAT incl.)",
    "def embed(texts: list[str]) -> np.ndarray:\n    return model.encode(texts)",
    "SELECT id, embedding <=> $1 AS distance FROM chunks ORDER BY 2 LIMIT 10;",
    "# Heading\n\n- one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |",
    "https://example.org/path/to/page?query=vector%20search&lang=en#section-2",
    "Tabs\tand\nnew\r\nlines\n\n\nand     spaces",
    "zero\u200bwidth and soft\u00adhyphen and \ufeffmark",
    "naïve café résumé über Straße Ærø Łódź",
    "NAÏVE CAFÉ RÉSUMÉ ÜBER STRASSE",
    "e\u0301 combining against é composed",
    "北京是中华人民共和国的首都。",
    "東京は日本の首都です。人口は約1400万人。",
    "서울은 대한민국의 수도이다.",
    "Москва — столица России, крупнейший город страны.",
    "القاهرة هي عاصمة مصر وأكبر مدنها.",
    "नई दिल्ली भारत की राजधानी है।",
    "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας.",
    "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    "🚀🔥 shipping it! 👩‍👩‍👧‍👦 🇪🇺",
    "😀" * 50,
    "∑_{i=1}^{n} x_i² ≤ ∫₀^∞ e^{-t} dt",
    "[CLS] literal special tokens [SEP] in the text [MASK] [PAD]",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "x" * 150,
    "1234567890 " * 30,
    "\u0007bell and \u001b[31mescape\u001b[0m and \ufffd",
    PROSE,
    PROSE * 4,
    PROSE * 7,
    PROSE * 12,
    "中" * 600,
    "word " * 253 + "end",
    "word " * 254,
    "word " * 255 + "beyond the limit, unseen",
]

WORDS = [
    "the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on",
    "not", "he", "his", "at",
]  # fmt: skip
PIECES = [
    *"abcdefghijklmnopqrstuvwxyz0123456789.,!?",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"),
]


def tiny_tokenizer(begin: str, end: str, padding: str, unknown: str, pad_id: int) -> PreTrainedTokenizerFast:
    special = [begin, padding, end, unknown] if pad_id == 1 else [padding, begin, end, unknown]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*special, *WORDS, *PIECES]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, vocabulary[begin]), (end, vocabulary[end])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token=begin, sep_token=end, pad_token=padding, unk_token=unknown,
        model_max_length=48,
    )  # fmt: skip


def tiny_models() -> dict[str, tuple]:
    """Name: (encoder, tokenizer, pooling, normalised or not)."""
    bert = tiny_tokenizer("[CLS]", "[SEP]", "[PAD]", "[UNK]", 0)
    roberta = tiny_tokenizer("<s>", "</s>", "<pad>", "<unk>", 1)
    size = {"vocab_size": len(bert), "initializer_range": 0.4}
    common = {
        **size, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    }  # fmt: skip
    short = {**common, "max_position_embeddings": 50}
    bert_encoder = BertModel(BertConfig(**short), add_pooling_layer=False)
    distilbert_encoder = DistilBertModel(
        DistilBertConfig(**size, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=50)
    )
    roberta_config = RobertaConfig(**short, type_vocab_size=1, pad_token_id=1, hidden_act="relu")
    roberta_encoder = RobertaModel(roberta_config, add_pooling_layer=False)
    mpnet_encoder = MPNetModel(MPNetConfig(**short, pad_token_id=1), add_pooling_layer=False)
    return {
        "bert": (bert_encoder, bert, "cls", True),
        "distilbert": (distilbert_encoder, bert, "mean", True),
        "roberta": (roberta_encoder, roberta, "max", False),
        "mpnet": (mpnet_encoder, roberta, "mean", True),
    }


def main(minilm: str) -> None:
    (HERE / "local_texts.json").write_text(json.dumps(TEXTS, ensure_ascii=True, indent=0) + "\n")
    np.save(HERE / "local_minilm.npy", SentenceTransformer(minilm, device="cpu").encode(TEXTS, batch_size=1))
    torch.manual_seed(20261122)
    for name, (encoder, tokenizer, pooling, normalised) in tiny_models().items():
        plain, folder = HERE / "plain", HERE / f"tiny-{name}"
        for parameter in encoder.parameters():  # biases too, which start at zero
            torch.nn.init.normal_(parameter, std=0.4)
        encoder.save_pretrained(plain)
        tokenizer.save_pretrained(plain)
        modules = [Transformer(str(plain)), Pooling(16, pooling)] + [Normalize()] * normalised
        model = SentenceTransformer(modules=modules, device="cpu")
        shutil.rmtree(folder, ignore_errors=True)
        model.save(str(folder), create_model_card=False)
        np.save(folder / "reference.npy", model.encode(TEXTS, batch_size=1))
        shutil.rmtree(plain)


if __name__ == "__main__":
    main(sys.argv[1])
