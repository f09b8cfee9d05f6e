"""Tiny BERTs with random weights: one that embeds texts and one that tells their class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LABELS = {0: "sad", 1: "glad", 2: "neither"}
_CONTEXT = 64
_WORDS = "the|a|quick|brown|fox|dog|jumps|over|lazy|hello|world|good|bad|day|.|,"
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_tiny_embedder(directory: Path, *, seed: int = 0) -> Path:
    """Write a sentence-transformers folder: a BERT whose tokens' mean is brought to length 1."""
    from transformers import BertModel

    _build(directory, BertModel, seed)
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 128, "pooling_mode_mean_tokens": True})
    )
    (directory / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": _CONTEXT, "do_lower_case": False})
    )
    return directory


def build_tiny_classifier(directory: Path, *, seed: int = 0, **config: Any) -> Path:
    """Write a BERT that gives a text one of LABELS; `config` adds to its config.json."""
    from transformers import BertForSequenceClassification

    labels = {"id2label": LABELS, "label2id": {name: at for at, name in LABELS.items()}}
    return _build(directory, BertForSequenceClassification, seed, **labels, **config)


def _build(directory: Path, kind: Any, seed: int, **config: Any) -> Path:
    import torch
    from transformers import BertConfig

    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = _write_tokenizer(directory)
    bert = BertConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=_CONTEXT,
        initializer_range=0.3,
        **config,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(bert)
    model.save_pretrained(directory, safe_serialization=True)
    return directory


def _write_tokenizer(directory: Path) -> int:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: at for at, word in enumerate((*_SPECIAL, *_WORDS.split("|")))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=_CONTEXT,
    )
    fast.save_pretrained(directory)
    return len(vocabulary)
