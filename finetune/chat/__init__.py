"""Chats of leads with the models of a project, and what is kept of them.

`conversations` starts and continues chats, `votes` turns verdicts into rankings, `streaming` asks the
model server, and `consumers` is the WebSocket of the page.
"""
