"""Fine-tuning methods, one module each: options, data and loss. `dpo.py` is the example to follow.

`method.py` has the class of a method, and the registry, which finds every module of this package
that has a METHOD. The run kind, its form, `manage.py finetune --method`, the recipe, the model card
and the report follow from it. The web reads the options, so a module imports torch only inside the
functions of the loss.
"""
