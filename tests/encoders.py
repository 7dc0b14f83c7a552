"""Small encoders of three families, made here, saved as a hub folder would be."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel, XLMRobertaConfig
from transformers import XLMRobertaModel as XLMR

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
FAMILIES = ("bert", "roberta", "xlm-r")


def save_encoder(folder: Path, family: str, utterances: list[str]) -> Path:
    """Writes a random encoder and its tokenizer; ``AutoModel`` and ``AutoTokenizer`` read the folder."""
    torch.manual_seed(0)
    if family == "bert":
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=400, special_tokens=[*names.values(), "[MASK]"], show_progress=False
        )
    else:
        names = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
        if family == "roberta":
            backend = Tokenizer(models.BPE())
            backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
            alphabet = pre_tokenizers.ByteLevel.alphabet()
            trainer = trainers.BpeTrainer(
                vocab_size=400, special_tokens=list(names.values()), initial_alphabet=alphabet, show_progress=False
            )
        else:
            backend = Tokenizer(models.Unigram())
            backend.pre_tokenizer = pre_tokenizers.Metaspace()
            trainer = trainers.UnigramTrainer(
                vocab_size=400, special_tokens=list(names.values()), unk_token="<unk>", show_progress=False
            )
    backend.train_from_iterator(utterances, trainer)
    first, last = names["cls_token"], names["sep_token"]
    marks = [(mark, backend.token_to_id(mark)) for mark in (first, last)]
    backend.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=marks)
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    pad = backend.token_to_id(names["pad_token"])
    config, model = {
        "bert": (BertConfig, BertModel),
        "roberta": (RobertaConfig, RobertaModel),
        "xlm-r": (XLMRobertaConfig, XLMR),
    }[family]
    made = config(vocab_size=backend.get_vocab_size(), pad_token_id=pad, max_position_embeddings=300, **SIZES)
    model(made).save_pretrained(folder)
    return folder
