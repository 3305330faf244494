"""Networks over words, against each text run by itself with plain torch functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnsn import CNSNSpec, crossnorm_active, insert
from cnsn.nets import TextCNN, TextResNet
from cnsn.nets.text_cnn import TextNetwork
from cnsn.nets.text_resnet import MaskedBatchNorm

LENGTHS = (12, 7, 3, 1, 9, 2)


def texts(padding: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 40, (len(LENGTHS), max(LENGTHS)), generator=generator)
    lengths = torch.tensor(LENGTHS)
    tokens[torch.arange(max(LENGTHS)) >= lengths[:, None]] = 0
    return F.pad(tokens, (0, padding)), lengths


def build(name: str, spec: CNSNSpec | None = None) -> TextNetwork:
    torch.manual_seed(1)
    net: TextNetwork
    if name == "cnn":
        net = TextCNN(vocabulary_size=40, dimension=8, filters=6, dropout=0.0)
    else:
        net = TextResNet(vocabulary_size=40, dimension=8, channels=(4, 6), blocks=2, dropout=0.0)
    net = insert(net, spec or CNSNSpec())
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d):
                # Away from the identity, so that a mistake shows.
                module.bias.uniform_(-0.5, 0.5)
                module.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
    return net.double()


def kim_by_hand(net: TextCNN, words: Tensor) -> Tensor:
    """One text (n,), as Kim's equations read; zeros follow a text shorter than a filter."""
    vectors = net.embedding.weight[words].t()
    maxima = []
    for block in net.convolutions:
        conv = block.conv
        assert isinstance(conv, nn.Conv1d)
        width = conv.kernel_size[0]
        padded = F.pad(vectors, (0, max(width - len(words), 0)))
        maxima.append(F.relu(F.conv1d(padded[None], conv.weight, conv.bias)).amax(2)[0])
    return net.fc(torch.cat(maxima))


def test_kims_network_equals_each_text_by_hand() -> None:
    net = build("cnn").eval()
    assert isinstance(net, TextCNN)
    tokens, lengths = texts()
    by_hand = [kim_by_hand(net, row[:n]) for row, n in zip(tokens, LENGTHS, strict=True)]
    torch.testing.assert_close(net(tokens, lengths), torch.stack(by_hand))
    short = net(tokens[[2, 3], :3], lengths[[2, 3]])  # all shorter than the widest filter
    torch.testing.assert_close(short, torch.stack([by_hand[2], by_hand[3]]))


def test_products_by_word_equal_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for plain in (False, True):
        net = build("cnn")
        if plain:

            def convolved(self: TextCNN, tokens: Tensor, blocks: list[nn.Module]) -> list[Tensor]:
                words = self.embedding(tokens).transpose(1, 2)
                return [block.conv(words) for block in blocks]

            monkeypatch.setattr(TextCNN, "_maps_by_word", convolved)
        logits = net(*texts())
        logits.square().sum().backward()
        gradients.append([logits.detach(), *(p.grad for p in net.parameters())])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_names_of_kims_parameters_stay() -> None:
    net = insert(
        TextCNN(vocabulary_size=9, dimension=5, filters=2, num_classes=3),
        CNSNSpec(kind="sn", position="conv"),
    )
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    assert shapes == {
        "embedding.weight": (9, 5),
        **{f"convolutions.{i}.conv.weight": (2, 5, i + 3) for i in range(3)},
        **{f"convolutions.{i}.conv.bias": (2,) for i in range(3)},
        **{f"convolutions.{i}.cnsn.selfnorm.g_fc.weight": (2, 1, 2) for i in range(3)},
        **{f"convolutions.{i}.cnsn.selfnorm.g_bn.weight": (2,) for i in range(3)},
        **{f"convolutions.{i}.cnsn.selfnorm.g_bn.bias": (2,) for i in range(3)},
        "fc.weight": (3, 6),
        "fc.bias": (3,),
    }


SITES = [("cnn", site) for site in ("conv", "act")]
SITES += [("resnet", site) for site in ("pre", "residual", "identity", "post", "out")]


@pytest.mark.parametrize(("name", "site"), SITES)
def test_padding_changes_nothing_with_the_layers_at_work(name: str, site: str) -> None:
    """Logits, running statistics and every gradient of a training step, whatever the batch's L."""
    outcomes = []
    for padding in (0, 9):
        net = build(name, CNSNSpec(kind="cnsn", position=site, crop="both")).train()
        generator = torch.Generator().manual_seed(4)
        with crossnorm_active(net, 3, generator):
            logits = net(*texts(padding))
        logits.square().sum().backward()
        gradients = {n: p.grad for n, p in net.named_parameters()}
        outcomes.append((logits.detach(), gradients, dict(net.named_buffers())))
    torch.testing.assert_close(outcomes[0], outcomes[1])
    plain = build(name).train()(*texts())
    assert not torch.allclose(plain, outcomes[0][0]), "the layers did nothing"


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_a_text_is_judged_by_itself(name: str) -> None:
    net = build(name, CNSNSpec(kind="sn", position="conv" if name == "cnn" else "post")).eval()
    tokens, lengths = texts()
    together = net(tokens, lengths)
    for row, n in enumerate(LENGTHS):
        alone = net(tokens[row : row + 1, :n], lengths[row : row + 1])
        torch.testing.assert_close(alone[0], together[row])


def test_masked_batch_norm_is_batch_norm_of_the_valid_positions() -> None:
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([6, 2, 3])[:, None]
    masked, plain = MaskedBatchNorm(4).double(), nn.BatchNorm1d(4).double()
    y = masked(x.masked_fill(~mask[:, None], torch.nan), mask)
    valid = torch.cat([x[row, :, :n].t() for row, n in enumerate((6, 2, 3))])
    want = plain(valid)
    torch.testing.assert_close(y.transpose(1, 2)[mask], want)
    assert y.transpose(1, 2)[~mask].eq(0).all()
    torch.testing.assert_close(masked.running_var, plain.running_var)


def test_padding_has_no_vector_before_and_after_a_step() -> None:
    net = build("cnn")
    net.load_embedding(torch.ones(40, 8), torch.arange(40) < 20)
    assert net.embedding.weight[0].eq(0).all() and net.embedding.weight[1:20].eq(1).all()
    assert not net.embedding.weight[20:].eq(1).any()
    optimizer = torch.optim.Adam(net.parameters(), 0.1, fused=True)
    net(*texts()).square().sum().backward()
    optimizer.step()
    assert net.embedding.weight[0].eq(0).all() and not net.embedding.weight[1:20].eq(1).all()
    with pytest.raises(ValueError, match=r"\(40, 8\)"):
        net.load_embedding(torch.ones(40, 9), torch.ones(40, dtype=torch.bool))


def test_frozen_vectors_have_no_gradient() -> None:
    net = TextCNN(vocabulary_size=40, dimension=8, filters=6, freeze_embedding=True)
    net(*texts()).sum().backward()
    assert net.embedding.weight.grad is None and net.fc.weight.grad is not None


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_options_build_the_same_network_again(name: str) -> None:
    net = build(name)
    again = type(net)(**net.options)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in net.state_dict().items()
    }


@pytest.mark.parametrize(
    ("cls", "options", "part"),
    [
        (TextCNN, {"vocabulary_size": 1}, "vocabulary_size"),
        (TextCNN, {"widths": ()}, "widths"),
        (TextCNN, {"dropout": 1.0}, "dropout"),
        (TextResNet, {"channels": (0,)}, "channels"),
        (TextResNet, {"blocks": 0}, "blocks"),
    ],
)
def test_bad_options_are_named(cls: type[TextNetwork], options: dict, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        cls(**{"vocabulary_size": 9, **options})


def test_input_of_other_shapes_is_refused() -> None:
    with pytest.raises(ValueError, match="`lengths` of shape"):
        build("cnn")(torch.ones(2, 3, dtype=torch.int64), torch.tensor([3]))
