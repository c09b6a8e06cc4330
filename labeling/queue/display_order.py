"""The order in which a task's responses are shown, balanced over its slots and reproducible.

The responses are shuffled once per task, by a hash of the task and the response. Each slot shows one row
of a Williams design on that shuffle (Williams, Australian J. Sci. Res. A 2, 1949): over the first K slots
of a task with K responses, each response appears once in each position. If K is even, every second slot
reverses the order of the slot before it, so that two rankings see each pair in both orders. If K is
odd, slots K+1 to 2K reverse the orders of slots 1 to K.

The order depends only on the task and the slot number. It can therefore be computed again for a form
that is submitted after its lease has ended. `SHOWN_ORDER` is the same function in SQL, for the statement
that leases a slot.
"""

import hashlib
from collections.abc import Collection

SHOWN_ORDER = """(
    SELECT array_agg(placed.response_id ORDER BY placed.turn * CASE
        WHEN 2 * placed.d > placed.k THEN 2 * (placed.k - placed.d)
        WHEN placed.d > 0 THEN 2 * placed.d - 1 ELSE 0 END)
    FROM (
        SELECT own.response_id, own.k,
            mod(own.rank + own.k - mod(own.shift, own.k), own.k) AS d,
            CASE WHEN mod(own.k, 2) = 1 AND mod((slot.number - 1) / own.k, 2) = 1
                THEN -1 ELSE 1 END AS turn
        FROM (
            SELECT shuffled.*, CASE WHEN mod(shuffled.k, 2) = 1
                THEN (slot.number - 1) * (shuffled.k / 2)
                ELSE (slot.number - 1) / 2 + mod(slot.number - 1, 2) * (shuffled.k / 2)
                END AS shift
            FROM (
                SELECT place.response_id, (count(*) OVER ())::int AS k,
                    (row_number() OVER (ORDER BY
                        md5(concat_ws(':', slot.task_id, place.response_id))))::int - 1 AS rank
                FROM labeling_taskresponse place
                WHERE place.task_id = slot.task_id AND NOT place.withdrawn
            ) shuffled
        ) own
    ) placed
)"""


def shown_order_for(task_id: int, number: int, response_ids: Collection[int]) -> list[int]:
    """Return the ids of the responses in the order in which the slot with this number shows them."""

    def shuffled(response: int) -> str:
        return hashlib.md5(f"{task_id}:{response}".encode(), usedforsecurity=False).hexdigest()

    base = sorted(response_ids, key=shuffled)
    row = [base[i] for i in _row(len(base), number - 1)]
    return row[::-1] if len(base) % 2 and (number - 1) // len(base) % 2 else row


def _row(k: int, n: int) -> list[int]:
    """Return row n of the design on 0 … k-1: the shifted zigzag 0, 1, k-1, 2, k-2, …"""
    shift = n * (k // 2) if k % 2 else n // 2 + n % 2 * (k // 2)
    zigzag = [(i + 1) // 2 if i % 2 else k - i // 2 for i in range(k)]
    return [(index + shift) % k for index in zigzag]
