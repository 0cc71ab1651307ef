import math

import pytest
import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.batch import Batch
from data.features import DenseFeature, Features, SparseFeature
from models.embedding import FeatureLayer
from models.heads.adatt import AdaTTConfig
from models.ranker import Ranker
from models.tables import TableConfig
from models.tasks import TaskConfig

TASKS = (
    TaskConfig(name="click", kind="binary", label="click"),
    TaskConfig(name="watch", kind="regression", label="watch", weight=0.5),
    TaskConfig(name="like", kind="binary", label="like", weight=3.0, auxiliary=True),
)
FEATURES = Features(sparse=(SparseFeature(column="user", table="user"),), dense=(DenseFeature(column="age"),))
TABLES = (TableConfig(name="user", rows=8, dim=4),)
HEAD = AdaTTConfig(levels=((6,), (5,)), task_experts=2, shared_experts=1, tower=(4,))
LABELS = [[1.0, 0.3, 0.0], [0.0, -2.0, None], [None, 1.5, 1.0], [1.0, None, None], [0.0, 0.0, 0.0], [None, None, None]]
WEIGHTS = [1.0, 2.0, 0.5, 1.0, 0.0, 1.0]


def make_batch(labels: list[list[float | None]] = LABELS, weights: list[float] = WEIGHTS, first: int = 0) -> Batch:
    """Row i of the dataset has user i; the first one here is row `first`."""
    rows = range(first, first + len(labels))
    return Batch(
        sparse=KeyedJaggedTensor(["user"], torch.tensor(rows), lengths=torch.ones(len(rows), dtype=torch.int32)),
        dense_BD=torch.tensor([[row / 4 - 0.5] for row in rows], dtype=torch.float64),
        labels_BT=torch.tensor([[label or 0.0 for label in row] for row in labels], dtype=torch.float64),
        label_weights_BT=torch.tensor([[float(label is not None) for label in row] for row in labels]),
        weights_B=torch.tensor(weights, dtype=torch.float64),
        row_ids_B=torch.tensor(rows),
    )


@pytest.fixture
def ranker() -> Ranker:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layer = FeatureLayer(TABLES, FEATURES, torch.device("cpu"))
        return Ranker(layer, HEAD.build(layer.width, [task.name for task in TASKS]), TASKS).double()


def gradients(ranker: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    ranker.zero_grad()
    ranker(batch)[0].backward()
    return {name: parameter.grad.clone() for name, parameter in ranker.named_parameters() if parameter.grad is not None}


def slow_loss_sums(logits: list[list[float]]) -> list[float]:
    sums = [0.0] * len(TASKS)
    for row, weight, row_logits in zip(LABELS, WEIGHTS, logits, strict=True):
        for index, (task, label, logit) in enumerate(zip(TASKS, row, row_logits, strict=True)):
            if label is not None:
                probability = 1 / (1 + math.exp(-logit))
                log_loss = -math.log(probability if label else 1 - probability)
                sums[index] += weight * (log_loss if task.kind == "binary" else (logit - label) ** 2)
    return sums


def test_the_loss_equals_a_loop(ranker: Ranker) -> None:
    batch = make_batch()
    loss, output = ranker(batch)
    logits_BT = ranker.head(ranker.features(batch.sparse, batch.dense_BD))
    sums = slow_loss_sums(logits_BT.tolist())
    assert output.loss_T.tolist() == pytest.approx(sums, rel=1e-6)
    assert loss.item() == pytest.approx((sums[0] + 0.5 * sums[1] + 3.0 * sums[2]) / 6, rel=1e-6)


def test_the_outcome_is_what_metrics_need(ranker: Ranker) -> None:
    batch = make_batch()
    loss, output = ranker(batch)
    assert loss.requires_grad
    assert not any(tensor.requires_grad for tensor in output if isinstance(tensor, torch.Tensor))
    assert output.logits_BT.dtype == torch.float32
    assert torch.equal(output.labels_BT, batch.labels_BT)
    weights = [[w if label is not None else 0 for label in row] for row, w in zip(LABELS, WEIGHTS, strict=True)]
    assert output.weights_BT.tolist() == weights


def test_missing_labels_and_zero_weights_train_nothing(ranker: Ranker) -> None:
    """Row 4 weighs nothing, row 5 has no labels: their values do not matter, and their users get no gradient."""
    changed = make_batch()
    changed.labels_BT[4] = torch.tensor([1.0, 99.0, 1.0])
    changed.labels_BT[changed.label_weights_BT == 0] = 7.0
    changed.dense_BD[4:] = 5.0
    found, expected = gradients(ranker, changed), gradients(ranker, make_batch())
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name
    (table,) = (gradient for name, gradient in expected.items() if name.startswith("features"))
    assert (table != 0).any(dim=1).tolist() == [True, True, True, True, False, False, False, False]


@pytest.mark.parametrize("task", range(3))
def test_a_task_without_labels_leaves_its_tower_alone(ranker: Ranker, task: int) -> None:
    batch = make_batch()
    batch.label_weights_BT[:, task] = 0
    towers = {name: gradient for name, gradient in gradients(ranker, batch).items() if "towers" in name}
    assert len(towers) == 4
    for name, gradient in towers.items():
        used = [bool((part != 0).any()) for part in gradient]
        assert used == [index != task for index in range(3)], name


def test_a_batch_of_padding_has_no_loss(ranker: Ranker) -> None:
    nothing = make_batch([[None] * 3] * 2, [0.0, 0.0])
    assert ranker(nothing)[0].item() == 0
    assert all((gradient == 0).all() for gradient in gradients(ranker, nothing).values())


def test_the_mean_over_halves_is_the_whole(ranker: Ranker) -> None:
    """Ranks average their gradients; the labels fall unevenly on these two."""
    whole = make_batch()
    halves = [make_batch(LABELS[:3], WEIGHTS[:3]), make_batch(LABELS[3:], WEIGHTS[3:], first=3)]
    mean_loss = sum(ranker(half)[0] for half in halves) / 2
    assert mean_loss.item() == pytest.approx(ranker(whole)[0].item(), rel=1e-6)
    expected = gradients(ranker, whole)
    first, second = (gradients(ranker, half) for half in halves)
    for name, gradient in expected.items():
        torch.testing.assert_close((first[name] + second[name]) / 2, gradient, rtol=1e-5, atol=1e-7)


def test_buffers_are_no_part_of_a_checkpoint(ranker: Ranker) -> None:
    assert [name for name in ranker.state_dict() if name.endswith("_T")] == []
    assert [name for name in ranker.state_dict() if not name.startswith(("features.", "head."))] == []


def test_logits_do_not_depend_on_labels(ranker: Ranker) -> None:
    batch, blank = make_batch(), make_batch([[None] * 3] * 6)
    assert torch.equal(ranker(batch)[1].logits_BT, ranker(blank)[1].logits_BT)
