"""TRL's configurations, as its source was in July 2026 (f2cd577)."""

from __future__ import annotations

from experiments.foreign.meaning import (
    COMPARE,
    HELD,
    Foreign,
    Meaning,
    Option,
    Options,
    choose,
    distilled,
    jsd,
    number,
)

VERSION = "TRL f2cd577 (2026-07-24)"
# of transformers.TrainingArguments, and what only says where models, data and records are
COMMON = frozenset(
    [
        "output_dir",
        "learning_rate",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "optim",
        "num_train_epochs",
        "max_steps",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_ratio",
        "warmup_steps",
        "seed",
        "data_seed",
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "bf16",
        "fp16",
        "tf32",
        "logging_steps",
        "logging_strategy",
        "logging_first_step",
        "save_steps",
        "save_strategy",
        "save_total_limit",
        "save_only_model",
        "eval_strategy",
        "eval_steps",
        "eval_on_start",
        "load_best_model_at_end",
        "metric_for_best_model",
        "report_to",
        "run_name",
        "project",
        "trackio_space_id",
        "push_to_hub",
        "hub_model_id",
        "hub_strategy",
        "deepspeed",
        "fsdp",
        "fsdp_config",
        "ddp_timeout",
        "ddp_find_unused_parameters",
        "dataloader_num_workers",
        "dataloader_drop_last",
        "dataloader_pin_memory",
        "remove_unused_columns",
        "torch_compile",
        "use_liger_kernel",
        "torch_empty_cache_steps",
        "resume_from_checkpoint",
        "overwrite_output_dir",
        "do_train",
        "do_eval",
        "include_num_input_tokens_seen",
        "average_tokens_across_devices",
        "neftune_noise_alpha",
        "model_name_or_path",
        "model_revision",
        "torch_dtype",
        "dtype",
        "attn_implementation",
        "trust_remote_code",
        "use_peft",
        "lora_r",
        "lora_alpha",
        "lora_dropout",
        "lora_target_modules",
        "lora_task_type",
        "load_in_4bit",
        "load_in_8bit",
        "bnb_4bit_quant_type",
        "use_bnb_nested_quant",
        "dataset_name",
        "dataset_config",
        "dataset_train_split",
        "dataset_test_split",
        "dataset_streaming",
        "dataset_num_proc",
        "model_init_kwargs",
        "router_aux_loss_coef",
        "shuffle_dataset",
        "pad_to_multiple_of",
        "chat_template_path",
        "chat_template_kwargs",
        "teacher_model_name_or_path",
        "teacher_model_revision",
        "teacher_model_init_kwargs",
        "ds3_gather_for_generation",
        "generation_batch_size",
        "steps_per_generation",
        "num_generations_eval",
        "generation_kwargs",
        "cache_implementation",
        "max_prompt_length",
        "max_completion_length",
        "max_length",
        "min_p",
        "repetition_penalty",
        "log_completions",
        "log_completions_steps",
        "log_multimodal",
        "num_completions_to_print",
        "log_unique_prompts",
        "log_completions_hub_repo",
        "use_vllm",
        "vllm_mode",
        "vllm_model_impl",
        "vllm_enable_sleep_mode",
        "vllm_structured_outputs_regex",
        "vllm_server_base_url",
        "vllm_server_host",
        "vllm_server_port",
        "vllm_server_timeout",
        "vllm_group_port",
        "vllm_gpu_memory_utilization",
        "vllm_max_model_length",
        "vllm_tensor_parallel_size",
        "vllm_sync_frequency",
        "disable_dropout",
        "activation_offloading",
        "cast_lm_head_to_fp32",
        "pad_token",
        "eos_token",
    ]
)


def _sft(x: Options) -> Meaning:
    dft = x["loss_type"] == "dft"
    notes = (
        "packing and completion_only_loss decide which tokens count, not the divergence",
        "a mean over a batch's tokens: long strings weigh more than in a mean over strings",
    )
    if dft:
        gradient = (
            "E_p[q grad log q], the log-likelihood weighted by q, which is held fixed: of no f"
        )
        return Meaning(
            "none", "token", "the data's", "log q times q, held fixed", gradient, "", notes
        )
    return Meaning(
        "forward_kl",
        "sequence (a sum over tokens, which is the same)",
        "the data's",
        "-log q of the data's tokens",
        "sequence forward_kl, less the expert's entropy, which is constant",
        f"{COMPARE} sft --max-likelihood.aggregate token",
        notes,
    )


def _gkd(x: Options) -> Meaning:
    share, beta = float(x["lmbda"] or 0), float(x["beta"] or 0)
    temperature = float(x["temperature"] or 1)
    d = jsd(beta)
    gradient, command = distilled(d, share, temperature)
    notes = [
        "beta 0 and 1 are cases of their own: the formula between them tends to 0 at both ends",
        "no factor of temperature^2: the gradient shrinks with the temperature",
        "lmbda is drawn once for each batch: a batch is the student's or the data's as a whole",
    ]
    if x["seq_kd"]:
        notes.append("seq_kd: the data's completions are replaced by the teacher's")
    whose = {0.0: "the data's", 1.0: "the student's"}.get(share, f"the student's by {share:g}")
    return Meaning(
        d, "token", whose, "loss, summed over the vocabulary", gradient, command, tuple(notes)
    )


def _distillation(x: Options) -> Meaning:
    temperature, beta = float(x["temperature"] or 1), float(x["beta"] or 0)
    d = jsd(beta)
    gradient, command = distilled(d, 1.0, temperature)
    notes = [
        "beta 0 is forward and 1 reverse KL, cases of their own; the default is 1, GKD's is .5",
        "since August 2026 this is TRL's stable trainer, without lmbda: all prefixes the student's",
    ]
    if temperature != 1:
        notes.append("the student samples at this temperature as well, and there is no factor T^2")
    if x["top_p"] != 1 or x["top_k"] != 0:
        notes.append(
            f"prefixes are not the student's own law but its top_p {x['top_p']:g}"
            + (f", top_k {x['top_k']}" if x["top_k"] else "")
        )
    return Meaning(
        d,
        "token",
        "the student's",
        "loss, summed over the vocabulary",
        gradient,
        command,
        tuple(notes),
    )


def _self_distillation(name: str, x: Options) -> Meaning:
    alpha, mode, d = float(x["distillation_alpha"] or 0), x["distillation_mode"], ""
    notes = [
        "the teacher is the model itself with a privileged context; distillation_is_clip weighs "
        "tokens by the clipped ratio q / q_old, 1 on policy",
        "the tail beyond top-k is renormalised away unless distillation_add_tail is set",
        "which k: the student's own likeliest tokens (a teacher server: the teacher's)",
    ]
    if name == "SDFT":
        notes.append(
            "the paper's equation is reverse KL and all of its results are per-token forward KL "
            "(author, idanshen/Self-Distillation #5)"
        )
    if mode == "sampled_token":
        if alpha != 1:
            notes.append("refused there: a sampled token needs distillation_alpha 1")
        gradient = f"token reverse_kl at the policy's prefixes, {HELD}"
        command = f"{COMPARE} policy_gradient:reverse_kl --policy-gradient.discount 0"
        place = "(log q - log p) log q of the sampled token, the first held fixed"
        return Meaning(
            "reverse_kl", "token", "the student's", place, gradient, command, tuple(notes)
        )
    d = jsd(alpha)
    gradient, command = distilled(d, 1.0)
    place = "loss, summed over the vocabulary"
    if mode == "topk_logits":
        k = x["distillation_topk"]
        place = f"loss, summed over the {k} likeliest tokens"
        if x["distillation_add_tail"]:
            place += " and one bucket for the rest"
            gradient = gradient.replace(f"token {d}", f"token {d} over {k} tokens and the rest")
            command += f" --distill.top-k {k}"
            notes.append("--distill.top-k takes the teacher's likeliest tokens, not the student's")
        else:
            place += ", renormalised"
            gradient = (
                f"token {d} of both laws conditioned on the student's top {k}: 0 does not mean "
                "equal laws, as nothing holds the mass outside"
            )
            command = ""
    return Meaning(d, "token", "the student's", place, gradient, command, tuple(notes))


def _dpo(x: Options) -> Meaning:
    kind = x["f_divergence_type"]
    coefficient = float(x["f_alpha_divergence_coef"] or 0)
    names = {"reverse_kl": "reverse_kl", "forward_kl": "forward_kl", "js_divergence": "js"}
    d = names.get(str(kind), f"alpha:{1 - coefficient:g}")
    if kind == "alpha_divergence" and abs(coefficient - 1) < 1e-6:
        d = "reverse_kl"
    notes = []
    if kind == "js_divergence":
        notes.append("its JS is unhalved: beta there is 2 beta of js here")
        notes.append(
            "f'(u) is bounded by log 2 above: refused by f_dpo here, whose optimum it bounds"
        )
    if kind == "alpha_divergence":
        notes.append(
            "f-DPO's paper calls 1 - coef alpha; D_f(reference||policy) here is alpha:1-coef"
        )
    if x["loss_type"] not in ("sigmoid", ["sigmoid"]):
        notes.append(
            f"loss_type {x['loss_type']} is another loss than DPO's; see ipo, simpo, kto here"
        )
    method = "dpo" if d == "reverse_kl" else f"f_dpo:{d}"
    known = x["loss_type"] == "sigmoid" and kind != "js_divergence"
    smooth = f" --dpo.label-smoothing {x['label_smoothing']:g}" if x["label_smoothing"] else ""
    return Meaning(
        d,
        "sequence",
        "the data's pairs",
        "-log sigmoid of the margin of -beta reward(log ref / q)",
        f"of no divergence on the way; zero at the optimum of E[r] - beta {d}(reference||policy)",
        f"python -m experiments.compare rlhf --methods {method} --beta {x['beta']:g}{smooth}"
        if known
        else "",
        tuple(notes),
    )


AGGREGATE = {  # loss_type -> how tokens of strings of unlike lengths weigh
    "grpo": "a mean over each string's tokens, then over strings (short ones weigh more)",
    "bnpo": "a mean over the batch's tokens",
    "dapo": "a mean over the tokens of the accumulated batch",
    "dr_grpo": "a sum over tokens over max_completion_length: no bias by length",
    "luspo": "as grpo, each string times its length: a sum over tokens",
    "sapo": "as grpo, with a soft gate in place of the clip",
    "cispo": "as dapo, with the clipped ratio as a weight, held fixed",
    "vespo": "as dapo, with a smooth weight of the sequence's ratio, held fixed",
}
FLAGS = {"grpo": "string_mean", "bnpo": "token", "dapo": "token", "dr_grpo": "constant"}


def _grpo(x: Options) -> Meaning:
    beta, kind, scale = float(x["beta"] or 0), str(x["loss_type"]), x["scale_rewards"]
    corrected = x["use_bias_correction_kl"]
    penalty = "k3-ratio" if corrected else "k3-loss"
    notes = [AGGREGATE[kind]]
    gradient = "the return alone: beta is 0, so no divergence is minimised"
    if beta:
        gradient = (
            f"the return less beta token KL(reference||policy) at the policy's prefixes, {HELD}"
        )
        notes.append(
            "k3 is an estimate of reverse KL, and as a loss has the gradient of forward KL"
        )
    if beta and corrected:
        gradient = f"the return less beta token reverse_kl at the policy's prefixes, {HELD}"
        notes[-1] = "k3 times q / q_old has the gradient of what it estimates, reverse KL"
    if scale not in ("none", False):
        notes.append(
            f"scale_rewards {scale}: divided by a standard deviation, the return is reweighed"
        )
    method = "grpo" if scale in ("none", False) else "grpo_std"
    same = kind in FLAGS and x["importance_sampling_level"] == "token"
    command = (
        f"python -m experiments.compare rlhf --methods {method}{f':{penalty}' if beta else ''}"
        f" --grpo.aggregate {FLAGS[kind]} --grpo.clip {x['epsilon']:g}"
        f" --grpo.group {x['num_generations']}" + (f" --beta {beta:g}" if beta else "")
        if same and scale != "batch"
        else ""
    )
    if not beta and command:
        notes.append("the tasks with a reward here always charge a reference: give a small --beta")
    return Meaning(
        "forward_kl" if beta and not corrected else "reverse_kl" if beta else "none",
        "the return of strings",
        "the policy's",
        f"{penalty} of each sampled token" if beta else "no penalty",
        gradient,
        command,
        tuple(notes),
    )


def _rloo(x: Options) -> Meaning:
    beta = float(x["beta"] or 0)
    return Meaning(
        "reverse_kl" if beta else "none",
        "the return of strings",
        "the policy's",
        "k1 of the whole string, in its reward",
        "the return less beta sequence reverse_kl to the reference" if beta else "the return alone",
        f"python -m experiments.compare rlhf --methods rloo --beta {beta:g} --rloo.group "
        f"{x['num_generations']}"
        if beta
        else "",
        ("exact, where GRPOConfig's k3 as a loss is not: the two trainers differ (TRL #5889)",),
    )


def _minillm(x: Options) -> Meaning:
    gamma, single = float(x["gamma"] or 0), x["single_step_decomposition"]
    exact = gamma == 1 and not x["length_normalization"]
    notes = [
        "gamma 0 by default: what an action does to later prefixes is dropped; the paper's is 1"
    ]
    if x["length_normalization"]:
        notes.append("length_normalization divides what follows by its discounted length: biased")
    elif 0 < gamma < 1:
        notes.append(
            "its docstring has gamma^(i - t), its code gamma^i: late tokens weigh gamma^t less"
        )
    if x["rkl_advantage"] and single:
        notes.append(
            "the single-step term and the advantage both hold the first step: it counts twice"
        )
    command = f"{COMPARE} policy_gradient:reverse_kl --policy-gradient.discount {gamma:g}"
    what = (
        "sequence reverse_kl"
        if exact
        else f"sequence reverse_kl, later effects weighed by {gamma:g}"
    )
    return Meaning(
        "reverse_kl",
        "sequence",
        "the policy's",
        "reward log p - log q of sampled tokens"
        + (", and the exact sum of one step" if single else ""),
        what,
        command,
        tuple(notes),
    )


SAMPLING = {"temperature": number(1.0, 0), "top_p": number(1.0, 0, 1), "top_k": number(0, 0)}
SELF = {
    "distillation_mode": choose("sampled_token", "full_logits", "topk_logits"),
    "distillation_topk": number(None, 1),
    "distillation_add_tail": choose(False, True),
    "distillation_is_clip": number(2.0, 0),
    **SAMPLING,
}
SELF_OTHERS = COMMON | frozenset(
    [
        "use_teacher_server",
        "num_iterations",
        "num_generations",
        "teacher_model_kind",
        "teacher_update_rate",
        "teacher_sync_steps",
        "generate_from_teacher",
        "teacher_prompt_template",
        "num_loss_tokens_to_skip",
        "loss_type",
        "mask_truncated_completions",
        "dont_reprompt_on_self_success",
        "beta",
        "epsilon",
        "epsilon_high",
        "importance_sampling_level",
        "reward_weights",
        "scale_rewards",
        "distillation_weight",
        "max_reprompt_len",
        "use_successful_as_teacher",
        "success_reward_threshold",
        "reprompt_template",
        "solution_template",
        "feedback_template",
        "include_environment_feedback",
        "environment_feedback_only_without_solution",
        "remove_thinking_from_demonstration",
        "diagnostics_warning_interval",
        "diagnostics_flat_tolerance",
    ]
)
GRPO_OTHERS = COMMON | frozenset(
    [
        "temperature",
        "top_p",
        "top_k",
        "num_iterations",
        "delta",
        "epsilon_high",
        "sapo_temperature_neg",
        "sapo_temperature_pos",
        "vespo_k_pos",
        "vespo_lambda_pos",
        "vespo_k_neg",
        "vespo_lambda_neg",
        "reward_weights",
        "multi_objective_aggregation",
        "mask_truncated_completions",
        "sync_ref_model",
        "ref_model_mixup_alpha",
        "ref_model_sync_steps",
        "top_entropy_quantile",
        "entropy_coef",
        "use_adaptive_entropy",
        "entropy_coef_min",
        "entropy_coef_max",
        "entropy_coef_delta",
        "entropy_target",
        "max_tool_calling_iterations",
        "vllm_importance_sampling_correction",
        "vllm_importance_sampling_mode",
        "vllm_importance_sampling_clip_max",
        "vllm_importance_sampling_clip_min",
        "vllm_importance_sampling_cap",
        "off_policy_mask_threshold",
        "use_transformers_paged",
        "use_transformers_continuous_batching",
        "transformers_continuous_batching_config",
        "normalize_advantages",
        "reward_clip_range",
    ]
)
GRPO = {
    "beta": number(0.0, 0),
    "loss_type": choose("dapo", *(x for x in AGGREGATE if x != "dapo")),
    "scale_rewards": choose("group", "batch", "none", True, False),
    "use_bias_correction_kl": choose(False, True),
    "importance_sampling_level": choose("token", "sequence"),
    "epsilon": number(0.2, 0, 1),
    "num_generations": number(8, 2),
}
SFT_OTHERS = COMMON | frozenset(
    [
        "dataset_text_field",
        "dataset_kwargs",
        "truncation_mode",
        "packing",
        "packing_strategy",
        "padding_free",
        "eval_packing",
        "completion_only_loss",
        "assistant_only_loss",
    ]
)
TRL = {
    "SFTConfig": Foreign(
        f"{VERSION}, trainer/sft_config.py",
        {"loss_type": choose("nll", "dft", "chunked_nll")},
        _sft,
        SFT_OTHERS,
    ),
    "GKDConfig": Foreign(
        f"{VERSION}, experimental/gkd",
        {
            "beta": number(0.5, 0, 1),
            "lmbda": number(0.5, 0, 1),
            "temperature": number(0.9, 1e-3),
            "seq_kd": choose(False, True),
        },
        _gkd,
        SFT_OTHERS | {"max_new_tokens"},
    ),
    "DistillationConfig": Foreign(
        f"{VERSION}, experimental/distillation; stable since August 2026 (#6449)",
        {
            "beta": number(1.0, 0, 1),
            "temperature": number(1.0, 1e-3),
            "top_p": number(0.95, 0, 1),
            "top_k": number(0, 0),
        },
        _distillation,
        COMMON | {"num_generations"},
    ),
    "SDFTConfig": Foreign(
        f"{VERSION}, experimental/sdft",
        SELF
        | {
            "distillation_alpha": number(0.5, 0, 1),
            "distillation_mode": choose("topk_logits", "sampled_token", "full_logits"),
            "distillation_topk": number(100, 1),
        },
        lambda x: _self_distillation("SDFT", x),
        SELF_OTHERS,
    ),
    "SDPOConfig": Foreign(
        f"{VERSION}, experimental/sdpo",
        SELF | {"distillation_alpha": number(1.0, 0, 1)},
        lambda x: _self_distillation("SDPO", x),
        SELF_OTHERS,
    ),
    "DPOConfig": Foreign(
        f"{VERSION}, trainer/dpo_config.py",
        {
            "loss_type": Option(
                "sigmoid",
                tuple(
                    [
                        "sigmoid",
                        "hinge",
                        "ipo",
                        "exo_pair",
                        "nca_pair",
                        "robust",
                        "bco_pair",
                        "sppo_hard",
                        "aot",
                        "aot_unpaired",
                        "apo_zero",
                        "apo_down",
                        "discopop",
                        "sft",
                        "sigmoid_norm",
                    ]
                ),
            ),
            "f_divergence_type": choose(
                "reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"
            ),
            "f_alpha_divergence_coef": number(0.5),
            "beta": number(0.1, 0),
            "label_smoothing": number(0.0, 0, 0.5),
        },
        _dpo,
        COMMON
        | frozenset(
            [
                "truncation_mode",
                "padding_free",
                "precompute_ref_log_probs",
                "precompute_ref_batch_size",
                "loss_weights",
                "ld_alpha",
                "use_weighting",
                "discopop_tau",
                "sync_ref_model",
                "ref_model_mixup_alpha",
                "ref_model_sync_steps",
            ]
        ),
    ),
    "GRPOConfig": Foreign(f"{VERSION}, trainer/grpo_config.py", GRPO, _grpo, GRPO_OTHERS),
    "RLOOConfig": Foreign(
        f"{VERSION}, trainer/rloo_config.py",
        {"beta": number(0.05, 0), "num_generations": number(2, 2)},
        _rloo,
        GRPO_OTHERS | frozenset(GRPO),
    ),
    "MiniLLMConfig": Foreign(
        f"{VERSION}, experimental/minillm",
        {
            "rkl_advantage": choose(True, False),
            "single_step_decomposition": choose(True, False),
            "kd_temperature": number(1.0, 1e-3),
            "gamma": number(0.0, 0, 1),
            "length_normalization": choose(True, False),
        },
        _minillm,
        GRPO_OTHERS | frozenset(GRPO),
    ),
}
