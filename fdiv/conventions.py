"""What other papers and codes call the members of the family, and how their parameters convert."""

from __future__ import annotations

from fdiv import divergences

TWINS = {
    "forward_kl": "alpha:1",
    "reverse_kl": "alpha:0",
    "pearson_chi2": "2 alpha:2",
    "neyman_chi2": "2 alpha:-1",
    "hellinger2": "alpha:0.5 / 2",
    "js": "gjs:0.5",
    "jeffreys": "forward_kl + reverse_kl",
    "log_d": "reverse_kl - 2 js",
}


def equivalents(spec: str) -> dict[str, str]:
    """Convention -> what the same member is called or set to there; empty where no other is in
    use."""
    _, x = divergences.lookup(spec)
    name = divergences.parse(spec).name.partition(":")[0]
    if x is not None and name in _CONVERTERS:
        return _CONVERTERS[name](x)
    return {"in this family": TWINS[name]} if name in TWINS else {}


def _alpha(a: float) -> dict[str, str]:
    if a in (0, 1):
        renyi = "Renyi order 1, which is the KL itself"
    else:
        renyi = (
            f"Renyi order {a:g} = log(1 + {a * (a - 1):g} D) / {a - 1:g}, monotone in D "
            "and no f-divergence itself"
        )
    return {
        "Amari alpha": f"{2 * a - 1:g}",
        "f-DPO alpha": f"{a:g}, p the reference and q the policy",
        "TRL f_alpha_divergence_coef": f"{1 - a:g}, p the reference and q the policy",
        "alpha-DPG alpha": f"{1 - a:g}, p the target",
        "p and q swapped": f"alpha:{1 - a:g}",
        "Renyi": renyi,
    }


def _gjs(b: float) -> dict[str, str]:
    limits = f"D / {b * (1 - b):g} tends to forward_kl as b -> 0 and to reverse_kl as b -> 1"
    return {"GKD beta": f"{b:g}", "p and q swapped": f"gjs:{1 - b:g}", "limits": limits}


def _skew_kl(weight: float) -> dict[str, str]:
    return {
        "DistiLLM lambda": f"{weight:g}",
        "GKD beta of the same mixture": f"{weight:g}",
        "p and q swapped": f"skew_reverse_kl:{weight:g}",
    }


def _skew_reverse_kl(weight: float) -> dict[str, str]:
    return {
        "DistiLLM lambda": f"{weight:g}",
        "GKD beta of the same mixture": f"{1 - weight:g}",
        "p and q swapped": f"skew_kl:{weight:g}",
    }


_CONVERTERS = {
    "alpha": _alpha,
    "gjs": _gjs,
    "skew_kl": _skew_kl,
    "skew_reverse_kl": _skew_reverse_kl,
}
