"""Tests of the extrapolation from rehearsals to a run, with numbers worked out by hand."""

from dataclasses import replace

import pytest

from recipes.preflight.forecast import Amounts, Measurement, Phase, Rehearsal, forecast

WHOLE = Amounts(100, 20_000, 40, 8_000, 160, 300)
PART = Amounts(8, 2_000, 4, 800, 16, 300)
DPO = {
    "batch_size": 8, "micro_batch_size": 4, "epochs": 1.0, "evaluations": 0, "checkpoint_steps": 0,
}  # fmt: skip


def measured(shorter: dict[str, Phase], longer: dict[str, Phase], **changes) -> Measurement:
    rehearsals = (Rehearsal(2, shorter), Rehearsal(4, longer))
    values = Measurement(rehearsals, 10, 400.0, WHOLE, PART, True, "CPU", 2_000.0)
    return replace(values, **changes)


def seconds(measurement: Measurement, stage: str, kind: str = "dpo", **settings) -> float:
    return dict(forecast(measurement, kind, {**DPO, **settings}).parts)[stage]


def test_memory_grows_with_the_layers_and_the_largest_stage_counts():
    result = forecast(
        measured(
            {"Loading the model": Phase(1, 300), "Training": Phase(1, 100)},
            {"Loading the model": Phase(1, 310), "Training": Phase(1, 200)},
        ),
        "dpo",
        DPO,
    )
    # Training: 200 + 6 · 50; loading: 310 + 6 · 5
    assert (result.increment_mb, result.largest, result.memory_mb) == (500.0, "Training", 900.0)


def test_a_run_fits_if_its_memory_with_the_imports_is_below_that_of_the_device():
    phases = {"Training": Phase(1, 200)}
    assert forecast(measured(phases, phases, capacity_mb=600.0), "dpo", DPO).fits
    assert not forecast(measured(phases, phases, capacity_mb=599.0), "dpo", DPO).fits


def test_memory_that_training_has_freed_is_not_extrapolated():
    shorter = {"Training": Phase(1, 100), "Writing the results": Phase(1, 60)}
    longer = {"Training": Phase(1, 110), "Writing the results": Phase(1, 105)}
    assert forecast(measured(shorter, longer), "dpo", DPO).increment_mb == 140.0


def test_training_time_grows_with_layers_tokens_and_epochs():
    values = measured({"Training": Phase(1.0, 1)}, {"Training": Phase(1.5, 1)})
    # (1.5 + 6 · 0.25) · 20,000 / 2,000 · 3
    assert seconds(values, "Training", epochs=3) == pytest.approx(90.0)


def test_a_model_that_was_rehearsed_whole_is_not_extrapolated():
    phases = {"Training": Phase(2.0, 70)}
    values = measured({}, {}, rehearsals=(Rehearsal(3, phases),), layers=3)
    result = forecast(values, "dpo", DPO)
    assert (result.increment_mb, result.seconds) == (70.0, 20.0)


def test_the_reference_of_training_prompts_counts_if_the_rehearsal_computed_it():
    phases = {"Computing the reference log-probabilities": Phase(1.0, 1)}
    both = measured(phases, phases)
    assert seconds(both, *phases) == pytest.approx(28_000 / 2_800)
    assert seconds(replace(both, on_train=False), *phases) == pytest.approx(10.0)


def test_evaluations_score_a_hundred_prompts_and_the_last_one_all():
    phases = {"Scoring held-out prompts for the report": Phase(2.0, 1)}
    many = replace(WHOLE, test_prompts=400, test_tokens=80_000)
    values = measured(phases, phases, whole=many)
    # 2 s for 4 prompts: 3 · 100 + 400 prompts
    assert seconds(values, "Scoring held-out prompts", evaluations=4) == pytest.approx(350.0)


def test_a_learning_curve_and_label_mistakes_add_trainings():
    phases = {"Training": Phase(1.0, 1)}
    values = measured(phases, phases)
    # 1 + 1/2 + 1/4 + 1/8, and 5 - 1 for the parts
    assert seconds(values, "Training", "reward", learning_curve=3) == pytest.approx(18.75)
    assert seconds(values, "Training", "reward", label_mistakes=5) == pytest.approx(50.0)


def test_rounds_sample_their_prompts_and_those_of_the_first_round_again():
    phases = {"Sampling responses": Phase(4.0, 1), "Training": Phase(1.0, 1)}
    settings = {"samples_per_prompt": 4, "rounds": 3, "prompts_per_round": 20}
    values = measured(phases, phases)
    # 2 · 8 prompts took 4 s: (3 + 1) · 20 prompts
    assert seconds(values, "Sampling responses", **settings) == pytest.approx(20.0)
    assert seconds(values, "Training", **settings) == pytest.approx(60 / 8)


def test_a_policy_gradient_samples_in_its_steps():
    phases = {"Training": Phase(1.0, 1)}
    settings = {"samples_per_prompt": 4, "updates_per_sample": 1, "steps": 50}
    # 8 prompts took 1 s: 50 steps of 8 prompts
    assert seconds(measured(phases, phases), "Training", **settings) == pytest.approx(50.0)


def test_sample_prompts_are_answered_before_and_three_times_during_training():
    phases = {"Answering sample prompts": Phase(6.0, 1, times=3)}
    assert seconds(measured(phases, phases), *phases) == pytest.approx(8.0)


def test_a_measurement_survives_json():
    values = measured({"Training": Phase(1, 2)}, {"Training": Phase(3, 4)})
    assert Measurement.from_dict(values.to_dict()) == values
