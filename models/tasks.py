"""The `[[tasks]]` of a config: a label to predict, with the weight and scale of its loss."""

import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from data.conditions import Condition, parse_condition
from data.features import Missing, Transform
from data.settings import Settings

_EXAMPLE = "write comparisons of columns, as in click == 1 and tab in (1, 4), with quotes around what holds a space"


def _condition(text: str | None) -> str | None:
    if text is not None:
        parse_condition(text, _EXAMPLE)
    return text


class TaskConfig(Settings):
    """One feedback label."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Name in tables, logs and metrics."""
    kind: Literal["binary", "regression", "product"]
    """binary: cross entropy on the logit, evaluated by NE. regression: squared error, evaluated by MSE. product: a
    binary task without a tower of its own, whose probability is the product of those of the tasks in `of`."""
    of: tuple[str, ...] = ()
    """Of a product: the binary tasks, such as ["click", "buy_if_click"] with the label of a buy (ESMM's CTCVR). Its
    loss trains the towers of both. Give the second one weight = 0 where the product alone is to train it."""
    label: str
    """Column of the label; null = missing, which trains and evaluates nothing for this task."""
    missing: Missing = "error"
    """A file that lacks the column: an error, or null in all of its rows."""
    where: Annotated[str | None, AfterValidator(_condition)] = None
    """The task's space: in rows that do not fit it, as in "click == 1" or "tab in (1, 4) and age >= 18", the task has
    no label, so that it trains and evaluates nothing. Columns of the dataset; null fits no comparison."""
    weight_column: str | None = None
    """Column of non-negative weights of this task's label, by which its loss and metrics are multiplied, besides those
    of `data.weight`. What it holds in rows without the label does not matter."""
    threshold: float | None = None
    """For a binary task on a number: a value of at least this much is a positive."""
    transform: Transform = "none"
    """For a regression: log1p, sign(x)·log(1 + |x|), or sqrt, sign(x)·√|x|, of the label is learned, predicted and
    evaluated."""
    negative_rate: float | None = Field(default=None, gt=0, le=1)
    """For a binary task whose negatives were sampled before they were logged: the share of them that was kept.
    Predicted probabilities and all metrics are then those of the whole log; training is as without it."""
    test_negative_rate: float | None = Field(default=None, gt=0, le=1)
    """The same of the test data, where it differs; 1 if that holds all negatives."""
    auxiliary: bool = False
    """true: trained, not evaluated."""
    weight: float | None = Field(default=None, ge=0)
    """Factor of this task's loss in the sum. Left out: 1 for regression; for a binary task measured at the first start,
    sqrt(log 2 / entropy of label_mean), up to 10, so that rare labels are learned too: 1 for a label that half of the
    rows carry, 2.8 for one of 1.7 %. Give all tasks 1 for the plain sum."""
    label_mean: float | None = None
    """Where the predictions of a new model begin: the share of positives of a binary task, the mean of a regression's
    label; left out: measured on training rows at the first start (a share with half a positive and half a negative
    more, so that it is never 0 or 1)."""
    label_scale: float | None = Field(default=None, gt=0)
    """Regression only: the unit in which the head predicts, and whose square the trained loss is divided by: watch time
    in milliseconds then weighs as much as in hours. Left out: the label's standard deviation, measured likewise."""

    @model_validator(mode="after")
    def _check_label(self) -> Self:
        self._check_product()
        if not self.binary:
            for key in ("threshold", "negative_rate", "test_negative_rate"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} of task {self.name!r}: only binary tasks have one; remove it")
            return self
        if self.transform != "none":
            raise ValueError(
                f"transform of task {self.name!r}: only regressions have one; set a threshold, or remove it"
            )
        if self.label_mean is not None and not 0 < self.label_mean < 1:
            raise ValueError(f"label_mean = {self.label_mean:g} of binary task {self.name!r} must lie between 0 and 1")
        if self.label_scale is not None:
            raise ValueError(f"label_scale of binary task {self.name!r}: only regression tasks have one; remove it")

        return self

    def _check_product(self) -> None:
        if self.kind != "product":
            if self.of:
                raise ValueError(f'of of task {self.name!r}: only products have it; set kind = "product"')
            return
        if len(set(self.of)) < 2 or len(set(self.of)) < len(self.of):
            raise ValueError(f"task {self.name!r} is the product of {list(self.of)}; name two tasks or more, each once")
        if self.negative_rate is not None or self.test_negative_rate is not None:
            raise ValueError(f"negative_rate of task {self.name!r}: a product has none; remove it")

    @property
    def space(self) -> Condition | None:
        """`where`, read."""
        return parse_condition(self.where, _EXAMPLE) if self.where is not None else None

    @property
    def first_logit(self) -> float:
        """What a new model answers before it has learnt anything: log odds of `label_mean`, or the mean itself."""
        if self.label_mean is None:
            return 0.0
        return math.log(self.label_mean / (1 - self.label_mean)) if self.binary else self.label_mean

    @property
    def logit_scale(self) -> float:
        """What one unit of the head's output stands for."""
        return self.label_scale or 1.0

    @property
    def loss_weight(self) -> float:
        """Factor of this task's summed loss in what is trained."""
        weight = 1.0 if self.weight is None else self.weight
        return weight / self.logit_scale**2

    @property
    def negative_weight(self) -> float:
        """How many negatives of the whole log each one of the test data stands for."""
        return 1 / (self.test_negative_rate or self.negative_rate or 1.0)

    @property
    def binary(self) -> bool:
        """Whether the prediction is a probability."""
        return self.kind != "regression"

    @property
    def metric_kind(self) -> Literal["binary", "regression"]:
        """By which metrics it is judged."""
        return "binary" if self.binary else "regression"
