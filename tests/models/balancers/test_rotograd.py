import math
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.balancers.balancer import Balancer
from models.balancers.method import Group, Seen
from models.balancers.rotograd import RotoGrad, RotoGradConfig, equal_lengths, slopes, turned_by
from models.heads.base import HeadConfig
from models.heads.shared_bottom import SharedBottomConfig, SingleTaskConfig
from models.tasks import TaskConfig
from tests.models.balancers.tasks import binary_tasks


def tensor(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_gradients(num_tasks: int, num_rows: int = 5, width: int = 4, seed: int = 0) -> torch.Tensor:
    """Of lengths that differ by up to e⁴."""
    generator = torch.Generator().manual_seed(seed)
    gradient_TBF = torch.randn(num_tasks, num_rows, width, generator=generator, dtype=torch.float64)
    exponent_T = 4 * torch.rand(num_tasks, generator=generator, dtype=torch.float64) - 2
    return gradient_TBF * exponent_T.exp()[:, None, None]


def random_rotation(num_tasks: int, width: int, seed: int) -> torch.Tensor:
    skew_TFF = random_gradients(num_tasks, width, width, seed)
    return torch.linalg.matrix_exp(skew_TFF - skew_TFF.transpose(1, 2))


def lengths(gradient_TBF: torch.Tensor) -> torch.Tensor:
    return gradient_TBF.flatten(1).norm(dim=1)


def seen_of(gradient_TBF: torch.Tensor, is_active: list[bool] | None = None) -> Seen:
    rows_TN = gradient_TBF.flatten(1)
    is_active_T = torch.tensor(is_active or [True] * len(rows_TN))
    return Seen(torch.ones(len(rows_TN), dtype=torch.float64), is_active_T, rows_TN @ rows_TN.T, samples=0, seed=0)


def every(num_tasks: int) -> torch.Tensor:
    return torch.ones(num_tasks, dtype=torch.bool)


def aligned(gradient_TBF: torch.Tensor) -> float:
    """Σ_t ⟨U_t, V⟩ with V of the same gradients: T when all point the same way."""
    unit_TBF = gradient_TBF / lengths(gradient_TBF)[:, None, None]
    return float((unit_TBF.mean(dim=0) * unit_TBF).sum())


# Lengths


@given(st.lists(st.tuples(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6)), min_size=1, max_size=6))
def test_lengths_are_made_equal_as_in_the_paper(pairs: list[tuple[float, float]]) -> None:
    total = sum(norm / first for norm, first in pairs)
    length = sum(norm / first / total * norm for norm, first in pairs)
    norms_T, first_T = tensor(pairs).unbind(dim=1)
    weights_T = equal_lengths(norms_T, first_T, every(len(pairs)))
    assert (weights_T * norms_T).tolist() == pytest.approx([length] * len(pairs), rel=1e-9)


@pytest.mark.parametrize(
    ("norms", "first", "weights"),
    [
        ([3.0], [7.0], [1.0]),  # one task
        ([2.0, 2.0, 2.0], [2.0, 2.0, 2.0], [1.0, 1.0, 1.0]),
        ([1.0, 3.0], [1.0, 3.0], [2.0, 2 / 3]),  # the mean length
        ([1.0, 3.0], [1.0, 1.5], [7 / 3, 7 / 9]),  # nearer to that of the task that has fallen less
    ],
)
def test_lengths_of_hand_made_gradients(norms: list[float], first: list[float], weights: list[float]) -> None:
    found_T = equal_lengths(tensor(norms), tensor(first), every(len(norms)))
    assert found_T.tolist() == pytest.approx(weights)


def test_tasks_that_take_no_part_have_weight_0_and_change_nothing() -> None:
    norms_T, first_T = tensor([1.0, 0.0, 3.0, 5.0]), tensor([1.0, 0.0, 3.0, 0.0])
    takes_part_T = torch.tensor([True, False, True, False])
    assert equal_lengths(norms_T, first_T, takes_part_T).tolist() == pytest.approx([2.0, 0.0, 2 / 3, 0.0])
    assert equal_lengths(norms_T, first_T, torch.zeros(4, dtype=torch.bool)).tolist() == [0.0] * 4


# Directions


def slope_by_loops(gradient_TBF: torch.Tensor) -> list[list[list[float]]]:
    """U_tᵀV - VᵀU_t."""
    num_tasks, num_rows, width = gradient_TBF.shape
    values = gradient_TBF.tolist()
    norms = [math.sqrt(sum(x * x for row in rows for x in row)) for rows in values]

    def unit(task: int, row: int, feature: int) -> float:
        return float(values[task][row][feature] / norms[task])

    def mean(row: int, feature: int) -> float:
        return sum(unit(task, row, feature) for task in range(num_tasks)) / num_tasks

    def entry(task: int, one: int, other: int) -> float:
        return sum(
            unit(task, row, one) * mean(row, other) - mean(row, one) * unit(task, row, other) for row in range(num_rows)
        )

    return [[[entry(task, i, j) for j in range(width)] for i in range(width)] for task in range(num_tasks)]


@pytest.mark.parametrize("num_tasks", [1, 2, 3])
def test_slopes_equal_plain_loops(num_tasks: int) -> None:
    gradient_TBF = random_gradients(num_tasks)
    found_TFF = slopes(gradient_TBF, lengths(gradient_TBF), every(num_tasks))
    torch.testing.assert_close(found_TFF, tensor(slope_by_loops(gradient_TBF)), rtol=1e-9, atol=1e-12)


def test_slopes_are_those_of_the_paper_s_objective_at_any_rotation() -> None:
    """Autograd through R exp(A), where A has one number for each pair of features, on gradients at the towers."""
    gradient_TBF = random_gradients(3)
    norms_T = lengths(gradient_TBF)
    rotation_TFF = random_rotation(3, 4, seed=1)
    at_towers_TBF = gradient_TBF @ rotation_TFF.transpose(1, 2)
    mean_BF = (gradient_TBF / norms_T[:, None, None]).mean(dim=0)

    pairs_TFF = torch.zeros(3, 4, 4, dtype=torch.float64, requires_grad=True)
    upper_TFF = pairs_TFF.triu(1)
    turned_TFF = rotation_TFF @ torch.linalg.matrix_exp(upper_TFF - upper_TFF.transpose(1, 2))
    objective = torch.zeros((), dtype=torch.float64)
    for task in range(3):
        for row in range(5):
            back_F = turned_TFF[task].T @ at_towers_TBF[task, row]
            objective = objective + back_F @ mean_BF[row] / norms_T[task]
    objective.backward()

    assert pairs_TFF.grad is not None
    found_TFF = slopes(gradient_TBF, norms_T, every(3))
    torch.testing.assert_close(found_TFF.triu(1), pairs_TFF.grad, rtol=1e-9, atol=1e-12)


def test_slopes_of_parts_of_the_rows_add_up() -> None:
    gradient_TBF = random_gradients(3, num_rows=7)
    norms_T = lengths(gradient_TBF)
    parts = [slopes(part_TBF, norms_T, every(3)) for part_TBF in gradient_TBF.split(3, dim=1)]
    torch.testing.assert_close(torch.stack(parts).sum(dim=0), slopes(gradient_TBF, norms_T, every(3)))


def test_slopes_of_float32_gradients_are_near_those_of_float64() -> None:
    gradient_TBF = 1e-6 * random_gradients(3, num_rows=100)
    found_TFF = slopes(gradient_TBF.float(), lengths(gradient_TBF), every(3))
    assert found_TFF.dtype == torch.float64
    torch.testing.assert_close(found_TFF, slopes(gradient_TBF, lengths(gradient_TBF), every(3)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("gradients", "slope"),
    [
        ([[3.0, 4.0]], [0.0]),  # one task
        ([[1.0, 2.0], [2.0, 4.0]], [0.0, 0.0]),  # alike
        ([[1.0, 2.0], [-1.0, -2.0]], [0.0, 0.0]),  # opposed: neither side is nearer
        ([[2.0, 0.0], [0.0, 5.0]], [0.5, -0.5]),  # at a right angle: towards each other
    ],
)
def test_slopes_of_hand_made_gradients(gradients: list[list[float]], slope: list[float]) -> None:
    gradient_TBF = tensor(gradients)[:, None]
    found_TFF = slopes(gradient_TBF, lengths(gradient_TBF), every(len(gradients)))
    assert found_TFF[:, 0, 1].tolist() == pytest.approx(slope)
    assert found_TFF[:, 1, 0].tolist() == pytest.approx([-value for value in slope])


def test_tasks_that_take_no_part_are_not_turned_and_turn_none() -> None:
    gradient_TBF = random_gradients(4)
    gradient_TBF[1] = 0
    takes_part_T = torch.tensor([True, False, True, False])
    found_TFF = slopes(gradient_TBF, lengths(gradient_TBF), takes_part_T)
    two_TFF = slopes(gradient_TBF[takes_part_T], lengths(gradient_TBF)[takes_part_T], every(2))
    torch.testing.assert_close(found_TFF[takes_part_T], two_TFF)
    assert found_TFF[~takes_part_T].abs().max() == 0

    rotation_TFF = random_rotation(4, 4, seed=2)
    turned_TFF = turned_by(rotation_TFF, found_TFF, 0.1)
    torch.testing.assert_close(turned_TFF[~takes_part_T], rotation_TFF[~takes_part_T], rtol=0, atol=1e-14)
    assert slopes(gradient_TBF, lengths(gradient_TBF), torch.zeros(4, dtype=torch.bool)).abs().max() == 0


@pytest.mark.parametrize("num_tasks", [2, 5])
def test_gradients_that_the_towers_hold_come_to_agree(num_tasks: int) -> None:
    """One row, whose gradients at the towers stay as they are: in the end all are alike at the trunk."""
    at_towers_TBF = random_gradients(num_tasks, num_rows=1)
    rotation_TFF = torch.eye(4, dtype=torch.float64).repeat(num_tasks, 1, 1)
    before = aligned(at_towers_TBF)
    for _ in range(400):
        gradient_TBF = at_towers_TBF @ rotation_TFF
        rotation_TFF = turned_by(rotation_TFF, slopes(gradient_TBF, lengths(gradient_TBF), every(num_tasks)), 0.2)

    assert before < 0.9 * num_tasks
    assert aligned(at_towers_TBF @ rotation_TFF) == pytest.approx(num_tasks, rel=1e-9)


def test_a_rotation_stays_one_over_many_steps() -> None:
    rotation_TFF = torch.eye(8, dtype=torch.float64).repeat(2, 1, 1)
    for step in range(2000):
        slope_TFF = random_gradients(2, 8, 8, seed=step)
        rotation_TFF = turned_by(rotation_TFF, slope_TFF - slope_TFF.transpose(1, 2), 0.1)

    identity_TFF = torch.eye(8, dtype=torch.float64).expand(2, 8, 8)
    torch.testing.assert_close(rotation_TFF @ rotation_TFF.transpose(1, 2), identity_TFF, rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.linalg.det(rotation_TFF), tensor([1.0, 1.0]), rtol=0, atol=1e-14)


# The method


def renew(method: RotoGrad, gradient_TBF: torch.Tensor, is_active: list[bool] | None = None) -> torch.Tensor:
    seen = seen_of(gradient_TBF, is_active)
    weights_T = method.weigh(seen)
    method.learn(gradient_TBF, seen, Group())
    method.commit()
    return weights_T


def test_first_lengths_are_taken_at_the_first_batch_of_a_task_and_after_the_burn_in() -> None:
    method = RotoGrad(2, 4, learning_rate=0.1, burn_in=3)
    gradient_TBF = random_gradients(2)
    norms = lengths(gradient_TBF).tolist()
    firsts = []
    for step in range(6):
        renew(method, (step + 1) * gradient_TBF, [True, step != 1])
        firsts.append(method.first_T.tolist())

    assert firsts[0] == firsts[2] == pytest.approx(norms)
    # The second task had no label in one of the batches, so it is one behind.
    assert firsts[3] == pytest.approx([4 * norms[0], norms[1]])
    assert firsts[4] == firsts[5] == pytest.approx([4 * norms[0], 5 * norms[1]])


def test_a_step_that_is_not_kept_leaves_no_trace() -> None:
    method = RotoGrad(2, 4, learning_rate=0.1, burn_in=3)
    renew(method, random_gradients(2))
    before = {name: value.clone() for name, value in method.named_buffers()}
    seen = seen_of(random_gradients(2, seed=1))
    method.weigh(seen)
    method.learn(random_gradients(2, seed=1), seen, Group())
    assert all(torch.equal(value, before[name]) for name, value in method.named_buffers())
    method.commit()
    assert not torch.equal(method.rotation_TFF, before["rotation_TFF"])


def test_what_the_tasks_read_is_the_turned_trunk_in_training_and_evaluation() -> None:
    tasks = binary_tasks("ab", width=4)
    balancer = Balancer(RotoGradConfig(), tasks, global_batch_size=5, seed=0)
    method = balancer.method
    assert isinstance(method, RotoGrad)
    method.rotation_TFF.copy_(random_rotation(2, 4, seed=3))
    x_BF = random_gradients(1)[0].requires_grad_()
    expected = [[(rotation_FF @ row_F).tolist() for rotation_FF in method.rotation_TFF] for row_F in x_BF.detach()]

    balancer.begin(0)
    torch.testing.assert_close(balancer.gate(x_BF), tensor(expected))
    with torch.no_grad():
        torch.testing.assert_close(balancer.gate(x_BF), tensor(expected))


def test_what_is_shared_gets_gradients_of_one_length_turned_back() -> None:
    """By hand: two tasks, whose losses are sums of their towers' inputs with factors."""
    tasks = binary_tasks("ab", width=2)
    balancer = Balancer(RotoGradConfig(learning_rate=0.1), tasks, global_batch_size=1, seed=0)
    method = balancer.method
    assert isinstance(method, RotoGrad)
    quarter_FF = tensor([[0.0, -1.0], [1.0, 0.0]])  # counterclockwise
    method.rotation_TFF[1] = quarter_FF
    x_BF = tensor([[1.0, 1.0]]).requires_grad_()

    balancer.begin(0)
    y_BTF = balancer.gate(x_BF)
    losses_T = torch.stack([4 * y_BTF[0, 0, 0], 2 * y_BTF[0, 1, 0]])
    ones_BT = torch.ones(1, 2)
    balancer(losses_T, ones_BT, ones_BT).backward()
    # At the trunk the gradients are (4, 0) and (0, -2), in their first step; the mean length is 3.
    assert x_BF.grad is not None
    assert x_BF.grad[0].tolist() == pytest.approx([3.0, -3.0])
    assert balancer._proposed_T.tolist() == pytest.approx([3 / 4, 3 / 2])

    balancer.commit()
    # At a right angle: each turns by 0.1 · ½ towards the other.
    x_BF.grad = None
    balancer.begin(1)
    y_BTF = balancer.gate(x_BF)
    gradient_TBF = balancer.gate.gradients(torch.stack([4 * y_BTF[0, 0, 0], 2 * y_BTF[0, 1, 0]]))
    angles = [math.atan2(float(row_F[1]), float(row_F[0])) for row_F in gradient_TBF[:, 0]]
    assert angles == pytest.approx([-0.05, -math.pi / 2 + 0.05])


CLICK, BUY = (TaskConfig(name=name, kind="binary", label=name) for name in ("click", "buy"))
BOTH = TaskConfig(name="both", kind="product", of=("click", "buy"), label="both")


@pytest.mark.parametrize(
    ("head", "at", "tasks", "message"),
    [
        (SingleTaskConfig(), "trunk", (CLICK, BUY), "it takes model.head = 'shared_bottom' with balance.at = 'trunk'"),
        (SharedBottomConfig(), "features", (CLICK, BUY), "it takes model.head = 'shared_bottom'"),
        (SharedBottomConfig(), "trunk", (CLICK, BUY, BOTH), "task 'both' is a product"),
        (
            SharedBottomConfig(levels=((513,),)),
            "trunk",
            (CLICK, BUY),
            r"513 × 513 for each of 2 tasks \(4,210,704 bytes",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    head: HeadConfig, at: Literal["features", "trunk"], tasks: tuple[TaskConfig, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RotoGradConfig(at=at).check(head, tasks)


def test_what_fits_is_not_refused() -> None:
    RotoGradConfig().check(SharedBottomConfig(levels=((1024,), (512,))), (CLICK, BUY))
