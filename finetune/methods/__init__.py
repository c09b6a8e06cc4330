"""Fine-tuning methods, one module each. `dpo.py` is the example to follow.

To add a method:

1. Add a settings class to `finetune/settings.py`, a subclass of `TrainingSettings`. The web form,
   `--set` and run.json follow from it.
2. Write the recipe in `finetune/training/`, next to `train.py`: a function of (RunDir, StopSignal)
   that reads data/*.parquet and publishes an adapter. It imports neither Django nor a database.
3. Add a module here with `from_inputs`, `prepare` and `finish`: they check the chosen snapshot and
   model, write the recipe's data, and create the row of the new model.
4. Register the run kind in `finetune/kinds.py` (`runs/kinds.py` describes its fields), with a form
   in `finetune/forms.py`.
5. Test the loss against numbers worked out by hand, and a run from snapshot to adapter
   (`tests/finetune/test_training_dpo.py`).
"""
