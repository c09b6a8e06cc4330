"""The REST API for projects, tasks, rankings, runs and models, and the GraphQL endpoint.

`config.web.api` puts the routers together. Scores have a router of their own, `reward.scoring.api`.
"""
