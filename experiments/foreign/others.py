"""Other codes' configurations. What was not read in their source says so in its entry."""

from __future__ import annotations

from experiments.foreign.meaning import (
    COMPARE,
    ESTIMATORS,
    HELD,
    REWARDS,
    Foreign,
    Meaning,
    Options,
    choose,
    distilled,
    jsd,
    number,
)

WORDS = {"kl": "k1", "mse": "k2", "low_var_kl": "k3"}  # verl's other names of the estimators


def _verl(x: Options) -> Meaning:
    mode = WORDS.get(str(x["loss_mode"]), str(x["loss_mode"]))
    if mode.endswith("_topk"):
        d = {"forward_kl_topk": "forward_kl", "reverse_kl_topk": "reverse_kl"}.get(
            mode, jsd(float(x["jsd_beta"] or 0))
        )
        return Meaning(
            d,
            "token",
            "the student's",
            f"loss, summed over the {x['topk']} likeliest tokens of each, without the rest",
            "of no divergence: the terms of part of two laws, which may be negative and are then "
            "clamped to 0, without a gradient (#7855: in 415 of 467 steps)",
            "",
            (
                f"with the rest as one more token it is one: distill:{d} --distill.top-k "
                f"{x['topk']}",
                "log-probs are clamped at log 1e-8, where they have no gradient",
            ),
        )
    if x["use_policy_gradient"]:
        minimises, gradient = REWARDS[mode]
        place = f"-{mode} of the sampled token as its reward"
    else:
        minimises, gradient = ESTIMATORS[mode]
        place = f"{mode} of the sampled token as a loss"
    command = {
        ("k1", True): f"{COMPARE} policy_gradient:reverse_kl --policy-gradient.discount 0",
        ("k2", False): f"{COMPARE} dagger:reverse_kl",
        ("k3", False): f"{COMPARE} dagger:forward_kl",
    }.get((mode, bool(x["use_policy_gradient"])), "")
    return Meaning(
        minimises,
        "token",
        "the student's",
        place,
        gradient,
        command,
        ("the module calls all of them reverse KL estimators, which says what their values are",),
    )


def _verl_actor(x: Options) -> Meaning:
    mode = str(x["kl_loss_type"])
    straight, mode = mode.endswith("+"), WORDS.get(mode.rstrip("+"), mode.rstrip("+"))
    mode = "k2" if straight else mode  # the value of one, the gradient of k2
    if not x["use_kl_loss"]:
        gradient = "the return alone, or less k1 in the reward where use_kl_in_reward is set"
        return Meaning("none", "the return of strings", "the policy's", "no loss", gradient)
    minimises, gradient = ESTIMATORS[mode]
    charged = {"reverse_kl": "k2-loss", "forward_kl": "k3-loss"}.get(minimises)
    command = f"python -m experiments.compare rlhf --methods grpo:{charged}" if charged else ""
    return Meaning(
        minimises,
        "token",
        "the policy's",
        f"{mode} of each sampled token as a loss, times kl_loss_coef {x['kl_loss_coef']:g}",
        f"the return less {gradient}",
        command,
        ("kl and k1, mse and k2, low_var_kl and k3 are the same there; + takes k2's gradient",),
    )


def _tinker(x: Options) -> Meaning:
    discount = float(x["kl_discount_factor"] or 0)
    what = {
        0.0: f"token reverse_kl at the policy's prefixes, {HELD}",
        1.0: "sequence reverse_kl, exactly",
    }.get(discount, f"sequence reverse_kl, later effects weighed by {discount:g} for each token")
    return Meaning(
        "reverse_kl",
        "sequence" if discount else "token",
        "the student's",
        "log p - log q of sampled tokens as advantages, less their mean",
        f"{what}, times kl_penalty_coef {x['kl_penalty_coef']:g}",
        f"{COMPARE} policy_gradient:reverse_kl --policy-gradient.discount {discount:g}",
    )


def _torchrl(x: Options) -> Meaning:
    reverse = x["kl_direction"] == "reverse"
    minimises, gradient = ESTIMATORS["k3"] if reverse else ("forward_kl", "see its documents")
    return Meaning(
        minimises,
        "token",
        "the student's",
        "k3 of the sampled token as a loss" if reverse else "forward KL",
        gradient,
        f"{COMPARE} dagger:forward_kl",
        ("kl_direction reverse puts k3 in the loss, whose gradient is forward KL's",),
    )


def _openrlhf(x: Options) -> Meaning:
    mode = str(x["kl_estimator"])
    minimises, gradient = (ESTIMATORS if x["use_kl_loss"] else REWARDS)[mode]
    place = f"{mode} of each sampled token " + (
        "as a loss" if x["use_kl_loss"] else "in the reward"
    )
    if not x["use_kl_loss"] and mode == "k1":
        gradient = "sequence reverse_kl to the reference, what follows an action counted (gamma 1)"
    return Meaning(
        minimises, "the return of strings", "the policy's", place, f"the return less {gradient}"
    )


def _distillm(x: Options) -> Meaning:
    weight, kind = float(x["skew_alpha"] or 0.1), str(x["loss"])
    d = {"skl": f"skew_kl:{weight:g}", "srkl": f"skew_reverse_kl:{weight:g}"}[kind]
    gradient, command = distilled(d, 0.0)
    note = "adaptive replay of the student's strings has no counterpart here"
    return Meaning(
        d, "token", "data's and the student's, replayed", "loss", gradient, command, (note,)
    )


def _distillm2(x: Options) -> Meaning:
    weight = float(x["alpha"] or 0.1)
    return Meaning(
        f"gjs:{1 - weight:g}",
        "token",
        f"the teacher's strings (skew_kl:{weight:g}) and the student's (below)",
        "loss; q is detached in the mixture of the student's part",
        f"on the student's strings 1 / {weight:g} times token gjs:{1 - weight:g}, not "
        f"skew_reverse_kl:{weight:g}, whose value is computed",
        f"{COMPARE} dagger:reverse_kl --distill.target m --distill.towards {1 - weight:g}",
        ("the detached q is in the code, not in the paper's formula",),
    )


def _minillm(x: Options) -> Meaning:
    return Meaning(
        "reverse_kl",
        "sequence",
        "the student's, mixed with the teacher's",
        "reward log p - log q of what follows, over its length, clipped as PPO's",
        "sequence reverse_kl, but for the length normalisation and the teacher-mixed sampling",
        f"{COMPARE} policy_gradient:reverse_kl",
        ("teacher_mixed_alpha 0.2 draws from .2 p + .8 q and weighs by the clipped ratio",),
    )


def _abkd(x: Options) -> Meaning:
    a, b = float(x["ab_alpha"] or 0), float(x["ab_beta"] or 0)
    ends = {(0.0, 1.0): "reverse_kl", (1.0, 0.0): "forward_kl"}
    d = ends.get((a, b), f"alpha:{a:g}" if a + b == 1 else f"ab:{a:g},{b:g}")
    gradient, command = distilled(d, 0.0)
    note = "the published (.2, .7) is excluded by a comment in the script: set the flags by hand"
    return Meaning(
        d, "token", "the data's", "loss, summed over the vocabulary", gradient, command, (note,)
    )


def _opsd(x: Options) -> Meaning:
    d = jsd(float(x["beta"] or 0))
    gradient, command = distilled(d, 1.0)
    notes = (
        "the teacher is the student itself, shown the answer",
        "the paper speaks of JSD; beta 0, forward KL, was chosen after an ablation (author, #14)",
        "terms are raw, so clipping them pointwise can make the loss negative; here none is",
    )
    return Meaning(
        d, "token", "the student's", "loss, summed over the vocabulary", gradient, command, notes
    )


NOT_READ = "from its documents and threads, source not read"
OTHERS = {
    "verl:distillation_loss": Foreign(
        "verl 3baac34 (2026), trainer/distillation/losses.py",
        {
            "loss_mode": choose(
                "k3",
                "k1",
                "k2",
                "kl",
                "mse",
                "low_var_kl",
                "abs",
                "forward_kl_topk",
                "reverse_kl_topk",
                "jsd_topk",
            ),
            "topk": number(128, 1),
            "jsd_beta": number(0.5, 0, 1),
            "use_policy_gradient": choose(False, True),
        },
        _verl,
        frozenset({"loss_clamp", "loss_max_clamp", "log_prob_min_clamp", "global_batch_info"}),
    ),
    "verl:actor": Foreign(
        f"verl, actor.use_kl_loss, {NOT_READ}",
        {
            "use_kl_loss": choose(False, True),
            "kl_loss_type": choose(
                "low_var_kl",
                "kl",
                "k1",
                "abs",
                "mse",
                "k2",
                "k3",
                "kl+",
                "k1+",
                "low_var_kl+",
                "k3+",
            ),
            "kl_loss_coef": number(0.001, 0),
        },
        _verl_actor,
        frozenset(
            {
                "loss_agg_mode",
                "clip_ratio",
                "clip_ratio_low",
                "clip_ratio_high",
                "ppo_epochs",
                "ppo_mini_batch_size",
                "entropy_coeff",
                "grad_clip",
            }
        ),
    ),
    "tinker:distillation": Foreign(
        "tinker-cookbook 9dfcc3a (2026-08-19), on-policy distillation",
        {"kl_penalty_coef": number(1.0, 0), "kl_discount_factor": number(0.0, 0, 1)},
        _tinker,
        frozenset(
            {
                "groups_per_batch",
                "group_size",
                "learning_rate",
                "max_tokens",
                "lora_rank",
                "temperature",
                "model_name",
                "loss_fn",
                "num_substeps",
                "log_path",
            }
        ),
    ),
    "torchrl:DistillationLoss": Foreign(
        f"torchrl 2026, {NOT_READ}", {"kl_direction": choose("reverse", "forward")}, _torchrl
    ),
    "openrlhf:ppo": Foreign(
        f"OpenRLHF 2026, {NOT_READ}",
        {"use_kl_loss": choose(False, True), "kl_estimator": choose("k1", "k2", "k3")},
        _openrlhf,
        frozenset({"init_kl_coef", "gamma", "lambd", "kl_target", "advantage_estimator"}),
    ),
    "distillm:loss": Foreign(
        f"DistiLLM (arXiv 2402.03898), {NOT_READ}",
        {"loss": choose("skl", "srkl"), "skew_alpha": number(0.1, 1e-6, 1 - 1e-6)},
        _distillm,
    ),
    "distillm2:loss": Foreign(
        "DistiLLM-2 (arXiv 2503.07067), its loss",
        {"alpha": number(0.1, 0.01, 0.99), "beta": number(1.0, 0)},
        _distillm2,
    ),
    "minillm:loss": Foreign(
        f"MiniLLM (arXiv 2306.08543), {NOT_READ}",
        {"teacher_mixed_alpha": number(0.2, 0, 1)},
        _minillm,
        frozenset({"length_norm", "single_step_reg", "cliprange", "gamma"}),
    ),
    "abkd:loss": Foreign(
        "ABKD (arXiv 2505.04560), its script",
        {"ab_alpha": number(0.0, 0, 64), "ab_beta": number(1.0, 0, 64)},
        _abkd,
        frozenset({"kd_ratio", "kd_temp", "kd_rate"}),
    ),
    "opsd:loss": Foreign(
        "OPSD (arXiv 2601.18734), its thread #14",
        {"beta": number(0.0, 0, 1)},
        _opsd,
        frozenset({"pointwise_clip", "temperature"}),
    ),
}
