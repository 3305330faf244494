"""From text to numbers: cleaning, words, vocabulary, and what torchtext must not do."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data.text.tokens import PAD, UNKNOWN, Vocabulary, clean, tokenise, undo_treebank


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("One.<br /><br />Two<BR>three</p>", "one . two three"),
        ("Tom &amp; Jerry&#39;s caf&eacute;", "tom & jerry ' s café"),
        ("It’s “good” – really…", "it ' s good - really . . ."),
        (r"half \/ half, 4\*", "half / half , 4*"),
        ("it\x92s over\x85", "it ' s over . . ."),
        ("don`t", "don ' t"),
        ("Ｆｕｌｌ ﬁlm cafe\u0301", "full film café"),
        ("a\u200bb so\u00adft \ufeffx", "ab soft x"),
        ("1 < 2 <pad> <unk>", "1 < 2 <pad> <unk>"),
        ("A great movie!", "a great movie !"),
    ],
)
def test_text_is_cleaned_and_split(text: str, want: str) -> None:
    assert " ".join(tokenise(text)) == want


def test_plain_text_is_left_alone() -> None:
    text = "A warm, funny film (really); it's 10/10!"
    assert clean(text) == text


@pytest.mark.parametrize(
    ("sentence", "plain"),
    [
        ("It is n't bad , ca n't complain", "It isn't bad , can't complain"),
        ("It 's -LRB- not -rrb- `` good ''", 'It \'s ( not ) " good "'),
        ("do N'T", "doN'T"),
        ("in n't-like places", "inn't-like places"),
    ],
)
def test_treebank_tokens_are_undone(sentence: str, plain: str) -> None:
    assert undo_treebank(sentence) == plain


def test_a_sentence_of_the_treebank_has_the_words_of_a_review() -> None:
    assert tokenise(undo_treebank("It does n't work , I 'd say .")) == tokenise(
        "It doesn't work, I'd say."
    )


def test_vocabulary_is_by_count_then_alphabet_with_rare_words_unknown() -> None:
    texts = [["b", "b", "a", "a", "c", "<pad>"], ["c", "c", "d"]]
    vocabulary = Vocabulary.of_texts(texts, min_count=2)
    assert vocabulary.words == ["<pad>", "<unk>", "c", "a", "b"]
    numbers = vocabulary.encode(["a", "d", "<pad>", "c"])
    assert numbers.dtype == np.int32 and numbers.tolist() == [3, UNKNOWN, UNKNOWN, 2]
    assert PAD == 0 and len(vocabulary) == 5
    assert Vocabulary.of_texts(texts, max_words=1).words == ["<pad>", "<unk>", "c"]


def test_vocabulary_comes_back_from_its_words() -> None:
    vocabulary = Vocabulary(Counter({"x": 3, "é": 3, "a'": 1, "z": 9}))
    again = Vocabulary.of_words(vocabulary.words)
    assert again.words == vocabulary.words
    words = ["z", "a'", "é", "x", "other"]
    assert again.encode(words).tolist() == vocabulary.encode(words).tolist()
    with pytest.raises(ValueError, match="begin with"):
        Vocabulary.of_words(["a", "b"])


def test_the_part_of_torchtext_that_drops_verification_is_not_used(root: Path) -> None:
    """Its `Vectors` replaces the default context of the whole process, its extractor escapes."""
    for package in ("cnsn", "data", "tasks"):
        for path in (root / package).rglob("*.py"):
            for line in path.read_text().splitlines():
                if "import" in line and "torchtext" in line:
                    assert line in (
                        "from torchtext.data.utils import get_tokenizer",
                        "from torchtext.vocab import Vocab",
                    ), path
