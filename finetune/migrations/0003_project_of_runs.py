from django.db import migrations
from django.db.models import OuterRef, Subquery

MADE = [("reward", "RewardModel"), ("finetune", "Model"), ("finetune", "Evaluation")]
READ = [
    ("reward", "Snapshot", "snapshot"),
    ("reward", "RewardModel", "reward_model"),
    ("finetune", "Model", "candidate"),
    ("finetune", "Model", "model"),
]


def fill(apps, schema_editor):
    """Give each run the project of what it made, or else of what its inputs name."""
    run_model = apps.get_model("runs", "Run")
    for app, model in MADE:
        made = apps.get_model(app, model).objects.filter(run=OuterRef("pk"))
        run_model.objects.filter(project=None).update(project=Subquery(made.values("project")[:1]))
    for app, model, name in READ:
        fill_from_inputs(run_model, apps.get_model(app, model).objects, name)
    fill_from_inputs(run_model, apps.get_model("labeling", "Project").objects, "project", "pk")


def fill_from_inputs(run_model, rows, name, field="project"):
    named = run_model.objects.filter(project=None, inputs__has_key=name)
    numbers = dict(named.values_list("pk", f"inputs__{name}"))
    numbers = {pk: number for pk, number in numbers.items() if type(number) is int}
    projects = dict(rows.filter(pk__in=set(numbers.values())).values_list("pk", field))
    for pk, number in numbers.items():
        if number in projects:
            run_model.objects.filter(pk=pk).update(project=projects[number])


class Migration(migrations.Migration):
    dependencies = [
        ("finetune", "0002_blind_comparisons"),
        ("labeling", "0001_initial"),
        ("reward", "0003_active_scores_and_order"),
        ("runs", "0003_run_project"),
    ]

    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
