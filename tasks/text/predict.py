"""`python -m tasks.text predict`: the sentiment of any text, from a checkpoint alone.

Each line of output is the label, its probability and the text, separated by tabs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnsn import CNSNSpec, insert, nets
from cnsn.checkpoint import key_report, not_finite, read_state_dict
from data.text.batches import EncodedTexts
from data.text.tokens import Vocabulary, tokenise

__all__ = ["Predictor", "predict"]

LABELS = ("negative", "positive")
PREFIX = "network."  # of the network's weights in a checkpoint


class Predictor:
    """A trained network with its vocabulary, both from a checkpoint of the text task.

    Args:
        path: the checkpoint.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or none of this task.
    """

    def __init__(self, path: str | Path) -> None:
        state = read_state_dict(path)
        content = torch.load(path, map_location="cpu", weights_only=True).get("text")
        if not isinstance(content, dict):
            raise ValueError(
                f"Expected {path} to be a checkpoint of `python -m tasks.text fit`, but it has no "
                "vocabulary: it belongs to another task."
            )
        self.vocabulary = Vocabulary.of_words(content["vocabulary"])
        self.max_length: int | None = content["max_length"]
        self.network = _network(content)
        own = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
        if report := key_report(self.network, own):
            raise ValueError(f"Expected {path} to hold its network's weights, but {report}.")
        if bad := not_finite(own):
            raise ValueError(f"Expected finite weights in {path}, but NaN or infinite are {bad}.")
        self.network.load_state_dict(own, strict=True)
        self.network.eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], batch_size: int = 100) -> Tensor:
        """Probabilities (N, classes) of the texts.

        Raises:
            ValueError: a text has no words.
        """
        rows = []
        for number, text in enumerate(texts, start=1):
            words = tokenise(text)[: self.max_length]
            if not words:
                raise ValueError(f"Expected text {number} to have words, but got {text!r}.")
            rows.append(self.vocabulary.encode(words))
        encoded = EncodedTexts.of_arrays(rows, [0] * len(rows))
        by_length = encoded.lengths.argsort(stable=True)
        batches = [encoded[positions] for positions in by_length.split(batch_size)]
        logits = torch.cat([self.network(b["tokens"], b["length"]) for b in batches])
        finite = logits.isfinite().all(-1)
        if not finite.all():
            number = int(by_length[~finite].min()) + 1
            raise ValueError(
                f"Expected finite outputs, but those of the network are NaN or infinite on text "
                f"{number}: take another checkpoint."
            )
        return torch.empty_like(logits).index_copy_(0, by_length, logits.softmax(-1))


def _network(content: dict[str, Any]) -> nn.Module:
    builders: dict[str, type[nn.Module]] = {"TextCNN": nets.TextCNN, "TextResNet": nets.TextResNet}
    options = dict(content["cnsn"])
    stages = options["stages"]
    options["stages"] = None if stages is None else tuple(stages)
    network = builders[content["network"]](**content["options"])
    return insert(network, CNSNSpec(**options))


def _read_texts(path: Path) -> list[str]:
    """The lines of a file, one text each."""
    if not path.exists() or path.is_dir():  # a pipe is fine
        raise ValueError(f"Expected a file of texts at {path}, but there is no such file.")
    texts = []
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"Expected {path}, line {number} to be UTF-8, but it is not ({error.reason} at "
                f"byte {error.start} of the line): save the file as UTF-8."
            ) from error
        if not tokenise(text):
            raise ValueError(
                f"Expected a text in {path}, line {number}, but it is empty: remove the line."
            )
        texts.append(text)
    if not texts:
        raise ValueError(f"Expected texts in {path}, one a line, but it is empty.")
    return texts


def predict(arguments: Sequence[str]) -> None:
    """Run the command; a user's error is one sentence and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.text predict",
        description="Label, probability and text, separated by tabs, a line for each text.",
    )
    parser.add_argument("--ckpt_path", type=Path, required=True, help="of `tasks.text fit`")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", action="append", help="a text; may be given several times")
    source.add_argument("--file", type=Path, help="UTF-8 file with a text a line")
    options = parser.parse_args(arguments)
    try:
        predictor = Predictor(options.ckpt_path)
        texts = options.text or _read_texts(options.file)
        probabilities = predictor(texts)
    except (ValueError, OSError) as error:
        if os.environ.get("CNSN_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")
    for text, row in zip(texts, probabilities.tolist(), strict=True):
        label = max(range(len(row)), key=row.__getitem__)
        print(f"{LABELS[label]}\t{row[label]:.4f}\t{' '.join(text.split())}")
