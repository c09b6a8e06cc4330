"""Fine-tuning methods. Each module has the options, the data and the loss of one method.

Use `dpo.py` as an example. `method.py` has the base class of methods and their registry, which finds
each module of this package that has a METHOD. The run kind, its form, `manage.py finetune --method`,
the recipe, the model card and the report are derived from it. The web imports these modules to read
the options, so they import torch only inside the functions of the loss.
"""
