"""The regional loss: by hand, against torch's cross-entropies, its gradient, and why the study's form collapses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, nll_loss

from tasks.heads.losses import PRESETS, regional_loss
from tasks.heads.regional_gradient import RegionalGradient

FORMS = ("nll", "double-softmax")
# Three classes of one region, two of another, one of a third, in no order.
REGION = torch.tensor([4, 1, 4, 9, 1, 4])


def batch(seed: int, n: int = 7, n_models: int | None = None, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (n, 6) if n_models is None else (n_models, n, 6)
    logits = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 6, (n,), generator=generator)


def by_torch(logits: torch.Tensor, target: torch.Tensor, portion: float, form: str) -> torch.Tensor:
    """As the study's code has it, and as its text has it, with torch's own functions."""
    names, index = REGION.unique(return_inverse=True)
    probability = logits.softmax(-1)
    sums = torch.stack([probability[:, index == each].sum(-1) for each in range(len(names))], dim=-1)
    if form == "nll":
        return portion * nll_loss(sums.log(), index[target]) + (1 - portion) * cross_entropy(logits, target)
    return portion * cross_entropy(sums, index[target]) + (1 - portion) * cross_entropy(probability, target)


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 10_000), portion=st.floats(0, 1))
@settings(max_examples=30)
def test_the_same_as_torch(form: str, seed: int, portion: float) -> None:
    logits, target = batch(seed)
    mine = regional_loss(logits, target, REGION, portion=portion, form=form)  # type: ignore[arg-type]
    torch.testing.assert_close(mine, by_torch(logits, target, portion, form))


def test_by_hand() -> None:
    # p = (.7, .1, .2), regions (0, 0, 1), truth the second: CE_class = -log .1, CE_region = -log .8.
    logits, target = torch.log(torch.tensor([[0.7, 0.1, 0.2]])), torch.tensor([1])
    region = torch.tensor([0, 0, 1])
    assert float(regional_loss(logits, target, region, portion=0.0)) == pytest.approx(-math.log(0.1))
    assert float(regional_loss(logits, target, region, portion=1.0)) == pytest.approx(-math.log(0.8))
    scaled = regional_loss(logits, target, region, portion=1.0, region_scale="log-ratio")
    assert float(scaled) == pytest.approx(-math.log(0.8) * math.log(3 / 2))
    # The study's code: a softmax of (.7, .1, .2), and of the sums (.8, .2).
    classes = math.exp(0.7) + math.exp(0.1) + math.exp(0.2)
    double = regional_loss(logits, target, region, portion=0.5, form="double-softmax")
    wanted = 0.5 * (math.log(math.exp(0.8) + math.exp(0.2)) - 0.8) + 0.5 * (math.log(classes) - 0.1)
    assert float(double) == pytest.approx(wanted)


def test_double_softmax_hardly_moves_however_sure_the_head_is() -> None:
    region, target = torch.arange(211) % 23, torch.tensor([5])
    right, wrong = torch.zeros(1, 211), torch.zeros(1, 211)
    right[0, 5], wrong[0, 6] = 1000.0, 1000.0
    low, high = (
        float(regional_loss(each, target, region, portion=0.0, form="double-softmax")) for each in (right, wrong)
    )
    assert low == pytest.approx(math.log(math.e + 210) - 1)
    assert high == pytest.approx(math.log(math.e + 210))
    assert float(regional_loss(right, target, region, portion=0.0)) == 0
    assert float(regional_loss(wrong, target, region, portion=0.0)) == 1000


@pytest.mark.parametrize("form", FORMS)
def test_gradients(form: str) -> None:
    logits, target = batch(0)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda given: regional_loss(given, target, REGION, portion=0.3, form=form),  # type: ignore[arg-type]
        (logits,),
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", ["none", "log-ratio"])
def test_gradient_in_closed_form_is_that_of_autograd(form: str, scale: str) -> None:
    logits, target = batch(1, n_models=4)
    portion = torch.tensor([0.0, 0.25, 0.6, 1.0], dtype=torch.float64)
    logits.requires_grad_()
    losses = regional_loss(logits, target, REGION, portion=portion, form=form, region_scale=scale)  # type: ignore[arg-type]
    assert losses.shape == (4,)
    losses.sum().backward()
    given = logits.detach().float()
    slope, of_class, of_region = RegionalGradient(REGION, form, scale)(given, target, portion.float())  # type: ignore[arg-type]
    assert logits.grad is not None
    torch.testing.assert_close(slope.double(), logits.grad, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close((portion * of_region + (1 - portion) * of_class).double(), losses, atol=1e-5, rtol=1e-4)


def test_a_hopeless_region_still_has_a_gradient() -> None:
    # e^-300 is 0 in float32; by sums of probabilities the gradient would be 0/0.
    logits = torch.tensor([[[300.0, 0.0, -1.0]]])
    slope, _, loss = RegionalGradient(torch.tensor([0, 1, 1]), "nll", "none")(
        logits, torch.tensor([1]), torch.tensor([1.0])
    )
    within = torch.tensor([0.0, -1.0]).softmax(-1)
    torch.testing.assert_close(slope[0, 0], torch.tensor([1.0, *(-within).tolist()]))
    assert float(loss) == pytest.approx(300 - math.log(1 + math.exp(-1)))


def test_wrong_input_is_named() -> None:
    logits, target = batch(2)
    with pytest.raises(ValueError, match=r"portion must be from 0 to 1, got 1\.5"):
        regional_loss(logits, target, REGION, portion=1.5)
    with pytest.raises(ValueError, match="form must be one of nll, double-softmax"):
        regional_loss(logits, target, REGION, portion=0.5, form="softmax")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="region_scale must be one of"):
        regional_loss(logits, target, REGION, portion=0.5, region_scale="log")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"region \(C,\)"):
        regional_loss(logits, target, REGION[:3], portion=0.5)


def test_presets_are_the_studys() -> None:
    assert PRESETS == {
        "L0": {"gamma": 0.0, "rho": 1.0},
        "L25": {"gamma": 0.25, "rho": 1.0},
        "L50": {"gamma": 0.5, "rho": 1.0},
        "LDYN": {"gamma": 0.8, "rho": 0.75},
    }
    assert np.isclose(PRESETS["LDYN"]["gamma"] * PRESETS["LDYN"]["rho"] ** 14, 0.0142545, atol=1e-6)
