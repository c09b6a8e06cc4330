"""The demo project, with its guideline, letters and base model."""

from collections.abc import Mapping
from pathlib import Path

from django.db import transaction
from django.db.models import QuerySet

from accounts.models import User
from demo import rule, shop, world
from finetune.models import Model
from labeling.guidelines import versions
from labeling.models import Guideline, Membership, Project, Prompt, digest
from labeling.rankings import recording
from runs import storage

TINY_MODEL = storage.stored(Path(__file__).with_name("tiny_model"))


def slug_of(seed: int) -> str:
    return "letters" if seed == 0 else f"letters-{seed}"


def is_demo(project: Project) -> bool:
    name, _, seed = project.slug.partition("-")
    return name == "letters" and (not seed or seed.isdecimal())


@transaction.atomic
def ensure_project(seed: int, people: Mapping[str, User]) -> Project:
    """Return the project for this seed. On first use, create it with a published guideline."""
    project, created = Project.objects.get_or_create(
        slug=slug_of(seed),
        defaults={
            "name": f"Letters to {shop.SHOP}" + (f" (seed {seed})" if seed else ""),
            "description": "Answers to the letters of a small lamp shop. Its rankings are simulated.",
            "rankings_per_task": 4,
            "simulated": True,
        },
    )
    if created:
        roles = {"ada": Membership.Role.TRAINER, "june": Membership.Role.LEAD}
        for username, user in people.items():
            Membership.objects.create(
                project=project, user=user, role=roles.get(username, Membership.Role.REVIEWER)
            )
        publish_guideline(project, people["june"])
    return project


def publish_guideline(project: Project, lead: User) -> None:
    Guideline.objects.create(project=project, title="Answering letters")
    draft = versions.create_draft(
        project=project,
        by=lead,
        text=rule.GUIDELINE.read_text(),
        criteria=[
            {"name": criterion.key, "meaning": criterion.meaning, "scale": rule.RATING_HIGH}
            for criterion in rule.CRITERIA
        ],
        change_note="First version.",
    )
    versions.publish(version=draft, by=lead)


def publish_again(project: Project, lead: User, change_note: str) -> None:
    """Publish the current guideline as a new version. Raises GuidelineError if there is a draft."""
    current = recording.current_version(project)
    draft = versions.create_draft(
        project=project,
        by=lead,
        text=current.text,
        criteria=current.criteria.order_by("position", "id").values("name", "meaning", "scale"),
        change_note=change_note,
    )
    versions.publish(version=draft, by=lead)


def add_prompts(project: Project, count: int, seed: int, round: int = 1) -> QuerySet[Prompt]:
    """Add the `count` letters of a round as prompts, and return them.

    Existing prompts are not changed.
    """
    letters = world.prompts(count, seed, round)
    prefix = "letter" if round == 1 else f"letter-{round}"
    names = [f"{prefix}-{number}" for number in range(1, count + 1)]
    Prompt.objects.bulk_create(
        [
            Prompt(
                project=project,
                messages=letter.messages,
                content_hash=digest(letter.messages),
                external_id=name,
                meta={"situation": letter.situation},
            )
            for name, letter in zip(names, letters, strict=True)
        ],
        ignore_conflicts=True,
    )
    return Prompt.objects.filter(project=project, external_id__in=names)


def base_model(project: Project) -> Model:
    model, _ = Model.objects.get_or_create(
        project=project, base=TINY_MODEL, adapter="", defaults={"name": "tiny-letter-writer"}
    )
    return model
