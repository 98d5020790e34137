"""Mutations of the application.

A test may be renamed or moved: ``python -m tests.mutations`` then says that it is not there.
"""

from tests.mutations.patch import Patch

_FIRST = "tests/train/training/steps/test_first_steps.py::"
_GRADIENT = _FIRST + "test_the_gradient_is_that_of_the_mean_over_target_tokens[1]"
_OPTIM = "tests/train/training/steps/test_optim.py::"
_BATCHES = "tests/train/data/test_batches.py::"
_ROWS = "tests/train/data/test_packing.py::test_a_row_holds_records_one_after_the_other"

PATCHES = (
    Patch(
        "loss normalisation",
        "the gradient is not divided by the count of target tokens",
        "train/training/steps/step.py",
        "leaf / count.astype(leaf.dtype)",
        "leaf",
        _GRADIENT,
    ),
    Patch(
        "loss normalisation",
        "the loss that is reported is the sum",
        "train/training/steps/step.py",
        "Metrics(loss / count,",
        "Metrics(loss,",
        _GRADIENT,
    ),
    Patch(
        "loss normalisation",
        "the count has what fills the rows as well",
        "train/training/steps/step.py",
        "jnp.maximum(jnp.sum(batch.weight_BT), 1)",
        "jnp.float32(batch.weight_BT.size)",
        _GRADIENT,
    ),
    Patch(
        "clip",
        "each entry is clipped, not the norm",
        "train/training/optim/rules.py",
        "optax.clip_by_global_norm(",
        "optax.clip(",
        f"{_OPTIM}test_updates_are_those_of_torch[0.0-1.5]",
    ),
    Patch(
        "clip",
        "the update is clipped, not the gradient",
        "train/training/optim/rules.py",
        "optax.chain(optax.clip_by_global_norm(config.clip_norm), rule)",
        "optax.chain(rule, optax.clip_by_global_norm(config.clip_norm))",
        f"{_FIRST}test_a_step_clips_the_gradient_to_its_norm[0.5]",
    ),
    Patch(
        "schedule",
        "the warm-up does not begin at 0",
        "train/training/optim/schedules.py",
        "linear_schedule(0.0, config.learning_rate, warmup)",
        "linear_schedule(0.1 * config.learning_rate, config.learning_rate, warmup)",
        f"{_OPTIM}test_the_rate_is_zero_then_the_highest_then_zero",
    ),
    Patch(
        "schedule",
        "the decay ends as many steps late as the warm-up takes",
        "train/training/optim/schedules.py",
        "0.0, steps - warmup)",
        "0.0, steps)",
        f"{_OPTIM}test_every_rate_is_that_of_transformers[10-linear]",
    ),
    Patch(
        "schedule",
        "weight decay is added to the gradient",
        "train/training/optim/rules.py",
        "        weight_decay=config.weight_decay,\n        mask=mask,\n    )",
        "        weight_decay=0.0,\n    ) if patterns else optax.chain(\n"
        "        optax.add_decayed_weights(config.weight_decay),\n"
        "        optax.adamw(learning_rate, config.b1, config.b2, config.eps, weight_decay=0.0),\n"
        "    )",
        f"{_FIRST}test_weight_decay_is_decoupled_and_times_the_rate",
    ),
    Patch(
        "seed fold-in",
        "every step drops the same entries",
        "train/training/steps/step.py",
        "jax.random.fold_in(jax.random.key(seed), state.step)",
        "jax.random.key(seed)",
        f"{_FIRST}test_each_step_drops_other_entries_by_its_number",
    ),
    Patch(
        "EOS",
        "a response is trained without its end",
        "train/data/tokens.py",
        "[*answer, *eos]",
        "[*answer]",
        f"{_BATCHES}test_prompts_lose_their_beginning_and_responses_their_end",
    ),
    Patch(
        "target positions",
        "a target is predicted from itself",
        "train/data/batches.py",
        "start + found - 1",
        "start + found",
        f"{_BATCHES}test_the_loss_reads_the_state_before_each_response_token",
    ),
    Patch(
        "target positions",
        "of a packed row only the first record's are right",
        "train/data/batches.py",
        "start + found - 1",
        "found - 1",
        _ROWS,
    ),
    Patch(
        "target positions",
        "what fills the targets counts",
        "train/data/batches.py",
        "batch.weight_BT[number, targets] = 1",
        "batch.weight_BT[number] = 1",
        _ROWS,
    ),
)
