"""Tiny tokenizers of three kinds, made without files."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

END, START = "</s>", "<s>"


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2: no start token, no padding token, blanks belong to the word after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([END, *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, bos_token=END)


def sentence_piece() -> PreTrainedTokenizerFast:
    """As Llama: a start token, and every text begins as a new word."""
    letters = ["\n", *(chr(i) for i in range(33, 127))]
    vocabulary = {token: i for i, token in enumerate([START, END, "▁", *letters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A {START} $B", special_tokens=[(START, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=START, eos_token=END)


def bert(**tokens: str) -> PreTrainedTokenizerFast:
    """As BERT: [CLS] a [SEP] b [SEP] with sentence types, and no end token."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    vocabulary = {token: i for i, token in enumerate([*special, "a", "b", "c"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **tokens,
    )
