"""The factors are sums over tokens, the prices what the quadratic loss says, and the update its optimum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.conftest import tiny_llama
from workers.models.family import family_of
from workers.pruning.kronecker import Curvature, curvature_of, matrix_of, prices, put_matrix, without
from workers.pruning.llm_surgeon import linear_layers

ROWS, COLUMNS, DAMPING = 4, 5, 0.05
SEQUENCES = torch.randint(300, (6, 10), generator=torch.Generator().manual_seed(1))


def random_layer(seed: int) -> tuple[Tensor, Curvature]:
    """A weight [4, 5] and factors of full rank."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(ROWS, COLUMNS, dtype=torch.float64, generator=random)
    tokens = [torch.randn(9, size, dtype=torch.float64, generator=random) for size in (COLUMNS, ROWS)]
    return weight, Curvature(*(each.T @ each for each in tokens))


def damped(factor: Tensor) -> Tensor:
    return factor + DAMPING * factor.trace() / len(factor) * torch.eye(len(factor), dtype=torch.float64)


def rise(change: Tensor, inputs: Tensor, outputs: Tensor) -> float:
    """½·δᵀ(G ⊗ A)δ, with the Kronecker product written out."""
    flat = change.flatten()
    return 0.5 * float(flat @ torch.kron(outputs, inputs) @ flat)


def mask(size: int, places: list[int]) -> Tensor:
    return torch.isin(torch.arange(size), torch.tensor(places, dtype=torch.int64))


def optimum(weight: Tensor, curvature: Curvature, gone: Tensor) -> Tensor:
    """W with zeros at `gone` and the rest where the quadratic with the damped factors is least: solved densely."""
    hessian = torch.kron(damped(curvature.outputs), damped(curvature.inputs))
    held = gone.flatten()
    change = torch.zeros(weight.numel(), dtype=torch.float64)
    change[held] = -weight.flatten()[held]
    change[~held] = torch.linalg.solve(hessian[~held][:, ~held], -hessian[~held][:, held] @ change[held])
    return weight + change.view_as(weight)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("rows", "columns"), [([1], []), ([0, 3], []), ([], [2]), ([], [0, 1, 4]), ([2], [3]), ([0, 1, 3], [1, 4])]
)
def test_the_update_is_the_optimum_of_the_quadratic(seed: int, rows: list[int], columns: list[int]) -> None:
    weight, curvature = random_layer(seed)
    p, q = mask(ROWS, rows), mask(COLUMNS, columns)
    gone = p[:, None] | q[None]
    after = without(weight, curvature, p, q, DAMPING)
    assert not after[gone].any()
    assert torch.allclose(after, optimum(weight, curvature, gone), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_a_price_is_the_true_rise_of_the_quadratic(seed: int) -> None:
    """With the factor that the price inverts damped, and the other as it is."""
    weight, curvature = random_layer(seed)
    of_rows, of_columns = prices(weight, curvature, DAMPING)
    for row in range(ROWS):
        after = without(weight, curvature, mask(ROWS, [row]), mask(COLUMNS, []), DAMPING)
        wanted = rise(after - weight, curvature.inputs, damped(curvature.outputs))
        assert float(of_rows[row]) == pytest.approx(wanted, rel=1e-9)
    for column in range(COLUMNS):
        after = without(weight, curvature, mask(ROWS, []), mask(COLUMNS, [column]), DAMPING)
        wanted = rise(after - weight, damped(curvature.inputs), curvature.outputs)
        assert float(of_columns[column]) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_releases_joint_update_is_another_and_no_better(seed: int) -> None:
    weight, curvature = random_layer(seed)
    p, q = mask(ROWS, [0, 2]), mask(COLUMNS, [1, 3])
    exact, release = (without(weight, curvature, p, q, DAMPING, joint) for joint in ("exact", "release"))
    assert (exact - release).abs().max() > 1e-3
    rises = [rise(each - weight, damped(curvature.inputs), damped(curvature.outputs)) for each in (exact, release)]
    assert rises[0] < rises[1]
    assert not release[p].any() and not release[:, q].any()
    for only in ((p, torch.zeros_like(q)), (torch.zeros_like(p), q)):
        assert torch.allclose(*(without(weight, curvature, *only, DAMPING, joint) for joint in ("exact", "release")))


def test_what_no_gradient_reaches_and_what_carries_nothing_is_free() -> None:
    weight, curvature = random_layer(0)
    silent, empty = mask(ROWS, [1]), mask(COLUMNS, [2])
    outputs, inputs = curvature.outputs * ~(silent[:, None] | silent), curvature.inputs * ~(empty[:, None] | empty)
    curvature = Curvature(inputs, outputs).balanced()
    of_rows, of_columns = prices(weight, curvature, DAMPING)
    assert of_rows[1] == 0 and of_columns[2] == 0
    assert (of_rows > 0).sum() == ROWS - 1 and (of_columns > 0).sum() == COLUMNS - 1
    after = without(weight, curvature, silent, empty, DAMPING)
    assert torch.allclose(after[~silent][:, ~empty], weight[~silent][:, ~empty], atol=1e-12)


def test_a_layer_without_any_gradient_is_free_and_does_not_break() -> None:
    weight, curvature = random_layer(0)
    dead = Curvature(curvature.inputs, torch.zeros_like(curvature.outputs)).balanced()
    of_rows, of_columns = prices(weight, dead, DAMPING)
    assert not of_rows.any() and not of_columns.any()
    assert without(weight, dead, mask(ROWS, [0]), mask(COLUMNS, [0]), DAMPING).isfinite().all()


def test_balancing_gives_both_factors_one_norm_and_keeps_their_product() -> None:
    curvature = random_layer(0)[1]
    lopsided = Curvature(curvature.inputs * 1e-6, curvature.outputs * 1e4)
    balanced = lopsided.balanced()
    assert float(balanced.inputs.norm()) == pytest.approx(float(balanced.outputs.norm()))
    assert torch.allclose(
        torch.kron(balanced.outputs, balanced.inputs), torch.kron(lopsided.outputs, lopsided.inputs), rtol=1e-10
    )


@contextmanager
def noting(layers: dict[str, nn.Linear]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Each layer's input and output tensors of a forward pass, the outputs with their gradients kept."""
    noted: dict[str, tuple[Tensor, Tensor]] = {}
    names = {layer: name for name, layer in layers.items()}

    def note(layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        noted[names[layer]] = (inputs[0].detach(), output)

    hooks = [layer.register_forward_hook(note) for layer in layers.values()]
    yield noted
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("has_bias", [False, True])
def test_the_factors_are_sums_over_all_tokens(has_bias: bool) -> None:
    model = tiny_llama(attention_bias=has_bias)
    layers = linear_layers(model, family_of(model.config))
    assert len(layers) == 7 * model.config.num_hidden_layers
    with noting(layers) as noted:
        logits = model(input_ids=SEQUENCES, use_cache=False).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), SEQUENCES[:, 1:].flatten(), reduction="sum")
        loss.backward()
    model.zero_grad(set_to_none=True)
    found, mean_loss = curvature_of(model, layers, SEQUENCES.split(4))
    assert mean_loss == pytest.approx(loss.item() / (6 * 9), rel=1e-5)
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    for name, (inputs, output) in noted.items():
        tokens = inputs.flatten(0, 1)
        if layers[name].bias is not None:
            tokens = torch.cat([tokens, torch.ones(len(tokens), 1)], 1)
        wanted_inputs = sum(torch.outer(token, token) for token in tokens)
        wanted_outputs = sum(torch.outer(gradient, gradient) for gradient in output.grad.flatten(0, 1))
        assert torch.allclose(found[name].inputs, wanted_inputs, rtol=1e-3, atol=1e-4)
        assert torch.allclose(found[name].outputs, wanted_outputs, rtol=1e-3, atol=1e-5)
    assert any(layer.bias is not None for layer in layers.values()) == has_bias


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_layers_matrix_has_its_bias_as_last_column(has_bias: bool) -> None:
    layer = nn.Linear(3, 2, bias=has_bias)
    matrix = matrix_of(layer)
    assert matrix.shape == (2, 3 + has_bias)
    inputs = torch.tensor([1.0, 2.0, 3.0, 1.0])[: 3 + has_bias].double()
    assert torch.allclose((matrix @ inputs).float(), layer(torch.tensor([1.0, 2.0, 3.0])))
    put_matrix(layer, 2 * matrix)
    assert torch.equal(matrix_of(layer), 2 * matrix)
