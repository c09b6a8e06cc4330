"""Tests of the log-probabilities in chunks, against all logits at the same time."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from finetune.training.models.language_model import load_model
from recipes.models import head as heads
from recipes.models.head import Head, gathered_logps
from tests.tiny import make_model

N, H, V = 23, 8, 50


def parts(bias: bool = False, dtype: torch.dtype = torch.float32, vocabulary: int = V):
    torch.manual_seed(0)
    layer = nn.Linear(H, vocabulary, bias=bias, dtype=dtype)
    hidden = torch.randn(N, H, dtype=dtype, requires_grad=True)
    return layer, hidden, torch.randint(vocabulary, (N,)), torch.randn(N)


def expected(head: Head, hidden, tokens, weights):
    """Return log-probabilities and the gradients of a weighted sum, from all logits."""
    logps = gathered_logps(head.adjusted(head.layer(hidden).float()), tokens)
    target = [hidden, *(p for p in head.layer.parameters() if p.requires_grad)]
    return logps, torch.autograd.grad((logps * weights).sum(), target)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.3, None), (1.0, 2.0), (1.7, 0.5)])
def test_chunks_give_the_log_probabilities_and_gradients_of_all_logits(
    monkeypatch, chunk, frozen, bias, scale, softcap
):
    monkeypatch.setattr(heads, "chunk_tokens", lambda vocabulary, like: chunk)
    layer, hidden, tokens, weights = parts(bias)
    layer.requires_grad_(not frozen)
    head = Head(layer, scale, softcap)
    assert head.is_frozen is frozen
    target, gradients = expected(head, hidden, tokens, weights)
    logps = head.token_logps(hidden, tokens)
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps, target, atol=1e-6, rtol=1e-6)
    (logps * weights).sum().backward()
    result = [hidden.grad, *(p.grad for p in layer.parameters() if p.requires_grad)]
    for ours, theirs in zip(result, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_without_gradients_nothing_is_stored():
    layer, hidden, tokens, _ = parts()
    layer.requires_grad_(False)
    with torch.no_grad():
        logps = Head(layer).token_logps(hidden, tokens)
    assert not logps.requires_grad
    torch.testing.assert_close(logps, expected(Head(layer), hidden, tokens, 1.0)[0])


def test_bfloat16_stays_close_to_float32():
    layer, hidden, tokens, weights = parts(dtype=torch.bfloat16)
    layer.requires_grad_(False)
    exact = Head(nn.Linear(H, V, bias=False).requires_grad_(False))
    exact.layer.weight.data = layer.weight.data.float()
    target, (gradient,) = expected(exact, hidden.detach().float().requires_grad_(), tokens, weights)
    logps = Head(layer).token_logps(hidden, tokens)
    torch.testing.assert_close(logps, target, atol=3e-2, rtol=0)
    (logps * weights).sum().backward()
    assert hidden.grad.dtype == torch.bfloat16
    torch.testing.assert_close(hidden.grad.float(), gradient, atol=3e-2, rtol=0)


class Largest(TorchDispatchMode):
    """The largest number of elements of any tensor that an operation returns."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            # A view of the weight allocates no memory.
            if isinstance(value, torch.Tensor) and value._base is None:
                self.size = max(self.size, value.numel())
        return out


@pytest.mark.parametrize("frozen", [True, False])
def test_a_larger_vocabulary_needs_no_larger_tensor(monkeypatch, frozen):
    """Check tensors of 16 · V at most for 4,000 tokens, and the same size for twice the words."""
    monkeypatch.setitem(heads.CHUNK_NUMBERS, "cpu", 2**14)
    sizes = []
    for vocabulary in (512, 1024):
        layer = nn.Linear(H, vocabulary, bias=False).requires_grad_(not frozen)
        hidden = torch.randn(4000, H, requires_grad=True)
        with Largest() as largest:
            Head(layer).token_logps(hidden, torch.zeros(4000, dtype=torch.long)).sum().backward()
        sizes.append(largest.size)
    assert sizes == [4000 * H] * 2


def test_no_tokens_have_no_log_probabilities():
    layer, hidden, tokens, _ = parts()
    for frozen in (True, False):
        layer.requires_grad_(not frozen)
        assert Head(layer).token_logps(hidden[:0], tokens[:0]).shape == (0,)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_slice_of_hidden_states_does_not_repeat_the_weights_of_the_head(tmp_path, frozen):
    """transformers computes the logits of the last positions from a slice of all hidden states."""
    model = load_model(str(make_model(tmp_path / "model")), "float32").requires_grad_(not frozen)
    rows, words = 5, model.config.vocab_size
    hidden = torch.randn(rows, 7, model.config.hidden_size)
    sizes: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            sizes.extend(value.numel() for value in args if isinstance(value, torch.Tensor))
            return func(*args, **(kwargs or {}))

    layer = model.get_output_embeddings()
    with torch.no_grad(), Sizes():
        logits = layer(hidden[:, -1:])
    assert logits.shape == (rows, 1, words)
    torch.testing.assert_close(logits[:, 0], hidden[:, -1] @ layer.weight.detach().T)
    assert max(sizes) <= max(layer.weight.numel(), hidden.numel())
