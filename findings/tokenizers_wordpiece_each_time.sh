#!/usr/bin/env bash
# tokenizers 0.23.3: a WordPiece tokenizer trained on the same text is another one each time: other ids for the same words, and other words.
#
# What: 50 lines of made-up words, and a tokenizer trained on them six times in one process: WordPiece, BPE, BPE with the prefix "##" and with the
#   suffix "</w>", Unigram and WordLevel. Training has no seed, nor any random number in it.
# Guess: the same six times, for each of them; where two pairs are as frequent, some order that is always the same.
# Seen: BPE, Unigram and WordLevel are so. WordPiece, and BPE with a prefix or suffix, number the letters within words in an order drawn anew each
#   time; pairs that are as frequent are joined in that order. Vocabularies of one text differ in ids and in words, and the same
#   lines become other ids, and more or fewer of them.
# For this project: records hold the ids of tokens, and a vocabulary's fingerprint is of its words in the order of ids: of
#   two trainings of one text the fingerprints differ, rightly. Who trains a tokenizer keeps its file with the memory; docs/service.md says it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check tokenizers==0.23.3

"$folder/venv/bin/python" -I -W error - <<'PYTHON'
import random

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

TIMES, LETTERS = 6, "abcdefgh"
rng = random.Random(0)
words = ["".join(rng.choices(LETTERS, k=rng.randint(2, 7))) for _ in range(400)]
lines = [" ".join(rng.choices(words, k=12)) for _ in range(50)]
common = {"vocab_size": 300, "special_tokens": ["[UNK]"], "show_progress": False}
kinds = {
    "WordPiece": lambda: (models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(**common)),
    "BPE": lambda: (models.BPE(), trainers.BpeTrainer(**common)),
    "BPE, prefix": lambda: (models.BPE(continuing_subword_prefix="##"), trainers.BpeTrainer(continuing_subword_prefix="##", **common)),
    "BPE, suffix": lambda: (models.BPE(end_of_word_suffix="</w>"), trainers.BpeTrainer(end_of_word_suffix="</w>", **common)),
    "Unigram": lambda: (models.Unigram(), trainers.UnigramTrainer(unk_token="[UNK]", **common)),
    "WordLevel": lambda: (models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer(**common)),
}


def trained(kind):
    model, trainer = kinds[kind]()
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


print(f"tokenizers {tokenizers.__version__}: {len(lines)} lines, trained on {TIMES} times")
print(f"expected: one tokenizer {TIMES} times")
seen = {}
for kind in kinds:
    made = [trained(kind) for _ in range(TIMES)]
    vocabularies = [tokenizer.get_vocab() for tokenizer in made]
    assert all(trained_once.encode(lines[0]).ids == Tokenizer.from_str(trained_once.to_str()).encode(lines[0]).ids for trained_once in made)
    numbered = len({tuple(sorted(vocabulary.items())) for vocabulary in vocabularies})
    spelled = len({tuple(sorted(vocabulary)) for vocabulary in vocabularies})
    counts = sorted({sum(len(encoding.ids) for encoding in tokenizer.encode_batch(lines)) for tokenizer in made})
    seen[kind] = numbered
    print(f"seen: {kind + ':':12} {numbered} vocabularies, of {spelled} sets of words; tokens of all lines: {counts}")
    if kind == "WordPiece":
        first = [sorted(vocabulary, key=vocabulary.get)[1 + len(LETTERS) : 1 + 2 * len(LETTERS)] for vocabulary in vocabularies[:2]]
        print(f"      what follows the single letters: {first}")
print("source: tokenizers/src/models/bpe/trainer.rs: tokenize_words gives prefixed and suffixed letters their ids as it goes through a hash map of words;")
print("        compute_alphabet sorts the plain ones; Merge compares pairs of one count by their ids")
# Eight letters have 40,320 orders: that six are alike does not come about by chance.
for kind in ("WordPiece", "BPE, prefix", "BPE, suffix"):
    assert seen[kind] > 1, f"changed: {kind} is the same each time"
for kind in ("BPE", "Unigram", "WordLevel"):
    assert seen[kind] == 1, f"changed: {kind} has {seen[kind]} vocabularies"
print("as described")
PYTHON
