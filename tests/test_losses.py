"""Each loss against a closed form, and each promise of the design about masks, types and shapes."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ecomkd import losses

S = torch.tensor([[2.0, 0.5, -1.0, 0.0], [0.1, 0.2, 0.3, -2.0]], dtype=torch.float64)
T = torch.tensor([[3.0, 1.5, -2.0, -1.0], [-0.5, 2.0, 0.0, 0.4]], dtype=torch.float64)
Y = torch.tensor([0, 2])


def leaf(x):
    return x.clone().requires_grad_()


def grad(loss, x):
    return torch.autograd.grad(loss, x)[0]


def logits(rows, columns):
    number = st.floats(-30, 30, width=32)
    row = st.lists(number, min_size=columns, max_size=columns)
    return st.lists(row, min_size=rows, max_size=rows).map(
        lambda v: torch.tensor(v, dtype=torch.float64)
    )


# soft_kl


def test_by_hand_and_in_the_right_direction():
    p, q = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]])
    teacher_to_student = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    student_to_teacher = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert losses.soft_kl(q.log(), p.log()).item() == pytest.approx(teacher_to_student, rel=1e-6)
    assert losses.soft_kl(p.log(), q.log()).item() == pytest.approx(student_to_teacher, rel=1e-6)


def test_agrees_with_pytorch():
    for temperature in (0.5, 1.0, 3.0):
        expected = temperature**2 * F.kl_div(
            F.log_softmax(S / temperature, 1), F.softmax(T / temperature, 1), reduction="batchmean"
        )
        assert losses.soft_kl(S, T, temperature).item() == pytest.approx(expected.item(), rel=1e-12)


def test_zero_on_equal_distributions():
    assert losses.soft_kl(T, T).item() == 0
    assert losses.soft_kl(T + 7.0, T, 2.0).item() == pytest.approx(0, abs=1e-15)


@given(logits(3, 4), logits(3, 4), st.floats(0.2, 20))
@settings(deadline=None)
def test_never_negative(student, teacher, temperature):
    assert losses.soft_kl(student, teacher, temperature).item() >= -1e-10


@given(logits(2, 4), logits(2, 4), st.integers(2, 5))
@settings(deadline=None)
def test_duplicating_the_batch_changes_nothing(student, teacher, times):
    once = losses.distillation(student, teacher, Y)
    many = losses.distillation(student.repeat(times, 1), teacher.repeat(times, 1), Y.repeat(times))
    assert many.item() == pytest.approx(once.item(), rel=1e-12, abs=1e-12)


def test_a_high_temperature_matches_logits():
    """T² ∇KL → (z_s - z_t)/C per pair, for logits of mean zero (Hinton et al. 2015)."""
    student, teacher = leaf(S - S.mean(1, keepdim=True)), T - T.mean(1, keepdim=True)
    limit = (student - teacher).detach() / 4 / len(S)
    far = grad(losses.soft_kl(student, teacher, 1e5), student)
    near = grad(losses.soft_kl(student, teacher, 10.0), student)
    assert torch.allclose(far, limit, rtol=1e-3, atol=1e-6)
    assert (near - limit).abs().max() > (far - limit).abs().max()


def test_a_class_of_probability_zero_adds_nothing():
    teacher = T.clone()
    teacher[:, 3] = -math.inf
    student = leaf(S)
    loss = losses.soft_kl(student, teacher)
    p = F.softmax(T[:, :3], 1)
    expected = (p * (p.log() - F.log_softmax(S, 1)[:, :3])).sum(1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    q = F.softmax(S, 1)
    assert torch.allclose(grad(loss, student), (q - F.softmax(teacher, 1)) / 2)


def test_both_sure_that_a_class_is_impossible():
    student, teacher = S.clone(), T.clone()
    student[:, 3] = teacher[:, 3] = -math.inf
    student = leaf(student)
    loss = losses.soft_kl(student, teacher)
    assert loss.item() == pytest.approx(losses.soft_kl(S[:, :3], T[:, :3]).item(), rel=1e-12)
    assert grad(loss, student).isfinite().all()


# distillation


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_gradient_by_hand(alpha):
    """At T = 1 the gradient is (q - y) + α (q - p), divided by the number of pairs."""
    student = leaf(S)
    p, q, y = F.softmax(T, 1), F.softmax(S, 1), F.one_hot(Y, 4)
    expected = ((q - y) + alpha * (q - p)) / len(S)
    got = grad(losses.distillation(student, T, Y, alpha), student)
    assert torch.allclose(got, expected, atol=1e-14)


def test_gradient_at_another_temperature():
    student = leaf(S)
    got = grad(losses.distillation(student, T, alpha=0.7, temperature=3.0), student)
    expected = 0.7 * 3.0 * (F.softmax(S / 3, 1) - F.softmax(T / 3, 1)) / len(S)
    assert torch.allclose(got, expected, atol=1e-14)


def test_it_is_the_sum_of_its_parts():
    expected = F.cross_entropy(S, Y) + 0.3 * losses.soft_kl(S, T, 2.0)
    assert losses.distillation(S, T, Y, 0.3, 2.0).item() == pytest.approx(expected.item())
    assert losses.distillation(S, T, None, 0.3, 2.0).item() == pytest.approx(
        0.3 * losses.soft_kl(S, T, 2.0).item()
    )


@pytest.mark.parametrize("labels", [[0, 2, 1, 3, 3], [0, -100, 1, -100, 2]])
def test_alpha_zero_is_plain_fine_tuning_bit_for_bit(labels):
    torch.manual_seed(0)
    labels = torch.tensor(labels)
    student, teacher = torch.randn(5, 4), torch.full((5, 4), math.nan)
    ours, plain = leaf(student), leaf(student)
    loss = losses.distillation(ours, teacher, labels, alpha=0.0)
    reference = F.cross_entropy(plain, labels)
    assert torch.equal(loss, reference)
    assert torch.equal(grad(loss, ours), grad(reference, plain))


def test_unlabelled_pairs_count_in_the_soft_term_alone():
    labels = torch.tensor([-100, 2])
    expected = F.cross_entropy(S[1:], Y[1:]) + losses.soft_kl(S, T)
    assert losses.distillation(S, T, labels).item() == pytest.approx(expected.item(), rel=1e-12)


def test_without_any_label_the_hard_part_is_zero():
    none = torch.full((2,), -100)
    student = leaf(S)
    assert losses.distillation(student, T, none).item() == losses.soft_kl(S, T).item()
    hard = losses.distillation(student, T, none, alpha=0.0)
    assert hard.item() == 0
    assert torch.equal(grad(hard, student), torch.zeros_like(S))


def test_an_unlabelled_pair_reaches_no_gradient_of_the_hard_part():
    student = S.clone()
    student[0] = math.nan
    student = leaf(student)
    loss = losses.distillation(student, T, torch.tensor([-100, 2]), alpha=0.0)
    assert loss.item() == pytest.approx(F.cross_entropy(S[1:], Y[1:]).item(), rel=1e-12)
    assert torch.equal(grad(loss, student)[0], torch.zeros(4, dtype=torch.float64))


def test_labels_of_any_integer_type():
    expected = losses.distillation(S, T, Y)
    for dtype in (torch.int8, torch.int16, torch.int32, torch.uint8):
        assert torch.equal(losses.distillation(S, T, Y.to(dtype)), expected)


# hidden_mse


def hidden():
    torch.manual_seed(1)
    student, teacher = torch.randn(2, 5, 3).double(), torch.randn(2, 5, 3).double()
    return student, teacher, torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])


def test_hidden_mse_is_the_mean_over_real_tokens():
    student, teacher, mask = hidden()
    total = sum(
        (student[n, t, h] - teacher[n, t, h]).item() ** 2
        for n in range(2) for t in range(5) for h in range(3) if mask[n, t]
    )  # fmt: skip
    assert losses.hidden_mse(student, teacher, mask).item() == pytest.approx(total / (7 * 3))


@pytest.mark.parametrize("rubbish", [0.0, 1e30, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.uint8])
def test_padding_changes_nothing(rubbish, dtype):
    student, teacher, mask = hidden()
    clean, padded = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()
    padded.load_state_dict(clean.state_dict())
    expected = losses.hidden_mse(student, teacher, mask, clean)
    expected.backward()

    def pad(x, value):
        x = torch.where(mask[..., None] == 1, x, value)
        return F.pad(x, (0, 0, 0, 4), value=value)

    noisy = leaf(pad(student, rubbish))
    loss = losses.hidden_mse(noisy, pad(teacher, rubbish), F.pad(mask, (0, 4)).to(dtype), padded)
    loss.backward()
    assert torch.equal(loss, expected)
    assert torch.equal(padded.weight.grad, clean.weight.grad)
    assert torch.equal(padded.bias.grad, clean.bias.grad)
    assert torch.equal(noisy.grad[F.pad(mask, (0, 4)) == 0], torch.zeros(11, 3).double())


def test_the_projection_bridges_two_widths_and_is_trained():
    student, teacher, mask = hidden()
    projection = nn.Linear(3, 6).double()
    loss = losses.hidden_mse(student, torch.cat([teacher, teacher], -1), mask, projection)
    loss.backward()
    assert projection.weight.grad.abs().sum() > 0
    exact = losses.hidden_mse(student, 2 * student, mask, lambda x: 2 * x)
    assert exact.item() == 0


@pytest.mark.parametrize("width", [torch.bfloat16, torch.float16, torch.float32])
def test_the_projection_keeps_its_own_precision(width):
    student, teacher, mask = hidden()
    projection = nn.Linear(3, 3).to(torch.bfloat16)
    loss = losses.hidden_mse(student.to(width), teacher.to(width), mask, projection)
    assert loss.dtype == torch.float32 and loss.isfinite()


# margin_mse


def test_margin_mse_by_hand():
    sp, sn, tp, tn = (torch.tensor(x) for x in ([1.0, 2.0], [0.0, 4.0], [5.0, 1.0], [2.0, 2.0]))
    # margins of the student 1 and -2, of the teacher 3 and -1: (2² + 1²) / 2
    assert losses.margin_mse(sp, sn, tp, tn).item() == 2.5
    assert losses.margin_mse(sp + 9, sn + 9, tp, tn).item() == 2.5


def test_margin_mse_gradient_by_hand():
    sp, sn = leaf(torch.tensor([1.0, 2.0])), leaf(torch.tensor([0.0, 4.0]))
    losses.margin_mse(sp, sn, torch.tensor([5.0, 1.0]), torch.tensor([2.0, 2.0])).backward()
    assert sp.grad.tolist() == [-2.0, -1.0] and sn.grad.tolist() == [2.0, 1.0]


# listwise_kl


def test_listwise_kl_runs_over_valid_candidates():
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 0]])
    expected = (
        losses.soft_kl(S[:1, :3], T[:1, :3], 2.0) + losses.soft_kl(S[1:, ::2][:, :2], T[1:, ::2], 2)
    ) / 2
    assert losses.listwise_kl(S, T, mask, 2.0).item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_full_mask_gives_soft_kl():
    full = torch.ones(2, 4, dtype=torch.bool)
    assert torch.equal(losses.listwise_kl(S, T, full, 3.0), losses.soft_kl(S, T, 3.0))


@pytest.mark.parametrize("rubbish", [0.0, 1e30, math.inf, -math.inf, math.nan])
def test_masked_candidates_reach_neither_value_nor_gradient(rubbish):
    mask = torch.tensor([[True, True, False, True], [True, False, True, True]])
    clean = leaf(S)
    expected = losses.listwise_kl(clean, T, mask, 1.5)
    noisy = leaf(S.masked_fill(~mask, rubbish))
    loss = losses.listwise_kl(noisy, T.masked_fill(~mask, rubbish), mask, 1.5)
    assert torch.equal(loss, expected)
    got = grad(loss, noisy)
    assert torch.equal(got, grad(expected, clean))
    assert (got[~mask] == 0).all()


def test_queries_without_a_valid_candidate_are_left_out():
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]])
    student = S.clone()
    student[1] = math.nan
    student = leaf(student)
    loss = losses.listwise_kl(student, T, mask)
    assert loss.item() == losses.soft_kl(S[:1], T[:1]).item()
    assert torch.equal(grad(loss, student)[1], torch.zeros(4, dtype=torch.float64))


def test_a_lone_candidate_counts_as_a_query_of_divergence_zero():
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 0]])
    expected = losses.soft_kl(S[:1], T[:1]).item() / 2
    assert losses.listwise_kl(S, T, mask).item() == pytest.approx(expected, rel=1e-12)


@given(logits(3, 4), logits(3, 4), st.lists(st.booleans(), min_size=12, max_size=12))
@settings(max_examples=50, deadline=None)
def test_listwise_kl_is_never_negative(student, teacher, valid):
    mask = torch.tensor(valid).reshape(3, 4)
    mask[0, 0] = True
    assert losses.listwise_kl(student, teacher, mask).item() >= -1e-10


# what holds for all

CALLS = {
    "soft_kl": lambda s, t: losses.soft_kl(s, t),
    "distillation": lambda s, t: losses.distillation(s, t, Y),
    "unlabelled": lambda s, t: losses.distillation(s, t),
    "hidden_mse": lambda s, t: losses.hidden_mse(
        s[None], t[None], torch.ones(1, 2, dtype=torch.long)
    ),
    "margin_mse": lambda s, t: losses.margin_mse(s[0], s[1], t[0], t[1]),
    "listwise_kl": lambda s, t: losses.listwise_kl(s, t, torch.ones(2, 4, dtype=torch.bool)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_gradient_reaches_the_teacher(call):
    student, teacher = leaf(S), leaf(T)
    call(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_and_double_stays(call, half):
    low = leaf(S.to(half))
    loss = call(low, T.to(half))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, call(low.detach().float(), T.to(half).float()))
    assert grad(loss, low).dtype == half
    assert call(S, T).dtype == torch.float64


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_gradients_agree_with_finite_differences(call):
    assert torch.autograd.gradcheck(lambda s: call(s, T), leaf(S))


MASK = torch.ones(2, 4, dtype=torch.bool)
BAD = {
    "shapes differ": (lambda: losses.soft_kl(S, T[:, :3]), "shapes differ"),
    "batch sizes differ": (lambda: losses.soft_kl(S, T[:1]), "shapes differ"),
    "one dimension": (lambda: losses.soft_kl(S[0], T[0]), r"give \(pairs, classes\)"),
    "no pair": (lambda: losses.soft_kl(S[:0], T[:0]), "an empty batch"),
    "no class": (lambda: losses.soft_kl(S[:, :0], T[:, :0]), "an empty batch"),
    "T zero": (lambda: losses.soft_kl(S, T, 0.0), "temperature is 0.0"),
    "T negative": (lambda: losses.distillation(S, T, Y, temperature=-1.0), "temperature is -1.0"),
    "T nan": (lambda: losses.listwise_kl(S, T, MASK, math.nan), "temperature is nan"),
    "T infinite": (lambda: losses.soft_kl(S, T, math.inf), "temperature is inf"),
    "alpha": (lambda: losses.distillation(S, T, Y, alpha=-0.1), "alpha is -0.1"),
    "labels short": (lambda: losses.distillation(S, T, Y[:1]), "one per pair"),
    "labels square": (lambda: losses.distillation(S, T, Y[:, None]), "one per pair"),
    "labels float": (lambda: losses.distillation(S, T, Y.float()), "as integers"),
    "label too high": (lambda: losses.distillation(S, T, Y + 2), r"label 4 is outside 0\.\.3"),
    "label -1": (lambda: losses.distillation(S, T, Y - 1), "label -1 is outside"),
    "no labelled batch": (lambda: losses.distillation(S[:0], T[:0], Y[:0]), "an empty batch"),
    "widths differ": (
        lambda: losses.hidden_mse(S[None], T[None, :, :3], MASK[None, 0, :2]),
        "give a projection",
    ),
    "projected wrongly": (
        lambda: losses.hidden_mse(S[None], T[None], MASK[None, 0, :2], lambda x: x[..., :3]),
        "3 wide after the projection",
    ),
    "tokens differ": (
        lambda: losses.hidden_mse(S[None], T[None, :1], MASK[None, 0, :2]),
        "pairs and tokens",
    ),
    "mask shape": (lambda: losses.hidden_mse(S[None], T[None], MASK), "mask is"),
    "mask float": (lambda: losses.listwise_kl(S, T, MASK.float()), "mask must be bool"),
    "mask of twos": (lambda: losses.listwise_kl(S, T, 2 * MASK.long()), "mask must be bool"),
    "all hidden": (
        lambda: losses.hidden_mse(S[None], T[None], torch.zeros(1, 2, dtype=torch.bool)),
        "hides every token",
    ),
    "no candidate": (lambda: losses.listwise_kl(S, T, ~MASK), "no query has a valid candidate"),
    "no query": (lambda: losses.listwise_kl(S[:0], T[:0], MASK[:0]), "an empty batch"),
    "margins differ": (lambda: losses.margin_mse(S[0], S[1], T[0], T[1, :2]), "shapes differ"),
    "no margin": (lambda: losses.margin_mse(*[S[0, :0]] * 4), "an empty batch"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_module_imports_torch_alone():
    code = (
        "import sys, torch; before = set(sys.modules); import ecomkd.losses; "
        "print({m.split('.')[0] for m in set(sys.modules) - before} - {'torch', 'ecomkd'})"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
