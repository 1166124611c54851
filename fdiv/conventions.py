"""What other papers and codes call the members of the family, and how their parameters convert."""

from __future__ import annotations

import math

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
# where sources put the two KLs, which their formulas have as limits or as cases of their own
ENDS = {
    "forward_kl": {
        "TRL beta": "0 (GKD, Distillation), a case of its own there: gjs would be 0",
        "SDPO distillation_alpha": "0",
        "TRL f_divergence_type": "forward_kl, p the reference and q the policy",
        "alpha-DPG alpha": "0, p the target",
    },
    "reverse_kl": {
        "TRL beta": "1 (GKD, Distillation), a case of its own there: gjs would be 0",
        "SDPO distillation_alpha": "1",
        "TRL f_divergence_type": "reverse_kl, p the reference and q the policy",
        "alpha-DPG alpha": "1, p the target",
    },
    "js": {
        "TRL beta": "0.5",
        "SDPO distillation_alpha": "0.5",
        "TRL f_divergence_type": "js_divergence: twice D, p the reference and q the policy",
    },
}


def equivalents(spec: str) -> dict[str, str]:
    """Convention -> what the same member is called or set to there; empty where no other is in
    use."""
    if divergences.over_vocabulary(spec).name.startswith("ab:"):
        return _alpha_beta(spec)
    _, x = divergences.lookup(spec)
    name = divergences.parse(spec).name.partition(":")[0]
    if x is not None and name in _CONVERTERS:
        return _CONVERTERS[name](x)
    own = {"in this family": TWINS[name]} if name in TWINS else {}
    return own | ENDS.get(name, {})


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
        "ABKD alpha, beta": f"{a:g}, {1 - a:g}",
        "p and q swapped": f"alpha:{1 - a:g}",
        "Renyi": renyi,
        "Tsallis": f"Tsallis order {a:g} = {a:g} D",
    }


def _alpha_beta(spec: str) -> dict[str, str]:
    a, b = (float(x) for x in spec.partition(":")[2].split(","))
    power = {"PowerOPD alpha": f"{a:g}, the sampled reward p^a - q^a"} if b == 1 else {}
    same = {"in this family": f"alpha:{a:g}"} if math.isclose(a + b, 1) else {}
    swapped = {"p and q swapped": f"ab:{b:g},{a:g}"}
    return {"ABKD alpha, beta": f"{a:g}, {b:g}"} | power | same | swapped


def _tsallis(a: float) -> dict[str, str]:
    return {"in this family": f"{a:g} alpha:{a:g}"}


def _gjs(b: float) -> dict[str, str]:
    limits = f"D / {b * (1 - b):g} tends to forward_kl as b -> 0 and to reverse_kl as b -> 1"
    return {
        "GKD beta": f"{b:g}",
        "TRL beta": f"{b:g} (GKD, Distillation)",
        "SDPO distillation_alpha": f"{b:g}",
        "p and q swapped": f"gjs:{1 - b:g}",
        "limits": limits,
    }


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
    "tsallis": _tsallis,
    "skew_kl": _skew_kl,
    "skew_reverse_kl": _skew_reverse_kl,
}
