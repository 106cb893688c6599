"""Toyland's tokenizer: the committed vocabulary enters, a CLIPTokenizer leaves.

Token ids are part of the trained weights, so the vocabulary is an asset; `write_tokenizer` made
it, and a new one needs new weights.
"""

import string
from collections import Counter
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from krona.toyland.world import vocabulary

MAX_TOKENS = 24
WORD_END = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
FOLDER = Path(__file__).parent / "assets" / "tokenizer"
LETTERS = sorted(string.ascii_lowercase + string.digits + string.punctuation)

Pair = tuple[str, str]


def build_tokenizer() -> CLIPTokenizer:
    """Load the committed tokenizer; <|endoftext|> has the highest id, as open_clip expects."""
    return CLIPTokenizer.from_pretrained(FOLDER)


def train_merges(words: list[str]) -> list[Pair]:
    """Return the merges of a byte pair encoding under which each word is one piece.

    The commonest pair merges first, the alphabetically first among equals, until no word has
    two pieces.
    """
    split = [[*word[:-1], word[-1] + WORD_END] for word in sorted(set(words))]
    merges: list[Pair] = []
    while any(len(pieces) > 1 for pieces in split):
        pairs = Counter(pair for pieces in split for pair in pairwise(pieces))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = [_merge(pieces, best) for pieces in split]
    return merges


def _merge(pieces: list[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def make_tokenizer(words: list[str]) -> CLIPTokenizer:
    """Return a tokenizer that keeps the words whole and lets others fall into letters.

    Every letter, digit and mark is a piece, alone and at a word's end.
    """
    merges = train_merges(words)
    pieces = [*LETTERS, *(letter + WORD_END for letter in LETTERS)]
    pieces = list(dict.fromkeys([*pieces, *(left + right for left, right in merges), START, END]))
    return CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=merges,
        model_max_length=MAX_TOKENS,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
    )


def write_tokenizer(folder: Path = FOLDER) -> None:
    """Write a new vocabulary, for which the weights must then be trained anew."""
    make_tokenizer(vocabulary()).save_pretrained(folder)
