"""Self-attention as the introduction derives it: against NumPy, and what follows from the formulas."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlevit.layers import sinusoid_table
from paddlevit.models.self_attention import MultiHeadSelfAttention, PositionEncoding, SelfAttention
from tests.models import checks

ORDER = [2, 0, 3, 1]


def sentence(embed_dim: int = 12, batch: int = 2) -> paddle.Tensor:
    """A batch of sentences of four words."""
    return checks.pictures(batch, (4, embed_dim), 1).squeeze(1)


def head_in_numpy(head: SelfAttention, a: np.ndarray) -> np.ndarray:
    """softmax(q k^T / sqrt(d)) v, one token after the other."""
    wq, wk, wv = (layer.weight.numpy().astype(np.float64) for layer in (head.query, head.key, head.value))
    b = np.zeros((*a.shape[:2], wv.shape[1]))
    for sample in range(a.shape[0]):
        for i in range(a.shape[1]):
            q = a[sample, i] @ wq
            scores = np.array([q @ (token @ wk) for token in a[sample]]) / np.sqrt(wq.shape[1])
            shares = np.exp(scores) / np.exp(scores).sum()
            b[sample, i] = sum(share * (token @ wv) for share, token in zip(shares, a[sample]))
    return b


@pytest.mark.parametrize("head_dim", [None, 5])
def test_one_head_equals_numpy(head_dim):
    head, a = checks.fill_by_name(SelfAttention(12, head_dim)), sentence()
    b = head(a)
    assert b.shape == [2, 4, head_dim or 12]
    assert checks.relative_error(b.numpy(), head_in_numpy(head, a.numpy().astype(np.float64))) < 1e-5


def test_shares_sum_to_one():
    head, seen = checks.fill_by_name(SelfAttention(12, 5)), []
    head.softmax.register_forward_post_hook(lambda _, inputs, output: seen.append(output.numpy()))
    head(sentence())
    assert seen[0].shape == (2, 4, 4)
    np.testing.assert_allclose(seen[0].sum(-1), 1.0, atol=1e-6)
    assert seen[0].std() > 0.01


def test_equal_queries_give_the_mean_of_the_values():
    head, a = checks.fill_by_name(SelfAttention(12)), sentence()
    head.query.weight.set_value(paddle.zeros([12, 12]))
    mean = head.value(a).mean(axis=1, keepdim=True).expand([2, 4, 12])
    np.testing.assert_allclose(head(a).numpy(), mean.numpy(), atol=1e-6)


def test_many_heads_are_single_heads_side_by_side():
    attention, a = checks.fill_by_name(MultiHeadSelfAttention(12, num_heads=3)), sentence()
    heads = [head_in_numpy(head, a.numpy().astype(np.float64)) for head in attention.heads]
    assert [b.shape for b in heads] == [(2, 4, 4)] * 3
    expected = np.concatenate(heads, -1) @ attention.output.weight.numpy().astype(np.float64)
    assert attention(a).shape == a.shape
    assert checks.relative_error(attention(a).numpy(), expected) < 1e-5


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="embed_dim 12 is not a multiple of num_heads 5"):
        MultiHeadSelfAttention(12, 5)


@pytest.mark.parametrize("build", [SelfAttention, lambda dim: MultiHeadSelfAttention(dim, 3)])
def test_order_of_the_words_matters_only_with_positions(build):
    attention, a, encode = checks.fill_by_name(build(12)), sentence(), PositionEncoding(4, 12)
    np.testing.assert_allclose(attention(a[:, ORDER]).numpy(), attention(a)[:, ORDER].numpy(), atol=1e-5)
    assert float((attention(encode(a[:, ORDER])) - attention(encode(a))[:, ORDER]).abs().max()) > 0.01


def test_position_encoding_is_added():
    encode, a = PositionEncoding(6, 512), sentence(512)
    np.testing.assert_array_equal((encode(a)).numpy(), a.numpy() + sinusoid_table(4, 512))
    place = encode(paddle.zeros([1, 6, 512]))[0].numpy().astype(np.float64)
    for pos in range(6):
        for i in (0, 1, 100, 255):
            assert place[pos, 2 * i] == pytest.approx(np.sin(pos / 10000 ** (2 * i / 512)), abs=1e-6)
            assert place[pos, 2 * i + 1] == pytest.approx(np.cos(pos / 10000 ** (2 * i / 512)), abs=1e-6)
    assert len({tuple(row) for row in place}) == 6


def test_going_further_is_one_rotation():
    """PE(pos + k) is the same linear function of PE(pos) at every place."""
    place = PositionEncoding(40, 8)(paddle.zeros([1, 40, 8]))[0].numpy().astype(np.float64)
    further = 7
    rotation = np.zeros((8, 8))
    for i in range(4):
        angle = further / 10000 ** (2 * i / 8)
        pair = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
        rotation[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = pair
    np.testing.assert_allclose(place[:-further] @ rotation.T, place[further:], atol=1e-5)


def test_more_words_than_places():
    with pytest.raises(ValueError, match="There are 4 tokens, and places for 3; raise num_tokens"):
        PositionEncoding(3, 12)(sentence())


def test_positions_are_not_learned_or_saved():
    encode = PositionEncoding(4, 12)
    assert encode.parameters() == []
    assert not encode.state_dict()


def test_every_parameter_learns():
    assert checks.without_gradient(MultiHeadSelfAttention(12, 3), sentence()) == []


def test_sentences_are_independent():
    assert checks.batch_dependence(MultiHeadSelfAttention(12, 3), sentence(batch=3)) < 1e-6


def test_multiply_adds_of_the_two_products():
    assert SelfAttention(12, 5).multiply_adds(sentence()) == 2 * 2 * 4 * 4 * 5


def test_exported_equals_eager(tmp_path):
    """A batch of any size, with the table of positions inside."""
    rows = paddle.nn.Flatten(1, 2)  # [B, 1, N, D] -> [B, N, D]
    network = paddle.nn.Sequential(rows, PositionEncoding(6, 12), MultiHeadSelfAttention(12, 3))
    assert max(checks.export_errors(network, tmp_path, (4, 12), channels=1)) < 1e-5
