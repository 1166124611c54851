"""Small changes of the package, each with the test that notices it."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """A text that stands once in a file, what is planted in its place, and the test that fails."""

    name: str
    file: str
    old: str
    new: str
    test: str


ARITHMETIC = "tests/fdiv/benchmarks/test_arithmetic.py::"
ESCAPES = "tests/experiments/test_escapes.py::"
EXPERIMENTS = "tests/experiments/running/test_experiments.py::"
INVERSE = "tests/fdiv/objectives/test_inverse.py::"
LEASE = "tests/experiments/storage/test_run_lease.py::"
MEASURES = "tests/fdiv/test_measures.py::"
OBJECTIVES = "tests/fdiv/objectives/test_objectives.py::"
OPTIMISER = "tests/experiments/test_optimiser.py::"
PARITY = "tests/fdiv/lm/test_parity.py::"
POOLING = "tests/experiments/sweep/test_pooling.py::"
PREFERENCES = "tests/fdiv/objectives/test_preferences.py::"
PREFERENCE_FILES = "tests/experiments/data/test_preference_files.py::"
PROGRAM = "tests/experiments/running/test_program.py::"
RAGGED = "tests/fdiv/objectives/test_ragged.py::"
RETURNS = "tests/fdiv/objectives/test_returns.py::"
REWARDS = "tests/fdiv/objectives/test_reward_models.py::"
ROWS = "tests/experiments/data/test_rows.py::"
SCREEN = "tests/experiments/running/test_screen.py::"
SURVIVAL = "tests/experiments/running/test_survival.py::"
SWEEP = "tests/experiments/sweep/test_sweep.py::"
TABLES = "tests/experiments/reporting/test_tables.py::"
TEACHER = "tests/experiments/running/test_teacher.py::"
TEXT = "tests/experiments/data/test_text.py::"
TEXT_ROWS = "tests/fdiv/benchmarks/test_text_rows.py::"
TOKENS = "tests/fdiv/test_tokens.py::"
VALUES = "tests/experiments/test_values.py::"
WORDING = "tests/experiments/reporting/test_wording.py::"

FAULTS = [
    Fault(
        "PPO clips where it should not",
        "fdiv/surrogates.py",
        "jnp.minimum(",
        "jnp.maximum(",
        RETURNS + "test_the_ratio_is_clipped_on_one_side_only",
    ),
    Fault(
        "leave-one-out keeps the string itself",
        "fdiv/estimators.py",
        "    own = jnp.where(jnp.all((weight == 0) | (weight == 1)), own, 0.0)\n",
        "    own = jnp.zeros_like(own)\n",
        OBJECTIVES + "test_sampled_gradients_average_to_the_exact_one",
    ),
    Fault(
        "the occupancy level forgets how many prefixes are left",
        "fdiv/estimators.py",
        "(horizon - jnp.arange(horizon)[None]) / horizon",
        "jnp.ones((1, horizon))",
        RAGGED + "test_advantages_towards_an_expert[occupancy-1.0-mean-True]",
    ),
    Fault(
        "PPO ignores gae_lambda",
        "fdiv/objectives/ppo.py",
        "discounted_to_go(surprise, gae_lambda)",
        "discounted_to_go(surprise, 0.95)",
        RAGGED + "test_advantages_of_ppo[0.6]",
    ),
    Fault(
        "PPO's value function is taught the wrong target",
        "fdiv/objectives/ppo.py",
        "before, before + advantage)",
        "before, before - advantage)",
        RAGGED + "test_the_value_function_steps_towards_the_returns",
    ),
    Fault(
        "GRPO's deviation has no root",
        "fdiv/objectives/grpo.py",
        "root = jnp.sqrt(squares / jnp.maximum(jnp.where(drawn, mass - 1, mass), 1e-9))",
        "root = squares / jnp.maximum(jnp.where(drawn, mass - 1, mass), 1e-9)",
        RAGGED + "test_the_deviation_of_a_group_is_that_of_whole_answers",
    ),
    Fault(
        "GRPO's deviation divides by n",
        "fdiv/objectives/grpo.py",
        "jnp.where(drawn, mass - 1, mass)",
        "mass",
        RAGGED + "test_advantages_of_grpo_are_the_published_ones",
    ),
    Fault(
        "the ratio of strings is a product",
        "fdiv/surrogates.py",
        "change.sum(1, keepdims=True) / size",
        "change.sum(1, keepdims=True)",
        RAGGED + "test_the_clipped_loss_off_ratio_one[sequence-string]",
    ),
    Fault(
        "reinforce has a baseline for each string alone",
        "fdiv/objectives/reinforce.py",
        "x = x if group else x._replace(groups=x.score.shape[0])",
        "x = x if group else x._replace(groups=1)",
        RAGGED + "test_advantages_of_a_score[reinforce-fields0-4-mean-False]",
    ),
    Fault(
        "reinforce ignores baseline",
        "fdiv/objectives/reinforce.py",
        "self.baseline, None)",
        '"mean", None)',
        RAGGED + "test_advantages_of_a_score[reinforce-fields1-4-none-False]",
    ),
    Fault(
        "a penalty charges without its discount",
        "fdiv/episodes.py",
        "discounted_to_go(charges, penalty.discount)",
        "discounted_to_go(charges, 1.0)",
        RAGGED + "test_a_discount_weighs_what_the_penalty_charges_later",
    ),
    Fault(
        "a penalty alone has no discount",
        "fdiv/penalties.py",
        "returns = discounted_to_go(rewards, discount)",
        "returns = discounted_to_go(rewards, 1.0)",
        RAGGED + "test_a_discount_weighs_what_the_penalty_charges_later",
    ),
    Fault(
        "k3 is paid with the wrong sign",
        "fdiv/penalties.py",
        "jnp.where(mask, -ESTIMATORS[self.estimator](s), 0.0)",
        "jnp.where(mask, ESTIMATORS[self.estimator](s), 0.0)",
        RAGGED + "test_penalties_as_rewards",
    ),
    Fault(
        "IPO ignores reduction",
        "fdiv/objectives/ipo.py",
        'if reduction == "sum" else averaged',
        "if reduction else averaged",
        RAGGED + "test_losses_string_by_string[ipo mean]",
    ),
    Fault(
        "IPO's margin is twice as wide",
        "fdiv/objectives/ipo.py",
        "0.5 / regulariser(components.mdp).beta",
        "1.0 / regulariser(components.mdp).beta",
        PREFERENCES + "test_losses_of_two_strings[ipo-fields3-0.103527]",
    ),
    Fault(
        "SimPO ignores its margin",
        "fdiv/objectives/simpo.py",
        "softplus(-beta * (ahead - margin))",
        "softplus(-beta * (ahead - 0.5))",
        RAGGED + "test_losses_string_by_string[simpo]",
    ),
    Fault(
        "SimPO sums log-probs",
        "fdiv/objectives/simpo.py",
        "return log_q / jnp.maximum(size, 1)",
        "return log_q",
        RAGGED + "test_losses_string_by_string[simpo]",
    ),
    Fault(
        "DPO ignores label smoothing",
        "fdiv/objectives/dpo.py",
        "label_smoothing * softplus(margin)",
        "label_smoothing * softplus(-margin)",
        PREFERENCES + "test_losses_of_two_strings[dpo-fields1-0.482425]",
    ),
    Fault(
        "KTO ignores the weight of what is desired",
        "fdiv/objectives/kto.py",
        "lost = desirable * batch",
        "lost = 1.0 * batch",
        PREFERENCES + "test_losses_of_two_strings[kto-fields7-0.627201]",
    ),
    Fault(
        "KTO ignores the weight of what is not",
        "fdiv/objectives/kto.py",
        "lost + undesirable * batch",
        "lost + 1.0 * batch",
        PREFERENCES + "test_losses_of_two_strings[kto-fields6-0.836268]",
    ),
    Fault(
        "an adaptive weight moves without a bound",
        "fdiv/control.py",
        "jnp.clip(measured / self.target - 1, -CLIP, CLIP)",
        "measured / self.target - 1",
        RETURNS + "test_the_adaptive_controller_by_hand",
    ),
    Fault(
        "a linear weight lags by an update",
        "fdiv/control.py",
        "jnp.minimum(step / self.updates, 1.0)",
        "jnp.minimum(weight.step / self.updates, 1.0)",
        RETURNS + "test_the_linear_weight_by_hand",
    ),
    Fault(
        "the controller is fed the score",
        "fdiv/episodes.py",
        "control.update(aux.weight, beta, divergence, strings)",
        "control.update(aux.weight, beta, share @ x.score, strings)",
        RETURNS + "test_the_controller_is_fed_what_is_reported[rloo]",
    ),
    Fault(
        "a comparison's spread is turned round",
        "fdiv/benchmarks/rewarded.py",
        "jnp.where(differ, self.spread, -self.spread)",
        "jnp.where(differ, -self.spread, self.spread)",
        RETURNS + "test_how_sure_a_comparison_is_by_hand",
    ),
    Fault(
        "a comparison ignores temperature",
        "fdiv/benchmarks/rewarded.py",
        "temperature = self.temperature * jnp.exp(",
        "temperature = jnp.exp(",
        RETURNS + "test_how_sure_a_comparison_is_by_hand",
    ),
    Fault(
        "the same noise at every update",
        "fdiv/learner.py",
        "jax.random.fold_in(state.key, state.step)",
        "state.key",
        OBJECTIVES + "test_every_update_has_noise_of_its_own",
    ),
    Fault(
        "a minibatch's gradient is not scaled",
        "fdiv/learner.py",
        "lambda g: g * minibatches",
        "lambda g: g",
        OBJECTIVES + "test_a_minibatch_step_is_as_long_as_a_whole_one",
    ),
    Fault(
        "the same batch at every update",
        "experiments/running/program.py",
        "key = jax.random.fold_in(train_state.data_key, state.step)",
        "key = train_state.data_key",
        PROGRAM + "test_every_update_has_a_batch_of_its_own[0]",
    ),
    Fault(
        "the first of the fixed rows at every update",
        "experiments/running/runs.py",
        "jax.random.randint(key, (budget.batch_size,), 0, budget.demos)",
        "jax.numpy.arange(budget.batch_size)",
        PROGRAM + "test_every_update_has_a_batch_of_its_own[40]",
    ),
    Fault(
        "all seeds draw the same",
        "experiments/running/program.py",
        "jax.random.fold_in(key, DATA)",
        "jax.random.key(DATA)",
        PROGRAM + "test_every_update_has_a_batch_of_its_own[0]",
    ),
    Fault(
        "the IQM is the median",
        "fdiv/statistics.py",
        "stats.trim_mean(rows, CUT, axis=1)",
        "np.median(rows, axis=1)",
        MEASURES + "test_iqm_and_its_percentile_bootstrap",
    ),
    Fault(
        "the interval is one of 97.5 %",
        "fdiv/statistics.py",
        "stats.t.ppf(0.5 + CONFIDENCE / 2, freedom)",
        "stats.t.ppf(0.75 + CONFIDENCE / 4, freedom)",
        MEASURES + "test_of_two_or_three_seeds_the_interval_is_students[scores0-12.7062]",
    ),
    Fault(
        "norms decay",
        "experiments/optimiser.py",
        'name not in ("scale", "bias")',
        'name != "bias"',
        OPTIMISER + "test_norms_biases_and_vectors_do_not_decay",
    ),
    Fault(
        "a warm-up is in steps",
        "experiments/optimiser.py",
        "self.warm_up * (steps // max(updates, 1))",
        "self.warm_up",
        OPTIMISER + "test_a_warm_up_is_in_updates",
    ),
    Fault(
        "tables rank the worst first",
        "experiments/reporting/tables.py",
        "int(not scores.whole), -board",
        "int(not scores.whole), board",
        TABLES + "test_more_accurate_methods_come_first",
    ),
    Fault(
        "a method that lost seeds may be first",
        "experiments/reporting/tables.py",
        "int(not scores.whole), -board",
        "0, -board",
        POOLING + "test_tables_say_how_many_seeds_are_finite",
    ),
    Fault(
        "the worst learning rate is chosen",
        "experiments/running/trials.py",
        "int(np.argmin(scores))",
        "int(np.argmax(scores))",
        EXPERIMENTS + "test_fixed_demonstrations_trials_and_a_full_class",
    ),
    Fault(
        "the warm start is thrown away",
        "experiments/running/head_to_head.py",
        "        start = _warm_start(",
        "        _warm_start(",
        EXPERIMENTS + "test_fixed_demonstrations_trials_and_a_full_class",
    ),
    Fault(
        "a teacher is known without its data",
        "experiments/running/teacher.py",
        '        "rows": reading.digest(),\n',
        "",
        TEACHER + "test_other_data_seeds_and_sizes_have_teachers_of_their_own[changed1-False]",
    ),
    Fault(
        "a teacher is known without its seed",
        "experiments/running/teacher.py",
        '        "seed": config.budget.seed,\n',
        "",
        TEACHER + "test_other_data_seeds_and_sizes_have_teachers_of_their_own[changed2-False]",
    ),
    Fault(
        "a save's checksum is not compared",
        "experiments/storage/checkpoints.py",
        '    if _checksum(arrays) != about["checksum"]:',
        "    if not arrays:",
        SURVIVAL + "test_a_damaged_save_is_set_aside[flipped bit in the arrays]",
    ),
    Fault(
        "a standard error with n in place of n - 1 of samples",
        "fdiv/metrics.py",
        "x.std(ddof=1)",
        "x.std()",
        MEASURES + "test_standard_errors_by_hand",
    ),
    Fault(
        "a ratio's error forgets its lengths",
        "fdiv/metrics.py",
        "_standard_error(of_strings - ratio * lengths)",
        "_standard_error(of_strings)",
        MEASURES + "test_standard_errors_by_hand",
    ),
    Fault(
        "pass@k with replacement",
        "fdiv/verified.py",
        "/ (tries - jnp.arange(k))[None]",
        "/ tries",
        ARITHMETIC + "test_pass_at_k_is_unbiased[5-5]",
    ),
    Fault(
        "a way counts each time",
        "fdiv/verified.py",
        "(ways >= 0) & ~again",
        "ways >= 0",
        ARITHMETIC + "test_ways_and_their_entropy_by_hand",
    ),
    Fault(
        "memory forgets the optimiser",
        "experiments/footprint.py",
        "copies = 2 + moments(config)",
        "copies = 2",
        VALUES + "test_memory_by_hand",
    ),
    Fault(
        "memory counts one seed's rows",
        "experiments/footprint.py",
        "            seeds * budget.demos * sizes.length * TOKEN,",
        "            budget.demos * sizes.length * TOKEN,",
        VALUES + "test_memory_by_hand",
    ),
    Fault(
        "NaN is in every range",
        "fdiv/ranges.py",
        "        if math.isnan(value):\n",
        "        if value is None:\n",
        VALUES + "test_no_check_lets_nan_or_infinity_pass",
    ),
    Fault(
        "a prompt keeps its beginning",
        "fdiv/benchmarks/text_rows.py",
        "row.prompt[max(0, len(row.prompt) - self.prompt_length) :]",
        "row.prompt[: self.prompt_length]",
        TEXT + "test_bytes_there_and_back",
    ),
    Fault(
        "an answer that is cut is called whole",
        "fdiv/benchmarks/text_rows.py",
        "completion[: self.horizon], len(completion) < self.horizon",
        "completion[: self.horizon - 1], True",
        TEXT + "test_bytes_there_and_back",
    ),
    Fault(
        "lengths leave no room for EOS",
        "fdiv/benchmarks/text.py",
        "[len(row.completion) + 1 for row in rows]",
        "[len(row.completion) for row in rows]",
        TEXT_ROWS + "test_lengths_that_are_not_given_fit_the_rows[to a multiple of 8]",
    ),
    Fault(
        "the held-out side is trained on",
        "fdiv/benchmarks/text.py",
        "for side in (division.train, division.held_out)]",
        "for side in (division.held_out, division.train)]",
        TEXT + "test_training_and_held_out_rows_do_not_mix",
    ),
    Fault(
        "yes is no",
        "experiments/data/rows.py",
        "return word in YES\n",
        "return word in NO\n",
        ROWS + "test_labels_as_people_write_them[True]",
    ),
    Fault(
        "the digest does not know what was rejected",
        "experiments/data/reading.py",
        '            state.update(b"" if row.rejected is None else b"\\0" + row.rejected)\n',
        "",
        PREFERENCE_FILES + "test_the_digest_knows_the_rejected",
    ),
    Fault(
        "EOS is no action",
        "fdiv/tokens.py",
        "jnp.cumsum(previous(tokens) == eos, axis=1) == 0",
        "jnp.cumsum(tokens == eos, axis=1) == 0",
        TOKENS + "test_eos_is_an_action_and_counts_once_per_finished_string",
    ),
    Fault(
        "constant averages over columns",
        "fdiv/tokens.py",
        "(horizon or sequences.tokens.shape[1])",
        "sequences.tokens.shape[1]",
        RAGGED + "test_constant_averages_over_the_horizon_whatever_the_prompts",
    ),
    Fault(
        "weights of 1 + w are w",
        "fdiv/lm/block.py",
        "scale + 1 if self.unit_offset else scale",
        "scale",
        PARITY + "test_logits_are_those_of_transformers[gemma2]",
    ),
    Fault(
        "another eps",
        "fdiv/lm/block.py",
        "keepdims=True) + self.eps)",
        "keepdims=True) + 1e-6)",
        PARITY + "test_logits_are_those_of_transformers[llama]",
    ),
    Fault(
        "seeds of merged runs are counted anew",
        "experiments/reporting/merge.py",
        'row["seed"] + before}',
        'row["seed"]}',
        POOLING + "test_what_runs_say_together",
    ),
    Fault(
        "merged runs show the first one's expert",
        "experiments/reporting/merge.py",
        "float(np.mean([row[name] for row in rows]))",
        "float(rows[0][name])",
        POOLING + "test_what_runs_say_together",
    ),
    Fault(
        "runs of different tasks are pooled",
        "experiments/sweep/collect.py",
        "if name != axis]\n    return [merge.Part",
        "if name == axis]\n    return [merge.Part",
        POOLING + "test_tasks_that_the_grid_names_are_kept_apart[beta]",
    ),
    Fault(
        "a lease that lapsed is no death",
        "experiments/storage/lease.py",
        "(before.deaths if before else 0) + died)",
        "before.deaths if before else 0)",
        SWEEP + "test_a_lease_lapses_is_taken_over_and_its_holder_knows",
    ),
    Fault(
        "every holder is buried",
        "experiments/storage/lease.py",
        "if holder and who.items() <= holder.items()]",
        "if holder]",
        SWEEP + "test_a_lease_lapses_is_taken_over_and_its_holder_knows",
    ),
    Fault(
        "a zombie lives",
        "experiments/storage/run_lease.py",
        'return state != "Z" and began',
        "return began",
        LEASE + "test_a_process_that_nobody_has_waited_for_is_dead",
    ),
    Fault(
        "old saves pile up",
        "experiments/storage/checkpoints.py",
        "_places(folder)[:-keep]",
        "_places(folder)[: -keep - 1]",
        SURVIVAL + "test_as_many_saves_as_asked_for_and_no_drafts",
    ),
    Fault(
        "a run that goes on forgets its tokens",
        "experiments/running/resume.py",
        'np.array(about["tokens"])',
        '0 * np.array(about["tokens"])',
        SURVIVAL + "test_a_stopped_run_goes_on_to_the_same_bits",
    ),
    Fault(
        "a bar in Markdown opens a cell",
        "experiments/escapes.py",
        '"|": r"\\|", ',
        "",
        ESCAPES + "test_each_row_of_a_markdown_table_is_one_line_with_as_many_cells",
    ),
    Fault(
        "an alarm is ok",
        "experiments/reporting/wording.py",
        'return "alarm" if m.alarms else "ok"',
        'return "ok"',
        WORDING + "test_a_method_is_ok_only_where_nothing_speaks_against_it[alarm]",
    ),
    Fault(
        "a gap is turned round",
        "experiments/reporting/results.py",
        "np.asarray(own, float) - best.value",
        "best.value - np.asarray(own, float)",
        POOLING + "test_gaps_and_their_ends_keep_their_seeds",
    ),
    Fault(
        "lower is called better",
        "experiments/reporting/results.py",
        "(values, base) if better > 0",
        "(values, base) if better < 0",
        TABLES + "test_more_accurate_methods_come_first",
    ),
    Fault(
        "one seed is enough for an alarm",
        "experiments/running/alarms.py",
        "float(np.median(values)) for name, values in last.items()",
        "float(np.max(values)) for name, values in last.items()",
        SCREEN + "test_each_alarm_is_raised_by_what_it_is_of[collapse]",
    ),
    Fault(
        "collapse is read from the length",
        "experiments/running/alarms.py",
        "if entropy < COLLAPSED * wanted:",
        "if entropy > COLLAPSED * wanted:",
        SCREEN + "test_each_alarm_is_raised_by_what_it_is_of[collapse]",
    ),
    Fault(
        "overfitting is not seen",
        "fdiv/discriminator.py",
        '"d_accuracy_train": right(demos)',
        '"d_accuracy_train": right(held_out)',
        MEASURES + "test_health_of_a_discriminator_by_hand",
    ),
    Fault(
        "the policy does not wait",
        "fdiv/objectives/adversarial.py",
        "aux.step < warmup, 0.0, advantages(",
        "aux.step < 0, 0.0, advantages(",
        OBJECTIVES + "test_warm_up_leaves_the_policy_alone",
    ),
    Fault(
        "the discriminator that judges is the one before",
        "fdiv/objectives/adversarial.py",
        "prefix = critic.ratio(learned, samples)",
        "prefix = critic.ratio(aux.discriminator, samples)",
        OBJECTIVES + "test_the_discriminator_that_judges_is_the_newest",
    ),
    Fault(
        "a normaliser forgets at once",
        "fdiv/objectives/fdpg.py",
        "jnp.asarray([1 - rate, rate], s.dtype)",
        "jnp.asarray([1e-9, 1.0], s.dtype)",
        INVERSE + "test_the_normaliser_is_a_running_mean_by_hand",
    ),
    Fault(
        "IQ-Learn ignores alpha",
        "fdiv/objectives/iq_learn.py",
        "            4 * alpha\n",
        "            4 * 10.0\n",
        RAGGED + "test_losses_string_by_string[iq_learn alpha 2]",
    ),
    Fault(
        "a reward model takes one step",
        "fdiv/reward_model.py",
        "jax.lax.fori_loop(0, steps, step, state)",
        "jax.lax.fori_loop(0, jnp.minimum(steps, 1), step, state)",
        REWARDS + "test_fitting_takes_as_many_steps_as_it_is_told",
    ),
]
