import pytest
from django.urls import reverse

from accounts.models import Role
from reward.models import RewardModel
from tests.finetune.factory import make_adapter, make_base, make_evaluation, make_reward_model
from tests.finetune.factory import make_snapshot as frozen
from tests.reward.factory import make_project, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def rows():
    snapshot = frozen(make_project(), prompts=1)
    adapter = make_adapter(make_base(snapshot.project), snapshot)
    return {
        "reward_snapshot": snapshot,
        "reward_rewardmodel": make_reward_model(snapshot),
        "finetune_model": adapter,
        "finetune_evaluation": make_evaluation(adapter),
    }


def test_trainers_can_view_but_not_add_or_delete_rows(client, rows):
    client.force_login(make_user(Role.TRAINER))
    for name, row in rows.items():
        listed = client.get(reverse(f"admin:{name}_changelist"))
        assert listed.status_code == 200 and f"/{row.pk}/change/" in listed.text
        assert client.get(reverse(f"admin:{name}_change", args=[row.pk])).status_code == 200
        assert client.get(reverse(f"admin:{name}_add")).status_code == 403
        assert client.post(reverse(f"admin:{name}_delete", args=[row.pk])).status_code == 403


def test_only_the_name_of_a_model_can_be_changed(client, rows):
    model = rows["reward_rewardmodel"]
    client.force_login(make_user(Role.TRAINER))
    address = reverse("admin:reward_rewardmodel_change", args=[model.pk])
    client.post(address, {"name": "better", "state": "promoted", "base": "other"})
    changed = RewardModel.objects.get(pk=model.pk)
    assert (changed.name, changed.state, changed.base) == ("better", "candidate", "org/base")


def test_leads_cannot_view_the_rows(client, rows):
    client.force_login(make_user(Role.LEAD))
    for name in rows:
        assert client.get(reverse(f"admin:{name}_changelist")).status_code == 403
