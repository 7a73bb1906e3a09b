"""The losses of distillation, as pure functions on tensors.

Sizes: N pairs, C classes, L tokens, H hidden size, Q queries, K candidates.

What holds for all of them: the teacher's tensors are detached, so no gradient reaches the teacher;
half precision is raised to float32 before anything else, float64 stays; a shape mismatch, a
temperature that is not above 0, or an empty batch raises ValueError. A mask is bool or integer
0/1, 1 for what counts, and what it hides, inf and NaN included, reaches neither value nor gradient.

Chapter 3.
"""

import math
from collections.abc import Callable

from ecomkd.extras import needed

with needed("ecomkd.losses", "run"):
    import torch
    import torch.nn.functional as F
    from torch import Tensor

IGNORE = -100
"""The label of a pair that nobody labelled, as in PyTorch's own `cross_entropy`."""


def soft_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T² · KL(p ‖ q), with p = softmax(teacher/T) and q = softmax(student/T).

    Summed over classes, mean over pairs. The factor T² keeps the gradient's size when T changes
    (Hinton, Vinyals & Dean 2015, section 2). A teacher logit of -inf is a class of probability 0
    and adds nothing.

    Args:
        student_logits: (N, C).
        teacher_logits: (N, C).
        temperature: T > 0, one for both.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes differ, the batch is empty, or T is not above 0.

    Example:
        >>> student = torch.tensor([[0.0, 0.0]], requires_grad=True)
        >>> teacher = torch.tensor([[math.log(3), 0.0]])  # p = (3/4, 1/4), q = (1/2, 1/2)
        >>> loss = soft_kl(student, teacher)
        >>> round(loss.item(), 4)  # 3/4 · ln(3/2) + 1/4 · ln(1/2)
        0.1308
        >>> loss.backward()
        >>> student.grad  # q - p
        tensor([[-0.2500,  0.2500]])
    """
    _check(
        "soft_kl",
        "(pairs, classes)",
        2,
        student_logits=student_logits,
        teacher_logits=teacher_logits,
    )
    _check_temperature("soft_kl", temperature)
    return _kl(_raised(student_logits), _raised(teacher_logits.detach()), temperature)


def distillation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    alpha: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """L = CE(y, q) + α · soft_kl: the book's loss, with an added and not a convex α.

    The cross entropy takes the student's logits at temperature 1 and is the mean over the pairs
    whose label is not -100, or 0 if there is none; the soft term is the mean over all pairs. So a
    batch may mix labelled and unlabelled pairs. Without labels the loss is α · soft_kl alone. With
    α = 0 and labels it is the cross entropy itself, bit for bit.

    Args:
        student_logits: (N, C).
        teacher_logits: (N, C).
        labels: (N,), integers in 0..C-1, or -100 for an unlabelled pair.
        alpha: weight of the soft term, 0 or more.
        temperature: T > 0, in the soft term alone.

    Returns:
        A scalar.

    Raises:
        ValueError: as `soft_kl`; also labels of another shape or type or outside 0..C-1, α < 0.

    Example:
        >>> student = torch.zeros(2, 2)
        >>> teacher = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
        >>> labels = torch.tensor([0, -100])  # nobody labelled the second pair
        >>> hard = distillation(student, teacher, labels, alpha=0.0)
        >>> both = distillation(student, teacher, labels, alpha=0.5)
        >>> round(hard.item(), 4), round(both.item(), 4)  # ln 2; + 1/2 · (0.1308 + 0) / 2
        (0.6931, 0.7259)
    """
    _check(
        "distillation",
        "(pairs, classes)",
        2,
        student_logits=student_logits,
        teacher_logits=teacher_logits,
    )
    _check_temperature("distillation", temperature)
    if not (alpha >= 0 and math.isfinite(alpha)):
        raise ValueError(f"distillation: alpha is {alpha}; give a finite number of 0 or more.")
    if labels is None:
        return alpha * soft_kl(student_logits, teacher_logits, temperature)
    hard = _cross_entropy(student_logits, labels)
    if alpha == 0:  # left out, not multiplied by 0, which would turn an inf into NaN
        return hard
    return hard + alpha * soft_kl(student_logits, teacher_logits, temperature)


def hidden_mse(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    mask: Tensor,
    projection: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean squared error between hidden states, over all unmasked token × H elements.

    The student's states pass through `projection` first, where the two widths differ (FitNets,
    Romero et al. 2015, equation 3; TinyBERT, Jiao et al. 2020, equation 8). Padding is cut away
    before the projection, which therefore sees a tensor (1, number of unmasked tokens, Hs).

    Args:
        student_hidden: (N, L, Hs).
        teacher_hidden: (N, L, Ht).
        mask: (N, L), the attention mask.
        projection: maps (..., Hs) to (..., Ht), usually a `torch.nn.Linear`.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes do not fit, the batch is empty, or the mask hides every token.

    Example:
        >>> student = torch.tensor([[[1.0, 2.0], [9.0, 9.0]]])  # one pair of two tokens
        >>> teacher = torch.tensor([[[1.0, 4.0], [0.0, 0.0]]])
        >>> hidden_mse(student, teacher, mask=torch.tensor([[1, 0]]))  # (0² + 2²) / 2
        tensor(2.)
        >>> wider = torch.zeros(1, 2, 6)
        >>> hidden_mse(student, wider, torch.tensor([[1, 1]]), torch.nn.Linear(2, 6)).shape
        torch.Size([])
    """
    _check_dimensions(
        "hidden_mse",
        "(pairs, tokens, width)",
        3,
        student_hidden=student_hidden,
        teacher_hidden=teacher_hidden,
    )
    if student_hidden.shape[:2] != teacher_hidden.shape[:2]:
        raise ValueError(
            f"hidden_mse: student_hidden is {tuple(student_hidden.shape)} and teacher_hidden "
            f"{tuple(teacher_hidden.shape)}; pairs and tokens (the first two) must be the same."
        )
    keep = _check_mask("hidden_mse", mask, student_hidden.shape[:2])
    if not keep.any():
        raise ValueError("hidden_mse: the mask hides every token; leave such a batch out.")
    student = _raised(student_hidden[keep])
    teacher = _raised(teacher_hidden.detach()[keep])
    if projection is not None:
        weight = next(projection.parameters(), None) if hasattr(projection, "parameters") else None
        student = student if weight is None else student.to(weight.dtype)
        student = _raised(projection(student.unsqueeze(0)).squeeze(0))
    if student.shape != teacher.shape:
        after = "" if projection is None else " after the projection"
        raise ValueError(
            f"hidden_mse: the student is {student.shape[-1]} wide{after} and the teacher "
            f"{teacher.shape[-1]}; give a projection between these widths."
        )
    return (student - teacher).square().mean()


def margin_mse(
    student_pos: Tensor, student_neg: Tensor, teacher_pos: Tensor, teacher_neg: Tensor
) -> Tensor:
    """Mean of ((s⁺ - s⁻) - (t⁺ - t⁻))² over triples of a query, a better and a worse product.

    Only the margin is copied, so that the student may score on another scale (Hofstätter et al.
    2020, equation 1).

    Args:
        student_pos, student_neg, teacher_pos, teacher_neg: (N,) each.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes differ or the batch is empty.

    Example:
        >>> student_pos, student_neg = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0])
        >>> teacher_pos, teacher_neg = torch.tensor([5.0, 1.0]), torch.tensor([2.0, 2.0])
        >>> margin_mse(student_pos, student_neg, teacher_pos, teacher_neg)  # (2² + 1²) / 2
        tensor(2.5000)
    """
    _check(
        "margin_mse",
        "(triples,)",
        1,
        student_pos=student_pos,
        student_neg=student_neg,
        teacher_pos=teacher_pos,
        teacher_neg=teacher_neg,
    )
    student = _raised(student_pos) - _raised(student_neg)
    teacher = _raised(teacher_pos.detach()) - _raised(teacher_neg.detach())
    return (student - teacher).square().mean()


def listwise_kl(
    student_scores: Tensor, teacher_scores: Tensor, mask: Tensor, temperature: float = 1.0
) -> Tensor:
    """T² · KL between the two softmaxes over a query's candidates.

    The softmax runs over the valid candidates of each query; the divergence is summed per query
    and averaged over the queries that have a valid candidate (ListNet's top-one distribution, Cao
    et al. 2007, with the teacher's scores in place of judgments).

    Args:
        student_scores: (Q, K).
        teacher_scores: (Q, K).
        mask: (Q, K), 1 for a valid candidate.
        temperature: T > 0.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes differ, T is not above 0, or no query has a valid candidate.

    Example:
        >>> student = torch.tensor([[0.0, 0.0, 7.0], [1.0, 2.0, 3.0]])
        >>> teacher = torch.tensor([[math.log(3), 0.0, 0.0], [1.0, 2.0, 3.0]])
        >>> mask = torch.tensor([[1, 1, 0], [1, 1, 1]])  # the first query has two candidates
        >>> round(listwise_kl(student, teacher, mask).item(), 4)  # (0.1308 + 0) / 2
        0.0654
    """
    _check(
        "listwise_kl",
        "(queries, candidates)",
        2,
        student_scores=student_scores,
        teacher_scores=teacher_scores,
    )
    _check_temperature("listwise_kl", temperature)
    valid = _check_mask("listwise_kl", mask, student_scores.shape)
    rows = valid.any(dim=1)
    if not rows.any():
        raise ValueError("listwise_kl: no query has a valid candidate; leave such a batch out.")
    hidden = ~valid[rows]
    student = _raised(student_scores[rows]).masked_fill(hidden, -math.inf)
    teacher = _raised(teacher_scores.detach()[rows]).masked_fill(hidden, -math.inf)
    return _kl(student, teacher, temperature)


def _kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_q = F.log_softmax(student / temperature, dim=-1)
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    p = log_p.exp()
    # 0 · log 0 = 0: where p is 0, the difference of the logarithms may be infinite or NaN.
    ratio = torch.where(p > 0, log_p - log_q, 0.0)
    return temperature**2 * (p * ratio).sum(dim=-1).mean()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    pairs, classes = logits.shape
    if labels.shape != (pairs,):
        raise ValueError(
            f"distillation: labels is {tuple(labels.shape)}; give one per pair, ({pairs},)."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(
            f"distillation: labels are {labels.dtype}; give class numbers as integers."
        )
    labels = labels.long()
    known = labels != IGNORE
    wrong = labels[known & ((labels < 0) | (labels >= classes))]
    if len(wrong):
        raise ValueError(
            f"distillation: label {int(wrong[0])} is outside 0..{classes - 1}; use {IGNORE} for an "
            "unlabelled pair."
        )
    logits = torch.where(known[:, None], _raised(logits), 0.0)
    # PyTorch's mean over no label is 0/0, which is NaN; its sum is 0, with gradient 0.
    return F.cross_entropy(
        logits, labels, ignore_index=IGNORE, reduction="mean" if known.any() else "sum"
    )


def _raised(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _check(function: str, form: str, dimensions: int, **tensors: Tensor) -> None:
    _check_dimensions(function, form, dimensions, **tensors)
    if len({x.shape for x in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in tensors.items())
        raise ValueError(f"{function}: shapes differ ({shapes}); give all the same {form}.")


def _check_dimensions(function: str, form: str, dimensions: int, **tensors: Tensor) -> None:
    for name, x in tensors.items():
        if x.dim() != dimensions:
            raise ValueError(f"{function}: {name} is {tuple(x.shape)}; give {form}.")
        if x.numel() == 0:
            raise ValueError(
                f"{function}: {name} is {tuple(x.shape)}, an empty batch; leave it out."
            )


def _check_temperature(function: str, temperature: float) -> None:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"{function}: temperature is {temperature}; give a finite number above 0.")


def _check_mask(function: str, mask: Tensor, shape: torch.Size) -> Tensor:
    if mask.shape != shape:
        raise ValueError(f"{function}: mask is {tuple(mask.shape)}; it must be {tuple(shape)}.")
    if mask.dtype == torch.bool:
        return mask
    if mask.is_floating_point() or mask.is_complex() or ((mask != 0) & (mask != 1)).any():
        raise ValueError(f"{function}: mask must be bool, or integers 0 and 1 alone.")
    return mask == 1
