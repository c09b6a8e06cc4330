"""The limits of a GraphQL query. They are checked before anything is read."""

from collections.abc import Iterable, Mapping
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    VariableNode,
)

from api.graphql.batching import FIRST, LARGEST, size

MOST_DEPTH = 10
MOST_LEVELS = 25
"""Maximum depth with fragments and introspection, whose standard query has 20 levels."""
MOST_ALIASES = 15
MOST_TOKENS = 2000
MOST_COST = 50_000
"""Maximum cost of a query: the number of fields of all rows that its lists can have."""
MOST_BYTES = 100_000

LISTS = {
    "projects", "tasks", "responses", "rankings", "runs", "models", "evaluations",
}  # fmt: skip


class TooExpensive(Exception):  # noqa: N818
    """Raised for a query above a limit. The text names the limit."""


def check_cost(document: DocumentNode, variables: Mapping[str, Any]) -> int:
    """Return the cost of the document. Raises TooExpensive, also for fragments that contain themselves."""
    fragments = {
        node.name.value: node
        for node in document.definitions
        if isinstance(node, FragmentDefinitionNode)
    }
    walk = _Walk(fragments, variables)
    for node in document.definitions:
        if isinstance(node, OperationDefinitionNode):
            defaults = {
                v.variable.name.value: int(v.default_value.value)
                for v in node.variable_definitions or ()
                if isinstance(v.default_value, IntValueNode)
            }
            walk.variables = {**defaults, **variables}
            walk.add(node.selection_set.selections, 1, 0)
    return walk.cost


class _Walk:
    def __init__(
        self, fragments: Mapping[str, FragmentDefinitionNode], variables: Mapping[str, Any]
    ) -> None:
        self.fragments = fragments
        self.variables = variables
        self.cost = 0
        self.steps = 0

    def add(self, selections: Iterable[Any], times: int, depth: int) -> None:
        """Add the cost of selections that occur `times` times."""
        if depth > MOST_LEVELS:
            raise TooExpensive(f"The query is nested deeper than {MOST_LEVELS} levels.")
        for node in selections:
            self.steps += 1
            self.cost += times
            if self.cost > MOST_COST or self.steps > MOST_COST:
                raise TooExpensive(
                    f"The query can return more than {MOST_COST:,} values. Ask for fewer rows with "
                    "first, or for fewer fields."
                )
            if isinstance(node, FieldNode):
                inner = times * self._rows(node)
                if node.selection_set:
                    self.add(node.selection_set.selections, inner, depth + 1)
            elif isinstance(node, FragmentSpreadNode):
                if fragment := self.fragments.get(node.name.value):
                    self.add(fragment.selection_set.selections, times, depth + 1)
            elif isinstance(node, InlineFragmentNode):
                self.add(node.selection_set.selections, times, depth + 1)

    def _rows(self, node: FieldNode) -> int:
        if node.name.value not in LISTS:
            return 1
        for argument in node.arguments or ():
            if argument.name.value == "first":
                value = argument.value
                if isinstance(value, IntValueNode):
                    return size(int(value.value))
                if isinstance(value, VariableNode):
                    given = self.variables.get(value.name.value, FIRST)
                    return size(given) if isinstance(given, int) else LARGEST
                return LARGEST
        return FIRST
