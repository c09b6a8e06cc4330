"""A read-only GraphQL endpoint for dashboards, over the same rows and with the same access as REST.

`types` has the objects, `schema` the queries, `batching` reads nested lists, `limits` bounds a query and
`view` answers requests.
"""
