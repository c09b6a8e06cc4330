"""Helpers for tests of the ranking page."""

from playwright.sync_api import Page, expect

from labeling.models import Ranking
from tests.browser.conftest import World


def in_letters(ranking: Ranking) -> list[str]:
    """Return the tiers as the letters shown, such as ["B", "AC", "D"]."""
    letter = dict(zip(ranking.shown_order, "ABCDEFGHI", strict=False))
    return ["".join(sorted(letter[i] for i in tier)) for tier in ranking.tiers]


def press(page: Page, *keys: str) -> int:
    """Press keys once the scripts of the page have run, which a click may have opened."""
    page.wait_for_load_state()
    for key in keys:
        page.keyboard.press(key)
    return len(keys)


def sent(page: Page, world: World, count: int) -> Ranking:
    """Return the newest ranking once the page has left the previous task."""
    expect(page.locator("#review-progress, .empty")).to_contain_text(f"{count} done today")
    assert Ranking.objects.count() == count
    return Ranking.objects.latest("id")


def next_is_ready(page: Page) -> None:
    """Wait until the browser has prefetched the next sheet."""
    expect(page.locator("#ranking-form")).to_have_attribute("data-next", "ready")


def slot_shown(page: Page) -> int:
    return int(page.locator("#ranking-form").get_attribute("data-slot") or 0)
