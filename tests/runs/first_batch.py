"""The program for the first batch of the test kind. The word of the inputs decides what it prints."""

import json
import sys
from pathlib import Path

word = json.loads((Path(sys.argv[1]) / "run.json").read_text())["config"]["word"]
if word == "crash":
    sys.exit(7)
if word == "nonsense":
    print("Hello")
    sys.exit()
if word == "endless":
    print("x" * (5 << 20))
    sys.exit()
if word == "packages":
    sys.exit("ModuleNotFoundError: No module named 'transformers'")
if word == "problem":
    print(json.dumps({"problem": f"The tokenizer of {sys.argv[1]} is <b>."}))
    sys.exit()


def text(pieces: list[str], trained: int | None, more: int = 0) -> dict:
    tokens = len(pieces) + more
    return {"pieces": pieces, "trained": trained, "tokens": tokens, "more": more, "note": ""}


group = {
    "prompt": text(["a\nb", "\u202e"], 0, more=7),
    "responses": [text([word, "<end>"], None), text(["x", "y"], 1)],
}
batch = {
    "groups": [group], "prompts": 1, "usable": 1, "all_read": False,
    "left_out": ["1 prompt: <i>."], "format": "plain text", "note": "Trained.",
}  # fmt: skip
print(json.dumps(batch))
