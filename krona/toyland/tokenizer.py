"""Toyland's tokenizer: its vocabulary enters, a CLIPTokenizer leaves."""

import json
import string

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from krona.toyland.world import vocabulary

MAX_TOKENS = 24
WORD_END = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"


def train_merges(words: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the pieces and merges of a byte pair encoding under which each word is one piece.

    Every letter, digit and mark is a piece too, alone and at a word's end, so that an unknown
    word falls into letters.
    """
    letters = string.ascii_lowercase + string.digits + string.punctuation
    bpe = Tokenizer(BPE(end_of_word_suffix=WORD_END))
    bpe.pre_tokenizer = WhitespaceSplit()
    trainer = BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        end_of_word_suffix=WORD_END,
        show_progress=False,
        initial_alphabet=list(letters),
    )
    bpe.train_from_iterator(sorted(words), trainer)
    state = bpe.to_str()
    merges = [tuple(pair) for pair in json.loads(state)["model"]["merges"]]
    pieces = sorted(letters) + [letter + WORD_END for letter in sorted(letters)]
    pieces += [left + right for left, right in merges]
    return list(dict.fromkeys(pieces)), merges


def build_tokenizer() -> CLIPTokenizer:
    """Return the tokenizer; <|endoftext|> has the highest id, as open_clip's pooling expects."""
    pieces, merges = train_merges(vocabulary())
    vocab = {piece: number for number, piece in enumerate([*pieces, START, END])}
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        model_max_length=MAX_TOKENS,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
    )
