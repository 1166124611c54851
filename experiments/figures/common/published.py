"""What others have published, as numbers, for comparison and display only: nothing here enters a
computation.

Where a paper makes a statement and prints no number, the number is the statement written as one,
and its source says so."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A number at a figure's default flags."""

    value: str  # dotted path into the figure's values, keys may hold dots
    number: float
    tolerance: float
    source: str


SCHULMAN = "Schulman 2020, first table"
TANG = "Tang & Munos 2025, a statement: "
NOTEBOOK = "the notebook of arXiv 2505.13111, printed at one seed"
GHASEMIPOUR = "Ghasemipour et al. 2019, a statement: "

PUBLISHED: dict[str, list[Published]] = {
    "kl_estimators": [
        Published("estimators.k1.stdev_over_true", 20, 0.5, SCHULMAN),
        Published("estimators.k2.stdev_over_true", 1.42, 0.005, SCHULMAN),
        Published("estimators.k3.stdev_over_true", 1.42, 0.005, SCHULMAN),
        Published("estimators.k1.bias_over_true", 0, 5e-4, SCHULMAN),
        Published("estimators.k2.bias_over_true", 0.002, 6e-4, f"{SCHULMAN} (sampled)"),
        Published("estimators.k3.bias_over_true", 0, 5e-4, SCHULMAN),
    ],
    "kl_gradients": [
        Published("rows.k1_loss.norm_ratio", 0, 1e-12, f"{TANG}zero in expectation"),
        Published(
            "rows.k2_loss_string.relative_error", 0, 1e-10, f"{TANG}the squared estimate is exact"
        ),
        Published("rows.k3_loss_string.cosine_forward", 1, 1e-10, f"{TANG}the other KL's gradient"),
    ],
    "discriminator_rewards": [
        Published("cosine.airl.reverse_kl", 1, 1e-9, f"{GHASEMIPOUR}AIRL descends it"),
        Published("cosine.gail.js", 1, 1e-9, "Ho & Ermon 2016, a statement: GAIL descends it"),
        Published("cosine.fairl.forward_kl", 1, 1e-9, f"{GHASEMIPOUR}FAIRL descends it"),
    ],
    "gaussian_fit": [
        Published(
            "fits.forward_kl.mean", -1.2, 1e-3, "Bishop 2006, a statement: the mixture's own mean"
        ),
        Published(
            "fits.forward_kl.std",
            2.8636,
            1e-3,
            "Bishop 2006, a statement: its own standard deviation",
        ),
    ],
    "compounding_error": [
        Published(
            "cliff_slope.0.001",
            2,
            0.1,
            "Ross & Bagnell 2010, a statement: quadratic in the horizon",
        ),
        Published(
            "full_recovery_slope.0.001",
            1,
            1e-6,
            "Ross, Gordon & Bagnell 2011, a statement: linear with recovery",
        ),
    ],
    "opd_plus": [
        Published(
            "rows.reverse_kl.naive.cosine at 1.5",
            1,
            1e-9,
            "OPD+ (arXiv 2606.01039), a statement: of the naive rewards reverse KL's is right",
        ),
    ],
    "teacher_temperature": [
        Published("plane.direct.recall", -2.646, 0.1, NOTEBOOK),
        Published("plane.direct.precision", -20.266, 0.5, NOTEBOOK),
        Published("plane.100.recall", -42.445, 0.5, NOTEBOOK),
        Published("plane.100.precision", -0.703, 0.5, NOTEBOOK),
    ],
    "gad": [
        Published(
            "frozen.nearest after",
            300,
            100,
            "GAD (arXiv 2511.10643), a statement: reward hacking after some 300 steps",
        ),
    ],
}
